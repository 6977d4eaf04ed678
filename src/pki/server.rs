//! TLS of egret's own listeners: what they present, and whose client certificates they take.
//!
//! - A handshake has TLS 1.2 or 1.3, and sessions resume by tickets whose key is this listener's alone and dies with it.
//! - A client certificate that is sent is verified against `client_ca` (path, dates, clientAuth); without one there is
//!   a handshake unless it is required.

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig, version};
use time::OffsetDateTime;

use super::files;
use super::validate::{Field, ServerMaterial, validate_server};
use crate::config::{Complaint, ServerTlsSettings};

/// What a listener needs for a handshake.
pub struct ServerTls {
    config: Arc<ServerConfig>,
    leaf: CertificateDer<'static>,
}

impl ServerTls {
    /// Reads and checks the files of `settings`, which stand in `file`, and makes a configuration that agrees on one
    /// of `alpn`, the first preferred. Blocks. Also gives back what is worth saying.
    ///
    /// # Errors
    /// Every fault of the files, with the key of the configuration file that names them.
    pub fn load(
        settings: &ServerTlsSettings,
        file: Option<&Path>,
        alpn: &[&[u8]],
        now: OffsetDateTime,
    ) -> Result<(Self, Vec<Complaint>), Vec<Complaint>> {
        let say = |field: &str, what: String, remedy: String| Complaint {
            file: file.map(Path::to_owned),
            line: settings.line,
            key: format!("{}.{field}", settings.key_path),
            what,
            remedy,
        };
        let unreadable = |field, path: &Path, what: &str| {
            vec![say(field, format!("{} {what}", path.display()), "name a PEM file".to_owned())]
        };
        let read = |field, path: &Path| files::mounted_text(path).map_err(|what| unreadable(field, path, &what));
        let (cert, key) = (read("cert", &settings.cert)?, read("key", &settings.key)?);
        let client_ca = settings.client_ca.as_deref().map(|path| read("client_ca", path)).transpose()?;
        let client_text = client_ca.as_ref().map(|text| text.as_str());
        let material = ServerMaterial { cert: &cert, key: &key, client_ca: client_text };
        let word = |field| match field {
            Field::Cert => "cert",
            Field::Key => "key",
            Field::Ca => "client_ca",
        };
        let valid = validate_server(material, now).map_err(|faults| {
            faults
                .into_iter()
                .map(|fault| say(word(fault.field), fault.what, fault.remedy.to_string()))
                .collect::<Vec<_>>()
        })?;
        let provider = Arc::new(default_provider());
        let refused = |error: String| {
            vec![say("cert", format!("TLS cannot be offered with it ({error})"), "have another one issued".to_owned())]
        };
        let verifier = match valid.client_roots {
            None => Arc::new(NoClientAuth),
            Some(roots) => clients(roots, settings.client_required, &provider).map_err(refused)?,
        };
        let leaf = valid.certified.cert[0].clone();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| refused(error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(valid.certified)));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Ticketer::new().map_err(|error| refused(error.to_string()))?;
        let warnings = valid.warnings.into_iter();
        let warnings = warnings.map(|(field, what)| say(word(field), what, "egret uses it all the same".to_owned()));
        Ok((Self { config: Arc::new(config), leaf }, warnings.collect()))
    }

    /// For `TlsAcceptor`.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether the listener's certificate is for this name or address.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        ParsedCertificate::try_from(&self.leaf).is_ok_and(|leaf| verify_server_name(&leaf, &name).is_ok())
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerTls")
    }
}

fn clients(
    roots: RootCertStore,
    required: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
