//! What a token reaches in this dialect: accounts and zones follow the projects that carry them.

use std::sync::Arc;

use crate::api::auth::{Caller, Need};
use crate::api::problem::Problem;
use crate::api::request::check_hex_id;
use crate::registry::{Project, Registry};

use super::codes;

/// An account that a path names.
pub(in crate::api) struct Account {
    /// 32 hex digits.
    pub(super) id: String,
    /// The projects that carry it and that the caller reaches, by name; at least one.
    pub(super) reached: Vec<Arc<Project>>,
}

impl Account {
    /// The names of its projects, as far as the caller reaches them.
    pub(super) fn name(&self) -> String {
        let names: Vec<_> = self.reached.iter().map(|project| project.load().info().name.clone()).collect();
        names.join(", ")
    }
}

impl Caller {
    /// The project whose zone a path names, for a caller who may do what it `need`s.
    ///
    /// # Errors
    /// 403 for a role that is too low, and to limited tokens for everything out of reach, existing or not; else 404.
    pub(super) fn zone(&self, registry: &Registry, zone_id: &str, need: Need) -> Result<Arc<Project>, Problem> {
        self.require(need)?;
        // No project carries an id of another form.
        let is_it = |project: &Arc<Project>| project.load().info().zone_id.as_deref() == Some(zone_id);
        let found = registry.every_project().into_iter().find(is_it);
        match found {
            Some(project) if self.reaches(project.id(), &project.load().info().name) => Ok(project),
            None if self.is_unlimited() => Err(unknown(zone_id, "zone", "zone_id (zoneId in POST /v1/projects)")),
            _ => Err(Problem::forbidden("the token does not reach this zone")),
        }
    }

    /// The account that a request names, for a caller who may do what it `need`s: reading takes a token that reaches any of
    /// its projects, writing one that reaches all of them.
    ///
    /// # Errors
    /// 403 for a role that is too low, and to limited tokens for everything out of reach, existing or not; else 404.
    pub(in crate::api) fn account(
        &self,
        registry: &Registry,
        account_id: &str,
        need: Need,
    ) -> Result<Account, Problem> {
        self.require(need)?;
        let mut carriers = registry.every_project();
        carriers.retain(|project| project.load().info().account_id.as_deref() == Some(account_id));
        carriers.sort_by_cached_key(|project| project.load().info().name.clone());
        if carriers.is_empty() && self.is_unlimited() {
            return Err(unknown(account_id, "account", "account_id (accountId in POST /v1/projects)"));
        }
        let all = carriers.len();
        carriers.retain(|project| self.reaches(project.id(), &project.load().info().name));
        match carriers.len() {
            0 => Err(Problem::forbidden("the token does not reach this account")),
            reached if reached < all && need != Need::Read => Err(Problem::forbidden(
                "the token does not reach every project of this account, which a change of its certificates concerns",
            )),
            _ => Ok(Account { id: account_id.to_owned(), reached: carriers }),
        }
    }

    /// Every account within reach, by id.
    pub(super) fn accounts(&self, registry: &Registry) -> Vec<Account> {
        let mut accounts: Vec<Account> = Vec::new();
        for project in self.projects(registry) {
            let Some(id) = project.load().info().account_id.clone() else { continue };
            match accounts.iter_mut().find(|account| account.id == id) {
                Some(account) => account.reached.push(project),
                None => accounts.push(Account { id, reached: vec![project] }),
            }
        }
        accounts.sort_by(|a, b| a.id.cmp(&b.id));
        accounts
    }
}

/// What a token without limits is told of an id that no project carries.
fn unknown(id: &str, what: &str, key: &str) -> Problem {
    let message = match check_hex_id(id) {
        Ok(()) => format!("{what} not found: no project carries this id as its {key}"),
        Err(why) => format!("{what} not found: its id {why}"),
    };
    Problem::missing(message).numbered(codes::NO_ROUTE)
}
