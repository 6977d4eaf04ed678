//! `egret run` and `egret env`: the command notices nothing but that its requests carry the certificate.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::clients::curl_command;
use crate::harness::egret::{Egret, Setup, TOKEN, program};
use crate::harness::origin::{Next, Origin, Wants};
use crate::harness::world::World;
use crate::harness::{PATIENCE, Process, eventually, run_within, stdout_of};

/// Where nothing listens.
const NOBODY: &str = "http://127.0.0.1:9";

/// An origin that demands a certificate of the partner's and answers with its common name.
fn origin(world: &World) -> Origin {
    let server = world.server(&["api.partner.test"]);
    Origin::start(&server, &Wants::CertificateOf(&world.partner.pem()), |conversation, _| {
        let subject = conversation.subject.clone().unwrap_or_default();
        conversation.answer("200 OK", "", &subject)
    })
}

/// A running egret with a certificate for that origin.
fn serving(world: &World, origin: &Origin) -> Egret {
    let egret = Setup::new(world).hosts(&["api.partner.test"]).start();
    egret.upload("default", Some(&origin.origin("api.partner.test")), &world.client("laptop"));
    egret
}

/// The same in a file, for an egret that is not running yet.
fn declared(world: &World, origin: &Origin, more: &str) -> Setup {
    let [cert, key, ca] = world.client("laptop").write(&world.path("."));
    let origin = origin.origin("api.partner.test");
    Setup::new(world)
        .hosts(&["api.partner.test"])
        .section(&format!("[[certificates]]\norigin = {origin:?}\ncert = {cert:?}\nkey = {key:?}\nca = {ca:?}\n{more}"))
}

/// `egret run` that finds no running egret.
fn alone(setup: &Setup, arguments: &[&str]) -> Command {
    let mut run = program();
    run.arg("run").args(arguments).env("EGRET_CONFIG", setup.write()).env("EGRET_URL", NOBODY);
    run
}

/// What a command says on both of its streams, with its exit code.
fn said(command: &mut Command) -> (Option<i32>, String, String) {
    let output = run_within(PATIENCE, command);
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn environment_of(printed: &str) -> Vec<(String, String)> {
    let pairs = printed.split('\0').filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn value<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

#[test]
fn a_request_of_the_command_carries_the_certificate() {
    let world = World::new();
    let origin = origin(&world);
    let egret = serving(&world, &origin);
    let url = origin.origin("api.partner.test");
    let (code, out, err) = said(&mut egret.cli(&["run", "--", "curl", "-sS", &url]));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "laptop", ""));
    // As people write it, without the dashes; options of the command are the command's.
    let lifted = url.replace("https://", "http://");
    assert_eq!(stdout_of(&mut egret.cli(&["run", "curl", "-sS", &lifted])), "laptop");
    let subjects: Vec<_> = origin.seen().into_iter().map(|seen| seen.subject).collect();
    assert!(!subjects.is_empty() && subjects.iter().all(|s| s.as_deref() == Some("laptop")), "{subjects:?}");
}

#[test]
fn streams_and_exit_codes_are_the_commands_own() {
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    for (command, expected) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["/nowhere/to/be/found"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let (code, out, _) = said(egret.cli(&["run", "--"]).args(command));
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{command:?}");
    }
    let mut cat = egret.cli(&["run", "--", "sh", "-c", "cat; echo to stderr >&2"]);
    let mut cat = Process::spawn(cat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let mut stdin = cat.0.stdin.take().expect("piped");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let (mut out, mut err) = (Vec::new(), String::new());
    cat.0.stdout.take().expect("piped").read_to_end(&mut out).expect("readable");
    cat.0.stderr.take().expect("piped").read_to_string(&mut err).expect("text");
    writer.join().expect("no panic").expect("taken to the end");
    assert!(out == bytes, "{} bytes came back", out.len());
    assert_eq!(err, "to stderr\n");
}

#[test]
fn limits_and_mask_are_those_that_the_user_had() {
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    let limits = "umask 027; ulimit -S -n 300; ulimit -S -c 0; exec \"$@\" -c 'umask; ulimit -S -n; ulimit -H -c'";
    let hard = stdout_of(Command::new("sh").args(["-c", "ulimit -H -c"]));
    let run = egret.cli(&["run", "--", "sh"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", limits, "sh"]).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    assert_eq!(stdout_of(&mut shell), format!("0027\n300\n{hard}"));
}

#[test]
fn signals_reach_the_command_once_and_egret_outlives_it() {
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    // Without a terminal nobody but egret hands a signal on.
    for (signal, name) in [(Signal::TERM, "TERM"), (Signal::INT, "INT"), (Signal::USR1, "USR1"), (Signal::HUP, "HUP")] {
        let script = format!("trap 'exit 9' {name}; echo ready; while :; do sleep 0.01; done");
        let mut run = egret.cli(&["run", "--", "sh", "-c", &script]);
        let mut run = Process::spawn(run.process_group(0).stdout(Stdio::piped()));
        let mut lines = BufReader::new(run.0.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        run.signal(signal);
        let status = eventually("the command ends", || run.ended());
        assert_eq!(status.code(), Some(9), "{name}");
    }
    // What was ignored stays so.
    let mut run = egret.cli(&["run", "--", "sh", "-c", "kill -HUP $$; kill -HUP $PPID; echo alive"]);
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(run.get_program()).args(run.get_args());
    for (name, value) in run.env("LC_ALL", "C").get_envs() {
        value.map(|value| nohup.env(name, value));
    }
    assert_eq!(stdout_of(&mut nohup), "alive\n");
}

/// A terminal sends ctrl-c to both; twice would be once too often.
#[test]
fn ctrl_c_in_a_terminal_reaches_the_command_once() {
    const SCRIPT: &str = r#"
import os, pty, signal, sys
child = r'''
import signal, sys
got = []
signal.signal(signal.SIGINT, lambda *a: (got.append(1), print("interrupted", flush=True)))
signal.signal(signal.SIGTERM, lambda *a: (print("count", len(got), flush=True), sys.exit(3)))
print("ready", flush=True)
while True: signal.pause()
'''
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], [sys.argv[1], "run", "--", sys.executable, "-c", child])
seen = b""
def until(what):
    global seen
    while what not in seen:
        seen += os.read(terminal, 1024)
until(b"ready")
os.write(terminal, b"\x03")
until(b"interrupted")
os.kill(pid, signal.SIGTERM)
until(b"count ")
status = os.waitpid(pid, 0)[1]
print(seen.decode().count("interrupted"), os.waitstatus_to_exitcode(status))
"#;
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    let run = egret.cli(&[]);
    let mut python = Command::new("python3");
    python.args(["-c", SCRIPT]).arg(run.get_program());
    for (name, value) in run.get_envs() {
        value.map(|value| python.env(name, value));
    }
    assert_eq!(stdout_of(&mut python), "1 3\n");
}

#[test]
fn a_private_egret_serves_its_command_alone_and_goes_with_it() {
    let world = World::new();
    let origin = origin(&world);
    let setup = declared(&world, &origin, "");
    let url = origin.origin("api.partner.test");
    // In the middle of the run: everything that others on this machine could see.
    let script = format!(
        "set -e; curl -sS {url} > {answer}; for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null || :; done > {seen}; \
         curl -s -o /dev/null -w '%{{http_connect}}' --proxy \"http://${{HTTPS_PROXY#*@}}\" {url} > {refused} || :; env -0",
        answer = world.path("answer").display(),
        seen = world.path("cmdlines").display(),
        refused = world.path("refused").display(),
    );
    let mut run = alone(&setup, &["--", "sh", "-c", &script]);
    run.env("EGRET_TOKEN", TOKEN).env("EGRET_LOG", "trace");
    let (code, out, err) = said(&mut run);
    assert_eq!(code, Some(0));
    assert_eq!(std::fs::read_to_string(world.path("answer")).expect("written"), "laptop");
    let environment = environment_of(&out);
    assert_eq!(value(&environment, "EGRET_TOKEN"), None, "it opens the management API");
    let proxy = value(&environment, "HTTPS_PROXY").expect("set").to_owned();
    let (credential, address) = proxy.strip_prefix("http://").expect("http").split_once('@').expect("a credential");
    let token = credential.strip_prefix("default:").expect("the project is the user");
    assert_eq!(token.len(), 64);
    assert!(!std::fs::read_to_string(world.path("cmdlines")).expect("written").contains(token));
    assert!(!err.contains(token), "not in a log, not even a loud one");
    assert_eq!(std::fs::read_to_string(world.path("refused")).expect("written"), "407", "nobody else is served");
    TcpListener::bind(address).expect("the port is free again");
    let bundle = Path::new(value(&environment, "SSL_CERT_FILE").expect("set"));
    assert!(!bundle.parent().expect("a folder").exists(), "its files are gone");
    assert_eq!(origin.seen().last().and_then(|seen| seen.subject.clone()).as_deref(), Some("laptop"));
}

#[test]
fn a_store_that_another_egret_holds_is_named() {
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    let (code, out, err) = said(egret.cli(&["run", "--", "echo", "never"]).env("EGRET_URL", NOBODY));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("another egret works with") && err.contains("EGRET_URL"), "{err}");
}

#[test]
fn what_cannot_be_found_is_said_precisely() {
    let world = World::new();
    let egret = Setup::new(&world)
        .project("payments")
        .listener("sidecar", "sidecar", "project = \"default\"\norigin = \"https://a.test\"")
        .start();
    let (code, _, err) = said(&mut egret.cli(&["run", "--", "true"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("has no forward listener; add [[listeners]]"), "{err}");
    let (code, _, err) = said(&mut egret.cli(&["run", "--project", "s3cret", "--", "true"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("no such project") && !err.contains("s3cret"), "{err}");
    let egret = Setup::new(&world).project("payments").start();
    let (code, _, err) = said(&mut egret.cli(&["run", "--project", "payments", "--", "true"]));
    assert_eq!(code, Some(1));
    assert!(err.contains("has no forward listener that takes this project"), "{err}");
    let (code, _, err) = said(program().args(["env", "--url", NOBODY]));
    assert_eq!(code, Some(1));
    assert!(err.contains("egret run") && err.contains(NOBODY), "{err}");
}

#[test]
fn no_proxy_that_swallows_a_bound_host_is_told() {
    let world = World::new();
    let egret = serving(&world, &origin(&world));
    let run = |no_proxy: &str| {
        let mut run = egret.cli(&["run", "--", "env", "-0"]);
        let (code, out, err) = said(run.env("NO_PROXY", no_proxy).env("no_proxy", "other.test"));
        assert_eq!(code, Some(0), "{err}");
        (environment_of(&out), err)
    };
    let (environment, err) = run("x.test,.partner.test");
    assert!(err.contains("NO_PROXY has .partner.test, so requests to https://api.partner.test:"), "{err}");
    let expected = "other.test,x.test,.partner.test,localhost,127.0.0.1,::1";
    assert_eq!(value(&environment, "NO_PROXY"), Some(expected), "the user's own stays in force");
    assert_eq!(value(&environment, "no_proxy"), Some(expected));
    assert_eq!(run("x.test").1, "");
}

#[test]
fn a_listener_that_asks_for_tokens_gets_one_for_this_command_alone() {
    let world = World::new();
    let origin = origin(&world);
    let egret =
        Setup::new(&world).hosts(&["api.partner.test"]).listener("shared", "forward", "auth = \"token\"").start();
    let url = origin.origin("api.partner.test");
    egret.upload("default", Some(&url), &world.client("laptop"));
    let tokens = || egret.api("GET", "/v1/tokens", None).1["tokens"].as_array().expect("a list").len();
    let before = tokens();
    let (code, out, err) =
        said(&mut egret.cli(&["run", "--", "sh", "-c", &format!("curl -sS {url}; echo \" $HTTPS_PROXY\"; exit 3")]));
    assert_eq!((code, err.as_str()), (Some(3), ""));
    let (subject, proxy) = out.trim_end().split_once(' ').expect("two words");
    assert_eq!(subject, "laptop");
    assert_eq!(tokens(), before, "revoked");
    let mut curl = curl_command();
    let late = curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_connect}", "--proxy", proxy, &url]);
    assert_eq!(said(late).1, "407", "and of no use to whoever kept it");
    assert!(!egret.log().contains(proxy.split(['@', ':']).nth(2).expect("a token")), "nor is it in a log");
    // Who may not make credentials learns what it takes.
    let (code, _, err) = said(egret.cli(&["run", "--", "true"]).env("EGRET_TOKEN", "nobody's"));
    assert_eq!(code, Some(1));
    assert!(err.contains("EGRET_TOKEN"), "{err}");
}

/// The API as it is fixed, by itself: what is asked of it, in which order, is the point.
#[test]
fn a_credential_is_made_for_the_command_and_revoked_after_it() {
    let asked = Arc::new(Mutex::new(Vec::<(String, Value)>::new()));
    let world = World::new();
    // Of the real one, which is as good as any.
    let ca = Setup::new(&world).start().ca_pem();
    let heard = Arc::clone(&asked);
    let api = Origin::plain(move |conversation, head| {
        assert_eq!(head.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
        let body = conversation.body(head)?;
        let target = head.target().to_owned();
        heard
            .lock()
            .expect("no panic")
            .push((format!("{} {target}", head.method()), serde_json::from_slice(&body).unwrap_or_default()));
        let answer = match (head.method(), target.as_str()) {
            ("GET", "/v1/status") => json!({
                "projects": [{"id": "prj_7", "name": "default"}],
                "listeners": [
                    {"name": "a", "mode": "forward", "address": "127.0.0.1:7", "auth": "none", "project": "prj_7", "tls": false},
                    {"name": "b", "mode": "forward", "address": "0.0.0.0:8", "auth": "token", "tls": false},
                ],
            }),
            ("GET", "/v1/projects/prj_7/bindings") => json!({"bindings": [{"origin": "*", "certId": "c"}]}),
            ("GET", "/v1/ca") => json!({"pem": ca, "path": null}),
            ("POST", "/v1/tokens") => json!({"id": "tok_1", "name": "n", "role": "proxy", "token": "s/cret"}),
            ("DELETE", _) => json!({}),
            other => panic!("{other:?}"),
        };
        conversation.answer("200 OK", "Content-Type: application/json\r\n", &answer.to_string())?;
        Ok(Next::KeepAlive)
    });
    let run = |arguments: &[&str]| {
        asked.lock().expect("no panic").clear();
        let url = format!("http://127.0.0.1:{}", api.port());
        let (code, out, err) = said(
            program().args(arguments).env("EGRET_URL", url).env("EGRET_TOKEN", TOKEN).env("HOME", world.path(".")),
        );
        assert_eq!(code, Some(0), "{err}");
        (out, err, asked.lock().expect("no panic").clone())
    };
    let (out, err, asked) = run(&["run", "--ttl", "1h", "--", "sh", "-c", "echo \"$https_proxy $JAVA_TOOL_OPTIONS\""]);
    assert_eq!(err, "");
    assert!(out.starts_with("http://default:s%2Fcret@127.0.0.1:8 "), "{out}");
    assert!(out.contains("-Dhttps.proxyPort=7"), "Java can send none: {out}");
    let (made, body) = asked.iter().find(|(line, _)| line.starts_with("POST")).expect("a credential was made");
    assert_eq!(made, "POST /v1/tokens");
    let name = body["name"].as_str().expect("a name");
    assert_eq!(*body, json!({"name": name, "role": "proxy", "projects": ["prj_7"], "ttl": 3600}));
    assert_eq!(asked.last().expect("something").0, format!("DELETE /v1/tokens/{name}"));

    let (out, _, asked) = run(&["run", "--without-credential", "--", "sh", "-c", "echo \"$https_proxy\""]);
    assert_eq!(out, "http://127.0.0.1:7\n");
    assert!(asked.iter().all(|(line, _)| line.starts_with("GET ")), "{asked:?}");

    let (out, err, asked) = run(&["env", "--shell", "sh"]);
    assert!(out.contains("export HTTPS_PROXY='http://default:s%2Fcret@127.0.0.1:8'\n"), "{out}");
    assert!(err.starts_with("# ") && err.contains("good for 1day"), "{err}");
    assert!(asked.iter().all(|(line, _)| !line.starts_with("DELETE ")), "it has to last: {asked:?}");
}

#[test]
fn variables_printed_for_a_shell_work_in_it() {
    let world = World::new();
    let origin = origin(&world);
    let egret = serving(&world, &origin);
    let url = origin.origin("api.partner.test");
    let env = egret.cli(&["env"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "set -e; eval \"$(\"$0\" env)\"; curl -sS \"$1\"; ls \"$SSL_CERT_FILE\" >&2"]);
    shell.arg(env.get_program()).arg(&url);
    for (name, value) in env.get_envs() {
        value.map(|value| shell.env(name, value));
    }
    // A folder whose name a shell would take apart.
    let data = world.path("it's a \"$HOME\" `folder`");
    let (code, out, err) = said(shell.env("EGRET_DATA_DIR", &data).env("SHELL", "/bin/sh"));
    assert_eq!((code, out.as_str()), (Some(0), "laptop"), "{err}");
    assert!(err.contains(data.to_str().expect("text")), "{err}");
}

#[test]
fn java_trusts_the_systems_roots_and_the_ca() {
    let world = World::new();
    let setup = declared(&world, &origin(&world), "");
    let script = "p=${JAVA_TOOL_OPTIONS#*-Djavax.net.ssl.trustStore=}; unset JAVA_TOOL_OPTIONS; \
                  keytool -list -storetype PKCS12 -storepass changeit -keystore \"${p%% *}\"";
    let listed = stdout_of(&mut alone(&setup, &["--", "sh", "-c", script]));
    let roots = listed.matches("trustedCertEntry").count();
    let system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").expect("Debian's bundle");
    assert!(roots > system.matches("BEGIN CERTIFICATE").count() / 2, "{listed}");
}
