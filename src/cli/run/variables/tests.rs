use std::collections::HashSet;

use zeroize::Zeroizing;

use super::*;
use crate::domain::Pattern;
use crate::pki::issuer;

const TOKEN: &str = "c0ffee";

fn made(open: Option<(&str, u16)>, bound: &[&str], set: &[(&str, &str)]) -> Vec<(String, String)> {
    made_with(open, bound, set, &Configured::default())
}

fn made_with(
    open: Option<(&str, u16)>,
    bound: &[&str],
    set: &[(&str, &str)],
    configured: &Configured,
) -> Vec<(String, String)> {
    let stored = issuer::generate().unwrap();
    let ca = issuer::LeafIssuer::load(&stored, 1, || {}).unwrap().ca_pem().to_owned();
    let access = Access::of(
        Zeroizing::new(format!("http://default:{TOKEN}@127.0.0.1:8081")),
        open.map(|(host, port)| (host.to_owned(), port)),
        bound.iter().map(|text| Pattern::parse(text).unwrap()).collect(),
        ca.clone(),
    );
    let folder = tempfile::Builder::new().prefix("with space ").tempdir().unwrap();
    let environment = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
    let mut roots = Roots::new(folder.path(), &ca, &environment).unwrap();
    let all = variables(&access, &mut roots, configured, &environment).unwrap();
    all.into_iter().map(|(name, value)| (name, value.into_string().unwrap())).collect()
}

fn value<'a>(all: &'a [(String, String)], name: &str) -> Option<&'a str> {
    all.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
}

#[test]
fn the_table_names_each_variable_once_and_who_reads_it() {
    let names: HashSet<_> = TABLE.iter().map(|v| v.name).collect();
    assert_eq!(names.len(), TABLE.len());
    assert!(TABLE.iter().all(|v| !v.read_by.is_empty()));
    assert!(!names.contains(WITHHELD));
}

#[test]
fn both_spellings_name_the_proxy_and_loopback_stays_outside() {
    let all = made(None, &[], &[("NO_PROXY", "a.corp"), ("no_proxy", "b.corp")]);
    for name in ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        assert_eq!(value(&all, name), Some("http://default:c0ffee@127.0.0.1:8081"), "{name}");
    }
    for name in ["no_proxy", "NO_PROXY"] {
        assert_eq!(value(&all, name), Some("b.corp,a.corp,localhost,127.0.0.1,::1"), "{name}");
    }
    assert_eq!(value(&all, "NODE_USE_ENV_PROXY"), Some("1"));
}

#[test]
fn what_would_win_over_ours_is_set_only_where_it_is_set() {
    let without = made(None, &[], &[]);
    assert!(["grpc_proxy", "npm_config_cafile"].iter().all(|name| value(&without, name).is_none()));
    let with = made(None, &[], &[("grpc_proxy", "http://elsewhere:1")]);
    assert_eq!(value(&with, "grpc_proxy"), value(&with, "https_proxy"));
}

#[test]
fn what_clients_are_configured_with_is_overridden_where_it_would_win() {
    let none = made(None, &[], &[("NPM_CONFIG_CAFILE", "/nowhere")]);
    assert!(["npm_config_cafile", "NPM_CONFIG_CAFILE"].iter().all(|name| value(&none, name).is_none()));
    assert!(value(&none, "GIT_SSL_CAINFO").is_some());
    assert_eq!(value(&none, "GIT_CONFIG_VALUE_0"), value(&none, "https_proxy"));
    let configured = Configured {
        npm: Some(Vec::new()),
        git: vec![("http.https://a.test/.sslcainfo".to_owned(), "/nowhere".to_owned())],
    };
    let set = made_with(None, &[], &[("NPM_CONFIG_CAFILE", "/x"), ("npm_config_ca", "a root")], &configured);
    assert!(value(&set, "npm_config_cafile").is_some_and(|path| path.contains("/npm-ca-") && path.ends_with(".pem")));
    assert_eq!(value(&set, "NPM_CONFIG_CAFILE"), value(&set, "npm_config_cafile"), "npm takes any spelling");
    assert_eq!(value(&set, "npm_config_ca"), Some(""), "which npm leaves out of account");
    assert_eq!(value(&set, "GIT_SSL_CAINFO"), None, "it would win over the roots of the URL");
}

#[test]
fn java_is_told_without_a_credential_and_after_the_users_own_options() {
    let all = made(None, &[], &[("JAVA_TOOL_OPTIONS", "-Xmx1g")]);
    let java = value(&all, "JAVA_TOOL_OPTIONS").unwrap();
    assert!(java.starts_with("-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8081 -Dhttps.proxyHost="), "{java}");
    assert!(java.contains("-Dhttp.nonProxyHosts=localhost|127.*|[::1] "), "{java}");
    assert!(java.contains("\"-Djavax.net.ssl.trustStore="), "a path with a space is one option: {java}");
    assert!(!java.contains(TOKEN), "Java prints this variable when it starts");
    let all = made(Some(("[::1]", 8080)), &[], &[("JAVA_TOOL_OPTIONS", "-Djavax.net.ssl.trustStore=/own")]);
    let java = value(&all, "JAVA_TOOL_OPTIONS").unwrap();
    assert!(java.contains("-Dhttps.proxyHost=::1 -Dhttps.proxyPort=8080"), "the listener without a credential: {java}");
    assert_eq!(java.matches("trustStore=").count(), 1, "the user's own stays: {java}");
}

#[test]
fn a_proxy_of_the_users_is_told_from_our_own() {
    let first = |set: &'static [(&str, &str)]| {
        users_proxy(&|name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value)))
    };
    assert_eq!(first(&[("HTTPS_PROXY", "http://corp:1"), ("NO_PROXY", "x")]), Some("HTTPS_PROXY"));
    assert_eq!(first(&[("HTTPS_PROXY", "http://egret:1"), ("EGRET_PROXY_URL", "http://egret:1")]), None);
    assert_eq!(first(&[("https_proxy", "")]), None);
}

#[test]
fn java_is_known_by_its_name() {
    assert!(
        is_java(OsStr::new("/usr/bin/java")) && is_java(OsStr::new("./gradlew")) && is_java(OsStr::new("mvnw.cmd"))
    );
    assert!(!is_java(OsStr::new("javascript")));
}
