//! The Cloudflare dialect as a test speaks it: one project with an account and a zone, and calls under `/client/v4`.

use serde_json::{Value, json};

use super::certificates::Pair;
use super::egret::{Egret, Setup};

/// The name of the project.
pub(crate) const PROJECT: &str = "shop";
/// Its account.
pub(crate) const ACCOUNT: &str = "023e105f4ecef8ad9ca31a8372d0c353";
/// Its zone.
pub(crate) const ZONE: &str = "372e67954025e0ba6aaa6d586b9e0b59";

impl Setup {
    /// The project with its account and zone, and a forward listener for it.
    pub(crate) fn cloudflare(self) -> Self {
        self.section(&format!("[[projects]]\nname = \"{PROJECT}\"\naccount_id = \"{ACCOUNT}\"\nzone_id = \"{ZONE}\""))
            .listener("shop", "forward", &format!("project = \"{PROJECT}\""))
    }
}

impl Egret {
    /// A call below the zone's `origin_tls_client_auth`; the status and the envelope.
    #[track_caller]
    pub(crate) fn pulls(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.api(method, &format!("/client/v4/zones/{ZONE}/origin_tls_client_auth{path}"), body)
    }

    /// A call below the account's `mtls_certificates`; the status and the envelope.
    #[track_caller]
    pub(crate) fn mtls(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.api(method, &format!("/client/v4/accounts/{ACCOUNT}/mtls_certificates{path}"), body)
    }

    /// Creates a certificate of the zone (`""`) or for its hostnames (`/hostnames/certificates`); its id.
    #[track_caller]
    pub(crate) fn create(&self, path: &str, pair: &Pair) -> String {
        let answer = self.pulls("POST", path, Some(&json!({ "certificate": pair.chain, "private_key": pair.key })));
        id_of(&succeeded(answer))
    }

    /// Switches the zone on or off.
    #[track_caller]
    pub(crate) fn switch_zone(&self, enabled: bool) {
        succeeded(self.pulls("PUT", "/settings", Some(&json!({ "enabled": enabled }))));
    }

    /// Sets the association of one hostname.
    #[track_caller]
    pub(crate) fn associate(&self, hostname: &str, certificate: &str, enabled: Option<bool>) {
        let entry = json!({ "hostname": hostname, "cert_id": certificate, "enabled": enabled });
        succeeded(self.pulls("PUT", "/hostnames", Some(&json!({ "config": [entry] }))));
    }

    /// Binds a certificate by egret's own call.
    #[track_caller]
    pub(crate) fn bind(&self, origin: &str, certificate: &str) {
        let body = json!({ "origin": origin, "certId": certificate });
        let (status, answer) = self.api("PUT", &format!("/v1/projects/{PROJECT}/bindings"), Some(&body));
        assert_eq!(status, 200, "{answer}");
    }
}

/// The result of a call that has to succeed.
#[track_caller]
pub(crate) fn succeeded((status, envelope): (u16, Value)) -> Value {
    assert_eq!((status, &envelope["success"]), (200, &json!(true)), "{envelope}");
    envelope["result"].clone()
}

/// The code of a call that has to fail with this status.
#[track_caller]
pub(crate) fn failed(status: u16, (answered, envelope): (u16, Value)) -> u64 {
    assert_eq!((answered, &envelope["success"]), (status, &json!(false)), "{envelope}");
    envelope["errors"][0]["code"].as_u64().expect("a code")
}

/// The `id` of an object.
#[track_caller]
pub(crate) fn id_of(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("an id: {object}")).to_owned()
}

/// The `id`s of a list, sorted.
#[track_caller]
pub(crate) fn ids_of(list: &Value) -> Vec<String> {
    let mut ids: Vec<_> = list.as_array().expect("a list").iter().map(id_of).collect();
    ids.sort();
    ids
}
