//! The disclosure ledger at rest: its pages are records of their project.
//!
//! What is new is written about a second later, with whatever else came meanwhile; that something was shown again, every
//! few minutes and at the end. A store that cannot be written delays that and nothing else: no handshake waits for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, sleep};
use zeroize::Zeroizing;

use super::certificates::whole;
use super::records::{NotUnderstood, time_of, to_json};
use super::store::{Store, Write};
use super::{Control, ControlError, Inner};
use crate::backend::RecordKey;
use crate::domain::{CertificateId, Fingerprint, Origin, ProjectId, Rule, hex};
use crate::registry::{Disclosure, Disclosures, Page};

/// When what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From something new to its write.
    pub(super) soon: Duration,
    /// From one write of all that differs to the next.
    pub(super) now_and_then: Duration,
    /// From a write that failed to the next try.
    pub(super) retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { soon: seconds(1), now_and_then: seconds(180), retry: seconds(15) }
    }
}

/// No page has a higher number: far more than fit into a ledger.
const MAX_PAGE: u32 = 65_536;

impl Control {
    /// Keeps the ledger for ever. Drop it to end it.
    pub(super) async fn keep_disclosures(&self, pace: Pace) {
        let mut tick = tokio::time::interval_at(Instant::now() + pace.now_and_then, pace.now_and_then);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            let all = tokio::select! {
                () = self.inner.disclosures.news() => {
                    sleep(pace.soon).await;
                    false
                }
                _ = tick.tick() => true,
            };
            let began = Instant::now();
            match self.store_disclosures(all).await {
                Ok(()) if failing => {
                    tracing::info!("the disclosure ledger can be stored again");
                    failing = false;
                }
                Ok(()) => {}
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "the disclosure ledger could not be stored; it is kept in memory and tried again");
                    }
                    failing = true;
                    sleep(pace.retry).await;
                }
            }
            // A store that is slow has other things to do as well.
            sleep(began.elapsed() * 4).await;
        }
    }

    /// Writes what of the ledger is new, or (`all`) whatever the store does not have yet. For the end of egret, too: what
    /// was shown until then is kept when this has answered.
    ///
    /// # Errors
    /// What could not be stored; it stays in memory and is due again.
    pub async fn store_disclosures(&self, all: bool) -> Result<(), ControlError> {
        let inner = self.inner.clone();
        whole(async move {
            let _keeping = inner.ledger.lock().await;
            let mut outcome = Ok(());
            for project in inner.disclosures.due(all) {
                let stored = inner.store_disclosures_of(&project, all).await;
                outcome = outcome.and(stored);
            }
            outcome
        })
        .await
    }
}

impl Inner {
    async fn store_disclosures_of(&self, id: &ProjectId, all: bool) -> Result<(), ControlError> {
        let Some(project) = self.registry.project(id) else {
            self.disclosures.forget(id);
            return Ok(());
        };
        let _writer = project.write().await;
        let snapshot = project.snapshot();
        if snapshot.is_removed() {
            return Ok(());
        }
        let pages = self.disclosures.take_due(id, all);
        let write = |(number, page): (&u32, &Page)| {
            let key = self.store.disclosures_key(id, *number);
            if page.is_blank(*number) { Write::Delete(key) } else { Write::Put(key, to_bytes(page)) }
        };
        let mut writes: Vec<_> = pages.iter().map(write).collect();
        writes.extend(self.store.project_record(snapshot.info()));
        let stored = self.store.write_quietly(writes).await;
        stored.inspect_err(|_| self.disclosures.not_kept(id, pages.into_keys()))
    }
}

/// Takes over the pages of a project that were found in the store.
pub(super) fn restore(
    store: &Store,
    disclosures: &Disclosures,
    project: &ProjectId,
    pages: Vec<(RecordKey, Zeroizing<Vec<u8>>)>,
) {
    for (key, plain) in pages {
        let number = key.id.parse().ok().filter(|number| *number < MAX_PAGE).ok_or(NotUnderstood);
        match number.and_then(|number| Ok((number, parse(&plain)?))) {
            Ok((number, page)) => disclosures.restore(project, number, page),
            Err(why) => {
                let sentence = format!("{key}: {why}");
                store.note_damage(Some(key), sentence);
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageJson {
    entries: Vec<EntryJson>,
    dropped: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryJson {
    certificate: String,
    /// 64 hex digits.
    fingerprint: String,
    serial_number: String,
    subject: String,
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    rule: String,
    first: i64,
    last: i64,
    count: u64,
}

fn to_bytes(page: &Page) -> Zeroizing<Vec<u8>> {
    let entries = page.entries.iter().map(|entry| EntryJson {
        certificate: entry.certificate.to_string(),
        fingerprint: hex(&entry.fingerprint.0),
        serial_number: entry.serial_number.clone(),
        subject: entry.subject.clone(),
        origin: entry.origin.to_string(),
        address: entry.address.map(|address| address.to_string()),
        rule: entry.rule.as_str().to_owned(),
        first: entry.first.unix_timestamp(),
        last: entry.last.unix_timestamp(),
        count: entry.count,
    });
    to_json(&PageJson { entries: entries.collect(), dropped: page.dropped }, 512 * (page.entries.len() + 1))
}

fn parse(plain: &[u8]) -> Result<Page, NotUnderstood> {
    let json: PageJson = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
    let entry = |entry: EntryJson| -> Result<Disclosure, NotUnderstood> {
        Ok(Disclosure {
            certificate: CertificateId::parse(&entry.certificate).ok_or(NotUnderstood)?,
            fingerprint: Fingerprint::parse(&entry.fingerprint).ok_or(NotUnderstood)?,
            serial_number: entry.serial_number,
            subject: entry.subject,
            origin: Origin::parse(&entry.origin).map_err(|_| NotUnderstood)?,
            address: entry.address.map(|address| address.parse()).transpose().map_err(|_| NotUnderstood)?,
            rule: [Rule::Exact, Rule::Wildcard, Rule::Default]
                .into_iter()
                .find(|rule| rule.as_str() == entry.rule)
                .ok_or(NotUnderstood)?,
            first: time_of(entry.first)?,
            last: time_of(entry.last)?,
            count: entry.count,
        })
    };
    Ok(Page { entries: json.entries.into_iter().map(entry).collect::<Result<_, _>>()?, dropped: json.dropped })
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;

    #[test]
    fn brings_a_page_back_and_understands_nothing_else() {
        let entry = |rule, address: Option<&str>| Disclosure {
            certificate: CertificateId::parse("cert_1").expect("an id"),
            fingerprint: Fingerprint([0xab; 32]),
            serial_number: "-0A".to_owned(),
            subject: "CN=\"ü\"".to_owned(),
            origin: Origin::parse("https://[::1]:8443").expect("valid"),
            address: address.map(|text| text.parse().expect("an address")),
            rule,
            first: OffsetDateTime::UNIX_EPOCH,
            last: OffsetDateTime::UNIX_EPOCH + time::Duration::days(1),
            count: 7,
        };
        let entries =
            vec![entry(Rule::Exact, Some("[::1]:8443")), entry(Rule::Wildcard, None), entry(Rule::Default, None)];
        let page = Page { entries, dropped: 3 };
        assert_eq!(parse(&to_bytes(&page)), Ok(page));
        assert_eq!(parse(br#"{"entries":[],"dropped":0}"#), Ok(Page::default()));
        for bytes in [&b""[..], b"{}", br#"{"entries":[],"dropped":0,"more":1}"#, br#"{"entries":[{}],"dropped":0}"#] {
            assert_eq!(parse(bytes), Err(NotUnderstood));
        }
        let none = entry(Rule::None, None);
        assert_eq!(
            parse(&to_bytes(&Page { entries: vec![none], dropped: 0 })),
            Err(NotUnderstood),
            "not a rule that shows"
        );
    }
}
