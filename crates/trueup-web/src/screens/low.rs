//! SKUs below their threshold, with how fast they sell and how long they last.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use jiff::{Span, Timestamp};
use serde::Deserialize;

use super::sku::Movement;
use super::{ListQuery, list};
use crate::Shared;
use crate::api::{Listed, Path, Trouble};
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// How far back sales are looked at, in hours: a week.
const HOURS: i32 = 168;
/// The most ledger lines of a SKU that are looked at.
const LINES: &str = "200";
/// The shortest time that tells how fast something sells, in seconds: an hour.
const SECONDS_MIN: i32 = 3_600;
const SECONDS_OF_A_DAY: f64 = 86_400.0;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/low-stock", get(show))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Low {
    sku: String,
    quantity: i64,
    available: u64,
    low_stock_threshold: Option<u64>,
    since: Option<String>,
}

/// How a SKU sells.
#[derive(Debug, PartialEq)]
struct Pace {
    /// Units a day.
    a_day: f64,
}

impl Pace {
    /// Returns the pace of a SKU's lines of the last week, newest first. Where there are more lines
    /// than were read, or the SKU is younger, they tell of the time since the oldest of them.
    fn of(lines: &[Movement], is_more: bool, now: Timestamp) -> Self {
        let sold: f64 = lines.iter().filter_map(Movement::sold).map(f64::from).sum();
        let is_begin = |line: &&Movement| is_more || line.is_first();
        let oldest = lines.last().filter(is_begin).and_then(Movement::instant);
        let seconds = oldest.map_or(HOURS * 3_600, |oldest| {
            let seconds = now.as_second().saturating_sub(oldest.as_second());
            i32::try_from(seconds).unwrap_or(HOURS * 3_600).max(SECONDS_MIN)
        });
        Self { a_day: sold / f64::from(seconds) * SECONDS_OF_A_DAY }
    }

    fn words(&self) -> String {
        rounded(Some(self.a_day).filter(|units| *units > 0.0))
    }

    /// Returns for how many days so many units last; `None` where none is sold.
    fn days(&self, units: u64) -> Option<f64> {
        // What is low is not as many as four thousand millions.
        let units = f64::from(u32::try_from(units).unwrap_or(u32::MAX));
        (self.a_day > 0.0).then(|| units / self.a_day)
    }

    fn cover(&self, units: u64) -> String {
        rounded(self.days(units))
    }
}

/// Writes a number as exactly as people want it; a dash where there is none.
fn rounded(number: Option<f64>) -> String {
    match number {
        None => "–".to_owned(),
        Some(few) if few < 10.0 => format!("{few:.1}"),
        Some(many) => format!("{many:.0}"),
    }
}

#[derive(Template)]
#[template(path = "low.html")]
struct Page {
    frame: Frame,
    rows: Vec<(Low, Pace)>,
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
    let path = list(&["inventory", "alerts", "low-stock"]);
    let found = house.api.gather::<Low>(session, &path, &query.cursor).await?;
    let now = Timestamp::now();
    let from = now.checked_sub(Span::new().hours(HOURS)).unwrap_or(now).to_string();
    let history = |low: &Low| {
        let path = Path::new(&["inventory", &low.sku, "history"]);
        path.with("from", &from).with("limit", LINES)
    };
    let lines: Vec<Listed<Movement>> =
        house.api.get_each(session, found.items.iter().map(history)).await?;
    let pace = |lines: Listed<Movement>| Pace::of(&lines.items, lines.next_cursor.is_some(), now);
    let paces = lines.into_iter().map(pace);
    let next = query.next("/low-stock", found.next_cursor.as_deref());
    let mut rows: Vec<(Low, Pace)> = found.items.into_iter().zip(paces).collect();
    // What runs out first is seen first; what does not sell, last.
    let days = |(low, pace): &(Low, Pace)| pace.days(low.available).unwrap_or(f64::INFINITY);
    rows.sort_by(|one, other| days(one).total_cmp(&days(other)));
    Ok(Page { frame: Frame::new(session, "/low-stock", "Low stock"), rows, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(seq: u64, kind: &str, delta: i64, at: &str) -> Movement {
        let line = serde_json::json!({
            "seq": seq, "at": at, "kind": kind, "locationId": "main", "delta": delta,
            "reservedDelta": 0, "quantityAfter": 0, "reservedAfter": 0, "reason": null,
            "actor": "a", "source": "api", "reference": null,
        });
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn a_pace_is_of_sales_over_the_time_that_was_looked_at() {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        let lines = [
            line(9, "commit", -3, "2026-11-24T09:00:00Z"),
            line(8, "count", -50, "2026-11-24T08:00:00Z"),
            line(7, "channel_return", 1, "2026-11-24T07:00:00Z"),
            line(6, "channel_sale", -5, "2026-11-22T10:00:00Z"),
        ];
        let week = Pace::of(&lines, false, now);
        assert_eq!((week.words(), week.cover(8)), ("1.0".to_owned(), "8.0".to_owned()));
        // Of more lines than these, only what they span is known: two days.
        let busy = Pace::of(&lines, true, now);
        assert_eq!((busy.words(), busy.cover(80)), ("3.5".to_owned(), "23".to_owned()));
        let young = [
            line(2, "commit", -4, "2026-11-24T09:00:00Z"),
            line(1, "count", 9, "2026-11-24T06:00:00Z"),
        ];
        assert_eq!(Pace::of(&young, false, now).words(), "24");
        let none = Pace::of(&[], false, now);
        assert_eq!((none.words(), none.cover(8)), ("–".to_owned(), "–".to_owned()));
    }
}
