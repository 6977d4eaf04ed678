//! Listeners with `auth = "token"`: the credential names the project, and goes no further.

use base64::Engine as _;

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::stdout_of;
use crate::harness::wire::{Reply, Wire};
use crate::harness::world::World;

const NAME: &str = "api.partner.test";
const ALPHA: &str = "token-of-the-workloads-of-alpha-0123456789";
const BETA: &str = "token-of-the-workloads-of-beta-0123456789";

fn scene(world: &World) -> Egret {
    let file = world.write("beta.token", &format!("{BETA}\n"));
    let digest: String = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, ALPHA.as_bytes())
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Setup::new(world)
        .listener("many", "forward", "auth = \"token\"")
        .project("alpha")
        .project("beta")
        .section(&format!(
            "[[tokens]]\nname = \"alpha\"\nsha256 = \"{digest}\"\nrole = \"proxy\"\nprojects = [\"alpha\"]"
        ))
        .section(&format!("[[tokens]]\nname = \"beta\"\nfile = {file:?}\nrole = \"proxy\"\nprojects = [\"beta\"]"))
        .hosts(&[NAME])
        .start()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn get(egret: &Egret, origin: &str, credential: Option<&str>) -> Reply {
    let authority = origin.trim_start_matches("https://");
    let field = credential.map_or(String::new(), |value| format!("Proxy-Authorization: {value}\r\n"));
    let mut wire = Wire::connect(egret.proxy());
    wire.send(format!("GET {origin}/ HTTP/1.1\r\nHost: {authority}\r\n{field}\r\n"));
    wire.reply("GET")
}

#[test]
fn the_credential_names_the_project_and_is_not_passed_on() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    });
    let egret = scene(&world);
    let url = origin.origin(NAME);
    egret.upload("alpha", Some(&url), &world.client("alpha-client"));
    egret.upload("beta", Some(&url), &world.client("beta-client"));
    for (credential, subject) in [
        (format!("Bearer {ALPHA}"), "alpha-client"),
        (format!("bearer {BETA}"), "beta-client"),
        (basic("alpha", ALPHA), "alpha-client"),
        (basic("beta", BETA), "beta-client"),
    ] {
        let reply = get(&egret, &url, Some(&credential));
        assert_eq!((reply.status, reply.text()), (200, subject.to_owned()), "{credential}");
    }
    let heads = origin.heads().join("").to_ascii_lowercase();
    assert!(!heads.contains("proxy-authorization") && !heads.contains("token-of"), "{heads}");
    assert!(!egret.log().contains(ALPHA) && !egret.log().contains(BETA));
}

#[test]
fn on_one_connection_each_request_speaks_for_itself() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::CertificateOf(&wants), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    });
    let egret = scene(&world);
    let url = origin.origin(NAME);
    let authority = format!("{NAME}:{}", origin.port());
    egret.upload("alpha", Some(&url), &world.client("alpha-client"));
    egret.upload("beta", Some(&url), &world.client("beta-client"));
    let mut wire = Wire::connect(egret.proxy());
    for _ in 0..5 {
        for (token, subject) in [(ALPHA, "alpha-client"), (BETA, "beta-client")] {
            wire.send(format!(
                "GET {url}/ HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Bearer {token}\r\n\r\n"
            ));
            assert_eq!(wire.reply("GET").text(), subject);
        }
    }
    wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    assert_eq!(wire.reply("GET").status, 407, "an earlier credential does not stay");
}

#[test]
fn without_a_valid_credential_nothing_happens() {
    let world = World::new();
    let origin = Origin::start(&world.server(&[NAME]), &Wants::Nothing, |_, _| Ok(Next::Close));
    let egret = scene(&world);
    let url = origin.origin(NAME);
    for credential in [
        None,
        Some("Bearer wrong".to_owned()),
        Some(basic("alpha", "wrong")),
        Some("Bearer".to_owned()),
        Some("Basic %%%".to_owned()),
    ] {
        let reply = get(&egret, &url, credential.as_deref());
        reply.assert_failure(407, "caller.unauthenticated");
        let challenges: Vec<_> = reply
            .headers
            .iter()
            .filter(|(name, _)| name == "proxy-authenticate")
            .map(|(_, value)| value.to_ascii_lowercase())
            .collect();
        let challenges = challenges.join(", ");
        assert!(challenges.contains("basic") && challenges.contains("bearer"), "{challenges}");
        // Others than loopback callers learn nothing; nobody learns the origin's address here.
        assert!(!reply.text().contains("wrong"), "{}", reply.text());
    }
    // A token of one project does not open another.
    get(&egret, &url, Some(&basic("beta", ALPHA))).assert_failure(403, "caller.forbidden");
    let mut wire = Wire::connect(egret.proxy());
    let authority = format!("{NAME}:{}", origin.port());
    wire.send(format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"));
    let refused = wire.reply("CONNECT");
    assert_eq!(refused.status, 407);
    assert!(wire.is_closed(), "after a refused CONNECT the connection ends");
    assert_eq!(origin.seen().len(), 0, "nobody was connected");
}

#[test]
fn curl_with_a_credential_in_the_proxy_url() {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let egret = scene(&world);
    egret.upload("alpha", Some(&nginx.origin(NAME)), &world.client("alpha-client"));
    let mut curl = curl_command();
    curl.arg("--fail").arg("--cacert").arg(egret.ca());
    curl.env("HTTPS_PROXY", format!("http://alpha:{ALPHA}@{}", egret.proxy())).arg(nginx.origin(NAME));
    assert!(stdout_of(&mut curl).contains("CN=alpha-client"));
}

/// A sidecar plays the origin, and a proxy's 407 would be out of place.
#[test]
fn a_sidecar_answers_401() {
    let world = World::new();
    let egret = Setup::new(&world)
        .listener("side", "sidecar", &format!("auth = \"token\"\norigin = \"https://{NAME}\""))
        .hosts(&[NAME])
        .start();
    let reply = Wire::connect(egret.proxy()).request("GET", "/", NAME);
    reply.assert_failure(401, "caller.unauthenticated");
    assert!(reply.header("www-authenticate").is_some(), "{reply:?}");
}
