//! Cloudflare's two ways of renewing, while requests are sent all the time: a hostname is given another certificate, and
//! a zone gets a newer one before the older is deleted. No request fails, and none that was sent after the answer carries
//! what was in force before.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::harness::cloudflare::succeeded;
use crate::harness::egret::{Egret, Setup};
use crate::harness::origin::{Origin, Wants};
use crate::harness::wire::Wire;
use crate::harness::world::World;

const PINNED: &str = "pinned.shop.test";
const WIDE: &str = "wide.shop.test";
const ROUNDS: usize = 40;
const CLIENTS: usize = 3;

/// How many changes have begun, and how many of them are answered.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    answered: AtomicUsize,
}

impl Progress {
    fn change(&self, change: impl FnOnce()) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        change();
        self.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// Sends one request after the other; `name_at` says which subject is presented after so many changes.
fn ask(
    egret: &Egret,
    host: &str,
    port: u16,
    progress: &Progress,
    over: &AtomicBool,
    name_at: fn(usize) -> String,
) -> usize {
    let mut wire = Wire::connect(egret.proxy());
    let (target, authority) = (format!("https://{host}:{port}/"), format!("{host}:{port}"));
    let mut asked = 0;
    while !over.load(Ordering::SeqCst) {
        let from = progress.answered.load(Ordering::SeqCst);
        let reply = wire.request("GET", &target, &authority);
        let until = progress.begun.load(Ordering::SeqCst);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let allowed: Vec<_> = (from..=until).map(name_at).collect();
        assert!(allowed.contains(&reply.text()), "{host} was shown {}, and {allowed:?} was in force", reply.text());
        asked += 1;
    }
    asked
}

fn pinned_at(change: usize) -> String {
    ["first", "second"][change % 2].to_owned()
}

fn wide_at(change: usize) -> String {
    format!("zone-{change}")
}

#[test]
fn and_show_each_what_it_was_answered_for() {
    let world = World::new();
    let wants = world.partner.pem();
    let origin = Origin::start(&world.server(&[PINNED, WIDE]), &Wants::PerhapsCertificateOf(&wants), |to, _| {
        let subject = to.subject.clone().unwrap_or_default();
        to.answer("200 OK", "", &subject)
    });
    let egret = Setup::new(&world).cloudflare().hosts(&[PINNED, WIDE]).start();
    let ids = ["first", "second"].map(|name| egret.create("/hostnames/certificates", &world.client(name)));
    egret.associate(PINNED, &ids[0], Some(true));
    egret.switch_zone(true);
    let mut zone = egret.create("", &world.client(&wide_at(0)));

    let (pinned, wide, over) = (Progress::default(), Progress::default(), AtomicBool::new(false));
    let (egret, port) = (&egret, origin.port());
    let asked: Vec<usize> = thread::scope(|scope| {
        let clients: Vec<_> = (0..2 * CLIENTS)
            .map(|n| {
                let (pinned, wide, over) = (&pinned, &wide, &over);
                scope.spawn(move || match n % 2 {
                    0 => ask(egret, PINNED, port, pinned, over, pinned_at),
                    _ => ask(egret, WIDE, port, wide, over, wide_at),
                })
            })
            .collect();
        for round in 1..=ROUNDS {
            pinned.change(|| egret.associate(PINNED, &ids[round % 2], Some(true)));
            let newer = world.client(&wide_at(round));
            wide.change(|| {
                let older = std::mem::replace(&mut zone, egret.create("", &newer));
                succeeded(egret.pulls("DELETE", &format!("/{older}"), None));
            });
        }
        over.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("no request failed")).collect()
    });
    assert!(asked.iter().all(|asked| *asked > ROUNDS / 4), "they were under way all the time: {asked:?}");
    let last =
        |host: &str| Wire::connect(egret.proxy()).request("GET", &format!("https://{host}:{port}/"), host).text();
    assert_eq!([last(PINNED), last(WIDE)], [pinned_at(ROUNDS), wide_at(ROUNDS)]);
}
