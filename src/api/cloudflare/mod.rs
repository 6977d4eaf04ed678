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
pub(super) mod envelope;
mod query;
mod scope;
pub(super) mod verify;
pub(super) mod zones;

/// Below it everything is in this dialect.
pub(super) const ROOT: &str = "/client/v4";

/// Whether a request for this path is in this dialect.
pub(super) fn is_asked(path: &str) -> bool {
    path.strip_prefix(ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
