//! `[health]`: where probes and metrics alone are served.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::Settings;
use super::super::file::HealthTable;
use super::Checker;
use crate::domain::Endpoint;

/// Longer than client certificates last.
const MOST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Checker<'_> {
    /// The address, unless another listener of `settings` has it. No warning where other machines reach it: that is
    /// what it is for, and it says no more than a state and numbers.
    pub(super) fn health(&mut self, table: &HealthTable, settings: &Settings) -> Option<SocketAddr> {
        let key = "health.listen";
        let address = self.address(key, table.listen.as_deref()?)?;
        let endpoints = settings.listeners.iter().map(|l| &l.listen).chain([&settings.management.listen]);
        let mut taken = endpoints.filter_map(Endpoint::tcp);
        if address.port() != 0 && taken.any(|other| other == address) {
            self.complain(key, "this address is used twice", "give the health listener a port of its own");
        }
        Some(address)
    }

    /// Time before the end of a certificate from which on egret is unready.
    pub(super) fn degrade_before_expiry(&mut self, table: &HealthTable) -> Option<Duration> {
        let key = "health.degrade_before_expiry";
        let text = table.degrade_before_expiry.as_deref()?;
        match humantime::parse_duration(text) {
            Ok(before) if before <= MOST => Some(before),
            Ok(_) => {
                self.complain(key, "no certificate would be good for so long", "write at most 365days");
                None
            }
            Err(_) => {
                self.complain(key, "this is not a duration", "write it with its unit, such as \"7days\" or \"12h\"");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Overlay, load_text};

    fn checked(text: &str) -> Result<Option<String>, String> {
        load_text(text, Path::new("/etc/e.toml"), &Overlay::default(), &|_| None)
            .map(|loaded| loaded.settings.health.map(|a| a.to_string()))
            .map_err(|refused| refused.to_string())
    }

    #[test]
    fn listens_where_it_is_told_and_else_nowhere() {
        assert_eq!(checked(""), Ok(None));
        assert_eq!(checked("[health]"), Ok(None));
        assert_eq!(checked("[health]\nlisten = \"0.0.0.0:9091\""), Ok(Some("0.0.0.0:9091".to_owned())));
        assert_eq!(checked("[health]\nlisten = \"[::]:0\""), Ok(Some("[::]:0".to_owned())));
    }

    #[test]
    fn degrades_when_it_is_told_and_else_never() {
        let checked = |text: &str| {
            load_text(text, Path::new("/etc/e.toml"), &Overlay::default(), &|_| None)
                .map(|loaded| loaded.settings.degrade_before_expiry.map(|d| d.as_secs()))
                .map_err(|refused| refused.to_string())
        };
        assert_eq!(checked("[health]"), Ok(None));
        assert_eq!(checked("[health]\ndegrade_before_expiry = \"7days\""), Ok(Some(7 * 86_400)));
        assert_eq!(checked("[health]\ndegrade_before_expiry = \"0s\""), Ok(Some(0)), "once it has expired");
        for wrong in ["7", "\"7\"", "\"soon\"", "\"2years\""] {
            let said = checked(&format!("[health]\ndegrade_before_expiry = {wrong}")).unwrap_err();
            assert!(said.starts_with("/etc/e.toml:2: health.degrade_before_expiry"), "{said}");
        }
    }

    #[test]
    fn wants_an_address_of_its_own() {
        let said = checked("[health]\nlisten = \"localhost\"").unwrap_err();
        assert!(said.starts_with("/etc/e.toml:2: health.listen: this is not an IP address with a port"), "{said}");
        for taken in ["127.0.0.1:9090", "127.0.0.1:8080"] {
            let said = checked(&format!("[health]\nlisten = \"{taken}\"")).unwrap_err();
            assert!(said.contains("health.listen: this address is used twice"), "{said}");
        }
        assert!(checked("[health]\nlisten = \"127.0.0.1:0\"\ntoken = 1").is_err());
    }
}
