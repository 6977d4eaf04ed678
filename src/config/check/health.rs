//! `[health]`: where probes and metrics alone are served.

use std::net::SocketAddr;

use super::super::Settings;
use super::super::file::HealthTable;
use super::Checker;
use crate::domain::Endpoint;

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
