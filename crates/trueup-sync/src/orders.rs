//! Orders of channels: resolved to listings, booked as totals, polled as a backstop.
//!
//! Lines that nothing answers to are kept and booked when something does: see [`unmapped`].
//!
//! [`unmapped`]: crate::unmapped

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, TryStreamExt};
use serde_json::json;
use tokio::time::Instant;
use trueup_channels::{ChannelErrorKind, OrderLine, OrderNotice};
use trueup_core::{
    ChannelId, ChannelLine, ChannelOrder, Command, ListingKey, Location, Quantity, Rejection, Sku,
    Source, Timestamp,
};
use trueup_store::{Connection, ConnectionState, ListingQuery, ListingView, StoreError};

use crate::backoff;
use crate::engine::EngineError;
use crate::link::{Link, LongPoll};
use crate::shared::Shared;
use crate::worker::refuses_us;

/// The most pages of one poll; the next poll follows at once and goes on from there.
const ORDER_PAGES_MAX: usize = 200;
/// The first and the longest pause after a poll failed, in milliseconds.
const POLL_MS_FIRST: u64 = 1_000;
const POLL_MS_MAX: u64 = 120_000;
/// The most resolved lines and booked orders that a link remembers.
const REMEMBERED_MAX: usize = 50_000;
/// How many orders of a page are booked together, so that one commit serves many.
const TOGETHER_MAX: usize = 64;
/// How long before the connection an order must have been placed to be in the first count
/// already: vendors write whole seconds, and their clocks are not ours.
const PLACED_BEFORE_MS: i64 = 2_000;

/// What became of an order.
#[derive(Debug, Default)]
pub(crate) struct Booking {
    /// Lines that no mapping and no SKU answers to; they are kept.
    unresolved: Vec<OrderLine>,
    /// Whether only a poll can tell the totals.
    pub(crate) wants_totals: bool,
    /// Whether something was booked that this process did not know of.
    pub(crate) is_news: bool,
}

impl Shared {
    /// Books what can be booked of an order; seeing it again books nothing twice.
    pub(crate) async fn book(
        &self,
        link: &Link,
        order: &OrderNotice,
    ) -> Result<Booking, EngineError> {
        if link.stop.is_cancelled() {
            // Of a connection that goes, nothing is booked any more: nobody would tell of its end.
            return Err(StoreError::Closed.into());
        }
        let mut booking = Booking::default();
        let limit = link.connected_at.plus_millis(-PLACED_BEFORE_MS);
        if order.placed_at.is_some_and(|placed_at| placed_at < limit) {
            return Ok(booking);
        }
        let print = fingerprint(order);
        if link.booked.lock().get(&order.order_id) == Some(&print) {
            return Ok(booking);
        }
        let _turn = self.order_turn(link, &order.order_id).await;
        let before = self.booked_before(link, &order.order_id).await?;
        let mut lines = Vec::with_capacity(order.lines.len());
        for line in &order.lines {
            // A part is contained in the totals of the order, so only the totals are booked.
            booking.wants_totals |= line.state.part.is_some();
            if line.state.part.is_some() || line.state.channel_fulfilled || line.state.is_empty() {
                continue;
            }
            match self.resolve_line(link, line).await? {
                Some(line) => lines.push(line),
                // Another connection of the account knows what it is.
                None if before.contains_key(&line.line_id) => {}
                None => booking.unresolved.push(line.clone()),
            }
        }
        if !lines.is_empty() {
            let named = (order.order_id.as_str(), order.updated_at);
            match self.submit_lines(link, named, &before, lines).await {
                Ok(()) => booking.is_news = true,
                // A SKU that was in the ledger a moment ago: all lines are tried again.
                Err(EngineError::Rejected(Rejection::SkuNotFound(_))) => {
                    booking.unresolved.clone_from(&order.lines);
                }
                // It would be refused again and again: said once, and the others go on.
                Err(EngineError::Rejected(rejection)) => {
                    self.tell_refused(link, order, &rejection).await;
                }
                Err(error) => return Err(error),
            }
            metrics::counter!("trueup_channel_orders_total", "kind" => link.kind.name())
                .increment(1);
        }
        if !booking.unresolved.is_empty() {
            self.keep_unmapped(link, order, &booking.unresolved).await?;
        } else if !booking.wants_totals {
            let mut booked = link.booked.lock();
            if booked.len() >= REMEMBERED_MAX {
                booked.clear();
            }
            booked.insert(order.order_id.clone(), print);
        }
        Ok(booking)
    }

    /// Books lines of an order, given with when it changed: each under the connection that booked
    /// it `before`, a new one under the connection that is told its number. Call it in the
    /// order's turn.
    pub(crate) async fn submit_lines(
        &self,
        link: &Link,
        (order, occurred_at): (&str, Option<Timestamp>),
        before: &BTreeMap<String, ChannelId>,
        lines: Vec<(ChannelId, ChannelLine)>,
    ) -> Result<(), EngineError> {
        let mut by_channel: BTreeMap<ChannelId, Vec<ChannelLine>> = BTreeMap::new();
        for (channel, line) in lines {
            let channel = before.get(&*line.line).cloned().unwrap_or(channel);
            by_channel.entry(channel).or_default().push(line);
        }
        for (channel, lines) in by_channel {
            let command = Command::ChannelOrder(ChannelOrder {
                channel,
                order: Arc::from(order),
                occurred_at,
                location: Location::main(),
                restock: link.restock,
                lines,
            });
            self.submit(&link.org, command, Source::Channel).await?;
        }
        Ok(())
    }

    async fn tell_refused(&self, link: &Link, order: &OrderNotice, rejection: &Rejection) {
        let body = json!({
            "channelId": link.id.as_str(), "code": "order_refused", "orderId": order.order_id,
            "detail": format!("the order {} could not be booked: {rejection}", order.order_id),
        });
        self.note(&link.org, vec![self.entry(&link.id, "order", "error", body.clone())]).await;
        self.tell(&link.org, "channel.error", body).await;
    }

    /// Finds what a line sells, and the connection that is told its number; `None` where neither
    /// a mapping nor a SKU answers to it.
    pub(crate) async fn resolve_line(
        &self,
        link: &Link,
        line: &OrderLine,
    ) -> Result<Option<(ChannelId, ChannelLine)>, EngineError> {
        let sku = line.sku.as_deref().and_then(|text| Sku::new(text).ok());
        let found = self.find_listing(link, sku.as_ref(), &line.fields).await?;
        let made = |sku: Sku, listing: Option<ListingKey>, units: Quantity| ChannelLine {
            line: Arc::from(line.line_id.as_str()),
            listing,
            sku,
            units,
            sold: line.state.sold,
            restocked: line.state.restocked,
            held: line.state.held,
            cancelled: line.state.cancelled,
        };
        if let Some(view) = found {
            // A mapping may be there before its SKU is.
            if view.sku.is_none() {
                return Ok(None);
            }
            let units = view.state.rules.units_per_listing.max(Quantity::ONE);
            let own = (view.mapping.channel, view.mapping.key);
            let (channel, key) = view.leader.unwrap_or(own);
            return Ok(Some((channel, made(view.mapping.sku, Some(key), units))));
        }
        let Some(sku) = sku else { return Ok(None) };
        let known = self.store.sku(&link.org, &sku).await?.is_some();
        Ok(known.then(|| (link.id.clone(), made(sku, None, Quantity::ONE))))
    }

    /// Finds the listing that a notice's identifiers name: by SKU where one is said and the
    /// identifiers agree, by key where they make one, else by looking at every mapping.
    pub(crate) async fn find_listing(
        &self,
        link: &Link,
        sku: Option<&Sku>,
        fields: &BTreeMap<String, String>,
    ) -> Result<Option<ListingView>, EngineError> {
        let names = |view: &ListingView| link.kind.names_listing(&view.mapping.fields, fields);
        let mut by_sku = Vec::new();
        if let Some(sku) = sku {
            by_sku = self.listings_of(&link.org, &link.id, std::slice::from_ref(sku)).await?;
            if let Some(at) = by_sku.iter().position(names) {
                return Ok(Some(by_sku.swap_remove(at)));
            }
        }
        if !fields.is_empty() {
            if let Some(view) = self.find_by_fields(link, fields).await? {
                return Ok(Some(view));
            }
            by_sku.retain(|view| !contradicts(&view.mapping.fields, fields));
        }
        Ok(by_sku.into_iter().next())
    }

    async fn find_by_fields(
        &self,
        link: &Link,
        fields: &BTreeMap<String, String>,
    ) -> Result<Option<ListingView>, EngineError> {
        let names = |view: &ListingView| link.kind.names_listing(&view.mapping.fields, fields);
        let name = format!("{fields:?}");
        let known = link.known_lines.lock().get(&name).cloned();
        let key = match known {
            Some((_, key)) => Some(key),
            None => link.kind.listing(&link.settings, fields.clone()).ok().map(|(key, _)| key),
        };
        if let Some(key) = key {
            let query = ListingQuery {
                channel: Some(link.id.clone()),
                keys: Some(vec![key]),
                limit: 1,
                ..ListingQuery::default()
            };
            let found = self.store.listings(&link.org, query).await?.items.into_iter().next();
            if let Some(view) = found.filter(names) {
                return Ok(Some(view));
            }
        }
        let mut found: Option<ListingView> = None;
        let query = ListingQuery { channel: Some(link.id.clone()), ..ListingQuery::default() };
        let look = |view: ListingView| {
            if found.is_none() && names(&view) {
                found = Some(view);
            }
        };
        self.each_listing(&link.org, query, look).await?;
        if let Some(view) = &found {
            let mut known = link.known_lines.lock();
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(name, (view.mapping.sku.clone(), view.mapping.key.clone()));
        }
        Ok(found)
    }
}

/// Returns whether two sets of identifiers name one thing by different values.
pub(crate) fn contradicts(
    ours: &BTreeMap<String, String>,
    theirs: &BTreeMap<String, String>,
) -> bool {
    let bare = |text: &str| text.rsplit('/').next().unwrap_or(text).to_owned();
    theirs
        .iter()
        .any(|(name, value)| ours.get(name).is_some_and(|known| bare(known) != bare(value)))
}

fn fingerprint(order: &OrderNotice) -> u64 {
    let mut hasher = DefaultHasher::new();
    order.updated_at.hash(&mut hasher);
    for line in &order.lines {
        let state = &line.state;
        (&line.line_id, &line.sku, state.sold, state.restocked).hash(&mut hasher);
        (state.held, state.cancelled, state.channel_fulfilled, state.part).hash(&mut hasher);
    }
    hasher.finish()
}

/// Polls a connection's orders until it is stopped: when somebody asks, and now and then.
pub(crate) async fn listen(shared: Arc<Shared>, link: Arc<Link>) {
    let mut failures = 0;
    let mut told = false;
    let mut next = Instant::now();
    while !link.stop.is_cancelled() {
        let due = if link.is_poll_wanted() && failures == 0 { Instant::now() } else { next };
        if due > Instant::now() {
            tokio::select! {
                () = link.stop.cancelled() => return,
                () = link.orders_bell.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            }
            continue;
        }
        let pause = match Box::pin(poll(&shared, &link)).await {
            Ok(()) => {
                failures = 0;
                told = false;
                Duration::from_millis(link.channel.capabilities().orders_poll_ms)
            }
            Err(error) => {
                failures += 1;
                if let EngineError::Channel(error) = &error {
                    link.heard.lock().failed = Some((shared.now(), error.clone()));
                }
                let refused = match &error {
                    EngineError::Channel(error) if refuses_us(error.kind) => Some(error),
                    _ => None,
                };
                if let Some(error) = refused {
                    if let Err(error) = shared.refused(&link, error).await {
                        tracing::warn!(%error, "a refusal could not be noted");
                    }
                } else if !link.stop.is_cancelled() && failures > 1 && !told {
                    told = true;
                    tell_deaf(&shared, &link, &error).await;
                }
                Duration::from_millis(backoff::millis(failures, POLL_MS_FIRST, POLL_MS_MAX))
            }
        };
        next = Instant::now() + pause;
        link.bell.notify_one();
    }
}

async fn tell_deaf(shared: &Shared, link: &Link, error: &EngineError) {
    let (org, channel) = (&link.org, &link.id);
    tracing::warn!(%org, %channel, %error, "the channel's orders cannot be read");
    let words = format!("orders cannot be read: {error}");
    let at = shared.now();
    let kept = words.clone();
    let edited =
        shared.edit_connection(org, channel, |row| row.note_trouble(at, "orders", kept)).await;
    if let Err(error) = edited {
        tracing::warn!(%org, %channel, %error, "the connection could not be noted");
    }
    let body = json!({ "channelId": channel.as_str(), "code": "orders", "detail": words });
    shared.tell(org, "channel.error", body).await;
}

/// Reads and books the orders that changed since the last poll.
async fn poll(shared: &Shared, link: &Link) -> Result<(), EngineError> {
    let row = shared.store.connection(&link.org, &link.id).await?;
    let hears = |row: &Connection| row.sync_orders && row.state == ConnectionState::Active;
    let Some(row) = row.filter(hears) else {
        let mut heard = link.heard.lock();
        (heard.wanted, heard.poll_wanted) = (None, None);
        return Ok(());
    };
    // A SKU that was not in the ledger may be by now.
    shared.book_unmapped(link, None).await?;
    let overlap = i64::try_from(shared.options.orders_overlap.as_millis()).unwrap_or(i64::MAX);
    let since = row.orders_seen_to.unwrap_or(row.created_at).plus_millis(-overlap);
    // What was sold before the connection came about is in the first count already.
    let since = since.max(row.created_at);
    let fresh = || LongPoll { since, cursor: None, began: shared.now() };
    let under_way = link.heard.lock().poll.take();
    let LongPoll { since, mut cursor, began } = under_way.unwrap_or_else(fresh);
    for page in 1..=ORDER_PAGES_MAX {
        let orders = link.channel.orders(&link.transport, since, cursor.as_deref()).await;
        let orders = match orders {
            Ok(orders) => orders,
            Err(error) => {
                // A passing trouble costs one page; a cursor that is refused, all of them.
                if passing(error.kind) {
                    link.heard.lock().poll = Some(LongPoll { since, cursor, began });
                }
                return Err(EngineError::Channel(error));
            }
        };
        let book = async |order: OrderNotice| {
            if shared.book(link, &order).await?.is_news {
                link.found_by_poll(order.updated_at);
            }
            Ok::<(), EngineError>(())
        };
        stream::iter(orders.items.into_iter().map(Ok))
            .try_for_each_concurrent(TOGETHER_MAX, book)
            .await?;
        cursor = orders.next;
        if cursor.is_none() {
            break;
        }
        if page == ORDER_PAGES_MAX {
            link.heard.lock().poll = Some(LongPoll { since, cursor, began });
            return Ok(());
        }
    }
    // Written now and then only: a start goes back a little further for it.
    let moved = row.orders_seen_to.is_none_or(|to| began.micros_since(to) > 30_000_000);
    if moved {
        shared.edit_connection(&link.org, &link.id, |row| row.orders_seen_to = Some(began)).await?;
    }
    let mut heard = link.heard.lock();
    heard.note(began);
    heard.polled_at = Some(began);
    if heard.poll_wanted.is_some_and(|wanted| wanted <= began) {
        heard.poll_wanted = None;
    }
    Ok(())
}

/// Returns whether the same request may come through later.
pub(crate) fn passing(kind: ChannelErrorKind) -> bool {
    use ChannelErrorKind::{Throttled, Transient, UnknownOutcome};
    matches!(kind, Transient | Throttled | UnknownOutcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_contradict_by_value_and_not_by_spelling() {
        let of = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let gid = "gid://shopify/ProductVariant/7";
        assert!(!contradicts(&of("variantId", gid), &of("variantId", "7")));
        assert!(contradicts(&of("variantId", gid), &of("variantId", "8")));
        assert!(!contradicts(&of("inventoryItemId", "1"), &of("variantId", "8")));
    }
}
