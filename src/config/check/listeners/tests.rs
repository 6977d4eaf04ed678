use std::path::PathBuf;

use super::super::super::{Complaint, Loaded, Overlay, load_text};
use super::*;

/// A folder with a `c`, a `k` and an `a` for `tls`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in ["c", "k", "a"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn load_with(&self, text: &str, overlay: &Overlay) -> Result<Loaded, Vec<Complaint>> {
        load_text(text, &self.path("egret.toml"), overlay, &|_| None).map_err(|refused| refused.0)
    }

    fn listener(&self, keys: &str) -> ListenerSettings {
        let loaded = self.load_with(&table(keys), &Overlay::default()).unwrap_or_else(|found| panic!("{found:?}"));
        loaded.settings.listeners[0].clone()
    }

    /// `key: what` of every complaint.
    fn refused(&self, text: &str) -> Vec<String> {
        let found = self.load_with(text, &Overlay::default()).expect_err("this should be refused");
        found.iter().map(|c| format!("{}: {}", c.key, c.what)).collect()
    }
}

fn table(keys: &str) -> String {
    format!("[[listeners]]\nname = \"a\"\n{keys}\n")
}

#[test]
fn a_unix_socket_is_a_path_from_the_folder_of_the_file() {
    let folder = Folder::new();
    let listener = folder.listener("listen = \"unix:egret.sock\"");
    assert_eq!(listener.listen, Endpoint::Unix(folder.path("egret.sock")));
    assert_eq!(listener.socket_mode, 0o600);
    let listener = folder.listener("listen = \"unix:/run/egret.sock\"\nsocket_mode = \"0660\"");
    assert_eq!((listener.listen.to_string().as_str(), listener.socket_mode), ("unix:/run/egret.sock", 0o660));
    assert_eq!(folder.listener("listen = \"unix:/s\"\nsocket_mode = \"666\"").socket_mode, 0o666);
    let text = "[management]\nlisten = \"unix:m.sock\"\nsocket_mode = \"0660\"";
    let management = folder.load_with(text, &Overlay::default()).unwrap().settings.management;
    assert_eq!((management.listen, management.socket_mode), (Endpoint::Unix(folder.path("m.sock")), 0o660));
}

#[test]
fn what_is_wrong_with_a_socket_is_said() {
    let folder = Folder::new();
    let said = |keys: &str| folder.refused(&table(keys)).join("\n");
    let long = said(&format!("listen = \"unix:{}\"", "s3cret".repeat(30)));
    assert!(long.starts_with("listeners[0].listen: the path of the Unix socket has "), "{long}");
    assert!(long.contains("no more than") && !long.contains("s3cret"), "{long}");
    assert!(said("listen = \"unix:@a\"").contains("abstract"));
    for mode in ["rw-------", "08", "99", "1777", "00600", "+600", ""] {
        let said = said(&format!("listen = \"unix:/s\"\nsocket_mode = \"{mode}\""));
        assert_eq!(said, "listeners[0].socket_mode: this is not a mode", "{mode}");
    }
    assert!(said("listen = \"unix:/s\"\nsocket_mode = \"0060\"").contains("own user"));
    assert!(said("listen = \"127.0.0.1:0\"\nsocket_mode = \"0600\"").contains("only a Unix socket"));
    let twice = format!("{}{}", table("listen = \"unix:/s\""), table("listen = \"unix:/s\"").replace("\"a\"", "\"b\""));
    assert_eq!(folder.refused(&twice), ["listeners[1].listen: this address is used twice"]);
    let both = format!("[management]\nlisten = \"unix:/s\"\n{}", table("listen = \"unix:/s\""));
    assert_eq!(folder.refused(&both), ["listeners[0].listen: this address is used twice"]);
}

#[test]
fn a_flag_may_name_a_unix_socket() {
    let folder = Folder::new();
    let overlay = Overlay {
        proxy: Some("unix:p.sock".parse().unwrap()),
        management: Some("unix:/m.sock".parse().unwrap()),
        ..Overlay::default()
    };
    let settings = folder.load_with("", &overlay).unwrap().settings;
    let here = std::env::current_dir().unwrap();
    assert_eq!(settings.listeners[0].listen, Endpoint::Unix(here.join("p.sock")));
    assert_eq!(settings.management.listen.to_string(), "unix:/m.sock");
    // The file's mode is for the file's socket; a flag that names an address is no fault of the file.
    let overlay = Overlay { proxy: Some("127.0.0.1:1".parse().unwrap()), ..Overlay::default() };
    assert!(folder.load_with(&table("listen = \"unix:/s\"\nsocket_mode = \"0660\""), &overlay).is_ok());
}

#[test]
fn tls_names_files_that_are_there() {
    let folder = Folder::new();
    let listener = folder.listener("listen = \"127.0.0.1:0\"\ntls = { cert = \"c\", key = \"k\", client_ca = \"a\" }");
    let tls = listener.tls.expect("TLS");
    assert_eq!((tls.key_path.as_str(), tls.line, tls.client_required), ("listeners[0].tls", Some(4), false));
    assert_eq!((tls.cert, tls.client_ca), (folder.path("c"), Some(folder.path("a"))));
    let refused = folder.refused(&table("listen = \"127.0.0.1:0\"\ntls = { cert = \"none\", client_ca = \".\" }"));
    assert!(refused[0].starts_with("listeners[0].tls.cert: the file cannot be read"), "{refused:?}");
    assert_eq!(refused[1..], ["listeners[0].tls.key: is missing", "listeners[0].tls.client_ca: this is not a file"]);
    let socket = "[management]\nlisten = \"unix:/s\"\ntls = { cert = \"c\", key = \"k\" }";
    assert!(folder.refused(socket)[0].starts_with("management.tls: "));
    let certificates = "[management]\ntls = { cert = \"c\", key = \"k\", client_ca = \"a\" }";
    let refused = folder.refused(certificates);
    assert_eq!(
        refused,
        ["management.tls.client_ca: the management API asks for a token always, and for no client certificate"]
    );
}

#[test]
fn only_a_demanded_certificate_is_caller_authentication() {
    let folder = Folder::new();
    let tls = "tls = { cert = \"c\", key = \"k\", client_ca = \"a\" }";
    let listener = folder.listener(&format!("listen = \"0.0.0.0:1\"\nauth = \"mtls\"\n{tls}"));
    assert_eq!(listener.caller, CallerSettings::Certificate);
    assert!(listener.tls.expect("TLS").client_required);
    let open = folder.refused(&table(&format!("listen = \"0.0.0.0:1\"\n{tls}")));
    assert!(open[0].starts_with("listeners[0].listen: other machines"), "{open:?}");
    folder.listener(&format!("listen = \"0.0.0.0:1\"\nunsafe_open = true\n{tls}"));
    for keys in ["auth = \"mtls\"", "auth = \"mtls\"\ntls = { cert = \"c\", key = \"k\" }"] {
        let refused = folder.refused(&table(&format!("listen = \"127.0.0.1:1\"\n{keys}")));
        assert_eq!(refused, ["listeners[0].auth: nobody says whose client certificates are taken"]);
    }
    let both =
        folder.refused(&table(&format!("listen = \"127.0.0.1:1\"\nproject = \"default\"\nauth = \"mtls\"\n{tls}")));
    assert_eq!(both, ["listeners[0].auth: the project is fixed and named by the caller's certificate at once"]);
}

#[test]
fn a_management_api_that_others_reach_is_warned_of_unless_it_has_tls() {
    let folder = Folder::new();
    let warnings = |text: &str| folder.load_with(text, &Overlay::default()).unwrap().warnings.len();
    assert_eq!(warnings("[management]\nlisten = \"0.0.0.0:1\""), 1);
    let tls = "[management]\nlisten = \"0.0.0.0:1\"\ntls = { cert = \"c\", key = \"k\" }";
    std::fs::set_permissions(folder.path("k"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(warnings(tls), 0);
    std::fs::set_permissions(folder.path("k"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(warnings(tls), 1, "everybody may read the key");
}

#[test]
fn lift_is_said_per_project_and_per_certificate() {
    use crate::domain::Lift;
    let folder = Folder::new();
    let text = "[[projects]]\nname = \"p\"\nlift = \"always\"\n[[certificates]]\ncert = \"c\"\nkey = \"k\"\nca = \"a\"\n\
                lift = false";
    let settings = folder.load_with(text, &Overlay::default()).unwrap().settings;
    assert_eq!((settings.projects[0].lift, settings.projects[1].lift), (Lift::Always, Lift::Registered));
    assert!(!settings.certificates[0].lift);
    assert_eq!(folder.refused("[[projects]]\nname = \"p\"\nlift = \"yes\""), ["projects[0].lift: unknown value"]);
}
