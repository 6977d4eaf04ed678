//! What a command needs to know of an egret: which listener, which credential, which CA, and where certificates are
//! presented. Asked of the API, for an egret that runs already and for a private one alike.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::args::CredentialArgs;
use crate::cli::client::{Api, ApiError, segment};
use crate::domain::{Pattern, hex};

/// The way through one egret.
pub(super) struct Access {
    /// For `HTTPS_PROXY` and its like: `http://[PROJECT:TOKEN@]HOST:PORT`.
    pub(super) proxy: Zeroizing<String>,
    /// Where a client that can send no credential is served, if anywhere: host and port.
    pub(super) open: Option<(String, u16)>,
    /// Where `proxy` is: host and port.
    pub(super) endpoint: (String, u16),
    /// The interception CA's certificate, PEM.
    pub(super) ca: String,
    /// Where the project presents a certificate.
    pub(super) bound: Vec<Pattern>,
    /// Name of the credential that was made and has to be revoked.
    issued: Option<String>,
}

/// How a command shows who it is.
pub(super) enum Credential<'a> {
    /// A token to be made through the API.
    Issue(&'a CredentialArgs),
    /// A token that the private egret knows already.
    Known(&'a Zeroizing<String>),
    /// None at all.
    Without,
}

/// A forward listener that can be connected to from here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    host: String,
    port: u16,
    tls: bool,
    auth: Auth,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Auth {
    /// The listener's fixed project is the one asked for.
    None,
    Token,
}

impl Access {
    /// Asks `api` for a way into `project` (its name or id), and for a credential where the listener wants one.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub(super) async fn ask(
        api: &mut Api,
        status: &Value,
        project: &str,
        credential: Credential<'_>,
    ) -> anyhow::Result<Self> {
        let (id, user) = project_of(status, project)?;
        let bindings = api.get(&format!("/v1/projects/{}/bindings", segment(&id))).await?;
        let answer = api.get("/v1/ca").await?;
        let ca = answer["pem"].as_str().context("the API's answer holds no CA certificate")?.to_owned();

        let open_only = match &credential {
            Credential::Issue(args) => args.without_credential,
            Credential::Known(_) => false,
            Credential::Without => true,
        };
        let ways = ways(status, &id, api.host());
        let open = ways.iter().find(|way| way.auth == Auth::None && !way.tls);
        let best = ways.iter().filter(|way| way.auth == Auth::None || !open_only).min_by_key(|way| way.rank());
        let Some(mut best) = best else { bail!(no_way(status, &id, api, open_only)) };
        let mut issued = None;
        let mut token = None;
        if best.auth == Auth::Token {
            match credential {
                Credential::Issue(args) => match issue(api, &id, args).await {
                    Ok((name, text)) => (issued, token) = (Some(name), Some(text)),
                    Err(error) => match ways.iter().filter(|way| way.auth == Auth::None).min_by_key(|way| way.rank()) {
                        // Not allowed to make one, or too old an egret: the fixed project does as well.
                        Some(open) if matches!(error, ApiError::Refused { .. }) => best = open,
                        _ => return Err(explained(error)),
                    },
                },
                Credential::Known(text) => token = Some(text.clone()),
                Credential::Without => {}
            }
        }
        if best.tls {
            eprintln!(
                "egret: warning: the only listener for this project speaks TLS; not every client can use a proxy that does"
            );
        }
        Ok(Self {
            proxy: best.url(token.as_ref().map(|token| (user.as_str(), token))),
            open: open.map(|way| (way.host.clone(), way.port)),
            endpoint: (best.host.clone(), best.port),
            ca,
            bound: bound(&bindings),
            issued,
        })
    }

    #[cfg(test)]
    pub(super) fn of(proxy: Zeroizing<String>, open: Option<(String, u16)>, bound: Vec<Pattern>, ca: String) -> Self {
        let endpoint = ("127.0.0.1".to_owned(), 8081);
        Self { proxy, open, endpoint, ca, bound, issued: None }
    }

    /// Whether a credential was made for this command.
    pub(super) fn has_credential(&self) -> bool {
        self.issued.is_some()
    }

    /// Revokes the credential, if one was made.
    ///
    /// # Errors
    /// Those of the API; the credential then ends by itself at the end of its time.
    pub(super) async fn revoke(&mut self, api: &mut Api) -> Result<(), ApiError> {
        match self.issued.take() {
            Some(name) => api.delete(&format!("/v1/tokens/{}", segment(&name))).await.map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Id of the project, and how a Basic credential names it: by its name where that is unique and needs no escape,
/// which not every client undoes; else by its id.
fn project_of(status: &Value, wanted: &str) -> anyhow::Result<(String, String)> {
    let listed = status["projects"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut found = listed.iter().filter(|p| p["id"] == wanted || p["name"] == wanted);
    let Some(project) = found.next() else {
        bail!("this egret has no such project, or the token does not reach it; `egret status` lists those it reaches");
    };
    if found.next().is_some() {
        bail!("several projects have this name; say which one by its id, as `egret status --json` shows it");
    }
    let [id, name] = ["id", "name"].map(|key| project[key].as_str().unwrap_or_default().to_owned());
    let user = if segment(&name) == name && !name.is_empty() { name } else { id.clone() };
    Ok((id, user))
}

impl Way {
    /// The smaller the better: with a credential of its own a command is told from everyone else on the machine;
    /// few clients speak TLS to a proxy.
    fn rank(&self) -> (bool, bool) {
        (self.tls, self.auth == Auth::None)
    }

    fn url(&self, credential: Option<(&str, &Zeroizing<String>)>) -> Zeroizing<String> {
        let scheme = if self.tls { "https" } else { "http" };
        let (host, port) = (&self.host, self.port);
        Zeroizing::new(match credential {
            Some((user, token)) => {
                let token = Zeroizing::new(segment(token));
                format!("{scheme}://{}:{}@{host}:{port}", segment(user), *token)
            }
            None => format!("{scheme}://{host}:{port}"),
        })
    }
}

/// The forward listeners that `project` can use, as a client on this machine reaches them. `api` is the API's host.
fn ways(status: &Value, project: &str, api: &str) -> Vec<Way> {
    let listed = status["listeners"].as_array().map(Vec::as_slice).unwrap_or_default();
    listed.iter().filter_map(|listener| way(listener, project, api)).collect()
}

fn way(listener: &Value, project: &str, api: &str) -> Option<Way> {
    if listener["mode"] != "forward" {
        return None;
    }
    let auth = match listener["auth"].as_str() {
        Some("token") => Auth::Token,
        // A client certificate is nothing that variables could carry.
        Some("none") if listener["project"] == project => Auth::None,
        _ => return None,
    };
    // Anything but an address is a socket that no variable can name.
    let address: SocketAddr = listener["address"].as_str()?.parse().ok()?;
    let host = reachable(address.ip(), api)?;
    Some(Way { host, port: address.port(), tls: listener["tls"] == true, auth })
}

/// The host by which a listener on `address` is reached from here: "every address" is the one at which the API is.
fn reachable(address: IpAddr, api: &str) -> Option<String> {
    let bracketed = |ip: IpAddr| SocketAddr::new(ip, 0).to_string().trim_end_matches(":0").to_owned();
    let bare = api.trim_start_matches('[').trim_end_matches(']');
    let here = bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    match address {
        _ if address.is_unspecified() && !here => Some(api.to_owned()),
        IpAddr::V4(ip) if ip.is_unspecified() => Some("127.0.0.1".to_owned()),
        IpAddr::V6(ip) if ip.is_unspecified() => Some("[::1]".to_owned()),
        // Another machine's loopback is not ours.
        ip if ip.to_canonical().is_loopback() && !here => None,
        ip => Some(bracketed(ip)),
    }
}

/// Where something is presented; *none* is not.
fn bound(bindings: &Value) -> Vec<Pattern> {
    let listed = bindings["bindings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let presented = listed.iter().filter(|b| b["certId"].is_string());
    presented.filter_map(|b| Pattern::parse(b["origin"].as_str()?).ok()).collect()
}

async fn issue(api: &mut Api, project: &str, args: &CredentialArgs) -> Result<(String, Zeroizing<String>), ApiError> {
    let mut bits = [0; 8];
    // A name, no secret; were there no randomness, the API would find the name taken.
    let _ = aws_lc_rs::rand::fill(&mut bits);
    let name = format!("run-{}", hex(&bits));
    let body = json!({ "name": name, "role": "proxy", "projects": [project], "ttl": args.ttl.as_secs().max(1) });
    let mut answer = api.post("/v1/tokens", Zeroizing::new(body.to_string().into_bytes())).await?;
    match answer["token"].take() {
        Value::String(text) if !text.is_empty() => Ok((name, Zeroizing::new(text))),
        _ => Err(api.unlike_egret("a token was made and not told")),
    }
}

fn explained(error: ApiError) -> anyhow::Error {
    let what = match &error {
        ApiError::Refused { status, .. } if status.as_u16() == 404 => {
            "this egret makes no tokens through its API; give it a [[listeners]] with project in place of auth = \"token\""
        }
        ApiError::Refused { status, .. } if status.as_u16() == 403 => {
            "making a credential for the command takes an administrator token; set EGRET_TOKEN to one, or give egret a \
             [[listeners]] with a fixed project"
        }
        _ => "no credential could be made for the command",
    };
    anyhow::Error::from(error).context(what)
}

fn no_way(status: &Value, project: &str, api: &Api, open_only: bool) -> String {
    let any = |wanted: &dyn Fn(&Value) -> bool| status["listeners"].as_array().is_some_and(|l| l.iter().any(wanted));
    let forward = |l: &Value| l["mode"] == "forward";
    if any(&forward) && !any(&|l| l.get("auth").is_some()) {
        return format!(
            "the egret at {} is older than this program and does not say who its listeners are for; \
                        restart it with this version",
            api.url()
        );
    }
    let remedy =
        "add [[listeners]] with mode = \"forward\" and project = \"…\" or auth = \"token\" to its configuration";
    if !any(&forward) {
        return format!("the egret at {} has no forward listener; {remedy}", api.url());
    }
    if open_only {
        return format!(
            "the egret at {} has no forward listener for this project that asks for no credential; leave out \
             --without-credential, or add [[listeners]] with mode = \"forward\" and project = \"…\"",
            api.url()
        );
    }
    let usable = any(&|l| forward(l) && (l["auth"] == "token" || l["project"] == project));
    let what = if usable { "that can be reached from here by TCP" } else { "that takes this project" };
    format!("the egret at {} has no forward listener {what}; {remedy}", api.url())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(listeners: Value) -> Value {
        json!({
            "projects": [{"id": "prj_a", "name": "default"}, {"id": "prj_b", "name": "a b"}],
            "listeners": listeners,
        })
    }

    fn best(listeners: Value, api: &str) -> Option<String> {
        let ways = ways(&status(listeners), "prj_a", api);
        ways.iter().min_by_key(|way| way.rank()).map(|way| way.url(None).to_string())
    }

    #[test]
    fn a_listener_that_asks_for_a_credential_is_preferred() {
        let open = json!({"mode": "forward", "address": "127.0.0.1:1", "auth": "none", "project": "prj_a"});
        let token = json!({"mode": "forward", "address": "0.0.0.0:2", "auth": "token"});
        let tls = json!({"mode": "forward", "address": "[::]:3", "auth": "token", "tls": true});
        let other = json!({"mode": "forward", "address": "127.0.0.1:4", "auth": "none", "project": "prj_b"});
        let sidecar = json!({"mode": "sidecar", "address": "127.0.0.1:5", "auth": "none", "project": "prj_a"});
        let unix = json!({"mode": "forward", "address": "unix:/run/egret.sock", "auth": "token"});
        let mtls = json!({"mode": "forward", "address": "127.0.0.1:6", "auth": "mtls", "tls": true});
        let here = "127.0.0.1";
        assert_eq!(best(json!([open, token]), here).unwrap(), "http://127.0.0.1:2");
        assert_eq!(best(json!([tls, open]), here).unwrap(), "http://127.0.0.1:1");
        assert_eq!(best(json!([tls]), here).unwrap(), "https://[::1]:3");
        assert_eq!(best(json!([other, sidecar, unix, mtls]), here), None);
    }

    #[test]
    fn another_machines_loopback_is_not_ours() {
        let token = |address: &str| json!([{"mode": "forward", "address": address, "auth": "token"}]);
        assert_eq!(best(token("127.0.0.1:1"), "proxy.corp"), None);
        assert_eq!(best(token("0.0.0.0:1"), "proxy.corp").unwrap(), "http://proxy.corp:1");
        assert_eq!(best(token("[::]:1"), "[2001:db8::1]").unwrap(), "http://[2001:db8::1]:1");
        assert_eq!(best(token("[2001:db8::7]:1"), "localhost").unwrap(), "http://[2001:db8::7]:1");
    }

    #[test]
    fn a_project_is_named_so_that_every_client_sends_it_right() {
        let status = status(json!([]));
        assert_eq!(project_of(&status, "prj_a").unwrap(), ("prj_a".to_owned(), "default".to_owned()));
        assert_eq!(project_of(&status, "a b").unwrap(), ("prj_b".to_owned(), "prj_b".to_owned()));
        assert!(!project_of(&status, "s3cret").unwrap_err().to_string().contains("s3cret"));
        let way = Way { host: "127.0.0.1".to_owned(), port: 1, tls: false, auth: Auth::Token };
        assert_eq!(*way.url(Some(("p", &Zeroizing::new("a/b".to_owned())))), "http://p:a%2Fb@127.0.0.1:1");
    }

    #[test]
    fn what_presents_nothing_is_not_bound() {
        let answer = json!({"bindings": [{"origin": "https://a.test", "certId": "c"}, {"origin": "https://b.test", "certId": null}]});
        assert_eq!(bound(&answer), [Pattern::parse("https://a.test").unwrap()]);
    }
}
