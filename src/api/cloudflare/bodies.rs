//! The bodies of this dialect. Fields that nobody knows are ignored; what is wrong is told with its place.

use std::str::FromStr as _;

use zeroize::Zeroizing;

use super::codes;
use crate::api::body::size;
use crate::api::fields::Fields;
use crate::api::problem::{Detail, Problem};
use crate::control::Wanted;
use crate::domain::{CertificateId, Host, HostKind};

/// No longer name is kept for people to read.
const MAX_NAME: usize = 255;
/// A longer text is no hostname (RFC 1035 section 2.3.4), and the vendor takes no longer one.
const MAX_HOSTNAME: usize = 255;
/// No longer text is looked at as the id of a certificate.
const MAX_ID: usize = 36;

/// A client certificate of a zone, with its key.
pub(super) struct ZoneUpload {
    pub(super) certificate: Zeroizing<String>,
    pub(super) private_key: Zeroizing<String>,
}

impl ZoneUpload {
    /// `{certificate, private_key}`; `max_pem` bounds each, in bytes.
    pub(super) fn read(body: &[u8], max_pem: usize) -> Result<Self, Problem> {
        let mut fields = Fields::parse(body)?.lenient();
        let (certificate, private_key) = (fields.text("certificate"), fields.text("private_key"));
        fields.finish()?;
        bound(max_pem, &[("certificate", &certificate), ("private_key", &private_key)])?;
        Ok(Self { certificate, private_key })
    }
}

/// A certificate of an account.
pub(super) struct AccountUpload {
    /// A CA bundle; else a client certificate with its key.
    pub(super) ca: bool,
    pub(super) certificates: Zeroizing<String>,
    pub(super) name: Option<String>,
    /// There if it is no CA bundle, which has no use for one.
    pub(super) private_key: Option<Zeroizing<String>>,
}

impl AccountUpload {
    /// `{ca, certificates, name?, private_key?}`, null for what is left out; `max_pem` bounds the PEM fields each, in bytes.
    pub(super) fn read(body: &[u8], max_pem: usize) -> Result<Self, Problem> {
        let mut fields = Fields::parse(body)?.lenient();
        let declared = fields.has("ca");
        let ca = fields.required_flag("ca");
        let certificates = fields.text("certificates");
        let name = fields.optional_text_or_null("name").map(|name| name.to_string()).filter(|name| !name.is_empty());
        let given = fields.has("private_key") && !fields.is_null("private_key");
        let private_key = fields.optional_text_or_null("private_key");
        if declared && !ca && !given {
            fields.fault(
                "private_key",
                "is missing; a client certificate is of use only with its key (certificates of CAs are sent with ca as true)",
            );
        }
        if name.as_ref().is_some_and(|name| name.chars().count() > MAX_NAME) {
            fields.fault("name", format_args!("is longer than {MAX_NAME} characters; shorten it"));
        }
        if name.as_ref().is_some_and(|name| name.contains(char::is_control)) {
            fields.fault("name", "has a control character; remove it");
        }
        fields.finish()?;
        let key = private_key.as_ref().map_or("", |key| key.as_str());
        bound(max_pem, &[("certificates", &certificates), ("private_key", key)])?;
        Ok(Self { ca, certificates, name, private_key })
    }
}

/// `{config: [{hostname, cert_id?, enabled}]}` with at most `most` entries. Whether they can be had, and whether one
/// contradicts another, is for those to say who know what there is.
pub(super) fn read_config(body: &[u8], most: usize) -> Result<Vec<Wanted>, Problem> {
    let mut fields = Fields::parse(body)?.lenient();
    let mut config = Vec::new();
    for mut object in fields.objects("config", most) {
        config.extend(read_entry(&mut object));
        fields.absorb(object);
    }
    fields.finish()?;
    Ok(config)
}

/// `None`: something is wrong, and noted.
fn read_entry(object: &mut Fields<'_>) -> Option<Wanted> {
    let hostname = match (object.has_text("hostname"), object.text("hostname")) {
        // Noted already: it is missing, or no text.
        (false, _) => None,
        (true, text) => read_hostname(&text).map_err(|why| object.fault("hostname", why)).ok(),
    };
    let named = object.optional_text_or_null("cert_id").filter(|text| !text.is_empty());
    // What ends names nothing: whatever became of its certificate, and whatever clients have in the place of an id.
    let ends = object.is_null("enabled");
    let certificate = named.filter(|text| !ends || text.chars().count() > MAX_ID).and_then(|text| {
        let id = read_id(&text).as_deref().and_then(CertificateId::parse);
        if id.is_none() {
            object.numbered_fault("cert_id", codes::NOT_NAMEABLE, ID_FORM);
        }
        id
    });
    let enabled = object.flag_or_null("enabled");
    Some(Wanted { hostname: hostname?, certificate, enabled })
}

/// Said of what is no id of a certificate.
const ID_FORM: &str = "is no id of a certificate: 32 hex digits, as the list of certificates gives it";

/// `{enabled}` of the zone's settings.
pub(super) fn read_settings(body: &[u8]) -> Result<bool, Problem> {
    let mut fields = Fields::parse(body)?.lenient();
    let enabled = fields.required_flag("enabled");
    fields.finish()?;
    Ok(enabled)
}

/// The hex digits of a certificate's id: 32, or a UUID of them (RFC 9562 section 4).
pub(super) fn read_id(text: &str) -> Option<String> {
    if text.len() > MAX_ID {
        return None;
    }
    let digits = match text.len() {
        32 => text.to_owned(),
        36 => {
            let dashes: Vec<_> = text.bytes().enumerate().filter(|(_, b)| *b == b'-').map(|(at, _)| at).collect();
            (dashes == [8, 13, 18, 23]).then(|| text.replace('-', ""))?
        }
        _ => return None,
    };
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| digits.to_ascii_lowercase())
}

/// A host name, alone: the association covers every port of it.
///
/// # Errors
/// What it is instead, and what to do.
pub(super) fn read_hostname(text: &str) -> Result<Host, String> {
    let own = "PUT /v1/projects/{idOrName}/bindings";
    if text.is_empty() {
        return Err("is empty; give a host name, such as api.example.com".to_owned());
    }
    if text.chars().count() > MAX_HOSTNAME {
        return Err(format!("is longer than {MAX_HOSTNAME} characters"));
    }
    if text.contains('*') {
        return Err(format!("is a wildcard, and an association is of one hostname; a wildcard is bound by {own}"));
    }
    if text.contains("://") || text.contains(['/', '?', '#', '@']) {
        return Err("is a URL; give the host name alone, without scheme, user, path and query".to_owned());
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.split(']').next());
    if bare.is_some() || std::net::Ipv6Addr::from_str(text).is_ok() {
        return Err(format!("is an IPv6 address, and an association is of a hostname; an address is bound by {own}"));
    }
    if text.contains(':') {
        return Err(format!("has a port, and an association covers every port; one port is bound by {own}"));
    }
    let host = Host::parse(text).map_err(|why| why.to_string())?;
    debug_assert!(!matches!(host.kind(), HostKind::V6(_)), "brackets were refused");
    Ok(host)
}

/// No PEM field is larger than `limits.max_pem`.
fn bound(max_pem: usize, fields: &[(&str, &str)]) -> Result<(), Problem> {
    let large = fields.iter().filter(|(_, text)| text.len() > max_pem);
    let details: Vec<Detail> = large
        .map(|(name, _)| Detail {
            message: format!("{name}: larger than {}; send only what belongs there", size(max_pem)),
            number: None,
            pointer: Some(format!("/{name}")),
        })
        .collect();
    if details.is_empty() {
        return Ok(());
    }
    let message = details.iter().map(|detail| detail.message.as_str()).collect::<Vec<_>>().join("; ");
    Err(Problem::too_large(message).of(details))
}

#[cfg(test)]
mod tests;
