//! The disclosure ledger: who was ever shown which certificate, compared with what the origins saw.

use serde_json::{Value, json};

use crate::harness::certificates::{Authority, Pair};
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::origin::{Conversation, Head, Next, Origin, Wants};
use crate::harness::wire::{Reply, Wire, absolute};
use crate::harness::world::World;
use crate::harness::{eventually, stdout_of};

const NAME: &str = "api.partner.test";

fn get(egret: &Egret, origin: &str) -> Reply {
    absolute(egret.proxy(), "GET", &format!("{origin}/"))
}

fn ledger(egret: &Egret, project: &str) -> Value {
    let (status, answer) = egret.api("GET", &format!("/v1/projects/{project}/disclosures"), None);
    assert_eq!(status, 200, "{answer}");
    answer
}

fn entries(egret: &Egret) -> Vec<Value> {
    ledger(egret, "default")["disclosures"].as_array().expect("a list").clone()
}

fn counter(egret: &Egret, name: &str) -> u64 {
    let (_, status) = egret.api("GET", "/v1/status", None);
    status["counters"][name].as_u64().unwrap_or_else(|| panic!("{name}: {status}"))
}

fn answers(conversation: &mut Conversation, _: &Head) -> std::io::Result<Next> {
    conversation.answer("200 OK", "", "")
}

fn answers_and_closes(conversation: &mut Conversation, _: &Head) -> std::io::Result<Next> {
    conversation.answer("200 OK", "Connection: close\r\n", "")?;
    Ok(Next::Close)
}

fn asking(server: &Pair, authority: &Authority) -> Origin {
    Origin::start(server, &Wants::PerhapsCertificateOf(&authority.pem()), answers)
}

#[test]
fn a_host_that_asked_is_in_it_with_what_it_saw_and_no_other_is() {
    let world = World::new();
    let server = world.server(&[NAME]);
    let nobody = Authority::root("nobody vouches for it");
    let asked = asking(&server, &world.partner);
    let refusing = Origin::start(&server, &Wants::CertificateOf(&world.stranger.pem()), answers);
    let silent = Origin::start(&server, &Wants::Nothing, answers);
    let of_others = asking(&server, &world.stranger);
    let untrusted = asking(&nobody.server(&[NAME]), &world.partner);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", None, &world.client("default"));
    let exact = egret.upload("default", Some(&refusing.origin(NAME)), &world.client("exact"));

    for origin in [&asked, &silent, &of_others] {
        assert_eq!(get(&egret, &origin.origin(NAME)).status, 200);
    }
    get(&egret, &refusing.origin(NAME)).assert_failure(502, "mtls.rejected_unknown_ca");
    let distrusted = get(&egret, &untrusted.origin(NAME));
    distrusted.assert_failure(502, "trust.unknown_issuer");
    let presented = &distrusted.json()["identity"]["presented"];
    assert_eq!(presented, "not sent: the handshake failed before", "an origin that nobody vouches for sees nothing");
    assert!(of_others.seen()[0].subject.is_none(), "it lists CAs, and ours is none of them: withheld");
    assert!(untrusted.seen().iter().all(|seen| seen.subject.is_none()));

    let told: Vec<_> = entries(&egret);
    let by_origin = |origin: &Origin| told.iter().find(|e| e["origin"] == origin.origin(NAME).as_str());
    assert_eq!(told.len(), 2, "{told:?}");
    let entry = by_origin(&asked).expect("it asked");
    assert_eq!(entry["fingerprint"].as_str(), asked.seen()[0].fingerprint.as_deref(), "what the origin saw");
    assert_eq!(
        (&entry["certificate"], &entry["rule"], &entry["subject"]),
        (&json!(id), &json!("default"), &json!("CN=default"))
    );
    assert_eq!(entry["address"], format!("127.0.0.1:{}", asked.port()));
    let entry = by_origin(&refusing).expect("it refused the certificate, and has seen it all the same");
    assert_eq!((&entry["certificate"], &entry["rule"]), (&json!(exact), &json!("exact")));
    assert_eq!(counter(&egret, "first_disclosures"), 2);
    let log = egret.log();
    assert_eq!(log.matches("shown to this origin for the first time").count(), 2, "{log}");
    let (_, details) = egret.api("GET", &format!("/v1/projects/default/certificates/{id}"), None);
    assert_eq!(details["shownTo"], 1, "{details}");
}

#[test]
fn handshakes_in_which_it_was_sent_count_and_requests_and_resumed_sessions_do_not() {
    let world = World::new();
    let server = world.server(&[NAME]);
    let wants = world.partner.pem();
    let kept = Origin::start(&server, &Wants::CertificateOf(&wants), answers);
    let resuming = Origin::start(&server, &Wants::CertificateOf(&wants), answers_and_closes);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    egret.upload("default", None, &world.client("default"));
    for _ in 0..5 {
        assert_eq!(get(&egret, &kept.origin(NAME)).status, 200);
        assert_eq!(get(&egret, &resuming.origin(NAME)).status, 200);
    }
    let full = |origin: &Origin| origin.seen().iter().filter(|seen| !seen.resumed).count();
    assert_eq!((kept.seen().len(), resuming.seen().len()), (1, 5));
    let count = |egret: &Egret, origin: &Origin| {
        let entry = entries(egret).into_iter().find(|e| e["origin"] == origin.origin(NAME).as_str());
        entry.map(|e| (e["count"].as_u64().expect("a number"), e["first"].clone(), e["last"].clone()))
    };
    let (before, first, last) = count(&egret, &kept).expect("known");
    assert_eq!((before, count(&egret, &resuming).expect("known").0), (1, full(&resuming) as u64));
    assert_eq!(first, last);

    // Its whole history outlives a restart, and goes on.
    let egret = egret.stop().start();
    assert_eq!(count(&egret, &kept), Some((1, first.clone(), last.clone())));
    assert_eq!(get(&egret, &kept.origin(NAME)).status, 200);
    let (after, same, later) = count(&egret, &kept).expect("known");
    assert_eq!((after, &same), (2, &first));
    assert!(later.as_str() >= last.as_str(), "{later} {last}");
    assert_eq!(counter(&egret, "first_disclosures"), 0, "it was known from before");
    let egret = egret.stop().start();
    assert_eq!(count(&egret, &kept).expect("known").0, 2, "written at the end, too");
}

#[test]
fn a_first_disclosure_survives_sigkill_a_moment_later() {
    let world = World::new();
    let origin = asking(&world.server(&[NAME]), &world.partner);
    let egret = Setup::new(&world).hosts(&[NAME]).start();
    let id = egret.upload("default", None, &world.client("default"));
    let database = egret.data_dir().join("egret.db");
    let pages = || {
        let store =
            rusqlite::Connection::open_with_flags(&database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
        let sql = "SELECT count(*) FROM records WHERE kind = 'disclosures'";
        store.query_row(sql, (), |row| row.get::<_, i64>(0)).ok().filter(|pages| *pages > 0)
    };
    assert_eq!(pages(), None);
    assert_eq!(get(&egret, &origin.origin(NAME)).status, 200);
    eventually("it is in the store", pages);
    egret.delete("default", &id);
    let setup = egret.kill();
    let bytes = std::fs::read(&database).expect("readable");
    let log = std::fs::read(database.with_extension("db-wal")).unwrap_or_default();
    let name = NAME.as_bytes();
    assert!(![bytes, log].iter().any(|b| crate::harness::wire::find(b, name).is_some()), "sealed at rest");
    let egret = setup.start();
    let told = entries(&egret);
    assert_eq!((told.len(), &told[0]["certificate"]), (1, &json!(id)), "though the certificate is gone: {told:?}");
    assert_eq!(told[0]["fingerprint"].as_str(), origin.seen()[0].fingerprint.as_deref());
}

#[test]
fn it_stays_within_its_bound_and_tells_how_much_it_forgot() {
    let world = World::new();
    let names: Vec<String> = (10..30).map(|n| format!("h{n}.partner.test")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let origin = asking(&world.server(&all), &world.partner);
    let egret = Setup::new(&world).section("[limits]\nmax_disclosures = 16").hosts(&names).start();
    egret.upload("default", Some("https://*.partner.test:*"), &world.client("wild"));
    for name in &names {
        assert_eq!(get(&egret, &origin.origin(name)).status, 200);
    }
    let told = ledger(&egret, "default");
    let origins: Vec<_> = told["disclosures"].as_array().expect("a list").iter().map(|e| e["origin"].clone()).collect();
    let wanted: Vec<_> = names[4..].iter().map(|name| json!(origin.origin(name))).collect();
    assert_eq!((origins, &told["dropped"]), (wanted, &json!(4)), "those that were shown the longest ago went");
    assert!(told["disclosures"].as_array().expect("a list").iter().all(|e| e["rule"] == "wildcard"));
    assert_eq!((counter(&egret, "disclosures"), counter(&egret, "disclosures_forgotten")), (16, 4));
    assert_eq!(origin.seen().len(), 20);
}

#[test]
fn other_projects_do_not_see_it() {
    let world = World::new();
    let origin = asking(&world.server(&[NAME]), &world.partner);
    let egret = Setup::new(&world)
        .listener("alpha", "forward", "project = \"alpha\"")
        .listener("beta", "forward", "project = \"beta\"")
        .project("alpha")
        .project("beta")
        .hosts(&[NAME])
        .start();
    egret.upload("alpha", None, &world.client("alpha"));
    let reply = absolute(egret.listener("alpha"), "GET", &format!("{}/", origin.origin(NAME)));
    assert_eq!((reply.status, origin.seen()[0].subject.as_deref()), (200, Some("alpha")));
    assert_eq!(ledger(&egret, "alpha")["disclosures"].as_array().map(Vec::len), Some(1));
    assert_eq!(ledger(&egret, "beta"), json!({"disclosures": [], "dropped": 0}));
    let (_, token) =
        egret.api("POST", "/v1/tokens", Some(&json!({"name": "b", "role": "admin", "projects": ["beta"]})));
    let token = token["token"].as_str().expect("a token");
    assert_eq!(egret.api_as(token, "GET", "/v1/projects/alpha/disclosures", None).0, 403);
    assert_eq!(egret.api_as(token, "GET", "/v1/projects/beta/disclosures", None).0, 200);
    assert_eq!(egret.api("GET", "/v1/projects/nowhere/disclosures", None).0, 404);
}

#[test]
fn every_way_in_is_in_it_and_the_command_line_finds_a_certificate_and_a_host() {
    const SECOND: &str = "second.partner.test";
    let world = World::new();
    let names = [NAME, SECOND];
    let site = |name: &'static str| Site::demanding(&[name], &world.server(&[name]), &world.partner.pem());
    let nginx = Nginx::start(&[site(NAME), site(SECOND).http2()]);
    let egret = Setup::new(&world).hosts(&names).start();
    let first = egret.upload("default", Some(&nginx.origin(NAME)), &world.client("one"));
    let second = egret.upload("default", None, &world.client("two"));
    assert_eq!(get(&egret, &nginx.origin(NAME)).seen("subject"), "CN=one");
    // Asked first without a certificate, then intercepted, over HTTP/2.
    let authority = format!("{SECOND}:{}", nginx.port());
    let tunnel = Wire::tunnel(egret.proxy(), &authority).expect("a tunnel");
    let mut tunnel = tunnel.tls(SECOND, &egret.ca_pem()).expect("our leaf");
    assert_eq!(tunnel.request("GET", "/", &authority).seen("subject"), "CN=two");

    let told = |arguments: &[&str]| {
        let text = stdout_of(egret.cli(&["certs", "disclosures", "--json"]).args(arguments));
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let list = answer["disclosures"].as_array().expect("a list").clone();
        list.iter().map(|e| (e["origin"].clone(), e["certificate"].clone(), e["count"].clone())).collect::<Vec<_>>()
    };
    let one = (json!(nginx.origin(NAME)), json!(first), json!(1));
    let two = (json!(nginx.origin(SECOND)), json!(second), json!(1));
    let (of_one, of_two) = ([one.clone()], [two.clone()]);
    assert_eq!(told(&[]), [one, two], "asking first showed nothing");
    assert_eq!(told(&["--cert", &first]), of_one);
    assert_eq!(told(&["--host", "SECOND.partner.test."]), of_two);
    assert_eq!(told(&["--host", &nginx.origin(NAME)]), of_one);
    assert_eq!(told(&["--host", NAME, "--cert", &second]), []);
    let table = stdout_of(&mut egret.cli(&["certs", "disclosures"]));
    assert!(table.contains(&first) && table.contains(&nginx.origin(SECOND)) && table.contains("CN=two"), "{table}");
    let (status, answer) = egret.api("GET", "/v1/projects/default/disclosures?host=a%20b", None);
    assert_eq!(status, 400, "{answer}");

    // A renewal is another certificate for the same host.
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("renewed"));
    assert_eq!(get(&egret, &nginx.origin(NAME)).seen("subject"), "CN=renewed");
    assert_eq!(told(&["--host", NAME]).len(), 2);
    assert_eq!(counter(&egret, "first_disclosures"), 2, "the host was known");
}
