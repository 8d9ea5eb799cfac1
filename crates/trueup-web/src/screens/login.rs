//! Signing in and out.

use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Form, Path as Segment, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::Shared;
use crate::api::{Path, Trouble};
use crate::forms::{Posted, is_from_here};
use crate::links::Pass;
use crate::page::html;
use crate::session::{CREDENTIAL_BYTES_MAX, Session, no_cookie};

/// The largest form of somebody who is not signed in, in bytes.
const BYTES_MAX: usize = 16 << 10;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/login", get(ask).post(sign_in))
        .route("/login/links", post(make_link))
        .route("/login/once/{word}", get(ask_once).post(sign_in_once))
        .route("/logout", post(sign_out))
        .layer(DefaultBodyLimit::max(BYTES_MAX))
}

#[derive(Template)]
#[template(path = "login.html")]
struct Page {
    why: Option<String>,
    org: String,
    back: String,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    back: String,
}

async fn ask(Query(asked): Query<Asked>) -> Response {
    html(StatusCode::OK, &Page { why: None, org: String::new(), back: asked.back })
}

#[derive(Deserialize)]
struct Given {
    org: String,
    credential: String,
    #[serde(default)]
    back: String,
}

async fn sign_in(
    State(house): State<Shared>,
    headers: HeaderMap,
    Form(given): Form<Given>,
) -> Response {
    let Given { org, credential, back } = given;
    let (org, credential) = (org.trim().to_owned(), credential.trim().to_owned());
    let refuse = |status, why: &str| {
        html(status, &Page { why: Some(why.to_owned()), org: org.clone(), back: back.clone() })
    };
    if !is_from_here(&headers) {
        return refuse(StatusCode::FORBIDDEN, "The form came from another site.");
    }
    match checked(&house, Pass { org: org.clone(), credential }).await {
        Ok(session) => enter(&house, &session, own(&back)),
        Err(trouble) => refuse(trouble.status, &trouble.detail),
    }
}

/// Returns the session of a pass, where the API knows it.
async fn checked(house: &Shared, pass: Pass) -> Result<Session, Trouble> {
    let Pass { org, credential } = pass;
    if credential.len() > CREDENTIAL_BYTES_MAX {
        let detail = "The token is too long for a cookie; make an API key.";
        return Err(Trouble::new(StatusCode::BAD_REQUEST, "token_too_long", detail));
    }
    let session = Session::new(org, credential);
    let path = Path::new(&["inventory"]).with("limit", "1");
    house.api.get::<Value>(&session, path).await?;
    Ok(session)
}

fn enter(house: &Shared, session: &Session, to: &str) -> Response {
    match house.seal.cookie(session, house.is_secure) {
        Some(cookie) => ([(header::SET_COOKIE, cookie)], Redirect::to(to)).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Deserialize)]
struct Wanted {
    org: String,
    credential: String,
    /// For how long the link holds.
    seconds: u32,
}

/// Makes a link that signs in once; answers with its path. For the command line.
async fn make_link(
    State(house): State<Shared>,
    headers: HeaderMap,
    Form(wanted): Form<Wanted>,
) -> Response {
    if !is_from_here(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Wanted { org, credential, seconds } = wanted;
    let pass = || Pass { org: org.clone(), credential: credential.clone() };
    if let Err(trouble) = checked(&house, pass()).await {
        return (trouble.status, trouble.detail).into_response();
    }
    let word = house.links.put(pass(), seconds);
    (StatusCode::CREATED, format!("/login/once/{word}")).into_response()
}

#[derive(Template)]
#[template(path = "once.html")]
struct OncePage {
    /// The org to sign in to; `None` where the link is not good any more.
    org: Option<String>,
}

/// Asks before the link is used up, because programs look into links, too.
async fn ask_once(State(house): State<Shared>, Segment(word): Segment<String>) -> Response {
    once(house.links.org_of(&word))
}

fn once(org: Option<String>) -> Response {
    let status = if org.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    html(status, &OncePage { org })
}

async fn sign_in_once(
    State(house): State<Shared>,
    Segment(word): Segment<String>,
    headers: HeaderMap,
) -> Response {
    if !is_from_here(&headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(pass) = house.links.take(&word) else { return once(None) };
    match checked(&house, pass).await {
        Ok(session) => enter(&house, &session, "/"),
        Err(_) => once(None),
    }
}

/// Returns a path of ours, and the first page in place of any other address. Browsers leave tabs
/// out of addresses and take a backslash for a slash.
fn own(back: &str) -> &str {
    let is_plain = back.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_ours = back.starts_with('/') && !back.starts_with("//") && !back.starts_with("/login");
    if is_plain && is_ours { back } else { "/" }
}

async fn sign_out(State(house): State<Shared>, _: Posted) -> Response {
    let cookie = no_cookie(house.is_secure).map(|cookie| [(header::SET_COOKIE, cookie)]);
    (cookie, Redirect::to("/login")).into_response()
}

#[cfg(test)]
mod tests {
    use super::own;

    #[test]
    fn the_way_back_stays_here() {
        assert_eq!(own("/stock?search=a"), "/stock?search=a");
        let others = ["", "//evil", "https://evil", "/\\evil", "evil", "/login?back=/"];
        for other in others.into_iter().chain(["/\t/evil", "/\0", "/\r\nx: y", "/ü"]) {
            assert_eq!(own(other), "/", "{other}");
        }
    }
}
