//! What commands print: tables, facts, JSON; and a sign of life where something takes long.

use std::future::Future;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::Value;

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints a value as indented JSON.
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn print_json(value: &Value) -> anyhow::Result<()> {
    print(&format!("{value:#}\n"))
}

/// Columns, two spaces apart; the last one is not padded.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|h| h.chars().count());
    let rows: Vec<[String; N]> = rows.iter().map(|row| row.each_ref().map(|cell| clean(cell))).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(head);
    for row in &rows {
        line(row.each_ref().map(String::as_str));
    }
    out
}

/// `name  value`, one per line.
pub(super) fn facts(facts: &[(String, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width$}  {}\n", clean(value))).collect()
}

/// A JSON value as a person reads it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map.iter().map(|(k, v)| format!("{k} {}", text(v))).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// Subjects come from certificates that others made: no control character of theirs reaches a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Waits for `work`; after a second a line on standard error says what for, if a person is watching.
pub(super) async fn while_waiting<T>(what: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    let mut work = std::pin::pin!(work);
    let mut shown = false;
    loop {
        match tokio::time::timeout(Duration::from_secs(1), &mut work).await {
            Ok(done) => {
                if shown {
                    eprint!("\r\x1b[2K");
                }
                return done;
            }
            Err(_) => {
                eprint!("\r\x1b[2K{}", what());
                shown = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_escapes_stay_out() {
        let rows = [["https://a.test".to_owned(), "CN=\x1b[31mä".to_owned()], ["*".to_owned(), String::new()]];
        assert_eq!(
            table(["ORIGIN", "SUBJECT"], &rows),
            "ORIGIN          SUBJECT\nhttps://a.test  CN=\u{fffd}[31mä\n*\n"
        );
    }

    #[test]
    fn values_read_as_words() {
        let value = serde_json::json!({"id": "c", "connections": 2, "none": null, "list": ["a", "b"], "empty": []});
        assert_eq!(text(&value), "connections 2 empty - id c list a, b none -");
        assert_eq!(facts(&[("a".into(), "1".into()), ("bcd".into(), "2\n".into())]), "a    1\nbcd  2\u{fffd}\n");
    }
}
