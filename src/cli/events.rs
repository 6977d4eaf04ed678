//! `egret events`

use std::time::SystemTime;

use anyhow::bail;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Usage;
use super::args::EventsArgs;
use super::client::{Api, segment};
use super::output::{clean, print, text, while_waiting};
use crate::domain::time::rfc3339;

/// No event is longer, so what is longer is none.
const MAX_EVENT: usize = 1 << 20;

pub(super) async fn run(args: &EventsArgs) -> anyhow::Result<()> {
    let mut path = format!("/v1/events?wait={}", !args.no_follow);
    if let Some(since) = &args.since {
        path.push_str(&format!("&since={}", segment(&whence(since)?)));
    }
    let mut api = Api::new(&args.api)?;
    let mut body = while_waiting(|| "waiting for the API".to_owned(), api.stream(&path)).await?;
    let mut reader = Reader::default();
    while let Some(event) = next(&mut body, &mut reader).await? {
        match event.kind.as_str() {
            "end" => bail!("the API ended it: {}", clean(&text(&event.data["reason"]))),
            "missed" if args.json => {
                print(&format!("{}\n", json!({ "type": "missed", "count": event.data["count"] })))?
            }
            "missed" => eprintln!("egret: {}", missed(&event.data["count"])),
            _ if args.json => print(&format!("{}\n", event.data))?,
            _ => print(&line(&event.data))?,
        }
    }
    if args.no_follow { Ok(()) } else { bail!("the connection to the API broke; ask again with --since") }
}

/// What the API takes: an id or a time as they are, a stretch of time as the time that long ago.
fn whence(since: &str) -> anyhow::Result<String> {
    if let Ok(ago) = humantime::parse_duration(since) {
        let at = SystemTime::now().checked_sub(ago).map(OffsetDateTime::from);
        return at.map(rfc3339).ok_or_else(|| Usage("--since: that was before all times".to_owned()).into());
    }
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_id = since.split_once('-').is_some_and(|(start, id)| is_number(start) && is_number(id));
    if is_id || OffsetDateTime::parse(since, &Rfc3339).is_ok() {
        return Ok(since.to_owned());
    }
    let what = "--since: give the id of an event, a time as 2026-11-28T12:00:00Z, or how long ago, as 1h";
    Err(Usage(what.to_owned()).into())
}

fn missed(count: &Value) -> String {
    match count.as_u64() {
        Some(1) => "an event was missed".to_owned(),
        Some(count) => format!("{count} events were missed"),
        None => "egret was started anew since; what happened between is not known".to_owned(),
    }
}

/// Time, kind, and the sentence that says it; with what the sentence lacks.
fn line(event: &Value) -> String {
    let [at, kind, message] = ["at", "type", "message"].map(|key| clean(&text(&event[key])));
    let of = |key: &str| event[key].as_str().filter(|id| !message.contains(id)).map(clean);
    let mut about: Vec<String> = ["project", "certificate"].into_iter().filter_map(of).collect();
    let origins = event["origins"].as_array().into_iter().flatten().filter_map(Value::as_str);
    about.extend(origins.filter(|origin| *origin != "*" && !message.contains(origin)).map(clean));
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    format!("{at}  {kind:<24}  {message}{about}\n")
}

/// The next event; `None` at the end.
async fn next(body: &mut Incoming, reader: &mut Reader) -> anyhow::Result<Option<Told>> {
    loop {
        if let Some(event) = reader.next() {
            return Ok(Some(event));
        }
        if reader.unread.len() > MAX_EVENT {
            bail!("what the API sends is not a list of events");
        }
        match body.frame().await {
            None => return Ok(None),
            // What broke off is not an end: the caller says so.
            Some(Err(_)) => return Ok(None),
            Some(Ok(frame)) => reader.unread.extend(frame.into_data().unwrap_or_default()),
        }
    }
}

/// An event as it came.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    kind: String,
    data: Value,
}

/// Events out of a stream (WHATWG HTML section 9.2.6), as far as egret writes it: every event has one line of data.
#[derive(Default)]
struct Reader {
    unread: Vec<u8>,
}

impl Reader {
    fn next(&mut self) -> Option<Told> {
        loop {
            let end = self.unread.windows(2).position(|two| two == b"\n\n")?;
            let block: Vec<u8> = self.unread.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            // A comment has neither.
            if let (Some(kind), Some(data)) = (field("event"), field("data"))
                && let Ok(data) = serde_json::from_str(data)
            {
                return Some(Told { kind: kind.to_owned(), data });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_events_however_they_are_cut() {
        let text = ": egret\n\nid: 1-1\nevent: config.reloaded\ndata: {\"a\":1}\n\n: all is well\n\nevent: missed\ndata: {\"count\":2}\n\n";
        for size in [1, 3, 1000] {
            let (mut reader, mut told) = (Reader::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                reader.unread.extend_from_slice(piece);
                told.extend(std::iter::from_fn(|| reader.next()));
            }
            let kinds: Vec<_> = told.iter().map(|t| (t.kind.as_str(), t.data.to_string())).collect();
            let wanted = [("config.reloaded", r#"{"a":1}"#.to_owned()), ("missed", r#"{"count":2}"#.to_owned())];
            assert_eq!(kinds, wanted, "{size}");
        }
    }

    #[test]
    fn takes_ids_times_and_stretches_of_time() {
        for as_it_is in ["1764331200000-7", "2026-11-28T12:00:00Z"] {
            assert_eq!(whence(as_it_is).unwrap(), as_it_is);
        }
        assert!(whence("1h").unwrap().ends_with('Z'));
        for wrong in ["yesterday", "7", "-7", "1-"] {
            assert!(whence(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_says_once_what_it_says() {
        let event = json!({
            "at": "2026-11-28T12:00:00Z", "type": "certificate.uploaded", "project": "prj_1", "certificate": "cert_1",
            "origins": ["https://a.test"], "message": "certificate cert_1 was\x1b uploaded",
        });
        let wanted = "2026-11-28T12:00:00Z  certificate.uploaded      certificate cert_1 was\u{fffd} uploaded (prj_1, https://a.test)\n";
        assert_eq!(line(&event), wanted);
    }
}
