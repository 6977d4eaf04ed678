//! Through a parent proxy the origin sees the right certificate, the parent sees host and port, and what went one way
//! never goes another.

use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Setup, program};
use crate::harness::eventually;
use crate::harness::nginx::{Nginx, Site, free_address};
use crate::harness::origin::Origin;
use crate::harness::parents::{PASSWORD, Squid, USER, dnsmasq, microsocks};
use crate::harness::run_within;
use crate::harness::wire::{Wire, absolute};
use crate::harness::world::World;

/// Demands a certificate.
const STRICT: &str = "api.partner.test";
/// Asks for nothing.
const OPEN: &str = "open.partner.test";
/// Demands a certificate, and is reached directly.
const NEAR: &str = "near.partner.test";

fn origins(world: &World) -> Nginx {
    let names = [STRICT, OPEN, NEAR];
    let server = world.server(&names);
    Nginx::start(&[Site::demanding(&[STRICT, NEAR], &server, &world.partner.pem()), Site::open(&[OPEN], &server)])
}

/// Everything goes through a parent that wants a credential, and resolves the names, but for [`NEAR`].
fn parent(world: &World, url: &str, password: &str) -> Setup {
    let password = world.write("proxy.password", &format!("{password}\n"));
    Setup::new(world).host(NEAR, "127.0.0.1").section(&format!(
        "[[egress.parent]]\nurl = \"{url}\"\npassword = {{ file = {password:?} }}\nno_proxy = [\".{NEAR}, 192.0.2.0/24\"]"
    ))
}

#[test]
fn squid_sees_the_authority_and_the_origin_sees_the_certificate() {
    let world = World::new();
    let (nginx, squid) = (origins(&world), Squid::start(&[STRICT, OPEN]));
    let egret = parent(&world, &format!("http://{USER}@127.0.0.1:{}", squid.port()), PASSWORD)
        .listener("one", "forward", "project = \"one\"")
        .listener("two", "forward", "project = \"two\"")
        .project("one")
        .project("two")
        .start();
    let (exact, wide) = (world.client("exact-of-one"), world.client("wide-of-two"));
    egret.upload("one", Some(&nginx.origin(STRICT)), &exact);
    egret.upload("one", Some(&nginx.origin(NEAR)), &exact);
    // Only where an origin asks: that is found out through the parent, too.
    egret.upload("two", None, &wide);
    let (one, two) = (egret.listener("one"), egret.listener("two"));
    let [first, second] = [(); 2].map(|()| absolute(one, "GET", &format!("{}/", nginx.origin(STRICT))));
    assert_eq!([first.seen("subject"), second.seen("subject")], [exact.subject(), exact.subject()]);
    assert_eq!(first.seen("connection"), second.seen("connection"), "the tunnel is kept and used again");
    let other = absolute(two, "GET", &format!("{}/", nginx.origin(STRICT)));
    assert_eq!(other.seen("subject"), wide.subject());
    assert_ne!(other.seen("connection"), first.seen("connection"));
    // Intercepted, asked first, and a blind tunnel.
    for (proxy, pair) in [(one, &exact), (two, &wide)] {
        let answer = Client::Curl.send(&Job::get(nginx.origin(STRICT)).through(proxy).trusting(&egret.ca()));
        assert_eq!(answer.seen("subject"), pair.subject());
    }
    let servers = world.write("servers.pem", &world.root.pem());
    let blind = Client::Curl.send(&Job::get(nginx.origin(OPEN)).through(two).trusting(&servers));
    assert_eq!((blind.seen("subject").as_str(), blind.seen("server").as_str()), ("", OPEN));
    // Direct, with the same identity: another connection, and nothing of it in the parent's log.
    let near = absolute(one, "GET", &format!("{}/", nginx.origin(NEAR)));
    assert_eq!(near.seen("subject"), exact.subject());
    assert_ne!(near.seen("connection"), first.seen("connection"));
    let log = egret.log();
    egret.stop();
    let lines = squid.logged(5);
    let tunnel = |name: &str| format!("200 CONNECT {name}:{} {USER}", nginx.port());
    assert!(lines.iter().all(|line| [tunnel(STRICT), tunnel(OPEN)].contains(line)), "{lines:#?}");
    assert!(lines.contains(&tunnel(STRICT)) && lines.contains(&tunnel(OPEN)), "{lines:#?}");
    // The way stands in egret's log, and no credential does.
    let way = format!("\"parent\":\"http://127.0.0.1:{}\"", squid.port());
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("egret::access")).collect();
    assert!(lines.iter().all(|line| line.contains(&way) != line.contains(NEAR)), "{lines:#?}");
    assert!(!log.contains(PASSWORD) && !log.contains(USER), "{log}");
}

#[test]
fn a_wrong_password_is_explained() {
    let world = World::new();
    let (nginx, squid) = (origins(&world), Squid::start(&[STRICT]));
    let egret = parent(&world, &format!("http://{USER}@127.0.0.1:{}", squid.port()), "an-0ther-s3cret").start();
    egret.upload("default", Some(&nginx.origin(STRICT)), &world.client("never-shown"));
    let url = format!("{}/", nginx.origin(STRICT));
    let inside = {
        let authority = format!("{STRICT}:{}", nginx.port());
        let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("the tunnel itself is accepted");
        tunnel.tls(STRICT, &egret.ca_pem()).expect("egret finishes TLS").request("GET", "/", &authority)
    };
    let plain = absolute(egret.proxy(), "GET", &format!("http://{STRICT}:{}/", free_address().port()));
    for reply in [absolute(egret.proxy(), "GET", &url), inside, plain] {
        reply.assert_failure(502, "net.refused");
        let problem = reply.json();
        assert_eq!(problem["parent"], format!("http://127.0.0.1:{}", squid.port()), "{problem}");
        let detail = problem["detail"].as_str().expect("for a caller on loopback");
        assert!(detail.contains("does not accept the credential") && detail.contains("407"), "{detail}");
        assert!(problem["fix"].as_str().is_some_and(|fix| fix.contains("password")), "{problem}");
        assert!(!reply.text().contains("s3cret") && !reply.text().contains(USER), "{problem}");
    }
    // A blind tunnel is refused in the open.
    let refused = Wire::tunnel(egret.proxy(), &format!("{OPEN}:{}", nginx.port())).err().expect("refused");
    refused.assert_failure(502, "net.refused");
    assert!(!egret.log().contains("an-0ther-s3cret"), "{}", egret.log());
}

#[test]
fn what_squid_cannot_reach_is_explained() {
    let world = World::new();
    let squid = Squid::start(&[STRICT]);
    let egret = parent(&world, &format!("http://{USER}@127.0.0.1:{}", squid.port()), PASSWORD).start();
    let reply = absolute(egret.proxy(), "GET", &format!("https://{STRICT}:{}/", free_address().port()));
    reply.assert_failure(502, "net.unreachable");
    assert!(reply.text().contains("503 (ERR_CONNECT_FAIL)"), "{}", reply.text());
    // The name is the parent's to resolve, so the guard refuses by name or literal alone, and before anything is asked.
    absolute(egret.proxy(), "GET", "https://169.254.169.254/").assert_failure(403, "policy.address_denied");
    absolute(egret.proxy(), "GET", "http://metadata.google.internal/").assert_failure(403, "policy.address_denied");
    // Squid writes a line when it is done with the tunnel, which may be after its answer.
    assert_eq!(squid.logged(1).len(), 1, "{:#?}", squid.log());
    drop(squid);
    let gone = absolute(egret.proxy(), "GET", &format!("https://{STRICT}/"));
    gone.assert_failure(502, "net.refused");
    assert!(gone.text().contains("the parent proxy http://127.0.0.1:"), "{}", gone.text());
}

#[test]
fn plain_http_goes_to_squid_in_absolute_form() {
    let world = World::new();
    let origin = Origin::plain(|conversation, head| conversation.answer("200 OK", "", head.target()));
    let squid = Squid::start(&[OPEN]);
    let egret = parent(&world, &format!("http://{USER}@127.0.0.1:{}", squid.port()), PASSWORD).start();
    for _ in 0..2 {
        let reply = absolute(egret.proxy(), "GET", &format!("http://{OPEN}:{}/path?query", origin.port()));
        assert_eq!((reply.status, reply.text().as_str()), (200, "/path?query"), "{reply:?}");
    }
    let heads = origin.heads();
    assert_eq!(heads.len(), 2);
    assert!(heads.iter().all(|head| !head.to_lowercase().contains("proxy-authorization")), "{heads:#?}");
    assert_eq!(squid.logged(2), vec![format!("200 GET http://{OPEN}:{}/path? {USER}", origin.port()); 2]);
}

#[test]
fn microsocks_is_shown_the_credential_and_an_address() {
    let world = World::new();
    let (nginx, socks) = (origins(&world), microsocks(true));
    let names = dnsmasq(&[(STRICT, "127.0.0.1"), (NEAR, "127.0.0.1")]);
    let egret = parent(&world, &format!("socks5://{USER}@{}", socks.address), PASSWORD)
        .section(&format!("[dns]\nservers = [\"{}\"]", names.address))
        .start();
    let client = world.client("through-socks");
    egret.upload("default", Some(&nginx.origin(STRICT)), &client);
    egret.upload("default", Some(&nginx.origin(NEAR)), &client);
    for name in [STRICT, NEAR, STRICT] {
        let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
        assert_eq!(reply.seen("subject"), client.subject());
    }
    let connected = format!("connected to 127.0.0.1:{}", nginx.port());
    eventually("microsocks says whom it connected to", || socks.said().contains(&connected).then_some(()));
    assert_eq!(socks.said().matches("connected to").count(), 1, "{}", socks.said());
    // Plain http through SOCKS is bytes.
    let origin = Origin::plain(|conversation, head| conversation.answer("200 OK", "", head.target()));
    let reply = absolute(egret.proxy(), "GET", &format!("http://{STRICT}:{}/x", origin.port()));
    assert_eq!(reply.text(), "/x");
    // No way around the name server, and none around the guard.
    absolute(egret.proxy(), "GET", "https://nobody.partner.test/").assert_failure(502, "dns.failed");
    let asked = names.said();
    for kind in ["A", "AAAA"] {
        assert!(asked.contains(&format!("query[{kind}] {STRICT} from 127.0.0.1")), "{asked}");
    }
    assert!(!egret.log().contains(PASSWORD), "{}", egret.log());
}

#[test]
fn microsocks_refuses_a_wrong_password() {
    let world = World::new();
    let socks = microsocks(true);
    let egret = parent(&world, &format!("socks5h://{USER}@{}", socks.address), "an-0ther-s3cret").start();
    let reply = absolute(egret.proxy(), "GET", &format!("https://{STRICT}/"));
    reply.assert_failure(502, "net.refused");
    assert!(reply.text().contains("does not accept the credential"), "{}", reply.text());
    let open = microsocks(false);
    let egret = parent(&world, &format!("socks5h://{USER}@{}", open.address), PASSWORD).start();
    let reply = absolute(egret.proxy(), "GET", "https://nobody.invalid/");
    assert!(matches!(reply.status, 502 | 504), "{reply:?}");
    assert!(reply.text().contains("socks5h://"), "{}", reply.text());
}

#[test]
fn an_egret_is_a_parent_of_another() {
    let world = World::new();
    let nginx = origins(&world);
    let far = Setup::new(&world).hosts(&[STRICT]).listener("in", "forward", "auth = \"token\"").section(
        "[[tokens]]\nname = \"t\"\nsha256 = \"53336a676c64c1396553b2b7c92f38126768827c93b64d9142069c10eda7a721\"\nrole = \"proxy\"",
    );
    let far = far.start();
    let near = parent(&world, &format!("http://default@{}", far.proxy()), "topsecret").start();
    let client = world.client("through-another-egret");
    near.upload("default", Some(&nginx.origin(STRICT)), &client);
    let reply = absolute(near.proxy(), "GET", &format!("{}/", nginx.origin(STRICT)));
    assert_eq!(reply.seen("subject"), client.subject());
    near.stop();
    eventually("the far one logs a blind tunnel", || far.log().contains("\"way\":\"tunnelled\"").then_some(()));
}

#[test]
fn a_source_address_that_is_not_there_is_said_at_start() {
    let world = World::new();
    let config = Setup::new(&world).section("[egress]\nsource_addresses = [\"192.0.2.1\"]");
    let output = run_within(crate::harness::PATIENCE, program().arg("serve").arg("--config").arg(config.write()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[egress] source_addresses: 192.0.2.1"), "{said}");
}
