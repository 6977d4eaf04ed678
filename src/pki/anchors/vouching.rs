//! CA bundles that vouch for servers of one project, each for those that its pattern covers.
//!
//! What must stay true:
//! - a bundle vouches for a server only in a handshake that [`towards`] says is with an origin that its pattern covers;
//!   outside of one it vouches for nobody;
//! - what such a handshake left behind (tickets) serves no other port of the same host: see [`Vouching::apart`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;

use super::{SharedAnchors, hash_all, is_ca, verifier};
use crate::domain::{CertificateId, Origin, Pattern, PortRule};
use crate::pki::names::issuer_of;

/// Certificates of a chain that nobody vouched for that are looked at, the server's own first.
const MAX_CHAIN: usize = 8;
/// Bytes of a name that is remembered of it.
const MAX_NAME: usize = 4096;

tokio::task_local! {
    static TOWARDS: Towards;
}

struct Towards {
    origin: Origin,
    /// Set if nobody vouched for the server.
    issuers: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// Makes a handshake with `origin`. If it fails because nobody vouches for the server's certificate, the second is whom
/// that and the certificates with it name as their issuers (DER), so that it can be told who could vouch.
///
/// rustls tells a verifier the name of the server and never its port, and a verifier per
/// connection would switch resumption off; so there is one per set of anchors, and whom it works for is found in a
/// task-local.
pub async fn towards<F: Future>(origin: Origin, handshake: F) -> (F::Output, Vec<Vec<u8>>) {
    let issuers = Arc::default();
    let output = TOWARDS.scope(Towards { origin, issuers: Arc::clone(&issuers) }, handshake).await;
    let issuers = std::mem::take(&mut *issuers.lock().expect("nothing panics while holding it"));
    (output, issuers)
}

/// Remembers whom a chain that nobody vouches for names as issuers. Whoever answers for an origin may write anything there.
pub(super) fn note_unknown(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) {
    let chain = [end_entity].into_iter().chain(intermediates).take(MAX_CHAIN);
    let mut issuers: Vec<_> = chain.filter_map(issuer_of).filter(|name| name.len() <= MAX_NAME).collect();
    issuers.dedup();
    // Outside of `towards` there is nobody to tell.
    let _ = TOWARDS.try_with(|at| *at.issuers.lock().expect("nothing panics while holding it") = issuers);
}

/// A CA bundle, and the servers that it vouches for.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Whose certificates they are; only told.
    pub id: CertificateId,
    /// Which servers.
    pub pattern: Pattern,
    /// Those that are no CA vouch for nobody.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The bundles of one project. Never changed, only replaced.
#[derive(Debug)]
pub struct Vouching {
    entries: Vec<Entry>,
    digest: [u8; 32],
}

#[derive(Debug)]
struct Entry {
    id: CertificateId,
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

    /// The bundles that vouch for the server of an origin, by id, each with the pattern that covers it.
    pub fn of(&self, origin: &Origin) -> impl Iterator<Item = (&CertificateId, &Pattern)> {
        let covering = self.entries.iter().filter(|entry| entry.pattern.covers(origin));
        covering.map(|entry| (&entry.id, &entry.pattern))
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
        let covering = |at: &Towards| {
            let covering = self.entries.iter().filter(|entry| entry.pattern.covers(&at.origin));
            covering.filter_map(|entry| entry.verifier.as_ref()).collect()
        };
        TOWARDS.try_with(covering).unwrap_or_default()
    }
}

impl SharedAnchors {
    /// The bundles of a project.
    #[must_use]
    pub fn vouching(&self, bundles: &[Bundle]) -> Arc<Vouching> {
        if bundles.is_empty() {
            return Vouching::none();
        }
        // One bundle may be bound to many patterns.
        let mut verifiers: HashMap<[u8; 32], Option<Arc<WebPkiServerVerifier>>> = HashMap::new();
        let mut digests = Vec::with_capacity(bundles.len());
        let one = |Bundle { id, pattern, certificates }: &Bundle| {
            let digest = hash_all(certificates);
            digests.push((pattern.to_string(), digest));
            let made = verifiers.entry(digest).or_insert_with(|| {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates.iter().filter(|c| is_ca(c)).cloned());
                verifier(roots, &self.provider)
            });
            Entry { id: id.clone(), pattern: pattern.clone(), verifier: made.clone() }
        };
        let entries = bundles.iter().map(one).collect();
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
