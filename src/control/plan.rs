//! From what a project means and what files declare for it to what it means next: nothing here waits, stores or ends
//! anything. The start and every later reading of the files go through it.
//!
//! What must stay true:
//! - what has not changed keeps its very objects, and with them its connections and tickets;
//! - a certificate whose files are not whole stays as it was; one that never was whole holds its slot and fails;
//! - a stored binding that a declared one covers is put aside, and comes back when the declared one goes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use time::OffsetDateTime;

use super::accounts::{self, adopt};
use super::apply::{Facts, Maker, show};
use super::declared::{self, Declared, Entry, Found, Held, Slot, Whole};
use super::layers::recede;
use super::records::{BindingRecord, ProjectRecord};
use super::store::{Store, Write};
use super::vouching::{in_vain, vouching};
use crate::domain::time::rfc3339;
use crate::domain::{CertificateId, Holder, Pattern, ProjectInfo, SKEW, Source, time as clock};
use crate::identity::UpstreamTls;
use crate::pki::validate::Field;
use crate::registry::{Accounts, Binding, Certificate, Snapshot, SnapshotEdit, Target, Unavailable};

/// Stored bindings of one project that declared ones cover.
pub(super) type Covered = BTreeMap<Pattern, Arc<Binding>>;

/// What is the same for all projects.
pub(super) struct Ground<'a> {
    pub(super) store: &'a Store,
    pub(super) maker: &'a Maker,
    /// What the accounts of projects hold.
    pub(super) accounts: &'a Accounts,
    /// `maker` is another than that which made what is in force.
    pub(super) anew: bool,
    /// Folders that could not be read: what came from them stays.
    pub(super) unreadable: &'a [PathBuf],
}

/// What becomes of a project.
pub(super) struct Plan {
    /// What it means next; `None` if nothing changes.
    pub(super) next: Option<Snapshot>,
    /// Stored bindings that stand aside then.
    pub(super) covered: Covered,
    /// What has to be stored for it to be the same after a restart.
    pub(super) writes: Vec<Write>,
    /// What ends, once the next snapshot is published.
    pub(super) ends: Vec<End>,
    /// The object for ordinary TLS that ends then.
    pub(super) anonymous: Option<Arc<UpstreamTls>>,
    /// What is known of the files of what is in force.
    pub(super) held: Vec<(Slot, Held)>,
    /// Certificates whose files are not whole, so that those before stay; each a sentence.
    pub(super) kept: Vec<String>,
    /// Those that never were whole; each a sentence.
    pub(super) unloaded: Vec<String>,
    /// Declared certificates that come, change and go.
    pub(super) counts: Counts,
}

/// Objects of a certificate that end.
pub(super) struct End {
    pub(super) certificate: Arc<Certificate>,
    pub(super) objects: Vec<Arc<UpstreamTls>>,
    /// The certificate in its place, which may be itself with other objects.
    pub(super) successor: Option<CertificateId>,
}

/// How many declared certificates changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) added: usize,
    pub(super) replaced: usize,
    pub(super) removed: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.replaced += more.replaced;
        self.removed += more.removed;
    }
}

/// Plans the next snapshot of a project that means `base` now. `declared` is all that files declare for it.
pub(super) fn plan(
    ground: &Ground<'_>,
    base: &Snapshot,
    info: &ProjectInfo,
    declared: Vec<Declared>,
    covered: Covered,
) -> Plan {
    let mut planner = Planner {
        ground,
        info,
        edit: base.edit(),
        changed: false,
        covered,
        writes: Vec::new(),
        successors: HashMap::new(),
        held: Vec::new(),
        kept: Vec::new(),
        unloaded: Vec::new(),
        counts: Counts::default(),
    };
    let anonymous = planner.project(base);
    let mut wanted = HashSet::with_capacity(declared.len());
    for one in declared {
        let pattern = one.entry.pattern.clone();
        if planner.declare(one) {
            wanted.insert(pattern);
        }
    }
    planner.withdraw(base, &wanted);
    planner.finish(base, anonymous)
}

struct Planner<'a> {
    ground: &'a Ground<'a>,
    info: &'a ProjectInfo,
    edit: SnapshotEdit,
    changed: bool,
    covered: Covered,
    writes: Vec<Write>,
    successors: HashMap<CertificateId, CertificateId>,
    held: Vec<(Slot, Held)>,
    kept: Vec<String>,
    unloaded: Vec<String>,
    counts: Counts,
}

impl Planner<'_> {
    /// What is known of the project, and whom it trusts; gives back the object for ordinary TLS that ends.
    fn project(&mut self, base: &Snapshot) -> Option<Arc<UpstreamTls>> {
        let (info, before) = (self.info, base.info());
        if *info != **before {
            self.changed = true;
            self.edit.set_info(Arc::new(info.clone()));
            let recorded = self.ground.store.version(&self.ground.store.project_key(&info.id)).is_some();
            // So that the project is the same once it leaves the file, and a zone that it yielded does not come back.
            let matters = info.declared || info.zone_id != before.zone_id;
            if matters && recorded && ProjectRecord::of(info) != ProjectRecord::of(before) {
                let record = ProjectRecord::of(info).to_bytes();
                self.writes.push(Write::Put(self.ground.store.project_key(&info.id), record));
            }
        }
        let maker = self.ground.maker;
        let mut anew = self.ground.anew || info.servers != before.servers;
        if info.account_id != before.account_id && !base.roster().vouching.is_empty() {
            // The bundles that it names are another account's, or are its own again.
            let (vouching, lost) = vouching(maker, self.ground.accounts, info, base.roster());
            for vouch in lost {
                tracing::warn!("{}", in_vain(info, vouch));
            }
            anew |= vouching.digest() != base.vouching().digest();
            self.edit.set_vouching(vouching);
            self.changed = true;
        }
        if anew || show(info) != show(before) {
            self.changed = true;
            renew(maker, info, &mut self.edit, !anew);
        }
        if info.account_id != before.account_id {
            self.changed |= adopt(self.ground.accounts, maker, &mut self.edit);
        }
        let vouching = self.edit.so_far().vouching().clone();
        anew.then(|| self.edit.set_anonymous(maker.anonymous(info, &vouching)))
    }

    /// Puts a declared certificate into its slot; false if there is nothing to put there.
    fn declare(&mut self, declared: Declared) -> bool {
        let slot = declared.slot();
        let Declared { entry, found } = declared;
        let before = self.edit.so_far().binding(&entry.pattern);
        let own = before.filter(|binding| binding.source != Source::Api);
        let old = own.as_ref().and_then(|binding| match &binding.target {
            Target::Certificate(certificate) => Some(certificate.clone()),
            Target::None | Target::Unavailable(_) => None,
        });
        let source = Source::File(entry.place.clone());
        let (target, why) = match (found, old.clone()) {
            (Found::Same(held), Some(old)) => {
                self.held.push((slot, held));
                (Ok(old), None)
            }
            (Found::Whole(whole, _), Some(old)) if displaces_a_better(&entry, &whole, &old) => {
                // Not remembered as read: its time may come, and then it is looked at as if it were new.
                (Ok(old), Some(out_of_time(&entry, &whole)))
            }
            (Found::Whole(whole, held), old) => {
                self.held.push((slot, held));
                (Ok(self.certificate(&entry, *whole, old, &source)), None)
            }
            (Found::Broken(why) | Found::Empty(why), Some(old)) => (Ok(old), Some(why)),
            (Found::Empty(_), None) => return false,
            (Found::Broken(why), None) => (Err(why), None),
            (Found::Same(_), None) => (Err("it was not read; it will be when it changes".to_owned()), None),
        };
        self.kept.extend(why);
        let target = match target {
            Ok(certificate) if certificate.info.source != source => Ok(Maker::moved(&certificate, source.clone())),
            other => other,
        };
        let target = target.map(|certificate| self.without_what_was_used(own.as_deref(), &entry, certificate));
        let is_same = match (&target, own.as_ref().map(|binding| &binding.target)) {
            (Ok(new), Some(Target::Certificate(old))) => Arc::ptr_eq(new, old),
            (Err(why), Some(Target::Unavailable(old))) => *why == old.why,
            _ => false,
        };
        self.unloaded.extend(target.as_ref().err().cloned());
        if is_same
            && own
                .as_ref()
                .is_some_and(|own| own.lift == entry.lift && own.tls13_only == entry.tls13_only && own.source == source)
        {
            return true;
        }
        self.changed = true;
        let id = match &target {
            Ok(certificate) => certificate.info.id.clone(),
            Err(_) => declared::id(&entry, &[0; 32]),
        };
        let since = own.as_ref().filter(|own| own.target.certificate_id() == Some(&id)).map(|own| own.since);
        let since = since.unwrap_or_else(now);
        if let Ok(certificate) = &target {
            self.edit.put_certificate(certificate.clone());
            match &old {
                None => self.counts.added += 1,
                Some(old) => self.counts.replaced += usize::from(old.digest != certificate.digest),
            }
        }
        let target =
            target.map_or_else(|why| Target::Unavailable(Unavailable { id: id.clone(), why }), Target::Certificate);
        let (lift, tls13_only) = (entry.lift, entry.tls13_only);
        let pattern = entry.pattern;
        let (previous, association, derived) = (None, None, false);
        let binding = Binding { pattern, target, source, since, lift, tls13_only, previous, association, derived };
        if let Some(stored) = self.edit.bind(binding).filter(|displaced| displaced.source == Source::Api) {
            self.cover(stored);
        }
        if let Some(old) = old.filter(|old| old.info.id != id) {
            self.edit.remove_certificate(&old.info.id);
            self.successors.insert(old.info.id.clone(), id.clone());
            self.follow(&old.info.id, Some(&id));
        }
        rebind(&mut self.edit, &id);
        true
    }

    /// A certificate that its binding uses in another way from now on, over TLS 1.3 only or not: what was made in the way
    /// before ends, unless another binding uses it.
    fn without_what_was_used(
        &self,
        own: Option<&Binding>,
        entry: &Entry,
        certificate: Arc<Certificate>,
    ) -> Arc<Certificate> {
        let Some(own) = own.filter(|own| own.tls13_only != entry.tls13_only) else { return certificate };
        match own.tls() {
            Some(was) if !self.edit.so_far().is_used_beside(own, was) => {
                self.ground.maker.without(&certificate, |tls| Arc::ptr_eq(tls, was))
            }
            _ => certificate,
        }
    }

    /// What was read as a certificate: the one that is there, if it is the same material.
    fn certificate(
        &self,
        entry: &Entry,
        whole: Whole,
        old: Option<Arc<Certificate>>,
        source: &Source,
    ) -> Arc<Certificate> {
        let Whole { valid, cert_pem, ca_pem } = whole;
        let is_same =
            |old: &Arc<Certificate>| old.digest == valid.digest && old.info.skip_validation == entry.skip_validation;
        if let Some(old) = old.filter(is_same) {
            return old;
        }
        let facts = Facts {
            id: declared::id(entry, &valid.digest),
            cert_pem,
            ca_pem,
            uploaded_at: now(),
            skip_validation: entry.skip_validation,
            warnings: None,
            source: source.clone(),
            holder: Holder::Project,
        };
        self.ground.maker.certificate(self.info, self.edit.so_far().vouching(), valid, facts)
    }

    /// A stored binding stands aside. A certificate that nothing names any more ends for new requests, and comes back
    /// with objects of its own.
    fn cover(&mut self, stored: Arc<Binding>) {
        if let Target::Certificate(certificate) = &stored.target
            && certificate.info.source == Source::Api
            && !self.edit.so_far().is_bound(&certificate.info.id)
        {
            if certificate.info.holder == Holder::Account {
                self.edit.remove_certificate(&certificate.info.id);
            } else {
                self.edit.put_certificate(self.ground.maker.afresh(certificate));
            }
        }
        // Meanwhile nobody goes back; what was kept for that ends with its window.
        let stored = Binding { previous: None, ..Binding::clone(&stored) };
        self.covered.insert(stored.pattern.clone(), Arc::new(stored));
    }

    /// Stored bindings that name a declared certificate go on with the one in its place.
    fn follow(&mut self, old: &CertificateId, new: Option<&CertificateId>) {
        for binding in self.edit.so_far().bindings_of(old) {
            let target = self.target(new.unwrap_or(old));
            let binding = Binding { target, ..Binding::clone(&binding) };
            if new.is_some() {
                let key = self.ground.store.binding_key(&self.info.id, &binding.pattern);
                self.writes.push(Write::Put(key, BindingRecord::of(&binding).to_bytes()));
            }
            self.edit.bind(binding);
        }
    }

    fn target(&self, id: &CertificateId) -> Target {
        if let Some(target) = accounts::target(self.ground.accounts, self.ground.maker, self.edit.so_far(), id) {
            return target;
        }
        match self.edit.so_far().certificate(id) {
            Some(certificate) => Target::Certificate(certificate),
            None => {
                let why = "there is no record of it; upload the certificate again".to_owned();
                Target::Unavailable(Unavailable { id: id.clone(), why })
            }
        }
    }

    /// Takes out what is declared no more.
    fn withdraw(&mut self, base: &Snapshot, wanted: &HashSet<Pattern>) {
        for binding in base.bindings() {
            let Source::File(place) = &binding.source else { continue };
            let is_held = self.ground.unreadable.iter().any(|folder| place.starts_with(folder));
            if is_held || wanted.contains(&binding.pattern) {
                continue;
            }
            self.changed = true;
            self.edit.unbind(&binding.pattern);
            if let Target::Certificate(certificate) = &binding.target {
                self.counts.removed += 1;
                self.edit.remove_certificate(&certificate.info.id);
                self.follow(&certificate.info.id, None);
            }
            self.uncover(&binding.pattern);
        }
    }

    /// The stored binding of a slot that its file let go of.
    fn uncover(&mut self, pattern: &Pattern) {
        let stored = match self.covered.remove(pattern) {
            Some(stored) => {
                let target = match stored.target.certificate_id() {
                    None => Target::None,
                    Some(id) => match (self.target(id), &stored.target) {
                        (Target::Unavailable(_), Target::Unavailable(known)) if !self.is_of_account(id) => {
                            Target::Unavailable(known.clone())
                        }
                        (found, _) => found,
                    },
                };
                if let Target::Certificate(certificate) = &target {
                    // Already there, unless it is the account's.
                    self.edit.put_certificate(certificate.clone());
                }
                Binding { target, ..Binding::clone(&stored) }
            }
            // There is a record, and it could not be read at the start.
            None if self.is_recorded(pattern) => Binding::damaged(pattern.clone()),
            None => return,
        };
        self.edit.bind(stored);
    }

    fn is_of_account(&self, id: &CertificateId) -> bool {
        self.ground.accounts.home(id).is_some()
    }

    fn is_recorded(&self, pattern: &Pattern) -> bool {
        self.ground.store.version(&self.ground.store.binding_key(&self.info.id, pattern)).is_some()
    }

    fn finish(mut self, base: &Snapshot, anonymous: Option<Arc<UpstreamTls>>) -> Plan {
        // What ends because of it is found with everything else.
        let _ = recede(self.ground.maker, base, &mut self.edit);
        let next = self.changed.then(|| self.edit.finish());
        let ends = next.as_ref().map_or_else(Vec::new, |next| ends(base, next, &self.successors));
        let Self { covered, writes, held, kept, unloaded, counts, .. } = self;
        Plan { next, covered, writes, ends, anonymous, held, kept, unloaded, counts }
    }
}

/// Makes every certificate of the project anew, as the project and its trust are by now; or, with `only_shown`, no more
/// than what depends on to whom the project-wide one is shown.
pub(super) fn renew(maker: &Maker, info: &ProjectInfo, edit: &mut SnapshotEdit, only_shown: bool) {
    let vouching = edit.so_far().vouching().clone();
    for old in edit.so_far().certificates() {
        edit.put_certificate(maker.anew(info, &vouching, &old, only_shown));
        rebind(edit, &old.info.id);
    }
}

/// Whoever names this certificate has the one that the project has.
fn rebind(edit: &mut SnapshotEdit, id: &CertificateId) {
    let Some(certificate) = edit.so_far().certificate(id) else { return };
    for binding in edit.so_far().bindings_of(id) {
        if !matches!(&binding.target, Target::Certificate(old) if Arc::ptr_eq(old, &certificate)) {
            let target = Target::Certificate(certificate.clone());
            edit.bind(Binding { target, ..Binding::clone(&binding) });
        }
    }
}

/// A certificate that is not valid now never displaces one that is: it waits.
fn displaces_a_better(entry: &Entry, whole: &Whole, old: &Certificate) -> bool {
    let now = clock::now();
    let is_other = old.digest != whole.valid.digest;
    let is_valid = in_time(now, whole.valid.not_before, whole.valid.not_after);
    is_other && !entry.skip_validation && !is_valid && in_time(now, old.info.not_before, old.info.not_after)
}

fn in_time(now: OffsetDateTime, from: OffsetDateTime, until: OffsetDateTime) -> bool {
    now.saturating_add(SKEW) >= from && now.saturating_sub(SKEW) <= until
}

fn out_of_time(entry: &Entry, whole: &Whole) -> String {
    let path = entry.files.of(Field::Cert).display();
    let (from, until) = (rfc3339(whole.valid.not_before), rfc3339(whole.valid.not_after));
    format!(
        "{path}: the certificate is valid from {from} until {until}, and the one before is valid now; it is left in force until then"
    )
}

/// Every object of `base` that `next` does not have.
pub(super) fn ends(base: &Snapshot, next: &Snapshot, successors: &HashMap<CertificateId, CertificateId>) -> Vec<End> {
    let of = |certificate: Arc<Certificate>| {
        let id = &certificate.info.id;
        let after = next.certificate(id);
        if after.as_ref().is_some_and(|after| Arc::ptr_eq(after, &certificate)) {
            return None;
        }
        let lives_on = |tls: &Arc<UpstreamTls>| {
            after.as_ref().is_some_and(|after| after.objects().any(|other| Arc::ptr_eq(other, tls)))
        };
        let objects: Vec<_> = certificate.objects().filter(|tls| !lives_on(tls)).cloned().collect();
        let successor = after.map(|after| after.info.id.clone()).or_else(|| successors.get(id).cloned());
        (!objects.is_empty()).then(|| End { certificate, objects, successor })
    };
    base.certificates().into_iter().filter_map(of).collect()
}

fn now() -> OffsetDateTime {
    clock::now().replace_nanosecond(0).unwrap_or_else(|_| clock::now())
}
