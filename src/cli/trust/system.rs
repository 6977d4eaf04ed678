//! The system's store: a folder of certificates, and a tool that makes the rest from it.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Ca, Outcome, Wish, tool};
use crate::domain::hex;

/// One family of systems. Paths are below the root folder.
struct Family {
    tool: &'static str,
    arguments: &'static [&'static str],
    folder: &'static str,
    /// Whether the folder alone tells the family, so that it must be there already.
    told_by_folder: bool,
}

/// In the order in which they are looked for: SUSE has Debian's tool, Arch has Fedora's.
const FAMILIES: [Family; 4] = [
    // Fedora, RHEL and their kin
    Family {
        tool: "usr/bin/update-ca-trust",
        arguments: &["extract"],
        folder: "etc/pki/ca-trust/source/anchors",
        told_by_folder: true,
    },
    // Arch
    Family {
        tool: "usr/bin/trust",
        arguments: &["extract-compat"],
        folder: "etc/ca-certificates/trust-source/anchors",
        told_by_folder: true,
    },
    // SUSE
    Family {
        tool: "usr/sbin/update-ca-certificates",
        arguments: &[],
        folder: "etc/pki/trust/anchors",
        told_by_folder: true,
    },
    // Debian and its kin, Alpine
    Family {
        tool: "usr/sbin/update-ca-certificates",
        arguments: &[],
        folder: "usr/local/share/ca-certificates",
        told_by_folder: false,
    },
];

/// The file's name, without the fingerprint where it is free.
const NAME: &str = "egret-local-ca";

pub(super) fn run(wish: Wish, ca: &Ca<'_>, root: &Path) -> Outcome {
    let found =
        FAMILIES.iter().find(|f| root.join(f.tool).exists() && (!f.told_by_folder || root.join(f.folder).is_dir()));
    let Some(family) = found else {
        return Outcome::Skipped(format!(
            "no tool of a system's store was found ({}); install the package ca-certificates, or add {} to the store by \
             the means of this system",
            FAMILIES.map(|f| format!("/{}", f.tool)).join(", "),
            ca.shown_path()
        ));
    };
    let folder = root.join(family.folder);
    match wish {
        Wish::Install => install(ca, family, root, &folder),
        Wish::Uninstall => uninstall(ca, family, root, &folder),
    }
}

fn install(ca: &Ca<'_>, family: &Family, root: &Path, folder: &Path) -> Outcome {
    let there = ours(ca, folder);
    if let [path, ..] = there.as_slice() {
        // Someone may have interrupted the tool; it does nothing where nothing is to be done.
        return match update(ca, family, root) {
            Ok(()) => Outcome::Already(path.display().to_string()),
            Err(why) => Outcome::Skipped(format!("{} is there, but {why}", path.display())),
        };
    }
    let plain = folder.join(format!("{NAME}.crt"));
    // Another egret's CA is not displaced.
    let path = if plain.exists() { folder.join(format!("{NAME}-{}.crt", ca.short)) } else { plain };
    if let Err(error) = write(folder, &path, ca.pem) {
        let shown = ca.shown_path();
        let by_hand = format!("cp {shown} {} && {}", path.display(), command_line(family, root));
        return Outcome::Skipped(match error.kind() {
            ErrorKind::PermissionDenied => format!("needs root; run: sudo sh -c '{by_hand}'"),
            _ => format!("{} cannot be written: {error}", path.display()),
        });
    }
    match update(ca, family, root) {
        Ok(()) => Outcome::Done(path.display().to_string()),
        Err(why) => {
            // Half a change would take effect some other day, unasked.
            let _ = fs::remove_file(&path);
            Outcome::Skipped(why)
        }
    }
}

fn uninstall(ca: &Ca<'_>, family: &Family, root: &Path, folder: &Path) -> Outcome {
    let there = ours(ca, folder);
    if there.is_empty() {
        return Outcome::Already(format!("this CA is not in {}", folder.display()));
    }
    for path in &there {
        if let Err(error) = fs::remove_file(path) {
            return Outcome::Skipped(match error.kind() {
                ErrorKind::PermissionDenied => {
                    format!("needs root; run: sudo sh -c 'rm {} && {}'", path.display(), command_line(family, root))
                }
                _ => format!("{} cannot be removed: {error}", path.display()),
            });
        }
    }
    let names: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
    match update(ca, family, root) {
        Ok(()) => Outcome::Done(names.join(", ")),
        Err(why) => Outcome::Skipped(format!("{} removed, but {why}", names.join(", "))),
    }
}

/// The files of the folder that hold this certificate and nothing else.
fn ours(ca: &Ca<'_>, folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = files.filter(|path| fs::read(path).is_ok_and(|bytes| ca.is(&bytes))).collect();
    found.sort();
    found
}

/// Whole or not at all, and readable by everyone whatever the umask of a process that holds keys.
fn write(folder: &Path, path: &Path, pem: &str) -> std::io::Result<()> {
    if !folder.is_dir() {
        fs::create_dir_all(folder)?;
        set_mode(folder, 0o755)?;
    }
    let mut suffix = [0; 8];
    let _ = aws_lc_rs::rand::fill(&mut suffix);
    let fresh = path.with_extension(format!("new-{}", hex(&suffix)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&fresh)?;
    let done = file
        .write_all(format!("{}\n", pem.trim_end()).as_bytes())
        .and_then(|()| set_mode(&fresh, 0o644))
        .and_then(|()| fs::rename(&fresh, path));
    done.inspect_err(|_| {
        let _ = fs::remove_file(&fresh);
    })
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode(_path: &Path, _mode: u32) -> std::io::Result<()> {
    Ok(())
}

/// The system's own tool, inside that system.
fn update(ca: &Ca<'_>, family: &Family, root: &Path) -> Result<(), String> {
    let mut words = words(family, root).into_iter();
    let mut command = Command::new(words.next().unwrap_or_default());
    let done = tool(command.args(words), "", ca.inherited);
    done.map(|_| ()).map_err(|why| format!("{} failed: {why}", command_line(family, root)))
}

fn words(family: &Family, root: &Path) -> Vec<String> {
    let elsewhere = root.canonicalize().is_ok_and(|root| root != Path::new("/"));
    let chroot = elsewhere.then(|| ["chroot".to_owned(), root.display().to_string()]);
    let tool = [format!("/{}", family.tool)].into_iter().chain(family.arguments.iter().map(|a| (*a).to_owned()));
    chroot.into_iter().flatten().chain(tool).collect()
}

fn command_line(family: &Family, root: &Path) -> String {
    words(family, root).join(" ")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::cli::run::Inherited;
    use crate::pki::{issuer, pem};

    fn ca_pem() -> String {
        let stored = issuer::generate().unwrap();
        issuer::LeafIssuer::load(&stored, 1, || {}).unwrap().ca_pem().to_owned()
    }

    fn with<T>(pem_text: &str, check: impl FnOnce(&Ca<'_>) -> T) -> T {
        let der = pem::certificates(pem_text).unwrap().swap_remove(0);
        let inherited = Inherited::of_this_process();
        check(&Ca { pem: pem_text, der, short: "0123".to_owned(), path: None, inherited: &inherited })
    }

    #[test]
    fn only_this_very_certificate_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let (ours_pem, other) = (ca_pem(), ca_pem());
        write(folder.path(), &folder.path().join("egret-local-ca.crt"), &other).unwrap();
        fs::write(folder.path().join("a.crt"), format!("{ours_pem}{other}")).unwrap();
        fs::write(folder.path().join("b.crt"), "no certificate").unwrap();
        with(&ours_pem, |ca| {
            assert!(ours(ca, folder.path()).is_empty());
            let path = folder.path().join("renamed.crt");
            write(folder.path(), &path, ca.pem).unwrap();
            assert_eq!(ours(ca, folder.path()), [path]);
        });
        use std::os::unix::fs::PermissionsExt as _;
        let mode = fs::metadata(folder.path().join("renamed.crt")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn families_are_told_apart() {
        let which = |files: &[&str], folders: &[&str]| {
            let root = tempfile::tempdir().unwrap();
            for file in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            for folder in folders {
                fs::create_dir_all(root.path().join(folder)).unwrap();
            }
            // The tools are no programs: what is told is which one would have been run.
            match with(&ca_pem(), |ca| run(Wish::Install, ca, root.path())) {
                Outcome::Skipped(why) => why,
                Outcome::Done(_) | Outcome::Already(_) => panic!("an empty file was run"),
            }
        };
        assert!(which(&["usr/sbin/update-ca-certificates"], &[]).contains("/usr/sbin/update-ca-certificates failed"));
        let fedora = which(&["usr/bin/update-ca-trust", "usr/bin/trust"], &["etc/pki/ca-trust/source/anchors"]);
        assert!(fedora.contains("/usr/bin/update-ca-trust extract failed"), "{fedora}");
        let arch = which(&["usr/bin/update-ca-trust", "usr/bin/trust"], &["etc/ca-certificates/trust-source/anchors"]);
        assert!(arch.contains("/usr/bin/trust extract-compat failed"), "{arch}");
        assert!(which(&[], &[]).contains("install the package ca-certificates"));
    }
}
