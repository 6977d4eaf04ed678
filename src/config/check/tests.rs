use std::path::Path;
use std::time::Duration;

use super::super::{
    CallerSettings, Complaint, DEFAULT_MANAGEMENT, DEFAULT_PROXY, Intercept, ListenerMode, Loaded, Overlay,
    PostQuantum, Settings, load, load_text,
};
use super::*;
use crate::domain::{DefaultScope, Host, Origin, ProjectId, Role};

const PATH: &str = "/etc/egret/egret.toml";
/// SHA-256 of "token" and nothing else.
const TOKEN_SHA256: &str = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/u".to_owned()),
        "DEPLOY_TOKEN" => Some("token\n".to_owned()),
        "PROXY_PASSWORD" => Some("password".to_owned()),
        "EGRET_WEBHOOK_TOKEN" => Some("token-of-the-hook".to_owned()),
        _ => None,
    }
}

fn loaded(text: &str) -> Loaded {
    load_text(text, Path::new(PATH), &Overlay::default(), &environment).unwrap_or_else(|refused| panic!("{refused}"))
}

pub(super) fn settings(text: &str) -> Settings {
    loaded(text).settings
}

fn refused_with(text: &str, overlay: &Overlay) -> Vec<Complaint> {
    load_text(text, Path::new(PATH), overlay, &environment).expect_err("this should be refused").0
}

/// `line key` of every complaint.
pub(super) fn refused(text: &str) -> Vec<String> {
    refused_with(text, &Overlay::default()).iter().map(|c| format!("{} {}", c.line.unwrap_or(0), c.key)).collect()
}

#[test]
fn without_a_file_there_is_a_laptop_proxy() {
    let settings = load(&Overlay::default(), &environment).expect("the defaults are fine").settings;
    assert_eq!(settings.data_dir, Path::new("/home/u/.local/share/egret"));
    assert_eq!(settings.management.listen, DEFAULT_MANAGEMENT.into());
    assert!(settings.workers >= 1);
    assert_eq!(settings.projects.len(), 1);
    assert!(settings.tokens.is_empty());
    let [listener] = settings.listeners.as_slice() else { panic!("one listener") };
    assert_eq!(
        (listener.name.as_str(), &listener.listen, &listener.mode),
        ("default", &DEFAULT_PROXY.into(), &ListenerMode::Forward)
    );
    assert_eq!(listener.caller, CallerSettings::Project(ProjectId::derived("default", None)));
    assert_eq!(settings.egress.allow, [Pattern::Default]);
}

#[test]
fn flags_win_over_the_file() {
    let overlay = Overlay {
        data_dir: Some("/data".into()),
        proxy: Some("127.0.0.1:1".parse().unwrap()),
        management: Some("127.0.0.1:2".parse().unwrap()),
        ..Overlay::default()
    };
    let text = r#"
        data_dir = "d"
        [management]
        listen = "127.0.0.1:3"
        [[listeners]]
        name = "side"
        listen = "127.0.0.1:4"
        mode = "sidecar"
        origin = "API.example.com:443"
        [[listeners]]
        name = "first"
        listen = "127.0.0.1:5"
        [[listeners]]
        name = "second"
        listen = "127.0.0.1:6"
        auth = "token"
        intercept = "never"
    "#;
    let settings = load_text(text, Path::new(PATH), &overlay, &environment).unwrap().settings;
    assert_eq!(settings.data_dir, Path::new("/data"));
    assert_eq!(settings.management.listen.tcp().expect("TCP").port(), 2);
    let ports: Vec<u16> = settings.listeners.iter().map(|l| l.listen.tcp().expect("TCP").port()).collect();
    assert_eq!(ports, [4, 1, 6]);
    let origin = Origin::parse("https://api.example.com").unwrap();
    assert_eq!(settings.listeners[0].mode, ListenerMode::Sidecar(Some(origin)));
    assert_eq!(settings.listeners[2].caller, CallerSettings::Token);
    assert_eq!(settings.listeners[2].intercept, Intercept::Never);
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    assert_eq!(settings("data_dir = \"d\"").data_dir, Path::new("/etc/egret/d"));
    let text = "[[certificates]]\ncert = \"c.crt\"\nkey = \"c.key\"\nca = \"/ca.crt\"";
    let loaded = loaded(text);
    let certificate = &loaded.settings.certificates[0];
    assert_eq!(certificate.cert, Path::new("/etc/egret/c.crt"));
    assert_eq!(certificate.ca, Path::new("/ca.crt"));
    assert_eq!(certificate.pattern, Pattern::Default);
    // Not there: egret starts, but is not ready; each file is named with its line.
    let lines: Vec<_> = loaded.unready.iter().map(|c| (c.line, c.key.as_str())).collect();
    assert_eq!(
        lines,
        [(Some(2), "certificates[0].cert"), (Some(3), "certificates[0].key"), (Some(4), "certificates[0].ca")]
    );
}

#[test]
fn every_complaint_is_collected_with_its_line() {
    let text = r#"workers = "many"
proxy = 1
[management]
listen = "nowhere"
tls = { cert = "x" }
[[listeners]]
name = "a"
listen = "127.0.0.1:1"
mode = "socks5"
[[listeners]]
listen = "127.0.0.1:1"
project = "nobody"
[[listeners]]
name = "a"
listen = "127.0.0.1:1"
mode = "sidecar"
[limits]
head_timeout = "soon"
max_headers = 0
[audit]
listen = "127.0.0.1:1"
"#;
    assert_eq!(
        refused(text),
        [
            "1 workers",
            "2 proxy",
            "4 management.listen",
            "5 management.tls.cert",
            "5 management.tls.key",
            "9 listeners[0].mode",
            "10 listeners[1].name",
            "12 listeners[1].project",
            "13 listeners[2].origin",
            "14 listeners[2].name",
            "18 limits.head_timeout",
            "19 limits.max_headers",
            "20 audit",
        ]
    );
}

#[test]
fn an_unknown_key_lists_the_known_ones() {
    let [complaint] = refused_with("[telemetry]\naccess_logs = true", &Overlay::default()).try_into().expect("one");
    let text = complaint.to_string();
    let known = "access_log, expiry_webhook, expiry_webhook_token";
    assert_eq!(text, format!("{PATH}:2: telemetry.access_logs: unknown key; the keys known here are: {known}"));
}

#[test]
fn no_message_repeats_what_was_written() {
    let text = r#"
        workers = "s3cret"
        profile = "s3cret"
        data_dir = ["s3cret"]
        [store]
        key_encryption_key = "s3cret"
        [[tokens]]
        name = "s3cret s3cret"
        sha256 = "s3cret"
        role = "s3cret"
        projects = "s3cret"
        [dns]
        hosts = "s3cret"
        [limits]
        max_pem = "s3cret"
        head_timeout = "s3cret"
        [[certificates]]
        origin = "https://s3cret@host"
        [trust]
        servers = "s3cret"
    "#;
    let complaints = refused_with(text, &Overlay::default());
    assert!(complaints.len() >= 11, "{complaints:?}");
    assert!(!format!("{complaints:?}").contains("s3cret"), "{complaints:#?}");
    let broken = refused_with("token = \"s3cret\nrole = s3cret", &Overlay::default());
    assert!(!format!("{broken:?}").contains("s3cret"), "{broken:#?}");
    assert_eq!(broken[0].line, Some(1));
}

#[test]
fn a_gateway_does_not_start_with_a_laptops_policy() {
    assert_eq!(refused("profile = \"gateway\""), ["1 profile"]);
    let overlay = Overlay { profile: Some(ProfileName::Gateway), ..Overlay::default() };
    let complaints = refused_with("", &overlay);
    assert_eq!(complaints[0].key, "--profile");
    assert!(complaints[0].what.contains("not available yet"));
    let back = Overlay { profile: Some(ProfileName::Local), ..Overlay::default() };
    assert!(load_text("profile = \"gateway\"", Path::new(PATH), &back, &environment).is_ok());
}

#[test]
fn an_open_relay_has_to_be_asked_for() {
    let listener = |more: &str| format!("[[listeners]]\nname = \"a\"\nlisten = \"0.0.0.0:1\"\n{more}");
    assert_eq!(refused(&listener("")), ["3 listeners[0].listen"]);
    assert_eq!(refused(&listener("mode = \"sidecar\"\norigin = \"host\"")), ["3 listeners[0].listen"]);
    settings(&listener("auth = \"token\""));
    settings(&listener("unsafe_open = true"));
    settings("[[listeners]]\nname = \"a\"\nlisten = \"[::ffff:127.0.0.1]:1\"");
    let overlay = Overlay { proxy: Some("192.0.2.1:1".parse().unwrap()), ..Overlay::default() };
    assert_eq!(refused_with("", &overlay)[0].key, "--proxy");
    assert_eq!(loaded("[management]\nlisten = \"0.0.0.0:1\"").warnings.len(), 1);
}

#[test]
fn listeners_are_told_apart() {
    let two = |a: &str, b: &str| format!("[[listeners]]\nname = \"a\"\n{a}\n[[listeners]]\nname = \"b\"\n{b}");
    assert_eq!(refused(&two("listen = \"[::1]:7\"", "listen = \"[::1]:7\"")), ["6 listeners[1].listen"]);
    settings(&two("listen = \"[::1]:0\"", "listen = \"[::1]:0\""));
    assert_eq!(
        refused(&two(
            "listen = \"[::1]:7\"\nproject = \"default\"\nauth = \"token\"",
            "listen = \"[::1]:8\"\norigin = \"host\""
        )),
        ["5 listeners[0].auth", "9 listeners[1].origin"]
    );
    let overlay = Overlay { proxy: Some("127.0.0.1:1".parse().unwrap()), ..Overlay::default() };
    let sidecar = "[[listeners]]\nname = \"s\"\nlisten = \"[::1]:7\"\nmode = \"sidecar\"\norigin = \"host\"";
    assert_eq!(refused_with(sidecar, &overlay)[0].key, "--proxy");
    assert_eq!(refused("listeners = []"), ["1 listeners"]);
}

#[test]
fn projects_and_their_certificates_are_told_apart() {
    let text = r#"[[projects]]
name = "a"
[[projects]]
name = "a"
[[projects]]
name = "a"
team = { slug = "t" }
[[projects]]
name = "b"
id = "prj/x"
zone_id = "xyz"
default = { scope = "listed" }
[[certificates]]
project = "a"
cert = "c"
key = "k"
ca = "a"
[[certificates]]
project = "default"
origin = "https://x.example/path"
cert = "c"
key = "k"
[[certificates]]
origin = "x.example"
cert = "c"
key = "k"
ca = "a"
[[certificates]]
origin = "https://X.example:443"
cert = "c"
key = "k"
ca = "a"
"#;
    assert_eq!(
        refused(text),
        [
            "4 projects[1].name",
            "10 projects[3].id",
            "14 certificates[0].project",
            "18 certificates[1].ca",
            "20 certificates[1].origin",
            "29 certificates[3].origin",
        ]
    );
    // What is wrong inside a project is told once its id is right.
    let text = text.replace("prj/x", "prj_x");
    let complaints = refused(&text);
    assert!(complaints.contains(&"11 projects[3].zone_id".to_owned()), "{complaints:?}");
    assert!(complaints.contains(&"12 projects[3].default.origins".to_owned()), "{complaints:?}");
}

#[test]
fn a_project_is_what_its_table_says() {
    let text = r#"
        [[projects]]
        name = "pay"
        id = "prj_1"
        account_id = "0123456789ABCDEF0123456789abcdef"
        state = "blocked"
        default = { scope = "listed", origins = ["*.x.example", "https://y.example:*"] }
        on_expiry = "send"
        rollback = "off"
        servers = "ca"
        [[listeners]]
        name = "l"
        listen = "127.0.0.1:0"
        project = "prj_1"
        [trust]
        servers = "system"
        post_quantum = "off"
    "#;
    let settings = settings(text);
    let [pay, default] = settings.projects.as_slice() else { panic!("two projects") };
    assert_eq!(pay.account_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
    assert!(pay.declared && !default.declared);
    assert!(matches!(&pay.default_scope, DefaultScope::Listed(list) if list.len() == 2));
    assert_eq!((pay.rollback, default.rollback), (crate::domain::Rollback::Off, crate::domain::Rollback::Auto));
    assert_eq!((pay.servers, default.servers), (crate::domain::ServerTrust::Ca, crate::domain::ServerTrust::System));
    assert_eq!(settings.listeners[0].caller, CallerSettings::Project(pay.id.clone()));
    assert_eq!(settings.trust.post_quantum, PostQuantum::Off);
}

#[test]
fn tokens_come_from_exactly_one_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t");
    std::fs::write(&file, "other token \n").unwrap();
    let text = format!(
        "[[tokens]]\nname = \"a\"\nenv = \"DEPLOY_TOKEN\"\nrole = \"proxy\"\nprojects = [\"default\"]\n\
         [[tokens]]\nname = \"b\"\nfile = {file:?}\nrole = \"read\"\n"
    );
    let tokens = settings(&text).tokens;
    assert_eq!(crate::domain::hex(&tokens[0].sha256), TOKEN_SHA256, "trailing white space is not part of a token");
    assert_eq!((tokens[0].role, tokens[1].role), (Role::Proxy, Role::Read));
    assert_eq!(
        refused(&format!("{text}[[tokens]]\nname = \"a\"\nsha256 = \"{TOKEN_SHA256}\"\nrole = \"admin\"\n")),
        ["10 tokens[2]", "11 tokens[2].name"]
    );
    assert_eq!(
        refused("[[tokens]]\nname = \"a\"\n[[tokens]]\nname = \"b\"\nenv = \"E\"\nsha256 = \"0\"\nrole = \"admin\""),
        ["1 tokens[0]", "1 tokens[0].role", "3 tokens[1]"]
    );
    assert_eq!(refused("[[tokens]]\nname = \"a\"\nenv = \"UNSET\"\nrole = \"admin\""), ["3 tokens[0].env"]);
    assert_eq!(refused("[[tokens]]\nname = \"a\"\nenv = 5\nrole = \"admin\""), ["3 tokens[0].env"]);
}

#[test]
fn the_token_of_the_environment_is_an_administrator() {
    let environment = |name: &str| (name == "EGRET_TOKEN").then(|| "token".to_owned());
    let text = format!("[[tokens]]\nname = \"a\"\nsha256 = \"{TOKEN_SHA256}\"\nrole = \"read\"\n");
    let tokens = load_text(&text, Path::new(PATH), &Overlay::default(), &environment).unwrap().settings.tokens;
    let [token] = tokens.as_slice() else { panic!("one token") };
    assert_eq!((token.name.as_str(), token.role), ("EGRET_TOKEN", Role::Admin));
}

#[test]
fn networks_names_and_limits_are_read() {
    let text = r#"
        [egress]
        allow = ["*.example.com", "https://a.test:*"]
        allow_addresses = ["10.20.1.0/16:443", "10.0.0.7", "fd00::/8", "[fd00::1]:8443"]
        [dns]
        hosts = { "API.example.com." = ["10.20.0.7", "fd00::7"] }
        [limits]
        head_timeout = "250ms"
        max_head_bytes = "32KiB"
        max_api_body = 65536
        [telemetry]
        access_log = false
    "#;
    let settings = settings(text);
    let networks: Vec<String> =
        settings.egress.allow_addresses.iter().map(|(net, port)| format!("{net} {port:?}")).collect();
    assert_eq!(networks, ["10.20.0.0/16 Some(443)", "10.0.0.7/32 None", "fd00::/8 None", "fd00::1/128 Some(8443)"]);
    assert_eq!(settings.dns_hosts[&Host::parse("api.example.com").unwrap()].len(), 2);
    assert_eq!(settings.limits.head_timeout, Duration::from_millis(250));
    assert_eq!((settings.limits.max_head_bytes, settings.limits.max_api_body), (32_768, 65_536));
    assert!(!settings.telemetry.access_log);
    let bad = "[egress]\nallow = [\"http://a\", \"*.co.uk\"]\nallow_addresses = [\"10.0.0.0/33\", \"[::1]:0\", \"a\"]\n\
               [dns]\nhosts = { \"a\" = [], \"1.2.3.4\" = [\"1.2.3.4\"], \"b\" = [\"x\"] }\n[limits]\nmax_pem = \"16MiB\"";
    assert_eq!(
        refused(bad),
        [
            "2 egress.allow[0]",
            "2 egress.allow[1]",
            "3 egress.allow_addresses[0]",
            "3 egress.allow_addresses[1]",
            "3 egress.allow_addresses[2]",
            "5 dns.hosts.1.2.3.4",
            "5 dns.hosts.a",
            "5 dns.hosts.b[0]",
            "7 limits.max_pem",
        ]
    );
}

// === config/egret.toml ===

const SHIPPED: &str = include_str!("../../../config/egret.toml");

#[test]
fn the_shipped_file_is_the_defaults() {
    let mut shipped = settings(SHIPPED);
    shipped.config_file = None;
    assert_eq!(shipped, load(&Overlay::default(), &environment).unwrap().settings);
}

#[test]
fn the_examples_of_the_shipped_file_are_right() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("laptop.token"), "another").unwrap();
    std::fs::write(folder.path().join("kek"), [7; 32]).unwrap();
    std::fs::create_dir(folder.path().join("certs")).unwrap();
    std::fs::write(folder.path().join("certs/proxy-ca.crt"), "").unwrap();
    std::fs::create_dir(folder.path().join("tls")).unwrap();
    for file in ["management.crt", "management.key", "proxy.crt", "proxy.key", "callers-ca.crt"] {
        std::fs::write(folder.path().join("tls").join(file), "").unwrap();
    }
    let text: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(example) if !example.starts_with(' ') => format!("{example}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let text = text.replace("/etc/egret/key-encryption-key", "kek");
    let loaded = load_text(&text, &folder.path().join("egret.toml"), &Overlay::default(), &environment)
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!(loaded.settings.listeners.len(), 5);
    assert_eq!(loaded.settings.tokens.len(), 3);
    assert_eq!(loaded.settings.egress.parents.len(), 1);
    assert!(loaded.settings.telemetry.expiry_webhook.is_some_and(|hook| hook.token.is_some()));
    assert_eq!(loaded.unready.len(), 3, "the example certificate's files are not there");
}

#[test]
fn the_shipped_file_shows_every_key() {
    // An unknown key makes each table tell the keys it knows.
    let tables = [
        "",
        "[management]",
        "[management.tls]",
        "[[listeners]]",
        "[[projects]]",
        "[projects.team]",
        "[projects.default]",
        "[[certificates]]",
        "[[certificate_folders]]",
        "[[tokens]]",
        "[egress]",
        "[[egress.parent]]",
        "[egress.parent.password]",
        "[store]",
        "[store.key_encryption_key]",
        "[dns]",
        "[health]",
        "[limits]",
        "[trust]",
        "[telemetry]",
    ];
    let mut keys = Vec::new();
    for table in tables {
        let table = table.replace("[projects.", "[[projects]]\n[projects.");
        let table = table.replace("[egress.parent.", "[[egress.parent]]\n[egress.parent.");
        let complaints = refused_with(&format!("{table}\nno_such_key = 1"), &Overlay::default());
        let complaint = complaints.iter().find(|c| c.what == "unknown key").expect("an unknown key");
        let known = complaint.remedy.strip_prefix("the keys known here are: ").expect("known keys");
        let known = known.replace(" or ", ", ");
        keys.extend(known.split(", ").map(str::to_owned));
    }
    assert!(keys.len() > 75, "only {} keys were found", keys.len());
    for key in keys {
        let shown = SHIPPED.lines().any(|line| {
            let line = line.trim_start_matches('#').trim_start();
            line.starts_with(&format!("[{key}]"))
                || line.starts_with(&format!("[[{key}]]"))
                || line.starts_with(&format!("{key} = "))
                || line.contains(&format!("{{ {key} = "))
                || line.contains(&format!(", {key} = "))
        });
        assert!(shown, "config/egret.toml does not show {key}");
    }
}

#[test]
fn one_word_means_one_project() {
    let token = format!(
        "[[tokens]]\nname = \"t\"\nsha256 = \"{TOKEN_SHA256}\"\nrole = \"read\"\nprojects = [\"later\", \"p\"]\n"
    );
    let teams =
        "[[projects]]\nname = \"p\"\nteam = { slug = \"a\" }\n[[projects]]\nname = \"p\"\nteam = { slug = \"b\" }\n";
    assert_eq!(refused(&format!("{token}{teams}")), ["5 tokens[0].projects[1]"]);
    assert_eq!(settings(&token).tokens[0].projects.as_ref().expect("limited").len(), 2);
    let crossed = "[[projects]]\nname = \"a\"\nid = \"prj_1\"\n[[projects]]\nname = \"prj_1\"";
    assert_eq!(refused(crossed), ["5 projects[1].name"]);
}
