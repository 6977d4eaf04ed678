//! Completions and manual pages, judged by the programs that read them.

use std::process::Command;

use crate::harness::egret::program;
use crate::harness::world::World;
use crate::harness::{PATIENCE, command, run_within, stdout_of};

#[test]
fn shells_accept_their_completions() {
    let world = World::new();
    let check = |shell: &str, options: &[&str]| {
        let script = stdout_of(program().args(["completions", shell]));
        assert!(script.contains("egret") && script.contains("rekey"), "{script}");
        let path = world.write(&format!("completions.{shell}"), &script);
        let output = run_within(PATIENCE, command(shell).args(options).arg(path));
        assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    };
    check("bash", &["-n"]);
    check("zsh", &["-f", "-n"]);
    check("fish", &["--no-execute"]);
    for shell in ["powershell", "elvish"] {
        assert!(stdout_of(program().args(["completions", shell])).contains("rekey"));
    }
    assert_eq!(run_within(PATIENCE, program().args(["completions", "csh"])).status.code(), Some(2));
}

#[test]
fn bash_completes_a_subcommand() {
    let world = World::new();
    let script = world.write("egret.bash", &stdout_of(program().args(["completions", "bash"])));
    let completed = stdout_of(command("bash").args(["--norc", "-c"]).arg(
        "source \"$1\"; COMP_WORDS=(egret certs up); COMP_CWORD=2; _egret egret up certs; echo \"${COMPREPLY[@]}\"",
    ).arg("bash").arg(&script));
    assert_eq!(completed.trim(), "upload");
}

#[test]
fn manual_pages_are_rendered_without_a_complaint() {
    let world = World::new();
    let folder = world.path("man1");
    let said = stdout_of(program().args(["man", "--dir"]).arg(&folder));
    assert!(said.contains("pages written to"), "{said}");
    let pages: Vec<_> = std::fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()).collect();
    assert!(pages.len() > 15, "{pages:?}");
    for page in &pages {
        let output = run_within(PATIENCE, command("groff").args(["-man", "-Kutf8", "-Tutf8", "-ww", "-b"]).arg(page));
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", page.display());
    }
    let text = |command: &mut Command| stdout_of(command.env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8"));
    let upload = text(command("man").args(["-l", "-P", "cat"]).arg(folder.join("egret-certs-upload.1")));
    for piece in ["egret certs upload", "--p12", "EGRET_PASSPHRASE", "Examples:"] {
        assert!(upload.contains(piece), "{piece}: {upload}");
    }
    let page = world.write("egret.1", &stdout_of(program().arg("man")));
    assert!(text(command("man").args(["-l", "-P", "cat"]).arg(page)).contains("egress mTLS forward proxy"));
}
