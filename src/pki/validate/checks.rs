//! The rules for a chain: where it leads, dates, purposes, signatures, and whether its issuers may issue.

use std::fmt::Display;

use time::OffsetDateTime;

use super::certificate::{Certificate, PublicKey, Purpose};
use super::key::MIN_RSA;
use super::path::{Graph, Link, Path};
use super::signature::{self, Strength};
use super::{FaultKind, Field, Findings, Part, Remedy, position};
use crate::domain::time::rfc3339;
use crate::domain::{KeyKind, SKEW};

/// A client certificate with fewer days left than this gets a warning.
const SOON_DAYS: i64 = 30;

/// One upload's chain, under examination.
pub(super) struct Checks<'g, 'a> {
    pub(super) graph: &'g Graph<'a>,
    pub(super) path: &'g Path,
    pub(super) leaf: usize,
    /// Certificates in `cert` and in `ca`.
    pub(super) count: (usize, usize),
    pub(super) now: OffsetDateTime,
}

impl<'a> Checks<'_, 'a> {
    fn certificate(&self, node: usize) -> &Certificate<'a> {
        &self.graph.nodes[node].certificate
    }

    /// Where a certificate stands, for a fault: its field, and words.
    fn place(&self, node: usize) -> (Field, String) {
        let found = &self.graph.nodes[node];
        match (found.in_cert, found.in_ca) {
            (Some(_), _) if node == self.leaf => (Field::Cert, "the client certificate".to_owned()),
            (Some(place), _) => (Field::Cert, position(place, self.count.0)),
            (None, place) => (Field::Ca, position(place.unwrap_or_default(), self.count.1)),
        }
    }

    /// The chain must lead to a certificate in `ca`.
    pub(super) fn anchor(&self, findings: &mut Findings) {
        if self.path.anchored {
            return;
        }
        let top = *self.path.nodes.last().unwrap_or(&self.leaf);
        let in_ca: Vec<usize> = (0..self.graph.nodes.len()).filter(|n| self.graph.nodes[*n].in_ca.is_some()).collect();
        let only_leaf = in_ca == [self.leaf];
        let name_only = in_ca.iter().any(|n| self.path.nodes.iter().any(|p| self.graph.link(*n, *p) == Link::NameOnly));
        let (_, place) = self.place(top);
        let (what, remedy) = if only_leaf {
            (
                "this is the client certificate again, not the CA that issued it".to_owned(),
                "send the certificate of the CA; its name is: openssl x509 -in cert.pem -noout -issuer",
            )
        } else if name_only {
            (
                "a certificate here has the name of the issuer, but did not sign the chain; the CA has another key by now"
                    .to_owned(),
                "send the CA certificate that was valid when the client certificate was issued; this must succeed: openssl \
                 verify -partial_chain -CAfile ca.pem cert.pem",
            )
        } else if self.graph.is_self_signed(top) && top != self.leaf {
            (
                "the chain ends at a root that is not here".to_owned(),
                "add that root, the last certificate in cert, to ca",
            )
        } else if self.graph.is_self_signed(top) {
            (
                "the client certificate is self-signed and is not here".to_owned(),
                "send the same certificate as ca: cp cert.pem ca.pem",
            )
        } else {
            (
                format!("nothing here issued {place}, so the chain leads to no certificate in ca"),
                "add the CA certificate that is missing; its name is: openssl x509 -in cert.pem -noout -issuer",
            )
        };
        findings.soft(Field::Ca, FaultKind::Chain, what, remedy);
    }

    /// What is sent: the path without self-signed roots. Says what was changed.
    pub(super) fn choose(&self, findings: &mut Findings) -> Vec<usize> {
        let nodes = &self.graph.nodes;
        let mut chosen: Vec<usize> =
            self.path.nodes.iter().copied().filter(|n| *n == self.leaf || !self.graph.is_self_signed(*n)).collect();
        let uploaded: Vec<usize> = (0..nodes.len()).filter(|n| nodes[*n].in_cert.is_some()).collect();
        let beside: Vec<usize> = uploaded.iter().copied().filter(|n| !self.path.nodes.contains(n)).collect();
        if uploaded.iter().any(|n| *n != self.leaf && self.graph.is_self_signed(*n)) {
            findings.warnings.push("the self-signed root in the chain is not sent".to_owned());
        }
        let beside: Vec<usize> = beside.into_iter().filter(|n| !self.graph.is_self_signed(*n)).collect();
        let reordered = {
            let kept: Vec<usize> = chosen.iter().copied().filter(|n| nodes[*n].in_cert.is_some()).collect();
            !kept.is_sorted()
        };
        if self.path.mended && reordered {
            findings.warnings.push("the certificates were not in order and are sent in order".to_owned());
        }
        if !beside.is_empty() {
            if self.path.anchored {
                findings.warnings.push(format!(
                    "{} beside the chain did not issue anything in it and {} not sent",
                    counted(beside.len(), "certificate"),
                    if beside.len() == 1 { "is" } else { "are" }
                ));
            } else {
                // Nothing vouches for the chain, so nobody here knows better than whoever put it together.
                findings.soft(
                    Field::Cert,
                    FaultKind::Chain,
                    "the certificates do not form a chain",
                    "keep the client certificate first, then the certificate that issued it, and so on, and leave out what \
                     belongs to none of them",
                );
                chosen.extend(beside);
            }
        }
        let completed = chosen.iter().filter(|n| nodes[**n].in_cert.is_none()).count();
        if completed > 0 {
            findings.warnings.push(format!("{} from ca complete the chain", counted(completed, "intermediate")));
        }
        chosen
    }

    /// All that is sent must be within its validity; an anchor that has expired is only worth a warning.
    pub(super) fn dates(&self, chosen: &[usize], findings: &mut Findings) {
        for node in chosen {
            let certificate = self.certificate(*node);
            let (field, place) = self.place(*node);
            let (from, until) = (certificate.not_before(), certificate.not_after());
            if from > until {
                findings.soft(
                    field,
                    FaultKind::Unusable,
                    format!("{place} ends ({}) before it begins ({})", rfc3339(until), rfc3339(from)),
                    "have a new one issued",
                );
            } else if self.now.saturating_sub(SKEW) > until {
                findings.soft(
                    field,
                    FaultKind::Expired,
                    format!("{place} expired at {}", rfc3339(until)),
                    Remedy::from([
                        "send a renewed one".into(),
                        Part::Skip(", or ", " to send an expired certificate all the same"),
                    ]),
                );
            } else if self.now.saturating_add(SKEW) < from {
                findings.soft(
                    field,
                    FaultKind::NotYetValid,
                    format!("{place} is not valid before {}", rfc3339(from)),
                    Remedy::from(["upload it then".into(), Part::Skip(", or ", " to send it all the same")]),
                );
            } else if *node == self.leaf {
                self.warn_soon(until, findings);
            }
        }
        for node in self.path.nodes.iter().filter(|n| !chosen.contains(n)) {
            if !self.certificate(*node).is_current(self.now) {
                let (field, place) = self.place(*node);
                findings.warnings.push(format!(
                    "{field}: {place}, which the chain leads to, is outside its validity ({} to {})",
                    rfc3339(self.certificate(*node).not_before()),
                    rfc3339(self.certificate(*node).not_after())
                ));
            }
        }
    }

    fn warn_soon(&self, until: OffsetDateTime, findings: &mut Findings) {
        let days = (until - self.now).whole_seconds().div_euclid(86_400);
        if days < SOON_DAYS {
            let left = match days {
                ..=0 => "less than a day".to_owned(),
                days => counted(usize::try_from(days).unwrap_or_default(), "day"),
            };
            findings.warnings.push(format!("the client certificate expires at {}: {left} left", rfc3339(until)));
        }
    }

    /// The leaf must be allowed to authenticate a client, and so must what issued it, if it says anything.
    pub(super) fn purposes(&self, chosen: &[usize], findings: &mut Findings) {
        for node in chosen {
            let (field, place) = self.place(*node);
            match self.certificate(*node).purpose {
                Purpose::Client => {}
                Purpose::ServerOnly => findings.soft(
                    field,
                    FaultKind::Unusable,
                    format!(
                        "{place} is for servers only (extended key usage serverAuth without clientAuth); public CAs stopped \
                         issuing clientAuth in 2026"
                    ),
                    "have a certificate with clientAuth issued by a private CA, or by the CA that the origin names: openssl \
                     x509 -in cert.pem -noout -ext extendedKeyUsage shows what it allows",
                ),
                Purpose::Neither => findings.soft(
                    field,
                    FaultKind::Unusable,
                    format!("{place} may not authenticate a TLS client (its extended key usage has no clientAuth)"),
                    "have a certificate with clientAuth issued: openssl x509 -in cert.pem -noout -ext extendedKeyUsage shows \
                     what it allows",
                ),
            }
        }
        if !self.certificate(self.leaf).may_authenticate {
            findings.warnings.push(
                "the client certificate's key usage lacks digitalSignature; some servers refuse it for that".to_owned(),
            );
        }
    }

    /// No signature of what is sent may rest on a digest for which collisions can be made.
    pub(super) fn signatures(&self, chosen: &[usize], findings: &mut Findings) {
        for node in chosen {
            let (field, place) = self.place(*node);
            match signature::strength(self.certificate(*node)) {
                Strength::Strong => {}
                Strength::Weak(digest) => findings.soft(
                    field,
                    FaultKind::Unusable,
                    format!("{place} is signed with {digest}, which servers refuse"),
                    "have it issued again with SHA-256: openssl x509 -req -sha256 does so",
                ),
                Strength::Unknown => findings.soft(
                    field,
                    FaultKind::Unusable,
                    format!("{place} is signed with an algorithm that egret cannot check"),
                    "have it issued with RSA and SHA-256, ECDSA or Ed25519: openssl x509 -in cert.pem -noout -text shows the \
                     algorithm",
                ),
            }
        }
    }

    /// Whatever issued something in the path must be a CA, with a strong key, and allow a path of that length.
    pub(super) fn issuers(&self, findings: &mut Findings) {
        for (below, node) in self.path.nodes.iter().enumerate().skip(1) {
            let certificate = self.certificate(*node);
            let (field, place) = self.place(*node);
            let mut fault = |what: &str| {
                findings.soft(
                    field,
                    FaultKind::Chain,
                    format!("{place} {what}"),
                    "send the CA that issued the certificate; this must succeed: openssl verify -partial_chain -CAfile ca.pem \
                     cert.pem",
                );
            };
            if !certificate.is_ca {
                fault("issued another one, but is no CA certificate (its basic constraints lack CA:TRUE)");
            } else if !certificate.may_sign {
                fault("issued another one, but may not (its key usage lacks keyCertSign)");
            }
            // RFC 5280 section 4.2.1.9: intermediates between it and the leaf, self-issued ones not counted.
            let between = self.path.nodes[1..below]
                .iter()
                .filter(|n| self.certificate(**n).subject() != self.certificate(**n).issuer())
                .count();
            if certificate.path_length.is_some_and(|most| usize::try_from(most).is_ok_and(|most| between > most)) {
                fault("allows fewer intermediates below it than there are (its path length)");
            }
            match certificate.public_key {
                PublicKey::Known(KeyKind::Rsa(bits)) if bits < MIN_RSA => {
                    fault(&format!("has a weak RSA key: {bits} bits; at least {MIN_RSA} are needed"));
                }
                _ => {}
            }
        }
    }
}

/// "1 day", "2 days".
fn counted(count: usize, noun: impl Display) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}
