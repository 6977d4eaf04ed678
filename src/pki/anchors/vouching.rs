//! CA bundles that vouch for servers of one project, each for those that its pattern covers.
//!
//! What must stay true:
//! - a bundle vouches for a server only in a handshake that [`towards`] says is with an origin that its pattern covers;
//!   outside of one it vouches for nobody;
//! - what such a handshake left behind (tickets) serves no other port of the same host: see [`Vouching::apart`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;

use super::{SharedAnchors, hash_all, is_ca, verifier};
use crate::domain::{Origin, Pattern, PortRule};

tokio::task_local! {
    static TOWARDS: Origin;
}

/// Makes a handshake with `origin`. rustls tells a verifier the name of the server and never its port, and a verifier per
/// connection would switch resumption off; so there is one per set of anchors, and whom it works for is found in a
/// task-local.
pub async fn towards<F: Future>(origin: Origin, handshake: F) -> F::Output {
    TOWARDS.scope(origin, handshake).await
}

/// The bundles of one project. Never changed, only replaced.
#[derive(Debug)]
pub struct Vouching {
    entries: Vec<Entry>,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Entry {
    pattern: Pattern,
    /// `None` if no certificate of the bundle can be an anchor.
    verifier: Option<Arc<WebPkiServerVerifier>>,
}

impl Vouching {
    /// No bundle: nobody is vouched for.
    #[must_use]
    pub fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<Vouching>> =
            LazyLock::new(|| Arc::new(Vouching { entries: Vec::new(), digest: digest_of(Vec::new()) }));
        NONE.clone()
    }

    /// SHA-256 over all of them: equal bundles for equal patterns, equal digest, in whatever order they were given.
    #[must_use]
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The port of `origin`, if a bundle vouches for this host on that very port: what is remembered by name without port
    /// then has to be kept apart from what other ports of the host left.
    #[must_use]
    pub fn apart(&self, origin: &Origin) -> Option<u16> {
        let bound_to_port = |pattern: &Pattern| match pattern {
            Pattern::Host(_, PortRule::Exact(_)) | Pattern::Wildcard(_, PortRule::Exact(_)) => pattern.covers(origin),
            Pattern::Default | Pattern::Host(_, PortRule::Any) | Pattern::Wildcard(_, PortRule::Any) => false,
        };
        self.entries.iter().any(|entry| bound_to_port(&entry.pattern)).then(|| origin.port())
    }

    /// The verifiers that apply to the handshake at hand.
    pub(super) fn at_hand(&self) -> Vec<&Arc<WebPkiServerVerifier>> {
        if self.entries.is_empty() {
            return Vec::new();
        }
        let covering = |origin: &Origin| {
            let covering = self.entries.iter().filter(|entry| entry.pattern.covers(origin));
            covering.filter_map(|entry| entry.verifier.as_ref()).collect()
        };
        TOWARDS.try_with(covering).unwrap_or_default()
    }
}

impl SharedAnchors {
    /// The bundles of a project, each with the servers that it vouches for. Certificates that are no CA vouch for nobody.
    #[must_use]
    pub fn vouching(&self, entries: &[(Pattern, Vec<CertificateDer<'static>>)]) -> Arc<Vouching> {
        if entries.is_empty() {
            return Vouching::none();
        }
        // One bundle may be bound to many patterns.
        let mut verifiers: HashMap<[u8; 32], Option<Arc<WebPkiServerVerifier>>> = HashMap::new();
        let mut digests = Vec::with_capacity(entries.len());
        let one = |(pattern, bundle): &(Pattern, Vec<CertificateDer<'static>>)| {
            let digest = hash_all(bundle);
            digests.push((pattern.to_string(), digest));
            let made = verifiers.entry(digest).or_insert_with(|| {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(bundle.iter().filter(|c| is_ca(c)).cloned());
                verifier(roots, &self.provider)
            });
            Entry { pattern: pattern.clone(), verifier: made.clone() }
        };
        let entries = entries.iter().map(one).collect();
        Arc::new(Vouching { entries, digest: digest_of(digests) })
    }
}

fn digest_of(mut entries: Vec<(String, [u8; 32])>) -> [u8; 32] {
    entries.sort_unstable();
    let mut hash = digest::Context::new(&digest::SHA256);
    for (pattern, bundle) in entries {
        hash.update(&u64::try_from(pattern.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(pattern.as_bytes());
        hash.update(&bundle);
    }
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests;
