//! egret's own: projects.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::Management;
use super::auth::{Caller, Need, out_of_reach};
use super::body;
use super::fields::Fields;
use super::openapi::{ProjectPath, TeamQuery};
use super::problem::{Answer, ErrorBody, Problem};
use super::request::{Query, Segments, check_hex_id, check_name, check_team};
use crate::domain::{ProjectId, ProjectInfo, ProjectState, Team};
use crate::registry::Project;

/// A project as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Project)]
pub(super) struct ShownProject {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$", example = "prj_0123456789abcdef01234567")]
    id: String,
    /// Its name, unique within its team.
    #[schema(min_length = 1, max_length = 100, example = "payments")]
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<Team>,
    /// A Cloudflare account; several projects may carry the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$")]
    account_id: Option<String>,
    /// A Cloudflare zone, which no other project carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$")]
    zone_id: Option<String>,
    state: ProjectState,
    /// Whether the configuration file declares it.
    declared: bool,
    /// How many bindings it has.
    #[schema(minimum = 0)]
    bindings: usize,
}

/// What a new project is. Only documented here: [`read_project`] reads it.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = ProjectWanted)]
#[expect(dead_code, reason = "the schema of a body that is read by hand")]
struct ProjectBody {
    /// Its name, unique within its team; no control characters, no slashes, no space at either end.
    #[schema(
        max_length = 100,
        pattern = r"^(?!\.{1,2}$)[^\s/\\\x00-\x1f\x7f-\x9f]+( +[^\s/\\\x00-\x1f\x7f-\x9f]+)*$",
        example = "payments"
    )]
    name: String,
    /// Its id; derived from name and team if left out.
    #[schema(nullable = false, pattern = "^prj_[A-Za-z0-9_-]{0,60}$")]
    id: Option<String>,
    #[schema(nullable = false)]
    team: Option<Team>,
    /// A Cloudflare account; several projects may carry the same.
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$")]
    account_id: Option<String>,
    /// A Cloudflare zone, which no other project carries.
    #[schema(nullable = false, pattern = "^[0-9a-f]{32}$")]
    zone_id: Option<String>,
    #[schema(nullable = false)]
    state: Option<ProjectState>,
}

/// What a list answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Projects)]
pub(super) struct Listed {
    /// By name; those that the token reaches.
    projects: Vec<ShownProject>,
}

/// What a delete answers.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectDeleted)]
pub(super) struct Deleted {
    /// Its id.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: String,
    /// Its name.
    name: String,
}

impl ShownProject {
    fn of(project: &Project) -> Self {
        let snapshot = project.snapshot();
        let info = snapshot.info();
        Self {
            id: info.id.to_string(),
            name: info.name.clone(),
            team: info.team.clone(),
            account_id: info.account_id.clone(),
            zone_id: info.zone_id.clone(),
            state: info.state,
            declared: info.declared,
            bindings: snapshot.len(),
        }
    }
}

/// List projects
#[utoipa::path(
    get, path = "/v1/projects", operation_id = "listProjects", tag = "egret",
    responses((status = 200, description = "Those that the token reaches.", body = Listed))
)]
pub(super) async fn list(State(management): State<Arc<Management>>, caller: Caller) -> Answer<Listed> {
    let projects = caller.projects(&management.registry);
    Ok(Json(Listed { projects: projects.iter().map(|p| ShownProject::of(p)).collect() }))
}

/// Make a project
///
/// A token limited to projects names no account but one of which it reaches every project.
#[utoipa::path(
    post, path = "/v1/projects", operation_id = "createProject", tag = "egret", request_body = ProjectBody,
    responses(
        (status = 200, description = "Made.", body = ShownProject),
        (status = 409, description = "A project of this id, name or zone exists.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn create(
    State(management): State<Arc<Management>>,
    caller: Caller,
    request: Request,
) -> Answer<ShownProject> {
    caller.require(Need::Administer)?;
    let body = body::read(request, &management.limits).await?;
    caller.still_in(&management.registry)?;
    let info = read_project(&body)?;
    if !caller.reaches(&info.id, &info.name) {
        return Err(out_of_reach());
    }
    // A project of an account has the use of its certificates: whoever does not reach those gets no reach by making one.
    if let Some(account) = info.account_id.as_deref().filter(|_| !caller.is_unlimited()) {
        caller.account(&management.registry, account, Need::Administer)?;
    }
    let project = management.control.create_project(info).await?;
    Ok(Json(ShownProject::of(&project)))
}

/// Delete a project
///
/// With everything in it. `default`, and what a configuration file declares, stays.
#[utoipa::path(
    delete, path = "/v1/projects/{idOrName}", operation_id = "deleteProject", tag = "egret",
    params(ProjectPath, TeamQuery),
    responses(
        (status = 200, description = "Deleted.", body = Deleted),
        (status = 403, description = "The token does not allow it, or a configuration file declares the project.", body = ErrorBody),
        (status = 404, description = "No such project.", body = ErrorBody),
        (status = 409, description = "The project is being transferred.", body = ErrorBody),
        (status = 500, description = "It could not be stored; nothing was changed.", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(management): State<Arc<Management>>,
    caller: Caller,
    Segments(id_or_name): Segments<String>,
    query: Query,
) -> Answer<Deleted> {
    let project = caller.project(&management.registry, &id_or_name, &query, Need::Administer)?;
    let answer = Deleted { id: project.id().to_string(), name: project.load().info().name.clone() };
    management.control.delete_project(&project).await?;
    Ok(Json(answer))
}

/// `{name, id?, team?, accountId?, zoneId?, state?}`
fn read_project(body: &[u8]) -> Result<ProjectInfo, Problem> {
    let mut fields = Fields::parse(body)?;
    let named = fields.has("name");
    let name = fields.text("name").to_string();
    if named && let Err(why) = check_name(&name) {
        fields.fault("name", why);
    }
    let id =
        fields.optional_text("id").map(|text| ProjectId::parse(&text).filter(|id| id.as_str().starts_with("prj_")));
    if let Some(None) = id {
        fields.fault("id", "must begin with prj_ and have at most 64 letters, digits, dashes and underscores");
    }
    let team = fields.object("team").map(|mut inner| {
        let mut text = |name| inner.optional_text(name).map(|t| t.to_string());
        let team = Team { id: text("id"), slug: text("slug") };
        fields.absorb(inner);
        team
    });
    if let Some(Err(why)) = team.as_ref().map(check_team) {
        fields.fault("team", why);
    }
    let mut hex_id = |name| {
        let id = fields.optional_text(name).map(|t| t.to_string());
        if let Some(Err(why)) = id.as_deref().map(check_hex_id) {
            fields.fault(name, why);
        }
        id
    };
    let (account_id, zone_id) = (hex_id("accountId"), hex_id("zoneId"));
    let state = match fields.optional_text("state").as_deref().map(String::as_str) {
        None | Some("active") => ProjectState::Active,
        Some("transferring") => ProjectState::Transferring,
        Some("blocked") => ProjectState::Blocked,
        Some(_) => {
            fields.fault("state", "must be active, transferring or blocked");
            ProjectState::Active
        }
    };
    fields.finish()?;
    let id = id.flatten().unwrap_or_else(|| ProjectId::derived(&name, team.as_ref()));
    Ok(ProjectInfo { id, team, account_id, zone_id, state, ..ProjectInfo::named(&name) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_project() {
        let info = read_project(
            br#"{"name":"payments","id":"prj_1","team":{"id":"team_1","slug":"acme"},"accountId":"0123456789abcdef0123456789abcdef",
                "zoneId":"fedcba9876543210fedcba9876543210","state":"blocked"}"#,
        )
        .unwrap();
        assert_eq!((info.id.as_str(), info.name.as_str(), info.state), ("prj_1", "payments", ProjectState::Blocked));
        assert_eq!(info.team.unwrap().slug.as_deref(), Some("acme"));
        assert_eq!(info.account_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        assert!(!info.declared);
    }

    #[test]
    fn derives_an_id_from_name_and_team() {
        let plain = read_project(br#"{"name":"payments"}"#).unwrap();
        let team = read_project(br#"{"name":"payments","team":{"slug":"acme"}}"#).unwrap();
        assert_eq!(plain.id, ProjectId::derived("payments", None));
        assert_ne!(plain.id, team.id);
    }

    #[test]
    fn names_every_fault() {
        let body = br#"{"name":"a/b","id":"x","team":{"id":1,"colour":"red"},"accountId":"ABC","zoneId":1,"state":"SECRET","x":1}"#;
        let said = format!("{:?}", read_project(body).unwrap_err());
        for part in [
            "name: has a control character or a slash",
            "id: must begin with prj_",
            "team.id must be a string, not a number",
            "unknown field team.colour",
            "accountId: must be 32 lower-case hex digits",
            "zoneId must be a string, not a number",
            "state: must be active, transferring or blocked",
            "unknown field x",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(!said.contains("SECRET"));
        assert!(format!("{:?}", read_project(b"{}").unwrap_err()).contains("\"missing field: name\""));
    }
}
