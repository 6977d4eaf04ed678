//! A newcomer's laptop: egret runs, one partner's origin has its certificate, and everything else is started by
//! `egret run --` with nothing set.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::certificates::Pair;
use super::egret::{Egret, Setup, TOKEN, program};
use super::nginx::{Nginx, Site};
use super::world::World;
use super::{Process, command, eventually, repository, run_within};

/// The partner's name. Resolved by egret alone, so nobody gets there without it.
pub(crate) const NAME: &str = "api.partner.test";

/// Where no egret answers: no system gives out this port by itself.
const NOWHERE: &str = "http://127.0.0.1:1";

/// For browsers and package managers on a busy machine; less than nextest gives a test, so that it is this that speaks.
const LIMIT: Duration = Duration::from_secs(50);
/// Newer versions of Go compile their standard library first.
const BUILD_LIMIT: Duration = Duration::from_secs(240);

/// nginx that demands the partner's certificate and writes down the subject that it saw, and an egret that has it.
pub(crate) struct Laptop {
    pub(crate) world: World,
    pub(crate) nginx: Nginx,
    pub(crate) client: Pair,
    egret: Running,
    /// The user's home: empty, like all that is configured in one.
    home: PathBuf,
}

/// What `egret run` finds.
enum Running {
    /// `egret serve` in the background, with a listener that asks for no credential.
    Egret(Egret),
    /// Nothing but configuration and store: it starts an egret of its own, which asks for a credential.
    Nothing(Setup),
}

/// A row of the matrix: what a client does, with an egret that runs and with one that `egret run` starts.
pub(crate) fn row(client: impl Fn(&Laptop)) {
    let laptop = Laptop::start();
    client(&laptop);
    // What package managers keep in caches would not be asked for again.
    std::fs::remove_dir_all(&laptop.home).expect("our own folder");
    std::fs::create_dir(&laptop.home).expect("our own folder");
    client(&laptop.stop());
}

impl Laptop {
    pub(crate) fn start() -> Self {
        Self::among(World::new(), Site::http2, |setup| setup)
    }

    /// With this in the partner's site, which speaks HTTP/1.1 otherwise, and this in egret's configuration.
    pub(crate) fn among(world: World, site: impl FnOnce(Site) -> Site, setup: impl FnOnce(Setup) -> Setup) -> Self {
        let demanding = Site::demanding(&[NAME], &world.server(&[NAME]), &world.partner.pem()).logged();
        let nginx = Nginx::start(&[site(demanding)]);
        let egret = setup(Setup::new(&world).hosts(&[NAME])).start();
        let client = world.client("the-laptop");
        egret.upload("default", Some(&nginx.origin(NAME)), &client);
        let home = world.path("home");
        std::fs::create_dir(&home).expect("writable");
        Self { world, nginx, client, egret: Running::Egret(egret), home }
    }

    /// Without the egret in the background.
    pub(crate) fn stop(mut self) -> Self {
        if let Running::Egret(egret) = self.egret {
            self.egret = Running::Nothing(egret.stop());
        }
        self
    }

    /// The egret in the background.
    #[track_caller]
    pub(crate) fn egret(&self) -> &Egret {
        match &self.egret {
            Running::Egret(egret) => egret,
            Running::Nothing(_) => panic!("this laptop's egret was stopped"),
        }
    }

    /// `https://api.partner.test:PORT` and this path.
    pub(crate) fn https(&self, path: &str) -> String {
        self.nginx.origin(NAME) + path
    }

    /// The same with `http://`, which egret lifts.
    pub(crate) fn http(&self, path: &str) -> String {
        self.https(path).replacen("https", "http", 1)
    }

    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// A command under `egret run --`, in the newcomer's environment.
    pub(crate) fn run(&self, argv: &[&str]) -> Command {
        self.run_with(&[], argv)
    }

    /// The same with options of `egret run`.
    pub(crate) fn run_with(&self, options: &[&str], argv: &[&str]) -> Command {
        let mut run = self.egret_command(&["run"]);
        run.args(options).arg("--").args(argv);
        run
    }

    /// A command of egret's own, in the newcomer's environment.
    pub(crate) fn egret_command(&self, arguments: &[&str]) -> Command {
        let mut egret = match &self.egret {
            Running::Egret(egret) => egret.cli(arguments),
            Running::Nothing(setup) => {
                let mut egret = program();
                egret.args(arguments).env("EGRET_URL", NOWHERE).env("EGRET_CONFIG", setup.write());
                egret.env("EGRET_DATA_DIR", setup.data_dir()).env("EGRET_TOKEN", TOKEN);
                egret
            }
        };
        self.at_home(&mut egret);
        egret
    }

    /// The same command without egret.
    pub(crate) fn bare(&self, argv: &[&str]) -> Command {
        let mut bare = command(argv[0]);
        bare.args(&argv[1..]);
        self.at_home(&mut bare);
        bare
    }

    /// `tests/clients/fetch.go`, built.
    pub(crate) fn go(&self) -> String {
        let binary = self.home.join("fetch").to_str().expect("text").to_owned();
        let mut build = self.bare(&["go", "build", "-o", &binary, &client("fetch.go")]);
        let output = run_within(BUILD_LIMIT, build.env("GOTOOLCHAIN", "local"));
        assert!(output.status.success(), "{}", said(&output));
        binary
    }

    /// Nothing of the environment that the tests run in, but where programs are. Toolchains are found by their own
    /// variable because the home is another.
    fn at_home(&self, command: &mut Command) {
        const KEPT: [&str; 5] = ["PATH", "LANG", "LC_ALL", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"];
        for (name, _) in std::env::vars_os() {
            if !KEPT.iter().any(|&kept| name == kept) && !name.to_string_lossy().starts_with("EGRET_") {
                command.env_remove(name);
            }
        }
        if let (None, Some(home)) = (std::env::var_os("RUSTUP_HOME"), std::env::var_os("HOME")) {
            command.env("RUSTUP_HOME", Path::new(&home).join(".rustup"));
        }
        // Files that a machine's administrator may have put there would be one thing more that is set.
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("npm_config_globalconfig", self.home.join("no-npmrc"));
        command.env("HOME", &self.home).current_dir(&self.home);
    }

    /// Runs a command under `egret run --`; it has to succeed with an answer of nginx, which saw the partner's
    /// certificate and nothing else. What the command printed.
    #[track_caller]
    pub(crate) fn serves(&self, argv: &[&str]) -> String {
        self.serves_command(&mut self.run(argv))
    }

    /// The same for a command with more to it.
    #[track_caller]
    pub(crate) fn serves_command(&self, command: &mut Command) -> String {
        let before = self.nginx.seen().len();
        let output = run_within(LIMIT, command);
        let said = said(&output);
        let argv: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        assert_eq!(output.status.code(), Some(0), "{argv:?}: {said}");
        // nginx writes its log after the answer. Package managers ask for more than they were told to, in vain.
        eventually("nginx logs an answer of 200", || {
            self.nginx.seen()[before..].iter().any(|request| request.status == "200").then_some(())
        });
        for request in &self.nginx.seen()[before..] {
            assert_eq!(request.subject, self.client.subject(), "{request:?}; {said}");
        }
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs a command of which nothing arrives at nginx; its exit code.
    #[track_caller]
    pub(crate) fn never_arrives(&self, command: &mut Command) -> Option<i32> {
        let before = self.nginx.seen().len();
        let output = run_within(LIMIT, command);
        assert_eq!(self.nginx.seen().len(), before, "{:?}; {}", self.nginx.seen(), said(&output));
        output.status.code()
    }
}

/// A script of `tests/clients` that serves, prints its port, and ends with its standard input.
pub(crate) struct Served {
    _process: Process,
    pub(crate) port: u16,
}

impl Served {
    pub(crate) fn start(script: &str, arguments: &[&Path]) -> Self {
        let mut python = command(python());
        python.arg(client(script)).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(&mut python);
        let mut line = String::new();
        let stdout = process.0.stdout.as_mut().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        let port = line.trim().parse().unwrap_or_else(|_| panic!("{script} did not say its port but {line:?}"));
        Self { _process: process, port }
    }
}

/// Both outputs, for messages.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Python of the tests, with the libraries of `tests/clients/requirements.txt`.
pub(crate) fn python() -> String {
    let python = repository("target/test-venv/bin/python3");
    assert!(python.exists(), "{} is missing; ./tests/run makes it", python.display());
    python.to_str().expect("text").to_owned()
}

/// A file of `tests/clients`.
pub(crate) fn client(name: &str) -> String {
    repository("tests/clients").join(name).to_str().expect("text").to_owned()
}
