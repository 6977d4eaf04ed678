//! Cloudflare's dialect, under `/client/v4`: account mTLS certificates and origin pulls, as the vendor's SDKs call them.
//!
//! What must stay true:
//!
//! - whatever fails below [`ROOT`] is answered in the dialect's envelope, and never with a 2xx: the SDKs take one for
//!   success;
//! - no refusal that a second try cannot mend has the status 408, 409, 429 or one above 499: the SDKs try those again;
//! - unknown fields and parameters are ignored, wrong ones are not: scripts that work at the vendor's go on working.

pub(super) mod accounts;
mod bodies;
pub(super) mod codes;
mod documents;
pub(super) mod envelope;
pub(super) mod hostname_certificates;
pub(super) mod hostnames;
pub(super) mod mtls_certificates;
mod query;
mod refused;
mod retry;
mod scope;
mod shapes;
pub(super) mod verify;
pub(super) mod zone_certificates;
pub(super) mod zones;

use super::problem::Problem;
use crate::domain::{CertificateId, Holder};

/// Below it everything is in this dialect.
pub(super) const ROOT: &str = "/client/v4";

/// Whether a request for this path is in this dialect.
pub(super) fn is_asked(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The certificate of a path.
///
/// # Errors
/// 404 for what is no id: no certificate of the list has it.
fn path_id(text: &str, list: Holder) -> Result<CertificateId, Problem> {
    let id = bodies::read_id(text).as_deref().and_then(CertificateId::parse);
    id.ok_or_else(|| refused::no_certificate(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_its_paths_from_others() {
        for path in ["/client/v4", "/client/v4/", "/client/v4/zones", "/client/v4/no/where"] {
            assert!(is_asked(path), "{path}");
        }
        for path in ["/", "/client", "/client/v40", "/client/v4x/zones", "/v1/client/v4/zones", "//client/v4"] {
            assert!(!is_asked(path), "{path}");
        }
    }
}
