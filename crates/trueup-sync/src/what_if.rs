//! What would change if settings, mappings or counts were others: computed from what is known, and
//! nothing is done.

use std::collections::{BTreeMap, BTreeSet};

use trueup_core::{
    ChannelId, ListingKey, Org, ReconcileAction, SetOnHand, Sku, SkuState, Strategy,
};
use trueup_store::{Connection, ListingQuery, ListingView, RuleSettings, rules_in_force};

use crate::engine::{Engine, EngineError, MappingDraft, drift_of};
use crate::impact::{Agreed, Impact, takes_part};
use crate::plan;
use crate::rehearse::{self, Settling};
use crate::shared::SKUS_MAX;

/// Settings to be tried; what is not given stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhatIf {
    /// Publishing rules of the connection.
    pub rules: RuleSettings,
    /// The connection's strategy.
    pub strategy: Option<Strategy>,
}

impl WhatIf {
    /// Returns these rules, and those that stand where nothing is given.
    pub(crate) fn over(&self, stands: &RuleSettings) -> RuleSettings {
        let given = &self.rules;
        RuleSettings {
            buffer: given.buffer.or(stands.buffer),
            percent: given.percent.or(stands.percent),
            max_quantity: given.max_quantity.or(stands.max_quantity),
            zero_below: given.zero_below.or(stands.zero_below),
            ..stands.clone()
        }
    }
}

impl Engine {
    /// Returns what other publishing rules and another strategy of a connection would change of
    /// what its listings are told. What is owed by listings anyway is not counted. A strategy is
    /// tried on what listings showed when they were last read.
    ///
    /// # Errors
    /// [`EngineError::ChannelNotFound`], or the store's.
    pub async fn impact_of_settings(
        &self,
        org: &Org,
        channel: &ChannelId,
        asked: &WhatIf,
    ) -> Result<Impact, EngineError> {
        let row = self.row(org, channel).await?;
        let after = Connection { rules: asked.over(&row.rules), ..row.clone() };
        let mut impact = self.impact_of_row(org, &row, &after).await?;
        if let Some(strategy) = asked.strategy {
            self.weigh_strategy(org, &after, strategy, &mut impact).await?;
        }
        Ok(impact)
    }

    /// Adds what a strategy would make of differences that were read and are not settled.
    async fn weigh_strategy(
        &self,
        org: &Org,
        row: &Connection,
        strategy: Strategy,
        impact: &mut Impact,
    ) -> Result<(), EngineError> {
        let now = self.shared().now();
        let quantity_max = self.quantity_max(org, &row.id);
        let settling = Settling { read_at: now, settle_ms: 0, strategy: Some(strategy) };
        let query = ListingQuery {
            channel: Some(row.id.clone()),
            suspicious: true,
            ..ListingQuery::default()
        };
        let look = |mut view: ListingView| {
            view.state.rules = rules_in_force(&view.mapping.rules, &row.rules);
            // Its own strategy stands over the channel's.
            let Some((seen, _)) = drift_of(&view, quantity_max) else { return };
            if view.mapping.strategy.is_some() || view.state.in_conflict {
                return;
            }
            let known = [(view, seen.quantity)];
            let done = rehearse::readings(&row.id, now, settling, &known);
            for item in &done {
                match item.action {
                    ReconcileAction::Adopted => impact.adopted += 1,
                    ReconcileAction::Conflict => impact.conflicts += 1,
                    // What is pushed over is among what the rules change.
                    ReconcileAction::Push | ReconcileAction::Matched | ReconcileAction::Pending => {
                    }
                }
            }
        };
        self.shared().each_listing(org, query, look).await
    }

    /// Returns what another row of a connection would change.
    pub(crate) async fn impact_of_row(
        &self,
        org: &Org,
        before: &Connection,
        after: &Connection,
    ) -> Result<Impact, EngineError> {
        let mut impact = Impact::default();
        // A pause keeps what is owed; it is sent after it whatever becomes of the rules.
        let sends = before.sync_inventory && !before.dry_run;
        let quantity_max = self.quantity_max(org, &before.id);
        let query = ListingQuery { channel: Some(before.id.clone()), ..ListingQuery::default() };
        let look = |mut view: ListingView| {
            impact.listings += u64::from(takes_part(&view));
            // What changes of it goes out whatever becomes of the rules.
            let is_owed = sends && view.is_dirty();
            if plan::barred(&view).is_some() || is_owed {
                return;
            }
            view.state.rules = rules_in_force(&view.mapping.rules, &after.rules);
            if let Some(number) = plan::expected(&view, quantity_max) {
                impact.tell(&view, number);
            }
        };
        self.shared().each_listing(org, query, look).await?;
        Ok(impact)
    }

    /// Returns what mappings would change of what listings that are mapped already are told.
    /// Nothing is known of what others show.
    ///
    /// # Errors
    /// As [`Engine::check_mappings`].
    pub async fn impact_of_mappings(
        &self,
        org: &Org,
        channel: &ChannelId,
        drafts: Vec<MappingDraft>,
    ) -> Result<Impact, EngineError> {
        let row = self.row(org, channel).await?;
        let mappings = self.check_mappings(org, channel, drafts).await?;
        let mut impact = Impact::default();
        let quantity_max = self.quantity_max(org, channel);
        let by_key: BTreeMap<ListingKey, _> =
            mappings.into_iter().map(|mapping| (mapping.key.clone(), mapping)).collect();
        let skus: BTreeSet<Sku> = by_key.values().map(|mapping| mapping.sku.clone()).collect();
        let skus: Vec<Sku> = skus.into_iter().collect();
        for mut view in self.shared().listings_of(org, channel, &skus).await? {
            let Some(mapping) = by_key.get(&view.mapping.key) else { continue };
            let is_owed = row.publishes() && view.is_dirty();
            if mapping.sku != view.mapping.sku || is_owed {
                continue;
            }
            view.state.rules = rules_in_force(&mapping.rules, &row.rules);
            view.mapping = mapping.clone();
            if plan::barred(&view).is_some() {
                continue;
            }
            if let Some(number) = plan::expected(&view, quantity_max) {
                impact.tell(&view, number);
            }
        }
        Ok(impact)
    }

    /// Returns what counts would change of what each channel is told; bundles are left out.
    ///
    /// # Errors
    /// The store's.
    pub async fn impact_of_counts(
        &self,
        org: &Org,
        counts: impl IntoIterator<Item = &SetOnHand>,
    ) -> Result<BTreeMap<ChannelId, Impact>, EngineError> {
        let mut by_sku: BTreeMap<&Sku, Vec<&SetOnHand>> = BTreeMap::new();
        for count in counts {
            by_sku.entry(&count.sku).or_default().push(count);
        }
        let mut impacts: BTreeMap<ChannelId, Impact> = BTreeMap::new();
        let skus: Vec<&Sku> = by_sku.keys().copied().collect();
        for skus in skus.chunks(SKUS_MAX) {
            let skus = skus.iter().map(|sku| (*sku).clone()).collect();
            let query = ListingQuery { skus: Some(skus), ..ListingQuery::default() };
            let look = |mut view: ListingView| {
                if plan::barred(&view).is_some() {
                    return;
                }
                let quantity_max = self.quantity_max(org, &view.mapping.channel);
                let counts = by_sku.get(&view.mapping.sku).map_or(&[][..], Vec::as_slice);
                if let Some(known) = view.sku.as_mut().filter(|sku| !sku.state.is_bundle()) {
                    counts.iter().for_each(|count| set(&mut known.state, count));
                }
                if let Some(number) = plan::expected(&view, quantity_max) {
                    impacts.entry(view.mapping.channel.clone()).or_default().tell(&view, number);
                }
            };
            self.shared().each_listing(org, query, look).await?;
        }
        Ok(impacts)
    }

    /// Refuses counts that would change more of a channel than one act may.
    ///
    /// # Errors
    /// [`EngineError::TooWide`], or the store's.
    pub async fn check_counts(
        &self,
        org: &Org,
        counts: impl IntoIterator<Item = &SetOnHand>,
    ) -> Result<(), EngineError> {
        let rows = self.shared().store.connections(org).await?;
        let rows: Vec<Connection> = rows.into_iter().filter(Connection::publishes).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let mut impacts = self.impact_of_counts(org, counts).await?;
        for row in rows {
            if let Some(impact) = impacts.remove(&row.id) {
                self.check_radius(org, &row, impact).await?;
            }
        }
        Ok(())
    }

    /// Refuses mappings that would change more of a channel than one act may.
    ///
    /// # Errors
    /// [`EngineError::TooWide`], or as [`Engine::check_mappings`].
    pub async fn check_mapping_radius(
        &self,
        org: &Org,
        channel: &ChannelId,
        drafts: Vec<MappingDraft>,
    ) -> Result<(), EngineError> {
        let row = self.row(org, channel).await?;
        if !row.publishes() {
            return Ok(());
        }
        let impact = self.impact_of_mappings(org, channel, drafts).await?;
        self.check_radius(org, &row, impact).await
    }

    /// Refuses an act that would change more of a channel than one may.
    pub(crate) async fn check_radius(
        &self,
        org: &Org,
        row: &Connection,
        mut impact: Impact,
    ) -> Result<(), EngineError> {
        if impact.is_free(&row.blast_radius) {
            return Ok(());
        }
        if impact.listings == 0 {
            impact.listings = self.shared().count_listings(org, &row.id).await?;
        }
        match impact.excess(&row.blast_radius, Agreed::default()) {
            None => Ok(()),
            Some(why) => {
                let (channel, impact) = (row.id.clone(), Box::new(impact));
                Err(EngineError::TooWide { channel, why, impact })
            }
        }
    }

    fn quantity_max(&self, org: &Org, channel: &ChannelId) -> u64 {
        let link = self.shared().link(org, channel);
        link.map_or(u64::MAX, |link| link.channel.capabilities().quantity_max)
    }
}

/// Puts a count in the place of what stands at its location.
fn set(state: &mut SkuState, count: &SetOnHand) {
    let on_hand = count.quantity.delta();
    if let Some(safety_stock) = count.settings.safety_stock {
        state.safety_stock = safety_stock;
    }
    match state.levels.binary_search_by(|level| level.location.cmp(&count.location)) {
        Ok(at) => state.levels[at].on_hand = on_hand,
        Err(at) => {
            let (location, reserved) = (count.location.clone(), trueup_core::Quantity::ZERO);
            state.levels.insert(at, trueup_core::Level { location, on_hand, reserved });
        }
    }
}
