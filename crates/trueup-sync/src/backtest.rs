//! Trying settings on what has happened: the ledger's lines of a window are gone through once, with
//! the rules in force and with others.
//!
//! What the channel showed at each instant is not recorded. A sale is taken to have been made on the
//! newest number that the rules in force gave and that allowed it; the other rules would have shown
//! by so much less.

use std::collections::VecDeque;

use trueup_core::publish::Stock;
use trueup_core::{
    ChannelId, Delta, Level, Location, Movement, MovementKind, Org, Quantity, Rules, Sku, SkuState,
    Strategy, Timestamp,
};
use trueup_store::{Connection, ListingQuery, ListingView, MovementQuery, rules_in_force};

use crate::engine::{Engine, EngineError};
use crate::impact::takes_part;
use crate::what_if::WhatIf;

/// The most ledger lines that one back-test goes through.
pub const BACKTEST_LINES_MAX: usize = 200_000;
/// How many lines are read at once.
const PAGE_LINES: usize = 1_000;
/// How many numbers back one is looked for that allowed a sale.
const LOOK_BACK_MAX: usize = 64;
/// Conflicts looked at once, and the most pages of them.
const PAGE_CONFLICTS: usize = 500;
const CONFLICT_PAGES_MAX: usize = 20;

/// Which settings are tried on what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacktestRequest {
    /// The settings.
    pub settings: WhatIf,
    /// From this instant on.
    pub from: Timestamp,
    /// Up to this one.
    pub to: Timestamp,
    /// Only these SKUs; `None` = all that the channel has listings of.
    pub skus: Option<Vec<Sku>>,
}

/// What other settings would have made of what has happened. Units are of SKUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backtest {
    /// SKUs that were gone through.
    pub skus: u64,
    /// Listings that were left out: bundles, and a SKU's listings but the first.
    pub left_out: u64,
    /// Ledger lines that were gone through.
    pub lines: u64,
    /// Whether there were more than [`BACKTEST_LINES_MAX`]: what is left was not looked at.
    pub is_cut: bool,
    /// Units that the channel sold.
    pub sold: u64,
    /// Sales of the channel that promised more than there was, and by how many units.
    pub oversells: u64,
    /// Units that were promised and were not there.
    pub oversold_units: u64,
    /// Oversells that the other rules would have avoided as a whole.
    pub avoided: u64,
    /// Units that they would not have promised.
    pub avoided_units: u64,
    /// Units that were sold, were there, and would not have been offered.
    pub missed_units: u64,
    /// Units that would be hidden at the end of the window beyond those that are.
    pub hidden_units: u64,
    /// The same, on average over the window, rounded to the next unit.
    pub hidden_average: u64,
    /// Changes of the channel's own that were adopted or waited for an operator.
    pub differences: u64,
    /// How many of them the strategy would have carried into master.
    pub adopted: u64,
    /// How many would have waited for an operator.
    pub conflicts: u64,
}

impl Engine {
    /// Tries settings of a connection on what has happened.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn backtest(
        &self,
        org: &Org,
        channel: &ChannelId,
        request: &BacktestRequest,
    ) -> Result<Backtest, EngineError> {
        let row = self.row(org, channel).await?;
        let strategy = request.settings.strategy.or(row.strategy).unwrap_or_default();
        let mut found = Backtest::default();
        let mut hidden = 0_u128;
        for (sku, now, then) in self.tried(org, &row, request, &mut found).await? {
            let left = BACKTEST_LINES_MAX.saturating_sub(usize::try_from(found.lines).unwrap_or(0));
            if left == 0 {
                found.is_cut = true;
                break;
            }
            let (lines, is_cut) = self.lines_of(org, &sku, request, left).await?;
            found.is_cut |= is_cut;
            let mut trial = Trial::new(channel, &now, &then, request.to);
            lines.iter().for_each(|line| trial.take(line, strategy));
            hidden += trial.hidden_micros();
            found.add(&trial.found);
        }
        self.count_conflicts(org, channel, request, strategy, &mut found).await?;
        let window = u128::try_from(request.to.micros_since(request.from)).unwrap_or(0).max(1);
        found.hidden_average = u64::try_from(hidden.div_ceil(window)).unwrap_or(u64::MAX);
        Ok(found)
    }

    /// Returns the SKUs to go through, with the rules in force and those to be tried.
    async fn tried(
        &self,
        org: &Org,
        row: &Connection,
        request: &BacktestRequest,
        found: &mut Backtest,
    ) -> Result<Vec<(Sku, Rules, Rules)>, EngineError> {
        let other = request.settings.over(&row.rules);
        let mut tried: Vec<(Sku, Rules, Rules)> = Vec::new();
        let query = ListingQuery {
            channel: Some(row.id.clone()),
            skus: request.skus.clone(),
            ..ListingQuery::default()
        };
        let look = |view: ListingView| {
            if !takes_part(&view) {
                return;
            }
            let sku = &view.mapping.sku;
            let is_bundle = view.sku.as_ref().is_none_or(|known| known.state.is_bundle());
            // Listings come by SKU.
            if is_bundle || tried.last().is_some_and(|(last, _, _)| last == sku) {
                found.left_out += 1;
                return;
            }
            let of = |rules| rules_in_force(&view.mapping.rules, rules);
            tried.push((sku.clone(), of(&row.rules), of(&other)));
        };
        self.shared().each_listing(org, query, look).await?;
        Ok(tried)
    }

    /// Reads a SKU's lines of the window, oldest first: at most so many, the newest of them.
    async fn lines_of(
        &self,
        org: &Org,
        sku: &Sku,
        request: &BacktestRequest,
        lines_max: usize,
    ) -> Result<(Vec<Movement>, bool), EngineError> {
        let mut lines: Vec<Movement> = Vec::new();
        loop {
            let query = MovementQuery {
                from: Some(request.from),
                to: Some(request.to),
                before_seq: lines.last().map(|line| line.seq),
                limit: PAGE_LINES.min(lines_max - lines.len()),
                ..MovementQuery::default()
            };
            let page = self.shared().desk.movements(org, sku, query).await?;
            let is_empty = page.items.is_empty();
            lines.extend(page.items);
            if !page.more || is_empty || lines.len() >= lines_max {
                lines.reverse();
                return Ok((lines, page.more));
            }
        }
    }

    /// Counts differences of the window that waited for an operator.
    async fn count_conflicts(
        &self,
        org: &Org,
        channel: &ChannelId,
        request: &BacktestRequest,
        strategy: Strategy,
        found: &mut Backtest,
    ) -> Result<(), EngineError> {
        let mut before = None;
        for _ in 0..CONFLICT_PAGES_MAX {
            let store = &self.shared().desk;
            let page = store.conflicts(org, None, Some(channel), before, PAGE_CONFLICTS).await?;
            for one in &page.items {
                let is_within = one.opened_at >= request.from && one.opened_at < request.to;
                let is_asked = request.skus.as_ref().is_none_or(|skus| skus.contains(&one.sku));
                if is_within && is_asked {
                    let moved = one.observed.saturating_sub(one.base.unwrap_or(one.expected));
                    found.note_difference(moved, strategy);
                }
            }
            before = page.items.last().map(|one| one.id);
            let is_older = page.items.last().is_some_and(|one| one.opened_at < request.from);
            if !page.more || is_older {
                return Ok(());
            }
        }
        found.is_cut = true;
        Ok(())
    }
}

impl Backtest {
    /// Counts a change of the channel's own, and what a strategy would have made of it.
    fn note_difference(&mut self, moved: i64, strategy: Strategy) {
        self.differences += 1;
        match strategy {
            Strategy::ChannelWins => self.adopted += 1,
            Strategy::LowerWins => self.adopted += u64::from(moved < 0),
            Strategy::Manual => self.conflicts += 1,
            Strategy::MasterWins => {}
        }
    }

    fn add(&mut self, one: &Self) {
        self.skus += 1;
        self.lines += one.lines;
        self.sold += one.sold;
        self.oversells += one.oversells;
        self.oversold_units += one.oversold_units;
        self.avoided += one.avoided;
        self.avoided_units += one.avoided_units;
        self.missed_units += one.missed_units;
        self.hidden_units += one.hidden_units;
        self.differences += one.differences;
        self.adopted += one.adopted;
        self.conflicts += one.conflicts;
    }
}

/// What a listing is told by the rules in force, and by others.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    now: u64,
    then: u64,
    at: Timestamp,
}

/// One SKU gone through.
struct Trial<'a> {
    /// What references of the channel's orders begin with, and of what was adopted of it.
    orders: String,
    channel: &'a str,
    now: &'a Rules,
    then: &'a Rules,
    until: Timestamp,
    /// The newest numbers, newest first.
    told: VecDeque<Numbers>,
    /// Units hidden times the microseconds that they were.
    hidden: u128,
    found: Backtest,
}

impl<'a> Trial<'a> {
    fn new(channel: &'a ChannelId, now: &'a Rules, then: &'a Rules, until: Timestamp) -> Self {
        Self {
            orders: format!("{channel}:"),
            channel: channel.as_str(),
            now,
            then,
            until,
            told: VecDeque::with_capacity(LOOK_BACK_MAX),
            hidden: 0,
            found: Backtest::default(),
        }
    }

    fn take(&mut self, line: &Movement, strategy: Strategy) {
        self.found.lines += 1;
        let (on_hand, reserved) = (line.quantity_after.get(), line.reserved_after.get());
        if self.told.is_empty() {
            let before = on_hand.saturating_sub(line.delta.get());
            let held = i64::try_from(reserved).unwrap_or(i64::MAX);
            let held = held.saturating_sub(line.reserved_delta.get());
            let held = u64::try_from(held).unwrap_or(0);
            self.tell(before, held, line.safety_stock, line.at);
        }
        let reference = line.reference.as_deref().unwrap_or_default();
        match line.kind {
            MovementKind::ChannelSale if reference.starts_with(&self.orders) => self.sell(line),
            MovementKind::ChannelAdopted if reference == self.channel => {
                self.found.note_difference(line.delta.get(), strategy);
            }
            _ => {}
        }
        self.tell(on_hand, reserved, line.safety_stock, line.at);
    }

    fn sell(&mut self, line: &Movement) {
        let units = line.delta.get().unsigned_abs();
        self.found.sold += units;
        let shown = self.told.iter().find(|told| told.now >= units).or(self.told.front());
        let (now, then) = shown.map_or((0, 0), |told| (told.now, told.then));
        let less = now.saturating_sub(then);
        let reserved = i64::try_from(line.reserved_after.get()).unwrap_or(i64::MAX);
        let free = line.quantity_after.get().saturating_sub(reserved);
        let short = if free < 0 { free.unsigned_abs().min(units) } else { 0 };
        if short > 0 {
            self.found.oversells += 1;
            self.found.oversold_units += short;
            self.found.avoided_units += short.min(less);
            self.found.avoided += u64::from(less >= short);
        }
        let not_offered = units.saturating_sub(then).min(less);
        self.found.missed_units += not_offered.saturating_sub(short.min(less));
    }

    /// Notes the numbers of a state.
    fn tell(&mut self, on_hand: i64, reserved: u64, safety_stock: Quantity, at: Timestamp) {
        self.pass(at);
        let number = |rules: &Rules| {
            let place = rules.locations.as_ref().and_then(|all| all.first().cloned());
            let level = Level {
                location: place.unwrap_or_else(Location::main),
                on_hand: Delta::new(on_hand).unwrap_or(Delta::ZERO),
                reserved: Quantity::new(reserved).unwrap_or(Quantity::ZERO),
            };
            let mut state = SkuState { safety_stock, ..SkuState::new() };
            state.levels.push(level);
            let listed = rules.publish(Stock::Single(&state)).published;
            listed.saturating_mul(rules.units_per_listing.get())
        };
        let (now, then) = (number(self.now), number(self.then));
        self.told.truncate(LOOK_BACK_MAX - 1);
        self.told.push_front(Numbers { now, then, at });
        self.found.hidden_units = now.saturating_sub(then);
    }

    /// Adds up what is hidden until an instant.
    fn pass(&mut self, to: Timestamp) {
        let Some(told) = self.told.front_mut() else { return };
        let micros = u128::try_from(to.micros_since(told.at)).unwrap_or(0);
        self.hidden += micros * u128::from(told.now.saturating_sub(told.then));
        told.at = told.at.max(to);
    }

    fn hidden_micros(&mut self) -> u128 {
        self.pass(self.until);
        self.hidden
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A line: seconds, kind, change, on hand after, reserved after.
    fn line(at: i64, kind: MovementKind, delta: i64, after: i64, reserved: u64) -> Movement {
        let units = |units| Delta::new(units).unwrap();
        Movement {
            sku: Sku::new("A").unwrap(),
            seq: 1,
            at: Timestamp::from_micros(at * 1_000_000),
            kind,
            location: Location::main(),
            delta: units(delta),
            reserved_delta: Delta::ZERO,
            quantity_after: units(after),
            reserved_after: Quantity::new(reserved).unwrap(),
            location_quantity_after: units(after),
            location_reserved_after: Quantity::ZERO,
            safety_stock: Quantity::ZERO,
            low_stock_threshold: None,
            backorder_limit: Quantity::ZERO,
            publish: true,
            reason: None,
            actor: Arc::from("test"),
            source: trueup_core::Source::Channel,
            reference: Some(Arc::from(match kind {
                MovementKind::ChannelAdopted => "shop",
                _ => "shop:1001",
            })),
        }
    }

    fn tried(buffer: u64, lines: &[Movement]) -> (Backtest, u128) {
        let channel = ChannelId::new("shop").unwrap();
        let now = Rules::default();
        let then = Rules { buffer: Quantity::new(buffer).unwrap(), ..Rules::default() };
        let mut trial = Trial::new(&channel, &now, &then, Timestamp::from_micros(100_000_000));
        lines.iter().for_each(|line| trial.take(line, Strategy::LowerWins));
        let hidden = trial.hidden_micros() / 1_000_000;
        (trial.found, hidden)
    }

    #[test]
    fn a_buffer_avoids_what_it_covers_and_misses_what_it_hides() {
        use MovementKind::{ChannelAdopted, ChannelSale, Commit, Count};
        let sold_twice = [
            line(0, Count, 10, 10, 0),
            // Somebody buys nine elsewhere; the channel sells two of the ten it still shows.
            line(10, Commit, -9, 1, 0),
            line(20, ChannelSale, -2, -1, 0),
        ];
        // Buffer; oversells and units of them, avoided, units of them; sold and not offered.
        let table = [
            (0, (1, 1, 0, 0), 0),
            (1, (1, 1, 1, 1), 0),
            (9, (1, 1, 1, 1), 0),
            (10, (1, 1, 1, 1), 1),
        ];
        for (buffer, oversells, missed) in table {
            let (found, _) = tried(buffer, &sold_twice);
            let got = (found.oversells, found.oversold_units, found.avoided, found.avoided_units);
            assert_eq!((got, found.missed_units), (oversells, missed), "{buffer}");
            assert_eq!((found.sold, found.lines), (2, 3));
        }
        let plain = [
            line(0, Count, 5, 5, 0),
            line(50, ChannelSale, -4, 1, 0),
            line(60, ChannelAdopted, -1, 0, 0),
            line(70, ChannelAdopted, 3, 3, 0),
        ];
        let (found, hidden) = tried(2, &plain);
        assert_eq!((found.oversells, found.missed_units, found.hidden_units), (0, 1, 2));
        // Two of five for 50 s, the one that is left for 10, none for 10, two for 30.
        assert_eq!(hidden, 2 * 50 + 10 + 2 * 30);
        assert_eq!((found.differences, found.adopted), (2, 1), "only what lowers is adopted");
    }
}
