//! Parent proxies and a name server that nobody here wrote: Squid, microsocks, dnsmasq.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::nginx::free_address;
use super::{Process, command, eventually, stdout_of};

/// What they want to be shown, where they want something.
pub(crate) const USER: &str = "corp-me";
pub(crate) const PASSWORD: &str = "s3cret-of-the-parent-4f81";

/// A daemon in a folder of its own, with what it said.
pub(crate) struct Daemon {
    _process: Process,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl Daemon {
    /// Tries ports until the program runs: another process may take one between its choice and the bind.
    fn start(name: &str, prepare: impl Fn(&Path, SocketAddr) -> Command) -> Self {
        for _ in 0..20 {
            let folder = tempfile::Builder::new().prefix(name).tempdir().expect("a temporary folder");
            // As root Squid becomes somebody else, who has to write here.
            let open = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(folder.path(), open).expect("our own folder");
            let address = free_address();
            let said = std::fs::File::create(folder.path().join("said")).expect("writable");
            let mut command = prepare(folder.path(), address);
            let both = said.try_clone().expect("a descriptor");
            let mut process = Process::spawn(command.stdin(Stdio::null()).stdout(both).stderr(said));
            let started = eventually(&format!("{name} accepts connections"), || {
                if process.ended().is_some() {
                    return Some(false);
                }
                TcpStream::connect(address).is_ok().then_some(true)
            });
            if started {
                return Self { _process: process, address, folder };
            }
            let said = std::fs::read_to_string(folder.path().join("said")).unwrap_or_default();
            assert!(said.to_lowercase().contains("in use") || said.contains("bind"), "{name} did not start: {said}");
        }
        panic!("{name} did not start on any of 20 free ports");
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Standard output and standard error.
    pub(crate) fn said(&self) -> String {
        self.file("said")
    }
}

/// Squid, which wants [`USER`] and [`PASSWORD`] by Basic, and resolves `names` to 127.0.0.1.
pub(crate) struct Squid(Daemon);

impl Squid {
    pub(crate) fn start(names: &[&str]) -> Self {
        let hash = stdout_of(command("openssl").args(["passwd", "-apr1", PASSWORD]));
        Self(Daemon::start("squid", |folder, address| {
            let write = |name: &str, text: &str| {
                std::fs::write(folder.join(name), text).expect("writable");
                folder.join(name)
            };
            let passwords = write("passwords", &format!("{USER}:{hash}"));
            let hosts: String = names.iter().map(|name| format!("127.0.0.1 {name}\n")).collect();
            let hosts = write("hosts", &hosts);
            let (log, cache) = (folder.join("access.log"), folder.join("cache.log"));
            let config = write(
                "squid.conf",
                &format!(
                    "http_port {address}\npid_filename none\ncache deny all\ncache_mem 0\npinger_enable off\n\
                     netdb_filename none\nshutdown_lifetime 0 seconds\nvia off\nforwarded_for delete\n\
                     coredump_dir {folder}\ncache_log {cache}\naccess_log stdio:{log} squid\nbuffered_logs off\n\
                     hosts_file {hosts}\ndns_nameservers 127.0.0.1\ndns_timeout 1 second\n\
                     auth_param basic program {helper} {passwords}\nauth_param basic children 2 startup=1\n\
                     auth_param basic realm test\nacl known proxy_auth REQUIRED\nhttp_access allow known\n\
                     http_access deny all\n",
                    folder = folder.display(),
                    cache = cache.display(),
                    log = log.display(),
                    hosts = hosts.display(),
                    passwords = passwords.display(),
                    helper = "/usr/lib/squid/basic_ncsa_auth",
                ),
            );
            let mut squid = command("/usr/sbin/squid");
            squid.arg("-N").arg("-f").arg(config);
            squid
        }))
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.address.port()
    }

    /// Its access log: one `STATUS METHOD TARGET USER` for each request and tunnel that has ended.
    pub(crate) fn log(&self) -> Vec<String> {
        let log = self.0.file("access.log");
        let fields = |line: &str| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let status = fields[3].split('/').next_back().expect("TCP_TUNNEL/200");
            format!("{status} {} {} {}", fields[5], fields[6], fields[7])
        };
        // Whoever looked whether it runs said nothing.
        log.lines().map(fields).filter(|line| !line.contains("error:transaction-end-before-headers")).collect()
    }

    /// Waits for this many lines, and gives them in alphabetical order.
    #[track_caller]
    pub(crate) fn logged(&self, count: usize) -> Vec<String> {
        let mut lines = eventually(&format!("squid has logged {count} lines"), || {
            let lines = self.log();
            (lines.len() >= count).then_some(lines)
        });
        lines.sort();
        lines
    }
}

/// microsocks, which wants [`USER`] and [`PASSWORD`] if `strict`. It says whom it connected to.
pub(crate) fn microsocks(strict: bool) -> Daemon {
    Daemon::start("microsocks", |_, address| {
        let mut microsocks = command("microsocks");
        microsocks.args(["-i", "127.0.0.1", "-p", &address.port().to_string()]);
        if strict {
            microsocks.args(["-u", USER, "-P", PASSWORD]);
        }
        microsocks
    })
}

/// dnsmasq, which knows these names and sends no question on. It says what it was asked.
pub(crate) fn dnsmasq(names: &[(&str, &str)]) -> Daemon {
    Daemon::start("dnsmasq", |_, address| {
        let program: PathBuf = "/usr/sbin/dnsmasq".into();
        let mut dnsmasq = command(program);
        dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv", "--no-hosts"]);
        dnsmasq.args(["--log-queries", "--log-facility=-", "--bind-interfaces", "--listen-address=127.0.0.1"]);
        dnsmasq.arg(format!("--port={}", address.port()));
        dnsmasq.args(names.iter().map(|(name, ip)| format!("--host-record={name},{ip}")));
        if rustix::process::getuid().is_root() {
            dnsmasq.arg("--user=root");
        }
        dnsmasq
    })
}
