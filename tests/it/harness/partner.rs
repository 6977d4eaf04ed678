//! The usual scene: one partner's origin that demands a certificate, one project that has it, and every way in.

use std::io;

use super::certificates::Pair;
use super::egret::{Egret, Setup};
use super::origin::{Conversation, Head, Next, Origin, Wants};
use super::wire::{Reply, Wire};
use super::world::World;

/// The partner's name.
pub(crate) const NAME: &str = "api.partner.test";

/// How a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `GET https://…` on a forward listener.
    Absolute,
    /// `GET http://…` on a forward listener, lifted by the binding.
    Lifted,
    /// CONNECT, then TLS that egret terminates.
    Intercepted,
    /// A sidecar listener of this origin.
    Sidecar,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Absolute, Self::Lifted, Self::Intercepted, Self::Sidecar];
}

/// A recording origin that demands a certificate, and an egret that has it.
pub(crate) struct Partner {
    pub(crate) world: World,
    pub(crate) origin: Origin,
    pub(crate) egret: Egret,
    pub(crate) client: Pair,
    /// The interception CA, PEM.
    pub(crate) ca: String,
}

impl Partner {
    pub(crate) fn start(
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        Self::configured(handler, |setup| setup)
    }

    /// The same with more in the configuration.
    pub(crate) fn configured(
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
        more: impl FnOnce(Setup) -> Setup,
    ) -> Self {
        Self::among(|world| world.client("the-client"), more, handler)
    }

    /// The same with another client certificate, and with more in the configuration.
    pub(crate) fn among(
        client: impl FnOnce(&World) -> Pair,
        setup: impl FnOnce(Setup) -> Setup,
        handler: impl Fn(&mut Conversation, &Head) -> io::Result<Next> + Send + Sync + 'static,
    ) -> Self {
        let world = World::new();
        let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&world.partner.pem()), handler);
        let ways = Setup::new(&world)
            .listener("forward", "forward", "project = \"default\"")
            .listener("partner", "sidecar", &format!("project = \"default\"\norigin = \"{}\"", origin.origin(NAME)))
            .hosts(&[NAME]);
        let egret = setup(ways).start();
        let client = client(&world);
        egret.upload("default", Some(&origin.origin(NAME)), &client);
        let ca = egret.ca_pem();
        Self { world, origin, egret, client, ca }
    }

    /// A connection on which requests for the partner can be sent in this way.
    #[track_caller]
    pub(crate) fn open(&self, way: Way) -> Door {
        let authority = format!("{NAME}:{}", self.origin.port());
        let proxy = self.egret.listener("forward");
        let (wire, prefix) = match way {
            Way::Absolute => (Wire::connect(proxy), format!("https://{authority}")),
            Way::Lifted => (Wire::connect(proxy), format!("http://{authority}")),
            Way::Sidecar => (Wire::connect(self.egret.listener("partner")), String::new()),
            Way::Intercepted => {
                let tunnel = Wire::tunnel(proxy, &authority).expect("egret accepts the tunnel");
                (tunnel.tls(NAME, &self.ca).expect("egret's leaf is valid for the name"), String::new())
            }
        };
        Door { wire, prefix, authority }
    }
}

/// An open connection of a client.
pub(crate) struct Door {
    pub(crate) wire: Wire,
    prefix: String,
    authority: String,
}

impl Door {
    /// Writes the head of a request; `fields` end in CRLF each.
    #[track_caller]
    pub(crate) fn head(&mut self, method: &str, path: &str, fields: &str) {
        let Self { wire, prefix, authority } = self;
        wire.send(format!("{method} {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n"));
    }

    /// The answer to an HTTP/1.0 client, which ends where the connection ends; an error if that was reset.
    pub(crate) fn as_http_1_0(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let Self { wire, prefix, authority } = self;
        wire.send(format!("GET {prefix}{path} HTTP/1.0\r\nHost: {authority}\r\n\r\n"));
        wire.rest()
    }

    /// A whole exchange without a request body.
    #[track_caller]
    pub(crate) fn exchange(&mut self, method: &str, path: &str, fields: &str) -> Reply {
        self.head(method, path, fields);
        self.wire.reply(method)
    }
}
