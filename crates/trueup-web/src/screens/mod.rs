//! The screens: each asks the API, makes its page, and takes its forms.

mod access;
mod activity;
mod channels;
mod conflicts;
mod connect;
mod drift;
mod import;
mod listings;
mod login;
mod low;
mod overview;
mod pauses;
mod reservations;
mod sku;
mod stock;
mod system;

use axum::Router;
use serde::Deserialize;

use crate::Shared;
use crate::api::{Path, ROWS};

/// Returns the routes of all screens.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .merge(login::routes())
        .merge(overview::routes())
        .merge(stock::routes())
        .merge(sku::routes())
        .merge(pauses::routes())
        .merge(low::routes())
        .merge(drift::routes())
        .merge(conflicts::routes())
        .merge(reservations::routes())
        .merge(activity::routes())
        .merge(channels::routes())
        .merge(connect::routes())
        .merge(listings::routes())
        .merge(import::routes())
        .merge(access::routes())
        .merge(system::routes())
}

/// What addresses of lists say.
#[derive(Debug, Default, Clone, Deserialize)]
struct ListQuery {
    #[serde(default)]
    search: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    channel: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    sku: String,
    #[serde(default)]
    cursor: String,
    done: Option<String>,
}

impl ListQuery {
    /// Returns the address of the page after this one.
    fn next(&self, path: &str, cursor: Option<&str>) -> Option<String> {
        let mut next = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("search", &self.search),
            ("status", &self.status),
            ("channel", &self.channel),
            ("operation", &self.operation),
            ("sku", &self.sku),
        ] {
            if !value.is_empty() {
                next.append_pair(name, value);
            }
        }
        next.append_pair("cursor", cursor?);
        Some(format!("{path}?{}", next.finish()))
    }
}

/// Returns a list's path, as many items at a time as a page shows.
fn list(segments: &[&str]) -> Path {
    Path::new(segments).with("limit", &ROWS.to_string())
}
