//! Why an exchange failed on the upstream side, with the facts that explain it.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::domain::{CertificateInfo, Code, Rule};
use crate::identity::Asked;
use crate::policy::Denied;

/// What is known of an exchange's upstream side; shown to callers that may see it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// `https://host[:port]` or `http://…`.
    pub origin: Option<String>,
    /// The address dialled: the origin's, or its parent proxy's.
    pub address: Option<SocketAddr>,
    /// The parent proxy on the way, `http://proxy.corp:3128`.
    pub parent: Option<Arc<str>>,
    /// `TLSv1.2` or `TLSv1.3`.
    pub tls_version: Option<&'static str>,
    /// The origin's CertificateRequest; `None` = it did not ask (as far as was seen).
    pub asked: Option<Asked>,
    /// The rule that chose.
    pub rule: Option<Rule>,
    /// The certificate that was chosen, sent or not.
    pub identity: Option<Arc<CertificateInfo>>,
    /// It failed because TLS 1.3 alone was offered, as the binding wants.
    pub tls13_only: bool,
    /// Nobody vouches for the origin's certificate: whom it, and those sent with it, name as issuers (DER).
    pub unknown_issuers: Vec<Vec<u8>>,
    /// The TLS alert received (RFC 8446 section 6).
    pub alert: Option<u8>,
    /// Whether a byte of the request left egret.
    pub request_sent: bool,
}

/// A failure that egret answers itself.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The stable code.
    pub code: Code,
    /// One sentence: what happened.
    pub detail: String,
    /// The one command or step that mends it, if there is one.
    pub fix: Option<String>,
    /// Whether sending the request again cannot do it twice.
    pub retry_safe: bool,
    /// What is known. Boxed: failures are rare and travel through hot return types.
    pub facts: Box<Facts>,
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code, denied.why)
    }
}

impl Failure {
    /// A failure before anything was sent.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), fix: None, retry_safe: true, facts: Box::default() }
    }

    /// With the step that mends it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}
