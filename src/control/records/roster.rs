//! The record of a project's lists. No keys in it, so that what it says is known without opening one.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{NotUnderstood, at, micros, to_json};
use crate::domain::{CertificateId, Holder, Pattern};
use crate::registry::{Held, Roster, Vouch};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RosterJson {
    zone_enabled: bool,
    held: Vec<HeldJson>,
    vouching: Vec<VouchJson>,
    /// An earlier record was damaged, and nobody has said since whether the zone is on. Left out otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsettled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeldJson {
    id: String,
    holder: ListJson,
    /// Microseconds.
    since: i64,
    by: String,
}

/// The lists that a roster knows.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListJson {
    Zone,
    Hostnames,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VouchJson {
    pattern: String,
    certificate: String,
    /// Microseconds.
    since: i64,
}

/// What rests of a roster.
pub(in crate::control) fn roster_to_bytes(roster: &Roster) -> Zeroizing<Vec<u8>> {
    let held = |held: &Held| HeldJson {
        id: held.id.to_string(),
        holder: if held.holder == Holder::Zone { ListJson::Zone } else { ListJson::Hostnames },
        since: micros(held.since),
        by: held.by.clone(),
    };
    let vouch = |vouch: &Vouch| VouchJson {
        pattern: vouch.pattern.to_string(),
        certificate: vouch.certificate.to_string(),
        since: micros(vouch.since),
    };
    let json = RosterJson {
        zone_enabled: roster.zone_enabled,
        held: roster.held.iter().map(held).collect(),
        vouching: roster.vouching.iter().map(vouch).collect(),
        unsettled: roster.damaged,
    };
    to_json(&json, 1024)
}

/// The roster of a record.
pub(in crate::control) fn roster_of(plain: &[u8]) -> Result<Roster, NotUnderstood> {
    let json: RosterJson = serde_json::from_slice(plain).map_err(|_| NotUnderstood)?;
    let id = |text: &str| CertificateId::parse(text).ok_or(NotUnderstood);
    let held = |held: HeldJson| {
        let holder = match held.holder {
            ListJson::Zone => Holder::Zone,
            ListJson::Hostnames => Holder::Hostnames,
        };
        Ok(Held { id: id(&held.id)?, holder, since: at(held.since)?, by: held.by })
    };
    let vouch = |vouch: VouchJson| {
        let pattern = Pattern::parse(&vouch.pattern).map_err(|_| NotUnderstood)?;
        Ok(Vouch { pattern, certificate: id(&vouch.certificate)?, since: at(vouch.since)? })
    };
    Ok(Roster {
        zone_enabled: json.zone_enabled,
        held: json.held.into_iter().map(held).collect::<Result<_, _>>()?,
        vouching: json.vouching.into_iter().map(vouch).collect::<Result<_, _>>()?,
        damaged: json.unsettled,
    })
}
