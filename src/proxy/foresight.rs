//! What would become of a request, by the functions that decide about requests.

use std::sync::Arc;

use super::Proxy;
use super::connect::{Plan, is_wanted, plan};
use super::forward::{check_usable, name_project};
use crate::config::{CallerSettings, ListenerMode, ListenerSettings};
use crate::domain::{HTTP_PORT, HTTPS_PORT, Host, HttpTarget, Origin, Rule};
use crate::identity::Asked;
use crate::pki::names::rfc4514_of_der as rfc4514;
use crate::policy::EgressPolicy;
use crate::registry::{Foresight, Refused, Remembered, Snapshot, Treatment, WayIn};
use crate::upstream::Destination;

/// CA names told of those that an origin listed.
const MAX_CAS: usize = 16;

/// Looks ahead for explanations.
pub struct Outlook {
    listeners: Vec<ListenerSettings>,
    policy: Arc<EgressPolicy>,
    /// Who remembers; `None` where no egret runs.
    proxy: Option<Arc<Proxy>>,
}

impl Outlook {
    /// An outlook over these listeners; `proxy` knows what was learned of origins.
    #[must_use]
    pub fn new(listeners: Vec<ListenerSettings>, policy: Arc<EgressPolicy>, proxy: Option<Arc<Proxy>>) -> Self {
        Self { listeners, policy, proxy }
    }

    /// What becomes of what goes to `host` and `port`, unless the policy on names has a word against it. A tunnel is
    /// judged by its own port, whatever comes out of it.
    fn judged(&self, host: &Host, port: u16, tls: bool, otherwise: (Treatment, String)) -> (Treatment, String) {
        match self.policy.judge_origin(host, port, tls) {
            Ok(()) => otherwise,
            Err(denied) => (Treatment::Refuse, denied.why),
        }
    }

    fn asked_before(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Option<Arc<Asked>>> {
        self.proxy.as_ref()?.asked.get(&snapshot.info().id, origin)
    }

    /// What becomes of a CONNECT to `to` in which the client then speaks TLS, or plain HTTP.
    fn connect(&self, at: &ListenerSettings, snapshot: &Snapshot, to: &Origin, tls: bool) -> (Treatment, String) {
        let planned = plan(at.intercept, snapshot, to, || self.asked_before(snapshot, to));
        let (treatment, why) = match (planned, tls) {
            (Plan::Intercept { tls: true, .. }, true) => (Treatment::Intercept, "an identity applies to this origin"),
            (Plan::Intercept { tls: false, .. }, true) => {
                (Treatment::Tunnel, "no identity is shown to this origin; only plain HTTP to it would be lifted")
            }
            (Plan::Intercept { plain: Some(Destination::Tls(_)), .. } | Plan::Ask { plain: Some(_) }, false) => {
                (Treatment::Lift, "plain HTTP in a tunnel goes on over TLS, as in absolute form")
            }
            (Plan::Intercept { plain: Some(Destination::Plain(_)), .. }, false) => {
                (Treatment::Plain, "everything is intercepted at this listener, and nothing lifts it")
            }
            (Plan::Intercept { plain: None, .. } | Plan::Ask { plain: None }, false) => {
                (Treatment::Tunnel, "plain HTTP in a tunnel, and nothing lifts it")
            }
            (Plan::Ask { .. }, true) => (
                Treatment::AskFirst,
                "only the project default applies: intercepted if the origin asks for a certificate",
            ),
            (Plan::Tunnel(why), _) => (Treatment::Tunnel, why),
        };
        (treatment, why.to_owned())
    }

    fn forward(
        &self,
        at: &ListenerSettings,
        snapshot: &Snapshot,
        origin: &Origin,
        plain: Option<&HttpTarget>,
    ) -> Vec<WayIn> {
        let host = origin.host();
        let way = |request: String, (treatment, why): (Treatment, String)| WayIn {
            listener: at.name.clone(),
            request,
            treatment,
            why,
        };
        let port = plain.map_or(origin.port(), HttpTarget::port);
        let to = Origin::new(host.clone(), port);
        let tunnelled = self.judged(host, port, true, self.connect(at, snapshot, &to, plain.is_none()));
        let tunnel = way(format!("CONNECT {host}:{port}"), tunnelled);
        let http = match plain {
            Some(target) => target.to_string(),
            None if port == HTTPS_PORT || port == HTTP_PORT => format!("http://{host}"),
            None => format!("http://{host}:{port}"),
        };
        // Port 80 in an https URL is no port that plain http would be lifted to.
        let lifted =
            if plain.is_none() && port == HTTP_PORT { Origin::new(host.clone(), HTTPS_PORT) } else { origin.clone() };
        let lifting = snapshot.lifting(&lifted);
        let why = lifting.why(&lifted);
        let absolute = match lifting.is_lifted() {
            true => self.judged(host, lifted.port(), true, (Treatment::Lift, why)),
            // The port of the URL above: 80, where it names none.
            false => {
                let port = if plain.is_none() && port == HTTPS_PORT { HTTP_PORT } else { port };
                self.judged(host, port, false, (Treatment::Plain, why))
            }
        };
        let absolute = way(format!("GET {http}/"), absolute);
        match plain {
            Some(_) => vec![absolute, tunnel],
            None => {
                let secure = (Treatment::Tls, "absolute form is sent over TLS with what is selected".to_owned());
                let secure = self.judged(host, port, true, secure);
                vec![tunnel, way(format!("GET {origin}/"), secure), absolute]
            }
        }
    }
}

impl Foresight for Outlook {
    fn ways(&self, snapshot: &Snapshot, origin: &Origin, plain: Option<&HttpTarget>) -> Vec<WayIn> {
        let mut ways = Vec::new();
        for at in &self.listeners {
            if matches!(&at.caller, CallerSettings::Project(id) if *id != snapshot.info().id) {
                continue;
            }
            let request = match &at.mode {
                ListenerMode::Forward => {
                    ways.extend(self.forward(at, snapshot, origin, plain));
                    continue;
                }
                // What comes to a sidecar is https by its nature.
                ListenerMode::Sidecar(Some(fixed)) if fixed == origin => "GET / (whatever the Host)".to_owned(),
                ListenerMode::Sidecar(None) => format!("GET / with Host: {}", origin.authority()),
                ListenerMode::Sidecar(Some(_)) => continue,
            };
            let sent = (Treatment::Tls, "a sidecar sends everything over TLS with what is selected".to_owned());
            let (treatment, why) = self.judged(origin.host(), origin.port(), true, sent);
            ways.push(WayIn { listener: at.name.clone(), request, treatment, why });
        }
        ways
    }

    fn refuses(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Refused> {
        let mut failure = check_usable(&snapshot.select(origin), snapshot.info().on_expiry, origin).err()?;
        name_project(&mut failure, &snapshot.info().name);
        Some(Refused { code: failure.code, detail: failure.detail, fix: failure.fix })
    }

    fn remembers(&self, snapshot: &Snapshot, origin: &Origin) -> Option<Remembered> {
        let selection = snapshot.select(origin);
        // The last real handshake with this host says more than a question. Kept by name, as tickets are.
        let (asked, presented) = match selection.tls.last_asked(origin) {
            Some(asked) => (Some(Arc::new(asked.clone())), Some(asked.presented)),
            None => (self.asked_before(snapshot, origin)?, None),
        };
        let shown = match selection.rule {
            Rule::Exact | Rule::Wildcard => selection.tls.identity().is_some(),
            Rule::Default => is_wanted(&selection, asked.as_deref()),
            Rule::None | Rule::Nothing => false,
        };
        let names = asked.iter().flat_map(|asked| asked.cas.iter());
        Some(Remembered {
            asked: asked.is_some(),
            cas: names.take(MAX_CAS).map(|der| rfc4514(der)).collect(),
            ca_count: asked.as_ref().map_or(0, |asked| asked.ca_count),
            presented,
            shown,
        })
    }
}

#[cfg(test)]
mod tests;
