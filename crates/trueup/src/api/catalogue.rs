//! What a channel has: discovering it, and looking at it, mapped or not.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trueup_core::Sku;
use trueup_store::{CatalogueFilter, CatalogueQuery, ChannelListingView, Match};
use trueup_sync::{Discovery, Proposal, match_word};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Admin, Caller, Read, Segments};
use crate::api::idempotency::Incoming;
use crate::api::lists::{Listed, PageParams, Params};
use crate::api::mappings::{FulfilledBy, connection};
use crate::api::mappings_csv::{catalogue_columns, catalogue_line, listing_names};
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, AppState, csv_out, runs};

/// Listings read at once for a file.
const PAGE_LISTINGS: usize = 500;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(discover)).routes(routes!(list_catalogue))
}

// --- POST …/mappings/discover --------------------------------------------------------------

/// What to do with what is found.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DiscoverBody {
    /// Say what would be mapped, map nothing.
    dry_run: Option<bool>,
}

/// Reads the channel's catalogue and maps what matches by SKU.
///
/// A large catalogue takes minutes: the discovery goes on when the time to wait is over, and
/// when nobody waits any more. Asked for again meanwhile, the answer is of the one under way. One
/// that would have much of the channel told zero is `held` and maps nothing until it is confirmed:
/// see `POST /sales-channel/sync/runs/{id}/confirm`.
#[utoipa::path(post, path = "/sales-channel/channels/{channelId}/mappings/discover",
    tag = "mappings",
    params(("channelId" = String, Path, description = "The channel"),
        ("dryRun" = Option<bool>, Query, description = "As in the body"),
        ("Prefer" = Option<String>, Header, description = "`wait=N` seconds")),
    request_body(content = Option<DiscoverBody>, description = "None, or how"),
    responses((status = 200, description = "It has ended: `{runId, status, mapped, dryRun, \
            counts, items: [{channelSku, title, listing, sku, status, suggestion, suggestions, \
            quantity}], unlisted: [sku]}`; an item's `status` is `matched`, `already_mapped`, \
            `unknown_sku`, `near_miss`, `duplicate`, `no_sku` or `incomplete`; `suggestion` is \
            null where there are several `suggestions`", body = Object),
        (status = 202, description = "The same, as far as it is", body = Object,
            headers(("Location" = String, description = "Its run, where to look"))),
        (status = 404, description = "`channel_not_found`"),
        (status = 409, description = "`discovery_running`: a dry one is asked for while one \
            that maps is under way, or the other way round; `discovery_stopped`"),
        (status = 502, description = "`channel_unavailable`")))]
async fn discover(
    State(app): State<AppState>,
    caller: Caller<Admin>,
    path: Segments,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let channel = path.channel()?;
    let asked = query.flag("dryRun")?;
    query.finish()?;
    let wait = runs::wait(incoming.headers())?;
    let body: DiscoverBody = incoming.json_or_default()?;
    let dry_run = body.dry_run.or(asked).unwrap_or(false);
    let work = async {
        let found = app.engine.discover(&caller.org, &channel, dry_run, wait).await?;
        let status = runs::status_of(&found.run);
        let id = found.run.id.clone();
        Ok(runs::with_location(Reply::json(status, &discovery(found)), status, &id))
    };
    incoming.once(&app, &caller, work).await
}

fn discovery(found: Discovery) -> Value {
    let mapped = found.mapped();
    let Discovery { run, proposals, unlisted } = found;
    let items: Vec<Value> = proposals.iter().map(item).collect();
    let unlisted: Vec<&str> = unlisted.iter().map(Sku::as_str).collect();
    json!({
        "runId": run.id,
        "status": runs::status_word(run.status),
        "mapped": mapped,
        "dryRun": run.dry_run,
        "counts": run.counters,
        "error": run.error,
        "items": items,
        "unlisted": unlisted,
    })
}

fn item(proposal: &Proposal) -> Value {
    let suggestions: Vec<&str> = proposal.suggestions.iter().map(Sku::as_str).collect();
    json!({
        "channelSku": proposal.channel_sku,
        "title": proposal.title,
        "listing": proposal.fields,
        "sku": proposal.sku.as_ref().map(Sku::as_str),
        "status": proposal.status,
        "suggestion": only(&suggestions),
        "suggestions": suggestions,
        "quantity": proposal.quantity,
    })
}

/// Returns the suggestion where there is one only.
fn only<'a>(suggestions: &[&'a str]) -> Option<&'a str> {
    match suggestions {
        [one] => Some(one),
        [] | [_, ..] => None,
    }
}

// --- GET …/listings ------------------------------------------------------------------------

/// A listing that the channel's catalogue held when it was last read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CatalogueView {
    /// The SKU as the channel has it.
    channel_sku: Option<String>,
    title: Option<String>,
    /// The vendor's identifiers.
    listing: BTreeMap<String, String>,
    /// `mapped`; or of what is not: `matched`, `near_miss`, `duplicate`, `unknown_sku`,
    /// `no_sku`, `incomplete`.
    status: &'static str,
    /// The SKU it is mapped to, or that it matches.
    sku: Option<String>,
    /// The SKUs that a near miss may be.
    suggestions: Vec<String>,
    /// What the channel showed, where its catalogue says so.
    quantity: Option<i64>,
    fulfilled_by: FulfilledBy,
    /// When it was read.
    seen_at: Time,
}

/// Returns the SKU that a listing is mapped to, or that it matches and would be mapped to.
pub(super) fn decided_sku(view: &ChannelListingView) -> Option<Sku> {
    match (&view.mapping, view.listing.found) {
        (Some(mapping), _) => Some(mapping.sku.clone()),
        (None, Match::Matched) => Sku::new(view.listing.sku.as_deref()?).ok(),
        (
            None,
            Match::NearMiss
            | Match::Duplicate
            | Match::UnknownSku
            | Match::NoSku
            | Match::Incomplete,
        ) => None,
    }
}

impl From<ChannelListingView> for CatalogueView {
    fn from(view: ChannelListingView) -> Self {
        let sku = decided_sku(&view).map(|sku| sku.to_string());
        let ChannelListingView { listing, mapping } = view;
        let suggestions = if mapping.is_some() { Vec::new() } else { listing.suggestions };
        Self {
            channel_sku: listing.sku,
            title: listing.title,
            status: if mapping.is_some() { "mapped" } else { match_word(listing.found) },
            sku,
            suggestions: suggestions.iter().map(ToString::to_string).collect(),
            quantity: listing.quantity,
            fulfilled_by: FulfilledBy::of(
                mapping.as_ref().map_or(listing.channel_fulfilled, |own| own.channel_fulfilled),
            ),
            listing: mapping.map_or(listing.fields, |mapping| mapping.fields),
            seen_at: Time(listing.seen_at),
        }
    }
}

fn filter(text: &str) -> Option<CatalogueFilter> {
    let all = [
        Match::Matched,
        Match::NearMiss,
        Match::Duplicate,
        Match::UnknownSku,
        Match::NoSku,
        Match::Incomplete,
    ];
    match text {
        "mapped" => Some(CatalogueFilter::Mapped),
        "unmapped" => Some(CatalogueFilter::Unmapped),
        word => {
            let found = all.into_iter().find(|found| match_word(*found) == word);
            found.map(CatalogueFilter::Is)
        }
    }
}

const LIST: &str = "channel listings";

/// Lists what the channel has, as its last discovery saw it.
///
/// With `format=csv` all of it comes as one file, in the columns of the mappings' import and
/// some for people: edit the column `sku` and import it.
#[utoipa::path(get, path = "/sales-channel/channels/{channelId}/listings", tag = "mappings",
    params(PageParams,
        ("channelId" = String, Path, description = "The channel"),
        ("status" = Option<String>, Query, description = "`mapped`, `unmapped`, or of the \
            unmapped `matched`, `near_miss`, `duplicate`, `unknown_sku`, `no_sku`, `incomplete`"),
        ("search" = Option<String>, Query, description = "Only those whose SKU, title or \
            identifier contains this text"),
        ("format" = Option<String>, Query, description = "`json` (default) or `csv`: a file of \
            all, without `limit` and `cursor`")),
    responses((status = 200, description = "A page, or the file", content(
            (Listed<CatalogueView> = "application/json"), (String = "text/csv"))),
        (status = 404, description = "`channel_not_found`")))]
async fn list_catalogue(
    State(app): State<AppState>,
    caller: Caller<Read>,
    path: Segments,
    mut params: Params,
) -> Result<Response, Problem> {
    let channel = path.channel()?;
    let as_csv = params.read("format", "must be json or csv", |text| match text {
        "csv" => Some(true),
        "json" => Some(false),
        _ => None,
    })?;
    let rule = "must be mapped, unmapped, matched, near_miss, duplicate, unknown_sku, no_sku or \
        incomplete";
    let mut query = CatalogueQuery {
        filter: params.read("status", rule, filter)?,
        search: params.text("search")?,
        limit: PAGE_LISTINGS,
        ..CatalogueQuery::default()
    };
    let as_csv = as_csv.unwrap_or(false);
    if !as_csv {
        query.after = params.cursor(LIST, |position| Some(position.to_owned()))?;
        query.limit = params.limit()?;
    }
    params.finish()?;
    let connection = connection(&app, &caller.org, &channel).await?;
    if !as_csv {
        let page = app.store.channel_listings(&caller.org, &channel, query).await?;
        let position = |view: &ChannelListingView| view.listing.name.clone();
        let listed = Listed::page(LIST, page, position, CatalogueView::from);
        return Ok(Reply::ok(&listed).into_response());
    }
    let names = listing_names(&connection);
    let file = format!("listings-{channel}.csv");
    let next = move |after: Option<String>| {
        let (app, org, channel) = (app.clone(), caller.org.clone(), channel.clone());
        let query = CatalogueQuery { after, ..query.clone() };
        async move {
            let page = app.store.channel_listings(&org, &channel, query).await?;
            let last = page.items.last().filter(|_| page.more);
            let next = last.map(|view| view.listing.name.clone());
            let lines = page.items.iter().flat_map(|view| catalogue_line(names, view));
            Ok((lines.collect(), next))
        }
    };
    csv_out::stream(&catalogue_columns(names), &file, next).await
}
