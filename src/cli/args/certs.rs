//! `egret certs …`

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::ProjectArgs;

const UPLOAD_HELP: &str = "\
Examples:
  egret certs upload --p12 client.p12 --origin https://api.example.com
  egret certs upload --cert client.crt --key client.key --ca ca.crt --origin https://api.example.com
  egret certs upload --cert client.pem --ca ca.crt --origin 'https://*.example.com'      certificate and key in one file
  egret certs upload --cert client.crt --key client.key --ca ca.crt                      for every origin that asks
  egret certs upload --p12 new.p12 --origin https://api.example.com --probe     only if the origin takes it
  pass show client.key | egret certs upload --cert client.crt --key - --ca ca.crt

What it reads: PEM or DER for each file; keys as PKCS#8, PKCS#1 or SEC1, encrypted ones as PKCS#8 (BEGIN ENCRYPTED
PRIVATE KEY); PKCS#12 (.p12, .pfx) of OpenSSL, Java, Windows and browsers, with modern or legacy encryption.

With --probe the certificate is tried out before it is put in force: a real handshake with the origin and one request.
Unless the origin takes it nothing changes, and what it said is printed; exit code 1.

Everything is decrypted and converted on this machine. The passphrase is asked for on the terminal, or taken from
--passphrase-file, --passphrase-env or the environment variable EGRET_PASSPHRASE; it is sent to no one.";

const BIND_HELP: &str = "\
Examples:
  egret certs bind https://api.example.com cert_0123...       the certificate is presented there too
  egret certs bind 'https://*.example.com' cert_0123...
  egret certs bind https://api.example.com cert_0123... --tls13-only      never where others on the way can read it
  egret certs bind https://api.example.com 0123...            an mTLS certificate of the account that the project carries
  egret certs bind https://pinned.example.com none          nothing is presented here, and the tunnel is left alone
  egret certs unbind https://pinned.example.com             what is less specific applies again
  egret certs bind https://internal.example.com 0123...     with a CA bundle of the account: its CAs vouch for that server
  egret certs unbind https://internal.example.com 0123...   and no more

A certificate may be bound to several origins; `egret certs list` shows which is presented where.";

const ROLLBACK_HELP: &str = "\
Examples:
  egret certs rollback --origin https://api.example.com      the one that was replaced there last is in force again
  egret certs rollback                                       the same for the project-wide one

One step: a certificate that an upload replaced is kept for limits.rollback_window (an hour), unless the project says
rollback = \"off\". The newer one is gone once this has returned, and no new request uses it.";

/// `egret certs …`
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// List the project's certificates: where they are presented, whose they are, how long they last
    List {
        /// Whose.
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Register a certificate for an origin, or for the whole project; replaces the one that is there
    #[command(after_help = UPLOAD_HELP)]
    Upload(Box<UploadArgs>),
    /// Present a certificate that is registered already to one more origin, or nothing at all
    #[command(after_help = BIND_HELP)]
    Bind(BindArgs),
    /// Take away what an origin is bound to; the certificate stays
    #[command(after_help = BIND_HELP)]
    Unbind(UnbindArgs),
    /// Show one certificate: subject, dates, fingerprints, where it is presented (never its key)
    Show {
        /// Id, as `egret certs list` shows it
        id: String,
        /// Whose.
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List which certificate was ever shown to which origin, when first, when last and how often
    Disclosures {
        /// Only of this certificate
        #[arg(long, value_name = "ID")]
        cert: Option<String>,
        /// Only to this host, on every port; or to this origin
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Whose.
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put the certificate before the one in force back in its place
    #[command(after_help = ROLLBACK_HELP)]
    Rollback {
        /// Where: as --origin of the upload [default: every origin that asks]
        #[arg(long, value_name = "ORIGIN")]
        origin: Option<String>,
        /// Whose.
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a certificate: no new request uses it once this has returned
    Delete {
        /// Id, as `egret certs list` shows it
        id: String,
        /// Whose.
        #[command(flatten)]
        project: ProjectArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `egret certs upload`
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("material").required(true).args(["cert", "p12"])))]
pub struct UploadArgs {
    /// Client certificate, PEM or DER, with its chain if it has one; may hold the private key as well, in PEM; - reads
    /// standard input
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM or DER (PKCS#8, PKCS#1 or SEC1); - reads standard input [default: the one in --cert]
    #[arg(long, value_name = "FILE", conflicts_with = "p12")]
    pub key: Option<PathBuf>,
    /// PKCS#12 file (.p12, .pfx) with certificate and key, in place of --cert and --key; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub p12: Option<PathBuf>,
    /// Which of several certificates in the PKCS#12 file: its friendly name, or its subject
    #[arg(long, value_name = "NAME", requires = "p12")]
    pub p12_alias: Option<String>,
    /// The CA that the certificate leads to, PEM or DER; for an origin it also vouches for that server; - reads
    /// standard input [default with --p12: the CA certificates in that file]
    #[arg(long, value_name = "FILE", required_unless_present = "p12")]
    pub ca: Option<PathBuf>,
    /// File whose first line is the passphrase of an encrypted key or of the PKCS#12 file
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_env")]
    pub passphrase_file: Option<PathBuf>,
    /// Name of the environment variable that holds that passphrase [default: EGRET_PASSPHRASE, else it is asked for]
    #[arg(long, value_name = "NAME")]
    pub passphrase_env: Option<String>,
    /// Where it is presented: https://host, https://host:port, https://host:* or https://*.example.com
    /// [default: every origin that asks]
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// Do not check chain, dates and usage; the certificate is then sent even when expired
    #[arg(long)]
    pub skip_validation: bool,
    /// Present it over TLS 1.3 only: TLS 1.2 sends a client certificate in the clear [default: as it was for that origin]
    #[arg(long)]
    pub tls13_only: bool,
    /// Present it over TLS 1.2 as well
    #[arg(long, conflicts_with = "tls13_only")]
    pub no_tls13_only: bool,
    /// Try it out at the origin first, and put it in force only if the origin takes it. Name the origin where --origin
    /// names none or several: --probe=https://api.example.com
    #[arg(long, value_name = "ORIGIN", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub probe: Option<String>,
    /// The path that --probe asks for [default: /]
    #[arg(long, value_name = "PATH", requires = "probe")]
    pub probe_path: Option<String>,
    /// The method of that request: GET, HEAD or OPTIONS [default: GET]
    #[arg(long, value_name = "METHOD", requires = "probe")]
    pub probe_method: Option<String>,
    /// Whose.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `egret certs bind`
#[derive(Debug, Args)]
pub struct BindArgs {
    /// Where: https://host, https://host:port, https://host:*, https://*.example.com, or '*' for every origin that asks
    #[arg(value_name = "URL")]
    pub origin: String,
    /// Id, as `egret certs list` shows it, or the word none: nothing is presented there; the id of a CA bundle of the
    /// project's account: its CAs vouch for the servers there
    #[arg(required_unless_present = "none")]
    pub id: Option<String>,
    /// Present nothing there; the same as the word none
    #[arg(long, conflicts_with = "id")]
    pub none: bool,
    /// Present it there over TLS 1.3 only: TLS 1.2 sends a client certificate in the clear [default: as it was]
    #[arg(long, conflicts_with = "none")]
    pub tls13_only: bool,
    /// Present it there over TLS 1.2 as well
    #[arg(long, conflicts_with = "tls13_only")]
    pub no_tls13_only: bool,
    /// Whose.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `egret certs unbind`
#[derive(Debug, Args)]
pub struct UnbindArgs {
    /// What was bound, as `egret certs list` shows it
    #[arg(value_name = "URL")]
    pub origin: String,
    /// Which of several: the id of a certificate or of a CA bundle [default: what is presented there, else the one CA
    /// bundle that there is]
    pub id: Option<String>,
    /// Whose.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
