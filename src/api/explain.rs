//! `GET /v1/explain`: which binding, which certificate, and why, for a URL as a person pastes it.
//!
//! Nothing is sent anywhere and no name is resolved: this tells what is known already. The decisions come from
//! [`Snapshot::select`](crate::registry::Snapshot::select) and from the data plane's own functions
//! ([`Foresight`](crate::registry::Foresight)). No key material is within reach.

mod make;
mod wanted;
mod words;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

pub use make::Explainer;
pub use wanted::Wanted;

use super::Management;
use super::auth::{Caller, Need};
use super::openapi::TeamQuery;
use super::problem::{Answer, ErrorBody, Problem};
use super::request::Query;
use crate::domain::time::now;

/// The project that is meant where none is named.
const DEFAULT_PROJECT: &str = "default";

/// Why a URL is met as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// All of it in one line, for people.
    #[schema(
        example = "https://api.example.com:443 -> certificate cert_0123456789abcdef0123456789abcdef (exact binding https://api.example.com), expires in 31 days"
    )]
    summary: String,
    outcome: Verdict,
    /// The scheme that was asked about; `wss` is read as `https`, `ws` as `http`.
    scheme: Scheme,
    /// The origin that decides; for an `http` URL the one that it would be lifted to.
    #[schema(pattern = "^https://.+$")]
    origin: String,
    project: ExplainedProject,
    /// The rule that chose: `exact`, `wildcard`, `default`, `none` (a binding says that nothing is presented) or `nothing`.
    #[schema(pattern = "^(exact|wildcard|default|none|nothing)$")]
    rule: &'static str,
    /// The binding that chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    binding: Option<ExplainedBinding>,
    /// What that binding leads to, unless it is *none*.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certificate: Option<ExplainedCertificate>,
    /// Why a request fails at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    refusal: Option<Refusal>,
    scope: ExplainedScope,
    /// CA bundles that vouch for the server of this origin, beside the trust anchors of all.
    vouched_by: Vec<ExplainedVouch>,
    policy: ExplainedPolicy,
    /// What is remembered of the origin's wish for a certificate; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    remembered: Option<ExplainedMemory>,
    /// The way that leads there; absent where it is not let there, and where it could not be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    route: Option<ExplainedRoute>,
    /// What happens at each listener that the project's callers can use.
    ways: Vec<ExplainedWay>,
    /// Every place that was looked at, in the order of selection.
    trace: Vec<ExplainedStep>,
    /// Bindings that a person may have meant, and that do not match.
    #[schema(max_items = 8)]
    near_misses: Vec<NearMiss>,
    /// Sentences for people, the most important first.
    notes: Vec<String>,
    /// The one command or change that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fix: Option<String>,
    /// Whether a running egret says this; else configuration and store were read.
    live: bool,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    /// This certificate is presented if the origin asks for one.
    Certificate,
    /// A binding says that nothing is presented.
    None,
    /// Nothing is bound: ordinary TLS.
    Nothing,
    /// There is a project-wide certificate, and `default.scope` keeps it from this origin.
    Withheld,
    /// The certificate cannot be used, and a request fails at once.
    Refused,
    /// `[egress]` does not let the origin be reached.
    Denied,
    /// Plain http that is not lifted: no TLS, no certificate.
    Plain,
}

/// What a URL begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    Https,
    Http,
}

/// Whose bindings were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ExplainedProject {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: String,
    /// Its name.
    name: String,
}

/// A binding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedBinding {
    /// Its pattern; `*`: project-wide.
    #[schema(pattern = r"^(\*|https://.+)$")]
    pattern: String,
    /// Who wrote it: `api` or `file`.
    #[schema(pattern = "^(api|file)$")]
    source: &'static str,
    /// Whether it presents its certificate over TLS 1.3 only.
    tls13_only: bool,
    /// The configuration file that declares it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    file: Option<String>,
}

/// The certificate that a binding leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedCertificate {
    /// Its id; absent where a file declares it and no egret runs, because the id depends on the key, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: Option<String>,
    status: Usability,
    /// Why it is unavailable, or sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    why: Option<String>,
    /// What the project does with one outside its validity: `refuse` or `send`.
    #[schema(pattern = "^(refuse|send)$")]
    on_expiry: &'static str,
    /// Which list it stands in: `project` (its place; Vercel's dialect, files), `zone`, `hostnames`, or `account`, whose
    /// certificates several projects may present. Absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(project|zone|hostnames|account)$")]
    holder: Option<&'static str>,
    #[serde(flatten)]
    facts: Option<ExplainedFacts>,
}

/// Whether a certificate can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum Usability {
    /// It is valid.
    Usable,
    /// Its validity is over.
    Expired,
    /// Its validity has not begun.
    NotYetValid,
    /// It cannot be loaded.
    Unavailable,
    /// It lies in the store with its key, which is not opened for an explanation without a running egret.
    Sealed,
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedFacts {
    /// SHA-256 of the certificate.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    fingerprint: String,
    /// RFC 4514.
    subject: String,
    /// RFC 4514.
    issuer: String,
    /// Start of validity.
    #[schema(format = DateTime)]
    not_before: String,
    /// End of validity.
    #[schema(format = DateTime)]
    not_after: String,
    /// Whole days until then; negative once it has passed.
    days_left: i64,
}

/// Why a request fails at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct Refusal {
    /// The code of the failure.
    #[schema(pattern = r"^[a-z]+(\.[a-z_]+)?$")]
    code: &'static str,
    /// In words.
    message: String,
}

/// To whom the project-wide certificate is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ExplainedScope {
    /// `any`, `hinted` or `listed`.
    #[schema(pattern = "^(any|hinted|listed)$")]
    scope: &'static str,
    /// Whether it is this rule that decides here.
    applies: bool,
    /// Whether it keeps the certificate from this origin, whatever the origin asks.
    withheld: bool,
    /// In words.
    why: String,
}

/// A CA bundle that vouches for a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedVouch {
    /// The bundle.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    cert_id: String,
    /// The pattern that it is bound to; `*`: all servers of the project.
    #[schema(pattern = r"^(\*|https://.+)$")]
    pattern: String,
}

/// Whether the origin may be reached; addresses are judged when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ExplainedPolicy {
    /// Whether `[egress]` allows it.
    allowed: bool,
    /// The code of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<&'static str>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    why: Option<String>,
}

/// What is remembered of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedMemory {
    /// Whether it asked for a certificate.
    asked: bool,
    /// The CAs that it listed, RFC 4514, the first of them.
    acceptable_cas: Vec<String>,
    /// How many it listed.
    #[schema(minimum = 0)]
    acceptable_ca_count: usize,
    /// What was done in the last full handshake with this host; absent where the origin was only asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(sent|nothingRegistered|withheld|noCommonScheme)$")]
    presented: Option<&'static str>,
    /// Whether what is selected now would be shown to an origin that asks so.
    shown: bool,
}

/// The way to an origin: direct, or through a parent proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExplainedRoute {
    /// All of it in one line, for people.
    #[schema(example = "through http://proxy.example:3128 (egress.parent[0]: its origins name it)")]
    summary: String,
    /// The parent proxy, without its credential; absent: direct.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^(https?|socks5h?)://.+$", example = "http://proxy.example:3128")]
    parent: Option<String>,
    /// Which entry of `[egress] parent` decided, from 0; absent where none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0)]
    rule: Option<usize>,
    /// Whether the parent resolves the name, so that only the name is judged and not what it leads to.
    resolved_by_parent: bool,
    /// Why.
    why: &'static str,
}

/// A way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ExplainedWay {
    /// The listener.
    listener: String,
    /// What a client sends there.
    #[schema(example = "CONNECT api.example.com:443")]
    request: String,
    treatment: ExplainedTreatment,
    /// Why.
    why: String,
}

/// What becomes of a request on its way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum ExplainedTreatment {
    /// Sent over TLS with what is selected.
    Tls,
    /// Plain http that is lifted to TLS with what is selected.
    Lifted,
    /// Sent on over plain http, without any certificate.
    Plain,
    /// The tunnel is intercepted; what is inside goes out with the identity.
    Intercepted,
    /// The origin is asked first whether it wants a certificate; only then is the tunnel intercepted.
    AskedFirst,
    /// A blind tunnel: no certificate can be applied.
    Tunnelled,
    /// Refused before anything is sent.
    Refused,
}

/// A place that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct ExplainedStep {
    /// In words.
    place: &'static str,
    /// The pattern that a binding would have to have; absent where this host can have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pattern: Option<String>,
    /// Whether this is the place that decides.
    chosen: bool,
    /// What was found.
    why: String,
}

/// A binding close by that does not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
struct NearMiss {
    /// Its pattern.
    pattern: String,
    /// Why it does not match.
    why: String,
}

/// What is asked.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; the handler reads `request::Query`")]
struct ExplainQuery {
    /// The URL that a client requests: `https://` or `http://` (what stands before :// may be left out), host, port;
    /// path and query are ignored, user info is refused
    #[param(min_length = 1, max_length = 8192, example = "https://api.example.com/v1/orders")]
    url: String,
    /// Name or id of the project; `default` if left out
    #[param(nullable = false, example = "default")]
    project: Option<String>,
}

/// Explain what happens with a URL
///
/// Which binding, which certificate, and why. Nothing is sent, and no name is resolved.
#[utoipa::path(
    get, path = "/v1/explain", operation_id = "explain", tag = "egret",
    params(ExplainQuery, TeamQuery),
    responses(
        (status = 200, description = "What would happen, and why.", body = Explanation),
        (status = 404, description = "No such project.", body = ErrorBody),
        (status = 503, description = "egret has not started in full.", body = ErrorBody),
    )
)]
pub(super) async fn explain(
    State(management): State<Arc<Management>>,
    caller: Caller,
    query: Query,
) -> Answer<Explanation> {
    let project = query.project.as_deref().unwrap_or(DEFAULT_PROJECT);
    let project = caller.project(&management.registry, project, &query, Need::Read)?;
    let url = query.url.as_deref().ok_or_else(|| Problem::bad_request("missing query parameter: url"))?;
    let wanted = Wanted::parse(url).map_err(|why| Problem::bad_request(format!("url: {why}")))?;
    let explainer = management.info.explainer();
    let explainer =
        explainer.ok_or_else(|| Problem::unavailable("starting: not everything is bound and loaded yet"))?;
    Ok(Json(explainer.explain(&project.snapshot(), &wanted, now())))
}
