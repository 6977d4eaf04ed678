//! From the leaf to a certificate in `ca`: which certificate issued which, and in which order they are sent.
//!
//! A link is an issuer's name *and* its signature. The search is bounded in signatures checked, in steps and in
//! depth, so that no upload can make it long (a bundle of certificates that all could have issued each other).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use time::OffsetDateTime;

use super::certificate::Certificate;
use super::signature::{self, Checked};

/// Signatures checked for one upload.
const MAX_CHECKS: u32 = 512;
/// Steps of the search.
const MAX_STEPS: u32 = 512;
/// Certificates in one path.
const MAX_DEPTH: usize = 40;

/// A certificate of the upload, once, wherever it stands.
pub(super) struct Node<'a> {
    pub(super) certificate: Certificate<'a>,
    /// Its place in `cert`.
    pub(super) in_cert: Option<usize>,
    /// Its place in `ca`.
    pub(super) in_ca: Option<usize>,
}

/// Whether one certificate issued another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Name and signature.
    Signed,
    /// The name fits; the signature is of an algorithm that cannot be checked here.
    Unchecked,
    /// The name fits, the signature does not.
    NameOnly,
    /// Neither.
    None,
}

impl Link {
    fn holds(self) -> bool {
        matches!(self, Self::Signed | Self::Unchecked)
    }
}

/// All certificates of an upload and who issued whom.
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    links: RefCell<HashMap<(usize, usize), Link>>,
    checks: Cell<u32>,
}

/// A way from the leaf towards a root: indexes of nodes, each issued by the next.
#[derive(Debug, Clone)]
pub(super) struct Path {
    /// Leaf first.
    pub(super) nodes: Vec<usize>,
    /// Whether it leads to a certificate in `ca`.
    pub(super) anchored: bool,
    /// Whether it had to be put together in another order than `cert` has.
    pub(super) mended: bool,
}

impl<'a> Graph<'a> {
    pub(super) fn new(cert: Vec<Certificate<'a>>, ca: Vec<Certificate<'a>>) -> Self {
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(cert.len() + ca.len());
        for (place, certificate) in cert.into_iter().enumerate() {
            if !nodes.iter().any(|n| n.certificate.der == certificate.der) {
                nodes.push(Node { certificate, in_cert: Some(place), in_ca: None });
            }
        }
        for (place, certificate) in ca.into_iter().enumerate() {
            match nodes.iter_mut().find(|n| n.certificate.der == certificate.der) {
                Some(node) => node.in_ca = node.in_ca.or(Some(place)),
                None => nodes.push(Node { certificate, in_cert: None, in_ca: Some(place) }),
            }
        }
        Self { nodes, links: RefCell::default(), checks: Cell::new(0) }
    }

    /// Whether `issuer` issued `subject`.
    pub(super) fn link(&self, issuer: usize, subject: usize) -> Link {
        let (parent, child) = (&self.nodes[issuer].certificate, &self.nodes[subject].certificate);
        if parent.subject() != child.issuer() {
            return Link::None;
        }
        if let Some(known) = self.links.borrow().get(&(issuer, subject)) {
            return *known;
        }
        if self.checks.get() >= MAX_CHECKS {
            return Link::NameOnly;
        }
        self.checks.set(self.checks.get() + 1);
        let link = match signature::check(parent, child) {
            Checked::Good => Link::Signed,
            Checked::Unchecked => Link::Unchecked,
            Checked::Bad => Link::NameOnly,
        };
        self.links.borrow_mut().insert((issuer, subject), link);
        link
    }

    /// Whether a certificate was signed by its own key.
    pub(super) fn is_self_signed(&self, node: usize) -> bool {
        self.link(node, node).holds()
    }

    /// Whether a certificate in `ca` stands for `node`: itself, or one that issued it.
    fn is_anchored(&self, node: usize, leaf: usize) -> bool {
        // A leaf in `ca` vouches for itself only if it is self-signed: pasting the certificate twice is a mistake.
        (self.nodes[node].in_ca.is_some() && (node != leaf || self.is_self_signed(node)))
            || (0..self.nodes.len())
                .any(|issuer| issuer != leaf && self.nodes[issuer].in_ca.is_some() && self.link(issuer, node).holds())
    }

    /// The best way from `leaf`.
    pub(super) fn path(&self, leaf: usize, now: OffsetDateTime) -> Path {
        // What was uploaded in a right order stays in that order: a cross-signed root may be there for a reason.
        let uploaded: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].in_cert.is_some()).collect();
        let in_order = uploaded.first() == Some(&leaf)
            && uploaded.windows(2).all(|pair| self.link(pair[1], pair[0]).holds() && !self.is_self_signed(pair[0]));
        let start = if in_order { uploaded.clone() } else { vec![leaf] };
        let mut search = Search { graph: self, leaf, now, steps: 0, best: None };
        search.walk(&mut start.clone());
        let nodes = search.best.map_or(start, |(_, nodes)| nodes);
        let anchored = nodes.iter().any(|n| self.is_anchored(*n, leaf));
        Path { nodes, anchored, mended: !in_order }
    }
}

/// How good a way is; greater is better, the first field first.
type Score = (bool, bool, bool, bool, usize, isize);

struct Search<'g, 'a> {
    graph: &'g Graph<'a>,
    leaf: usize,
    now: OffsetDateTime,
    steps: u32,
    best: Option<(Score, Vec<usize>)>,
}

impl Search<'_, '_> {
    fn walk(&mut self, path: &mut Vec<usize>) {
        self.steps += 1;
        let last = *path.last().expect("a path begins with the leaf");
        let mut ended = true;
        if !self.graph.is_self_signed(last) && path.len() < MAX_DEPTH {
            for issuer in 0..self.graph.nodes.len() {
                if self.steps >= MAX_STEPS {
                    break;
                }
                if path.contains(&issuer) || !self.graph.link(issuer, last).holds() {
                    continue;
                }
                ended = false;
                path.push(issuer);
                self.walk(path);
                path.pop();
            }
        }
        if ended {
            let score = self.score(path);
            if self.best.as_ref().is_none_or(|(best, _)| score > *best) {
                self.best = Some((score, path.clone()));
            }
        }
    }

    fn score(&self, path: &[usize]) -> Score {
        let nodes = &self.graph.nodes;
        let anchored = path.iter().any(|n| self.graph.is_anchored(*n, self.leaf));
        let issuers_may = path.iter().skip(1).all(|n| nodes[*n].certificate.is_ca && nodes[*n].certificate.may_sign);
        let current = path.iter().all(|n| nodes[*n].certificate.is_current(self.now));
        let rooted = path.last().is_some_and(|last| self.graph.is_self_signed(*last));
        let from_cert = path.iter().filter(|n| nodes[**n].in_cert.is_some()).count();
        (anchored, issuers_may, current, rooted, from_cert, -isize::try_from(path.len()).unwrap_or(isize::MAX))
    }
}
