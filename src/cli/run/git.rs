//! Git's configuration: what it says of proxies wins over the variables that every other client reads, so it is
//! overridden in the environment, key by key, by git's own means (`GIT_CONFIG_COUNT`, git 2.31 or newer).
//!
//! A URL or a remote for which the user has switched the proxy off (an empty value) is reached without one, as before. Roots
//! that the configuration names for a URL stay the roots of that URL, with the CA.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::roots::{Environment, Roots};

/// Variables that were set by hand, or by another `egret run` around this one; git itself has no bound.
const MAX_ENTRIES: usize = 1000;
/// POSIX, extended; git writes section and name in lower case.
const KEYS: &str = r"^http\.(.*\.)?(proxy|proxyauthmethod|sslcainfo)$|^remote\..*\.(proxy|proxyauthmethod)$";
/// What holds for every URL that no other key names.
const PROXY: &str = "http.proxy";
const ROOTS: &str = "http.sslcainfo";
/// The variable that names git's roots for every URL.
pub(super) const ROOTS_VARIABLE: &str = "GIT_SSL_CAINFO";

/// The configuration that git would go by in this folder, as far as it is about proxies and roots: keys and values.
/// Nothing where there is no git.
pub(super) fn configuration() -> Vec<(String, String)> {
    let mut git = Command::new("git");
    git.args(["config", "--null", "--type=path", "--get-regexp", KEYS]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = git.output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8(output).unwrap_or_default();
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('\n'));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// What [`variables`] found.
pub(super) struct Variables {
    pub(super) set: Vec<(String, OsString)>,
    /// Roots stand in the configuration, and [`ROOTS_VARIABLE`] would win over them.
    pub(super) own_roots: bool,
}

/// The variables that override `configuration`, with those that the user has set already.
///
/// # Errors
/// When a file of roots cannot be written.
pub(super) fn variables(
    configuration: &[(String, String)],
    proxy: &str,
    roots: &mut Roots<'_>,
    environment: Environment<'_>,
) -> anyhow::Result<Variables> {
    let mut wanted: Vec<(&str, OsString)> = vec![(PROXY, proxy.into())];
    // Set by the user, the variable wins already.
    let listens = environment(ROOTS_VARIABLE).is_none_or(|value| value.is_empty());
    let mut own_roots = false;
    for (key, value) in configuration.iter().filter(|(key, value)| key != PROXY && !value.is_empty()) {
        match key.rsplit('.').next() {
            Some("proxy") => wanted.push((key, proxy.into())),
            // The others are for proxies of another kind; the credential stands in the URL.
            Some("proxyauthmethod") => wanted.push((key, "basic".into())),
            Some("sslcainfo") if listens => {
                own_roots = true;
                wanted.push((key, roots.replacing_file(key, PathBuf::from(value))?.into()));
            }
            _ => {}
        }
    }
    if own_roots && wanted.iter().all(|(key, _)| *key != ROOTS) {
        wanted.push((ROOTS, roots.replacing(&[ROOTS_VARIABLE])?.into()));
    }
    Ok(Variables { set: merged(wanted, environment), own_roots })
}

/// With the entries that the user has: git goes by the last of several values, here the only one.
fn merged(wanted: Vec<(&str, OsString)>, environment: Environment<'_>) -> Vec<(String, OsString)> {
    let (key, value) = (|n: usize| format!("GIT_CONFIG_KEY_{n}"), |n: usize| format!("GIT_CONFIG_VALUE_{n}"));
    let there = environment("GIT_CONFIG_COUNT").filter(|count| !count.is_empty());
    let there = match there {
        None => 0,
        Some(count) => match count.to_str().and_then(|count| count.parse().ok()) {
            Some(count) if count <= MAX_ENTRIES => count,
            // Git itself ends with an error at such a one.
            _ => return Vec::new(),
        },
    };
    let keys: Vec<_> = (0..there).map(|n| environment(&key(n)).map(|k| canonical(&k.to_string_lossy()))).collect();
    let (mut set, mut count) = (Vec::new(), there);
    for (name, wish) in wanted {
        let mut at: Vec<_> = (0..there).filter(|n| keys[*n].as_deref() == Some(name)).collect();
        if at.is_empty() {
            set.push((key(count), name.into()));
            at.push(count);
            count += 1;
        }
        set.extend(at.into_iter().map(|n| (value(n), wish.clone())));
    }
    set.push(("GIT_CONFIG_COUNT".to_owned(), count.to_string().into()));
    set
}

/// Section and name in lower case, as git writes them; what is between them is told apart by case.
fn canonical(key: &str) -> String {
    let (Some(first), Some(last)) = (key.find('.'), key.rfind('.')) else { return key.to_ascii_lowercase() };
    format!("{}{}{}", key[..first].to_ascii_lowercase(), &key[first..last], key[last..].to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::issuer;

    const OURS: &str = "http://127.0.0.1:7";

    fn made(configuration: &[(&str, &str)], set: &[(&str, &str)]) -> (Vec<(String, String)>, bool) {
        let stored = issuer::generate().unwrap();
        let ca = issuer::LeafIssuer::load(&stored, 1, || {}).unwrap().ca_pem().to_owned();
        let folder = tempfile::tempdir().unwrap();
        let environment = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        let mut roots = Roots::new(folder.path(), &ca, &environment).unwrap();
        let configuration: Vec<_> = configuration.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = variables(&configuration, OURS, &mut roots, &environment).unwrap();
        (found.set.into_iter().map(|(n, v)| (n, v.into_string().unwrap())).collect(), found.own_roots)
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_proxy_is_overridden_and_an_exception_stays_one() {
        let first = [("GIT_CONFIG_KEY_0", "http.proxy"), ("GIT_CONFIG_VALUE_0", OURS), ("GIT_CONFIG_COUNT", "1")];
        assert_eq!(made(&[], &[]), (pairs(&first), false));
        assert_eq!(made(&[("http.proxy", "http://corp:1"), ("http.https://a.test.proxy", "")], &[]).0, pairs(&first));
        let (set, _) =
            made(&[("http.https://A.test/.proxy", "http://corp:1"), ("remote.x.proxyauthmethod", "ntlm")], &[]);
        assert!(set.contains(&("GIT_CONFIG_KEY_1".to_owned(), "http.https://A.test/.proxy".to_owned())), "{set:?}");
        assert!(set.contains(&("GIT_CONFIG_VALUE_1".to_owned(), OURS.to_owned())));
        assert!(set.contains(&("GIT_CONFIG_VALUE_2".to_owned(), "basic".to_owned())));
    }

    #[test]
    fn the_users_own_entries_stay_and_twice_is_once() {
        let own = [
            ("GIT_CONFIG_COUNT", "2"),
            ("GIT_CONFIG_KEY_0", "user.name"),
            ("GIT_CONFIG_KEY_1", "HTTP.Proxy"),
            ("GIT_CONFIG_VALUE_1", "http://earlier:1"),
        ];
        assert_eq!(made(&[], &own).0, pairs(&[("GIT_CONFIG_VALUE_1", OURS), ("GIT_CONFIG_COUNT", "2")]));
        assert_eq!(made(&[], &[("GIT_CONFIG_COUNT", "many")]).0, []);
    }

    #[test]
    fn roots_of_a_url_stay_with_it() {
        let (set, own) = made(&[("http.https://a.test/.sslcainfo", "/nowhere.pem")], &[]);
        let keys: Vec<_> = set.iter().filter(|(n, _)| n.contains("KEY")).map(|(_, key)| key.as_str()).collect();
        assert_eq!((keys, own), (vec!["http.proxy", "http.https://a.test/.sslcainfo", "http.sslcainfo"], true));
        let (set, own) = made(&[("http.sslcainfo", "/nowhere.pem")], &[("GIT_SSL_CAINFO", "/x")]);
        assert_eq!((set.len(), own), (3, false), "the variable wins in git: {set:?}");
    }
}
