//! `@vercel/sdk` 1.18.5, the last release with these calls, unchanged, against the API.

use std::time::Duration;

use crate::harness::egret::{Setup, TOKEN};
use crate::harness::world::World;
use crate::harness::{command, repository, run_within};

#[test]
fn lists_uploads_deletes_and_reads_errors() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let pems = world.path("pems");
    std::fs::create_dir(&pems).expect("writable");
    world.client("a").write(&pems);
    world.client("b").write(&pems);
    std::fs::write(pems.join("ca.crt"), world.partner.pem()).expect("writable");
    let mut node = command("node");
    node.arg(repository("tests/sdk/vercel.mjs")).arg(&pems);
    node.env("EGRET_URL", format!("http://{}", egret.management)).env("EGRET_TOKEN", TOKEN);
    let output = run_within(Duration::from_secs(60), &mut node);
    let printed = String::from_utf8_lossy(&output.stdout);
    let wrong: Vec<&str> = printed.lines().filter(|line| line.contains("\"ok\":false")).collect();
    assert!(output.status.success(), "{wrong:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.lines().count() > 10, "the script did something: {printed}");
}
