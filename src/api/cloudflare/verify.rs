//! Whether a token is good: what deployment scripts ask first.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::codes;
use super::envelope::{Answer, Enveloped, Refusal};
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::openapi::AccountPath;
use crate::api::request::Segments;
use crate::domain::time::rfc3339;
use crate::registry::Token;

/// What is known of the caller's token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareToken)]
pub(in crate::api) struct Verified {
    /// The token's id without its prefix.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "0123456789abcdef0123456789abcdef")]
    id: String,
    /// `active`: any other token is refused.
    #[schema(pattern = "^active$")]
    status: &'static str,
    /// When it ends; left out: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_on: Option<String>,
}

fn verified(token: &Token) -> Answer<Verified> {
    let id = token.id.strip_prefix("tok_").unwrap_or(&token.id).to_owned();
    let verified = Verified { id, status: "active", expires_on: token.expires_at.map(rfc3339) };
    // The number and the words that the vendor's own answer has.
    Ok(Enveloped::saying(verified, codes::AUTHENTICATION, "This API Token is valid and active"))
}

/// Whether the token is good
#[utoipa::path(
    get, path = "/client/v4/user/tokens/verify", operation_id = "cloudflareVerifyToken", tag = "cloudflare",
    responses((status = 200, description = "It is.", body = Enveloped<Verified>))
)]
pub(in crate::api) async fn user(caller: Caller) -> Answer<Verified> {
    verified(caller.token())
}

/// Whether the token is good for an account
#[utoipa::path(
    get, path = "/client/v4/accounts/{account_id}/tokens/verify", operation_id = "cloudflareVerifyAccountToken",
    tag = "cloudflare", params(AccountPath),
    responses(
        (status = 200, description = "It is.", body = Enveloped<Verified>),
        (status = 404, description = "No project carries this account.", body = Refusal),
    )
)]
pub(in crate::api) async fn account(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(account): Segments<String>,
) -> Answer<Verified> {
    caller.account(&management.registry, &account, Need::Read)?;
    verified(caller.token())
}
