//! The first screen: how everything is, and where to look.

use askama::Template;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;

use super::ListQuery;
use super::activity::{Entry, Run};
use super::channels::{Channel, Status, with_status};
use super::pauses::{Pause, Pauses};
use super::reservations::Reservation;
use crate::Shared;
use crate::api::{Listed, Path, Trouble};
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;
use crate::spark::Spark;

/// How far lists are counted.
const COUNTED: &str = "1000";
/// How many entries of the history are shown.
const ENTRIES: &str = "8";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/", get(show)).route("/live", get(live))
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    frame: Frame,
    low: Count,
    held: Count,
    sums: Sums,
    sparks: [(&'static str, Spark); 2],
    channels: Vec<(Channel, Option<Status>)>,
    waiting: Vec<Run>,
    paused: Option<Pause>,
    troubles: Vec<Entry>,
    entries: Vec<Entry>,
}

/// How many there are, as far as one page of a list tells.
struct Count {
    count: usize,
    is_more: bool,
}

impl Count {
    /// Returns the words for people.
    fn words(&self) -> String {
        format!("{}{}", self.count, if self.is_more { "+" } else { "" })
    }
}

/// What all channels have before them.
#[derive(Default)]
struct Sums {
    pending: u64,
    drifted: u64,
    conflicts: u64,
}

impl Sums {
    fn of(channels: &[(Channel, Option<Status>)]) -> Self {
        let mut sums = Self::default();
        for status in channels.iter().filter_map(|(_, status)| status.as_ref()) {
            sums.pending += status.pending;
            sums.drifted += status.drifted;
            sums.conflicts += status.conflicts;
        }
        sums
    }
}

/// Something in a list that is only counted.
#[derive(Deserialize)]
struct Any {}

async fn show(
    State(house): State<Shared>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Response {
    match look(&house, &session, &query).await {
        Ok(page) => shown(&page),
        Err(trouble) => refused(&session, "/", trouble),
    }
}

async fn look(house: &Shared, session: &Session, query: &ListQuery) -> Result<Page, Trouble> {
    let count = async |path: Path| {
        let page: Listed<Any> = house.api.get(session, path.with("limit", COUNTED)).await?;
        Ok(Count { count: page.items.len(), is_more: page.next_cursor.is_some() })
    };
    let latest = Path::new(&["sync", "history"]).with("limit", ENTRIES);
    let newest = Path::new(&["inventory", "reservations"]).with("limit", COUNTED);
    let waiting = Path::new(&["sync", "runs"]).with("status", "held").with("limit", ENTRIES);
    let paused = Path::new(&["sync", "paused"]).with("limit", "1");
    let (low, held, newest, channels, waiting, pauses, troubles, entries) = futures::try_join!(
        count(Path::new(&["inventory", "alerts", "low-stock"])),
        count(Path::new(&["inventory", "reservations"]).with("status", "active")),
        house.api.get::<Listed<Reservation>>(session, newest),
        with_status(house, session),
        house.api.get::<Listed<Run>>(session, waiting),
        house.api.get::<Pauses>(session, paused),
        house.api.get::<Listed<Entry>>(session, latest.clone().with("status", "error")),
        house.api.get::<Listed<Entry>>(session, latest),
    )?;
    let frame = Frame::new(session, "/", "Overview").after(query.done.as_deref());
    let sums = Sums::of(&channels);
    let sparks = sparks(&newest, Timestamp::now());
    let (waiting, troubles, entries) = (waiting.items, troubles.items, entries.items);
    let paused = pauses.org;
    Ok(Page { frame, low, held, sums, sparks, channels, waiting, paused, troubles, entries })
}

/// Draws what the newest reservations tell: units that were reserved, and units that were sold.
fn sparks(newest: &Listed<Reservation>, now: Timestamp) -> [(&'static str, Spark); 2] {
    let is_more = newest.next_cursor.is_some();
    let since = newest.items.last().and_then(Reservation::begin).filter(|_| is_more);
    let (mut reserved, mut sold) = (Spark::new(now, since), Spark::new(now, since));
    for one in &newest.items {
        if let Some(at) = one.begin() {
            reserved.add(at, one.units());
        }
        if let Some(at) = one.sold() {
            sold.add(at, one.units());
        }
    }
    [("units reserved", reserved), ("reserved units sold", sold)]
}

/// Passes the API's live events on: a browser's event source cannot send the API's headers.
async fn live(State(house): State<Shared>, session: Session) -> Response {
    match house.api.raw(&session, Path::new(&["events"])).await {
        Ok(events) => events,
        Err(trouble) => refused(&session, "/", trouble),
    }
}
