//! A .p12 of a bank, an encrypted key, DER from Windows: whatever it is, one command registers it, and the origin sees
//! whose it is. The passphrase goes nowhere.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::certificates::{Authority, Pair};
use crate::harness::clients::{Client, Job};
use crate::harness::egret::{Egret, Setup, program};
use crate::harness::nginx::{Nginx, Site};
use crate::harness::wire::{absolute, find};
use crate::harness::world::World;
use crate::harness::{PATIENCE, command, repository, run_within, stdout_of};

const PASSPHRASE: &str = "Passphrase-of-the-bank-7741";

/// Exit code, and what was printed.
fn run(command: &mut Command) -> (Option<i32>, String) {
    let output = run_within(PATIENCE, command);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), text.concat())
}

/// A folder with the files of one person, and the tools that made them.
struct Files<'a> {
    world: &'a World,
}

impl Files<'_> {
    /// Runs a tool in the folder, arguments separated by blanks.
    fn tool(&self, tool: &str, arguments: &str) -> &Self {
        stdout_of(command(tool).args(arguments.split_whitespace()).current_dir(self.world.path("")));
        self
    }

    fn openssl(&self, arguments: &str) -> &Self {
        self.tool("openssl", arguments)
    }

    fn path(&self, name: &str) -> String {
        self.world.path(name).to_str().expect("text").to_owned()
    }

    /// `NAME.crt`, `NAME.key`, `NAME-ca.crt` and `NAME-all.crt` (the chain with its root).
    fn of(&self, pair: &Pair) -> &Self {
        pair.write(&self.world.path(""));
        self.world.write(&format!("{}-all.crt", pair.name), &(pair.chain.clone() + &pair.ca));
        self
    }

    fn p12(&self, name: &str, options: &str) -> &Self {
        self.openssl(&format!(
            "pkcs12 -export {options} -in {name}.crt -inkey {name}.key -certfile {name}-all.crt -name {name} -out \
             {name}.p12 -passout pass:{PASSPHRASE}"
        ))
    }
}

/// `egret certs upload` with these arguments, told the passphrase by EGRET_PASSPHRASE.
fn upload(egret: &Egret, origin: &str, arguments: &[&str]) -> Command {
    let mut cli = egret.cli(&["certs", "upload", "--origin", origin]);
    cli.args(arguments).env("EGRET_PASSPHRASE", PASSPHRASE);
    cli
}

#[test]
fn every_form_is_registered_and_the_origin_sees_its_subject() {
    let world = World::new();
    let names: Vec<String> =
        ["modern", "legacy", "java", "scrypt", "binary", "combined", "chained"].map(|n| format!("{n}.test")).into();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let nginx = Nginx::start(&[Site::demanding(&refs, &world.server(&refs), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&names).start();
    let files = Files { world: &world };
    let between = world.partner.intermediate("between");
    for name in &refs {
        let pair = match *name {
            "chained.test" => between.client(name).through(&between, &world.partner),
            name => world.client(name),
        };
        files.of(&pair);
    }
    files.p12("modern.test", "").p12("legacy.test", "-legacy").p12("java.test", "").p12("chained.test", "");
    files.tool(
        "keytool",
        &format!(
            "-importkeystore -srckeystore java.test.p12 -srcstoretype PKCS12 -srcstorepass {PASSPHRASE} -destkeystore \
             of-java.p12 -deststoretype PKCS12 -deststorepass {PASSPHRASE}"
        ),
    );
    files.tool(
        "keytool",
        &format!("-genkeypair -storetype PKCS12 -keystore of-java.p12 -storepass {PASSPHRASE} -alias other -keyalg RSA -dname CN=other"),
    );
    files.openssl(&format!("pkcs8 -topk8 -scrypt -in scrypt.test.key -out scrypt.enc -passout pass:{PASSPHRASE}"));
    files.openssl(&format!("pkcs8 -topk8 -in combined.test.key -out combined.enc -passout pass:{PASSPHRASE}"));
    for (kind, file) in [("x509", "binary.test.crt"), ("x509", "binary.test-ca.crt"), ("pkey", "binary.test.key")] {
        files.openssl(&format!("{kind} -in {file} -outform DER -out {file}.der"));
    }
    let combined =
        ["combined.test.crt", "combined.enc"].map(|name| std::fs::read_to_string(world.path(name)).expect("text"));
    world.write("combined.pem", &combined.concat());

    let path = |name: &str| files.path(name);
    let uploads: [(&str, Vec<String>); 7] = [
        ("modern.test", vec!["--p12".into(), path("modern.test.p12")]),
        ("legacy.test", vec!["--p12".into(), path("legacy.test.p12")]),
        ("java.test", vec!["--p12".into(), path("of-java.p12"), "--p12-alias".into(), "java.test".into()]),
        (
            "scrypt.test",
            vec![
                "--cert".into(),
                path("scrypt.test.crt"),
                "--key".into(),
                path("scrypt.enc"),
                "--ca".into(),
                path("scrypt.test-ca.crt"),
            ],
        ),
        (
            "binary.test",
            vec![
                "--cert".into(),
                path("binary.test.crt.der"),
                "--key".into(),
                path("binary.test.key.der"),
                "--ca".into(),
                path("binary.test-ca.crt.der"),
            ],
        ),
        ("combined.test", vec!["--cert".into(), path("combined.pem"), "--ca".into(), path("combined.test-ca.crt")]),
        ("chained.test", vec!["--p12".into(), path("chained.test.p12")]),
    ];
    for (name, arguments) in &uploads {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = stdout_of(&mut upload(&egret, &nginx.origin(name), &arguments));
        assert!(said.contains("uploaded: cert_") && said.contains(&format!("CN={name}")), "{said}");
        assert_eq!(said.contains("the CA was taken from"), name != &"scrypt.test" && arguments[0] == "--p12", "{said}");
        let reply = absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name)));
        assert_eq!(reply.seen("subject"), format!("CN={name}"), "{name}");
    }
    let answer = Client::Curl.send(&Job::get(nginx.origin("legacy.test")).through(egret.proxy()).trusting(&egret.ca()));
    assert_eq!(answer.seen("subject"), "CN=legacy.test");
    // Two keys, and nobody says which.
    let (code, said) = run(&mut upload(&egret, &nginx.origin("java.test"), &["--p12", &path("of-java.p12")]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("java.test (CN=java.test)") && said.contains("other (CN=other)"), "{said}");
    assert!(!egret.log().contains(PASSPHRASE));
}

#[test]
fn the_passphrase_comes_from_a_file_a_variable_or_the_terminal() {
    let world = World::new();
    let egret = Setup::new(&world).start();
    let files = Files { world: &world };
    files.of(&world.client("client")).p12("client", "");
    world.write("phrase", &format!("{PASSPHRASE}\nnot this line\n"));
    let (p12, phrase) = (files.path("client.p12"), files.path("phrase"));
    let cli = |arguments: &[&str]| egret.cli(&[&["certs", "upload", "--p12", &p12], arguments].concat());
    stdout_of(&mut cli(&["--passphrase-file", &phrase]));
    stdout_of(cli(&["--passphrase-env", "BANK"]).env("BANK", PASSPHRASE).env("EGRET_PASSPHRASE", "not this one"));
    stdout_of(cli(&[]).env("EGRET_PASSPHRASE", PASSPHRASE));

    let (code, said) = run(cli(&[]).env("EGRET_PASSPHRASE", "wrong-one"));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("client.p12 does not open with this passphrase") && said.contains("EGRET_PASSPHRASE"),
        "{said}"
    );
    assert!(!said.contains("wrong-one"), "{said}");
    let (code, said) = run(&mut cli(&["--passphrase-env", "NOBODY_SET_THIS"]));
    assert_eq!((code, said.contains("NOBODY_SET_THIS is not set")), (Some(2), true), "{said}");

    // A session without a terminal: nobody can be asked, and that is said instead of waited for.
    let mut alone = command("setsid");
    let inner = cli(&[]);
    alone.arg("--wait").arg(inner.get_program()).args(inner.get_args());
    alone.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (code, said) = run(&mut alone);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no terminal") && said.contains("--passphrase-file"), "{said}");

    let on_a_terminal = |answer: &str| {
        let mut python = command("python3");
        python.arg(repository("tests/clients/terminal.py")).arg("passphrase of").arg(inner.get_program());
        python.args(inner.get_args()).envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        run(python.env("ANSWER", answer))
    };
    let (code, shown) = on_a_terminal(PASSPHRASE);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("passphrase of") && shown.contains("cert_"), "{shown}");
    assert!(!shown.contains(PASSPHRASE), "it was not shown: {shown}");
    let (code, shown) = on_a_terminal("wrong-one");
    assert_eq!(code, Some(1), "{shown}");
    assert!(shown.contains("does not open with this passphrase") && !shown.contains("wrong-one"), "{shown}");
    assert!(!egret.log().contains(PASSPHRASE));
}

#[test]
fn the_api_gets_plain_pem_and_never_the_passphrase() {
    let world = World::new();
    let files = Files { world: &world };
    let pair = world.client("client");
    files.of(&pair).p12("client", "-legacy");
    let api = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let url = format!("http://{}", api.local_addr().expect("bound"));
    let captured = std::thread::spawn(move || {
        let (mut stream, _) = api.accept().expect("the command comes");
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        // Until the end of the JSON: its length is announced.
        loop {
            let count = stream.read(&mut buffer).expect("readable");
            bytes.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&bytes);
            let length = text
                .lines()
                .find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
            let whole =
                text.find("\r\n\r\n").zip(length).is_some_and(|(head, length)| bytes.len() >= head + 4 + length);
            if count == 0 || whole {
                break;
            }
        }
        let answer = r#"{"certId":"cert_1","updated":false,"origin":"*"}"#;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + answer).as_bytes()).expect("writable");
        bytes
    });
    let mut cli = program();
    cli.args(["certs", "upload", "--json", "--url", &url, "--p12", &files.path("client.p12")]);
    cli.env("EGRET_TOKEN", "t").env("EGRET_PASSPHRASE", PASSPHRASE);
    stdout_of(&mut cli);
    let request = captured.join().expect("captured");
    assert!(find(&request, PASSPHRASE.as_bytes()).is_none());
    let body = find(&request, b"\r\n\r\n").map(|at| &request[at + 4..]).expect("a body");
    let body: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!(body["key"], pair.key.replace("\r\n", "\n"), "PKCS#8, not encrypted");
    assert_eq!(
        (&body["cert"], &body["ca"]),
        (&pair.chain.replace("\r\n", "\n").into(), &pair.ca.replace("\r\n", "\n").into())
    );
    let fields: Vec<&String> = body.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["ca", "cert", "key"]);
}

#[test]
fn a_p12_without_its_ca_asks_for_it() {
    let world = World::new();
    let name = "api.partner.test";
    let nginx = Nginx::start(&[Site::demanding(&[name], &world.server(&[name]), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&[name]).start();
    let files = Files { world: &world };
    files.of(&world.client("client")).openssl(&format!(
        "pkcs12 -export -in client.crt -inkey client.key -out client.p12 -passout pass:{PASSPHRASE}"
    ));
    let (p12, ca) = (files.path("client.p12"), files.path("client-ca.crt"));
    let (code, said) = run(&mut upload(&egret, &nginx.origin(name), &["--p12", &p12]));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no CA certificate") && said.contains("--ca FILE") && said.contains("CN=client"), "{said}");
    stdout_of(&mut upload(&egret, &nginx.origin(name), &["--p12", &p12, "--ca", &ca]));
    assert_eq!(absolute(egret.proxy(), "GET", &format!("{}/", nginx.origin(name))).seen("subject"), "CN=client");
    // What was meant for the other option is named with it.
    let (code, said) = run(&mut upload(&egret, &nginx.origin(name), &["--cert", &p12, "--ca", &ca]));
    assert_eq!((code, said.contains("name it with --p12")), (Some(1), true), "{said}");
}

#[test]
fn a_certificate_is_bound_to_another_origin_and_none_to_a_third() {
    let world = World::new();
    let names = ["one.test", "two.test", "three.test"];
    let nginx = Nginx::start(&[Site::demanding(&names, &world.server(&names), &world.partner.pem())]);
    let egret = Setup::new(&world).hosts(&names).project("payments").start();
    let [one, two, three] = names.map(|name| nginx.origin(name));
    let id = egret.upload("default", Some(&one), &world.client("shared"));
    egret.upload("default", None, &world.client("wide"));
    let seen = |origin: &str| absolute(egret.proxy(), "GET", &format!("{origin}/"));
    assert_eq!(seen(&two).seen("subject"), "CN=wide");

    let said = stdout_of(&mut egret.cli(&["certs", "bind", &two, &id]));
    assert!(said.contains(&two) && said.contains(&id), "{said}");
    assert_eq!(seen(&two).seen("subject"), "CN=shared");
    let said = stdout_of(&mut egret.cli(&["certs", "bind", &three, "none"]));
    assert!(said.contains("nothing is presented there"), "{said}");
    assert!(seen(&three).text().contains("No required SSL certificate was sent"));
    let bound: serde_json::Value =
        serde_json::from_str(&stdout_of(&mut egret.cli(&["certs", "bind", &two, "--none", "--json"]))).expect("JSON");
    assert_eq!(
        (&bound["updated"], &bound["certId"], &bound["origin"]),
        (&true.into(), &serde_json::Value::Null, &two.as_str().into())
    );
    assert!(seen(&two).text().contains("No required SSL certificate was sent"));
    let said = stdout_of(&mut egret.cli(&["certs", "unbind", &two]));
    assert!(said.contains(&format!("unbound: {two}")), "{said}");
    assert_eq!(seen(&two).seen("subject"), "CN=wide");
    assert_eq!(seen(&one).seen("subject"), "CN=shared", "the certificate itself stays");

    let (code, said) = run(&mut egret.cli(&["certs", "bind", &two, "cert_00000000000000000000000000000000"]));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(run(&mut egret.cli(&["certs", "bind", &two])).0, Some(2));
    assert_eq!(run(&mut egret.cli(&["certs", "bind", &two, &id, "--none"])).0, Some(2));
    // Whose it is counts: another project has no such certificate.
    assert_eq!(run(&mut egret.cli(&["certs", "bind", &two, &id, "--project", "payments"])).0, Some(1));
}

#[test]
fn an_unused_authority_is_not_a_certificate() {
    // A truststore has certificates and no key; that is said before anything is sent.
    let world = World::new();
    let egret = Setup::new(&world).start();
    let files = Files { world: &world };
    let root: PathBuf = world.write("root.pem", &Authority::root("some root").pem());
    files.tool(
        "keytool",
        &format!(
            "-importcert -noprompt -storetype PKCS12 -keystore trust.p12 -storepass {PASSPHRASE} -alias root -file {}",
            root.display()
        ),
    );
    let (code, said) = run(&mut upload(&egret, "https://a.test", &["--p12", &files.path("trust.p12")]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("certificates but no private key"), "{said}");
}
