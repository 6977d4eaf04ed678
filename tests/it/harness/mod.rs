//! What every test of this folder stands on: certificates, origins, clients, and the program itself.
//!
//! Nothing here waits for a fixed time: [`eventually`] polls a condition until a deadline.

pub(crate) mod certificates;
pub(crate) mod clients;
mod clock;
pub(crate) mod cloudflare;
pub(crate) mod doors;
pub(crate) mod egret;
pub(crate) mod laptop;
pub(crate) mod nginx;
pub(crate) mod openssl;
pub(crate) mod origin;
pub(crate) mod parents;
pub(crate) mod partner;
pub(crate) mod recorder;
pub(crate) mod wire;
pub(crate) mod world;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take to come true; generous, because test machines are slow and busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `check` gives a value; panics with `what` after [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A command that inherits no proxy settings and no egret settings from whoever runs the tests.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_lowercase();
        if text.ends_with("_proxy")
            || text.starts_with("egret_")
            || text.starts_with("node_")
            || text == "ssl_cert_file"
        {
            command.env_remove(name);
        }
    }
    command
}

/// A child process that does not outlive the test. Ended by its own pid, never by name.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let program = command.get_program().to_owned();
        match command.spawn() {
            Ok(child) => Self(child),
            Err(error) => panic!("cannot start {}: {error}; ./tests/run installs what is missing", program.display()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// The exit status, once there is one.
    pub(crate) fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().expect("our own child can be waited for")
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid().cast_signed()).expect("a pid is not zero");
        rustix::process::kill_process(pid, signal).expect("our own child can be signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a command to its end with standard input closed; ends it and panics after `limit`.
#[track_caller]
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let mut process = Process::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let stdout = drain(process.0.stdout.take().expect("piped"));
    let stderr = drain(process.0.stderr.take().expect("piped"));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        assert!(start.elapsed() < limit, "not done within {limit:?}: {shown}");
        thread::sleep(Duration::from_millis(5));
    };
    Output { status, stdout: stdout.join().expect("reads a pipe"), stderr: stderr.join().expect("reads a pipe") }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Standard output of a command that has to succeed.
#[track_caller]
pub(crate) fn stdout_of(command: &mut Command) -> String {
    let output = run_within(PATIENCE, command);
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// The most memory that a process ever held, in KiB (`VmHWM`).
pub(crate) fn peak_memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux shows VmHWM");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of kB")
}

/// Lets this process and its children open `count` descriptors.
pub(crate) fn allow_descriptors(count: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_some_and(|current| current < count) {
        let maximum = now.maximum;
        let current = Some(maximum.map_or(count, |maximum| maximum.min(count)));
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).expect("a soft limit may be raised to the hard one");
    }
}
