//! What a change asks of the data plane before it is made, and what the data plane asks of control when an origin
//! refuses what was promoted.
//!
//! Control and upstream stand on the same floor and never import each other. The dialler fills [`Probing`] in with what
//! sends every other request, so that what a probe meets is what requests will meet; control fills in [`FallBack`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use http::Method;
use http::uri::PathAndQuery;
use time::OffsetDateTime;

use super::{Binding, Certificate, Project};
use crate::domain::{Origin, Pattern, ProjectId};
use crate::identity::UpstreamTls;

/// The code of [`Unproven`] where the origin did not ask for a certificate. No request fails with it.
pub const NOT_ASKED: &str = "mtls.not_asked";

/// The one request that tries a certificate out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Where it goes.
    pub origin: Origin,
    /// `GET`, `HEAD` or `OPTIONS`: nothing that could change anything there.
    pub method: Method,
    /// Path and query.
    pub path: PathAndQuery,
}

/// The origin took the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The status of its answer.
    pub status: u16,
    /// `TLSv1.2` or `TLSv1.3`.
    pub tls_version: Option<&'static str>,
    /// What is worth knowing all the same, such as a 403 of the application.
    pub warnings: Vec<String>,
}

/// Nothing was proven, or the opposite was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    /// A code of product.md section 7, or [`NOT_ASKED`].
    pub code: &'static str,
    /// What happened, one sentence.
    pub detail: String,
    /// The step that mends it.
    pub fix: Option<String>,
    /// The TLS alert received (RFC 8446 section 6).
    pub alert: Option<u8>,
    /// CAs that the origin named as those it accepts, RFC 4514; the first of them. `None`: it did not ask.
    pub asked_for: Option<Vec<String>>,
}

/// See [`Probing::probe`].
pub type ProofFuture<'a> = Pin<Box<dyn Future<Output = Result<Proof, Unproven>> + Send + 'a>>;

/// Tries certificates out.
pub trait Probing: Send + Sync {
    /// A handshake that presents what `tls` presents, and one request over it. Nothing else may use `tls`, whose life the
    /// caller ends afterwards: what was connected and agreed on by it ends then. Not bounded in time as a whole.
    fn probe<'a>(&'a self, project: &'a ProjectId, tls: &'a Arc<UpstreamTls>, trial: &'a Trial) -> ProofFuture<'a>;
}

/// The certificate that a binding had before, kept for a while.
#[derive(Debug)]
pub struct Previous {
    /// With objects that nothing was connected by.
    pub certificate: Arc<Certificate>,
    /// Until when it is kept.
    pub until: OffsetDateTime,
    /// No binding named it when it was replaced: it is no certificate of the project any more.
    pub alone: bool,
    /// Where what took its place was tried out before it was promoted: should that be refused, egret goes back by itself.
    pub promoted: Option<Origin>,
}

impl Previous {
    /// Whether egret would go back to it by itself at `now`, should `origin` refuse what is in force for `pattern`. Project-wide,
    /// that is up to the origin where it was tried out: any other may ask for a certificate, and refuse all it is shown.
    #[must_use]
    pub fn falls_back(&self, pattern: &Pattern, origin: &Origin, now: OffsetDateTime) -> bool {
        let counts = |at: &Origin| *pattern != Pattern::Default || at == origin;
        self.promoted.as_ref().is_some_and(counts) && self.until > now
    }
}

/// See [`FallBack::fall_back`].
pub type FallBackFuture<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;

/// Puts back in force what was there before.
pub trait FallBack: Send + Sync {
    /// `origin` refused the certificate of `binding` with this TLS alert. If the binding may fall back ([`Previous`]), the
    /// certificate before it is in force when this resolves; whoever asks for the same meanwhile waits for it, and
    /// nothing is done twice. Whether something else than the refused certificate is selected by now.
    fn fall_back<'a>(
        &'a self,
        project: &'a Arc<Project>,
        binding: &'a Binding,
        origin: &'a Origin,
        alert: u8,
    ) -> FallBackFuture<'a>;
}
