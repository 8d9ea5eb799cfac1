//! Amazon through the Selling Partner API; `docs.md` says what is supported and why.

mod auth;
mod config;
mod error;
mod notifications;
mod queue;
mod sweep;
mod webhook;
mod wire;

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::Method;
use trueup_core::{ListingKey, Timestamp};

use crate::consent::Consent;
use crate::credential::REFRESH_TOKEN;
use crate::exchange::{
    Outgoing, channel_fulfilled, encode, failed_push, held_back, is_unclear, too_many, unclear,
};
use crate::oauth;
use crate::port::{
    BulkItem, BulkState, Caller, Capabilities, CatalogueEntry, Channel, ChannelError,
    ChannelErrorKind, Connected, HandedOver, Kind, Listing, Missing, Notice, OrderNotice, Page,
    PushBatch, PushItem, PushOutcome, Queue, QueuedNotice, RateHint, Reading, Response,
    SettingError, Settings, VerifiedWebhook, Wants, WebhookError, WebhookRequest,
};

use self::auth::Grant;
use self::config::Config;
use self::sweep::{HALVINGS_MAX, Sweep, Window};
use self::wire::{CataloguePage, FeedDocument, FeedState, Report};

const PATCH: &str = "listings.patch";
const GET: &str = "listings.get";
const SEARCH: &str = "listings.search";
const FBA: &str = "fba.summaries";
const ORDERS: &str = "orders.search";
const FEEDS_CREATE: &str = "feeds.create";
const FEEDS_DOCUMENT: &str = "feeds.document";
/// Getting a document has a plan of its own, apart from making one.
const FEEDS_REPORT: &str = "feeds.report";
const FEEDS_GET: &str = "feeds.get";
const FEEDS_LIST: &str = "feeds.list";
/// Presigned addresses outside the API: no budget of ours.
const FEEDS_TRANSFER: &str = "feeds.transfer";

/// Patches go one by one; a second of the patch budget, so that a zero that comes meanwhile soon
/// has its turn.
const PUSH_ITEMS_MAX: usize = 5;
/// Patches go at 5 a second: from here on a feed is faster that takes its usual time.
const BULK_FROM: usize = 1_500;
/// Amazon tells no time; its feeds have been seen to take minutes, and hours on bad days.
const FEED_USUAL_MS: u64 = 300_000;
/// Feeds may wait for hours behind others: numbers up to this one are patched.
/// <https://github.com/amzn/selling-partner-api-models/issues/4823>
const NEAR_ZERO_MAX: u64 = 5;
/// A feed of some thousands is seldom processed sooner.
const FEED_LOOK_MS: u64 = 15_000;
/// What the ticket of a feed begins with whose id was lost; the instant follows at which it was
/// made, in microseconds.
const LOST_TICKET: &str = "made at ";
/// How far Amazon's clock may be from ours, in milliseconds.
const CLOCKS_APART_MS: i64 = 60_000;
/// How long after it was asked for a feed is made at the latest, in milliseconds.
const FEED_MADE_MS_MAX: i64 = 120_000;
/// How long a feed whose id was lost is looked for, in milliseconds: then it was never made.
const FEED_LISTED_MS_MAX: i64 = 300_000;
/// How long the ids of made feeds are remembered, in seconds: longer than they could be taken
/// for one whose id was lost.
const FEED_KEPT_SECONDS: u64 = 86_400;
/// How many pages an answer about named SKUs may have.
const READ_PAGES_MAX: usize = 5;

/// The kind `amazon`.
#[derive(Debug, Clone, Copy)]
pub struct Amazon;

impl Kind for Amazon {
    fn name(&self) -> &'static str {
        "amazon"
    }

    fn setting_names(&self) -> &'static [&'static str] {
        config::SETTING_NAMES
    }

    fn open(&self, settings: &Settings) -> Result<Box<dyn Channel>, Vec<SettingError>> {
        Ok(Box::new(Seller { config: Config::read(settings)? }))
    }

    fn listing(
        &self,
        _settings: &Settings,
        fields: BTreeMap<String, String>,
    ) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
        config::listing(fields)
    }

    fn account(&self, settings: &Settings) -> Option<String> {
        config::account(settings)
    }

    fn listing_names(&self) -> &'static [&'static str] {
        config::LISTING_NAMES
    }

    fn names_listing(
        &self,
        listing: &BTreeMap<String, String>,
        fields: &BTreeMap<String, String>,
    ) -> bool {
        config::names_listing(listing, fields)
    }

    fn consent(&self) -> Option<&'static dyn Consent> {
        Some(&auth::Page)
    }

    fn awaits_consent(&self, settings: &Settings) -> bool {
        !oauth::has_credential(settings, REFRESH_TOKEN)
    }

    fn budgets(&self) -> &'static [(&'static str, RateHint)] {
        const fn of(per_second: f64, burst: f64) -> RateHint {
            RateHint { per_second, burst: Some(burst), remaining: None }
        }
        // The usage plans in the models' descriptions, per account and application.
        const BUDGETS: &[(&str, RateHint)] = &[
            (PATCH, of(5.0, 5.0)),
            (GET, of(5.0, 10.0)),
            (SEARCH, of(5.0, 5.0)),
            (FBA, of(2.0, 2.0)),
            (ORDERS, of(0.0056, 20.0)),
            (notifications::BUCKET, of(1.0, 5.0)),
            // The narrower of createFeed's own plan and that of listings feeds: 5 in 5 minutes.
            // <https://developer-docs.amazon.com/sp-api/changelog> (6 May 2025)
            (FEEDS_CREATE, of(5.0 / 300.0, 5.0)),
            (FEEDS_DOCUMENT, of(0.5, 15.0)),
            (FEEDS_REPORT, of(0.0222, 10.0)),
            (FEEDS_GET, of(2.0, 15.0)),
            (FEEDS_LIST, of(0.0222, 10.0)),
        ];
        BUDGETS
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    push_items_max: PUSH_ITEMS_MAX,
    pushes_at_once_max: 5,
    bulk_items_max: wire::FEED_MESSAGES_MAX,
    bulk_from: BULK_FROM,
    bulk_usual_ms: FEED_USUAL_MS,
    bulk_bucket: Some(FEEDS_CREATE),
    bulk_above: NEAR_ZERO_MAX,
    bulk_look_ms: FEED_LOOK_MS,
    read_items_max: wire::IDENTIFIERS_MAX,
    // Patches and searches are counted apart.
    reads_apart: true,
    sweep_items_max: 0,
    compare_and_set: false,
    verify_by_reading: true,
    // A patch shows after minutes, not seconds.
    // <https://github.com/amzn/selling-partner-api-docs/issues/2167>
    settle_ms: 15 * 60 * 1_000,
    // The models set no limit; 32 bits are what every known reader keeps.
    quantity_max: 2_147_483_647,
    revisions_per_day: None,
    // searchOrders is restored at 0.0056 calls a second: one in 179 s.
    orders_poll_ms: 180_000,
    // What one poll allows must last until the next one.
    orders_fresh_ms: 240_000,
};

/// One connected seller account.
struct Seller {
    config: Config,
}

#[async_trait]
impl Channel for Seller {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn connect(&self, caller: &dyn Caller) -> Result<Connected, ChannelError> {
        let url = wire::build_catalogue_url(&self.config, None, None);
        let page = self.get(caller, SEARCH, url).await.map_err(|error| {
            if is_about_settings(&error) {
                ChannelError { kind: ChannelErrorKind::Config, ..error }
            } else {
                error
            }
        })?;
        wire::parse_catalogue(&page.body)?;
        if let Some(queue) = &self.config.queue {
            queue::check(queue, caller).await?;
        }
        Ok(Connected {
            account: Some(self.config.seller_id.clone()),
            locations: Vec::new(),
            found: BTreeMap::new(),
        })
    }

    async fn missing(
        &self,
        caller: &dyn Caller,
        wants: Wants,
    ) -> Result<Vec<Missing>, ChannelError> {
        let mut missing = Vec::new();
        let mut forbidden = Vec::new();
        let ids = &self.config.marketplace_ids;
        for (at, id) in ids.iter().enumerate() {
            let found = self.get(caller, SEARCH, wire::build_probe_url(&self.config, id)).await;
            let entry =
                |code, detail| Missing { what: format!("marketplaceIds/{at}"), code, detail };
            match found {
                Ok(_) => {}
                Err(error) if is_about_settings(&error) => missing.push(entry(
                    "marketplace_unknown",
                    format!("{id} is not a marketplace of this seller and region"),
                )),
                Err(error) if error.kind == ChannelErrorKind::Forbidden => forbidden.push(entry(
                    "marketplace_forbidden",
                    format!("the application may not see the seller's listings in {id}"),
                )),
                Err(error) => return Err(error),
            }
        }
        if !ids.is_empty() && forbidden.len() == ids.len() {
            // Not one of them: it is the role, or another account's seller.
            missing.push(Missing::role("product_listing", "Product Listing for this sellerId"));
        } else {
            missing.extend(forbidden);
        }
        if wants.orders {
            // Orders of the last minutes are not to be asked for.
            let since = caller.now().plus_millis(-3_600_000);
            let url = wire::build_orders_url(&self.config, since, None);
            let role =
                || Missing::role("inventory_and_order_tracking", "Inventory and Order Tracking");
            missing.extend(lacks(self.get(caller, ORDERS, url).await)?.then(role));
        }
        if wants.channel_fulfilled {
            let url =
                wire::build_fba_url(&self.config, self.config.home_marketplace(), &["-"], None);
            let role = || Missing::role("amazon_fulfillment", "Amazon Fulfillment");
            missing.extend(lacks(self.get(caller, FBA, url).await)?.then(role));
        }
        Ok(missing)
    }

    async fn push(&self, caller: &dyn Caller, batch: &PushBatch) -> Vec<PushOutcome> {
        let mut stopped: Option<ChannelError> = None;
        let mut outcomes = Vec::with_capacity(batch.items.len());
        for (at, item) in batch.items.iter().enumerate() {
            let outcome = match (&stopped, pushable(item)) {
                (_, Err(refusal)) => PushOutcome::Refused(refusal),
                (Some(cause), Ok(_)) => PushOutcome::NotSent(held_back(cause)),
                (None, Ok(_)) if at >= PUSH_ITEMS_MAX => {
                    PushOutcome::NotSent(too_many(PUSH_ITEMS_MAX))
                }
                (None, Ok(sku)) => {
                    self.patch(caller, sku, item.quantity).await.unwrap_or_else(|error| {
                        if error.kind.is_connection_wide() {
                            stopped = Some(error.clone());
                        }
                        failed_push(error)
                    })
                }
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    fn bulk_item(&self, item: &PushItem) -> Option<BulkItem> {
        let name = pushable(item).ok()?.into();
        Some(BulkItem { name, quantity: item.quantity })
    }

    async fn bulk_start(&self, caller: &dyn Caller, items: &[BulkItem]) -> HandedOver {
        match items.len() {
            0 => {
                let detail = "a feed without a message";
                HandedOver::No(ChannelError::new(ChannelErrorKind::Bug, detail))
            }
            count if count > wire::FEED_MESSAGES_MAX => {
                HandedOver::No(too_many(wire::FEED_MESSAGES_MAX))
            }
            _ => self.feed(caller, items).await,
        }
    }

    async fn bulk_look(
        &self,
        caller: &dyn Caller,
        ticket: &str,
        count: usize,
    ) -> Result<BulkState, ChannelError> {
        let lost = |detail: String| {
            Ok(BulkState::Lost(ChannelError::new(ChannelErrorKind::UnknownOutcome, detail)))
        };
        let found = match lost_at(ticket) {
            Some(made_at) => self.find_feed(caller, ticket, made_at).await?,
            None => Found::One(ticket.to_owned()),
        };
        let id = match found {
            Found::One(id) => id,
            Found::NotYet => return Ok(BulkState::Waiting),
            Found::Never => return lost("Amazon did not make the feed".to_owned()),
            Found::Several => {
                return lost("Amazon made several feeds, and one's id was lost".to_owned());
            }
        };
        let url = format!("{}/feeds/2021-06-30/feeds/{}", self.config.host, encode(&id));
        let state = match self.get(caller, FEEDS_GET, url).await {
            Ok(response) => wire::parse_feed(&response.body)?,
            // A 400 or 404: there is no such feed.
            Err(error) if !error.kind.is_connection_wide() => {
                return lost(format!("Amazon knows nothing of the feed: {}", error.detail));
            }
            Err(error) => return Err(error),
        };
        match state {
            FeedState::Waiting => Ok(BulkState::Waiting),
            FeedState::Cancelled => lost("Amazon cancelled the feed".to_owned()),
            FeedState::Fatal => {
                lost("Amazon broke the feed off; some quantities may be applied".to_owned())
            }
            FeedState::Done(None) => Ok(BulkState::Done(Report::default().outcomes(count))),
            FeedState::Done(Some(id)) => match self.report(caller, &id).await {
                Ok(report) => Ok(BulkState::Done(report.outcomes(count))),
                Err(error) if error.kind.is_connection_wide() => Err(error),
                // It was processed; what a report that cannot be read says, readings will.
                Err(_) => Ok(BulkState::Done(Report::default().outcomes(count))),
            },
        }
    }

    async fn read(
        &self,
        caller: &dyn Caller,
        listings: &[Listing],
    ) -> Result<Vec<Reading>, ChannelError> {
        let (amazon, merchant): (Vec<&Listing>, Vec<&Listing>) =
            listings.iter().partition(|listing| listing.channel_fulfilled);
        let mut shown = Shown { merchant: BTreeMap::new(), amazon: BTreeMap::new() };
        // A list of identifiers is split at commas, so a SKU with one is asked for alone.
        let (alone, listed) = split_at_commas(&merchant);
        for skus in listed.chunks(wire::IDENTIFIERS_MAX) {
            self.search(caller, skus, &mut shown.merchant).await?;
        }
        for sku in alone {
            let url = wire::build_item_url(&self.config, sku);
            match self.get(caller, GET, url).await {
                Ok(response) => {
                    shown.merchant.insert(sku.to_owned(), wire::parse_item(&response.body)?);
                }
                Err(error) if error.kind == ChannelErrorKind::ListingNotFound => {}
                Err(error) => return Err(error),
            }
        }
        let (alone, listed) = split_at_commas(&amazon);
        let alone = alone.chunks(1);
        for skus in listed.chunks(wire::FBA_SKUS_MAX).chain(alone) {
            self.fulfilled(caller, skus, &mut shown.amazon).await?;
        }
        Ok(listings.iter().map(|listing| shown.reading(listing)).collect())
    }

    async fn catalogue(
        &self,
        caller: &dyn Caller,
        cursor: Option<&str>,
    ) -> Result<Page<CatalogueEntry>, ChannelError> {
        let mut sweep = Sweep::read(cursor)?;
        for _ in 0..HALVINGS_MAX {
            let page = self.catalogue_page(caller, &sweep).await?;
            let begins = sweep.page.is_none();
            match begins.then(|| sweep.narrower(page.results, caller.now())).flatten() {
                Some(narrower) => sweep = narrower,
                None => return Ok(sweep.turn(page)),
            }
        }
        let detail = "Amazon finds as many listings however short the time they were made in";
        Err(ChannelError::new(ChannelErrorKind::Protocol, detail))
    }

    async fn orders(
        &self,
        caller: &dyn Caller,
        since: Timestamp,
        cursor: Option<&str>,
    ) -> Result<Page<OrderNotice>, ChannelError> {
        let url = wire::build_orders_url(&self.config, since, cursor);
        let response = self.get(caller, ORDERS, url).await?;
        let mut page = wire::parse_orders(&response.body)?;
        // No order of the results is documented; within a page we make one.
        page.items.sort_by_key(|order| order.updated_at);
        Ok(page)
    }

    async fn verify_webhook(
        &self,
        _caller: &dyn Caller,
        request: WebhookRequest<'_>,
    ) -> Result<VerifiedWebhook, WebhookError> {
        webhook::verify(&self.config.webhook_secrets, request)
    }

    fn parse_webhook(&self, topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
        webhook::parse(topic, body)
    }

    async fn subscribe(
        &self,
        caller: &dyn Caller,
        _url: &str,
    ) -> Result<Vec<String>, ChannelError> {
        notifications::subscribe(self, caller).await
    }

    fn subscribes_address(&self) -> bool {
        // Amazon sends to a queue or an event bus, never to an address.
        false
    }

    fn queue(&self) -> Option<Queue> {
        self.config.queue.as_ref().map(|_| queue::QUEUE)
    }

    async fn receive(
        &self,
        caller: &dyn Caller,
        wait_ms: u64,
    ) -> Result<Vec<QueuedNotice>, ChannelError> {
        match &self.config.queue {
            Some(queue) => queue::receive(queue, caller, wait_ms).await,
            None => Ok(Vec::new()),
        }
    }

    async fn delete(&self, caller: &dyn Caller, receipts: &[String]) -> Result<(), ChannelError> {
        match &self.config.queue {
            Some(queue) => queue::delete(queue, caller, receipts).await,
            None => Ok(()),
        }
    }
}

impl Seller {
    /// Sends one patch.
    async fn patch(
        &self,
        caller: &dyn Caller,
        sku: &str,
        quantity: u64,
    ) -> Result<PushOutcome, ChannelError> {
        let url = wire::build_patch_url(&self.config, sku);
        let request = Outgoing::new(PATCH, Method::PATCH, url).json(&wire::build_patch(quantity));
        let response = self.send(caller, PATCH, request).await?;
        if response.status.is_success() {
            return wire::parse_submission(&response.body);
        }
        let error = error::classify(&response);
        Err(if is_unclear(response.status) { unclear(error) } else { error })
    }

    /// Makes a feed of these quantities and hands it over.
    async fn feed(&self, caller: &dyn Caller, items: &[BulkItem]) -> HandedOver {
        let document = match self.upload(caller, items).await {
            Ok(document) => document,
            Err(error) => return HandedOver::No(held_back(&error)),
        };
        let made_at = caller.now();
        match self.create_feed(caller, &document).await {
            Ok(feed_id) => {
                caller.remember(&made_name(&feed_id), "", FEED_KEPT_SECONDS);
                HandedOver::Ticket(feed_id)
            }
            // No single message is to blame.
            Err(error) => match failed_push(error) {
                PushOutcome::NotSent(error) | PushOutcome::Refused(error) => HandedOver::No(error),
                // It is looked for by its time: until it is found nothing else is told.
                PushOutcome::Unknown(_) => {
                    HandedOver::Ticket(format!("{LOST_TICKET}{}", made_at.micros()))
                }
                PushOutcome::Applied | PushOutcome::Accepted | PushOutcome::Stale => {
                    let detail = "a failure without an error";
                    HandedOver::Unclear(ChannelError::new(ChannelErrorKind::Bug, detail))
                }
            },
        }
    }

    /// Makes a document and puts the feed into it, within the five minutes of its address.
    async fn upload(
        &self,
        caller: &dyn Caller,
        items: &[BulkItem],
    ) -> Result<FeedDocument, ChannelError> {
        let url = format!("{}/feeds/2021-06-30/documents", self.config.host);
        let request =
            Outgoing::new(FEEDS_DOCUMENT, Method::POST, url).json(&wire::build_feed_document());
        let response = self.send(caller, FEEDS_DOCUMENT, request).await?;
        let document = wire::parse_feed_document(&succeeded(response)?.body)?;
        let feed = wire::build_listings_feed(&self.config, items);
        // No access token: the address itself is the permission.
        let request = Outgoing::new(FEEDS_TRANSFER, Method::PUT, document.url.clone())
            .large_json(&feed)
            .header("content-type", wire::FEED_CONTENT_TYPE)
            .build();
        let response = caller.call(request).await?;
        if response.status.is_success() {
            return Ok(document);
        }
        let detail = format!("the feed's storage answered {}", response.status.as_u16());
        Err(ChannelError::new(ChannelErrorKind::Transient, detail))
    }

    async fn create_feed(
        &self,
        caller: &dyn Caller,
        document: &FeedDocument,
    ) -> Result<String, ChannelError> {
        let url = format!("{}/feeds/2021-06-30/feeds", self.config.host);
        let body = wire::build_feed(&self.config, &document.feed_document_id);
        // Twice would be two feeds, the second of which may overtake a later patch.
        let request = Outgoing::new(FEEDS_CREATE, Method::POST, url).json(&body).once();
        let response = self.send(caller, FEEDS_CREATE, request).await?;
        if response.status.is_success() {
            return wire::parse_created_feed(&response.body);
        }
        let error = error::classify(&response);
        Err(if is_unclear(response.status) { unclear(error) } else { error })
    }

    /// Looks for the feed that was made at an instant and whose id was lost with the answer.
    ///
    /// A feed does not name its document, so it is known by its time and by being none whose id
    /// was told. What was mistaken for it is found out by reading, as all of a feed is.
    /// <https://developer-docs.amazon.com/sp-api/reference/getfeeds>
    async fn find_feed(
        &self,
        caller: &dyn Caller,
        ticket: &str,
        made_at: Timestamp,
    ) -> Result<Found, ChannelError> {
        if let Some(id) = caller.recall(ticket) {
            return Ok(Found::One(id));
        }
        let since = made_at.plus_millis(-CLOCKS_APART_MS);
        let until = made_at.plus_millis(FEED_MADE_MS_MAX + CLOCKS_APART_MS);
        let url = wire::build_feeds_url(&self.config, since, until);
        let response = self.get(caller, FEEDS_LIST, url).await?;
        let mut ids = wire::parse_feeds(&response.body)?;
        ids.retain(|id| caller.recall(&made_name(id)).is_none());
        let is_over = caller.now() >= made_at.plus_millis(FEED_LISTED_MS_MAX);
        let Some(id) = ids.pop() else {
            return Ok(if is_over { Found::Never } else { Found::NotYet });
        };
        if !ids.is_empty() {
            return Ok(Found::Several);
        }
        caller.remember(ticket, &id, FEED_KEPT_SECONDS);
        caller.remember(&made_name(&id), "", FEED_KEPT_SECONDS);
        Ok(Found::One(id))
    }

    async fn report(&self, caller: &dyn Caller, id: &str) -> Result<Report, ChannelError> {
        let id = encode(id);
        let url = format!("{}/feeds/2021-06-30/documents/{id}", self.config.host);
        let response = self.get(caller, FEEDS_REPORT, url).await?;
        let document = wire::parse_feed_document(&response.body)?;
        let request = Outgoing::new(FEEDS_TRANSFER, Method::GET, document.url).build();
        let response = succeeded(caller.call(request).await?)?;
        wire::parse_report(&response.body)
    }

    async fn catalogue_page(
        &self,
        caller: &dyn Caller,
        sweep: &Sweep,
    ) -> Result<CataloguePage, ChannelError> {
        let (page, made) = (sweep.page.as_deref(), sweep.window.map(Window::made));
        let url = wire::build_catalogue_url(&self.config, made, page);
        let response = self.get(caller, SEARCH, url).await?;
        wire::parse_catalogue(&response.body)
    }

    async fn search(
        &self,
        caller: &dyn Caller,
        skus: &[&str],
        shown: &mut BTreeMap<String, Reading>,
    ) -> Result<(), ChannelError> {
        let mut page_token: Option<String> = None;
        for _ in 0..READ_PAGES_MAX {
            let url = wire::build_search_url(&self.config, skus, page_token.as_deref());
            let response = self.get(caller, SEARCH, url).await?;
            let page = wire::parse_search(&response.body)?;
            shown.extend(page.items);
            page_token = page.next;
            if page_token.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Reads what Amazon holds: in the first marketplace, and of what is not known there in the
    /// next ones. Marketplaces may share their stock, so that nothing is added up.
    async fn fulfilled(
        &self,
        caller: &dyn Caller,
        skus: &[&str],
        shown: &mut BTreeMap<String, Reading>,
    ) -> Result<(), ChannelError> {
        let mut missing = skus.to_vec();
        for marketplace in &self.config.marketplace_ids {
            if missing.is_empty() {
                break;
            }
            self.summaries(caller, marketplace, &missing, shown).await?;
            missing.retain(|sku| !matches!(shown.get(*sku), Some(Reading::Quantity(_))));
        }
        Ok(())
    }

    async fn summaries(
        &self,
        caller: &dyn Caller,
        marketplace: &str,
        skus: &[&str],
        shown: &mut BTreeMap<String, Reading>,
    ) -> Result<(), ChannelError> {
        let mut page_token: Option<String> = None;
        for _ in 0..READ_PAGES_MAX {
            let url = wire::build_fba_url(&self.config, marketplace, skus, page_token.as_deref());
            let response = self.get(caller, FBA, url).await?;
            let page = wire::parse_fba(&response.body)?;
            shown.extend(page.items);
            page_token = page.next;
            if page_token.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn get(
        &self,
        caller: &dyn Caller,
        bucket: &'static str,
        url: String,
    ) -> Result<Response, ChannelError> {
        let request = Outgoing::new(bucket, Method::GET, url);
        succeeded(self.send(caller, bucket, request).await?)
    }

    /// Sends a request on the seller's behalf.
    async fn send(
        &self,
        caller: &dyn Caller,
        bucket: &'static str,
        request: Outgoing,
    ) -> Result<Response, ChannelError> {
        self.send_as(Grant::Seller, caller, bucket, request).await
    }

    /// Sends a request with a token, once more with a new one when the first is refused.
    async fn send_as(
        &self,
        grant: Grant,
        caller: &dyn Caller,
        bucket: &'static str,
        request: Outgoing,
    ) -> Result<Response, ChannelError> {
        const RENEWALS_MAX: usize = 1;
        let request = request
            .header("accept", "application/json")
            .header("user-agent", "Trueup/0.1 (Language=Rust)");
        let mut renewals = 0;
        loop {
            let token = auth::token(&self.config, caller, grant).await?;
            let signed = request
                .clone()
                .text_header("x-amz-date", &wire::amz_date(caller.now()))?
                .secret_header("x-amz-access-token", token.expose())?;
            let response = caller.call(signed.build()).await?;
            if let Some(hint) = rate_hint(&response) {
                caller.learn(bucket, hint);
            }
            if !error::refuses_token(&response) {
                return Ok(response);
            }
            caller.drop_token(grant.token_name(), &token);
            if renewals == RENEWALS_MAX {
                return Err(error::classify_refused_token(&response));
            }
            renewals += 1;
        }
    }
}

/// What was read, by seller SKU.
struct Shown {
    merchant: BTreeMap<String, Reading>,
    amazon: BTreeMap<String, Reading>,
}

impl Shown {
    fn reading(&self, listing: &Listing) -> Reading {
        let by_sku = if listing.channel_fulfilled { &self.amazon } else { &self.merchant };
        seller_sku(listing)
            .and_then(|sku| by_sku.get(sku).cloned())
            .unwrap_or_else(|| Reading::Unknown("no such listing".to_owned()))
    }
}

/// The seller and the marketplaces are in a search's address: a 400 or 404 is about the settings.
fn is_about_settings(error: &ChannelError) -> bool {
    matches!(error.kind, ChannelErrorKind::ListingNotFound | ChannelErrorKind::InvalidValue)
}

/// What became of looking for a feed.
enum Found {
    One(String),
    NotYet,
    Never,
    Several,
}

/// Returns when a feed was made whose id was lost.
fn lost_at(ticket: &str) -> Option<Timestamp> {
    let micros = ticket.strip_prefix(LOST_TICKET)?.parse().ok()?;
    Some(Timestamp::from_micros(micros))
}

/// Under which name it is remembered that a feed's id is known.
fn made_name(feed_id: &str) -> String {
    format!("feed:{feed_id}")
}

/// Returns whether a probe was forbidden; that nothing was found is no failure.
fn lacks(probe: Result<Response, ChannelError>) -> Result<bool, ChannelError> {
    match probe {
        Err(error) if error.kind == ChannelErrorKind::Forbidden => Ok(true),
        Ok(_) => Ok(false),
        Err(error) if is_about_settings(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn seller_sku(listing: &Listing) -> Option<&str> {
    listing.fields.get("sellerSku").map(String::as_str)
}

fn split_at_commas<'a>(listings: &[&'a Listing]) -> (Vec<&'a str>, Vec<&'a str>) {
    listings.iter().filter_map(|listing| seller_sku(listing)).partition(|sku| sku.contains(','))
}

/// Returns the seller SKU to push; a quantity for what Amazon ships would turn it into a
/// merchant's offer.
/// <https://github.com/amzn/selling-partner-api-models/issues/2061>
fn pushable(item: &PushItem) -> Result<&str, ChannelError> {
    if item.listing.channel_fulfilled {
        return Err(channel_fulfilled());
    }
    seller_sku(&item.listing).ok_or_else(|| {
        ChannelError::new(ChannelErrorKind::InvalidValue, "the mapping has no sellerSku")
    })
}

fn succeeded(response: Response) -> Result<Response, ChannelError> {
    if response.status.is_success() { Ok(response) } else { Err(error::classify(&response)) }
}

/// The limit of this pair of account and application, in calls a second.
/// <https://developer-docs.amazon.com/sp-api/docs/usage-plans-and-rate-limits>
fn rate_hint(response: &Response) -> Option<RateHint> {
    let text = response.headers.get("x-amzn-ratelimit-limit")?.to_str().ok()?;
    let per_second: f64 = text.trim().parse().ok()?;
    (per_second.is_finite() && per_second > 0.0).then_some(RateHint {
        per_second,
        burst: None,
        remaining: None,
    })
}
