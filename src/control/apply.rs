//! From valid material to what the registry holds, and from what it no longer holds to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use aws_lc_rs::digest;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Drain;
use crate::config::LiveLimits;
use crate::domain::{CertificateId, CertificateInfo, DefaultScope, ProjectInfo, ServerTrust, Source, time as clock};
use crate::identity::{ClientIdentity, Show, TlsFactory, Until, UpstreamTls};
use crate::pki::anchors::{SharedAnchors, TrustAnchors};
use crate::pki::validate::ValidCertificate;
use crate::registry::{Certificate, Project, Retired, Tls13Objects};

/// Tickets kept by an object for one origin or one wildcard; rustls keeps an eighth of it as servers.
const SESSIONS_BOUND: usize = 8;
/// Tickets kept by an object that may meet any origin.
const SESSIONS_GENERAL: usize = 256;

/// Trust sets by content, so that a thousand certificates of one partner share one verifier.
type Sets = HashMap<(ServerTrust, bool, [u8; 32]), Weak<TrustAnchors>>;

/// Makes everything that rustls needs.
pub(super) struct Maker {
    factory: Arc<TlsFactory>,
    anchors: Arc<SharedAnchors>,
    sets: Mutex<Sets>,
}

/// What the material itself does not say.
pub(super) struct Facts {
    pub(super) id: CertificateId,
    pub(super) cert_pem: String,
    pub(super) ca_pem: String,
    pub(super) uploaded_at: OffsetDateTime,
    pub(super) skip_validation: bool,
    /// What validation said when it was uploaded; `None` = what it says now.
    pub(super) warnings: Option<Vec<String>>,
    pub(super) source: Source,
}

impl Maker {
    pub(super) fn new(factory: Arc<TlsFactory>, anchors: Arc<SharedAnchors>) -> Self {
        Self { factory, anchors, sets: Mutex::default() }
    }

    /// Ordinary TLS with the project's trust.
    pub(super) fn anonymous(&self, info: &ProjectInfo) -> Arc<UpstreamTls> {
        let trust = self.trust(info.servers, false, &[]);
        self.factory.make(None, Show::Always, trust, SESSIONS_GENERAL)
    }

    /// A certificate, ready to be presented.
    pub(super) fn certificate(&self, project: &ProjectInfo, valid: ValidCertificate, facts: Facts) -> Arc<Certificate> {
        let info = Arc::new(CertificateInfo {
            id: facts.id,
            subject: valid.subject,
            issuer: valid.issuer,
            serial_number: valid.serial_number,
            not_before: valid.not_before,
            not_after: valid.not_after,
            fingerprint: valid.fingerprint,
            spki_fingerprint: valid.spki_fingerprint,
            key: valid.key,
            chain_length: valid.certified.cert.len(),
            uploaded_at: facts.uploaded_at,
            warnings: facts.warnings.unwrap_or(valid.warnings),
            skip_validation: facts.skip_validation,
            source: facts.source,
        });
        let identity = Arc::new(ClientIdentity::new(info.clone(), valid.certified, valid.issuer_names));
        let show = match project.default_scope {
            DefaultScope::Any | DefaultScope::Listed(_) => Show::UnlessOthersAreNamed,
            DefaultScope::Hinted => Show::OnlyIfNamed,
        };
        let bound = self.trust(project.servers, true, &valid.ca);
        let general = self.trust(project.servers, false, &valid.ca);
        Arc::new(Certificate {
            info,
            cert_pem: facts.cert_pem,
            ca_pem: facts.ca_pem,
            digest: valid.digest,
            bound: self.factory.make(Some(identity.clone()), Show::Always, bound, SESSIONS_BOUND),
            general: self.factory.make(Some(identity.clone()), show, general, SESSIONS_GENERAL),
            tls13: Tls13Objects::default(),
            identity,
        })
    }

    /// The same certificate with objects that no connection, ticket or retirement has touched yet.
    pub(super) fn afresh(&self, old: &Certificate) -> Arc<Certificate> {
        self.without(old, |_| true)
    }

    /// The same certificate with its objects, but for those that are `spent`: in their place stand fresh ones.
    pub(super) fn without(&self, old: &Certificate, spent: impl Fn(&Arc<UpstreamTls>) -> bool) -> Arc<Certificate> {
        let again = |tls: &Arc<UpstreamTls>, sessions| {
            if spent(tls) {
                self.factory.make(tls.identity().cloned(), tls.show(), tls.trust().clone(), sessions)
            } else {
                tls.clone()
            }
        };
        let kept = |tls: &OnceLock<Arc<UpstreamTls>>| match tls.get() {
            Some(tls) if !spent(tls) => OnceLock::from(tls.clone()),
            _ => OnceLock::new(),
        };
        Arc::new(Certificate {
            info: old.info.clone(),
            cert_pem: old.cert_pem.clone(),
            ca_pem: old.ca_pem.clone(),
            digest: old.digest,
            identity: old.identity.clone(),
            bound: again(&old.bound, SESSIONS_BOUND),
            general: again(&old.general, SESSIONS_GENERAL),
            tls13: Tls13Objects { bound: kept(&old.tls13.bound), general: kept(&old.tls13.general) },
        })
    }

    /// `ca`: in a set for bindings its certificates vouch for servers, in a general one they are pins only.
    fn trust(
        &self,
        servers: ServerTrust,
        bound: bool,
        ca: &[rustls::pki_types::CertificateDer<'static>],
    ) -> Arc<TrustAnchors> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for certificate in ca {
            hash.update(&u64::try_from(certificate.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(certificate);
        }
        let hash = hash.finish();
        let key = (servers, bound, hash.as_ref().try_into().expect("SHA-256 has 32 bytes"));
        let mut sets = self.sets.lock().expect("nothing panics while holding it");
        if let Some(set) = sets.get(&key).and_then(Weak::upgrade) {
            return set;
        }
        let set = self.anchors.set(servers, bound.then_some(ca), ca);
        if sets.len() == sets.capacity() {
            // Before the map would grow, so that what has died never makes it grow.
            sets.retain(|_, set| set.strong_count() > 0);
        }
        sets.insert(key, Arc::downgrade(&set));
        set
    }
}

/// How long what runs under a retired certificate may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grace {
    exchanges: Duration,
    upgraded: Duration,
}

/// The same for everything.
impl From<Duration> for Grace {
    fn from(grace: Duration) -> Self {
        Self { exchanges: grace, upgraded: grace }
    }
}

impl Grace {
    /// After a replacement: what was upgraded may never end by itself, so it has a deadline of its own.
    pub(super) fn of_replaced(limits: &LiveLimits) -> Self {
        Self { exchanges: limits.replace_grace(), upgraded: limits.upgraded_grace() }
    }

    /// After a delete. The certificate is not wanted any more, in whatever it is used.
    pub(super) fn of_deleted(limits: &LiveLimits) -> Self {
        Self { exchanges: limits.delete_grace(), upgraded: limits.delete_grace().min(limits.upgraded_grace()) }
    }
}

impl Grace {
    /// The same, but neither longer than this.
    fn within(self, most: Duration) -> Self {
        Self { exchanges: self.exchanges.min(most), upgraded: self.upgraded.min(most) }
    }
}

/// Ends a certificate that no binding names any more. When this returns, no new request can use it.
pub(super) fn retire(
    project: &Project,
    certificate: &Certificate,
    superseded_by: Option<&CertificateId>,
    drain: Drain,
    grace: impl Into<Grace>,
) {
    let now = clock::now();
    let grace = match drain {
        // An identity that has expired carries nothing, whatever became of it before.
        Drain::Grace => match certificate.info.ends_at(project.load().info().on_expiry, now) {
            Some(end) => grace.into().within(Duration::try_from(end - now).unwrap_or_default()),
            None => grace.into(),
        },
        Drain::Now => Duration::ZERO.into(),
    };
    certificate.objects().for_each(|tls| end(tls, drain, grace));
    project.remember_retired(Retired {
        id: certificate.info.id.clone(),
        superseded_by: superseded_by.cloned(),
        heir: superseded_by.cloned(),
        tls: certificate.objects().map(Arc::downgrade).collect(),
        info: certificate.info.clone(),
        deadline: now + grace.exchanges,
        upgraded_deadline: now + grace.upgraded,
    });
}

/// Ends one object of a certificate that stays: nothing is presented by it any more. When this returns, no new request
/// can use it. What still runs under it is shown as what the certificate took the place of.
pub(super) fn retire_object(project: &Project, info: &Arc<CertificateInfo>, tls: &Arc<UpstreamTls>, grace: Grace) {
    end(tls, Drain::Grace, grace);
    let now = clock::now();
    project.remember_retired(Retired {
        id: info.id.clone(),
        superseded_by: Some(info.id.clone()),
        heir: Some(info.id.clone()),
        tls: vec![Arc::downgrade(tls)],
        info: info.clone(),
        deadline: now + grace.exchanges,
        upgraded_deadline: now + grace.upgraded,
    });
}

/// Ends one object.
pub(super) fn end(tls: &UpstreamTls, drain: Drain, grace: impl Into<Grace>) {
    let (grace, now) = (grace.into(), Instant::now());
    match drain {
        Drain::Grace => {
            tls.life().retire_until(Until { exchanges: now + grace.exchanges, upgraded: now + grace.upgraded });
        }
        Drain::Now => tls.life().end(),
    }
}
