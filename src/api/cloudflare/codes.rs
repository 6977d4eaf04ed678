//! The numbers of the envelope's errors, in one place; none is below 1000.
//!
//! Where the vendor's number is known, it is that one. Marks: O = seen at the live service by others, D = the vendor's
//! documents, A = by analogy with the vendor's custom certificates. What the vendor has no known number for is 10000 + the
//! status, which is how it numbers some itself (10405).

use http::StatusCode;

use crate::pki::validate::FaultKind;

/// 401, 403: who calls, or what the token does not reach (O).
pub(in crate::api) const AUTHENTICATION: u16 = 10000;
/// No such path; no such zone or account, or an id of another form (D).
pub(in crate::api) const NO_ROUTE: u16 = 7003;

/// Not an error: something worth saying beside a success.
pub(super) const NOTICE: u16 = 1000;
/// A certificate's id is wanted and not there (O).
pub(super) const ID_WANTED: u16 = 1404;
/// The same certificate is in the list of the zone (O).
pub(super) const ALREADY_IN_ZONE: u16 = 1406;
/// No certificate can be read there (O).
pub(super) const UNPARSABLE: u16 = 1408;
/// A CA certificate is wanted (A).
pub(super) const CA_WANTED: u16 = 1411;
/// The certificate was deleted, and is on its way out (O).
pub(super) const PENDING_DELETION: u16 = 1414;
/// No certificate that can be named here: no id, deleted, or of another list (O).
pub(super) const NOT_NAMEABLE: u16 = 1415;
/// The certificate is in use (O for hostname certificates; the number for account certificates is not known).
pub(super) const IN_USE: u16 = 1433;
/// The same certificate is in the account (O).
pub(super) const ALREADY_IN_ACCOUNT: u16 = 1471;
/// No such certificate in the account (O).
pub(super) const NOT_IN_ACCOUNT: u16 = 1472;
/// No such hostname certificate in the zone (O).
pub(super) const NO_HOSTNAME_CERTIFICATE: u16 = 1551;
/// No such zone certificate in the zone (O).
pub(super) const NO_ZONE_CERTIFICATE: u16 = 1552;
/// The hostname has no association (O).
pub(super) const NO_ASSOCIATION: u16 = 1553;
/// The certificate can be read and cannot be used: its dates, its purpose (A).
const UNUSABLE: u16 = 1002;
/// There are as many as a limit allows (A).
pub(super) const QUOTA: u16 = 2005;
/// The certificates form no chain (A).
const CHAIN: u16 = 2100;
/// There is no leaf among the certificates (A).
const NO_LEAF: u16 = 2101;
/// The private key cannot be used (A).
const KEY_INVALID: u16 = 2106;
/// The private key is another certificate's (A).
const KEY_MISMATCH: u16 = 2200;

/// The number of what is wrong with a certificate or a key.
pub(super) fn of_fault(kind: FaultKind) -> u16 {
    match kind {
        FaultKind::Unparsable => UNPARSABLE,
        FaultKind::NoLeaf => NO_LEAF,
        FaultKind::CaWanted => CA_WANTED,
        FaultKind::KeyInvalid => KEY_INVALID,
        FaultKind::KeyMismatch => KEY_MISMATCH,
        FaultKind::Chain => CHAIN,
        FaultKind::Expired | FaultKind::NotYetValid | FaultKind::Unusable => UNUSABLE,
    }
}

/// The number of a refusal with this status that has none of its own.
pub(in crate::api) fn of(status: StatusCode) -> u16 {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => AUTHENTICATION,
        StatusCode::NOT_FOUND => NO_ROUTE,
        other => 10_000 + other.as_u16(),
    }
}
