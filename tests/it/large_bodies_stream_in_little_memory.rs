//! Two GiB up and down, and egret never holds more than 100 MiB.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::partner::{Partner, Way};
use crate::harness::world::World;
use crate::harness::{command, peak_memory_kib, run_within};

const GIB: u64 = 1 << 30;
const SIZE: u64 = 2 * GIB;
const MOST_KIB: u64 = 100 * 1024;
const NAME: &str = "files.partner.test";

fn scene() -> (World, Nginx, Egret) {
    let world = World::new();
    let nginx = Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())]);
    let sidecar = format!("project = \"default\"\norigin = \"{}\"", nginx.origin(NAME));
    let egret = Setup::new(&world)
        .listener("forward", "forward", "project = \"default\"")
        .listener("sidecar", "sidecar", &sidecar)
        .hosts(&[NAME])
        .start();
    egret.upload("default", Some(&nginx.origin(NAME)), &world.client("files"));
    (world, nginx, egret)
}

/// A sparse file with a mark at every 64 MiB and at its very end.
fn marked(path: &Path) {
    let file = File::create(path).expect("writable");
    file.set_len(SIZE).expect("room for a sparse file");
    for at in marks() {
        file.write_all_at(&mark(at), at).expect("writable");
    }
}

fn assert_marked(path: &Path) {
    let file = File::open(path).expect("the upload arrived");
    assert_eq!(file.metadata().expect("a file").len(), SIZE);
    for at in marks() {
        let mut found = [0; 16];
        file.read_exact_at(&mut found, at).expect("within the file");
        assert_eq!(found, mark(at), "at {at}");
    }
}

fn marks() -> impl Iterator<Item = u64> {
    (0..SIZE / (64 << 20)).map(|n| n * (64 << 20) + 4097 * n).chain([SIZE - 16])
}

fn mark(at: u64) -> [u8; 16] {
    let mut bytes = *b"mark at ........";
    bytes[8..].copy_from_slice(&at.to_be_bytes());
    bytes
}

#[track_caller]
fn assert_little_memory(egret: &Egret) {
    let peak = peak_memory_kib(egret.pid());
    assert!(peak < MOST_KIB, "egret held {peak} KiB");
}

#[test]
fn heavy_two_gib_down_through_an_intercepted_tunnel() {
    let (world, nginx, egret) = scene();
    let source = nginx.files().join("large");
    marked(&source);
    let ca = egret.ca();
    let curl = format!(
        "curl -q -sS --fail --max-time 280 --proxy http://{} --cacert {} {}/files/large | cmp - {}",
        egret.proxy(),
        ca.display(),
        nginx.origin(NAME),
        source.display()
    );
    let output = run_within(Duration::from_secs(290), command("bash").args(["-o", "pipefail", "-c", &curl]));
    assert!(output.status.success(), "{output:?}");
    assert_little_memory(&egret);
    drop(world);
}

#[test]
fn heavy_two_gib_up_through_an_intercepted_tunnel() {
    let (world, nginx, egret) = scene();
    let source = world.path("large");
    marked(&source);
    let mut curl = curl_command();
    curl.args(["--fail", "--proxy", &format!("http://{}", egret.proxy())]).arg("--cacert").arg(egret.ca());
    curl.arg("-T").arg(&source).arg(format!("{}/put/received", nginx.origin(NAME)));
    let output = run_within(Duration::from_secs(290), &mut curl);
    assert!(output.status.success(), "{output:?}");
    assert_marked(&nginx.files().join("received"));
    assert_little_memory(&egret);
}

#[test]
fn heavy_two_gib_up_and_down_through_a_sidecar() {
    let (world, nginx, egret) = scene();
    let source = world.path("large");
    marked(&source);
    let sidecar = format!("http://{}", egret.listener("sidecar"));
    // Chunked, because the length of standard input is not known.
    let mut curl = curl_command();
    curl.args(["--fail", "-H", "Transfer-Encoding: chunked", "-H", "Expect:", "-T"]).arg(&source);
    let output = run_within(Duration::from_secs(290), curl.arg(format!("{sidecar}/put/received")));
    assert!(output.status.success(), "{output:?}");
    assert_marked(&nginx.files().join("received"));
    let compare = format!("curl -q -sS --fail --max-time 280 {sidecar}/files/received | cmp - {}", source.display());
    let output = run_within(Duration::from_secs(290), command("bash").args(["-o", "pipefail", "-c", &compare]));
    assert!(output.status.success(), "{output:?}");
    assert_little_memory(&egret);
}

/// A client that does not read holds the origin back, not egret's memory.
#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    let partner = Partner::start(move |conversation, _| {
        let total: u64 = 256 << 20;
        conversation.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"))?;
        let block = vec![7; 64 << 10];
        while count.load(Ordering::Relaxed) < total {
            conversation.write(&block)?;
            count.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        Ok(crate::harness::origin::Next::Close)
    });
    for way in [Way::Absolute, Way::Intercepted] {
        written.store(0, Ordering::Relaxed);
        let mut door = partner.open(way);
        door.head("GET", "/", "");
        assert_eq!(door.wire.head().expect("a head").0, 200);
        // It stands still when a whole second brings nothing more.
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            let now = written.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(last < 64 << 20, "{way:?}: the origin could write {last} bytes that nobody had read");
        // And goes on when the client does.
        assert_eq!(door.wire.raw(1 << 20).len(), 1 << 20);
    }
    assert_little_memory(&partner.egret);
}
