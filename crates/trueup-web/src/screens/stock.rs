//! The stock table: every SKU, what channels show, and counting in place.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::channels::Channel;
use super::sku::units;
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Listed, Path, Trouble, encoded};
use crate::forms::Posted;
use crate::page::{Frame, done, filters, refused, shown};
use crate::session::Session;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/stock", get(show))
        .route("/stock/bulk", post(bulk))
        .route("/stock/new", post(make))
        .route("/stock.csv", get(export))
}

/// A SKU as the API lists it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sku {
    pub(super) sku: String,
    pub(super) quantity: i64,
    pub(super) reserved: u64,
    pub(super) available: u64,
    pub(super) safety_stock: u64,
    pub(super) low_stock_threshold: Option<u64>,
    pub(super) low_stock: bool,
    #[serde(default)]
    pub(super) backorder_limit: u64,
    pub(super) version: u64,
    pub(super) updated_at: String,
    #[serde(default)]
    pub(super) locations: Vec<Place>,
    pub(super) oversold_by: Option<u64>,
    pub(super) bundle: Option<Bundle>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Place {
    pub(super) location_id: String,
    pub(super) quantity: i64,
    pub(super) reserved: u64,
    pub(super) available: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Bundle {
    pub(super) parts: Vec<Part>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Part {
    pub(super) sku: String,
    pub(super) quantity: u64,
}

/// A SKU on its channels.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Across {
    pub(super) channels: BTreeMap<String, Cell>,
}

/// What one channel shows of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Cell {
    pub(super) status: String,
    pub(super) quantity: Option<i64>,
    pub(super) expected: Option<i64>,
}

impl Cell {
    /// Returns whether it is another number than it should be.
    pub(super) fn differs(&self) -> bool {
        self.quantity.is_some() && self.expected.is_some() && self.quantity != self.expected
    }
}

/// Reads what channels show of SKUs, in their order.
async fn across(house: &Shared, session: &Session, skus: &[&str]) -> Result<Vec<Across>, Trouble> {
    let paths = skus.iter().map(|sku| Path::new(&["inventory", sku, "channels"]));
    house.api.get_each(session, paths).await
}

#[derive(Template)]
#[template(path = "stock.html")]
struct Page {
    frame: Frame,
    query: ListQuery,
    channels: Vec<String>,
    rows: Vec<(Sku, Across)>,
    next: Option<String>,
}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    match look(&house, &session, query).await {
        Ok(page) => shown(&page),
        Err(trouble) => refused(&session, "/", trouble),
    }
}

async fn look(house: &Shared, session: &Session, query: ListQuery) -> Result<Page, Trouble> {
    let path = list(&["inventory"]).with("search", &query.search);
    let path = match query.status.as_str() {
        "low" => path.with("lowStock", "true"),
        "stale" => path.with("status", "stale"),
        _ => path,
    };
    let path = path.with("channel", &query.channel);
    let (found, channels) = futures::try_join!(
        house.api.gather::<Sku>(session, &path, &query.cursor),
        house.api.get::<Listed<Channel>>(session, Path::new(&["channels"]).with("limit", "100")),
    )?;
    let skus: Vec<&str> = found.items.iter().map(|sku| sku.sku.as_str()).collect();
    let on_channels = if channels.items.is_empty() {
        skus.iter().map(|_| Across::default()).collect()
    } else {
        across(house, session, &skus).await?
    };
    let frame = Frame::new(session, "/stock", "Stock").after(query.done.as_deref());
    let next = query.next("/stock", found.next_cursor.as_deref());
    Ok(Page {
        frame,
        channels: channels.items.into_iter().map(|channel| channel.channel_id).collect(),
        rows: found.items.into_iter().zip(on_channels).collect(),
        query,
        next,
    })
}

/// Passes the API's file of all stock on.
async fn export(State(house): State<Shared>, session: Session) -> Response {
    match house.api.raw(&session, Path::new(&["inventory", "export"])).await {
        Ok(file) => file,
        Err(trouble) => refused(&session, "/stock", trouble),
    }
}

/// Books the counts of the rows whose number was changed.
async fn bulk(State(house): State<Shared>, posted: Posted) -> Response {
    let back = "/stock";
    let items = match changed(posted.fields()) {
        Ok(items) if items.is_empty() => return refused(&posted.session, back, nothing()),
        Ok(items) => items,
        Err(trouble) => return refused(&posted.session, back, trouble),
    };
    let mut body = json!({ "items": items, "atomic": true });
    if posted.has("reason") {
        body["reason"] = json!(posted.text("reason"));
    }
    if posted.has("publish") {
        body["syncToChannels"] = json!(true);
    }
    let path = Path::new(&["inventory", "bulk", "update"]);
    match posted.send::<Value>(&house, Method::PUT, path, &body).await {
        Ok(_) => done(back, "bulk"),
        Err(trouble) => refused(&posted.session, back, trouble),
    }
}

/// Counts a SKU that is not there yet; one that is there keeps its count.
async fn make(State(house): State<Shared>, posted: Posted) -> Response {
    match try_make(&house, &posted).await {
        Ok(()) => done(&format!("/stock/{}", encoded(posted.text("sku"))), "counted"),
        Err(trouble) => refused(&posted.session, "/stock", trouble),
    }
}

async fn try_make(house: &Shared, posted: &Posted) -> Result<(), Trouble> {
    let path = || Path::new(&["inventory", posted.text("sku")]);
    match house.api.get::<Value>(&posted.session, path()).await {
        Err(trouble) if trouble.status == StatusCode::NOT_FOUND => {}
        Err(trouble) => return Err(trouble),
        Ok(_) => {
            let detail = "There is such a SKU already: count it on its page.";
            return Err(Trouble::new(StatusCode::CONFLICT, "sku_exists", detail));
        }
    }
    let body = json!({ "quantity": units(posted.text("units")) });
    posted.send::<Value>(house, Method::PUT, path(), &body).await.map(drop)
}

/// Returns the counts that differ from what the page showed: `count:SKU` beside `was:SKU`.
fn changed(fields: &[(String, String)]) -> Result<Vec<Value>, Trouble> {
    let shown: BTreeMap<&str, &str> = fields
        .iter()
        .filter_map(|(name, text)| Some((name.strip_prefix("was:")?, &**text)))
        .collect();
    let mut items = Vec::new();
    for (name, text) in fields {
        let Some(sku) = name.strip_prefix("count:") else { continue };
        let text = text.trim();
        if text.is_empty() || shown.get(sku) == Some(&text) {
            continue;
        }
        let quantity: u64 = text.parse().map_err(|_| {
            let detail = format!("{sku}: {text:?} is not a whole number of units");
            Trouble::new(StatusCode::BAD_REQUEST, "invalid_quantity", detail)
        })?;
        items.push(json!({ "sku": sku, "quantity": quantity }));
    }
    Ok(items)
}

fn nothing() -> Trouble {
    Trouble::new(StatusCode::BAD_REQUEST, "nothing_changed", "No count was changed.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn only_what_was_changed_is_counted() {
        let given = fields(&[
            ("count:A", "5"),
            ("was:A", "5"),
            ("count:B", " 7 "),
            ("was:B", "5"),
            ("count:C", ""),
            ("was:C", "5"),
            ("reason", "shelf"),
        ]);
        assert_eq!(changed(&given).unwrap(), [json!({"sku": "B", "quantity": 7})]);
        let wrong = changed(&fields(&[("count:A", "5.5"), ("was:A", "5")])).unwrap_err();
        assert!(wrong.detail.contains("A: \"5.5\""), "{wrong}");
    }
}
