//! What accounts hold: client certificates and CA bundles, which every project that carries the account may bind.
//!
//! Invariants:
//! - what is handed out is owned; no guard of a map leaves this file;
//! - nothing here says what is presented: only a project's bindings do;
//! - an id stands in one account, and never comes back once it was removed.

use std::collections::HashMap;
use std::sync::Arc;

use dashmap::DashMap;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::domain::{CertificateId, CertificateInfo};
use crate::identity::ClientIdentity;
use crate::pki::names::subject_of;

/// A client certificate, or a CA bundle, of an account.
#[derive(Debug)]
pub struct AccountCertificate {
    /// What may be told of it; of a bundle, of the first certificate in it. [`CertificateInfo::uploaded_at`] is the whole
    /// second of [`AccountCertificate::updated_at`].
    pub info: Arc<CertificateInfo>,
    /// A CA bundle, which vouches for servers. Else a leaf with its key, which is presented.
    pub ca: bool,
    /// For people; several may bear one.
    pub name: Option<String>,
    /// As uploaded, byte for byte: a chain or CA certificates. Never the key.
    pub pem: String,
    /// SHA-256 of the material, a leaf's key included: equal material, equal digest.
    pub digest: [u8; 32],
    /// SHA-256 of the DER of all certificates in `pem`, in their order: an account has each such list once.
    pub chain: [u8; 32],
    /// The id of the token that uploaded it.
    pub by: String,
    /// When it was uploaded, whole microseconds; later than everything that the account had then.
    pub updated_at: OffsetDateTime,
    /// What a leaf presents; `None` for a bundle.
    pub identity: Option<Arc<ClientIdentity>>,
    /// The certificates of a bundle, in their order; empty for a leaf.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// A certificate of an account whose stored record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostOfAccount {
    /// Its id, which is all that is known of it.
    pub id: CertificateId,
    /// Why, in words.
    pub why: String,
}

#[derive(Debug, Default)]
struct Account {
    /// Oldest first.
    held: Vec<Arc<AccountCertificate>>,
    /// Subject (DER) of each certificate in a bundle -> a bundle that has it.
    subjects: HashMap<Vec<u8>, CertificateId>,
    lost: Vec<LostOfAccount>,
}

impl Account {
    fn index(&mut self, certificate: &AccountCertificate) {
        for subject in certificate.certificates.iter().filter_map(subject_of) {
            self.subjects.entry(subject).or_insert_with(|| certificate.info.id.clone());
        }
    }
}

/// The certificates of all accounts, by the account's id.
#[derive(Debug, Default)]
pub struct Accounts {
    accounts: DashMap<String, Account>,
    /// Each certificate by its id, lost ones included.
    homes: DashMap<CertificateId, Home>,
}

/// Where a certificate stands.
#[derive(Debug)]
struct Home {
    account: String,
    /// `None`: its record cannot be read.
    held: Option<Arc<AccountCertificate>>,
}

impl Accounts {
    /// What an account holds, oldest first. Empty for one that nobody knows.
    #[must_use]
    pub fn list(&self, account: &str) -> Vec<Arc<AccountCertificate>> {
        self.accounts.get(account).map(|found| found.held.clone()).unwrap_or_default()
    }

    /// One of an account; of none but this.
    #[must_use]
    pub fn get(&self, account: &str, id: &CertificateId) -> Option<Arc<AccountCertificate>> {
        self.homes.get(id).filter(|home| home.account == account)?.held.clone()
    }

    /// A CA bundle of an account that has a certificate of this subject (DER).
    #[must_use]
    pub fn bundle_with(&self, account: &str, subject: &[u8]) -> Option<CertificateId> {
        self.accounts.get(account)?.subjects.get(subject).cloned()
    }

    /// Those of an account whose records cannot be read.
    #[must_use]
    pub fn lost(&self, account: &str) -> Vec<LostOfAccount> {
        self.accounts.get(account).map(|found| found.lost.clone()).unwrap_or_default()
    }

    /// The account that has it, readable or not.
    #[must_use]
    pub fn home(&self, id: &CertificateId) -> Option<String> {
        self.homes.get(id).map(|home| home.account.clone())
    }

    /// How many certificates an account has, lost ones included.
    #[must_use]
    pub fn count(&self, account: &str) -> usize {
        self.accounts.get(account).map_or(0, |found| found.held.len() + found.lost.len())
    }

    /// Adds one in its place among the others. The caller sees to it that its id is new, and to the bound.
    pub fn insert(&self, account: &str, certificate: Arc<AccountCertificate>) {
        let home = Home { account: account.to_owned(), held: Some(certificate.clone()) };
        self.homes.insert(certificate.info.id.clone(), home);
        let mut found = self.accounts.entry(account.to_owned()).or_default();
        let age = |held: &AccountCertificate| (held.updated_at, held.info.id.clone());
        let at = found.held.partition_point(|held| age(held) <= age(&certificate));
        found.index(&certificate);
        found.held.insert(at, certificate);
    }

    /// Remembers one whose record cannot be read: nothing stands in for it, and its place counts.
    pub fn set_aside(&self, account: &str, lost: LostOfAccount) {
        self.homes.insert(lost.id.clone(), Home { account: account.to_owned(), held: None });
        self.accounts.entry(account.to_owned()).or_default().lost.push(lost);
    }

    /// Removes one, readable or not; its uses are the caller's business.
    pub fn remove(&self, account: &str, id: &CertificateId) {
        if let Some(mut found) = self.accounts.get_mut(account) {
            found.held.retain(|held| held.info.id != *id);
            found.lost.retain(|lost| lost.id != *id);
            let indexed = found.subjects.len();
            found.subjects.retain(|_, bundle| bundle != id);
            if found.subjects.len() != indexed {
                // Another may have the same.
                for held in found.held.clone() {
                    found.index(&held);
                }
            }
        }
        self.accounts.remove_if(account, |_, found| found.held.is_empty() && found.lost.is_empty());
        self.homes.remove_if(id, |_, home| home.account == account);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::testing::certificate;

    fn copy(of: &AccountCertificate) -> AccountCertificate {
        AccountCertificate {
            info: of.info.clone(),
            name: None,
            pem: String::new(),
            by: String::new(),
            identity: None,
            certificates: Vec::new(),
            ..*of
        }
    }

    fn held(id: &str, second: i64) -> Arc<AccountCertificate> {
        let made = certificate(id);
        Arc::new(AccountCertificate {
            info: made.info.clone(),
            ca: false,
            name: None,
            pem: String::new(),
            digest: [0; 32],
            chain: [0; 32],
            by: String::new(),
            updated_at: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second),
            identity: Some(made.identity.clone()),
            certificates: Vec::new(),
        })
    }

    #[test]
    fn a_bundle_is_found_by_the_subjects_in_it_as_long_as_there_is_one() {
        let accounts = Accounts::default();
        let der = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap().cert.der().clone();
        let subject = subject_of(&der).unwrap();
        for (account, of) in [("a", "first"), ("a", "second"), ("b", "other")] {
            let bundle = AccountCertificate { ca: true, certificates: vec![der.clone()], ..copy(&held(of, 1)) };
            accounts.insert(account, Arc::new(bundle));
        }
        let found = |account| accounts.bundle_with(account, &subject).map(|id| id.to_string());
        assert_eq!((found("a").as_deref(), found("b").as_deref(), found("c")), (Some("first"), Some("other"), None));
        assert_eq!(accounts.bundle_with("a", b"another"), None);
        accounts.remove("a", &CertificateId::parse("first").unwrap());
        assert_eq!(found("a").as_deref(), Some("second"));
        accounts.remove("a", &CertificateId::parse("second").unwrap());
        assert_eq!(found("a"), None);
    }

    #[test]
    fn an_account_has_its_own_oldest_first_and_nothing_of_another() {
        let accounts = Accounts::default();
        let id = |text: &str| CertificateId::parse(text).unwrap();
        for (account, of, second) in [("a", "late", 9), ("a", "early", 1), ("b", "other", 5)] {
            accounts.insert(account, held(of, second));
        }
        accounts.set_aside("a", LostOfAccount { id: id("lost"), why: "damaged".to_owned() });
        let names = |account| -> Vec<_> { accounts.list(account).iter().map(|c| c.info.id.to_string()).collect() };
        assert_eq!(
            (names("a"), names("b"), names("c")),
            (vec!["early".into(), "late".into()], vec!["other".into()], vec![])
        );
        assert!(accounts.get("a", &id("late")).is_some() && accounts.get("a", &id("other")).is_none());
        assert!(accounts.get("a", &id("lost")).is_none());
        assert_eq!((accounts.count("a"), accounts.count("b"), accounts.count("c")), (3, 1, 0));
        assert_eq!((accounts.home(&id("other")), accounts.home(&id("lost"))), (Some("b".into()), Some("a".into())));

        accounts.remove("b", &id("late"));
        assert_eq!((names("a").len(), accounts.home(&id("late"))), (2, Some("a".into())), "not of this account");
        for of in ["late", "early", "lost"] {
            accounts.remove("a", &id(of));
            assert_eq!(accounts.home(&id(of)), None);
        }
        assert_eq!((accounts.count("a"), accounts.accounts.contains_key("a")), (0, false));
    }
}
