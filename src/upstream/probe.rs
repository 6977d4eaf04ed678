//! Trying a certificate out: a real handshake with the origin and one request, before anybody depends on it.
//!
//! What is tried has a [`UpstreamTls`] of its own that nothing selects, so its connection and its tickets are its own,
//! too. Everything else (ways, address guard, protocols, how a refusal is told) is what [`Upstreams::send`] does for
//! every request.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{Destination, Failure, Refusal, Reply, RequestBody, Upstreams};
use crate::domain::{Code, ProjectId};
use crate::identity::{Asked, Presented, UpstreamTls};
use crate::pki::names::rfc4514_of_der;
use crate::registry::{NOT_ASKED, Probing, Proof, ProofFuture, Trial, Unproven};

/// What is read of an answer. An error page that says something about certificates is shorter.
const MAX_BODY: usize = 64 * 1024;
/// How long it may take, once the head is there.
const BODY_TIME: Duration = Duration::from_secs(2);
/// CA names told of those that an origin listed.
const MAX_CAS: usize = 16;
/// nginx's own statuses for a client certificate that it does not accept, or that is missing. It shows them as 400 to
/// clients, but what stands between may not.
const NGINX: [u16; 2] = [495, 496];
/// What nginx writes into the page of such a 400.
const REFUSALS: [&str; 2] = ["No required SSL certificate was sent", "The SSL certificate error"];
const AGENT: &str = concat!("egret/", env!("CARGO_PKG_VERSION"), " (certificate probe)");

/// Tries certificates out over the one dialler.
pub struct Prober {
    upstreams: Arc<Upstreams>,
    /// egret's mark, so that a probe that comes back to it is seen.
    via: HeaderValue,
}

impl Prober {
    /// One that dials with `upstreams`, and whose requests bear `via`.
    #[must_use]
    pub fn new(upstreams: Arc<Upstreams>, via: HeaderValue) -> Self {
        Self { upstreams, via }
    }

    async fn attempt(&self, project: &ProjectId, tls: &Arc<UpstreamTls>, trial: &Trial) -> Result<Proof, Unproven> {
        let Trial { origin, method, path } = trial;
        let policy = &self.upstreams.dialer.policy;
        policy.judge_origin(origin.host(), origin.port(), true).map_err(|denied| {
            let fix = "let [egress] allow have it, or probe another origin that the certificate is for";
            diagnosed(Failure::new(denied.code, denied.why).fix(fix))
        })?;
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::from(path.clone());
        *request.headers_mut() = self.headers();
        let to = Destination::Tls(origin.clone());
        let reply = match self.upstreams.send(project, tls, &to, request).await {
            Ok(reply) => reply,
            Err(Refusal::Failed(failure) | Refusal::Rejected(failure, _)) => return Err(diagnosed(failure)),
            // Only its owner retires it, who then waits for no answer.
            Err(Refusal::Retired(_)) => {
                return Err(diagnosed(Failure::new(Code::Internal, "the certificate was withdrawn meanwhile")));
            }
        };
        let Reply { response, lease, tls_version, asked, .. } = reply;
        let status = response.status();
        let said = text(response.into_body()).await;
        drop(lease);
        let proof = judge(trial, status, &said, asked.as_ref());
        proof.map(|warnings| Proof { status: status.as_u16(), tls_version, warnings })
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::VIA, self.via.clone());
        headers
    }
}

impl Probing for Prober {
    fn probe<'a>(&'a self, project: &'a ProjectId, tls: &'a Arc<UpstreamTls>, trial: &'a Trial) -> ProofFuture<'a> {
        Box::pin(self.attempt(project, tls, trial))
    }
}

/// What there is of a body within both bounds; the rest of it is not waited for.
async fn text(body: Incoming) -> String {
    let mut body = Limited::new(body, MAX_BODY);
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => bytes.extend(frame.into_data().unwrap_or_default()),
                Err(_) => break,
            }
        }
    };
    let _ = timeout(BODY_TIME, reading).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What an answer proves; the warnings, if it is that the origin took the certificate.
fn judge(trial: &Trial, status: StatusCode, said: &str, asked: Option<&Asked>) -> Result<Vec<String>, Unproven> {
    let Trial { origin, method, path } = trial;
    let unproven = |code: &'static str, detail: String, fix: &str| {
        let asked_for = asked.map(names);
        Err(Unproven { code, detail, fix: Some(fix.to_owned()), alert: None, asked_for })
    };
    match asked.map(|asked| asked.presented) {
        Some(Presented::Sent) => {}
        None => {
            let detail = format!("{origin} did not ask for a certificate, so nothing was proven");
            let fix = "probe an origin that asks (some ask on some ports or paths only), or upload without a probe";
            return unproven(NOT_ASKED, detail, fix);
        }
        Some(Presented::NoCommonScheme) => {
            let detail = format!("{origin} accepts none of the signatures that the certificate's key can make");
            let fix = "upload a certificate with another kind of key (P-256 is accepted nearly everywhere)";
            return unproven(Code::MtlsNoCommonSignatureScheme.as_str(), detail, fix);
        }
        Some(Presented::Withheld | Presented::NothingRegistered) => {
            let detail =
                format!("{origin} asked, and names only CAs that did not issue the certificate, so it was not sent");
            let fix = "bind it to this origin instead of the whole project, or upload one that such a CA issued";
            return unproven(Code::MtlsRequiredWithheld.as_str(), detail, fix);
        }
    }
    let code = status.as_u16();
    let refused = Code::MtlsRejectedBadCertificate.as_str();
    let words = REFUSALS.into_iter().find(|words| said.contains(words));
    if NGINX.contains(&code) || (status == StatusCode::BAD_REQUEST && words.is_some()) {
        let words = words.map(|words| format!(" (\"{words}\")")).unwrap_or_default();
        let detail = format!("{origin} answered HTTP {code}{words}: it does not accept the certificate");
        return unproven(
            refused,
            detail,
            "upload a certificate of a CA that the origin trusts, valid and for client use",
        );
    }
    if status == StatusCode::BAD_REQUEST && *method == Method::HEAD {
        let detail = format!(
            "{origin} answered HTTP 400 to HEAD, which has no text that would tell whether it refuses the certificate"
        );
        return unproven(refused, detail, "probe with the method GET");
    }
    let warning = match code {
        401 | 403 => format!(
            "{origin} took the certificate and answered HTTP {code} to {method} {}: whether the application lets its holder in was not shown",
            path.path()
        ),
        400.. => format!("{origin} took the certificate and answered HTTP {code} to {method} {}", path.path()),
        _ => return Ok(Vec::new()),
    };
    Ok(vec![warning])
}

fn names(asked: &Asked) -> Vec<String> {
    asked.cas.iter().take(MAX_CAS).map(|der| rfc4514_of_der(der)).collect()
}

/// A failed exchange, told to whoever wanted to change the certificate.
fn diagnosed(failure: Failure) -> Unproven {
    let Failure { code, detail, fix, facts, .. } = failure;
    let own = match code {
        Code::MtlsRejectedUnknownCa => {
            Some("upload a certificate of a CA that the origin trusts, or have its operator trust this one")
        }
        Code::MtlsRejectedExpired => Some("upload a certificate that is valid now (and compare the clocks)"),
        Code::MtlsRejectedRevoked => Some("have a new certificate issued"),
        Code::MtlsRejectedBadCertificate | Code::MtlsClosedAfterCertificate => Some(
            "ask the origin's operator what it wants of a client certificate: issuer, names, extended key usage (clientAuth)",
        ),
        Code::MtlsRequiredWithheld => Some("bind it to this origin instead of the whole project"),
        _ => None,
    };
    let asked_for = facts.asked.as_ref().map(names);
    Unproven { code: code.as_str(), detail, fix: own.map(str::to_owned).or(fix), alert: facts.alert, asked_for }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(method: Method, status: u16, said: &str, presented: Option<Presented>) -> Result<Vec<String>, Unproven> {
        let asked = presented.map(|presented| Asked { cas: Vec::new(), ca_count: 0, presented, signed: true });
        let origin = crate::domain::Origin::parse("https://a.test").unwrap();
        let trial = Trial { origin, method, path: "/health?x=1".parse().unwrap() };
        judge(&trial, StatusCode::from_u16(status).unwrap(), said, asked.as_ref())
    }

    #[test]
    fn what_the_origin_itself_refuses_proves_nothing() {
        let sent = Some(Presented::Sent);
        let page = "<center>The SSL certificate error</center>";
        for (method, status, said, code) in [
            (Method::GET, 400, page, "mtls.rejected_bad_certificate"),
            (Method::GET, 400, "<h1>No required SSL certificate was sent</h1>", "mtls.rejected_bad_certificate"),
            (Method::GET, 495, "", "mtls.rejected_bad_certificate"),
            (Method::HEAD, 496, "", "mtls.rejected_bad_certificate"),
            (Method::HEAD, 400, "", "mtls.rejected_bad_certificate"),
        ] {
            assert_eq!(judged(method, status, said, sent).unwrap_err().code, code, "{status}");
        }
        assert_eq!(judged(Method::GET, 200, "", None).unwrap_err().code, NOT_ASKED);
        let withheld = judged(Method::GET, 200, "", Some(Presented::Withheld)).unwrap_err();
        assert_eq!((withheld.code, withheld.asked_for), ("mtls.required_withheld", Some(Vec::new())));
    }

    #[test]
    fn what_the_application_says_is_its_own_business() {
        let sent = Some(Presented::Sent);
        assert_eq!(judged(Method::GET, 204, "", sent), Ok(Vec::new()));
        assert_eq!(judged(Method::GET, 302, "", sent), Ok(Vec::new()));
        for status in [400, 401, 403, 404, 503] {
            let warnings = judged(Method::GET, status, "missing field", sent).unwrap();
            assert!(warnings[0].contains(&status.to_string()) && !warnings[0].contains("x=1"), "{warnings:?}");
        }
    }
}
