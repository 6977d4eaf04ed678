//! The sockets that clients connect to, and the TLS that they are met with: first of all, so that what is wrong with
//! them is told before anything is touched.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};

use crate::config::{CallerSettings, Complaint, ListenerSettings, Refused, ServerTlsSettings, Settings};
use crate::domain::Endpoint;
use crate::domain::time::now;
use crate::net::listen::{Listening, Passed, Remover};
use crate::pki::server::ServerTls;

/// What clients of the proxy may speak inside TLS, the better first.
const PROXY_ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// What clients of the management API may speak.
const MANAGEMENT_ALPN: &[&[u8]] = &[b"http/1.1"];

/// Every socket, bound.
pub(super) struct Sockets {
    /// In the order of the settings.
    pub(super) listeners: Vec<Listening>,
    pub(super) management: Listening,
    pub(super) health: Option<Listening>,
    /// Dropped last: what was not removed by then.
    pub(super) removers: Vec<Remover>,
}

/// What the sockets are opened with, in the order of the settings; `None` = in the clear.
pub(super) struct Tls {
    pub(super) listeners: Vec<Option<Arc<ServerTls>>>,
    pub(super) management: Option<Arc<ServerTls>>,
}

/// The names of the two that have none in the settings, as a .socket unit calls them.
const MANAGEMENT: &str = "management";
const HEALTH: &str = "health";

/// Takes each socket from what was handed over, by the listener's name, else by its address; what is not there is bound.
/// What a socket that was handed over says of itself wins.
///
/// # Errors
/// An address that cannot be had; a socket that was handed over and that no listener is for.
pub(super) fn bind(settings: &Settings, mut passed: Passed) -> anyhow::Result<Sockets> {
    let mut removers = Vec::new();
    let endpoints = settings.listeners.iter().map(|l| &l.listen).chain([&settings.management.listen]);
    let all: Vec<SocketAddr> = endpoints.filter_map(Endpoint::tcp).chain(settings.health).collect();
    let names: Vec<&str> = settings.listeners.iter().map(|l| l.name.as_str()).chain([MANAGEMENT, HEALTH]).collect();
    // Names first: an address may be that of another listener's socket.
    let mut named: Vec<Option<Listening>> = names.iter().map(|name| passed.named(name)).collect();
    if settings.health.is_none() {
        ensure_unused(named.last().and_then(Option::as_ref))?;
    }
    let mut given = named.iter_mut();
    let mut open = |endpoint: &Endpoint, mode: u32, what: &str| {
        let given = given.next().and_then(Option::take);
        if let Some(socket) = given.or_else(|| passed.at(endpoint)) {
            return Ok(socket);
        }
        let only_v6 = endpoint.tcp().is_some_and(|address| shares_its_port(address, &all));
        let socket =
            Listening::bind(endpoint, mode, only_v6).with_context(|| format!("{what} cannot listen on {endpoint}"))?;
        removers.push(socket.remover());
        anyhow::Ok(socket)
    };
    let listeners = settings
        .listeners
        .iter()
        .map(|l| {
            let socket = open(&l.listen, l.socket_mode, &format!("listener {}", l.name))?;
            ensure_asked_for(l, &socket)?;
            Ok(socket)
        })
        .collect::<anyhow::Result<_>>()?;
    let management = open(&settings.management.listen, settings.management.socket_mode, "the management API")?;
    let asked = &settings.management;
    if asked.tls.is_none() && asked.listen.is_local() && !management.endpoint().is_local() {
        // As for one that is written so: it always wants a token, but the token crosses the network in clear.
        tracing::warn!(
            at = %management.endpoint(),
            "the socket that was handed over for the management API is reachable by other machines, over plain http; \
             correct ListenStream= of the .socket unit, or give [management] tls = {{ cert, key }}"
        );
    }
    let health = settings.health.map(|at| open(&Endpoint::Tcp(at), 0, "the health listener")).transpose()?;
    if let Some((name, endpoint)) = passed.left().next() {
        bail!(
            "a socket named {name} at {endpoint} was handed over, and no listener has that name or address; correct \
             FileDescriptorName= or ListenStream= of the .socket unit, or the configuration"
        );
    }
    Ok(Sockets { listeners, management, health, removers })
}

/// The configuration was checked with the address that stands there. What was handed over instead must not open to other
/// machines what they would need no credential for.
fn ensure_asked_for(listener: &ListenerSettings, socket: &Listening) -> anyhow::Result<()> {
    let open = matches!(listener.caller, CallerSettings::Project(_));
    if open && listener.listen.is_local() && !socket.endpoint().is_local() {
        bail!(
            "the socket that was handed over for listener {} listens at {}, where other machines could use the project's \
             certificates without a credential; correct ListenStream= of the .socket unit, or write that address and \
             auth = \"token\", auth = \"mtls\" or unsafe_open = true in the listener's table",
            listener.name,
            socket.endpoint()
        );
    }
    Ok(())
}

fn ensure_unused(health: Option<&Listening>) -> anyhow::Result<()> {
    match health {
        Some(socket) => bail!(
            "a socket named {HEALTH} at {} was handed over, and there is no [health] listen; add it, or correct the .socket unit",
            socket.endpoint()
        ),
        None => Ok(()),
    }
}

/// `[::]:80` takes IPv4 clients too, unless a listener of its own is there for them.
fn shares_its_port(address: SocketAddr, all: &[SocketAddr]) -> bool {
    let four = |other: &SocketAddr| other.is_ipv4() && other.port() == address.port();
    address.ip() == IpAddr::from([0; 16]) && address.port() != 0 && all.iter().any(four)
}

/// Reads and checks every `tls = { … }`.
///
/// # Errors
/// [`Refused`] with every complaint.
pub(super) fn tls(settings: &Settings) -> anyhow::Result<Tls> {
    let mut complaints = Vec::new();
    let file = settings.config_file.as_deref();
    let mut load = |tls: Option<&ServerTlsSettings>, alpn| match loaded(tls?, file, alpn) {
        Ok((tls, warnings)) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Some(tls)
        }
        Err(found) => {
            complaints.extend(found);
            None
        }
    };
    let listeners = settings.listeners.iter().map(|l| load(l.tls.as_ref(), PROXY_ALPN)).collect();
    let management = load(settings.management.tls.as_ref(), MANAGEMENT_ALPN);
    if complaints.is_empty() { Ok(Tls { listeners, management }) } else { Err(Refused(complaints).into()) }
}

type Loaded = Result<(Arc<ServerTls>, Vec<Complaint>), Vec<Complaint>>;

fn loaded(tls: &ServerTlsSettings, file: Option<&Path>, alpn: &[&[u8]]) -> Loaded {
    ServerTls::load(tls, file, alpn, now()).map(|(tls, warnings)| (Arc::new(tls), warnings))
}

/// What `egret check` says of every `tls = { … }`: complaints and warnings.
pub(crate) fn checked(settings: &Settings) -> (Vec<Complaint>, Vec<Complaint>) {
    let (mut complaints, mut warnings) = (Vec::new(), Vec::new());
    let listeners = settings.listeners.iter().filter_map(|l| l.tls.as_ref());
    for tls in listeners.chain(&settings.management.tls) {
        match loaded(tls, settings.config_file.as_deref(), MANAGEMENT_ALPN) {
            Ok((_, said)) => warnings.extend(said),
            Err(found) => complaints.extend(found),
        }
    }
    (complaints, warnings)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::{Overlay, load_text};

    fn settings(listeners: &str) -> Settings {
        let text = format!("[management]\nlisten = \"127.0.0.1:0\"\n[[projects]]\nname = \"p\"\n{listeners}");
        let overlay = Overlay { data_dir: Some("/nowhere".into()), ..Overlay::default() };
        load_text(&text, Path::new("/egret.toml"), &overlay, &|_| None).unwrap().settings
    }

    fn listener(name: &str, keys: &str) -> String {
        format!("[[listeners]]\nname = \"{name}\"\nmode = \"forward\"\nproject = \"p\"\n{keys}\n")
    }

    fn open(address: &str) -> (TcpListener, Endpoint) {
        let socket = TcpListener::bind(address).unwrap();
        let at = socket.local_addr().unwrap().into();
        (socket, at)
    }

    #[test]
    fn a_name_goes_before_an_address_and_the_rest_is_bound() {
        let ((one, at_one), (two, at_two)) = (open("127.0.0.1:0"), open("127.0.0.1:0"));
        let settings = settings(
            &[
                listener("a", &format!("listen = \"{at_one}\"")),
                listener("b", "listen = \"127.0.0.1:0\""),
                listener("c", &format!("listen = \"{at_two}\"")),
            ]
            .concat(),
        );
        let sockets = bind(&settings, Passed::of(vec![("egret.socket", two), ("b", one)])).map(|s| s.listeners);
        // The first finds its address taken: its socket is named after another.
        let error = sockets.err().map(|error| format!("{error:#}")).unwrap();
        assert!(error.contains("listener a cannot listen"), "{error}");

        let ((one, at_one), (two, at_two)) = (open("127.0.0.1:0"), open("127.0.0.1:0"));
        let mut settings = settings;
        settings.listeners[0].listen = "127.0.0.1:0".parse().unwrap();
        settings.listeners[2].listen = at_two.clone();
        let sockets = bind(&settings, Passed::of(vec![("egret.socket", two), ("b", one)])).unwrap();
        let at: Vec<_> = sockets.listeners.iter().map(Listening::endpoint).collect();
        assert_eq!((at[1], at[2]), (&at_one, &at_two));
        assert!(*at[0] != at_one && *at[0] != at_two);
    }

    #[test]
    fn a_socket_that_was_handed_over_opens_nothing_that_was_not_asked_for() {
        let settings = |keys| settings(&listener("dev", keys));
        let wide = || Passed::of(vec![("dev", open("0.0.0.0:0").0)]);
        let error = bind(&settings("listen = \"127.0.0.1:0\""), wide()).err().map(|error| error.to_string()).unwrap();
        assert!(error.contains("listener dev") && error.contains("unsafe_open"), "{error}");
        assert!(bind(&settings("listen = \"0.0.0.0:8080\"\nunsafe_open = true"), wide()).is_ok());

        let health = Passed::of(vec![("health", open("127.0.0.1:0").0)]);
        let error = bind(&settings("listen = \"127.0.0.1:0\""), health).err().map(|error| error.to_string()).unwrap();
        assert!(error.contains("[health] listen"), "{error}");
    }

    #[test]
    fn ipv4_clients_are_left_to_the_listener_that_is_there_for_them() {
        let all = ["0.0.0.0:80", "[::]:80", "[::]:81", "[::]:0", "127.0.0.1:81"].map(|text| text.parse().unwrap());
        let shares = |text: &str| shares_its_port(text.parse().unwrap(), &all);
        assert!(shares("[::]:80") && shares("[::]:81"));
        assert!(!shares("[::]:82") && !shares("[::]:0") && !shares("[::1]:80") && !shares("0.0.0.0:80"));
    }
}
