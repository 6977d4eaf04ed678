//! A configuration that gives its text once, as shells make them (`--config <(…)`, `/dev/stdin`), is not looked for again.

use crate::harness::egret::Setup;
use crate::harness::eventually;
use crate::harness::origin::{Origin, Wants};
use crate::harness::wire::Wire;
use crate::harness::world::World;

const NAME: &str = "api.partner.test";

#[test]
fn a_configuration_that_came_through_a_pipe() {
    let world = World::new();
    let authority = world.partner.pem();
    let wants = Wants::PerhapsCertificateOf(&authority);
    let origin = Origin::start(&world.server(&[NAME]), &wants, |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    });
    let url = origin.origin(NAME);
    let put = |name: &str| {
        let pair = world.client(name);
        [("a.crt", &pair.chain), ("a.key", &pair.key), ("a.ca", &pair.ca)].map(|(file, text)| world.write(file, text))
    };
    let [cert, key, ca] = put("first");
    let table = format!("[[certificates]]\norigin = \"{url}\"\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}");
    let egret = Setup::new(&world).project("pay").section(&table).hosts(&[NAME]).piped().start();
    eventually("files are followed", || egret.log().contains("following the configuration").then_some(()));
    let seen = || {
        let mut wire = Wire::connect(egret.proxy());
        wire.send(format!("GET {url}/ HTTP/1.1\r\nHost: {}\r\n\r\n", url.trim_start_matches("https://")));
        wire.reply("GET").text()
    };
    assert_eq!(seen(), "first");
    let projects = || egret.api("GET", "/v1/projects", None).1.to_string();
    assert!(projects().contains("pay"), "{}", projects());
    // There is nothing to read there any more; the files that it named are read.
    egret.hang_up();
    put("second");
    eventually("the other certificate is in force", || (seen() == "second").then_some(()));
    assert_eq!(egret.reload()["state"], "ok");
    assert!(projects().contains("pay") && !egret.log().contains("restart egret"), "{}", egret.log());
}
