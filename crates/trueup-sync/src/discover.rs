//! Discovery: the channel's catalogue is read page by page, kept, matched with our SKUs, and
//! mapped where that is clear.
//!
//! Nothing of it is in memory whole. Pages go to the store as they come; what has a SKU is then
//! walked in the order of SKUs, so that duplicates are neighbours; our SKUs are walked once, to
//! find near misses. What is left half done is a catalogue that is partly older: each mapping
//! that was made stands on its own, and the next discovery begins anew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::Instant;
use trueup_channels::{CatalogueEntry, ChannelErrorKind, Page, Reading};
use trueup_core::{ListingKey, Sku, Strategy};
use trueup_store::{
    CatalogueQuery, Change, ChannelListing, ChannelListingView, Mapping, Match, MatchNote,
    RuleSettings, Run, RunStatus, SkuQuery, rules_in_force,
};

use crate::backoff;
use crate::engine::{DISCOVERY_ITEMS_MAX, Discovery, EngineError, Proposal};
use crate::impact::{Agreed, Effect, Impact};
use crate::link::Link;
use crate::request;
use crate::shared::Shared;
use crate::worker::run::{RunItem, new_run};

/// The most pages of a catalogue that are read.
pub const CATALOGUE_PAGES_MAX: usize = 50_000;
/// How often a page is asked for before the discovery fails.
const PAGE_TRIES_MAX: u32 = 5;
/// The first and the longest pause before a page is asked for again, in milliseconds.
const PAGE_MS_FIRST: u64 = 500;
const PAGE_MS_MAX: u64 = 30_000;
/// How many SKUs one page of the ledger has.
const SKU_PAGE: usize = 1_000;
/// How many listings are matched, and how many forgotten, at once.
const MATCH_PAGE: usize = 500;
/// How often the run's progress is written at most.
const PROGRESS_PAUSE: Duration = Duration::from_secs(1);

/// The run's operation.
const DISCOVERY: &str = "inventory_discovery";
/// The run's counters, beside those of [`status`].
const LISTED: &str = "listed";
pub(crate) const MAPPED: &str = "mapped";

/// How far a discovery is.
#[derive(Debug, Clone)]
enum Stage {
    /// Its run is not kept yet.
    Beginning,
    /// It reads or matches.
    UnderWay,
    /// All is done but for noting so: who has read the note may begin the next one.
    Finishing,
    /// It came to an end.
    Ended(Result<(), EngineError>),
}

/// A discovery that was begun on a link.
#[derive(Debug)]
pub(crate) struct Discovering {
    /// Its run's id.
    pub(crate) run: String,
    dry_run: bool,
    stage: watch::Sender<Stage>,
}

impl Discovering {
    fn is_done(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Finishing | Stage::Ended(_))
    }

    /// Waits for the end at most so long, and for the beginning in any case.
    ///
    /// # Errors
    /// Why it failed, if it did.
    pub(crate) async fn wait(&self, at_most: Duration) -> Result<(), EngineError> {
        let until = Instant::now() + at_most;
        let mut stage = self.stage.subscribe();
        // The sender lives in `self`: waiting ends by what is waited for.
        let begun = |stage: &Stage| !matches!(stage, Stage::Beginning);
        drop(stage.wait_for(begun).await);
        let ended = |stage: &Stage| matches!(stage, Stage::Ended(_));
        drop(tokio::time::timeout_at(until, stage.wait_for(ended)).await);
        match &*self.stage.borrow() {
            Stage::Ended(result) => result.clone(),
            Stage::Beginning | Stage::UnderWay | Stage::Finishing => Ok(()),
        }
    }
}

/// Begins a discovery, or returns the one of the same kind that is under way.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    dry_run: bool,
) -> Result<Arc<Discovering>, EngineError> {
    let mut slot = link.discovery.lock();
    if let Some(known) = slot.as_ref().filter(|known| !known.is_done()) {
        if known.dry_run == dry_run {
            return Ok(known.clone());
        }
        return Err(EngineError::DiscoveryUnderWay { run: known.run.clone() });
    }
    let run = new_run(shared, link, DISCOVERY, None, dry_run);
    Ok(start(shared, link, &mut slot, run, Asks::Guarded))
}

/// Begins a discovery anew that was held, as an operator has agreed to.
pub(crate) fn confirm(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    held: Run,
) -> Result<Arc<Discovering>, EngineError> {
    let mut slot = link.discovery.lock();
    if let Some(known) = slot.as_ref().filter(|known| !known.is_done()) {
        return Err(EngineError::DiscoveryUnderWay { run: known.run.clone() });
    }
    Ok(start(shared, link, &mut slot, held, Asks::Confirmed))
}

fn start(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    slot: &mut Option<Arc<Discovering>>,
    run: Run,
    asks: Asks,
) -> Arc<Discovering> {
    let stage = watch::Sender::new(Stage::Beginning);
    let fresh = Arc::new(Discovering { run: run.id.clone(), dry_run: run.dry_run, stage });
    *slot = Some(fresh.clone());
    let task = tokio::spawn(work(shared.clone(), link.clone(), fresh.clone(), run, asks));
    let mut tasks = link.tasks.lock();
    tasks.retain(|task| !task.is_finished());
    tasks.push(task);
    fresh
}

/// Whether a discovery asks before it maps what would zero much of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Guarded,
    Confirmed,
}

async fn work(
    shared: Arc<Shared>,
    link: Arc<Link>,
    discovering: Arc<Discovering>,
    run: Run,
    asks: Asks,
) {
    let mut work = Work { shared: &shared, link: &link, run, asks, noted: Instant::now() };
    let stopped = link.stop.clone();
    let result = async {
        work.keep().await?;
        discovering.stage.send_replace(Stage::UnderWay);
        tokio::select! {
            () = stopped.cancelled() => Err(EngineError::DiscoveryStopped),
            result = Box::pin(work.all()) => result,
        }
    };
    let result = result.await;
    discovering.stage.send_replace(Stage::Finishing);
    if let Err(error) = work.finish(&result).await {
        tracing::warn!(org = %link.org, channel = %link.id, %error, "a discovery was not noted");
    }
    discovering.stage.send_replace(Stage::Ended(result));
}

struct Work<'a> {
    shared: &'a Shared,
    link: &'a Link,
    run: Run,
    asks: Asks,
    noted: Instant,
}

impl Work<'_> {
    /// Reads, matches and maps everything.
    async fn all(&mut self) -> Result<(), EngineError> {
        let whole = self.read_catalogue().await?;
        if self.asks == Asks::Guarded && !self.run.dry_run && self.is_held().await? {
            return Ok(());
        }
        self.match_listings().await?;
        self.find_near_misses().await?;
        if whole {
            self.forget_unseen().await?;
        } else {
            let detail = format!("the catalogue has no end after {CATALOGUE_PAGES_MAX} pages");
            self.run.error = Some(detail);
        }
        Ok(())
    }

    /// Reads the catalogue into the store; returns whether its end was reached.
    async fn read_catalogue(&mut self) -> Result<bool, EngineError> {
        let mut cursor: Option<String> = None;
        for _ in 0..CATALOGUE_PAGES_MAX {
            let page = self.read_page(cursor.as_deref()).await?;
            let mut rows = Vec::with_capacity(page.items.len());
            for entry in page.items {
                rows.push(self.row(entry).await?);
            }
            self.count(LISTED, rows.len());
            let (store, link) = (&self.shared.store, self.link);
            store.put_channel_listings(&link.org, &link.id, rows).await?;
            self.keep_now_and_then().await?;
            if page.next.is_none() {
                return Ok(true);
            }
            if page.next == cursor {
                return Ok(false);
            }
            cursor = page.next;
        }
        Ok(false)
    }

    async fn read_page(&self, cursor: Option<&str>) -> Result<Page<CatalogueEntry>, EngineError> {
        let mut tries = 0;
        loop {
            let error = match self.link.channel.catalogue(&self.link.transport, cursor).await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            tries += 1;
            if tries >= PAGE_TRIES_MAX || !may_pass(error.kind) {
                return Err(EngineError::Channel(error));
            }
            let told = error.retry_after_ms.unwrap_or(0).min(PAGE_MS_MAX);
            let millis = backoff::millis(tries, PAGE_MS_FIRST, PAGE_MS_MAX).max(told);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    /// Makes the row of an entry, as far as it alone says how it stands.
    async fn row(&self, entry: CatalogueEntry) -> Result<ChannelListing, EngineError> {
        let (shared, link) = (self.shared, self.link);
        let keyed = link.kind.listing(&link.settings, entry.fields.clone()).ok();
        let sku = entry.sku.filter(|text| !text.trim().is_empty());
        let ours = sku.as_deref().and_then(|text| Sku::new(text).ok());
        let is_known = match &ours {
            Some(ours) => shared.store.sku(&link.org, ours).await?.is_some(),
            None => false,
        };
        let found = match &sku {
            None => Match::NoSku,
            Some(_) if keyed.is_none() => Match::Incomplete,
            Some(_) if !is_known => Match::UnknownSku,
            Some(_) if entry.duplicate => Match::Duplicate,
            Some(_) => Match::Matched,
        };
        let (key, fields) = match keyed {
            Some((key, fields)) => (Some(key), fields),
            None => (None, entry.fields),
        };
        let name = match &key {
            Some(key) => key.as_str().to_owned(),
            None => makeshift_name(sku.as_deref(), &fields),
        };
        let essence = sku.as_deref().filter(|_| found == Match::UnknownSku).map(essence);
        let quantity = match entry.reading {
            Reading::Quantity(quantity) => Some(quantity),
            Reading::Unknown(_) => None,
        };
        Ok(ChannelListing {
            name,
            key,
            sku,
            essence,
            title: entry.title,
            fields,
            quantity,
            channel_fulfilled: entry.channel_fulfilled,
            found,
            suggestions: Vec::new(),
            was_mapped: false,
            run: self.run.id.clone(),
            seen_at: shared.now(),
        })
    }

    /// Holds it where telling what it would map its numbers would zero more of the channel than one
    /// act may; returns whether it does. What is not known to show anything is not counted.
    async fn is_held(&mut self) -> Result<bool, EngineError> {
        let (store, link) = (self.shared.store.clone(), self.link);
        let (org, id, run) = (&link.org, &link.id, self.run.id.clone());
        let row = store.connection(org, id).await?;
        let Some(row) = row.filter(trueup_store::Connection::publishes) else { return Ok(false) };
        let mut impact = Impact::default();
        let mut after: Option<(String, String)> = None;
        loop {
            let page = store.channel_listings_by_sku(org, id, &run, after.clone(), MATCH_PAGE);
            let page = page.await?;
            let (_, mappings) = match_page(link, &page.items, None, None);
            let shown: BTreeMap<&ListingKey, i64> = page
                .items
                .iter()
                .filter_map(|view| Some((view.listing.key.as_ref()?, view.listing.quantity?)))
                .collect();
            for mapping in mappings.iter().filter(|mapping| !mapping.channel_fulfilled) {
                impact.listings += 1;
                // What it shows is taken over, or waits for an operator.
                if !pushes_over(mapping.strategy.or(row.strategy).unwrap_or_default()) {
                    continue;
                }
                let Some(shows) = shown.get(&mapping.key).copied() else { continue };
                let Some(answer) = store.sku(org, &mapping.sku).await? else { continue };
                let rules = rules_in_force(&mapping.rules, &row.rules);
                let would = i64::try_from(answer.publish(&rules).published).unwrap_or(i64::MAX);
                let (sku, key) = (mapping.sku.clone(), mapping.key.clone());
                impact.note(Effect { sku, key, shows: Some(shows), would });
            }
            let last = page.items.last().map(|view| &view.listing);
            after = last.and_then(|row| Some((row.sku.clone()?, row.name.clone())));
            if !page.more || after.is_none() {
                break;
            }
        }
        impact.listings += self.shared.count_listings(org, id).await?;
        let Some(why) = impact.excess(&row.blast_radius, Agreed::default()) else {
            return Ok(false);
        };
        self.run.status = RunStatus::Held;
        self.run.error = Some(why);
        self.run.request = request::discovery();
        impact.count_into(&mut self.run.counters);
        let would = impact.effects.into_iter();
        self.run.items = would.map(|effect| RunItem::would("held", effect).json()).collect();
        Ok(true)
    }

    /// Walks what has a SKU, finds duplicates, and maps what is clear unless it is a dry run.
    async fn match_listings(&mut self) -> Result<(), EngineError> {
        let (store, link) = (self.shared.store.clone(), self.link);
        let (org, id, run) = (&link.org, &link.id, self.run.id.clone());
        let mut after: Option<(String, String)> = None;
        let mut before: Option<ChannelListing> = None;
        loop {
            let page = store.channel_listings_by_sku(org, id, &run, after.clone(), MATCH_PAGE);
            let page = page.await?;
            let last = page.items.last().map(|view| &view.listing);
            let last = last.and_then(|row| Some((row.sku.clone()?, row.name.clone())));
            let next = match (&last, page.more) {
                (Some(last), true) => {
                    let next = store.channel_listings_by_sku(org, id, &run, Some(last.clone()), 1);
                    next.await?.items.into_iter().next().map(|view| view.listing)
                }
                (Some(_) | None, _) => None,
            };
            let (notes, mut mappings) =
                match_page(link, &page.items, before.as_ref(), next.as_ref());
            let clashes = self.shared.clashes(link, &mappings).await?;
            for (at, _) in clashes.into_iter().rev() {
                mappings.remove(at);
            }
            if !self.run.dry_run && !mappings.is_empty() {
                let count = mappings.len();
                self.shared.keep_mappings(link, mappings).await?;
                self.count(MAPPED, count);
            }
            if !notes.is_empty() {
                store.note_matches(org, id, notes).await?;
            }
            self.keep_now_and_then().await?;
            let more = page.more;
            before = page.items.into_iter().next_back().map(|view| view.listing);
            after = last;
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// Walks our SKUs for those that listings may have meant.
    async fn find_near_misses(&mut self) -> Result<(), EngineError> {
        let (store, link) = (self.shared.store.clone(), self.link);
        let mut query = SkuQuery { limit: SKU_PAGE, ..SkuQuery::default() };
        loop {
            let page = store.skus(&link.org, query.clone()).await?;
            query.after = page.items.last().map(|answer| answer.sku.clone());
            let named = |answer: trueup_core::SkuAnswer| {
                let essence = essence(answer.sku.as_str());
                (!essence.is_empty()).then_some((essence, answer.sku))
            };
            let skus: Vec<(String, Sku)> = page.items.into_iter().filter_map(named).collect();
            store.suggest(&link.org, &link.id, &self.run.id, skus).await?;
            if !page.more || query.after.is_none() {
                return Ok(());
            }
        }
    }

    async fn forget_unseen(&self) -> Result<(), EngineError> {
        let (store, link) = (&self.shared.store, self.link);
        loop {
            let run = self.run.id.as_str();
            let gone = store.forget_channel_listings(&link.org, &link.id, run, MATCH_PAGE).await?;
            if gone < MATCH_PAGE {
                return Ok(());
            }
        }
    }

    fn count(&mut self, name: &str, more: usize) {
        let more = u64::try_from(more).unwrap_or(u64::MAX);
        *self.run.counters.entry(name.to_owned()).or_default() += more;
    }

    async fn keep(&mut self) -> Result<(), EngineError> {
        for name in [LISTED, MAPPED] {
            self.run.counters.entry(name.to_owned()).or_default();
        }
        let (store, link) = (&self.shared.store, self.link);
        store.put_run(&link.org, self.run.clone()).await?;
        store.announce(Change::Run { org: link.org.clone(), id: self.run.id.clone() });
        self.noted = Instant::now();
        Ok(())
    }

    async fn keep_now_and_then(&mut self) -> Result<(), EngineError> {
        if self.noted.elapsed() < PROGRESS_PAUSE {
            return Ok(());
        }
        self.keep().await
    }

    /// Ends the run and notes it in the history.
    async fn finish(&mut self, result: &Result<(), EngineError>) -> Result<(), EngineError> {
        let (shared, link) = (self.shared, self.link);
        let (org, id) = (&link.org, &link.id);
        if result.is_ok() {
            let counts = shared.store.catalogue_counts(org, id, &self.run.id).await?;
            self.run.counters.extend(counts.into_iter().map(|(name, n)| (camel(&name), n)));
        }
        let is_held = self.run.status == RunStatus::Held;
        let (status, word) = match (result, &self.run.error) {
            (Ok(()), _) if is_held => (RunStatus::Held, "held"),
            (Ok(()), None) => (RunStatus::Completed, "ok"),
            (Ok(()), Some(_)) => (RunStatus::Partial, "partial"),
            (Err(error), _) => {
                self.run.error = Some(error.to_string());
                (RunStatus::Failed, "error")
            }
        };
        self.run.status = status;
        self.run.finished_at = (status != RunStatus::Held).then(|| shared.now());
        let detail = json!({
            "counters": self.run.counters, "dryRun": self.run.dry_run, "error": self.run.error,
        });
        let mut entry = shared.entry(id, DISCOVERY, word, detail);
        entry.run = Some(self.run.id.clone());
        shared.note(org, vec![entry]).await;
        if status == RunStatus::Held {
            shared.tell_run(org, &self.run, word).await;
        }
        metrics::counter!("trueup_runs_total", "operation" => DISCOVERY, "status" => word)
            .increment(1);
        self.keep().await?;
        shared.run_ended.notify_waiters();
        Ok(())
    }
}

/// Returns whether a strategy tells a listing less than it shows when it is first read.
fn pushes_over(strategy: Strategy) -> bool {
    match strategy {
        Strategy::MasterWins | Strategy::LowerWins => true,
        Strategy::ChannelWins | Strategy::Manual => false,
    }
}

/// Matches a page of listings in the order of SKUs; `before` and `next` are those on either side
/// of it. Returns what is to be noted and what is to be mapped.
///
/// Listings of one SKU are duplicates of each other; but where the channel itself says which of
/// them are, the one that it does not name is the one to map.
fn match_page(
    link: &Link,
    page: &[ChannelListingView],
    before: Option<&ChannelListing>,
    next: Option<&ChannelListing>,
) -> (Vec<MatchNote>, Vec<Mapping>) {
    let (mut notes, mut mappings) = (Vec::new(), Vec::new());
    let mut before = before;
    for (at, view) in page.iter().enumerate() {
        let row = &view.listing;
        let follower = page.get(at + 1).map_or(next, |view| Some(&view.listing));
        let repeats = |other: &&ChannelListing| {
            row.sku.is_some() && row.sku == other.sku && other.found != Match::Duplicate
        };
        let repeated =
            before.as_ref().is_some_and(repeats) || follower.as_ref().is_some_and(repeats);
        before = Some(row);
        let found = match row.found {
            Match::Matched if repeated => Match::Duplicate,
            other => other,
        };
        let was_mapped = view.mapping.is_some();
        if (found, was_mapped) != (row.found, row.was_mapped) {
            notes.push(MatchNote { name: row.name.clone(), found, was_mapped });
        }
        if found == Match::Matched && !was_mapped {
            mappings.extend(mapping_of(link, row));
        }
    }
    (notes, mappings)
}

fn mapping_of(link: &Link, row: &ChannelListing) -> Option<Mapping> {
    Some(Mapping {
        channel: link.id.clone(),
        key: row.key.clone()?,
        sku: Sku::new(row.sku.as_deref()?).ok()?,
        fields: row.fields.clone(),
        strategy: None,
        rules: RuleSettings::default(),
        channel_fulfilled: row.channel_fulfilled,
        enabled: true,
    })
}

/// Tells what a discovery has found so far.
pub(crate) async fn found(
    shared: &Shared,
    link: &Link,
    run: &str,
) -> Result<Discovery, EngineError> {
    let (store, org, id) = (&shared.store, &link.org, &link.id);
    let run = store.run(org, run).await?.ok_or(EngineError::NotFound("run"))?;
    let mut discovery = Discovery { run, proposals: Vec::new(), unlisted: Vec::new() };
    let mut query = CatalogueQuery {
        run: Some(discovery.run.id.clone()),
        limit: SKU_PAGE,
        ..CatalogueQuery::default()
    };
    while discovery.proposals.len() < DISCOVERY_ITEMS_MAX {
        let page = store.channel_listings(org, id, query.clone()).await?;
        query.after = page.items.last().map(|view| view.listing.name.clone());
        discovery.proposals.extend(page.items.into_iter().map(proposal));
        if !page.more || query.after.is_none() {
            break;
        }
    }
    if discovery.run.status == RunStatus::Running {
        return Ok(discovery);
    }
    let mut query = SkuQuery { unlisted: Some(id.clone()), limit: SKU_PAGE, ..SkuQuery::default() };
    while discovery.unlisted.len() < DISCOVERY_ITEMS_MAX {
        let page = store.skus(org, query.clone()).await?;
        discovery.unlisted.extend(page.items.into_iter().map(|answer| answer.sku));
        query.after = discovery.unlisted.last().cloned();
        if !page.more {
            break;
        }
    }
    Ok(discovery)
}

fn proposal(view: ChannelListingView) -> Proposal {
    let ChannelListingView { listing, mapping } = view;
    let own = listing.sku.as_deref().and_then(|text| Sku::new(text).ok());
    let earlier =
        mapping.as_ref().filter(|_| listing.was_mapped || listing.found != Match::Matched);
    let (status, sku) = match earlier {
        Some(mapping) => ("already_mapped", Some(mapping.sku.clone())),
        None if listing.found == Match::Matched => (match_word(listing.found), own.clone()),
        None => (match_word(listing.found), None),
    };
    let suggestions = match listing.found {
        Match::Duplicate | Match::Incomplete if sku.is_none() => own.into_iter().collect(),
        Match::NearMiss if sku.is_none() => listing.suggestions,
        Match::Matched
        | Match::NearMiss
        | Match::Duplicate
        | Match::UnknownSku
        | Match::NoSku
        | Match::Incomplete => Vec::new(),
    };
    Proposal {
        channel_sku: listing.sku,
        title: listing.title,
        fields: listing.fields,
        sku,
        status,
        suggestions,
        quantity: listing.quantity,
    }
}

/// Returns the API's word for how a listing stands to the ledger.
#[must_use]
pub fn match_word(found: Match) -> &'static str {
    match found {
        Match::Matched => "matched",
        Match::NearMiss => "near_miss",
        Match::Duplicate => "duplicate",
        Match::UnknownSku => "unknown_sku",
        Match::NoSku => "no_sku",
        Match::Incomplete => "incomplete",
    }
}

/// Returns `near_miss` as `nearMiss`, as counters are called.
fn camel(word: &str) -> String {
    let mut parts = word.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        name + &head.to_ascii_uppercase() + tail
    })
}

/// Names a listing that has no key by all that the channel says of it.
fn makeshift_name(sku: Option<&str>, fields: &BTreeMap<String, String>) -> String {
    let said = json!([sku, fields]).to_string();
    let digest = Sha256::digest(said.as_bytes());
    digest.iter().fold("?".to_owned(), |name, byte| name + &format!("{byte:02x}"))
}

/// Returns what is left of a SKU without case, spaces, dashes, underscores and dots.
fn essence(sku: &str) -> String {
    let plain = |c: &char| !(c.is_whitespace() || matches!(c, '-' | '_' | '.'));
    sku.chars().filter(plain).flat_map(char::to_lowercase).collect()
}

/// Returns whether the same page may be had a little later.
fn may_pass(kind: ChannelErrorKind) -> bool {
    use ChannelErrorKind::{Throttled, Transient, UnknownOutcome};
    matches!(kind, Throttled | Transient | UnknownOutcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_differ_in_case_and_spacing_only() {
        assert_eq!(essence(" sku-100 "), essence("SKU 100"));
        assert_eq!(essence("sku_100"), essence("SKU100"));
        assert_ne!(essence("SKU-100"), essence("SKU-101"));
    }

    #[test]
    fn counters_are_called_as_the_api_writes_names() {
        for (word, name) in [("matched", "matched"), ("near_miss", "nearMiss"), ("", "")] {
            assert_eq!(camel(word), name);
        }
    }

    #[test]
    fn a_listing_without_a_key_is_named_by_what_is_said_of_it() {
        let fields = BTreeMap::from([("variantId".to_owned(), "7".to_owned())]);
        let name = makeshift_name(Some("A"), &fields);
        assert_eq!(name, makeshift_name(Some("A"), &fields));
        assert_ne!(name, makeshift_name(Some("B"), &fields));
        assert_ne!(name, makeshift_name(None, &fields));
    }
}
