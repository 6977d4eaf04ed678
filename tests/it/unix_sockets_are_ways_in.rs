//! Listeners and the management API on Unix sockets: who may connect, what a dead egret leaves, and what goes through.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::Wire;
use crate::harness::world::World;
use crate::harness::{PATIENCE, command, eventually, run_within, stdout_of};

const NAME: &str = "api.partner.test";

fn scene(world: &World, nginx: &Nginx) -> Setup {
    let sidecar = format!("project = \"default\"\norigin = \"{}\"\nsocket_mode = \"0666\"", nginx.origin(NAME));
    Setup::new(world)
        .listener_at("unix:forward.sock", "forward", "forward", "project = \"default\"")
        .listener_at("unix:side.sock", "side", "sidecar", &sidecar)
        .management("listen = \"unix:management.sock\"")
        .hosts(&[NAME])
}

fn nginx(world: &World) -> Nginx {
    Nginx::start(&[Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem())])
}

/// Through the commands: the API is on a Unix socket as well.
fn upload(egret: &Egret, world: &World, nginx: &Nginx) {
    let [cert, key, ca] = world.client("the-client").write(&world.path(""));
    let files = [&cert, &key, &ca].map(|path| path.to_str().expect("text").to_owned());
    let origin = nginx.origin(NAME);
    let [cert, key, ca] = &files;
    stdout_of(&mut egret.cli(&["certs", "upload", "--cert", cert, "--key", key, "--ca", ca, "--origin", &origin]));
}

fn mode(path: &Path) -> u32 {
    let found = std::fs::symlink_metadata(path).expect("the socket has a file");
    assert!(found.file_type().is_socket());
    found.permissions().mode() & 0o7777
}

#[test]
fn every_way_in_works_and_the_origin_sees_the_certificate() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = scene(&world, &nginx).start();
    upload(&egret, &world, &nginx);
    let (forward, side) = (egret.socket("forward"), egret.socket("side"));
    let authority = format!("{NAME}:{}", nginx.port());

    // A sidecar, with curl.
    let mut curl = curl_command();
    curl.args(["--fail", "--unix-socket"]).arg(&side).arg("http://localhost/v1");
    let seen: Value = serde_json::from_str(&stdout_of(&mut curl)).expect("nginx answers in JSON");
    assert_eq!(
        (&seen["subject"], &seen["host"], &seen["uri"]),
        (&"CN=the-client".into(), &authority.as_str().into(), &"/v1".into())
    );

    // A forward proxy: absolute form, plain http lifted, and CONNECT.
    for scheme in ["https", "http"] {
        let reply = Wire::connect_unix(&forward).request("GET", &format!("{scheme}://{authority}/"), &authority);
        assert_eq!(reply.seen("subject"), "CN=the-client", "{scheme}");
    }
    let ca = egret.ca();
    let tunnel = Wire::connect_unix(&forward).connected(&authority).expect("accepted");
    let mut inside = tunnel.tls(NAME, &std::fs::read_to_string(&ca).expect("a file")).expect("egret's leaf");
    assert_eq!(inside.request("GET", "/", &authority).seen("subject"), "CN=the-client");

    // The same with a client that nobody here wrote.
    let script = "\
import http.client, socket, ssl, sys
path, ca, host, port = sys.argv[1:]
class Unix(socket.socket):
    def setsockopt(self, *_): pass  # there is no TCP_NODELAY
def create(*_, **__):
    sock = Unix(socket.AF_UNIX)
    sock.connect(path)
    return sock
connection = http.client.HTTPSConnection('proxy', context=ssl.create_default_context(cafile=ca), timeout=30)
connection._create_connection = create
connection.set_tunnel(host, int(port))
connection.request('GET', '/')
print(connection.getresponse().read().decode())
";
    let mut python = command("python3");
    python.args(["-c", script]).arg(&forward).arg(&ca).args([NAME, &nginx.port().to_string()]);
    assert!(stdout_of(&mut python).contains("CN=the-client"));

    // Whoever is on the socket is told facts, as on loopback, and the log says who it was.
    let refused = Wire::connect_unix(&forward).request("GET", "https://nobody.invalid/", "nobody.invalid");
    refused.assert_failure(502, "dns.not_found");
    assert!(refused.json()["origin"].is_string(), "{}", refused.text());
    let peer = format!("\"peer\":\"unix:uid={}\"", rustix::process::getuid().as_raw());
    eventually("the access log names the user", || egret.log().contains(&peer).then_some(()));
}

#[test]
fn modes_and_places_are_what_was_asked_for() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = scene(&world, &nginx).start();
    let management = Path::new(egret.management_url.strip_prefix("unix:").expect("a Unix socket")).to_owned();
    let sockets = [egret.socket("forward"), egret.socket("side"), management];
    assert_eq!(sockets.each_ref().map(|path| mode(path)), [0o600, 0o666, 0o600]);
    let status: Value =
        serde_json::from_str(&stdout_of(&mut egret.cli(&["status", "--json"]))).expect("status prints JSON");
    assert_eq!(status["management"], format!("unix:{}", sockets[2].display()));
    assert_eq!(status["listeners"][0]["address"], format!("unix:{}", sockets[0].display()));
    assert_eq!(status["listeners"][0]["tls"], false);
    let mut curl = curl_command();
    curl.args(["--fail", "--unix-socket"]).arg(&sockets[2]).arg("http://localhost/healthz");
    assert!(stdout_of(&mut curl).contains("ready"));
    let _setup = egret.stop();
    assert!(sockets.iter().all(|path| !path.exists()), "the files go with egret");
}

#[test]
fn a_dead_egrets_socket_is_replaced_and_a_live_ones_is_not() {
    let world = World::new();
    let nginx = nginx(&world);
    let egret = scene(&world, &nginx).start();
    let (forward, side) = (egret.socket("forward"), egret.socket("side"));

    // Another egret wants the same socket.
    let text = format!(
        "data_dir = \"other\"\n[management]\nlisten = \"127.0.0.1:0\"\n[[listeners]]\nname = \"x\"\nlisten = \"unix:{}\"\n",
        side.display()
    );
    let config = world.write("second.toml", &text);
    let refused = run_within(PATIENCE, program().args(["serve", "--config"]).arg(&config));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("listener x") && said.contains("another process listens at this socket"), "{said}");
    drop(Wire::connect_unix(&side));

    let setup = egret.kill();
    assert!(forward.exists() && side.exists(), "nobody could remove them");
    let egret = setup.start();
    upload(&egret, &world, &nginx);
    let authority = format!("{NAME}:{}", nginx.port());
    let reply = Wire::connect_unix(&forward).request("GET", &format!("https://{authority}/"), &authority);
    assert_eq!(reply.seen("subject"), "CN=the-client");

    // Somebody else has the name by the end: his file stays.
    std::fs::remove_file(&side).expect("ours to remove");
    let _other = UnixListener::bind(&side).expect("free again");
    let _setup = egret.stop();
    assert!(side.exists() && !forward.exists());
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let world = World::new();
    let precious = world.write("precious", "content");
    let text = |listen: &str| format!("[[listeners]]\nname = \"x\"\nlisten = \"{listen}\"\n");
    let config = world.write("egret.toml", &text("unix:precious"));
    let mut serve = program();
    serve
        .args(["serve", "--management", "127.0.0.1:0", "--data-dir"])
        .arg(world.path("data"))
        .arg("--config")
        .arg(&config);
    let refused = run_within(PATIENCE, &mut serve);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("a file of another kind") && !refused.status.success(), "{said}");
    assert_eq!(std::fs::read_to_string(precious).expect("still there"), "content");

    let config = world.write("long.toml", &text(&format!("unix:{}", "x".repeat(120))));
    let refused = run_within(PATIENCE, program().args(["check", "--config"]).arg(&config));
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("long.toml:3: listeners[0].listen: the path of the Unix socket has "), "{said}");
}
