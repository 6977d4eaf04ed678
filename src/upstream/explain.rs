//! From an error to a code: who refused whom, and what to do.
//!
//! In TLS 1.3 a refused or missing client certificate shows only after the handshake looks complete
//! (RFC 8446 section 4.4.2.4: the server's alert follows the client's Finished), so the first read
//! is treated as part of the handshake here.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};

use super::Failure;
use crate::domain::{Code, Origin};
use crate::identity::{Asked, Presented};

/// The rustls error inside a chain of sources.
pub(super) fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a TlsError> {
    let mut next = Some(error);
    while let Some(at) = next {
        if let Some(found) = at.downcast_ref::<TlsError>() {
            return Some(found);
        }
        if let Some(inner) = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            if let Some(found) = inner.downcast_ref::<TlsError>() {
                return Some(found);
            }
            next = inner.source();
        } else {
            next = at.source();
        }
    }
    None
}

/// Whether an alert by which an origin refuses a client certificate (RFC 8446 section 6.2) says that the certificate
/// itself is the reason.
pub(super) fn is_about_the_certificate(alert: u8) -> bool {
    use AlertDescription as A;
    matches!(
        AlertDescription::from(alert),
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired
    )
}

/// The kind of the first io error in a chain of sources.
pub(super) fn io_kind(error: &(dyn StdError + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(at) = next {
        if let Some(found) = at.downcast_ref::<io::Error>() {
            return Some(found.kind());
        }
        next = at.source();
    }
    None
}

/// The HTTP/2 error inside a chain of sources.
fn h2_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a h2::Error> {
    let mut next = Some(error);
    while let Some(at) = next {
        if let Some(found) = at.downcast_ref::<h2::Error>() {
            return Some(found);
        }
        next = at.source();
    }
    None
}

/// Whether the origin says itself that it has not looked at the request: its stream is above a GOAWAY's last one
/// (RFC 9113 section 6.8; h2 gives that error to no other stream), or was refused (section 8.7).
pub(super) fn is_untouched(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|e| {
        let refused = matches!(e.reason(), Some(h2::Reason::REFUSED_STREAM | h2::Reason::HTTP_1_1_REQUIRED));
        e.is_remote() && (e.is_go_away() || (e.is_reset() && refused))
    })
}

/// Whether the origin wants the request over HTTP/1.1 (RFC 9113 section 7).
pub(super) fn wants_http1(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|e| e.is_remote() && e.reason() == Some(h2::Reason::HTTP_1_1_REQUIRED))
}

/// Whether the connection ended before a byte of the response.
pub(super) fn is_silent_end(error: &hyper::Error, silent: bool, multiplexed: bool) -> bool {
    if error.is_parse() || error.is_user() {
        return false;
    }
    // On HTTP/2 bytes of other streams may have come; a stream that was reset was looked at.
    if multiplexed { h2_error(error).is_none_or(h2::Error::is_io) } else { silent }
}

/// What is wrong with an answer that is no valid HTTP, or with a stream that the origin gave up.
pub(super) fn http(error: &hyper::Error, to: &dyn std::fmt::Display) -> Option<Failure> {
    if error.is_parse() {
        return Some(Failure::new(Code::UpstreamMalformed, format!("the answer of {to} is not valid HTTP: {error}")));
    }
    let error = h2_error(error).filter(|e| !e.is_io())?;
    let what = error.reason().map_or_else(|| "without a reason".to_owned(), |r| r.to_string());
    if error.is_library() {
        return Some(Failure::new(Code::UpstreamMalformed, format!("the answer of {to} is not valid HTTP/2: {what}")));
    }
    let did = if error.is_go_away() { "closed the connection" } else { "gave the request's stream up" };
    Some(Failure::new(Code::NetReset, format!("{to} {did} before it answered: {what}")))
}

/// A TCP connect that failed.
pub(super) fn connect(error: &io::Error, to: &str) -> Failure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::new(Code::NetRefused, format!("{to} refused the connection")),
        io::ErrorKind::TimedOut => Failure::new(Code::NetTimeout, format!("{to} did not accept a connection in time")),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
            Failure::new(Code::NetUnreachable, format!("there is no route to {to}"))
        }
        io::ErrorKind::ConnectionReset => Failure::new(Code::NetReset, format!("{to} reset the connection")),
        _ => Failure::new(Code::NetUnreachable, format!("{to} could not be reached: {error}")),
    }
}

/// A handshake, or a connection before its first response byte, that failed.
pub(super) fn tls(error: &(dyn StdError + 'static), asked: Option<&Asked>, origin: &Origin) -> Failure {
    match tls_error(error) {
        Some(TlsError::AlertReceived(alert)) => alerted(*alert, asked, origin),
        Some(TlsError::InvalidCertificate(why)) => distrusted(why, origin),
        Some(TlsError::NoCertificatesPresented) => {
            Failure::new(Code::TrustInvalid, format!("{origin} presented no certificate"))
        }
        Some(other) => Failure::new(Code::TlsProtocol, format!("the TLS handshake with {origin} failed: {other}")),
        None => closed(error, asked, origin),
    }
}

/// The same where TLS 1.3 alone was offered, and nothing was asked: an origin that has no TLS 1.3 says so by an alert
/// (RFC 8446 section 4.2.1, appendix D), or answers in TLS 1.2 all the same.
pub(super) fn tls13_only(error: &(dyn StdError + 'static), origin: &Origin) -> Option<Failure> {
    let alert = match tls_error(error)? {
        TlsError::AlertReceived(
            alert @ (AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity),
        ) => Some(*alert),
        TlsError::PeerIncompatible(_) => None,
        _ => return None,
    };
    let said = alert.map(|alert| format!(" (it ended the handshake with alert {})", alert_name(alert)));
    let mut failure = Failure::new(
        Code::TlsProtocol,
        format!(
            "the binding presents its certificate over TLS 1.3 only, and no TLS 1.3 could be agreed on with {origin}{}; no certificate was sent",
            said.unwrap_or_default()
        ),
    );
    failure.facts.alert = alert.map(u8::from);
    failure.facts.tls13_only = true;
    Some(failure)
}

/// A close or reset without an alert.
pub(super) fn closed(error: &(dyn StdError + 'static), asked: Option<&Asked>, origin: &Origin) -> Failure {
    match asked.map(|a| a.presented) {
        Some(Presented::Sent) => Failure::new(
            Code::MtlsClosedAfterCertificate,
            format!(
                "{origin} asked for a client certificate, was sent one, and closed the connection; likely it does not accept that certificate"
            ),
        ),
        Some(presented) => missing(presented, origin),
        None => match io_kind(error) {
            Some(io::ErrorKind::TimedOut) => Failure::new(Code::NetTimeout, format!("{origin} did not answer in time")),
            _ => Failure::new(Code::NetReset, format!("{origin} closed the connection before it answered")),
        },
    }
}

/// The origin wants a certificate and got none.
pub(super) fn missing(presented: Presented, origin: &Origin) -> Failure {
    match presented {
        Presented::Withheld => Failure::new(
            Code::MtlsRequiredWithheld,
            format!("{origin} demands a client certificate; the project-wide one was withheld, because the CAs that the origin accepts did not issue it or the project's default.scope does not allow it"),
        )
        .fix(format!("bind the certificate to this origin: egret certs upload --origin {origin} --cert FILE --key FILE --ca FILE")),
        Presented::NoCommonScheme => Failure::new(
            Code::MtlsNoCommonSignatureScheme,
            format!("{origin} accepts none of the signatures that the certificate's key can make"),
        )
        .fix("register a certificate with another kind of key (P-256 is accepted nearly everywhere)"),
        Presented::Sent | Presented::NothingRegistered => Failure::new(
            Code::MtlsRequiredNoneRegistered,
            format!("{origin} demands a client certificate and none is registered for it"),
        )
        .fix(format!("egret certs upload --origin {origin} --cert FILE --key FILE --ca FILE")),
    }
}

fn alerted(alert: AlertDescription, asked: Option<&Asked>, origin: &Origin) -> Failure {
    use AlertDescription as A;
    let presented = asked.map(|a| a.presented);
    let sent = presented == Some(Presented::Sent);
    let certificate_alert = matches!(
        alert,
        A::CertificateRequired
            | A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::HandshakeFailure
            | A::DecryptError
    );
    let mut failure = match (certificate_alert, presented) {
        // Asked, nothing sent, and then a refusal: TLS 1.2 has no alert of its own for it (RFC 5246 section 7.4.6).
        (true, Some(presented)) if !sent => missing(presented, origin),
        (true, Some(_)) => {
            let (code, what) = match alert {
                A::UnknownCA => {
                    (Code::MtlsRejectedUnknownCa, "does not know the CA that issued the client certificate")
                }
                A::CertificateExpired => (Code::MtlsRejectedExpired, "says that the client certificate has expired"),
                A::CertificateRevoked => (Code::MtlsRejectedRevoked, "says that the client certificate is revoked"),
                A::HandshakeFailure => (
                    Code::MtlsClosedAfterCertificate,
                    "ended the handshake after the client certificate was sent; likely it does not accept that certificate",
                ),
                _ => (Code::MtlsRejectedBadCertificate, "refused the client certificate"),
            };
            Failure::new(code, format!("{origin} {what}"))
        }
        (true, None) if alert == A::CertificateRequired => missing(Presented::NothingRegistered, origin),
        _ => Failure::new(
            Code::TlsProtocol,
            format!("{origin} ended the TLS handshake with alert {}", alert_name(alert)),
        ),
    };
    failure.facts.alert = Some(u8::from(alert));
    failure
}

fn alert_name(alert: AlertDescription) -> String {
    format!("{} ({alert:?})", u8::from(alert))
}

fn distrusted(why: &CertificateError, origin: &Origin) -> Failure {
    let host = origin.host();
    match why {
        CertificateError::UnknownIssuer => Failure::new(
            Code::TrustUnknownIssuer,
            format!("the certificate of {origin} leads to no trust anchor that egret has for it"),
        )
        .fix("name the issuing CA under [trust] anchors, or bind the client certificate to this origin with that CA in its ca"),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Failure::new(
            Code::TrustNameMismatch,
            format!("the certificate of {origin} is not for the name {host}"),
        ),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            Failure::new(Code::TrustServerExpired, format!("the certificate of {origin} is outside its validity"))
        }
        other => Failure::new(Code::TrustInvalid, format!("the certificate of {origin} is invalid: {other}")),
    }
}
