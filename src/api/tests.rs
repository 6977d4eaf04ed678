//! The whole API over a real registry and control, with the memory backend: what a client sees.

mod account_leafs;
mod bundles;
pub(super) mod cloudflare;
mod cloudflare_accounts;
mod cloudflare_hostnames;
mod cloudflare_zones;
mod events;
mod explain;
mod metrics;
mod own;
mod tokens;
mod vercel;
mod zone;

use std::collections::HashMap;

use aws_lc_rs::digest;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::backend::{Backend, MemoryBackend};
use crate::config::{
    EgressSettings, KeySource, ManagementSettings, PostQuantum, Profile, Settings, StoreBackend, StoreSettings,
    TelemetrySettings, TrustSettings,
};
use crate::domain::{ProjectInfo, Role, ServerTrust};
use crate::identity::TlsFactory;
use crate::pki::anchors::SharedAnchors;
use crate::pki::seal::Sealer;
use crate::registry::{Token, TokenScope};

/// What an unlimited administrator sends.
pub(super) const ADMIN: &str = "admin-token";
/// Role `write`, project `payments` only.
const PAYMENTS: &str = "payments-token";
/// Role `read`, unlimited.
const READER: &str = "reader-token";
/// Role `proxy`, unlimited.
const PROXY: &str = "proxy-token";
/// Administrator of project `payments` only.
const LANDLORD: &str = "landlord-token";

/// An egret with projects `default` and `payments`, as far as its API goes.
pub(super) struct World {
    management: Arc<Management>,
    router: Router,
    issuer: Issuer<'static, KeyPair>,
    ca: String,
}

pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Reply {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
    pub(super) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

pub(super) async fn world() -> World {
    world_over(Arc::new(MemoryBackend::default())).await
}

async fn world_over(backend: Arc<dyn Backend>) -> World {
    let mut default = ProjectInfo::named("default");
    let mut payments = ProjectInfo::named("payments");
    (default.declared, payments.declared) = (true, true);
    let settings = Settings {
        profile: Profile::Local,
        data_dir: "unused".into(),
        workers: 1,
        config_file: None,
        management: ManagementSettings { listen: "127.0.0.1:0".parse().unwrap(), socket_mode: 0o600, tls: None },
        health: None,
        degrade_before_expiry: None,
        listeners: Vec::new(),
        projects: vec![default, payments],
        certificates: Vec::new(),
        certificate_folders: Vec::new(),
        tokens: Vec::new(),
        egress: EgressSettings::default(),
        store: StoreSettings { backend: StoreBackend::Memory, key_encryption_key: KeySource::Generated },
        dns_hosts: HashMap::new(),
        dns_servers: Vec::new(),
        dns_mixed: crate::config::DnsMixed::Drop,
        limits: crate::config::Limits::default(),
        trust: TrustSettings { anchors: Vec::new(), servers: ServerTrust::SystemAndCa, post_quantum: PostQuantum::Off },
        telemetry: TelemetrySettings { access_log: false, expiry_webhook: None },
    };
    let registry = Arc::new(Registry::default());
    let factory = Arc::new(TlsFactory::new(PostQuantum::Off));
    let anchors = Arc::new(SharedAnchors::load(&[], factory.provider()).unwrap());
    let sealer = Arc::new(Sealer::new(Zeroizing::new([7; 32])));
    let metrics = Arc::new(Metrics::default());
    let control =
        Control::load(&settings, registry.clone(), backend, sealer, factory, anchors, metrics.clone()).await.unwrap();
    let only = || TokenScope::Projects(vec!["payments".to_owned()]);
    for (text, role, scope) in [
        (ADMIN, Role::Admin, TokenScope::All),
        (PAYMENTS, Role::Write, only()),
        (READER, Role::Read, TokenScope::All),
        (PROXY, Role::Proxy, TokenScope::All),
        (LANDLORD, Role::Admin, only()),
    ] {
        let sha256 = digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap();
        registry.insert_token(sha256, Token::declared(text, role, scope, &sha256, "egret.toml"));
    }
    let info = Arc::new(StatusInfo::new("memory"));
    let management = Management::new(registry, Arc::new(control), metrics, settings.limits.into(), info);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().pem();
    World { router: router(management.clone()), management, issuer: Issuer::new(params, key), ca }
}

impl World {
    /// A new client certificate, as the body of an upload.
    fn material(&self, name: &str) -> Value {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = time::OffsetDateTime::now_utc() - time::Duration::hours(1);
        params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(30) + time::Duration::hours(1);
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        json!({"cert": cert, "key": key.serialize_pem(), "ca": self.ca})
    }

    pub(super) async fn send(&self, token: &str, method: &str, target: &str, body: &Value) -> Reply {
        self.send_to("localhost", token, method, target, body).await
    }

    pub(super) async fn send_to(&self, host: &str, token: &str, method: &str, target: &str, body: &Value) -> Reply {
        let mut request = Request::builder().method(method).uri(target).header("host", host);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = match body {
            Value::Null => Body::empty(),
            Value::String(raw) => Body::from(raw.clone()),
            body => Body::from(body.to_string()),
        };
        let request = request.header("content-type", "application/json").body(body).unwrap();
        let response = TowerToHyperService::new(self.router.clone()).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        assert_eq!(parts.headers["content-type"], "application/json", "{target}");
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        // With dashes: a refusal may name the block that it found.
        assert!(!text.contains("PRIVATE KEY-----"), "{target} tells a key");
        let body = serde_json::from_str(&text).unwrap();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(super) async fn get(&self, token: &str, target: &str) -> Reply {
        self.send(token, "GET", target, &Value::Null).await
    }

    async fn delete(&self, token: &str, target: &str) -> Reply {
        self.send(token, "DELETE", target, &Value::Null).await
    }

    /// Uploads for `origin` and gives back the id.
    async fn uploaded(&self, project: &str, origin: &str) -> String {
        let mut body = self.material("client");
        body["origin"] = origin.into();
        let reply = self.send(ADMIN, "POST", &format!("/v1/projects/{project}/client-cert"), &body).await;
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body["certId"].as_str().unwrap().to_owned()
    }
}
