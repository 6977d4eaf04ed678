//! What a client is told when egret itself answers: status, `Proxy-Status` (RFC 9209), problem body (RFC 9457).
//!
//! Callers that are authenticated or on loopback get the facts; all others get the code and the request id, and
//! nothing that shows the inside. Never key material, PEM, or a piece of the request.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, PROXY_AUTHENTICATE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::domain::time::rfc3339;
use crate::domain::{CertificateId, Code};
use crate::identity::Presented;
use crate::observe::RequestId;
use crate::pki::names::rfc4514_of_der;
use crate::upstream::{Facts, Failure, ReplyBody};

/// The response field of RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// CA names shown of those that an origin listed.
const SHOWN_CAS: usize = 16;

/// The answer to a request that egret does not, or cannot, send on. `trusted` callers are given the facts;
/// on a `sidecar` egret plays the origin, so a missing credential is 401 there.
#[must_use]
pub fn answer(failure: &Failure, trusted: bool, sidecar: bool, request_id: &str) -> Response<ReplyBody> {
    let status = if sidecar { failure.code.status_on_sidecar() } else { failure.code.status() };
    answer_with(status, failure, trusted, request_id)
}

/// The same with a status that says it better than the code's own (414 for a request line).
pub(super) fn answer_with(
    status: StatusCode,
    failure: &Failure,
    trusted: bool,
    request_id: &str,
) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::full(problem(status, failure, trusted, request_id)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PROXY_STATUS, proxy_status(failure, trusted));
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => challenge(headers, &PROXY_AUTHENTICATE),
        StatusCode::UNAUTHORIZED => challenge(headers, &WWW_AUTHENTICATE),
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    close_after(failure, headers);
    response
}

/// What was not understood may not end where we think it does: nothing more is read from that connection.
fn close_after(failure: &Failure, headers: &mut http::HeaderMap) {
    if matches!(
        failure.code,
        Code::RequestMalformed | Code::LimitHead | Code::LimitRequestTimeout | Code::LimitDraining
    ) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// The answer to a gRPC call: HTTP status 200 and the status in the head, which is the whole message
/// ("Trailers-Only" in gRPC's protocol over HTTP/2).
#[must_use]
pub(super) fn grpc(failure: &Failure, trusted: bool, request_id: &str) -> Response<ReplyBody> {
    let mut message = failure.code.to_string();
    if trusted {
        message.push_str(": ");
        message.push_str(&failure.detail);
        if let Some(fix) = &failure.fix {
            message.push_str("; ");
            message.push_str(fix);
        }
    }
    message.push_str(&format!(" (request {request_id})"));
    let mut response = Response::new(ReplyBody::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(grpc_status(failure.code)));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&message)) {
        headers.insert("grpc-message", message);
    }
    headers.insert(PROXY_STATUS, proxy_status(failure, trusted));
    close_after(failure, headers);
    response
}

/// gRPC's own table of statuses from HTTP's, and its code 4 for deadlines of the proxy's own.
fn grpc_status(code: Code) -> u16 {
    match code.status().as_u16() {
        400 | 413 | 414 | 431 => 13,
        401 | 407 => 16,
        403 => 7,
        429 => 8,
        504 => 4,
        500 | 508 => 13,
        _ => 14,
    }
}

/// As gRPC wants its messages: printable ASCII, everything else and `%` as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The same, written out whole, for a request that no handler was given. `failure` says nothing of egret's inside.
/// The connection closes after it.
#[must_use]
pub(super) fn written(failure: &Failure) -> Vec<u8> {
    let status = failure.code.status();
    let body = problem(status, failure, true, &RequestId::next().to_string());
    let mut out = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    out.push_str("content-type: application/problem+json\r\ncache-control: no-store\r\n");
    out.push_str(&format!("content-length: {}\r\nconnection: close\r\nproxy-status: ", body.len()));
    let mut out = out.into_bytes();
    out.extend_from_slice(proxy_status(failure, true).as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(&body);
    out
}

/// `Proxy-Status` for an answer of the origin's own that is passed on: it asked for a certificate, and got what
/// `presented` says. `certificate` is the one that was sent, if the caller may know it.
#[must_use]
pub fn proxy_status_passed_on(
    status: StatusCode,
    presented: Presented,
    certificate: Option<&CertificateId>,
) -> HeaderValue {
    let details = match (presented, certificate) {
        (Presented::Sent, Some(id)) => format!("origin asked for a client certificate; {id} presented"),
        (Presented::Sent, None) => "origin asked for a client certificate; one was presented".to_owned(),
        (Presented::NothingRegistered, _) => "origin asked for a client certificate; none presented".to_owned(),
        (Presented::Withheld, _) => {
            "origin asked for a client certificate; none presented: the scope of the project default withheld it"
                .to_owned()
        }
        (Presented::NoCommonScheme, _) => {
            "origin asked for a client certificate; none presented: its key makes no signature that the origin accepts"
                .to_owned()
        }
    };
    field_value(format!("egret; received-status={}; details={}", status.as_u16(), sf_string(&details)))
}

fn challenge(headers: &mut http::HeaderMap, name: &HeaderName) {
    headers.append(name, HeaderValue::from_static("Basic realm=\"egret\", charset=\"UTF-8\""));
    headers.append(name, HeaderValue::from_static("Bearer realm=\"egret\""));
}

fn proxy_status(failure: &Failure, trusted: bool) -> HeaderValue {
    let error = error_type(failure.code, failure.facts.alert);
    let details = if trusted { format!("{}: {}", failure.code, failure.detail) } else { failure.code.to_string() };
    let mut text = format!("egret; error={error}");
    if let (true, "tls_alert_received", Some(alert)) = (trusted, error, failure.facts.alert) {
        text.push_str(&format!("; alert-id={alert}"));
    }
    text.push_str(&format!("; details={}", sf_string(&details)));
    field_value(text)
}

fn field_value(text: String) -> HeaderValue {
    // sf_string leaves printable ASCII only, so this cannot fail; a bare name is still a true answer.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("egret"))
}

/// A string of RFC 9651 section 3.3.3: printable ASCII, backslash and quote escaped; anything else becomes `?`.
fn sf_string(text: &str) -> String {
    const LONGEST: usize = 512;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars().take(LONGEST) {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
    out
}

/// The error type of RFC 9209 section 2.3.
fn error_type(code: Code, alert: Option<u8>) -> &'static str {
    match code {
        _ if alert.is_some() && is_handshake(code) => "tls_alert_received",
        Code::MtlsRequiredNoneRegistered
        | Code::MtlsRequiredWithheld
        | Code::MtlsRejectedUnknownCa
        | Code::MtlsRejectedExpired
        | Code::MtlsRejectedRevoked
        | Code::MtlsRejectedBadCertificate
        | Code::MtlsNoCommonSignatureScheme
        | Code::MtlsRenegotiationRequired
        | Code::MtlsClosedAfterCertificate
        | Code::TlsProtocol => "tls_protocol_error",
        Code::MtlsIdentityExpired | Code::MtlsIdentityUnavailable => "proxy_configuration_error",
        Code::TrustUnknownIssuer | Code::TrustNameMismatch | Code::TrustServerExpired | Code::TrustInvalid => {
            "tls_certificate_error"
        }
        Code::UpstreamMalformed => "http_protocol_error",
        Code::PolicyAddressDenied => "destination_ip_prohibited",
        Code::PolicyOriginDenied
        | Code::PolicyPortDenied
        | Code::CallerUnauthenticated
        | Code::CallerForbidden
        | Code::LimitAuthentication => "http_request_denied",
        Code::RequestMalformed | Code::RequestMisdirected | Code::LimitRequestTimeout | Code::LimitHead => {
            "http_request_error"
        }
        Code::RequestLoop => "proxy_loop_detected",
        Code::DnsNotFound | Code::DnsFailed => "dns_error",
        Code::NetRefused => "connection_refused",
        Code::NetUnreachable => "destination_ip_unroutable",
        Code::NetTimeout => "connection_timeout",
        Code::NetReset => "connection_terminated",
        Code::LimitConnections => "connection_limit_reached",
        Code::LimitDraining => "proxy_internal_response",
        Code::Internal => "proxy_internal_error",
    }
}

fn is_handshake(code: Code) -> bool {
    let text = code.as_str();
    text.starts_with("mtls.") || text.starts_with("tls.") || code == Code::NetReset
}

/// One line per code for people; it says nothing of this request.
fn title(code: Code) -> &'static str {
    match code {
        Code::MtlsRequiredNoneRegistered => "The origin requires a client certificate and none is registered for it",
        Code::MtlsRequiredWithheld => "The origin requires a client certificate; the project's scope withheld it",
        Code::MtlsRejectedUnknownCa => "The origin does not know the issuer of the client certificate",
        Code::MtlsRejectedExpired => "The origin says that the client certificate has expired",
        Code::MtlsRejectedRevoked => "The origin says that the client certificate is revoked",
        Code::MtlsRejectedBadCertificate => "The origin refuses the client certificate",
        Code::MtlsNoCommonSignatureScheme => "The client key can make no signature that the origin accepts",
        Code::MtlsIdentityExpired => "The client certificate for this origin is outside its validity",
        Code::MtlsIdentityUnavailable => "The client certificate for this origin cannot be loaded",
        Code::MtlsRenegotiationRequired => "The origin asks for the client certificate by renegotiation",
        Code::MtlsClosedAfterCertificate => "The origin closed the connection after asking for a client certificate",
        Code::TrustUnknownIssuer => "The server's certificate leads to no trust anchor",
        Code::TrustNameMismatch => "The server's certificate is for another name",
        Code::TrustServerExpired => "The server's certificate is outside its validity",
        Code::TrustInvalid => "The server's certificate is invalid",
        Code::TlsProtocol => "The TLS handshake with the origin failed",
        Code::UpstreamMalformed => "The origin's answer is not valid HTTP",
        Code::PolicyOriginDenied => "The egress policy does not allow this origin",
        Code::PolicyAddressDenied => "The egress policy does not allow this address",
        Code::PolicyPortDenied => "The egress policy does not allow this port",
        Code::CallerUnauthenticated => "The proxy needs a credential: Proxy-Authorization with Basic or Bearer",
        Code::CallerForbidden => "The credential does not reach this project",
        Code::RequestMalformed => "The request is malformed or ambiguous",
        Code::RequestMisdirected => "The request names another origin than its tunnel",
        Code::RequestLoop => "The request came through this proxy already",
        Code::DnsNotFound => "The origin's name does not exist",
        Code::DnsFailed => "The origin's name could not be resolved",
        Code::NetRefused => "The connection to the origin was refused",
        Code::NetUnreachable => "The origin cannot be reached",
        Code::NetTimeout => "The origin did not answer in time",
        Code::NetReset => "The connection to the origin was reset",
        Code::LimitRequestTimeout => "The request did not arrive in time",
        Code::LimitHead => "The head of the request is too large",
        Code::LimitConnections => "Too many connections to this origin",
        Code::LimitDraining => "The proxy is ending",
        Code::LimitAuthentication => "Too many failed attempts to authenticate",
        Code::Internal => "A fault in the proxy",
    }
}

fn problem(status: StatusCode, failure: &Failure, trusted: bool, request_id: &str) -> Bytes {
    let mut body = Map::new();
    body.insert("type".into(), format!("urn:egret:error:{}", failure.code).into());
    body.insert("title".into(), title(failure.code).into());
    body.insert("status".into(), status.as_u16().into());
    body.insert("code".into(), failure.code.as_str().into());
    body.insert("request_id".into(), request_id.into());
    if trusted {
        body.insert("detail".into(), failure.detail.as_str().into());
        if let Some(fix) = &failure.fix {
            body.insert("fix".into(), fix.as_str().into());
        }
        body.insert("retry_safe".into(), failure.retry_safe.into());
        add_facts(&mut body, &failure.facts);
    }
    let mut text = Value::Object(body).to_string();
    text.push('\n');
    Bytes::from(text)
}

fn add_facts(body: &mut Map<String, Value>, facts: &Facts) {
    // Without an origin the request was refused before there was anything to know.
    let Some(origin) = &facts.origin else { return };
    body.insert("origin".into(), origin.as_str().into());
    body.insert("request_sent".into(), facts.request_sent.into());
    if let Some(address) = facts.address {
        body.insert("address".into(), address.to_string().into());
    }
    if let Some(parent) = &facts.parent {
        body.insert("parent".into(), (**parent).into());
    }
    if let Some(sni) = sni(origin) {
        body.insert("sni".into(), sni.into());
    }
    if let Some(version) = facts.tls_version {
        body.insert("tls_version".into(), version.into());
        body.insert("certificate_requested".into(), facts.asked.is_some().into());
    } else if facts.asked.is_some() {
        body.insert("certificate_requested".into(), true.into());
    }
    if let Some(asked) = &facts.asked {
        let names: Vec<Value> = asked.cas.iter().take(SHOWN_CAS).map(|der| rfc4514_of_der(der).into()).collect();
        body.insert("acceptable_cas".into(), json!({ "names": names, "total": asked.ca_count }));
    }
    body.insert("identity".into(), identity(facts));
    if let Some(alert) = facts.alert {
        body.insert("alert".into(), alert.into());
    }
}

fn identity(facts: &Facts) -> Value {
    let rule = facts.rule.map(|r| r.as_str());
    let presented = facts.asked.as_ref().map(|a| match a.presented {
        Presented::Sent if !a.signed => "not sent: the handshake failed before",
        Presented::Sent => "sent",
        Presented::NothingRegistered => "nothing registered",
        Presented::Withheld => "withheld by the scope of the project default",
        Presented::NoCommonScheme => "the key makes no signature that the origin accepts",
    });
    match &facts.identity {
        Some(info) => json!({
            "id": info.id.as_str(),
            "rule": rule,
            "fingerprint": info.fingerprint.to_string(),
            "not_after": rfc3339(info.not_after),
            "presented": presented,
        }),
        None => json!({ "id": null, "rule": rule, "presented": presented }),
    }
}

/// The server name that was sent: the origin's host, unless it is an address (RFC 6066 section 3).
fn sni(origin: &str) -> Option<String> {
    let origin = crate::domain::Origin::parse(origin).ok()?;
    origin.host().ip().is_none().then(|| origin.host().as_str().to_owned())
}

#[cfg(test)]
mod tests;
