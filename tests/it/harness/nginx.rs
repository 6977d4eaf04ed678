//! nginx as origin: it asks for client certificates and answers with what it saw.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;

use tempfile::TempDir;

use super::certificates::Pair;
use super::{Process, command, eventually};

/// What every location answers with, unless it says otherwise: what this origin saw, as JSON.
const SEEN: &str = r#"'{"subject":"$ssl_client_s_dn","serial":"$ssl_client_serial","verify":"$ssl_client_verify","reused":"$ssl_session_reused","protocol":"$ssl_protocol","http":"$server_protocol","server":"$server_name","connection":"$connection","host":"$http_host","uri":"$request_uri","via":"$http_via","length":"$http_content_length"}'"#;

/// What a logged site writes down of each request, [`Seen`].
const SEEN_LOG: &str =
    r#"'{"subject":"$ssl_client_s_dn","http":"$server_protocol","uri":"$request_uri","status":"$status"}'"#;

/// One server block.
pub(crate) struct Site {
    names: Vec<String>,
    pair: Pair,
    client_ca: Option<String>,
    verify: &'static str,
    protocols: &'static str,
    http2: bool,
    /// Streams of one connection at once; nginx's own default if `None`.
    streams: Option<u32>,
    logged: bool,
    web_socket: Option<SocketAddr>,
}

/// What nginx wrote down of one request.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Seen {
    /// Of the client certificate, as nginx prints it: `CN=name`; empty without one.
    pub(crate) subject: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub(crate) http: String,
    #[expect(dead_code, reason = "for the messages of failures")]
    uri: String,
    pub(crate) status: String,
}

impl Site {
    /// A site that demands a certificate issued by `client_ca`.
    pub(crate) fn demanding(names: &[&str], pair: &Pair, client_ca: &str) -> Self {
        Self { client_ca: Some(client_ca.to_owned()), verify: "on", ..Self::open(names, pair) }
    }

    /// A site that asks for a certificate of `client_ca` and takes none, too.
    pub(crate) fn asking(names: &[&str], pair: &Pair, client_ca: &str) -> Self {
        Self { client_ca: Some(client_ca.to_owned()), verify: "optional", ..Self::open(names, pair) }
    }

    /// A site that asks for nothing.
    pub(crate) fn open(names: &[&str], pair: &Pair) -> Self {
        Self {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            pair: pair.clone(),
            client_ca: None,
            verify: "off",
            protocols: "TLSv1.2 TLSv1.3",
            http2: false,
            streams: None,
            logged: false,
            web_socket: None,
        }
    }

    /// Offers HTTP/2 beside HTTP/1.1.
    pub(crate) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Takes so many HTTP/2 streams of one connection at once.
    pub(crate) fn streams(mut self, most: u32) -> Self {
        self.streams = Some(most);
        self.http2()
    }

    /// Writes every request down, for [`Nginx::seen`].
    pub(crate) fn logged(mut self) -> Self {
        self.logged = true;
        self
    }

    /// Hands `/socket` to a WebSocket server, with the subject that it saw as `X-Subject`.
    pub(crate) fn web_socket(mut self, server: SocketAddr) -> Self {
        self.web_socket = Some(server);
        self
    }

    /// With another set of protocol versions.
    pub(crate) fn protocols(mut self, protocols: &'static str) -> Self {
        self.protocols = protocols;
        self
    }
}

/// A running nginx. Ended when dropped.
pub(crate) struct Nginx {
    _process: Process,
    address: SocketAddr,
    folder: TempDir,
}

impl Nginx {
    /// Starts one with these sites on one port of 127.0.0.1.
    pub(crate) fn start(sites: &[Site]) -> Self {
        Self::start_on("127.0.0.1", sites)
    }

    /// The same on another address of this machine, IPv6 in brackets.
    pub(crate) fn start_on(host: &str, sites: &[Site]) -> Self {
        // Another process may take a port between its choice and nginx's bind; then nginx ends, and the next is tried.
        for _ in 0..20 {
            if let Some(nginx) = Self::try_start(host, sites) {
                return nginx;
            }
        }
        panic!("nginx did not start on any of 20 free ports");
    }

    fn try_start(host: &str, sites: &[Site]) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("nginx-").tempdir().expect("a temporary folder");
        let address = free_address_of(host);
        std::fs::write(folder.path().join("nginx.conf"), config(sites, &folder, address)).expect("writable");
        std::fs::create_dir(folder.path().join("www")).expect("writable");
        let log = std::fs::File::create(folder.path().join("stderr")).expect("writable");
        let mut process = Process::spawn(
            command(program())
                .arg("-p")
                .arg(folder.path())
                .args(["-e", "error.log", "-c", "nginx.conf", "-g", "daemon off; master_process off;"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        );
        let started = eventually("nginx accepts connections", || {
            if process.ended().is_some() {
                return Some(false);
            }
            TcpStream::connect(address).is_ok().then_some(true)
        });
        if !started {
            let said = std::fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
            assert!(said.contains("Address already in use"), "nginx refused its configuration: {said}");
            return None;
        }
        Some(Self { _process: process, address, folder })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `https://name:port`.
    pub(crate) fn origin(&self, name: &str) -> String {
        format!("https://{name}:{}", self.port())
    }

    /// What sites that are [`Site::logged`] were asked, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let log = std::fs::read_to_string(self.folder.path().join("seen.log")).unwrap_or_default();
        log.lines().map(|line| serde_json::from_str(line).expect("a line of the log format")).collect()
    }

    /// What is served below `/files/` and received below `/put/`.
    pub(crate) fn files(&self) -> PathBuf {
        self.folder.path().join("www")
    }
}

fn config(sites: &[Site], folder: &TempDir, address: SocketAddr) -> String {
    let mut text = String::from(
        "pid nginx.pid; error_log error.log warn;\n\
         events { worker_connections 8192; }\n\
         http { access_log off; types { text/html html; } default_type application/json; sendfile on; keepalive_requests 100000;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         client_max_body_size 0; server_names_hash_max_size 4096; server_names_hash_bucket_size 256; ssl_session_cache shared:S:4m;\n",
    );
    let _ = writeln!(text, "log_format seen escape=json {SEEN_LOG};");
    for (index, site) in sites.iter().enumerate() {
        let file = |suffix: &str, contents: &str| {
            let name = format!("{index}.{suffix}");
            std::fs::write(folder.path().join(&name), contents).expect("writable");
            name
        };
        let (crt, key) = (file("crt", &site.pair.chain), file("key", &site.pair.key));
        let client = site.client_ca.as_ref().map_or(String::new(), |ca| {
            let ca = file("clients.crt", ca);
            format!("ssl_client_certificate {ca}; ssl_verify_client {}; ssl_verify_depth 4;", site.verify)
        });
        // The size of the accept queue may be given once per address only.
        let backlog = if index == 0 { "backlog=2048" } else { "" };
        let http2 = if site.http2 { "http2" } else { "" };
        let streams = site.streams.map_or(String::new(), |most| format!("http2_max_concurrent_streams {most};"));
        let log = if site.logged { "access_log seen.log seen;" } else { "" };
        let web_socket = site.web_socket.map_or(String::new(), |server| {
            format!(
                "location = /socket {{ proxy_pass http://{server}; proxy_http_version 1.1; proxy_set_header X-Subject $ssl_client_s_dn;\n\
                 proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }}"
            )
        });
        let _ = writeln!(
            text,
            "server {{ listen {address} ssl {http2} {backlog}; server_name {}; ssl_certificate {crt}; ssl_certificate_key {key};\n\
             ssl_protocols {}; {client} {streams} {log} root www; {web_socket}\n\
             location / {{ return 200 {SEEN}; }}\n\
             location = /empty {{ return 204; }}\n\
             location /files/ {{ alias www/; etag on; }}\n\
             location /put/ {{ alias www/; dav_methods PUT; client_body_buffer_size 64k; }} }}",
            site.names.join(" "),
            site.protocols,
        );
    }
    text.push_str("\n}\n");
    text
}

fn program() -> &'static str {
    // Debian keeps it where an ordinary user's PATH does not look.
    if std::path::Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" }
}

/// An address on loopback that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    free_address_of("127.0.0.1")
}

fn free_address_of(host: &str) -> SocketAddr {
    let listener = TcpListener::bind(format!("{host}:0")).expect("loopback has free ports");
    listener.local_addr().expect("a bound listener has an address")
}
