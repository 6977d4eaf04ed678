//! Bindings that present their certificate over TLS 1.3 only.
//!
//! TLS 1.2 sends a client certificate in the clear (RFC 5246 section 7.4.6, RFC 8705 section 8), TLS 1.3 encrypts it. Two
//! bindings of one certificate may differ in that, so each kind has objects of its own: no connection, no ticket and no
//! life is shared between them.

use std::sync::{Arc, OnceLock};

use super::{Binding, Certificate, Target};
use crate::domain::{CertificateId, Pattern, Source};
use crate::identity::UpstreamTls;

/// What bindings with [`Binding::tls13_only`] use of a certificate, made when the first of them is written.
///
/// Only [`SnapshotEdit::bind`](super::SnapshotEdit::bind) makes them, and so only the holder of the project's writer lock: a reader with an old
/// snapshot must not bring a certificate that was retired meanwhile back to life.
#[derive(Debug, Default)]
pub struct Tls13Objects {
    /// As [`Certificate::bound`].
    pub bound: OnceLock<Arc<UpstreamTls>>,
    /// As [`Certificate::general`].
    pub general: OnceLock<Arc<UpstreamTls>>,
}

impl Certificate {
    /// The object of its bindings of this kind; made if there is none yet, so only for who holds the project's writer lock,
    /// or has a certificate that is in no snapshot.
    pub fn object(&self, pattern: &Pattern, tls13_only: bool) -> &Arc<UpstreamTls> {
        let (plain, tls13) = match pattern {
            Pattern::Default => (&self.general, &self.tls13.general),
            Pattern::Host(..) | Pattern::Wildcard(..) => (&self.bound, &self.tls13.bound),
        };
        if tls13_only { tls13.get_or_init(|| plain.over_tls13_only()) } else { plain }
    }
}

impl Binding {
    /// The object that it uses of its certificate.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match &self.target {
            Target::Certificate(certificate) => Some(certificate.object(&self.pattern, self.tls13_only)),
            Target::None | Target::Unavailable(_) => None,
        }
    }

    /// What makes TLS 1.2 good enough for it, where that is said: a command, or a place in a file.
    #[must_use]
    pub fn allowing_tls12(&self, project: &str) -> String {
        if let Source::File(path) = &self.source {
            return format!("write tls13_only = false for {} in {}", self.pattern, path.display());
        }
        let id = self.target.certificate_id().map_or("ID", CertificateId::as_str);
        let project = if project == "default" { String::new() } else { format!(" --project '{project}'") };
        // In quotes: a shell would read the star of a wildcard.
        format!("egret certs bind{project} --no-tls13-only '{}' {id}", self.pattern)
    }
}
