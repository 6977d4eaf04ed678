//! What a project means right now. Never changed, only replaced.
//!
//! Invariants:
//! - [`Snapshot::select`] allocates nothing (unless a damaged record is at stake) and reads immutable data only;
//! - a snapshot shares every shard with its predecessor that the change did not touch;
//! - a damaged binding never falls through to a less specific one: see [`SnapshotEdit::quarantine`];
//! - the snapshot of a removed project is empty, and nothing can be selected from it but ordinary TLS of a retired object.

mod layers;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::binding::{Binding, Certificate, Target};
use super::roster::Roster;
use super::table::Table;
use crate::domain::{CertificateId, Host, Origin, Pattern, PortRule, ProjectInfo, Rule};
use crate::identity::UpstreamTls;
use crate::pki::anchors::Vouching;

/// What [`Snapshot::select`] answers.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The objects for the handshake. For *none*, nothing, unavailable and withheld-by-list: the project's anonymous one.
    pub tls: Arc<UpstreamTls>,
    /// The rule that chose.
    pub rule: Rule,
    /// The binding that chose, unless it is [`Rule::Nothing`].
    pub binding: Option<Arc<Binding>>,
}

/// Names a binding's record by its pattern's text, as the store does.
pub type RecordName = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Binding records that could not be opened. Which pattern each one was for is not known, only the keyed hash of it.
#[derive(Clone)]
struct Quarantine {
    names: HashSet<String>,
    name_of: RecordName,
}

impl Quarantine {
    fn holds(&self, pattern: &Pattern) -> bool {
        self.names.contains(&(self.name_of)(&pattern.to_string()))
    }
}

/// The bindings of one host or of one wildcard suffix: exact ports first, port `*` last.
type Ports = Arc<[(PortRule, Arc<Binding>)]>;

/// What a project means right now.
#[derive(Clone)]
pub struct Snapshot {
    revision: u64,
    info: Arc<ProjectInfo>,
    anonymous: Arc<UpstreamTls>,
    /// What was bound to the project-wide place.
    default: Option<Arc<Binding>>,
    /// What the zone presents there; see `layers`.
    zone: Option<Arc<Binding>>,
    /// The one of these two that is in force.
    wide: Option<Arc<Binding>>,
    /// By host, as in an authority.
    exact: Table<Ports>,
    /// By suffix: a star stands for exactly one label, so one suffix can match at most.
    wildcard: Table<Ports>,
    /// How many bindings `exact`, `wildcard` and `default` hold.
    len: usize,
    certificates: Table<Arc<Certificate>>,
    /// Certificate id -> the patterns that name it.
    uses: Table<Arc<BTreeSet<Pattern>>>,
    roster: Arc<Roster>,
    quarantine: Option<Arc<Quarantine>>,
    /// Who vouches for servers beside the anchors of all: what every object of this snapshot was made with.
    vouching: Arc<Vouching>,
    removed: bool,
}

impl Snapshot {
    /// A project without bindings. `anonymous` is used where no certificate is presented.
    #[must_use]
    pub fn empty(info: Arc<ProjectInfo>, anonymous: Arc<UpstreamTls>) -> Self {
        Self {
            revision: 0,
            info,
            anonymous,
            default: None,
            zone: None,
            wide: None,
            exact: Table::default(),
            wildcard: Table::default(),
            len: 0,
            certificates: Table::default(),
            uses: Table::default(),
            roster: Arc::default(),
            quarantine: None,
            vouching: Vouching::none(),
            removed: false,
        }
    }

    /// What the holders of a removed project are left with: no bindings, and [`Snapshot::is_removed`].
    pub(super) fn removed(&self) -> Self {
        let empty = Self::empty(self.info.clone(), self.anonymous.clone());
        Self { revision: self.revision + 1, removed: true, ..empty }
    }

    /// Grows by one with every published change.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is known of the project.
    #[must_use]
    pub fn info(&self) -> &Arc<ProjectInfo> {
        &self.info
    }

    /// The CA bundles that vouch for servers: what every object of this snapshot was made with.
    #[must_use]
    pub fn vouching(&self) -> &Arc<Vouching> {
        &self.vouching
    }

    /// Ordinary TLS with this project's trust.
    #[must_use]
    pub fn anonymous(&self) -> &Arc<UpstreamTls> {
        &self.anonymous
    }

    /// Whether the project was deleted. Whoever still holds it refuses every request and every change.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed
    }

    /// The first rule that matches (product.md section 2): exact host and port; exact host, port `*`; wildcard, exact
    /// port; wildcard, port `*`; default (unless its scope lists origins and this is none of them: then `Rule::Nothing`); nothing.
    #[must_use]
    pub fn select(&self, origin: &Origin) -> Selection {
        if let Some(quarantine) = &self.quarantine {
            return self.select_beside(quarantine, origin);
        }
        let port = origin.port();
        self.exact
            .get(origin.host().as_str())
            .and_then(|ports| covering(ports, port))
            .or_else(|| {
                let ports = self.wildcard.get(origin.host().parent()?)?;
                covering(ports, port)
            })
            .or_else(|| self.wide.as_ref().filter(|_| !self.info.default_scope.excludes(origin)))
            .map_or_else(|| self.nothing(), |binding| self.selected(binding.clone()))
    }

    /// The same where records are damaged: slot by slot, since a damaged one must not fall through.
    fn select_beside(&self, quarantine: &Quarantine, origin: &Origin) -> Selection {
        let host = origin.host();
        let rules = [PortRule::Exact(origin.port()), PortRule::Any];
        let exact = rules.map(|port| Some(Pattern::Host(host.clone(), port)));
        let wildcard = rules.map(|port| host.parent().map(|suffix| Pattern::Wildcard(suffix.into(), port)));
        let default = (!self.info.default_scope.excludes(origin)).then_some(Pattern::Default);
        for pattern in exact.into_iter().chain(wildcard).chain([default]).flatten() {
            if quarantine.holds(&pattern) {
                return self.selected(Arc::new(Binding::damaged(pattern)));
            }
            if let Some(binding) = self.in_force(&pattern) {
                return self.selected(binding);
            }
        }
        self.nothing()
    }

    fn nothing(&self) -> Selection {
        Selection { tls: self.anonymous.clone(), rule: Rule::Nothing, binding: None }
    }

    fn selected(&self, binding: Arc<Binding>) -> Selection {
        let rule = if matches!(binding.target, Target::None) { Rule::None } else { binding.pattern.rule() };
        let tls = binding.tls().unwrap_or(&self.anonymous).clone();
        Selection { tls, rule, binding: Some(binding) }
    }

    /// The binding that was written for exactly this pattern; see [`Snapshot::in_force`].
    #[must_use]
    pub fn binding(&self, pattern: &Pattern) -> Option<Arc<Binding>> {
        let (ports, rule) = match pattern {
            Pattern::Default => return self.default.clone(),
            Pattern::Host(host, rule) => (self.exact.get(host.as_str())?, rule),
            Pattern::Wildcard(suffix, rule) => (self.wildcard.get(suffix)?, rule),
        };
        let at = ports.binary_search_by_key(rule, |(rule, _)| *rule).ok()?;
        Some(ports[at].1.clone())
    }

    /// The bindings of this host, whatever their port.
    pub(super) fn on_any_port(&self, host: &Host) -> Vec<Arc<Binding>> {
        self.exact.get(host.as_str()).map(|ports| ports.iter().map(|(_, b)| b.clone()).collect()).unwrap_or_default()
    }

    /// The wildcards directly above the labels of this suffix, whatever their port.
    pub(super) fn below(&self, suffix: &str) -> Vec<Arc<Binding>> {
        self.wildcard.get(suffix).map(|ports| ports.iter().map(|(_, b)| b.clone()).collect()).unwrap_or_default()
    }

    /// All bindings, by pattern: the project-wide ones first, of which the one in front is in force.
    #[must_use]
    pub fn bindings(&self) -> Vec<Arc<Binding>> {
        let tables = self.exact.values().chain(self.wildcard.values());
        let wide = self.wide.iter().chain(self.covered()).cloned();
        let mut all: Vec<_> = wide.chain(tables.flat_map(|ports| ports.iter().map(|(_, b)| b.clone()))).collect();
        all.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        all
    }

    /// The bindings that name this certificate, usable or not, in the order of [`Snapshot::bindings`].
    #[must_use]
    pub fn bindings_of(&self, id: &CertificateId) -> Vec<Arc<Binding>> {
        self.uses
            .get(id.as_str())
            .map(|patterns| patterns.iter().filter_map(|pattern| self.naming(pattern, id)).collect())
            .unwrap_or_default()
    }

    /// Whether a binding of the same certificate beside `binding` uses this object.
    #[must_use]
    pub fn is_used_beside(&self, binding: &Binding, tls: &Arc<UpstreamTls>) -> bool {
        let Some(id) = binding.target.certificate_id() else { return false };
        let uses = |other: &Arc<Binding>| {
            other.pattern != binding.pattern && other.tls().is_some_and(|used| Arc::ptr_eq(used, tls))
        };
        self.bindings_of(id).iter().any(uses)
    }

    /// Whether a binding names this certificate.
    #[must_use]
    pub fn is_bound(&self, id: &CertificateId) -> bool {
        self.uses.get(id.as_str()).is_some()
    }

    /// Whether the record of this pattern's binding is damaged, so that nobody knows what it said.
    #[must_use]
    pub fn is_quarantined(&self, pattern: &Pattern) -> bool {
        self.quarantine.as_ref().is_some_and(|quarantine| quarantine.holds(pattern))
    }

    /// How many bindings there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len + usize::from(self.zone.is_some())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A certificate by id, bound or not.
    #[must_use]
    pub fn certificate(&self, id: &CertificateId) -> Option<Arc<Certificate>> {
        self.certificates.get(id.as_str()).cloned()
    }

    /// All certificates, by id.
    #[must_use]
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        let mut all: Vec<_> = self.certificates.values().cloned().collect();
        all.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
        all
    }

    /// Those that are selected somewhere ([`Snapshot::is_presented`]), in no order.
    pub fn presented_certificates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.certificates.values().filter(|certificate| self.is_presented(&certificate.info.id))
    }

    /// Begins the next snapshot; shares every shard that is not touched.
    #[must_use]
    pub fn edit(&self) -> SnapshotEdit {
        SnapshotEdit { next: self.clone() }
    }
}

/// `ports` is in order, so the rule for every port can only be the last.
fn covering(ports: &Ports, port: u16) -> Option<&Arc<Binding>> {
    match ports.binary_search_by_key(&PortRule::Exact(port), |(rule, _)| *rule) {
        Ok(at) => Some(&ports[at].1),
        Err(_) => ports.last().filter(|(rule, _)| *rule == PortRule::Any).map(|(_, binding)| binding),
    }
}

/// The next snapshot in the making.
pub struct SnapshotEdit {
    next: Snapshot,
}

impl SnapshotEdit {
    /// Sets a binding; gives back the one it displaced. A damaged record of the same pattern is forgotten. One that is
    /// [`Binding::derived`] follows from what else there is, and is left to that.
    pub fn bind(&mut self, binding: Binding) -> Option<Arc<Binding>> {
        if binding.derived {
            self.settle();
            return None;
        }
        let next = &mut self.next;
        let binding = Arc::new(binding);
        // Made here if need be: see `Tls13Objects`.
        let _ = binding.tls();
        let displaced = match &binding.pattern {
            Pattern::Default => next.default.replace(binding.clone()),
            Pattern::Host(host, rule) => put(&mut next.exact, host.as_str(), *rule, binding.clone()),
            Pattern::Wildcard(suffix, rule) => put(&mut next.wildcard, suffix, *rule, binding.clone()),
        };
        match &displaced {
            Some(old) => self.unuse(old),
            None => self.next.len += 1,
        }
        self.note_use(&binding);
        self.release(&binding.pattern);
        displaced
    }

    fn note_use(&mut self, binding: &Binding) {
        let Some(id) = binding.target.certificate_id() else { return };
        let mut patterns = self.next.uses.remove(id.as_str()).unwrap_or_default();
        Arc::make_mut(&mut patterns).insert(binding.pattern.clone());
        self.next.uses.insert(id.as_str(), patterns);
    }

    /// Removes a binding. A damaged record of the same pattern is forgotten.
    pub fn unbind(&mut self, pattern: &Pattern) -> Option<Arc<Binding>> {
        self.release(pattern);
        let next = &mut self.next;
        let removed = match pattern {
            Pattern::Default => next.default.take(),
            Pattern::Host(host, rule) => take(&mut next.exact, host.as_str(), *rule),
            Pattern::Wildcard(suffix, rule) => take(&mut next.wildcard, suffix, *rule),
        }?;
        next.len -= 1;
        self.unuse(&removed);
        Some(removed)
    }

    fn unuse(&mut self, binding: &Binding) {
        let Some(id) = binding.target.certificate_id() else { return };
        let Some(mut patterns) = self.next.uses.remove(id.as_str()) else { return };
        Arc::make_mut(&mut patterns).remove(&binding.pattern);
        if !patterns.is_empty() {
            self.next.uses.insert(id.as_str(), patterns);
        }
    }

    /// Adds a certificate.
    pub fn put_certificate(&mut self, certificate: Arc<Certificate>) {
        let id = certificate.info.id.clone();
        self.next.certificates.insert(id.as_str(), certificate);
    }

    /// Removes a certificate (its bindings are the caller's business).
    pub fn remove_certificate(&mut self, id: &CertificateId) -> Option<Arc<Certificate>> {
        self.next.certificates.remove(id.as_str())
    }

    /// What it would mean as it stands.
    #[must_use]
    pub fn so_far(&self) -> &Snapshot {
        &self.next
    }

    /// The same with the project-wide place settled.
    #[must_use]
    pub fn settled(&mut self) -> &Snapshot {
        self.settle();
        &self.next
    }

    /// Sets what ordinary TLS is made with; gives back what it was made with before.
    pub fn set_anonymous(&mut self, anonymous: Arc<UpstreamTls>) -> Arc<UpstreamTls> {
        std::mem::replace(&mut self.next.anonymous, anonymous)
    }

    /// Sets which CA bundles vouch for servers. Its objects are the caller's business: every one of them is made anew.
    pub fn set_vouching(&mut self, vouching: Arc<Vouching>) {
        self.next.vouching = vouching;
    }

    /// Sets what is known of the project.
    pub fn set_info(&mut self, info: Arc<ProjectInfo>) {
        self.next.info = info;
    }

    /// Says which binding records are damaged: `names` as the store knows them, `name_of` to compare. Until such a slot
    /// is written again or removed, its requests fail rather than take a less specific certificate.
    pub fn quarantine(&mut self, names: HashSet<String>, name_of: RecordName) {
        self.next.quarantine = (!names.is_empty()).then(|| Arc::new(Quarantine { names, name_of }));
    }

    fn release(&mut self, pattern: &Pattern) {
        let Some(quarantine) = self.next.quarantine.as_ref().filter(|q| q.holds(pattern)) else { return };
        let mut rest = Quarantine::clone(quarantine);
        rest.names.remove(&(rest.name_of)(&pattern.to_string()));
        self.quarantine(rest.names, rest.name_of);
    }

    /// The finished snapshot, one revision on.
    #[must_use]
    pub fn finish(mut self) -> Snapshot {
        self.settle();
        self.next.revision += 1;
        self.next
    }
}

fn put(table: &mut Table<Ports>, key: &str, rule: PortRule, binding: Arc<Binding>) -> Option<Arc<Binding>> {
    let mut ports = table.get(key).map(|ports| ports.to_vec()).unwrap_or_default();
    let displaced = match ports.binary_search_by_key(&rule, |(rule, _)| *rule) {
        Ok(at) => Some(std::mem::replace(&mut ports[at].1, binding)),
        Err(at) => {
            ports.insert(at, (rule, binding));
            None
        }
    };
    table.insert(key, ports.into());
    displaced
}

fn take(table: &mut Table<Ports>, key: &str, rule: PortRule) -> Option<Arc<Binding>> {
    let mut ports = table.get(key)?.to_vec();
    let at = ports.binary_search_by_key(&rule, |(rule, _)| *rule).ok()?;
    let (_, removed) = ports.remove(at);
    if ports.is_empty() {
        table.remove(key);
    } else {
        table.insert(key, ports.into());
    }
    Some(removed)
}

#[cfg(test)]
mod tests;
