//! Why a parent proxy did not do what it was asked: from its answer to a code, in words that name the parent and what
//! mends it, and never a credential.

use std::fmt;
use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use rustls::{AlertDescription, CertificateError, Error as TlsError};
use tokio_socks::Error as SocksError;

use super::super::{Failure, explain};
use super::Parent;
use crate::domain::Code;

/// A parent's refusal.
pub(super) struct Refused {
    pub(super) failure: Failure,
    /// It did not get through to this address of the origin; another one may do.
    pub(super) elsewhere: bool,
}

const ITS_LOG: &str = "the parent's own log says more; to go another way, see origins and no_proxy of [egress] parent";

impl Refused {
    fn final_(code: Code, detail: String, fix: &str) -> Self {
        Self { failure: Failure::new(code, detail).fix(fix), elsewhere: false }
    }

    fn elsewhere(code: Code, detail: String) -> Self {
        Self { failure: Failure::new(code, detail).fix(ITS_LOG), elsewhere: true }
    }
}

/// The credential that a parent was shown, in words.
fn credential(parent: &Parent) -> &'static str {
    match parent.authorization.is_some() || parent.credentials.is_some() {
        true => "does not accept the credential that it was shown",
        false => "wants a credential, and none is configured",
    }
}

const CREDENTIAL_FIX: &str = "write the user into url of [egress] parent, and where its password comes from into password = { env = \"…\" } or { file = \"…\" }";

/// A status other than 2xx to CONNECT, or the parent's own to a request in absolute form.
pub(super) fn http(parent: &Parent, target: &str, status: StatusCode, headers: &HeaderMap) -> Refused {
    let who = parent.spoken();
    let reason = own_reason(headers);
    let said = match &reason {
        Some(reason) => format!("{} ({reason})", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    let dns = reason.as_deref().is_some_and(|r| r.contains("DNS") || r.contains("dns"));
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            let offers = if offers_basic(headers) { "" } else { "; it offers no Basic, which is what egret speaks" };
            let detail = format!("{who} {} ({}){offers}", credential(parent), status.as_u16());
            Refused::final_(Code::NetRefused, detail, CREDENTIAL_FIX)
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE if dns => {
            Refused::elsewhere(Code::DnsFailed, format!("{who} could not resolve {target}: it answered {said}"))
        }
        StatusCode::GATEWAY_TIMEOUT => {
            Refused::elsewhere(Code::NetTimeout, format!("{who} could not reach {target} in time: it answered {said}"))
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::INTERNAL_SERVER_ERROR => {
            Refused::elsewhere(Code::NetUnreachable, format!("{who} could not reach {target}: it answered {said}"))
        }
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Refused::final_(
            Code::NetRefused,
            format!("{who} does not allow {target}: it answered {said}"),
            "allow it there (many proxies let CONNECT reach port 443 only), or name it in no_proxy of [egress] parent",
        ),
        StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::NOT_IMPLEMENTED
        | StatusCode::NOT_FOUND
        | StatusCode::BAD_REQUEST => Refused::final_(
            Code::NetRefused,
            format!("{who} does not take CONNECT to {target}: it answered {said}"),
            "check that url of [egress] parent is that of a forward proxy",
        ),
        _ => Refused::final_(Code::NetRefused, format!("{who} refused {target}: it answered {said}"), ITS_LOG),
    }
}

/// The parent's own word for its reason: `X-Squid-Error: ERR_DNS_FAIL 0`, or the error of `Proxy-Status` (RFC 9209
/// section 2.1.1). Only what can be nothing but such a word.
fn own_reason(headers: &HeaderMap) -> Option<String> {
    let word = |text: &str| {
        let word: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').take(64).collect();
        (!word.is_empty()).then_some(word)
    };
    let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    field("x-squid-error")
        .and_then(word)
        .or_else(|| field("proxy-status").and_then(|text| word(text.split_once("error=")?.1)))
}

fn offers_basic(headers: &HeaderMap) -> bool {
    let challenges = headers.get_all(http::header::PROXY_AUTHENTICATE);
    challenges.iter().any(|value| {
        value.as_bytes().to_ascii_lowercase().split(|b| matches!(b, b',' | b' ')).any(|scheme| scheme == b"basic")
    })
}

/// The connection ended, or what came on it is not HTTP.
pub(super) fn broken(parent: &Parent, target: impl fmt::Display, error: &hyper::Error) -> Refused {
    let who = parent.spoken();
    if error.is_parse() {
        let detail = format!("the answer of {who} to CONNECT {target} is not valid HTTP: {error}");
        return Refused::final_(
            Code::UpstreamMalformed,
            detail,
            "check that url of [egress] parent is that of an HTTP proxy",
        );
    }
    closed(parent, &target.to_string(), explain::io_kind(error))
}

fn closed(parent: &Parent, target: &str, kind: Option<io::ErrorKind>) -> Refused {
    let who = parent.spoken();
    match kind {
        Some(io::ErrorKind::TimedOut) => {
            Refused::final_(Code::NetTimeout, format!("{who} did not answer in time"), ITS_LOG)
        }
        _ => Refused::final_(
            Code::NetReset,
            format!("{who} closed the connection when it was asked for {target}"),
            "check that it speaks the protocol that url of [egress] parent says",
        ),
    }
}

/// No answer came.
pub(super) fn silent(parent: &Parent, target: impl fmt::Display, waited: Duration) -> Refused {
    let detail = format!("{} did not answer within {waited:?} when it was asked for {target}", parent.spoken());
    Refused::final_(Code::NetTimeout, detail, ITS_LOG)
}

pub(super) fn internal() -> Refused {
    Refused::final_(Code::Internal, "a tunnel is not of the type that was opened".to_owned(), "report it")
}

/// The replies of RFC 1928 section 6 and of RFC 1929 section 2.
pub(super) fn socks(parent: &Parent, target: impl fmt::Display, error: &SocksError) -> Refused {
    let who = parent.spoken();
    match error {
        SocksError::PasswordAuthFailure(_)
        | SocksError::NoAcceptableAuthMethods
        | SocksError::AuthorizationRequired => {
            Refused::final_(Code::NetRefused, format!("{who} {}", credential(parent)), CREDENTIAL_FIX)
        }
        SocksError::ConnectionNotAllowedByRuleset => Refused::final_(
            Code::NetRefused,
            format!("{who} does not allow {target} (SOCKS reply 2)"),
            "allow it there, or name it in no_proxy of [egress] parent",
        ),
        SocksError::ConnectionRefused => {
            Refused::elsewhere(Code::NetRefused, format!("{target} refused the connection of {who} (SOCKS reply 5)"))
        }
        SocksError::NetworkUnreachable => Refused::elsewhere(
            Code::NetUnreachable,
            format!("{who} has no route to the network of {target} (SOCKS reply 3)"),
        ),
        SocksError::HostUnreachable => Refused::elsewhere(
            Code::NetUnreachable,
            format!("{who} cannot reach {target} (SOCKS reply 4), or cannot resolve its name"),
        ),
        SocksError::TtlExpired => {
            Refused::elsewhere(Code::NetTimeout, format!("{who} did not reach {target} in time (SOCKS reply 6)"))
        }
        SocksError::GeneralSocksServerFailure => {
            Refused::elsewhere(Code::NetUnreachable, format!("{who} failed to reach {target} (SOCKS reply 1)"))
        }
        SocksError::AddressTypeNotSupported => Refused::elsewhere(
            Code::NetUnreachable,
            format!("{who} does not take the kind of address that {target} is (SOCKS reply 8)"),
        ),
        SocksError::CommandNotSupported => Refused::final_(
            Code::NetRefused,
            format!("{who} does not open connections (SOCKS reply 7)"),
            "let it allow the command CONNECT",
        ),
        SocksError::Io(error) => closed(parent, &target.to_string(), Some(error.kind())),
        _ => Refused::final_(
            Code::UpstreamMalformed,
            format!("the answer of {who} is not valid SOCKS5"),
            "check that url of [egress] parent is that of a SOCKS5 proxy",
        ),
    }
}

/// The parent's own TLS.
pub(super) fn tls(error: &io::Error, parent: &Parent) -> Failure {
    let who = parent.spoken();
    match explain::tls_error(error) {
        Some(TlsError::InvalidCertificate(CertificateError::UnknownIssuer)) => Failure::new(
            Code::TrustUnknownIssuer,
            format!("the certificate of {who} leads to no trust anchor that egret has for it"),
        )
        .fix("name the issuing CA in ca of that [egress] parent, or under [trust] anchors"),
        Some(TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => Failure::new(
            Code::TrustNameMismatch,
            format!("the certificate of {who} is not for the name {}", parent.host),
        )
        .fix("write the name that stands in its certificate into url of [egress] parent"),
        Some(TlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => Failure::new(Code::TrustServerExpired, format!("the certificate of {who} is outside its validity")),
        Some(TlsError::InvalidCertificate(other)) => {
            Failure::new(Code::TrustInvalid, format!("the certificate of {who} is invalid: {other}"))
        }
        Some(TlsError::AlertReceived(AlertDescription::CertificateRequired)) => Failure::new(
            Code::TlsProtocol,
            format!("{who} demands a client certificate, and egret shows none to a parent"),
        ),
        Some(other) => Failure::new(Code::TlsProtocol, format!("the TLS handshake with {who} failed: {other}"))
            .fix("write http:// in url of [egress] parent if it does not speak TLS"),
        None => closed(parent, "a TLS handshake", Some(error.kind())).failure,
    }
}

/// The parent's own name or address.
pub(super) fn of_own_name(mut failure: Failure, parent: &Parent) -> Failure {
    failure.detail = format!("{}: {}", parent.spoken(), failure.detail);
    failure.fix("check url of [egress] parent")
}
