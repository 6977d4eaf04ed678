//! `benches/load/storm`, a few seconds of it: the table is printed, egret's row is clean, and a stale one would be seen.

use std::collections::HashMap;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{command, repository, run_within};

/// The bench with a few clients and the egret under test.
fn storm(peers: &str, seconds: &str) -> Command {
    let mut storm = command(repository("benches/load/storm"));
    storm.args(["--egret", env!("CARGO_BIN_EXE_egret"), "--peers", peers, "--seconds", seconds]);
    storm.args(["--clients", "8", "--fresh", "2", "--slow", "2"]);
    storm
}

/// The rows of the printed table, each column by its heading.
fn rows(output: &Output) -> Vec<HashMap<String, String>> {
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut lines = printed
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let Some(heads) = lines.next() else {
        panic!("no table: {printed}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    lines.skip(1).map(|cells| heads.iter().cloned().zip(cells).collect()).collect()
}

/// The number that a cell begins with.
fn number(row: &HashMap<String, String>, head: &str) -> u64 {
    let cell = &row[head];
    let digits: String = cell.chars().take_while(|c| c.is_ascii_digit() || *c == ',').filter(|c| *c != ',').collect();
    digits.parse().unwrap_or_else(|_| panic!("{head} begins with a number: {cell}"))
}

#[test]
fn heavy_egret_fails_nothing_and_is_never_stale_beside_nginx() {
    let output = run_within(Duration::from_secs(150), &mut storm("egret,nginx", "5"));
    let rows = rows(&output);
    let peers: Vec<&str> = rows.iter().filter_map(|row| row["proxy"].split(' ').next()).collect();
    assert_eq!(peers, ["egret", "nginx", "nginx"], "nginx is acknowledged in two ways");
    for row in &rows {
        assert!(number(row, "replaced") > 3, "{row:?}");
        assert!(number(row, "requests") > 100, "{row:?}");
    }
    let egret = &rows[0];
    for head in ["failed", "stale", "resumed stale"] {
        assert_eq!(number(egret, head), 0, "{head}: {egret:?}");
    }
    assert_eq!(egret["idle connection"], "new");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn heavy_an_acknowledged_replacement_that_was_not_made_is_seen() {
    let output = run_within(Duration::from_secs(120), storm("egret", "2").arg("--pretend"));
    let [egret] = rows(&output).try_into().expect("one row");
    assert_eq!(number(&egret, "failed"), 0, "{egret:?}");
    assert!(number(&egret, "stale") > 50, "{egret:?}");
    assert!(egret["idle connection"].starts_with("old, still"), "{egret:?}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
