//! An egret for one command: the same configuration and store, other sockets.
//!
//! It lives in this process, so that it ends with it however that ends, and no secret crosses a process boundary. On
//! loopback it has one forward listener, which asks for a credential that only the command knows, and a management API
//! whose token nobody but this process knows. (Tokens that were made through the API rest in the store and are good here too;
//! those of the configuration are not.)

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::app::{self, Bound};
use crate::cli::args::ProjectArgs;
use crate::cli::client::Api;
use crate::config::{
    CallerSettings, Intercept, KeySource, ListenerMode, ListenerSettings, ManagementSettings, Settings, TokenSettings,
    load, process_environment,
};
use crate::domain::{Endpoint, ProjectId, Role, hex};

/// Any free port of loopback.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// For files of sockets, of which it has none.
const PRIVATE: u32 = 0o600;
/// What a command leaves running in the background holds up the end no longer than this.
const DRAIN: Duration = Duration::from_secs(5);

/// An egret for one command.
pub(super) struct Private {
    bound: Bound,
    /// Its API, as a reader.
    pub(super) api: Api,
    /// What its listener asks for; `None`: nothing.
    pub(super) credential: Option<Zeroizing<String>>,
    key_variable: Option<String>,
}

impl Private {
    /// Starts it.
    ///
    /// # Errors
    /// Those of the configuration, and of [`app::build`]: another egret that holds the store, for example.
    pub(super) async fn start(args: &ProjectArgs, without_credential: bool) -> anyhow::Result<Self> {
        let loaded = load(&args.api.overlay(), &process_environment)?;
        for complaint in loaded.warnings.iter().chain(&loaded.unready) {
            eprintln!("egret: warning: {complaint}");
        }
        let key_variable = match &loaded.settings.store.key_encryption_key {
            KeySource::Env(name) => Some(name.clone()),
            KeySource::Generated | KeySource::File(_) => None,
        };
        let reader = secret()?;
        let credential = if without_credential { None } else { Some(secret()?) };
        let settings = settings(loaded.settings, &args.project, &reader, credential.as_ref());
        let url = &args.api.url;
        let bound = app::build(settings).await.with_context(|| {
            format!(
                "no egret answers at {url} (--url and EGRET_URL say where the API is), and none can be started for this \
                 command"
            )
        })?;
        let api = Api::own(bound.management().address.to_string(), reader);
        Ok(Self { bound, api, credential, key_variable })
    }

    /// The variable that holds the key-encryption key, if one does: it is none of the command's business.
    pub(super) fn key_variable(&self) -> Option<&str> {
        self.key_variable.as_deref()
    }

    /// Ends it: what a background process of the command still does may finish, for a few seconds.
    pub(super) async fn finish(self) {
        self.bound.shut_down().await;
    }
}

/// The operator's settings with other ways in. Tokens of the configuration open nothing here.
fn settings(
    mut settings: Settings,
    project: &str,
    reader: &Zeroizing<String>,
    credential: Option<&Zeroizing<String>>,
) -> Settings {
    let forward = settings.listeners.iter().find(|l| l.mode == ListenerMode::Forward);
    let intercept = match forward.map(|l| l.intercept) {
        Some(Intercept::Always) => Intercept::Always,
        // To present certificates is what it is started for.
        _ => Intercept::Registered,
    };
    let caller = match credential {
        Some(_) => CallerSettings::Token,
        None => CallerSettings::Project(id_of(&settings, project)),
    };
    settings.management = ManagementSettings { listen: Endpoint::Tcp(ANYWHERE), socket_mode: PRIVATE, tls: None };
    settings.health = None;
    settings.listeners = vec![ListenerSettings {
        name: "run".to_owned(),
        listen: Endpoint::Tcp(ANYWHERE),
        socket_mode: PRIVATE,
        tls: None,
        mode: ListenerMode::Forward,
        caller,
        intercept,
    }];
    let token = |name: &str, role, projects, text: &str| TokenSettings {
        name: name.to_owned(),
        email: None,
        sha256: sha256(text),
        role,
        projects,
    };
    settings.tokens = vec![token("run-reader", Role::Read, None, reader)];
    settings.tokens.extend(credential.map(|text| token("run", Role::Proxy, Some(vec![project.to_owned()]), text)));
    // Standard error belongs to the command.
    settings.telemetry.access_log = false;
    settings.limits.drain_delay = Duration::ZERO;
    settings.limits.drain_timeout = settings.limits.drain_timeout.min(DRAIN);
    settings
}

/// The id of a project that the file declares, or that was made through the API (ids are derived from names).
fn id_of(settings: &Settings, project: &str) -> ProjectId {
    let declared = settings.projects.iter().find(|p| p.name == project || p.id.as_str() == project);
    declared.map(|p| p.id.clone()).unwrap_or_else(|| {
        let id = ProjectId::parse(project).filter(|id| id.as_str().starts_with("prj_"));
        id.unwrap_or_else(|| ProjectId::derived(project, None))
    })
}

/// 256 random bits in hex.
fn secret() -> anyhow::Result<Zeroizing<String>> {
    let mut bits = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *bits).map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(Zeroizing::new(hex(&*bits)))
}

fn sha256(text: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Overlay, load_text};

    const FILE: &str = "[health]\nlisten = \"127.0.0.1:9\"\n[[listeners]]\nname = \"a\"\nlisten = \"127.0.0.1:7\"\nmode = \"sidecar\"\nproject = \"default\"\n\
        origin = \"https://a.test\"\n[[tokens]]\nname = \"t\"\nenv = \"T\"\nrole = \"admin\"\n[[projects]]\nname = \"pay\"\nid = \"x\"\n";

    fn made(credential: bool) -> Settings {
        let environment = |name: &str| (name == "T").then(|| "file-token".to_owned());
        let loaded = load_text(FILE, Path::new("/e.toml"), &Overlay::default(), &environment).unwrap();
        let (reader, token) = (Zeroizing::new("r".to_owned()), Zeroizing::new("c".to_owned()));
        settings(loaded.settings, "pay", &reader, credential.then_some(&token))
    }

    #[test]
    fn nothing_but_its_own_credentials_opens_it_and_nothing_but_loopback_reaches_it() {
        let settings = made(true);
        assert_eq!((settings.management.listen.tcp(), settings.listeners.len()), (Some(ANYWHERE), 1));
        let listener = &settings.listeners[0];
        assert_eq!((listener.listen.tcp(), &listener.caller), (Some(ANYWHERE), &CallerSettings::Token));
        let roles: Vec<_> = settings.tokens.iter().map(|t| (t.role, t.projects.clone())).collect();
        assert_eq!(roles, [(Role::Read, None), (Role::Proxy, Some(vec!["pay".to_owned()]))]);
        assert!(!settings.telemetry.access_log && settings.health.is_none());
    }

    #[test]
    fn without_a_credential_the_project_is_fixed() {
        let settings = made(false);
        assert_eq!(settings.listeners[0].caller, CallerSettings::Project(ProjectId::parse("x").unwrap()));
        assert!(settings.tokens.iter().all(|t| t.role == Role::Read));
        assert_eq!(id_of(&settings, "prj_9").as_str(), "prj_9");
        assert_eq!(id_of(&settings, "made"), ProjectId::derived("made", None));
    }
}
