//! Clients that nobody here wrote: curl, Python's and Node's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Process, command, repository, run_within};

/// One request of a client.
#[derive(Clone, Default)]
pub(crate) struct Job {
    url: String,
    proxy: Option<SocketAddr>,
    ca: Option<String>,
    absolute: bool,
    host: Option<String>,
}

impl Job {
    pub(crate) fn get(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Through this proxy, the way the client itself chooses.
    pub(crate) fn through(mut self, proxy: SocketAddr) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// In absolute form even if the URL begins with `https://`.
    pub(crate) fn absolute(mut self) -> Self {
        self.absolute = true;
        self
    }

    /// With another Host than the URL's.
    pub(crate) fn host(mut self, authority: &str) -> Self {
        self.host = Some(authority.to_owned());
        self
    }

    /// Servers are verified against this file alone.
    pub(crate) fn trusting(mut self, ca: &Path) -> Self {
        self.ca = Some(ca.to_str().expect("the test's own paths are text").to_owned());
        self
    }
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Value,
    pub(crate) body: String,
    pub(crate) error: Option<String>,
}

impl Answer {
    /// A field of the JSON that the origin answered with.
    #[track_caller]
    pub(crate) fn seen(&self, field: &str) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body[field].as_str().unwrap_or_else(|| panic!("the origin did not answer: {self:?}")).to_owned()
    }
}

/// A client program.
pub(crate) enum Client {
    Curl,
    /// A script that takes one job per line.
    Script {
        stdin: ChildStdin,
        stdout: BufReader<ChildStdout>,
        _process: Process,
    },
}

impl Client {
    /// `urllib`, `requests` or `http.client`.
    pub(crate) fn python(kind: &str) -> Self {
        let python = repository("target/test-venv/bin/python3");
        assert!(python.exists(), "{} is missing; ./tests/run makes it", python.display());
        Self::script(command(python).arg(repository("tests/clients/python_client.py")).arg(kind))
    }

    /// `http` or `undici`.
    pub(crate) fn node(kind: &str) -> Self {
        Self::script(command("node").arg(repository("tests/clients/node_client.mjs")).arg(kind))
    }

    fn script(command: &mut std::process::Command) -> Self {
        let mut process = Process::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let stdin = process.0.stdin.take().expect("piped");
        let stdout = BufReader::new(process.0.stdout.take().expect("piped"));
        Self::Script { stdin, stdout, _process: process }
    }

    /// Sends one request.
    #[track_caller]
    pub(crate) fn send(&mut self, job: &Job) -> Answer {
        let Self::Script { stdin, stdout, .. } = self else { return curl(job) };
        let mut line = json!({ "url": job.url, "absolute": job.absolute });
        if let Some(proxy) = job.proxy {
            line["proxy"] = json!(format!("http://{proxy}"));
        }
        if let Some(ca) = &job.ca {
            line["ca"] = json!(ca);
        }
        if let Some(host) = &job.host {
            line["headers"] = json!({ "Host": host });
        }
        writeln!(stdin, "{line}").expect("the script reads on");
        let mut answer = String::new();
        stdout.read_line(&mut answer).expect("text");
        let answer: Value = serde_json::from_str(&answer).expect("the script answers every line");
        Answer {
            status: answer["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or(0),
            headers: answer["headers"].clone(),
            body: answer["body"].as_str().unwrap_or_default().to_owned(),
            error: answer["error"].as_str().map(str::to_owned),
        }
    }
}

/// The arguments that every call of curl has here: no configuration file, no progress, and not for ever.
pub(crate) fn curl_command() -> std::process::Command {
    let mut curl = command("curl");
    curl.args(["-q", "--silent", "--show-error", "--max-time", "300"]);
    curl
}

fn curl(job: &Job) -> Answer {
    let mut curl = curl_command();
    curl.args(["--max-time", "30", "--include", "--suppress-connect-headers"]);
    if let Some(ca) = &job.ca {
        curl.args(["--cacert", ca]);
    }
    if let Some(host) = &job.host {
        curl.args(["-H", &format!("Host: {host}")]);
    }
    match job.proxy {
        Some(proxy) if job.absolute => {
            let authority = job.url.split('/').nth(2).expect("an absolute URL");
            curl.args(["--request-target", &job.url, "-H", &format!("Host: {authority}"), &format!("http://{proxy}")]);
        }
        Some(proxy) => {
            curl.args(["--proxy", &format!("http://{proxy}"), &job.url]);
        }
        None => {
            curl.arg(&job.url);
        }
    }
    let output = run_within(Duration::from_secs(40), &mut curl);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    Answer {
        status: head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), json!(value.trim())))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        body: body.to_owned(),
        error: (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
