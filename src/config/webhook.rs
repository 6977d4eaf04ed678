//! Where warnings of expiry are sent: `[telemetry] expiry_webhook`, checked.

use std::fmt;

use zeroize::Zeroizing;

use crate::domain::{HttpTarget, Origin};

/// A receiver of warnings. Its path is as good as a password with many receivers, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    /// The server.
    pub to: WebhookTarget,
    /// Path and query, `/` at least.
    pub path: Zeroizing<String>,
    /// Sent as `Authorization: Bearer`.
    pub token: Option<Zeroizing<String>>,
}

/// The server of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookTarget {
    /// Over TLS.
    Https(Origin),
    /// In the clear; on this machine only.
    Http(HttpTarget),
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSettings").field("to", &self.to).finish_non_exhaustive()
    }
}
