//! Warnings of expiry on their way to `telemetry.expiry_webhook`: control tells, upstream posts, and neither knows the other.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::config::{Limits, WebhookSettings};
use crate::control::{Control, Warning};
use crate::domain::time::rfc3339;
use crate::identity::UpstreamTls;
use crate::observe::Metrics;
use crate::upstream::{Upstreams, Webhook};

/// Posts every warning of `control` from now on. The task runs on `data_plane`, and ends with it, or with `control`.
pub(super) fn attach(
    control: &Control,
    settings: &WebhookSettings,
    tls: Arc<UpstreamTls>,
    upstreams: Arc<Upstreams>,
    limits: &Limits,
    metrics: Arc<Metrics>,
    data_plane: &Handle,
) {
    let (sender, queue) = mpsc::channel(limits.max_webhook_queue);
    data_plane.spawn(Webhook::new(settings, tls, upstreams).deliver(queue));
    control.on_warning(move |warning| {
        if sender.try_send(written(warning)).is_err() {
            metrics.webhook_dropped.add();
            tracing::warn!(
                certificate = %warning.certificate.id,
                "a warning was not sent to telemetry.expiry_webhook: limits.max_webhook_queue others wait"
            );
        }
    });
}

fn written(warning: &Warning) -> Bytes {
    let body = json!({
        "type": warning.kind().as_str(),
        "project": warning.project.name,
        "projectId": warning.project.id.as_str(),
        "certificate": warning.certificate.id.as_str(),
        "origins": warning.origins,
        "moreOrigins": warning.more_origins,
        "notAfter": rfc3339(warning.certificate.not_after),
        "daysLeft": warning.days_left,
        "subject": warning.certificate.subject,
        "remedy": warning.remedy,
        // What receivers of chats show.
        "text": warning.text,
    });
    Bytes::from(body.to_string())
}
