//! Records out of their rows, the same for both stores: each statement selects the columns in the
//! order in which its reader takes them.

use trueup_core::{
    ChannelId, LineBooked, ListingKey, ListingState, Observed, Sent, Sku, SkuAnswer,
};

use super::columns::ReadColumns;
use super::conflicts::resolved;
use super::listings::Settings;
use super::{feeds, holds, parse_name};
use crate::port::{
    ChannelListing, ChannelListingView, Conflict, Connection, Consent, Delivery, Feed, HeldLine,
    HistoryEntry, InboxItem, ListingView, Mapping, Page, Parked, Pause, Reason, Revised, Run,
    ScopeLeader, UnmappedLine,
};
use crate::scopes::Member;

/// A listing with all that rows know of it.
pub(crate) struct ListingRow {
    /// The mapping.
    pub(crate) mapping: Mapping,
    /// What was sent, acknowledged and read, with the settings in force.
    pub(crate) state: ListingState,
    /// Why it is not pushed, if it is not.
    pub(crate) parked: Option<Parked>,
    /// How often in a row a push or its verification has failed.
    pub(crate) attempts: u32,
    /// How often it was revised in the vendor's day of its latest revision.
    pub(crate) revised: Option<Revised>,
    /// Its quantity scope.
    pub(crate) scope: Option<String>,
    /// The listing of its scope that is told the number, where it is another one.
    pub(crate) leader: Option<(ChannelId, ListingKey)>,
    /// Whether its SKU or the whole org is paused.
    pub(crate) paused: bool,
}

impl ListingRow {
    /// Returns the listing with its SKU as it stands.
    pub(crate) fn view(self, sku: Option<SkuAnswer>) -> ListingView {
        let Self { mapping, state, parked, attempts, revised, scope, leader, paused } = self;
        ListingView { mapping, state, parked, attempts, revised, scope, leader, paused, sku }
    }
}

/// Returns a page of no more than the limit that ends with a whole group of one SKU and key;
/// `None` where it cannot hold the first group.
pub(crate) fn whole_groups(found: Page<ListingRow>, limit: usize) -> Option<Page<ListingRow>> {
    let Page { mut items, more } = found;
    let Some(next) = items.get(limit).map(|row| row.mapping.clone()) else {
        return Some(Page { items, more });
    };
    let is_of_next = |row: &ListingRow| row.mapping.sku == next.sku && row.mapping.key == next.key;
    items.truncate(limit);
    let whole = items.iter().rposition(|row| !is_of_next(row)).map_or(0, |at| at + 1);
    if whole == 0 && limit > 0 {
        return None;
    }
    items.truncate(whole);
    Some(Page { items, more: true })
}

/// Reads what the merchant set of a listing and of its connection.
pub(crate) fn settings<C: ReadColumns>(columns: &mut C) -> Result<Settings, C::Error> {
    Ok(Settings {
        channel: columns.name()?,
        key: columns.name()?,
        sku: columns.name()?,
        channel_fulfilled: columns.value()?,
        follows: columns.value()?,
        strategy: columns.optional_word()?,
        rules: columns.rules()?,
        channel_strategy: columns.optional_word()?,
        channel_rules: columns.optional_rules()?.unwrap_or_default(),
    })
}

/// Reads what is known of a listing.
pub(crate) fn listing_state<C: ReadColumns>(
    columns: &mut C,
    settings: &Settings,
) -> Result<ListingState, C::Error> {
    Ok(ListingState {
        channel: settings.channel.clone(),
        key: settings.key.clone(),
        sku: settings.sku.clone(),
        rules: settings.rules(),
        strategy: settings.strategy(),
        channel_fulfilled: settings.channel_fulfilled,
        follows: settings.follows,
        home: settings.home(),
        base: columns.value()?,
        base_at: columns.optional_instant()?,
        booked_at: columns.optional_instant()?,
        in_flight: sent(columns)?,
        acked_version: columns.count()?,
        acked_at: columns.optional_instant()?,
        observed: observed(columns)?,
        provisional: columns.delta()?,
        forced: columns.value()?,
        epoch: columns.small()?,
        in_conflict: columns.value()?,
    })
}

fn sent<C: ReadColumns>(columns: &mut C) -> Result<Option<Sent>, C::Error> {
    let quantity: Option<i64> = columns.value()?;
    let version = columns.optional_count()?;
    let at = columns.optional_instant()?;
    let all = quantity.zip(version).zip(at);
    Ok(all.map(|((quantity, version), at)| Sent { quantity, version, at }))
}

fn observed<C: ReadColumns>(columns: &mut C) -> Result<Option<Observed>, C::Error> {
    let quantity: Option<i64> = columns.value()?;
    let at = columns.optional_instant()?;
    Ok(quantity.zip(at).map(|(quantity, at)| Observed { quantity, at }))
}

fn parked<C: ReadColumns>(columns: &mut C) -> Result<Option<Parked>, C::Error> {
    let code: Option<String> = columns.value()?;
    let detail: Option<String> = columns.value()?;
    let at = columns.optional_instant()?;
    Ok(code.zip(detail).zip(at).map(|((code, detail), at)| Parked { code, detail, at }))
}

fn revised<C: ReadColumns>(columns: &mut C) -> Result<Option<Revised>, C::Error> {
    let count: u32 = columns.small()?;
    let at = columns.optional_instant()?;
    Ok(at.map(|at| Revised { count, at }))
}

/// Reads a listing, and last its leader, which each store keeps in its own way.
pub(crate) fn listing<C: ReadColumns>(
    columns: &mut C,
    leader: impl FnOnce(&mut C) -> Result<Option<(ChannelId, ListingKey)>, C::Error>,
) -> Result<ListingRow, C::Error> {
    let settings = settings(columns)?;
    let state = listing_state(columns, &settings)?;
    let mapping = Mapping {
        channel: settings.channel,
        key: settings.key,
        sku: settings.sku,
        fields: columns.json()?,
        strategy: settings.strategy,
        rules: settings.rules,
        channel_fulfilled: settings.channel_fulfilled,
        enabled: columns.value()?,
    };
    Ok(ListingRow {
        mapping,
        state,
        parked: parked(columns)?,
        attempts: columns.small()?,
        revised: revised(columns)?,
        scope: columns.value()?,
        leader: leader(columns)?,
        paused: columns.value()?,
    })
}

/// Reads a listing of a channel's catalogue with its mapping of now; its suggestions each store
/// keeps in its own way.
pub(crate) fn channel_listing<C: ReadColumns>(
    columns: &mut C,
    channel: &ChannelId,
    suggestions: impl FnOnce(&mut C) -> Result<Vec<Sku>, C::Error>,
) -> Result<ChannelListingView, C::Error> {
    let listing = ChannelListing {
        name: columns.value()?,
        key: columns.optional_name()?,
        sku: columns.value()?,
        essence: columns.value()?,
        title: columns.value()?,
        fields: columns.json()?,
        quantity: columns.value()?,
        channel_fulfilled: columns.value()?,
        found: columns.word()?,
        suggestions: suggestions(columns)?,
        was_mapped: columns.value()?,
        run: columns.value()?,
        seen_at: columns.instant()?,
    };
    Ok(ChannelListingView { listing, mapping: mapping(columns, channel)? })
}

fn mapping<C: ReadColumns>(
    columns: &mut C,
    channel: &ChannelId,
) -> Result<Option<Mapping>, C::Error> {
    let (key, sku) = (columns.optional_name()?, columns.optional_name()?);
    let fields = columns.optional_json()?;
    let strategy = columns.optional_word()?;
    let rules = columns.optional_rules()?;
    let channel_fulfilled: Option<bool> = columns.value()?;
    let enabled: Option<bool> = columns.value()?;
    let (Some(key), Some(sku), Some(fields), Some(rules)) = (key, sku, fields, rules) else {
        return Ok(None);
    };
    Ok(Some(Mapping {
        channel: channel.clone(),
        key,
        sku,
        fields,
        strategy,
        rules,
        channel_fulfilled: channel_fulfilled.unwrap_or_default(),
        enabled: enabled.unwrap_or_default(),
    }))
}

/// Reads a connection.
pub(crate) fn connection<C: ReadColumns>(columns: &mut C) -> Result<Connection, C::Error> {
    Ok(Connection {
        id: columns.name()?,
        kind: columns.value()?,
        state: columns.word()?,
        sync_inventory: columns.value()?,
        sync_orders: columns.value()?,
        strategy: columns.optional_word()?,
        rules: columns.rules()?,
        poll_interval_minutes: columns.optional_small()?,
        dry_run: columns.value()?,
        endpoint: columns.value()?,
        settings: columns.json()?,
        sealed_credentials: columns.value()?,
        created_at: columns.instant()?,
        updated_at: columns.instant()?,
        last_sync: columns.optional_instant()?,
        last_error: columns.optional_instant()?.zip(columns.value()?),
        orders_seen_to: columns.optional_instant()?,
        restock: columns.word()?,
        reason: reason(columns)?,
        blast_radius: columns.blast_radius()?,
    })
}

fn reason<C: ReadColumns>(columns: &mut C) -> Result<Option<Reason>, C::Error> {
    let code: Option<String> = columns.value()?;
    Ok(code.zip(columns.optional_instant()?).map(|(code, since)| Reason { code, since }))
}

/// Reads a consent.
pub(crate) fn consent<C: ReadColumns>(columns: &mut C) -> Result<Consent, C::Error> {
    Ok(Consent {
        state_digest: columns.digest()?,
        channel: columns.name()?,
        kind: columns.value()?,
        redirect: columns.value()?,
        created_at: columns.instant()?,
        expires_at: columns.instant()?,
    })
}

/// Reads a bulk batch.
pub(crate) fn feed<C: ReadColumns>(columns: &mut C) -> Result<Feed, C::Error> {
    Ok(Feed {
        id: columns.value()?,
        channel: columns.name()?,
        ticket: columns.value()?,
        items: columns.kept(feeds::read)?,
        created_at: columns.instant()?,
    })
}

/// Reads who may lead a scope, or who does.
pub(crate) fn member<C: ReadColumns>(columns: &mut C) -> Result<Member, C::Error> {
    Ok(Member {
        scope: columns.value()?,
        channel: columns.name()?,
        key: columns.name()?,
        sku: columns.name()?,
        follows: columns.value()?,
        rank: columns.small()?,
    })
}

/// Reads who is told a scope's number.
pub(crate) fn scope_leader<C: ReadColumns>(columns: &mut C) -> Result<ScopeLeader, C::Error> {
    Ok(ScopeLeader {
        scope: columns.value()?,
        channel: columns.name()?,
        key: columns.name()?,
        sku: columns.name()?,
    })
}

/// Reads a conflict.
pub(crate) fn conflict<C: ReadColumns>(columns: &mut C) -> Result<Conflict, C::Error> {
    Ok(Conflict {
        id: columns.count()?,
        channel: columns.name()?,
        key: columns.name()?,
        sku: columns.name()?,
        master: columns.value()?,
        base: columns.value()?,
        expected: columns.value()?,
        observed: columns.value()?,
        opened_at: columns.instant()?,
        seen_at: columns.instant()?,
        resolved: resolved(
            columns.optional_instant()?,
            columns.value()?,
            columns.value()?,
            columns.value()?,
        ),
    })
}

/// Reads a run.
pub(crate) fn run<C: ReadColumns>(columns: &mut C) -> Result<Run, C::Error> {
    Ok(Run {
        id: columns.value()?,
        operation: columns.value()?,
        channel: columns.name()?,
        status: columns.word()?,
        dry_run: columns.value()?,
        counters: columns.json()?,
        warnings: columns.json()?,
        items: columns.json()?,
        error: columns.value()?,
        request: columns.json()?,
        started_at: columns.instant()?,
        finished_at: columns.optional_instant()?,
    })
}

/// Reads an entry of the sync history.
pub(crate) fn history_entry<C: ReadColumns>(columns: &mut C) -> Result<HistoryEntry, C::Error> {
    Ok(HistoryEntry {
        id: columns.count()?,
        at: columns.instant()?,
        operation: columns.value()?,
        channel: columns.optional_name()?,
        sku: columns.optional_name()?,
        status: columns.value()?,
        run: columns.value()?,
        detail: columns.json()?,
    })
}

/// Reads what was booked of an order line.
pub(crate) fn booked<C: ReadColumns>(columns: &mut C) -> Result<LineBooked, C::Error> {
    Ok(LineBooked {
        sold: columns.count()?,
        restocked: columns.count()?,
        voided: columns.count()?,
        held: columns.count()?,
        holds: columns.kept(holds::read)?,
    })
}

/// Reads an order line that holds stock.
pub(crate) fn held_line<C: ReadColumns>(columns: &mut C) -> Result<HeldLine, C::Error> {
    Ok(HeldLine {
        order_id: columns.value()?,
        line_id: columns.value()?,
        sku: columns.name()?,
        held: columns.count()?,
        since: columns.instant()?,
    })
}

/// Reads an order line that nothing answers to yet.
pub(crate) fn unmapped_line<C: ReadColumns>(columns: &mut C) -> Result<UnmappedLine, C::Error> {
    Ok(UnmappedLine {
        order_id: columns.value()?,
        line_id: columns.value()?,
        sku: columns.value()?,
        fields: columns.json()?,
        sold: columns.count()?,
        restocked: columns.count()?,
        held: columns.count()?,
        cancelled: columns.count()?,
        placed_at: columns.optional_instant()?,
        updated_at: columns.optional_instant()?,
        since: columns.instant()?,
    })
}

/// Reads a webhook of the inbox.
pub(crate) fn inbox_item<C: ReadColumns>(columns: &mut C) -> Result<InboxItem, C::Error> {
    Ok(InboxItem {
        id: columns.count()?,
        channel: columns.name()?,
        delivery_id: columns.value()?,
        topic: columns.value()?,
        body: columns.value()?,
        received_at: columns.instant()?,
        attempts: columns.small()?,
    })
}

/// Reads an outgoing event.
pub(crate) fn delivery<C: ReadColumns>(columns: &mut C) -> Result<Delivery, C::Error> {
    Ok(Delivery {
        id: columns.value()?,
        subscription: columns.value()?,
        event: columns.value()?,
        body: columns.value()?,
        state: columns.word()?,
        attempts: columns.small()?,
        next_at: columns.instant()?,
        last_result: columns.value()?,
        created_at: columns.instant()?,
    })
}

/// Reads a pause.
pub(crate) fn pause<C: ReadColumns>(columns: &mut C) -> Result<Pause, C::Error> {
    let sku: String = columns.value()?;
    Ok(Pause {
        sku: if sku.is_empty() { None } else { Some(parse_name(&sku)?) },
        at: columns.instant()?,
        actor: columns.value()?,
        note: columns.value()?,
    })
}
