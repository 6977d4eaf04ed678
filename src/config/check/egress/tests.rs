use std::path::Path;

use crate::config::{Complaint, DnsMixed, Loaded, Overlay, ParentProtocol, Settings, SourceAddresses, load_text};
use crate::domain::Host;

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/u".to_owned()),
        "PROXY_PASSWORD" => Some("s3cr:t\n".to_owned()),
        "NO_PASSWORD" => Some("\n".to_owned()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Loaded, Vec<Complaint>> {
    load_text(text, Path::new("/etc/egret/egret.toml"), &Overlay::default(), &environment).map_err(|refused| refused.0)
}

fn settings(text: &str) -> Settings {
    load(text).unwrap_or_else(|complaints| panic!("{complaints:#?}")).settings
}

/// `key what` of every complaint.
fn refused(text: &str) -> Vec<String> {
    load(text).err().unwrap_or_default().iter().map(|c| format!("{} {}", c.key, c.what)).collect()
}

fn parent(table: &str) -> String {
    format!("[egress]\nparent = [{{ {table} }}]")
}

#[test]
fn a_parent_is_what_its_table_says() {
    let folder = tempfile::tempdir().unwrap();
    let (secret, ca) = (folder.path().join("secret"), folder.path().join("ca.pem"));
    std::fs::write(&secret, "with space \r\n").unwrap();
    std::fs::write(&ca, "").unwrap();
    let text = format!(
        r#"
        [egress]
        source_addresses = ["2001:db8::5", "10.0.0.5"]
        [[egress.parent]]
        url = "http://CORP%5Cme@Proxy.Corp:3128/"
        password = {{ env = "PROXY_PASSWORD" }}
        origins = ["*.partner.example", "https://api.example.com", "10.0.0.0/8"]
        no_proxy = ["internal.example, .corp", "  ", "[fd00::1]:8443\t10.1.0.0/16"]
        [[egress.parent]]
        url = "https://me@[fd00::7]:3129"
        password = {{ file = {secret:?} }}
        ca = {ca:?}
        [[egress.parent]]
        url = "SOCKS5H://127.0.0.1:1080"
        [dns]
        servers = ["127.0.0.1:5353", "fd00::53", "[fd00::54]:54", "[fd00::55]"]
        mixed = "refuse"
        "#
    );
    let loaded = load(&text).unwrap_or_else(|complaints| panic!("{complaints:#?}"));
    let settings = loaded.settings;
    let [http, https, socks] = settings.egress.parents.as_slice() else { panic!("three parents") };
    assert_eq!((http.protocol, http.host.as_str(), http.port), (ParentProtocol::Http, "proxy.corp", 3128));
    let credentials = http.credentials.as_ref().expect("credentials");
    assert_eq!((credentials.user(), credentials.password()), ("CORP\\me", "s3cr:t"));
    assert_eq!(http.origins.as_ref().expect("limited").len(), 3);
    assert_eq!(http.no_proxy.len(), 4);
    assert_eq!(https.credentials.as_ref().expect("credentials").password(), "with space ");
    assert_eq!((https.protocol, https.host.as_str()), (ParentProtocol::Https, "[fd00::7]"));
    assert_eq!(https.ca.as_deref(), Some(&*ca));
    assert_eq!((socks.protocol, socks.port, &socks.credentials), (ParentProtocol::Socks5h, 1080, &None));
    assert_eq!(socks.origins, None);
    let sources = SourceAddresses { v4: Some("10.0.0.5".parse().unwrap()), v6: Some("2001:db8::5".parse().unwrap()) };
    assert_eq!(settings.egress.sources, sources);
    let servers: Vec<String> = settings.dns_servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["127.0.0.1:5353", "[fd00::53]:53", "[fd00::54]:54", "[fd00::55]:53"]);
    assert_eq!(settings.dns_mixed, DnsMixed::Refuse);
    // Neither user nor password is ever shown.
    let shown = format!("{:?}", settings.egress);
    assert!(!shown.contains("s3cr") && !shown.contains("CORP") && !shown.contains("with space"), "{shown}");
}

#[test]
fn a_password_in_the_url_is_refused_and_not_repeated() {
    for url in ["http://me:s3cret@proxy.corp:3128", "socks5://s3cret:@proxy.corp:1080", "https://a:s3cret@b@c:1"] {
        let complaints = load(&parent(&format!("url = \"{url}\""))).expect_err("this should be refused");
        let [complaint] = complaints.as_slice() else { panic!("{complaints:#?}") };
        assert_eq!(complaint.key, "egress.parent[0].url");
        assert!(complaint.what.contains("password") && complaint.remedy.contains("env"), "{complaint}");
        assert!(!format!("{complaints:?}").contains("s3cret"), "{complaints:#?}");
    }
}

#[test]
fn what_is_no_parent_is_said() {
    for (table, key) in [
        ("no_proxy = [\"*\"]", "url"),
        ("url = \"proxy.corp:3128\"", "url"),
        ("url = \"ftp://proxy.corp:3128\"", "url"),
        ("url = \"http://proxy.corp\"", "url"),
        ("url = \"http://proxy.corp:0\"", "url"),
        ("url = \"http://proxy.corp:3128/path\"", "url"),
        ("url = \"http://@proxy.corp:3128\"", "url"),
        ("url = \"http://a%zz@proxy.corp:3128\"", "url"),
        ("url = \"http://a%3Ab@proxy.corp:3128\"", "url"),
        ("url = \"http://a%0Ab@proxy.corp:3128\"", "url"),
        ("url = \"http://0x7f.1:3128\"", "url"),
        ("url = \"http://p:1\", password = { env = \"PROXY_PASSWORD\" }", "password"),
        ("url = \"http://me@p:1\", password = { env = \"NO_PASSWORD\" }", "password"),
        ("url = \"http://me@p:1\", password = { env = \"UNSET\" }", "password.env"),
        ("url = \"http://me@p:1\", password = { file = \"/none/x\" }", "password.file"),
        ("url = \"http://me@p:1\", password = {}", "password"),
        ("url = \"http://me@p:1\", password = { env = \"PROXY_PASSWORD\", file = \"x\" }", "password"),
        ("url = \"socks5://me@p:1\"", "password"),
        ("url = \"http://p:1\", ca = \"/none/ca\"", "ca"),
        ("url = \"https://p:1\", ca = \"/none/ca\"", "ca"),
        ("url = \"http://p:1\", origins = []", "origins"),
        ("url = \"http://p:1\", origins = [\"http://a\"]", "origins[0]"),
        ("url = \"http://p:1\", no_proxy = [\"a,10.0.0.0/33\"]", "no_proxy[1]"),
        ("url = \"http://p:1\", pasword = 1", "pasword"),
    ] {
        let complaints = refused(&parent(table));
        let [complaint] = complaints.as_slice() else { panic!("{table}: {complaints:#?}") };
        assert!(complaint.starts_with(&format!("egress.parent[0].{key} ")), "{table}: {complaint}");
    }
    let long = "a".repeat(256);
    let long = format!("url = \"socks5://{long}@p:1\", password = {{ env = \"PROXY_PASSWORD\" }}");
    assert_eq!(refused(&parent(&long)).len(), 1);
    let many = vec!["{ url = \"http://p:1\" }"; 65].join(", ");
    assert_eq!(refused(&format!("[egress]\nparent = [{many}]")).len(), 1);
}

#[test]
fn a_user_without_a_password_is_shown_to_an_http_parent() {
    let settings = settings(&parent("url = \"http://token@p:1\""));
    let credentials = settings.egress.parents[0].credentials.as_ref().expect("credentials");
    assert_eq!((credentials.user(), credentials.password()), ("token", ""));
    assert_eq!(settings.egress.parents[0].host, Host::parse("p").unwrap());
}

#[test]
fn source_addresses_and_name_servers_are_addresses() {
    let text = r#"
        [egress]
        source_addresses = ["10.0.0.5", "10.0.0.6", "0.0.0.0", "eth0", "::"]
        [dns]
        servers = ["dns.example", "10.0.0.53:0", "0.0.0.0", "10.0.0.53", "10.0.0.53:53"]
    "#;
    let keys: Vec<String> = load(text).expect_err("complaints").iter().map(|c| c.key.clone()).collect();
    let sources = (1..5).map(|i| format!("egress.source_addresses[{i}]"));
    let servers = [0, 1, 2, 4].map(|i| format!("dns.servers[{i}]"));
    assert_eq!(keys, sources.chain(servers).collect::<Vec<_>>());
    assert_eq!(refused("[dns]\nmixed = \"maybe\"").len(), 1);
}
