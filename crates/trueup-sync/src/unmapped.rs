//! Lines of orders that came before their mapping: kept, listed, booked when something answers to
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use trueup_channels::{LineState, OrderLine, OrderNotice};
use trueup_core::{
    ChannelId, ChannelLine, ChannelOrder, Command, Location, Org, Quantity, RestockPolicy, Sku,
    Source,
};
use trueup_store::{
    HeldLine, HistoryEntry, ListingQuery, ListingView, Mapping, OrderLineId, UnmappedLine,
};

use crate::engine::EngineError;
use crate::link::Link;
use crate::shared::Shared;

/// The most lines that are looked at together.
const LINES_MAX: usize = 500;
/// How often all mappings are looked at for lines that wait for the SKU of one.
const SCAN_PAUSE: Duration = Duration::from_secs(60);

impl Shared {
    /// Keeps lines that nothing answers to, and notes each of them once.
    pub(crate) async fn keep_unmapped(
        &self,
        link: &Link,
        order: &OrderNotice,
        lines: &[OrderLine],
    ) -> Result<(), EngineError> {
        let now = self.now();
        let line = |line: &OrderLine| UnmappedLine {
            order_id: order.order_id.clone(),
            line_id: line.line_id.clone(),
            sku: line.sku.clone(),
            fields: line.fields.clone(),
            sold: line.state.sold,
            restocked: line.state.restocked,
            held: line.state.held,
            cancelled: line.state.cancelled,
            placed_at: order.placed_at,
            updated_at: order.updated_at,
            since: now,
        };
        let kept: Vec<UnmappedLine> = lines.iter().map(line).collect();
        let new = self.store.put_unmapped_lines(&link.org, &link.id, kept).await?;
        let is_new = |line: &&OrderLine| new.iter().any(|(_, id)| *id == line.line_id);
        let noted = lines.iter().filter(is_new).map(|line| {
            let sku = line.sku.as_deref().and_then(|text| Sku::new(text).ok());
            let detail = json!({
                "code": "mapping_missing", "orderId": order.order_id, "lineId": line.line_id,
                "channelSku": line.sku, "listing": line.fields,
                "detail": "an order names a listing that no mapping and no SKU answers to",
            });
            HistoryEntry { sku, ..self.entry(&link.id, "mapping_missing", "warning", detail) }
        });
        self.note(&link.org, noted.collect()).await;
        Ok(())
    }

    /// Books the kept lines that something answers to by now; with mappings, only those that
    /// one of these may answer to. Without, SKUs are looked for each time, and mappings whose
    /// SKU is there by now once in a while.
    pub(crate) async fn book_unmapped(
        &self,
        link: &Link,
        mappings: Option<&[Mapping]>,
    ) -> Result<(), EngineError> {
        let wanted = mappings.map(Answers::of);
        let looks_at_mappings = wanted.is_none() && link.may_scan(SCAN_PAUSE);
        let mut after: Option<OrderLineId> = None;
        loop {
            let (org, id) = (&link.org, &link.id);
            let page = self.store.unmapped_lines(org, id, after.take(), LINES_MAX).await?;
            after = page.items.last().map(|line| (line.order_id.clone(), line.line_id.clone()));
            let answered = match looks_at_mappings && !page.items.is_empty() {
                true => Some(self.answered(link, &page.items).await?),
                false => None,
            };
            for kept in page.items {
                let may = match (&wanted, &answered) {
                    (Some(wanted), _) => wanted.may_be(&kept),
                    (None, Some(answered)) if answered.may_be(&kept) => true,
                    (None, _) => self.has_sku(org, kept.sku.as_deref()).await?,
                };
                if may {
                    self.book_kept(link, kept).await?;
                }
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Returns the names by which the mappings of known SKUs may answer to these lines.
    async fn answered(&self, link: &Link, lines: &[UnmappedLine]) -> Result<Answers, EngineError> {
        let named: BTreeSet<&str> = lines.iter().flat_map(|line| values_of(&line.fields)).collect();
        let mut answers = Answers::default();
        let query = ListingQuery { channel: Some(link.id.clone()), ..ListingQuery::default() };
        let look = |view: ListingView| {
            let values = values_of(&view.mapping.fields);
            if view.sku.is_some() && values.into_iter().any(|value| named.contains(value)) {
                answers.add(&view.mapping);
            }
        };
        self.each_listing(&link.org, query, look).await?;
        Ok(answers)
    }

    async fn has_sku(&self, org: &Org, sku: Option<&str>) -> Result<bool, EngineError> {
        let Some(sku) = sku.and_then(|text| Sku::new(text).ok()) else { return Ok(false) };
        Ok(self.store.sku(org, &sku).await?.is_some())
    }

    async fn book_kept(&self, link: &Link, kept: UnmappedLine) -> Result<(), EngineError> {
        let state = LineState {
            sold: kept.sold,
            restocked: kept.restocked,
            held: kept.held,
            cancelled: kept.cancelled,
            ..LineState::default()
        };
        let (line_id, sku, fields) = (kept.line_id.clone(), kept.sku.clone(), kept.fields.clone());
        let line = OrderLine { line_id, sku, fields, state };
        let _turn = self.order_turn(link, &kept.order_id).await;
        let before = self.booked_before(link, &kept.order_id).await?;
        let Some(line) = self.resolve_line(link, &line).await? else { return Ok(()) };
        let named = (kept.order_id.as_str(), kept.updated_at);
        match self.submit_lines(link, named, &before, vec![line]).await {
            Ok(()) => {}
            // It stays in the list for people.
            Err(EngineError::Rejected(rejection)) => {
                let (order, line) = (&kept.order_id, &kept.line_id);
                tracing::warn!(org = %link.org, channel = %link.id, order, line, %rejection,
                    "a kept line could not be booked");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.store.delete_unmapped_lines(&link.org, &link.id, vec![kept]).await?;
        Ok(())
    }

    /// Lets go of what a connection's pending orders hold: nobody will tell of their end.
    pub(crate) async fn release_held(
        &self,
        org: &Org,
        channel: &ChannelId,
    ) -> Result<(), EngineError> {
        loop {
            let page = self.store.held_lines(org, channel, None, LINES_MAX).await?;
            if page.items.is_empty() {
                return Ok(());
            }
            for HeldLine { order_id, line_id, sku, .. } in page.items {
                let nothing = ChannelLine {
                    line: Arc::from(line_id),
                    listing: None,
                    sku,
                    units: Quantity::ONE,
                    sold: 0,
                    restocked: 0,
                    held: 0,
                    cancelled: 0,
                };
                let command = Command::ChannelOrder(ChannelOrder {
                    channel: channel.clone(),
                    order: Arc::from(order_id),
                    occurred_at: None,
                    location: Location::main(),
                    restock: RestockPolicy::Restock,
                    lines: vec![nothing],
                });
                self.submit(org, command, Source::Channel).await?;
            }
        }
    }
}

/// The names by which mappings may answer to a line.
#[derive(Default)]
struct Answers {
    skus: BTreeSet<Sku>,
    values: BTreeSet<String>,
}

impl Answers {
    fn of(mappings: &[Mapping]) -> Self {
        let mut answers = Self::default();
        mappings.iter().for_each(|mapping| answers.add(mapping));
        answers
    }

    fn add(&mut self, mapping: &Mapping) {
        self.skus.insert(mapping.sku.clone());
        self.values.extend(values_of(&mapping.fields).map(str::to_owned));
    }

    fn may_be(&self, line: &UnmappedLine) -> bool {
        line.sku.as_deref().is_some_and(|sku| self.skus.contains(sku))
            || values_of(&line.fields).any(|value| self.values.contains(value))
    }
}

/// Returns identifiers without what stands before them in some notices and not in others.
fn values_of(fields: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    fields.values().map(|value| value.rsplit('/').next().unwrap_or(value))
}
