//! From valid material to what the registry holds, and from what it no longer holds to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::Drain;
use crate::config::{LiveLimits, PostQuantum};
use crate::domain::{
    CertificateId, CertificateInfo, DefaultScope, Holder, ProjectInfo, ServerTrust, Source, time as clock,
};
use crate::identity::{ClientIdentity, Show, TlsFactory, Until, UpstreamTls};
use crate::pki::anchors::{Bundle, SharedAnchors, TrustAnchors, Vouching, hash_all};
use crate::pki::pem;
use crate::pki::validate::ValidCertificate;
use crate::registry::{AccountCertificate, Certificate, Project, Retired, Tls13Objects};

/// Tickets kept by an object for one origin or one wildcard; rustls keeps an eighth of it as servers.
const SESSIONS_BOUND: usize = 8;
/// Tickets kept by an object that may meet any origin.
const SESSIONS_GENERAL: usize = 256;

/// Trust sets by content, so that a thousand certificates of one partner share one verifier.
type Sets = HashMap<(ServerTrust, bool, [u8; 32], [u8; 32]), Weak<TrustAnchors>>;

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
    pub(super) holder: Holder,
}

impl Facts {
    /// What may be told of a client certificate.
    pub(super) fn describe(&self, valid: &ValidCertificate) -> CertificateInfo {
        CertificateInfo {
            id: self.id.clone(),
            subject: valid.subject.clone(),
            issuer: valid.issuer.clone(),
            serial_number: valid.serial_number.clone(),
            signature: valid.signature,
            not_before: valid.not_before,
            not_after: valid.not_after,
            fingerprint: valid.fingerprint,
            spki_fingerprint: valid.spki_fingerprint,
            key: valid.key,
            chain_length: valid.certified.cert.len(),
            uploaded_at: self.uploaded_at,
            warnings: self.warnings.clone().unwrap_or_else(|| valid.warnings.clone()),
            skip_validation: self.skip_validation,
            source: self.source.clone(),
            holder: self.holder,
        }
    }
}

impl Maker {
    pub(super) fn new(factory: Arc<TlsFactory>, anchors: Arc<SharedAnchors>) -> Self {
        Self { factory, anchors, sets: Mutex::default() }
    }

    /// Whether these anchors and this choice of key exchange would make the same objects.
    pub(super) fn is_for(&self, anchors: &[u8; 32], post_quantum: PostQuantum) -> bool {
        self.anchors.digest() == anchors && self.factory.post_quantum() == post_quantum
    }

    /// CA bundles, each with the servers that it vouches for.
    pub(super) fn vouching(&self, bundles: &[Bundle]) -> Arc<Vouching> {
        self.anchors.vouching(bundles)
    }

    /// Ordinary TLS with the project's trust.
    pub(super) fn anonymous(&self, info: &ProjectInfo, vouching: &Arc<Vouching>) -> Arc<UpstreamTls> {
        let trust = self.trust(info.servers, false, &[], vouching);
        self.factory.make(None, Show::Always, trust, SESSIONS_GENERAL)
    }

    /// A certificate, ready to be presented.
    pub(super) fn certificate(
        &self,
        project: &ProjectInfo,
        vouching: &Arc<Vouching>,
        valid: ValidCertificate,
        facts: Facts,
    ) -> Arc<Certificate> {
        let info = Arc::new(facts.describe(&valid));
        let identity = Arc::new(ClientIdentity::new(info.clone(), valid.certified, valid.issuer_names));
        Arc::new(Certificate {
            info,
            cert_pem: facts.cert_pem,
            ca_pem: facts.ca_pem,
            digest: valid.digest,
            bound: self.bound(project, &identity, &valid.ca, vouching),
            general: self.general(project, &identity, &valid.ca, vouching),
            tls13: Tls13Objects::default(),
            identity,
        })
    }

    /// What a project has of a leaf of its account: the key, and nothing else that another project has of it. `None` for a
    /// CA bundle.
    pub(super) fn of_account(
        &self,
        project: &ProjectInfo,
        vouching: &Arc<Vouching>,
        held: &AccountCertificate,
    ) -> Option<Arc<Certificate>> {
        let identity = held.identity.clone()?;
        Some(Arc::new(Certificate {
            info: held.info.clone(),
            cert_pem: held.pem.clone(),
            ca_pem: String::new(),
            digest: held.digest,
            bound: self.bound(project, &identity, &[], vouching),
            general: self.general(project, &identity, &[], vouching),
            tls13: Tls13Objects::default(),
            identity,
        }))
    }

    fn bound(
        &self,
        project: &ProjectInfo,
        identity: &Arc<ClientIdentity>,
        ca: &[CertificateDer<'static>],
        vouching: &Arc<Vouching>,
    ) -> Arc<UpstreamTls> {
        let trust = self.trust(project.servers, true, ca, vouching);
        self.factory.make(Some(identity.clone()), Show::Always, trust, SESSIONS_BOUND)
    }

    fn general(
        &self,
        project: &ProjectInfo,
        identity: &Arc<ClientIdentity>,
        ca: &[CertificateDer<'static>],
        vouching: &Arc<Vouching>,
    ) -> Arc<UpstreamTls> {
        let trust = self.trust(project.servers, false, ca, vouching);
        self.factory.make(Some(identity.clone()), show(project), trust, SESSIONS_GENERAL)
    }

    /// The same certificate as the project and its trust are now: with new objects throughout, or, if only to whom the
    /// project-wide certificate is shown has changed, with a new one for the default slot alone.
    pub(super) fn anew(
        &self,
        project: &ProjectInfo,
        vouching: &Arc<Vouching>,
        old: &Certificate,
        only_shown: bool,
    ) -> Arc<Certificate> {
        let ca = match old.ca_pem.as_str() {
            "" => Vec::new(),
            pem => pem::certificates(pem).expect("it was understood when the certificate was loaded"),
        };
        let identity = &old.identity;
        let (bound, over_tls13) = match only_shown {
            true => (old.bound.clone(), old.tls13.bound.clone()),
            false => (self.bound(project, identity, &ca, vouching), OnceLock::new()),
        };
        let tls13 = Tls13Objects { bound: over_tls13, general: OnceLock::new() };
        Arc::new(Certificate { bound, general: self.general(project, identity, &ca, vouching), tls13, ..clone(old) })
    }

    /// The same certificate and the same objects, declared at another place.
    pub(super) fn moved(old: &Certificate, source: Source) -> Arc<Certificate> {
        let info = Arc::new(CertificateInfo { source, ..CertificateInfo::clone(&old.info) });
        Arc::new(Certificate { info, ..clone(old) })
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
            bound: again(&old.bound, SESSIONS_BOUND),
            general: again(&old.general, SESSIONS_GENERAL),
            tls13: Tls13Objects { bound: kept(&old.tls13.bound), general: kept(&old.tls13.general) },
            ..clone(old)
        })
    }

    /// `ca`: in a set for bindings its certificates vouch for servers, in a general one they are pins only.
    fn trust(
        &self,
        servers: ServerTrust,
        bound: bool,
        ca: &[CertificateDer<'static>],
        vouching: &Arc<Vouching>,
    ) -> Arc<TrustAnchors> {
        let key = (servers, bound, hash_all(ca), *vouching.digest());
        let mut sets = self.sets.lock().expect("nothing panics while holding it");
        if let Some(set) = sets.get(&key).and_then(Weak::upgrade) {
            return set;
        }
        let set = self.anchors.set(servers, bound.then_some(ca), ca, vouching);
        if sets.len() == sets.capacity() {
            // Before the map would grow, so that what has died never makes it grow.
            sets.retain(|_, set| set.strong_count() > 0);
        }
        sets.insert(key, Arc::downgrade(&set));
        set
    }
}

fn clone(old: &Certificate) -> Certificate {
    Certificate {
        info: old.info.clone(),
        cert_pem: old.cert_pem.clone(),
        ca_pem: old.ca_pem.clone(),
        digest: old.digest,
        identity: old.identity.clone(),
        bound: old.bound.clone(),
        general: old.general.clone(),
        tls13: Tls13Objects { bound: old.tls13.bound.clone(), general: old.tls13.general.clone() },
    }
}

/// When the project-wide certificate is shown.
pub(super) fn show(project: &ProjectInfo) -> Show {
    match project.default_scope {
        DefaultScope::Any | DefaultScope::Listed(_) => Show::UnlessOthersAreNamed,
        DefaultScope::Hinted => Show::OnlyIfNamed,
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
    retire_objects(project, certificate, certificate.objects(), superseded_by, drain, grace);
}

/// Ends these objects of a certificate; others of it may go on. When this returns, no new request can use them.
pub(super) fn retire_objects<'a>(
    project: &Project,
    certificate: &Certificate,
    objects: impl Iterator<Item = &'a Arc<UpstreamTls>>,
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
    let tls = objects.inspect(|tls| end(tls, drain, grace)).map(Arc::downgrade).collect();
    project.remember_retired(Retired {
        id: certificate.info.id.clone(),
        superseded_by: superseded_by.cloned(),
        heir: superseded_by.cloned(),
        tls,
        info: certificate.info.clone(),
        pem: certificate.cert_pem.as_str().into(),
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
