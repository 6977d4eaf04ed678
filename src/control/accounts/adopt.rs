//! Certificates of an account as a project has them: with TLS objects of its own, from its first binding to its last.

use std::sync::Arc;

use crate::control::apply::Maker;
use crate::domain::{CertificateId, Holder, Source};
use crate::registry::{Accounts, Binding, Snapshot, SnapshotEdit, Target, Unavailable};

/// Why a binding leads to nothing once its project carries another account.
pub(in crate::control) const OTHER_ACCOUNT: &str = "it is an mTLS certificate of another account than the one that the project carries now; put the project's account_id back, or bind another certificate";

/// What a project's binding to this certificate leads to, if it is an account's: the certificate that the project has of it,
/// or a new one that the caller adds.
pub(in crate::control) fn target(
    accounts: &Accounts,
    maker: &Maker,
    project: &Snapshot,
    id: &CertificateId,
) -> Option<Target> {
    let home = accounts.home(id)?;
    let unavailable = |why: String| Some(Target::Unavailable(Unavailable { id: id.clone(), why }));
    if project.info().account_id.as_deref() != Some(home.as_str()) {
        return unavailable(OTHER_ACCOUNT.to_owned());
    }
    if let Some(certificate) = project.certificate(id) {
        return Some(Target::Certificate(certificate));
    }
    let Some(held) = accounts.get(&home, id) else {
        let lost = accounts.lost(&home).into_iter().find(|lost| lost.id == *id);
        let why = lost.map_or_else(|| "its record is damaged or missing".to_owned(), |lost| lost.why);
        return unavailable(format!("{why}; upload the certificate to the account again, and bind that one"));
    };
    match maker.of_account(project.info(), project.vouching(), &held) {
        Some(certificate) => Some(Target::Certificate(certificate)),
        None => unavailable("it is a CA bundle, which nothing can be presented with".to_owned()),
    }
}

/// Gives every stored binding that names a certificate of an account what it leads to by now, and takes out what no binding
/// leads to any more. True if anything changed.
pub(in crate::control) fn adopt(accounts: &Accounts, maker: &Maker, edit: &mut SnapshotEdit) -> bool {
    let mut changed = false;
    for binding in edit.settled().bindings() {
        let is_others = match &binding.target {
            Target::None => true,
            Target::Certificate(certificate) => certificate.info.holder != Holder::Account,
            Target::Unavailable(_) => false,
        };
        if is_others || binding.derived || binding.source != Source::Api {
            continue;
        }
        let Some(id) = binding.target.certificate_id() else { continue };
        let Some(target) = target(accounts, maker, edit.so_far(), id) else { continue };
        if is_same(&binding.target, &target) {
            continue;
        }
        changed = true;
        if let Target::Certificate(certificate) = &target {
            edit.put_certificate(certificate.clone());
        }
        edit.bind(Binding { target, ..Binding::clone(&binding) });
    }
    for certificate in edit.so_far().certificates() {
        let id = &certificate.info.id;
        let presented = || edit.so_far().bindings_of(id).iter().any(|b| matches!(b.target, Target::Certificate(_)));
        if certificate.info.holder == Holder::Account && !presented() {
            changed = true;
            edit.remove_certificate(id);
        }
    }
    changed
}

fn is_same(old: &Target, new: &Target) -> bool {
    match (old, new) {
        (Target::Certificate(old), Target::Certificate(new)) => Arc::ptr_eq(old, new),
        (Target::Unavailable(old), Target::Unavailable(new)) => old == new,
        _ => false,
    }
}
