//! `egret tokens …`

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::args::ApiArgs;
use super::client::{Api, segment};
use super::output::{clean, print, print_json, table, text, while_waiting};

/// `egret tokens …`
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// List the tokens: what each may do, where, and until when (never their text)
    List {
        /// Where the API is.
        #[command(flatten)]
        api: ApiArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a token and print it, once
    #[command(after_help = "\
Examples:
  egret tokens create ci --role write --project payments --ttl 90d
  export HTTPS_PROXY=\"http://payments:$(egret tokens create app --role proxy --project payments)@127.0.0.1:8080\"

Standard output gets the token and nothing else; it cannot be shown again.")]
    Create(CreateArgs),
    /// Revoke a token: nobody gets in with it once this has returned; what runs goes on
    Revoke {
        /// Its name or id, as `egret tokens list` shows them
        name: String,
        /// Where the API is.
        #[command(flatten)]
        api: ApiArgs,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// `egret tokens create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// A name for people and logs: 1 to 100 of A-Z a-z 0-9 . _ -
    pub name: String,
    /// What its holder may do: admin everything, write change certificates, read read, proxy only send requests
    #[arg(long, value_name = "ROLE")]
    pub role: RoleName,
    /// Name or id of a project that it reaches; again for more of them [default: all]
    #[arg(long = "project", value_name = "PROJECT")]
    pub projects: Vec<String>,
    /// For clients that identify themselves with X-Auth-Email
    #[arg(long, value_name = "EMAIL")]
    pub email: Option<String>,
    /// How long it is good for, as 8h, 90d or 1h30m [default: until it is revoked]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub ttl: Option<Duration>,
    /// Where the API is.
    #[command(flatten)]
    pub api: ApiArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The words of `--role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// Everything, projects and tokens included.
    Admin,
    /// Changes certificates and bindings.
    Write,
    /// Reads.
    Read,
    /// Sends requests through listeners with auth = "token".
    Proxy,
}

/// As the API takes it.
#[derive(Serialize)]
struct NewToken<'a> {
    name: &'a str,
    role: RoleName,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    projects: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

pub(super) async fn run(command: TokensCommand) -> anyhow::Result<()> {
    match command {
        TokensCommand::List { api, json } => list(&api, json).await,
        TokensCommand::Create(args) => create(&args).await,
        TokensCommand::Revoke { name, api, json } => revoke(&name, &api, json).await,
    }
}

async fn list(api: &ApiArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(api)?;
    let (answer, projects) = while_waiting(|| "waiting for the API".to_owned(), async {
        let answer = api.get("/v1/tokens").await?;
        // Only for their names; without them the ids are shown.
        let projects = if as_json { Value::Null } else { api.get("/v1/projects").await.unwrap_or_default() };
        Ok::<_, super::client::ApiError>((answer, projects))
    })
    .await?;
    if as_json {
        return print_json(&answer);
    }
    let rows: Vec<_> = answer["tokens"].as_array().into_iter().flatten().map(|token| cells(token, &projects)).collect();
    print(&table(["NAME", "ROLE", "PROJECTS", "EXPIRES", "SOURCE", "ID"], &rows))
}

fn cells(token: &Value, projects: &Value) -> [String; 6] {
    let named = |id: &Value| {
        let known = projects["projects"].as_array().into_iter().flatten().find(|p| p["id"] == *id);
        text(known.map_or(id, |p| &p["name"]))
    };
    let reach = match token["projects"].as_array() {
        None => "all".to_owned(),
        Some(list) => list.iter().map(named).collect::<Vec<_>>().join(", "),
    };
    let expires = token["expiresAt"].as_str().unwrap_or("never").to_owned();
    let [name, role, source, id] = ["name", "role", "source", "id"].map(|key| text(&token[key]));
    [name, role, reach, expires, source, id]
}

async fn create(args: &CreateArgs) -> anyhow::Result<()> {
    let mut api = Api::new(&args.api)?;
    let body = NewToken {
        name: &args.name,
        role: args.role,
        email: args.email.as_deref(),
        projects: &args.projects,
        // Rounded up: a token is good for as long as was asked.
        ttl: args.ttl.map(|ttl| ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)),
    };
    let body = Zeroizing::new(serde_json::to_vec(&body)?);
    let mut answer = while_waiting(|| "waiting for the API".to_owned(), api.post("/v1/tokens", body)).await?;
    if args.json {
        return print_json(&answer);
    }
    let Value::String(token) = answer["token"].take() else {
        return Err(anyhow::anyhow!("the API told no token")).context("egret tokens create");
    };
    let token = Zeroizing::new(token);
    let until = answer["expiresAt"].as_str().map_or("until it is revoked".to_owned(), |at| format!("until {at}"));
    eprintln!(
        "egret: token {} is good {}; this is the only time that it is shown (revoke: egret tokens revoke {})",
        clean(&args.name),
        clean(&until),
        clean(&args.name)
    );
    let mut line = Zeroizing::new(String::with_capacity(token.len() + 1));
    line.push_str(&token);
    line.push('\n');
    print(&line)
}

async fn revoke(name: &str, api: &ApiArgs, as_json: bool) -> anyhow::Result<()> {
    let mut api = Api::new(api)?;
    let path = format!("/v1/tokens/{}", segment(name));
    let answer = while_waiting(|| "waiting for the API".to_owned(), api.delete(&path)).await?;
    if as_json {
        return print_json(&answer);
    }
    print(&format!("revoked: {}\n", clean(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_names_projects_and_says_what_is_left_open() {
        let projects = json!({"projects": [{"id": "prj_1", "name": "payments"}]});
        let token = json!({"id": "tok_1", "name": "ci", "role": "write", "source": "api", "projects": ["prj_1", "prj_2"],
            "expiresAt": "2027-01-01T00:00:00Z"});
        let cells_ = cells(&token, &projects);
        assert_eq!(cells_, ["ci", "write", "payments, prj_2", "2027-01-01T00:00:00Z", "api", "tok_1"]);
        let token = json!({"id": "tok_2", "name": "a", "role": "admin", "source": "file"});
        assert_eq!(cells(&token, &Value::Null), ["a", "admin", "all", "never", "file", "tok_2"]);
    }
}
