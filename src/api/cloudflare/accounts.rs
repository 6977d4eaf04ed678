//! The accounts that projects carry.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::envelope::{Answer, Enveloped, EnvelopedList, ListAnswer, Refusal};
use super::query::{Asked, NameFilter, PagingQuery};
use super::scope::Account;
use crate::api::Management;
use crate::api::auth::{Caller, Need};
use crate::api::openapi::AccountPath;
use crate::api::request::Segments;

/// An account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CloudflareAccount)]
pub(in crate::api) struct Shown {
    /// 32 hex digits.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "0123456789abcdef0123456789abcdef")]
    id: String,
    /// The names of its projects, as far as the token reaches them.
    #[schema(min_length = 1, example = "payments, web")]
    name: String,
    /// `standard`.
    #[schema(pattern = "^standard$")]
    r#type: &'static str,
}

impl Shown {
    fn of(account: &Account) -> Self {
        Self { id: account.id.clone(), name: account.name(), r#type: "standard" }
    }
}

/// Which accounts are wanted.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation; handlers read `Asked`")]
pub(in crate::api) struct AccountsQuery {
    /// Of this name, whatever its letter case; also with an operator before it, such as `contains:`
    #[param(nullable = false, example = "payments")]
    name: Option<String>,
    /// By name, `asc` or `desc`
    #[param(nullable = false, pattern = "^(asc|desc)?$")]
    direction: Option<String>,
}

/// List accounts
#[utoipa::path(
    get, path = "/client/v4/accounts", operation_id = "cloudflareListAccounts", tag = "cloudflare",
    params(AccountsQuery, PagingQuery),
    responses((status = 200, description = "Those that a project within the token's reach carries, by name.", body = EnvelopedList<Shown>))
)]
pub(in crate::api) async fn list(
    State(management): State<Arc<Management>>,
    caller: Caller,
    asked: Asked,
) -> ListAnswer<Shown> {
    let paging = asked.paging()?;
    let name = asked.one("name")?.map(NameFilter::read);
    let falling = asked.word("direction", &["asc", "desc"])? == Some("desc");
    let mut shown: Vec<Shown> = caller.accounts(&management.registry).iter().map(Shown::of).collect();
    shown.retain(|account| name.as_ref().is_none_or(|filter| filter.takes(&account.name)));
    shown.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| a.id.cmp(&b.id)));
    if falling {
        shown.reverse();
    }
    let (shown, info) = paging.cut(shown);
    Ok(EnvelopedList::of(shown, info))
}

/// An account
#[utoipa::path(
    get, path = "/client/v4/accounts/{account_id}", operation_id = "cloudflareGetAccount", tag = "cloudflare",
    params(AccountPath),
    responses(
        (status = 200, description = "The account.", body = Enveloped<Shown>),
        (status = 404, description = "No project carries it.", body = Refusal),
    )
)]
pub(in crate::api) async fn get(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(account): Segments<String>,
) -> Answer<Shown> {
    let account = caller.account(&management.registry, &account, Need::Read)?;
    Ok(Enveloped::of(Shown::of(&account)))
}
