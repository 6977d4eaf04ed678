//! The floors of ARCHITECTURE.md, enforced: a module imports strictly lower floors or its own folder, a file has
//! at most 500 lines, and only one module knows the archived PEM crate.
//!
//! This reads the sources as text. That is enough: a path into another module begins with `crate::`, or climbs
//! there with `super::`.

use std::fs;
use std::path::{Path, PathBuf};

/// Every top-level module and its floor. A new module takes its place here first.
const FLOORS: &[(u8, &[&str])] = &[
    (0, &["domain"]),
    // Settings are plain values: the ground on which the rest of the first floor stands.
    (1, &["config"]),
    (2, &["pki", "policy", "observe", "net"]),
    (3, &["identity", "backend"]),
    (4, &["registry"]),
    (5, &["control", "upstream"]),
    (6, &["api", "proxy"]),
    // The wiring sees everything, itself included.
    (7, &["app", "cli", "demo"]),
];
const WIRING: u8 = 7;
/// The roots declare the modules; the floors are not theirs.
const ROOTS: &[&str] = &["lib.rs", "main.rs"];
const MAX_LINES: usize = 500;
const MAX_MAIN_LINES: usize = 100;

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(_, modules)| modules.contains(&module)).map(|(floor, _)| *floor)
}

/// What is wrong with the imports of one file; `path` is relative to `src/`, with `/`.
fn bad_arrows(path: &str, text: &str) -> Vec<String> {
    if ROOTS.contains(&path) {
        return Vec::new();
    }
    let own = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    let Some(from) = floor(own) else {
        return vec![format!("src/{path}: module {own} stands on no floor; give it one in tests/floors.rs")];
    };
    let mut complaints = Vec::new();
    for (line, target) in targets(path, text) {
        if target == own {
            continue;
        }
        match floor(&target) {
            None => complaints.push(format!("src/{path}:{line}: {target} stands on no floor")),
            Some(to) if to < from || from == WIRING => {}
            Some(to) if to == from => {
                complaints.push(format!("src/{path}:{line}: {own} imports its neighbour {target} (floor {to})"));
            }
            Some(to) => {
                complaints.push(format!("src/{path}:{line}: {own} (floor {from}) imports {target} (floor {to})"));
            }
        }
    }
    complaints
}

/// The top-level modules that a file names, with the lines where it does.
fn targets(path: &str, text: &str) -> Vec<(usize, String)> {
    let code = without_comments(text);
    let line_at = |offset: usize| 1 + code[..offset].matches('\n').count();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate` in a macro and names that end in `crate` are something else.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => heads_of_group(group),
            None => vec![identifier(rest)],
        };
        // Lower-case: a module. Anything else is an item of the crate root or of a module's re-export.
        found.extend(names.into_iter().filter(|n| is_module(n)).map(|name| (line_at(at), name)));
    }
    // `super::super::x` from `a/b.rs` is `crate::x`; inside an inline module it is not, so only names of modules count.
    let depth = path.trim_end_matches("/mod.rs").trim_end_matches(".rs").split('/').count();
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut climbed = 0;
        while let Some(further) = rest.strip_prefix("super::") {
            (rest, climbed) = (further, climbed + 1);
        }
        let name = identifier(rest);
        if climbed >= depth && floor(&name).is_some() {
            found.push((line_at(at), name));
        }
    }
    found
}

fn is_module(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name != "self"
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `{a::{b, c}, d}` has the heads a and d.
fn heads_of_group(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut start) = (0_usize, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            _ if depth == 0 && start && !c.is_whitespace() => {
                heads.push(identifier(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    heads
}

/// Comment lines, and what follows ` // ` on others, made empty; lines keep their numbers.
fn without_comments(text: &str) -> String {
    let code = |line: &str| match line.trim_start().starts_with("//") {
        true => String::new(),
        false => line.split(" // ").next().unwrap_or_default().to_owned(),
    };
    text.lines().map(|line| code(line) + "\n").collect()
}

fn too_long(path: &str, text: &str) -> Option<String> {
    let limit = if path == "src/main.rs" { MAX_MAIN_LINES } else { MAX_LINES };
    let lines = text.lines().count();
    (lines > limit).then(|| format!("{path}: {lines} lines, at most {limit}; split it by noun, or move its tests out"))
}

fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let name = |path: &Path| path.strip_prefix(root).expect("it is below").to_string_lossy().replace('\\', "/");
    files.iter().map(|path| (name(path), fs::read_to_string(path).expect("a source is text"))).collect()
}

#[test]
fn no_arrow_points_up_or_sideways() {
    let sources = sources("src");
    assert!(sources.len() > 20, "only {} sources were found", sources.len());
    let complaints: Vec<String> =
        sources.iter().flat_map(|(path, text)| bad_arrows(path.trim_start_matches("src/"), text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let files = ["src", "tests", "benches"].map(sources).concat();
    let complaints: Vec<String> = files.iter().filter_map(|(path, text)| too_long(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn one_module_knows_the_archived_pem_crate() {
    for (path, text) in sources("src") {
        assert!(path == "src/pki/pem.rs" || !without_comments(&text).contains("rustls_pemfile"), "{path}");
    }
}

/// Limits that are put in force by who reads the configuration again, and by no accessor.
const REREAD: &[&str] = &["max_retired", "max_declared_certificates", "reload_poll"];

#[test]
fn a_limit_is_live_or_takes_a_restart_and_says_so() {
    let text = |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path);
    let limits = text("src/config/limits.rs");
    let list =
        limits.split("\nlimits! {\n").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the list of limits");
    let users: Vec<_> = sources("src")
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/config/") && !path.contains("tests"))
        .collect();
    let shipped = text("config/egret.toml");
    let told =
        shipped.split("\n[limits]\n").next().and_then(|above| above.rsplit("\n\n").next()).expect("words on limits");
    assert!(list.lines().count() > 20);
    for line in list.lines().map(str::trim) {
        let name = line.split(':').next().unwrap_or_default();
        let forms = [format!(".{name}()"), format!("LiveLimits::{name} "), format!("LiveLimits::{name})")];
        let is_read = |(_, text): &(String, String)| forms.iter().any(|form| text.contains(form));
        if line.ends_with("at_start,") {
            assert!(told.contains(name), "config/egret.toml does not say that {name} takes a restart");
        } else {
            assert!(REREAD.contains(&name) || users.iter().any(is_read), "nobody reads {name} while egret runs");
        }
    }
}

/// The functions of a test file, and of the files in the folder of its name.
fn functions(path: &Path) -> String {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let folder = path.with_extension("");
    let inside = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| read(&entry.path()));
    read(path) + &inside.collect::<String>()
}

/// `ROTATION.md` names a test for each promise: `file`, `file::function`, `…::function` of the last such file, and
/// `path/to/file.rs` with `function` behind it; an ellipsis at the end stands for the rest of a name.
#[test]
fn what_is_promised_names_tests_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ROTATION.md")).expect("ROTATION.md");
    let (mut file, mut last, mut named) = (PathBuf::new(), PathBuf::new(), 0);
    for row in text.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last column");
        for (at, word) in tests.split('`').enumerate().filter(|(at, _)| at % 2 == 1) {
            let (of, function) = word.split_once("::").map_or((word, None), |(of, function)| (of, Some(function)));
            let is_file = of.contains('/') || root.join("tests/it").join(of).with_extension("rs").exists();
            let function = if is_file { function } else { function.or(Some(of)) };
            if of.contains('/') {
                file = root.join(of);
            } else if is_file {
                file = root.join("tests/it").join(of).with_extension("rs");
                last.clone_from(&file);
            } else if of == "…" {
                file.clone_from(&last);
            }
            assert!(file.exists(), "ROTATION.md, {word} (word {at} of its row): there is no such file");
            let wanted = function.map(|name| format!("fn {}", name.trim_end_matches('…')));
            assert!(wanted.is_none_or(|name| functions(&file).contains(&name)), "ROTATION.md: there is no {word}");
            named += 1;
        }
    }
    assert!(named > 30, "only {named} tests are named");
}

// === the checker itself ===

#[test]
fn the_checker_lets_lower_floors_and_the_own_folder_pass() {
    for (path, line) in [
        ("registry/project.rs", "use crate::domain::ProjectId;"),
        ("registry/project.rs", "use crate::registry::Snapshot;"),
        ("registry/project.rs", "use super::Snapshot;"),
        ("pki/pem.rs", "use super::super::domain::Origin;"),
        ("cli/mod.rs", "crate::app::serve(settings)"),
        ("app.rs", "use crate::{api, proxy::forward};"),
        ("domain/origin.rs", "/// Used by [`crate::proxy`]."),
        ("domain/origin.rs", "let x = 1; // as crate::proxy does"),
        ("domain/origin.rs", "$crate::proxy!()"),
        ("proxy/forward/tests.rs", "use super::super::headers;"),
        ("lib.rs", "pub mod proxy; use crate::proxy::Forwarder;"),
    ] {
        assert!(bad_arrows(path, line).is_empty(), "{path}: {line}");
    }
}

#[test]
fn the_checker_finds_upward_and_sideways_arrows() {
    for (path, line) in [
        ("domain/origin.rs", "use crate::config::Settings;"),
        ("registry/project.rs", "use crate::upstream::Upstreams;"),
        ("registry.rs", "let x = crate::control::Control::load();"),
        ("api/vercel.rs", "use crate::proxy::Forwarder;"),
        ("upstream/pool.rs", "use crate::control;"),
        ("config/check.rs", "use crate::pki::pem;"),
        ("backend/mod.rs", "use crate::{domain::Origin, identity::{A, B}};"),
        ("backend/mod.rs", "use crate::{\n    domain,\n    registry::Registry,\n};"),
        ("pki/pem.rs", "use super::super::registry::Registry;"),
        ("pki/mod.rs", "use super::registry::Registry;"),
        ("domain/origin.rs", "use crate::nowhere::X;"),
        ("nowhere/mod.rs", ""),
    ] {
        assert_eq!(bad_arrows(path, line).len(), 1, "{path}: {line}");
    }
    assert!(bad_arrows("domain/a.rs", "\n\nuse crate::api::X;")[0].starts_with("src/domain/a.rs:3: "));
}

#[test]
fn the_checker_counts_lines() {
    assert!(too_long("src/domain/a.rs", &"x\n".repeat(500)).is_none());
    assert!(too_long("src/domain/a.rs", &"x\n".repeat(501)).is_some());
    assert!(too_long("src/main.rs", &"x\n".repeat(101)).is_some());
}
