//! What a running egret does not change: named, so that nobody waits for it.

use std::path::PathBuf;

use aws_lc_rs::digest;

use crate::config::{ListenerSettings, ServerTlsSettings, Settings};
use crate::pki::files;

/// What of `now` takes another start, compared with what egret was started with: a sentence each.
pub(super) fn later(started: &Settings, now: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    let mut compare = |what: &str, is_same: bool| {
        if !is_same {
            all.push(format!("{what} changed in the configuration; restart egret for it to take effect"));
        }
    };
    for listener in &now.listeners {
        let before = started.listeners.iter().find(|l| l.name == listener.name);
        let is_same = before.is_some_and(|before| without_places(before) == without_places(listener));
        compare(&format!("listener {}", listener.name), is_same);
    }
    for listener in &started.listeners {
        compare(&format!("listener {}", listener.name), now.listeners.iter().any(|l| l.name == listener.name));
    }
    let management = |s: &Settings| {
        let tls = s.management.tls.as_ref().map(without_place);
        (s.management.listen.clone(), s.management.socket_mode, tls)
    };
    compare("[management]", management(started) == management(now));
    let health = |s: &Settings| (s.health, s.degrade_before_expiry);
    compare("[health]", health(started) == health(now));
    compare("profile", started.profile == now.profile);
    compare("data_dir", started.data_dir == now.data_dir);
    compare("workers", started.workers == now.workers);
    compare("[store]", started.store == now.store);
    let dns = |s: &Settings| (s.dns_hosts.clone(), s.dns_servers.clone(), s.dns_mixed);
    compare("[dns]", dns(started) == dns(now));
    for key in started.egress.needs_restart(&now.egress) {
        compare(&format!("[egress] {key}"), false);
    }
    compare("[telemetry]", started.telemetry == now.telemetry);
    for key in started.limits.needs_restart(&now.limits) {
        compare(&format!("[limits] {key}"), false);
    }
    all
}

/// Where a table stands in the file says nothing.
fn without_places(listener: &ListenerSettings) -> ListenerSettings {
    ListenerSettings { tls: listener.tls.as_ref().map(without_place), ..listener.clone() }
}

fn without_place(tls: &ServerTlsSettings) -> ServerTlsSettings {
    ServerTlsSettings { key_path: String::new(), line: None, ..tls.clone() }
}

/// SHA-256 of the files of which something is made at the start alone, by what they are for: the listeners' own TLS, and
/// whom parent proxies are verified with. Blocks.
pub(super) fn fixed_digests(settings: &Settings) -> Vec<(String, [u8; 32])> {
    let of = |(name, files): (String, Vec<&PathBuf>)| {
        let mut hash = digest::Context::new(&digest::SHA256);
        for path in files {
            if let Ok(text) = files::mounted_text(PathBuf::as_path(path)) {
                hash.update(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_be_bytes());
                hash.update(text.as_bytes());
            }
        }
        (name, hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    };
    let listeners = settings.listeners.iter().map(|l| (format!("listener {} tls", l.name), l.tls.as_ref()));
    let all = listeners.chain([("[management] tls".to_owned(), settings.management.tls.as_ref())]);
    let tls = all.filter_map(|(name, tls)| {
        let ServerTlsSettings { cert, key, client_ca, .. } = tls?;
        Some((name, [cert, key].into_iter().chain(client_ca).collect()))
    });
    let parents = settings.egress.parents.iter().enumerate().filter_map(|(i, parent)| {
        let name = format!("[egress] parent[{i}].ca");
        Some((name, vec![parent.ca.as_ref()?]))
    });
    tls.chain(parents).map(of).collect()
}

/// Whose files are others than at the start.
pub(super) fn other_files(started: &[(String, [u8; 32])], now: &[(String, [u8; 32])]) -> Vec<String> {
    let differs = |(name, digest): &&(String, [u8; 32])| now.iter().any(|(n, d)| n == name && d != digest);
    let sentence =
        |(name, _): &(String, [u8; 32])| format!("the files of {name} changed; restart egret for it to take effect");
    started.iter().filter(differs).map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Overlay, load_text};

    fn settings(text: &str) -> Settings {
        let loaded = load_text(text, Path::new("/etc/e.toml"), &Overlay::default(), &|_| None);
        loaded.unwrap_or_else(|refused| panic!("{refused}")).settings
    }

    #[test]
    fn names_what_takes_a_restart_and_nothing_else() {
        const LISTENER: &str = "[[listeners]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\n";
        let started = settings(LISTENER);
        let live = "[egress]\ndeny = [\"https://x.test\"]\n[limits]\nreplace_grace = \"1s\"\n[trust]\nservers = \"ca\"\n\
                    [[projects]]\nname = \"p\"\n";
        assert_eq!(later(&started, &settings(&format!("{LISTENER}{live}"))), [""; 0]);
        let other = "workers = 7\n[[listeners]]\nname = \"b\"\nlisten = \"127.0.0.1:1\"\n[dns]\nmixed = \"refuse\"\n";
        let told = later(&started, &settings(other));
        let named: Vec<_> = told.iter().map(|s| s.split(" changed").next().unwrap_or_default()).collect();
        assert_eq!(named, ["listener b", "listener a", "workers", "[dns]"]);
    }

    #[test]
    fn other_files_of_what_is_fixed_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("c", "one");
        write("k", "key");
        write("ca", "three");
        let text = "[[listeners]]\nname = \"a\"\nlisten = \"127.0.0.1:1\"\ntls = { cert = \"c\", key = \"k\" }\n\
                    [[egress.parent]]\nurl = \"https://parent.test:3128\"\nca = \"ca\"\n";
        let file = folder.path().join("e.toml");
        let settings = load_text(text, &file, &Overlay::default(), &|_| None).unwrap().settings;
        let started = fixed_digests(&settings);
        assert_eq!(other_files(&started, &fixed_digests(&settings)), [""; 0]);
        write("c", "two");
        let told = other_files(&started, &fixed_digests(&settings));
        assert!(told.len() == 1 && told[0].contains("listener a tls"), "{told:?}");
        write("c", "one");
        write("ca", "four");
        let told = other_files(&started, &fixed_digests(&settings));
        assert!(told.len() == 1 && told[0].contains("parent[0].ca"), "{told:?}");
        // Where they stand in the file says nothing.
        let moved = load_text(&format!("# words\n{text}"), &file, &Overlay::default(), &|_| None).unwrap().settings;
        assert_eq!(later(&settings, &moved), [""; 0]);
    }
}
