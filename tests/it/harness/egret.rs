//! The program under test, started as an operator starts it: a file, an environment, and what it prints.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::certificates::Pair;
use super::wire::Wire;
use super::world::World;
use super::{PATIENCE, Process, command, eventually, stdout_of};

/// The administrator token of every egret that is not told otherwise.
pub(crate) const TOKEN: &str = "administrator-token-of-the-tests-7f3a9c51d2e84b60";

/// The program.
pub(crate) fn program() -> Command {
    command(env!("CARGO_BIN_EXE_egret"))
}

/// A configuration in the making, and later the home that a stopped egret leaves behind.
pub(crate) struct Setup {
    pub(super) folder: TempDir,
    data_dir: PathBuf,
    anchors: PathBuf,
    store: String,
    listeners: Vec<(String, String)>,
    sections: String,
    hosts: String,
    management: String,
    token: bool,
    workers: usize,
    /// What it is called, and the socket.
    handed_over: Vec<(String, OwnedFd)>,
    variables: Vec<(String, String)>,
    /// The configuration reaches it through a pipe.
    piped: bool,
    /// The file that says how far its clock is ahead, if that can be moved.
    pub(super) clock: Option<PathBuf>,
}

impl Setup {
    /// Port 0 everywhere, a data directory of its own, and the servers of `world` trusted.
    pub(crate) fn new(world: &World) -> Self {
        let folder = tempfile::Builder::new().prefix("egret-").tempdir().expect("a temporary folder");
        let anchors = folder.path().join("servers.pem");
        std::fs::write(&anchors, world.root.pem()).expect("writable");
        Self {
            data_dir: folder.path().join("data"),
            anchors,
            folder,
            store: String::new(),
            listeners: Vec::new(),
            sections: String::new(),
            hosts: String::new(),
            management: "listen = \"127.0.0.1:0\"".to_owned(),
            token: true,
            workers: 2,
            handed_over: Vec::new(),
            variables: Vec::new(),
            piped: false,
            clock: None,
        }
    }

    /// Reads its configuration from what a shell makes of `<(cat FILE)`.
    pub(crate) fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// A socket that is handed over as systemd does it, to every egret that is started here.
    pub(crate) fn handed_over(mut self, name: &str, socket: impl AsFd) -> Self {
        // Far from the numbers that they get in egret, and inherited.
        let copy = rustix::io::fcntl_dupfd_cloexec(socket, 100).expect("descriptors are left");
        rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).expect("it is open");
        self.handed_over.push((name.to_owned(), copy));
        self
    }

    /// A variable of its environment.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `egret serve` with its file and its environment; sockets as descriptors from 3 on.
    pub(crate) fn serve(&self) -> Command {
        let config = self.write();
        let mut serve = if self.piped {
            let mut shell = command("bash");
            shell.arg("-c").arg("exec \"$0\" \"$1\" \"$2\" <(cat \"$3\")").arg(env!("CARGO_BIN_EXE_egret"));
            shell
        } else if self.handed_over.is_empty() {
            program()
        } else {
            let from = |(_, socket): &(String, OwnedFd)| socket.as_raw_fd();
            let all: Vec<i32> = self.handed_over.iter().map(from).collect();
            let there: String = (3..).zip(&all).map(|(to, from)| format!("{to}<&{from} ")).collect();
            let gone: String = all.iter().map(|from| format!("{from}<&- ")).collect();
            let names: Vec<&str> = self.handed_over.iter().map(|(name, _)| name.as_str()).collect();
            let mut shell = command("bash");
            shell.arg("-c").arg(format!("LISTEN_PID=${{LISTEN_PID-$$}} exec \"$0\" \"$@\" {there}{gone}"));
            shell.env("LISTEN_FDS", all.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
            shell.arg(env!("CARGO_BIN_EXE_egret"));
            shell
        };
        serve.arg("serve").arg("--config").arg(&config).env("EGRET_LOG", "info");
        if self.token {
            serve.env("EGRET_TOKEN", TOKEN);
        }
        serve.envs(self.variables.iter().map(|(name, value)| (name, value)));
        serve.envs(self.clock.iter().flat_map(|clock| super::clock::variables(clock)));
        serve.stdin(Stdio::null());
        serve
    }

    /// Another way in; without any there is one, `dev`, for project `default`.
    pub(crate) fn listener(self, name: &str, mode: &str, keys: &str) -> Self {
        self.listener_at("127.0.0.1:0", name, mode, keys)
    }

    /// The same at another address, or `unix:PATH`, where a relative path starts at the file's folder.
    pub(crate) fn listener_at(mut self, listen: &str, name: &str, mode: &str, keys: &str) -> Self {
        let text = format!("[[listeners]]\nname = \"{name}\"\nlisten = \"{listen}\"\nmode = \"{mode}\"\n{keys}\n");
        self.listeners.push((name.to_owned(), text));
        self
    }

    /// The lines of `[management]`.
    pub(crate) fn management(mut self, lines: &str) -> Self {
        self.management = lines.to_owned();
        self
    }

    pub(crate) fn project(self, name: &str) -> Self {
        self.section(&format!("[[projects]]\nname = \"{name}\""))
    }

    /// Names that resolve to 127.0.0.1.
    pub(crate) fn hosts<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        for name in names {
            self = self.host(name.as_ref(), "127.0.0.1");
        }
        self
    }

    /// A name that resolves to this address.
    pub(crate) fn host(mut self, name: &str, address: &str) -> Self {
        self.hosts.push_str(&format!("\"{name}\" = [\"{address}\"]\n"));
        self
    }

    /// More of the file, whole tables.
    pub(crate) fn section(mut self, text: &str) -> Self {
        self.sections.push_str(text);
        self.sections.push_str("\n\n");
        self
    }

    /// Nothing is written to disk, and there is nowhere to write: the data directory lies below a plain file.
    pub(crate) fn without_disk(mut self) -> Self {
        let file = self.folder.path().join("not-a-folder");
        std::fs::write(&file, "").expect("writable");
        self.data_dir = file.join("data");
        self.store = "[store]\nbackend = \"memory\"\n".to_owned();
        self
    }

    /// Without `EGRET_TOKEN`.
    pub(crate) fn without_token(mut self) -> Self {
        self.token = false;
        self
    }

    pub(crate) fn data_dir(&self) -> &PathBuf {
        &self.data_dir
    }

    /// Writes the file; its path.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.folder.path().join("egret.toml");
        let listeners = if self.listeners.is_empty() {
            "[[listeners]]\nname = \"dev\"\nlisten = \"127.0.0.1:0\"\nmode = \"forward\"\nproject = \"default\"\n"
                .to_owned()
        } else {
            self.listeners.iter().map(|(_, text)| format!("{text}\n")).collect()
        };
        let text = format!(
            "data_dir = {:?}\nworkers = {}\n\n[management]\n{}\n\n{listeners}\n{}\n{}\n[trust]\nanchors = [{:?}]\n\n[dns.hosts]\n{}",
            self.data_dir, self.workers, self.management, self.sections, self.store, self.anchors, self.hosts
        );
        std::fs::write(&path, text).expect("writable");
        path
    }

    /// A command of the program that works on this home, with no egret running.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut cli = program();
        cli.args(arguments).env("EGRET_CONFIG", self.write()).env("EGRET_DATA_DIR", &self.data_dir);
        cli
    }

    /// Starts `egret serve` with it and waits until all sockets are bound.
    pub(crate) fn start(self) -> Egret {
        let log = self.folder.path().join("log");
        let stderr = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("writable");
        let mut process = Process::spawn(self.serve().stdout(Stdio::piped()).stderr(stderr));
        let (sender, lines) = mpsc::channel();
        let stdout = BufReader::new(process.0.stdout.take().expect("piped"));
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut listeners = Vec::new();
        let management_url = loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("egret did not say where its management API listens; its log:\n{log}");
            };
            if let Some(url) = line.strip_prefix("management listening on ") {
                break url.to_owned();
            }
            listeners.push(parse_listener(&line));
        };
        let names: Vec<_> = listeners.iter().map(|(name, _)| name.as_str()).collect();
        let expected: Vec<_> = self.listeners.iter().map(|(name, _)| name.as_str()).collect();
        assert!(self.listeners.is_empty() && names == ["dev"] || names == expected, "{names:?}, not {expected:?}");
        let management = management_url.rsplit('/').next().and_then(|address| address.parse().ok());
        let management = management.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
        Egret { process, listeners, management, management_url, setup: Some(self) }
    }
}

/// `proxy listening on HOST:PORT (NAME, MODE)`, or `unix:PATH` in place of the address.
fn parse_listener(line: &str) -> (String, String) {
    let parsed = line.strip_prefix("proxy listening on ").and_then(|rest| {
        let (address, rest) = rest.split_once(" (")?;
        let (name, _mode) = rest.strip_suffix(')')?.split_once(", ")?;
        Some((name.to_owned(), address.to_owned()))
    });
    parsed.unwrap_or_else(|| panic!("not the line of a listener: {line}"))
}

/// A running egret. Killed when dropped; its log is shown if the test failed.
pub(crate) struct Egret {
    process: Process,
    listeners: Vec<(String, String)>,
    /// The management API, if it is on TCP.
    pub(crate) management: SocketAddr,
    /// The same as `EGRET_URL` takes it.
    pub(crate) management_url: String,
    setup: Option<Setup>,
}

impl Egret {
    /// The address of the first listener.
    pub(crate) fn proxy(&self) -> SocketAddr {
        self.listener(&self.listeners[0].0)
    }

    /// The address of a listener by name.
    #[track_caller]
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        self.announced(name).parse().expect("HOST:PORT")
    }

    /// Where a listener is, as it said itself: `HOST:PORT` or `unix:PATH`.
    #[track_caller]
    pub(crate) fn announced(&self, name: &str) -> &str {
        &self.listeners.iter().find(|(n, _)| n == name).expect("a listener of this name").1
    }

    /// The file of a listener on a Unix socket.
    #[track_caller]
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        PathBuf::from(self.announced(name).strip_prefix("unix:").expect("a Unix socket"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn data_dir(&self) -> &PathBuf {
        &self.setup().data_dir
    }

    pub(super) fn setup(&self) -> &Setup {
        self.setup.as_ref().expect("present until the process is ended")
    }

    /// The configuration file that it follows.
    pub(crate) fn config(&self) -> PathBuf {
        self.setup().folder.path().join("egret.toml")
    }

    /// `/metrics`, as text.
    #[track_caller]
    pub(crate) fn metrics(&self) -> String {
        let mut wire = Wire::connect(self.management);
        wire.send(format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n",
            self.management
        ));
        wire.reply("GET").text()
    }

    /// Writes over its configuration file.
    pub(crate) fn reconfigure(&self, edit: impl FnOnce(String) -> String) {
        let text = std::fs::read_to_string(self.config()).expect("it is there");
        std::fs::write(self.config(), edit(text)).expect("writable");
    }

    /// `reload` of its status.
    #[track_caller]
    pub(crate) fn reload(&self) -> Value {
        self.api("GET", "/v1/status", None).1["reload"].clone()
    }

    /// A number of its status.
    #[track_caller]
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.api("GET", "/v1/status", None).1["counters"][name].as_u64().expect("a counter")
    }

    pub(crate) fn hang_up(&self) {
        self.process.signal(Signal::HUP);
    }

    /// What it wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.setup().folder.path().join("log")).unwrap_or_default()
    }

    /// A command of the program that talks to this instance.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Command {
        let mut cli = program();
        cli.args(arguments)
            .env("EGRET_URL", &self.management_url)
            .env("EGRET_CONFIG", self.setup().folder.path().join("egret.toml"))
            .env("EGRET_DATA_DIR", &self.setup().data_dir);
        if self.setup().token {
            cli.env("EGRET_TOKEN", TOKEN);
        }
        cli
    }

    /// A management call as the administrator.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.api_as(TOKEN, method, path, body)
    }

    /// A management call with a token.
    #[track_caller]
    pub(crate) fn api_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        self.try_api_as(token, method, path, body).expect("the API answers")
    }

    /// The same, for an egret that may be gone before it answers.
    pub(crate) fn try_api_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<(u16, Value)> {
        api_call(self.management, token, method, path, body)
    }

    /// Uploads a certificate of `project`, for an origin or (`None`) project-wide; its id.
    #[track_caller]
    pub(crate) fn upload(&self, project: &str, origin: Option<&str>, pair: &Pair) -> String {
        let path = format!("/v1/projects/{project}/client-cert");
        let (status, answer) = self.api("POST", &path, Some(&upload_body(origin, pair)));
        assert_eq!(status, 200, "upload for {origin:?}: {answer}");
        answer["certId"].as_str().expect("a certId").to_owned()
    }

    /// Deletes a certificate.
    #[track_caller]
    pub(crate) fn delete(&self, project: &str, id: &str) {
        let (status, answer) = self.api("DELETE", &format!("/v1/projects/{project}/client-cert/{id}"), None);
        assert_eq!(status, 200, "{answer}");
    }

    /// Says that `project` presents nothing to these origins.
    #[track_caller]
    pub(crate) fn bind_none(&self, project: &str, origin: &str) {
        let body = json!({ "origin": origin, "certId": null });
        let (status, answer) = self.api("PUT", &format!("/v1/projects/{project}/bindings"), Some(&body));
        assert_eq!(status, 200, "{answer}");
    }

    /// The file of the local interception CA, as `egret ca path` prints it.
    #[track_caller]
    pub(crate) fn ca(&self) -> PathBuf {
        PathBuf::from(stdout_of(&mut self.cli(&["ca", "path"])).trim())
    }

    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.ca()).expect("`ca path` names a file")
    }

    pub(crate) fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// The exit status, once it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// SIGTERM, and its home once it has ended with exit code 0.
    pub(crate) fn stop(self) -> Setup {
        self.terminate();
        self.gone()
    }

    /// Its home, once it has ended with exit code 0 after an earlier SIGTERM.
    pub(crate) fn gone(mut self) -> Setup {
        let status = eventually("egret ends after SIGTERM", || self.process.ended());
        assert!(status.success(), "{status}");
        self.setup.take().expect("present until now")
    }

    /// SIGKILL, and its home.
    pub(crate) fn kill(mut self) -> Setup {
        self.process.signal(Signal::KILL);
        eventually("egret is gone after SIGKILL", || self.process.ended());
        self.setup.take().expect("present until now")
    }
}

impl Drop for Egret {
    fn drop(&mut self) {
        if std::thread::panicking() && self.setup.is_some() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the end of egret's log\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
    }
}

/// The JSON of an upload.
pub(crate) fn upload_body(origin: Option<&str>, pair: &Pair) -> Value {
    let mut body = json!({ "cert": pair.chain, "key": pair.key, "ca": pair.ca });
    if let Some(origin) = origin {
        body["origin"] = json!(origin);
    }
    body
}

/// One management call, on a connection of its own. An answer without a body, or not in JSON, is `null`.
pub(crate) fn api_call(
    management: SocketAddr,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> std::io::Result<(u16, Value)> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut wire = Wire::try_connect(management, Duration::from_secs(20))?;
    let content = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    wire.try_send(format!(
        "{method} {path} HTTP/1.1\r\nHost: {management}\r\nAuthorization: Bearer {token}\r\n{content}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))?;
    let reply = wire.try_reply(method)?;
    if !reply.whole {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok((reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null)))
}
