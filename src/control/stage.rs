//! Staged rotation: a certificate is tried out at an origin before it takes another one's place.
//!
//! What must stay true: a pending certificate is in no snapshot, so nothing selects it; what the probe connected and
//! agreed on ends with the probe, and what is promoted is the same certificate with objects of its own; unless the
//! origin took it, nothing has changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use time::OffsetDateTime;
use tokio::time::timeout;

use super::certificates::{not_declared, takes_uploads, validated, whole};
use super::{Control, ControlError, Drain, Inner, Upload, Uploaded};
use crate::domain::{CertificateId, CertificateInfo, Code, Origin, Pattern, PortRule, ProjectId, time as clock};
use crate::identity::UpstreamTls;
use crate::observe::{Event, EventKind};
use crate::registry::{Certificate, Probing, Project, Proof, Snapshot, Token, Trial, Unproven};

/// A certificate that is being tried out.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whose.
    pub project: ProjectId,
    /// Where it is to be presented.
    pub pattern: Pattern,
    /// What may be told of it. Its id becomes that of the certificate if it is promoted.
    pub info: Arc<CertificateInfo>,
    /// Where it is tried out.
    pub origin: Origin,
    /// Since when.
    pub since: OffsetDateTime,
}

/// A certificate that an origin took, and that is in force now.
#[derive(Debug)]
pub struct Promoted {
    /// As of any upload.
    pub uploaded: Uploaded,
    /// Where it was tried out.
    pub origin: Origin,
    /// What the origin made of it.
    pub proof: Proof,
}

/// A certificate that was tried out and is not put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Where it was tried out.
    pub origin: Origin,
    /// Why.
    pub why: Unproven,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Unproven { code, detail, fix, alert, asked_for } = &self.why;
        write!(f, "the certificate was tried out and not put in force: {code}: {detail}")?;
        if let Some(alert) = alert {
            write!(f, "; TLS alert {alert}")?;
        }
        if let Some(names) = asked_for.as_deref().filter(|names| !names.is_empty()) {
            write!(f, "; it names as CAs: {}", names.join(" | "))?;
        }
        f.write_str("; what was in force stays in force")?;
        match fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}

/// Who tries out, and what is being tried out.
#[derive(Default)]
pub(super) struct Staging {
    prober: OnceLock<Arc<dyn Probing>>,
    pending: Mutex<Vec<(u64, Pending)>>,
    next: AtomicU64,
}

impl Staging {
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Pending)>> {
        self.pending.lock().expect("nothing panics while holding it")
    }

    /// Takes a place among those that are tried out; `None` if there is none.
    fn enter(&self, pending: Pending, certificate: Arc<Certificate>, most: usize) -> Option<Place<'_>> {
        let mut all = self.lock();
        if all.len() >= most {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        all.push((number, pending));
        Some(Place { staging: self, number, certificate })
    }
}

/// A pending certificate. With it ends, in whatever way, what was connected under that.
struct Place<'a> {
    staging: &'a Staging,
    number: u64,
    certificate: Arc<Certificate>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.certificate.objects().for_each(|tls| tls.life().end());
        self.staging.lock().retain(|(number, _)| *number != self.number);
    }
}

/// What a place held when a probe for it began.
#[derive(Debug, PartialEq, Eq)]
struct Slot(Option<Option<CertificateId>>);

impl Slot {
    fn of(snapshot: &Snapshot, pattern: &Pattern) -> Self {
        Self(snapshot.in_force(pattern).map(|binding| binding.target.certificate_id().cloned()))
    }
}

/// A probe that the origin let pass.
pub(super) struct Tried {
    slot: Slot,
    at: Origin,
}

impl Tried {
    /// Whether the place was changed since the probe began.
    pub(super) fn is_overtaken(&self, snapshot: &Snapshot, pattern: &Pattern) -> bool {
        self.slot != Slot::of(snapshot, pattern)
    }

    /// The origin.
    pub(super) fn at(self) -> Origin {
        self.at
    }
}

impl Control {
    /// Says who tries certificates out; the first word counts.
    pub fn set_prober(&self, prober: Arc<dyn Probing>) {
        let _ = self.inner.staging.prober.set(prober);
    }

    /// The certificates of a project that are being tried out, oldest first.
    #[must_use]
    pub fn pending(&self, project: &ProjectId) -> Vec<Pending> {
        let all = self.inner.staging.lock();
        all.iter().filter(|(_, pending)| pending.project == *project).map(|(_, pending)| pending.clone()).collect()
    }

    /// Uploads a certificate, tries it out with `trial`, and only if the origin takes it does as [`Control::upload`]
    /// does. Equal material is tried out, too, and then changes nothing. See [`trial_origin`] for where. `by` is the token
    /// of who asks for it, which has to be in force still when the origin has answered; `None`: nobody's.
    ///
    /// # Errors
    /// As [`Control::upload`]; [`ControlError::Unproven`]; [`ControlError::Busy`]; [`ControlError::Revoked`]; a place
    /// that was changed while the certificate was tried out.
    pub async fn stage(
        &self,
        project: &Arc<Project>,
        upload: Upload,
        drain: Drain,
        trial: Trial,
        by: Option<Arc<Token>>,
    ) -> Result<Promoted, ControlError> {
        takes_uploads(&project.load())?;
        not_declared(&project.load(), &upload.pattern)?;
        let (inner, project) = (self.inner.clone(), project.clone());
        whole(async move { inner.stage(&project, upload, drain, trial, by).await }).await
    }
}

/// Where a certificate for `pattern` is tried out: at the one origin that the pattern names, or at the one that `named`
/// says.
///
/// # Errors
/// It must be said and is not, or the certificate would never be presented there.
pub fn trial_origin(snapshot: &Snapshot, pattern: &Pattern, named: Option<Origin>) -> Result<Origin, ControlError> {
    let refused = |what: String| Err(ControlError::Field { field: "probe", what });
    let origin = match (named, pattern) {
        (Some(origin), _) => origin,
        (None, Pattern::Host(host, PortRule::Exact(port))) => Origin::new(host.clone(), *port),
        (None, _) => {
            return refused(format!(
                "{pattern} names no single origin; say at which of them the certificate is to be tried out, with \
                 probe=https://host[:port]"
            ));
        }
    };
    if !pattern.covers(&origin) {
        return refused(format!("{pattern} does not cover this origin; name one that it covers"));
    }
    if *pattern == Pattern::Default && snapshot.info().default_scope.excludes(&origin) {
        let what = "default.scope of the project lists the origins that may see its project-wide certificate, and this is \
                    none of them; name one of those";
        return refused(what.to_owned());
    }
    Ok(origin)
}

impl Inner {
    async fn stage(
        &self,
        project: &Arc<Project>,
        upload: Upload,
        drain: Drain,
        trial: Trial,
        by: Option<Arc<Token>>,
    ) -> Result<Promoted, ControlError> {
        let (upload, valid) = validated(upload).await?;
        let snapshot = project.snapshot();
        takes_uploads(&snapshot)?;
        let slot = Slot::of(&snapshot, &upload.pattern);
        let certificate = self.made(&snapshot, &upload, valid)?;
        let pending = Pending {
            project: project.id().clone(),
            pattern: upload.pattern.clone(),
            info: certificate.info.clone(),
            origin: trial.origin.clone(),
            since: clock::now(),
        };
        let most = self.limits.max_pending();
        let Some(place) = self.staging.enter(pending, certificate.clone(), most) else {
            self.metrics.probes_full.add();
            return Err(ControlError::Busy(format!(
                "{most} certificates are being tried out, as many as limits.max_pending allows; try again in a moment"
            )));
        };
        let before = snapshot.binding(&upload.pattern).is_some_and(|binding| binding.tls13_only);
        // What a selection by this pattern would use.
        let tls = certificate.object(&upload.pattern, upload.tls13_only.unwrap_or(before));
        let outcome = self.try_out(project, tls, &trial).await;
        // Ends what was connected by it; what is promoted gets objects of its own in `place`.
        drop(place);
        let id = certificate.info.id.clone();
        match outcome {
            Ok(proof) => {
                self.metrics.probes_accepted.add();
                if by.is_some_and(|token| !self.registry.is_in_force(&token)) {
                    return Err(ControlError::Revoked);
                }
                let uploaded = self
                    .place(project, upload, certificate, drain, Some(Tried { slot, at: trial.origin.clone() }))
                    .await?;
                Ok(Promoted { uploaded, origin: trial.origin, proof })
            }
            Err(why) => {
                self.metrics.probes_refused.add();
                tracing::warn!(project = %project.id(), pattern = %upload.pattern, origin = %trial.origin, certificate = %id, code = why.code, "a certificate was tried out and not put in force: {}", why.detail);
                let words = format!("a certificate was tried out and not put in force: {}: {}", why.code, why.detail);
                let event = Event::new(EventKind::ProbeRefused, words).about(project.id(), &id);
                self.events.emit(event.at_origin(&trial.origin));
                Err(ControlError::Unproven(Box::new(Refused { origin: trial.origin, why })))
            }
        }
    }

    async fn try_out(&self, project: &Project, tls: &Arc<UpstreamTls>, trial: &Trial) -> Result<Proof, Unproven> {
        let unproven = |code: Code, detail: String| Unproven {
            code: code.as_str(),
            detail,
            fix: None,
            alert: None,
            asked_for: None,
        };
        let Some(prober) = self.staging.prober.get() else {
            return Err(unproven(Code::Internal, "egret has not started far enough to try it out".to_owned()));
        };
        let limit = self.limits.probe_timeout();
        let probing = prober.probe(project.id(), tls, trial);
        timeout(limit, probing).await.unwrap_or_else(|_| {
            let detail = format!("{} did not answer within {limit:?}, which limits.probe_timeout allows", trial.origin);
            Err(unproven(Code::NetTimeout, detail))
        })
    }
}
