//! `[telemetry]`: what is told without being asked.

use http::uri::PathAndQuery;
use zeroize::Zeroizing;

use super::super::file::TelemetryTable;
use super::super::{TelemetrySettings, WebhookSettings, WebhookTarget};
use super::Checker;
use crate::domain::{HttpTarget, Origin};

const KEY: &str = "telemetry.expiry_webhook";
const TOKEN: &str = "telemetry.expiry_webhook_token";
const REMEDY: &str = "write it as https://hooks.example.com/path, or as http://127.0.0.1:PORT/path on this machine";
const TOKEN_REMEDY: &str =
    "write expiry_webhook_token = { env = \"…\" } or { file = \"…\" }, which is sent as Authorization: Bearer";

impl Checker<'_> {
    pub(super) fn telemetry(&mut self, table: &TelemetryTable) -> TelemetrySettings {
        let token = table.expiry_webhook_token.as_ref().and_then(|table| self.secret(TOKEN, "token", table));
        if table.expiry_webhook_token.is_some() && table.expiry_webhook.is_none() {
            self.complain(TOKEN, "there is no webhook that it could be sent to", "write expiry_webhook as well");
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            let what = "it holds characters that no token has";
            self.complain(TOKEN, what, "give the token alone, without blanks");
        }
        let url = table.expiry_webhook.as_deref();
        TelemetrySettings {
            access_log: table.access_log.unwrap_or(true),
            expiry_webhook: url.and_then(|url| self.webhook(url)).map(|(to, path)| WebhookSettings { to, path, token }),
        }
    }

    /// The URL often is a secret as a whole: no complaint repeats it.
    fn webhook(&mut self, url: &str) -> Option<(WebhookTarget, Zeroizing<String>)> {
        let Some((scheme, rest)) = url.trim().split_once("://") else {
            self.complain(KEY, "this is not a URL", REMEDY);
            return None;
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            let what = "a user stands in the URL, where everybody who sees the file reads it";
            self.complain(KEY, what, TOKEN_REMEDY);
            return None;
        }
        if path.contains('#') {
            self.complain(KEY, "a fragment is sent to no server", "leave out what begins with #");
            return None;
        }
        let mut whole = Zeroizing::new(String::with_capacity(path.len() + 1));
        if !path.starts_with('/') {
            whole.push('/');
        }
        whole.push_str(path);
        if PathAndQuery::try_from(whole.as_str()).is_err() {
            let what = "its path has characters that no URL has";
            self.complain(KEY, what, "write them percent-encoded (RFC 3986 section 2.1)");
            return None;
        }
        let to = match scheme.to_ascii_lowercase().as_str() {
            "https" => Origin::from_authority(authority, crate::domain::HTTPS_PORT).map(WebhookTarget::Https),
            "http" => HttpTarget::from_authority(authority).map(WebhookTarget::Http),
            _ => {
                self.complain(KEY, "only https can be spoken to a webhook", REMEDY);
                return None;
            }
        };
        match to {
            Ok(WebhookTarget::Http(target)) if !is_loopback(&target) => {
                let what = "http would show the warnings to everybody on the way";
                self.complain(KEY, what, "write https://; http:// is for receivers on this machine alone");
                None
            }
            Ok(to) => Some((to, whole)),
            Err(error) => {
                let text = error.to_string();
                self.complain(KEY, text.split(';').next().unwrap_or_default(), REMEDY);
                None
            }
        }
    }
}

fn is_loopback(target: &HttpTarget) -> bool {
    let host = target.host();
    host.is_localhost() || host.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Overlay, WebhookSettings, load_text};

    fn checked(lines: &str) -> Result<Option<WebhookSettings>, String> {
        let variables = |name: &str| (name == "HOOK").then(|| "s3cret".to_owned());
        load_text(&format!("[telemetry]\n{lines}"), Path::new("/etc/e.toml"), &Overlay::default(), &variables)
            .map(|loaded| loaded.settings.telemetry.expiry_webhook)
            .map_err(|refused| refused.to_string())
    }

    #[test]
    fn takes_https_and_http_on_this_machine() {
        assert_eq!(checked(""), Ok(None));
        for (url, path) in [
            ("https://hooks.example.com/services/T/B?x=1", "/services/T/B?x=1"),
            ("https://hooks.example.com", "/"),
            ("HTTPS://hooks.example.com:8443?x", "/?x"),
            ("http://127.0.0.1:8125/hook", "/hook"),
            ("http://[::1]:8125/hook", "/hook"),
            ("http://localhost/hook", "/hook"),
        ] {
            let hook = checked(&format!("expiry_webhook = \"{url}\"")).expect(url).expect(url);
            assert_eq!(*hook.path, path, "{url}");
            assert!(!format!("{hook:?}").contains("hook\"") && !format!("{hook:?}").contains("services"), "{hook:?}");
        }
        let hook = checked("expiry_webhook = \"https://a.example/x\"\nexpiry_webhook_token = { env = \"HOOK\" }");
        let hook = hook.expect("fine").expect("there");
        assert_eq!(hook.token.as_ref().map(|t| t.as_str()), Some("s3cret"));
        assert!(!format!("{hook:?}").contains("s3cret"));
    }

    #[test]
    fn says_what_is_wrong_and_never_repeats_it() {
        for (lines, what) in [
            ("expiry_webhook = \"hooks.example.com/SECRET\"", "this is not a URL"),
            ("expiry_webhook = \"ftp://hooks.example.com/SECRET\"", "only https"),
            ("expiry_webhook = \"http://hooks.example.com/SECRET\"", "http would show"),
            ("expiry_webhook = \"http://10.0.0.1/SECRET\"", "http would show"),
            ("expiry_webhook = \"https://me:SECRET@hooks.example.com/\"", "a user stands in the URL"),
            ("expiry_webhook = \"https://hooks.example.com/SECRET#x\"", "fragment"),
            ("expiry_webhook = \"https://hooks.example.com/SECRET x\"", "characters that no URL has"),
            ("expiry_webhook = \"https:///SECRET\"", KEY_OF_HOST),
            ("expiry_webhook_token = { env = \"HOOK\" }", "there is no webhook"),
            (
                "expiry_webhook = \"https://a.example/SECRET\"\nexpiry_webhook_token = { env = \"NONE\" }",
                "the environment variable that it names is not set",
            ),
        ] {
            let said = checked(lines).expect_err(lines);
            assert!(said.contains(what) && said.contains("telemetry.expiry_webhook"), "{lines}: {said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }

    const KEY_OF_HOST: &str = "telemetry.expiry_webhook: ";
}
