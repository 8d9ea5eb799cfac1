//! `trueup dashboard-link`: a link that signs in to the dashboard once.

use clap::Args;
use reqwest::StatusCode;
use trueup_core::Org;

use super::say::data;
use super::token::{TokenArgs, every_scope, token};

/// Makes a link that signs in to a running server's dashboard once, with a token signed with
/// `TRUEUP_JWT_SECRET`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// The server, as people reach it.
    #[arg(long, default_value = "http://127.0.0.1:4620")]
    pub url: String,
    /// The org to sign in to.
    #[arg(long)]
    pub org: Org,
    /// The scopes of the session, separated by spaces or commas.
    #[arg(long, default_value_t = every_scope())]
    pub scope: String,
    /// Who the session stands for in the audit trail.
    #[arg(long, default_value = "cli")]
    pub subject: String,
    /// For how many seconds the link is good, a day at most.
    #[arg(long, default_value_t = 300)]
    pub link_seconds: u32,
    /// For how many seconds the session is good; 12 hours at most.
    #[arg(long, default_value_t = 43_200)]
    pub ttl_seconds: u32,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The server could not be asked.
    #[error("ask the server for a link: {0}")]
    Http(#[from] reqwest::Error),
    /// The server refused.
    #[error("the server made no link ({status}): {words}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        words: String,
    },
}

/// Prints a link to stdout.
///
/// # Errors
/// When the token cannot be made, or the server cannot be reached or refuses it.
pub async fn run(args: LinkArgs) -> Result<(), Box<dyn std::error::Error>> {
    let LinkArgs { url, org, scope, subject, link_seconds, ttl_seconds } = args;
    let token = token(&TokenArgs { orgs: vec![org.clone()], scope, subject, ttl_seconds })?;
    Ok(data(ask(&url, &org, &token, link_seconds).await?)?)
}

/// Asks a server for a link that signs in once, with a credential of its API.
///
/// # Errors
/// [`LinkError`] says why there is none.
pub async fn ask(
    url: &str,
    org: &Org,
    credential: &str,
    seconds: u32,
) -> Result<String, LinkError> {
    let url = url.trim_end_matches('/');
    let mut fields = url::form_urlencoded::Serializer::new(String::new());
    fields.append_pair("org", org.as_str()).append_pair("credential", credential);
    fields.append_pair("seconds", &seconds.to_string());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.post(format!("{url}/login/links"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let answer = request.body(fields.finish()).send().await?;
    let status = answer.status();
    let words = answer.text().await?;
    if status == StatusCode::CREATED {
        Ok(format!("{url}{words}"))
    } else {
        Err(LinkError::Refused { status, words })
    }
}
