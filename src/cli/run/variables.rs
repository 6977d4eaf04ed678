//! The variables, in one table: how every common tool set is told of a proxy and of a CA.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustls::pki_types::CertificateDer;

use super::access::Access;
use super::roots::{Environment, Roots, TRUST_STORE_PASSWORD};
use super::{git, no_proxy, npm};

/// What a variable holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// The proxy's URL, with the credential if there is one.
    Proxy,
    /// Hosts that are reached without a proxy: the user's, and loopback.
    NoProxy,
    /// `1`
    One,
    /// A file that adds to the client's roots: what the user's own adds, and the CA.
    Adds,
    /// A file that replaces the client's roots: what was there (the user's own file; else that of the first of these
    /// other variables that is set, which the client would look at next; else the system's roots), and the CA.
    Replaces(&'static [&'static str]),
    /// The CA's own file.
    Ca,
    /// A start-up file of wget's.
    Wgetrc,
    /// Options of the Java virtual machine, after the user's own.
    Java,
    /// Roots that npm's configuration names, and the CA; set only if it names any.
    Npm,
    /// Nothing: what the user has there is in force by another variable.
    Nothing,
}

/// What clients are configured with elsewhere than in variables.
#[derive(Default)]
pub(super) struct Configured {
    /// The roots of [`npm::roots`].
    npm: Option<Vec<CertificateDer<'static>>>,
    /// Keys and values of [`git::configuration`].
    git: Vec<(String, String)>,
}

impl Configured {
    /// What holds in the folder in which this process was started.
    pub(super) fn here(environment: Environment<'_>) -> Self {
        let folder = std::env::current_dir().unwrap_or_default();
        Self { npm: npm::roots(environment, &folder), git: git::configuration() }
    }
}

struct Variable {
    name: &'static str,
    holds: Holds,
    /// Set only where the user has set it: it would else do nothing, or win over ours.
    if_set: bool,
    /// Who reads it.
    #[cfg_attr(not(test), expect(dead_code, reason = "for the reader of the table; a test wants every line filled"))]
    read_by: &'static str,
}

const fn always(name: &'static str, holds: Holds, read_by: &'static str) -> Variable {
    Variable { name, holds, if_set: false, read_by }
}

const fn if_set(name: &'static str, holds: Holds, read_by: &'static str) -> Variable {
    Variable { name, holds, if_set: true, read_by }
}

/// Handed on to no command: it opens the management API, and a command only needs the proxy.
pub(super) const WITHHELD: &str = crate::config::TOKEN_VARIABLE;

#[rustfmt::skip]
const TABLE: &[Variable] = &[
    // --- the proxy
    always("https_proxy", Holds::Proxy, "curl, wget, git, Python, Ruby, Perl, PHP, gRPC, .NET, Rust, aws"),
    always("HTTPS_PROXY", Holds::Proxy, "Go, Node (with NODE_USE_ENV_PROXY), undici, axios, npm, pip, cargo, Deno, Bun"),
    always("http_proxy", Holds::Proxy, "all of these; curl reads this one in lower case only"),
    always("HTTP_PROXY", Holds::Proxy, "Go, Node, Deno"),
    always("all_proxy", Holds::Proxy, "curl, httpx, aiohttp: schemes without a variable of their own (ws, wss)"),
    always("ALL_PROXY", Holds::Proxy, "the same"),
    always("no_proxy", Holds::NoProxy, "all of these"),
    always("NO_PROXY", Holds::NoProxy, "all of these"),
    always("NODE_USE_ENV_PROXY", Holds::One, "Node 22.21 and 24 or newer: fetch and http take the proxy from the variables"),
    always("npm_config_proxy", Holds::Proxy, "npm, pnpm, yarn 1: wins over proxy in .npmrc"),
    always("npm_config_https_proxy", Holds::Proxy, "npm, pnpm, yarn 1: wins over https-proxy in .npmrc"),
    if_set("NPM_CONFIG_PROXY", Holds::Proxy, "the same"),
    if_set("NPM_CONFIG_HTTPS_PROXY", Holds::Proxy, "the same"),
    always("CARGO_HTTP_PROXY", Holds::Proxy, "cargo: wins over http.proxy in its configuration"),
    if_set("grpc_proxy", Holds::Proxy, "gRPC: read before https_proxy"),
    if_set("wss_proxy", Holds::Proxy, "Python websockets: read before https_proxy"),
    if_set("ws_proxy", Holds::Proxy, "Python websockets: read before http_proxy"),
    if_set("socks_proxy", Holds::Proxy, "Python websockets: read before https_proxy"),
    // --- roots: files that add
    always("NODE_EXTRA_CA_CERTS", Holds::Adds, "Node, npm, pnpm, yarn, Bun, Electron"),
    always("DENO_CERT", Holds::Adds, "Deno"),
    // --- roots: files that replace
    always("SSL_CERT_FILE", Holds::Replaces(&[]), "OpenSSL and all on top of it: Python, Ruby, Perl, PHP's streams, .NET; Go; Rust; uv"),
    always("CURL_CA_BUNDLE", Holds::Replaces(&[]), "curl"),
    always("REQUESTS_CA_BUNDLE", Holds::Replaces(&["CURL_CA_BUNDLE"]), "Python requests"),
    always("PIP_CERT", Holds::Replaces(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]), "pip"),
    always("GIT_SSL_CAINFO", Holds::Replaces(&[]), "git"),
    always("CARGO_HTTP_CAINFO", Holds::Replaces(&[]), "cargo"),
    always("AWS_CA_BUNDLE", Holds::Replaces(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]), "aws, boto3, the other AWS SDKs"),
    always("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", Holds::Replaces(&[]), "gRPC: C++, Python, Ruby, PHP"),
    always("npm_config_cafile", Holds::Npm, "npm, pnpm, yarn 1: in place of NODE_EXTRA_CA_CERTS; wins over cafile and ca in .npmrc"),
    if_set("NPM_CONFIG_CAFILE", Holds::Npm, "the same"),
    if_set("npm_config_ca", Holds::Nothing, "npm: might win over npm_config_cafile, whose file holds these roots too"),
    if_set("NPM_CONFIG_CA", Holds::Nothing, "the same"),
    if_set("NIX_SSL_CERT_FILE", Holds::Replaces(&[]), "programs of Nix: before SSL_CERT_FILE"),
    if_set("PERL_LWP_SSL_CA_FILE", Holds::Replaces(&[]), "Perl LWP: before SSL_CERT_FILE"),
    if_set("HTTPLIB2_CA_CERTS", Holds::Replaces(&[]), "Python httplib2"),
    if_set("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", Holds::Replaces(&[]), "gcloud"),
    if_set("BUNDLE_SSL_CA_CERT", Holds::Replaces(&[]), "Ruby bundler"),
    always("WGETRC", Holds::Wgetrc, "wget"),
    // --- both
    always("JAVA_TOOL_OPTIONS", Holds::Java, "Java: every virtual machine of 9 or newer"),
    // --- for scripts
    always("EGRET_PROXY_URL", Holds::Proxy, "scripts: clients that take a proxy as an option (docker, Chromium)"),
    always("EGRET_CA_FILE", Holds::Ca, "scripts: clients that take a CA as an option"),
];

/// Every variable with its value.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn variables(
    access: &Access,
    roots: &mut Roots<'_>,
    configured: &Configured,
    environment: Environment<'_>,
) -> anyhow::Result<Vec<(String, OsString)>> {
    let no_proxy = no_proxy::merged(&users_no_proxy(environment), &access.bound);
    let git = git::variables(&configured.git, &access.proxy, roots, environment)?;
    let mut all: Vec<(String, OsString)> = Vec::new();
    for variable in TABLE.iter().filter(|variable| !(git.own_roots && variable.name == git::ROOTS_VARIABLE)) {
        let own = environment(variable.name).filter(|value| !value.is_empty());
        if variable.if_set && own.is_none() {
            continue;
        }
        let value = match variable.holds {
            Holds::Proxy => access.proxy.as_str().into(),
            Holds::NoProxy => no_proxy.as_str().into(),
            Holds::One => "1".into(),
            Holds::Ca => roots.ca().into(),
            Holds::Adds => roots.adding(variable.name)?.into(),
            Holds::Replaces(others) => {
                let names: Vec<&str> = [variable.name].iter().chain(others).copied().collect();
                roots.replacing(&names)?.into()
            }
            Holds::Wgetrc => roots.wgetrc()?.into(),
            Holds::Java => java(access, roots, own, &no_proxy)?,
            Holds::Npm => match &configured.npm {
                Some(own) => roots.npm(own)?.into(),
                None => continue,
            },
            Holds::Nothing => OsString::new(),
        };
        all.push((variable.name.to_owned(), value));
    }
    all.extend(git.set);
    Ok(all)
}

/// Both spellings of what the user keeps away from proxies.
pub(super) fn users_no_proxy(environment: Environment<'_>) -> Vec<String> {
    let read = |name| environment(name).map(|value| value.to_string_lossy().into_owned());
    ["no_proxy", "NO_PROXY"].into_iter().filter_map(read).collect()
}

/// The first variable by which the user names a proxy that is none of ours.
pub(super) fn users_proxy(environment: Environment<'_>) -> Option<&'static str> {
    let set = |name: &&str| environment(name).is_some_and(|value| !value.is_empty());
    let nested = set(&"EGRET_PROXY_URL");
    ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().find(|name| !nested && set(name))
}

/// Whether a command is Java, or one of the tools that are known to be.
pub(super) fn is_java(program: &OsStr) -> bool {
    let name = Path::new(program).file_stem().and_then(OsStr::to_str);
    matches!(
        name,
        Some("java" | "mvn" | "mvnw" | "gradle" | "gradlew" | "sbt" | "kotlin" | "scala" | "clojure" | "clj")
    )
}

/// The user's options, and ours. Properties cannot carry a credential for `java.net.http`, so a listener that takes none
/// is named if there is one. Java prints this variable when it starts: no credential may stand in it.
fn java(access: &Access, roots: &mut Roots<'_>, own: Option<OsString>, no_proxy: &str) -> anyhow::Result<OsString> {
    let (host, port) = access.open.as_ref().unwrap_or(&access.endpoint);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut options = Vec::new();
    for scheme in ["http", "https"] {
        options.push(format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}"));
    }
    // The bars mean nothing here, but wrappers hand the variable to shells.
    options.push(quoted("http.nonProxyHosts", &no_proxy::for_java(no_proxy)));
    // Basic is otherwise switched off for tunnels: programs that bring an Authenticator need it.
    options.push("-Djdk.http.auth.tunneling.disabledSchemes=".to_owned());
    if own.as_ref().is_some_and(|own| own.to_string_lossy().contains("-Djavax.net.ssl.trustStore=")) {
        roots.warnings.push(format!(
            "JAVA_TOOL_OPTIONS names a trust store of its own, which stays in force; import {} into it",
            roots.ca().display()
        ));
    } else {
        let path = roots.trust_store()?;
        options.push(quoted("javax.net.ssl.trustStore", &path_text(&path)));
        options.push("-Djavax.net.ssl.trustStoreType=PKCS12".to_owned());
        options.push(format!("-Djavax.net.ssl.trustStorePassword={TRUST_STORE_PASSWORD}"));
    }
    let mut value = own.unwrap_or_default();
    if !value.is_empty() {
        value.push(" ");
    }
    value.push(options.join(" "));
    Ok(value)
}

/// `-Dname=value`, in quotes where the virtual machine would else see several options.
fn quoted(name: &str, value: &str) -> String {
    if value.contains(char::is_whitespace) || value.contains('\'') {
        format!("\"-D{name}={value}\"")
    } else {
        format!("-D{name}={value}")
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;
