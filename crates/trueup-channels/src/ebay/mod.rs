//! eBay through the Inventory, Fulfillment and Notification APIs, and through the Trading API
//! for listings older than those; `docs.md` says what is supported and why.

mod auth;
mod config;
mod error;
mod webhook;
mod wire;

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::Method;
use trueup_core::{ListingKey, Timestamp};

use crate::consent::Consent;
use crate::credential::REFRESH_TOKEN;
use crate::exchange::{Outgoing, channel_fulfilled, failed_push, held_back, is_unclear, unclear};
use crate::oauth;
use crate::port::{
    Caller, Capabilities, CatalogueEntry, Channel, ChannelError, ChannelErrorKind, Connected, Kind,
    Listing, ListingNote, Missing, Notice, OrderNotice, Page, PushBatch, PushItem, PushOutcome,
    Quota, RateHint, Reading, Response, Secret, SettingError, Settings, VerifiedWebhook, Wants,
    WebhookError, WebhookRequest, day_west_of_greenwich,
};

use self::auth::Grant;
use self::config::Config;
use self::wire::{
    Offer, OfferIds, Offers, Quantity, Topic, TradingAnswer, TradingItem, UpdateEntry,
};

pub use self::webhook::challenge_response;

const INVENTORY: &str = "inventory";
const ORDERS: &str = "orders";
const NOTIFICATIONS: &str = "notifications";
const TRADING: &str = "trading";
/// GetSellerList has a short-term limit of its own.
const SELLER_LIST: &str = "trading.list";
const LIMITS: &str = "limits";

/// How long it is remembered that a SKU has no published offer.
const NO_OFFER_KEPT_SECONDS: u64 = 600;
/// Under which name it is remembered that the account takes one SKU in a bulk update, and for
/// how long: then it is tried again with more.
const ONE_AT_A_TIME: &str = "one sku in a bulk update";
const ONE_AT_A_TIME_SECONDS: u64 = 86_400;
/// "Each listing can be revised up to 250 times in one calendar day."
/// <https://developer.ebay.com/api-docs/sell/inventory/resources/inventory_item/methods/bulkUpdatePriceQuantity>
const REVISIONS_PER_DAY: u32 = 250;
/// How many hours eBay's day is behind Greenwich's: it "starts at midnight, 00:00:00 PST (not
/// GMT)", which is said of calls and taken to hold for revisions, too.
/// <https://developer.ebay.com/devzone/xml/docs/reference/ebay/types/ApiAccessRuleType.html>
const DAY_HOURS_BEHIND: i64 = 8;
/// The error of an offer that is gone.
const NO_SUCH_OFFER: &str = "25713";
/// How many pages of locations are read.
const LOCATION_PAGES_MAX: usize = 20;
/// eBay asks to keep a public key for an hour.
/// <https://developer.ebay.com/api-docs/commerce/notification/overview.html>
const KEY_KEPT_SECONDS: u64 = 3_600;

/// The kind `ebay`.
#[derive(Debug, Clone, Copy)]
pub struct Ebay;

impl Kind for Ebay {
    fn name(&self) -> &'static str {
        "ebay"
    }

    fn setting_names(&self) -> &'static [&'static str] {
        config::SETTING_NAMES
    }

    fn open(&self, settings: &Settings) -> Result<Box<dyn Channel>, Vec<SettingError>> {
        let config = Config::read(settings)?;
        let capabilities = Capabilities {
            push_items_max: config.bulk_items_max,
            pushes_at_once_max: 4,
            bulk_items_max: 0,
            bulk_from: 0,
            bulk_usual_ms: 0,
            bulk_bucket: None,
            bulk_above: 0,
            bulk_look_ms: 0,
            read_items_max: wire::READ_ITEMS_MAX,
            reads_apart: false,
            sweep_items_max: 200,
            compare_and_set: false,
            verify_by_reading: false,
            settle_ms: 10_000,
            // The specs say int32 and no other limit.
            quantity_max: 2_147_483_647,
            revisions_per_day: Some(REVISIONS_PER_DAY),
            orders_poll_ms: 60_000,
            orders_fresh_ms: 30_000,
        };
        Ok(Box::new(Seller { config, capabilities }))
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

    fn scope(&self, settings: &Settings, key: &ListingKey) -> Option<String> {
        config::scope(settings, key)
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

    fn day_of(&self, at: Timestamp) -> (Timestamp, Timestamp) {
        day_west_of_greenwich(at, DAY_HOURS_BEHIND)
    }

    fn consent(&self) -> Option<&'static dyn Consent> {
        Some(&auth::Page)
    }

    fn awaits_consent(&self, settings: &Settings) -> bool {
        !oauth::has_credential(settings, REFRESH_TOKEN)
    }

    fn budgets(&self) -> &'static [(&'static str, RateHint)] {
        // The Trading API's short-term limit is 6000 calls in any 15 s, that of GetSellerList
        // 300: what is saved up and what comes back in 15 s make that number together. Daily
        // quotas are read (`limits`), and no rate is documented for the other APIs.
        // <https://developer.ebay.com/develop/get-started/api-call-limits>
        // <https://developer.ebay.com/DevZone/xml/docs/Reference/ebay/GetSellerList.html>
        const fn of(per_second: f64, burst: f64) -> RateHint {
            RateHint { per_second, burst: Some(burst), remaining: None }
        }
        const BUDGETS: &[(&str, RateHint)] =
            &[(TRADING, of(380.0, 300.0)), (SELLER_LIST, of(19.0, 15.0))];
        BUDGETS
    }
}

/// One connected seller account.
struct Seller {
    config: Config,
    capabilities: Capabilities,
}

#[async_trait]
impl Channel for Seller {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Of Trading listings, ReviseInventoryStatus counts those of German sellers only.
    /// <https://developer.ebay.com/DevZone/merchant-data/CallRef/ReviseInventoryStatus.html>
    fn counts_revisions(&self, fields: &BTreeMap<String, String>) -> bool {
        !fields.contains_key("itemId") || self.config.marketplace_id == "EBAY_DE"
    }

    /// "Each listing can be revised": a variation is a part of one.
    fn revised_with(&self, fields: &BTreeMap<String, String>) -> Option<String> {
        fields.get("itemId").or_else(|| fields.get(config::LISTING_ID)).cloned()
    }

    async fn connect(&self, caller: &dyn Caller) -> Result<Connected, ChannelError> {
        self.get(caller, INVENTORY, wire::probe_url()).await?;
        Ok(Connected {
            account: Some(self.config.marketplace_id.clone()),
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
        let orders = wants.orders.then_some(auth::ORDERS_SCOPE);
        for scope in [auth::INVENTORY_SCOPE].into_iter().chain(orders) {
            if !auth::is_granted(&self.config, caller, scope).await? {
                missing.push(Missing::scope(scope.rsplit('/').next().unwrap_or(scope)));
            }
        }
        // Nothing more can be asked without them.
        if !missing.is_empty() {
            return Ok(missing);
        }
        if wants.orders {
            let url = wire::orders_url(caller.now(), 0);
            match self.get(caller, ORDERS, url).await {
                Err(error) if error.kind == ChannelErrorKind::Forbidden => {
                    missing.push(Missing::scope("sell.fulfillment"));
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(wanted) = &self.config.location else { return Ok(missing) };
        let mut offset = 0;
        for _ in 0..LOCATION_PAGES_MAX {
            let response = self.get(caller, INVENTORY, wire::locations_url(offset)).await?;
            let keys = wire::parse_locations(&response.body)?;
            if keys.contains(wanted) {
                return Ok(missing);
            }
            if keys.len() < wire::LOCATIONS_MAX {
                break;
            }
            offset += wire::LOCATIONS_MAX;
        }
        missing.push(Missing {
            what: "defaultLocationId".to_owned(),
            code: "location_unknown",
            detail: format!("the seller has no location {wanted}"),
        });
        Ok(missing)
    }

    async fn push(&self, caller: &dyn Caller, batch: &PushBatch) -> Vec<PushOutcome> {
        let mut outcomes: Vec<Option<PushOutcome>> = vec![None; batch.items.len()];
        let mut inventory: Vec<Telling> = Vec::new();
        let mut trading: Vec<(usize, TradingItem)> = Vec::new();
        for (at, item) in batch.items.iter().enumerate() {
            match target(item) {
                Ok(Target::Inventory(quantity)) => {
                    let urgent = item.is_urgent();
                    // By the offer's number alone there is nothing to look the others up by.
                    let offers_known = quantity.sku.is_none() || is_shared(&item.listing.fields);
                    let lost_offer = false;
                    inventory.push(Telling { at, quantity, urgent, offers_known, lost_offer });
                }
                Ok(Target::Trading(item)) => trading.push((at, item)),
                Err(error) => outcomes[at] = Some(PushOutcome::Refused(error)),
            }
        }
        self.fill_in_offers(caller, &mut inventory, &mut outcomes).await;
        self.update_all(caller, &inventory, &mut outcomes).await;
        if lose_gone_offers(&mut inventory, &mut outcomes) {
            self.fill_in_offers(caller, &mut inventory, &mut outcomes).await;
            self.update_all(caller, &inventory, &mut outcomes).await;
        }
        caller.note_listings(offer_notes(batch, &inventory, &outcomes)).await;
        self.revise_all(caller, batch, &trading, &mut outcomes).await;
        let left_over = || {
            let detail = "the batch ended without an outcome for this item";
            PushOutcome::NotSent(ChannelError::new(ChannelErrorKind::Bug, detail))
        };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(left_over)).collect()
    }

    async fn read(
        &self,
        caller: &dyn Caller,
        listings: &[Listing],
    ) -> Result<Vec<Reading>, ChannelError> {
        // The live quantity is the smaller of the item's and the offer's own. The offer is read
        // until it was seen or told to show what the item has; from then on the item is enough,
        // 25 in a call, and both are told together.
        let mut offers: BTreeMap<&ListingKey, Result<Offers, String>> = BTreeMap::new();
        for listing in listings.iter().filter(|listing| must_see_offer(&listing.fields)) {
            let offer = match self.offers_of(caller, listing).await {
                Ok(found) if found.own.is_none() && listing.fields.contains_key("offerId") => {
                    Err("no such offer".to_owned())
                }
                Ok(found) => Ok(found),
                Err(error) if error.kind.is_connection_wide() => return Err(error),
                Err(error) => Err(error.detail),
            };
            offers.insert(&listing.key, offer);
        }
        let sku_of = |listing: &Listing| {
            let found = offers.get(&listing.key).and_then(|found| found.as_ref().ok());
            let offered = || found?.own.as_ref()?.sku.clone();
            listing.fields.get("sku").cloned().or_else(offered)
        };
        let is_inventory = |listing: &&Listing| !listing.fields.contains_key("itemId");
        let skus: Vec<String> = listings.iter().filter(is_inventory).filter_map(sku_of).collect();
        let skus = skus.iter().map(String::as_str).collect();
        let shown = self.inventory_items(caller, skus).await?;
        let shown: BTreeMap<String, Reading> = shown
            .into_iter()
            .map(|(sku, item)| (sku, item.unwrap_or_else(Reading::Unknown)))
            .collect();
        let mut readings = Vec::with_capacity(listings.len());
        let mut notes = Vec::new();
        for listing in listings {
            readings.push(match listing.fields.get("itemId") {
                Some(item_id) => self.trading_reading(caller, item_id, listing).await?,
                None => {
                    let item = sku_of(listing).and_then(|sku| shown.get(&sku));
                    let offer = offers.get(&listing.key);
                    notes.extend(shared_offers(listing, item, offer));
                    inventory_reading(item, offer)
                }
            });
        }
        caller.note_listings(notes).await;
        Ok(readings)
    }

    /// The catalogue has the item's quantity and says nothing of its offers.
    fn is_in_catalogue(&self, fields: &BTreeMap<String, String>) -> bool {
        !must_see_offer(fields)
    }

    async fn catalogue(
        &self,
        caller: &dyn Caller,
        cursor: Option<&str>,
    ) -> Result<Page<CatalogueEntry>, ChannelError> {
        match place(caller.now(), cursor)? {
            Place::Inventory(page) => {
                let response = self.get(caller, INVENTORY, wire::catalogue_url(page)).await?;
                let mut found = wire::parse_catalogue(&response.body, page)?;
                let trading = format!("trd:1:{}", caller.now().micros());
                found.next = found.next.or(Some(trading));
                Ok(found)
            }
            Place::Trading(page, from) => self.seller_list(caller, page, from).await,
        }
    }

    async fn orders(
        &self,
        caller: &dyn Caller,
        since: Timestamp,
        cursor: Option<&str>,
    ) -> Result<Page<OrderNotice>, ChannelError> {
        let offset = position(cursor)?;
        let response = self.get(caller, ORDERS, wire::orders_url(since, offset)).await?;
        wire::parse_orders(&response.body, offset)
    }

    async fn verify_webhook(
        &self,
        caller: &dyn Caller,
        request: WebhookRequest<'_>,
    ) -> Result<VerifiedWebhook, WebhookError> {
        let header = webhook::parse_header(request.headers)?;
        let pem = self.public_key(caller, &header.kid).await?;
        if !webhook::is_signed(&header, &pem, request.body) {
            return Err(WebhookError::Signature);
        }
        webhook::parse_names(request.body)
    }

    fn parse_webhook(&self, topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
        webhook::parse(topic, body)
    }

    async fn limits(
        &self,
        caller: &dyn Caller,
    ) -> Result<Option<Vec<(&'static str, Quota)>>, ChannelError> {
        let asked = [
            (Grant::Application, wire::rate_limit_url()),
            (Grant::User, wire::user_rate_limit_url()),
        ];
        let mut tightest: BTreeMap<&'static str, Quota> = BTreeMap::new();
        for (grant, url) in asked {
            let request = Outgoing::new(LIMITS, Method::GET, url);
            let answered = self.send(caller, grant, request).await.and_then(succeeded);
            let response = match answered {
                Ok(response) => response,
                // The application's are worth having without the seller's.
                Err(error) if grant == Grant::User && error.kind == ChannelErrorKind::Forbidden => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            for (api, resource, quota) in wire::parse_limits(&response.body)? {
                let Some(bucket) = bucket_of(&api, &resource) else { continue };
                let known = tightest.entry(bucket).or_insert(quota);
                if quota.remaining < known.remaining {
                    *known = quota;
                }
            }
        }
        Ok(Some(tightest.into_iter().collect()))
    }

    async fn subscribe(&self, caller: &dyn Caller, url: &str) -> Result<Vec<String>, ChannelError> {
        let Some(token) = &self.config.verification_token else {
            let detail = "credentials.verificationToken is needed to subscribe";
            return Err(ChannelError::new(ChannelErrorKind::Config, detail));
        };
        let topics = self.open_topics(caller).await?;
        let destination = self.destination(caller, url, token).await?;
        let mut subscribed = Vec::new();
        let mut refused = None;
        for topic in topics {
            let body = wire::build_subscription(&topic, &destination);
            let request =
                Outgoing::new(NOTIFICATIONS, Method::POST, wire::subscription_url()).json(&body);
            let response = self.send(caller, Grant::User, request).await?;
            // 409: it is there already.
            if response.status.is_success() || response.status.as_u16() == 409 {
                subscribed.push(topic.id);
            } else {
                // Some topics are open to partners only; the others are worth having.
                refused.get_or_insert_with(|| error::classify(&response));
            }
        }
        match refused {
            Some(error) if subscribed.is_empty() => Err(error),
            Some(_) | None => Ok(subscribed),
        }
    }
}

/// What one SKU is told, and its place in the batch.
struct Telling {
    at: usize,
    quantity: Quantity,
    /// Whether what eBay shows now could be oversold.
    urgent: bool,
    /// Whether all of the SKU's offers are among those that are told.
    offers_known: bool,
    /// Whether an offer that the mapping named is gone.
    lost_offer: bool,
}

/// By which API a listing is told its quantity.
enum Target {
    Inventory(Quantity),
    Trading(TradingItem),
}

fn target(item: &PushItem) -> Result<Target, ChannelError> {
    if item.listing.channel_fulfilled {
        return Err(channel_fulfilled());
    }
    let field = |name: &str| item.listing.fields.get(name).cloned();
    let (item_id, sku, offer) = (field("itemId"), field("sku"), field("offerId"));
    match (item_id, sku, offer) {
        (Some(item_id), sku, _) => {
            Ok(Target::Trading(TradingItem { item_id, sku, quantity: item.quantity }))
        }
        (None, None, None) => {
            let detail = "the mapping has no sku, offerId or itemId";
            Err(ChannelError::new(ChannelErrorKind::InvalidValue, detail))
        }
        (None, sku, _) => {
            let offers = named_offers(&item.listing);
            Ok(Target::Inventory(Quantity { sku, offers, quantity: item.quantity }))
        }
    }
}

impl Seller {
    /// Looks up the published offers of SKUs whose mapping does not name them all: an offer with
    /// a quantity of its own would go on showing that.
    async fn fill_in_offers(
        &self,
        caller: &dyn Caller,
        inventory: &mut [Telling],
        outcomes: &mut [Option<PushOutcome>],
    ) {
        let mut stopped: Option<ChannelError> = None;
        for Telling { at, quantity, urgent, offers_known, .. } in inventory {
            let Some(sku) = quantity.sku.as_deref() else { continue };
            if *offers_known || outcomes[*at].is_some() {
                continue;
            }
            let looked_up = match &stopped {
                Some(cause) => Err(held_back(cause)),
                None => self.published_offers(caller, sku, *urgent).await,
            };
            match looked_up {
                Ok(offers) => {
                    quantity.offers = offers.ids();
                    *offers_known = true;
                }
                Err(error) => {
                    outcomes[*at] = Some(PushOutcome::NotSent(held_back(&error)));
                    if error.kind.is_connection_wide() {
                        stopped = Some(error);
                    }
                }
            }
        }
    }

    /// Returns the offers of a SKU that can be told a quantity; that there are none is remembered
    /// for a while.
    async fn published_offers(
        &self,
        caller: &dyn Caller,
        sku: &str,
        urgent: bool,
    ) -> Result<Offers, ChannelError> {
        let name = format!("no offer:{sku}");
        if caller.recall(&name).is_some() {
            return Ok(Offers::default());
        }
        let (here, mut others) = self.offers(caller, sku, urgent).await?;
        others.retain(Offer::is_told);
        let offers = Offers { own: here.into_iter().find(Offer::is_told), others };
        if offers.ids().is_empty() {
            caller.remember(&name, "", NO_OFFER_KEPT_SECONDS);
        }
        Ok(offers)
    }

    /// Reads the offers of a SKU, here and elsewhere; a SKU without any answers 404.
    async fn offers(
        &self,
        caller: &dyn Caller,
        sku: &str,
        urgent: bool,
    ) -> Result<(Vec<Offer>, Vec<Offer>), ChannelError> {
        let url = wire::offers_url(sku);
        let request = Outgoing::new(INVENTORY, Method::GET, url).urgent(urgent);
        match self.send(caller, Grant::User, request).await.and_then(succeeded) {
            Ok(response) => wire::parse_offers(&response.body, &self.config.marketplace_id),
            Err(error) if error.kind == ChannelErrorKind::ListingNotFound => Ok(Default::default()),
            Err(error) => Err(error),
        }
    }

    /// Tells all SKUs and offers that have no outcome yet; a batch that is refused whole is
    /// halved until the one to blame stands alone. Where two are refused together and taken one
    /// by one, the account takes one SKU in a call: that is remembered.
    async fn update_all(
        &self,
        caller: &dyn Caller,
        inventory: &[Telling],
        outcomes: &mut [Option<PushOutcome>],
    ) {
        let open: Vec<&Telling> =
            inventory.iter().filter(|telling| outcomes[telling.at].is_none()).collect();
        let one_at_a_time = caller.recall(ONE_AT_A_TIME).is_some();
        let items_max = if one_at_a_time { 1 } else { self.config.bulk_items_max };
        let mut waiting: Vec<&[&Telling]> = open.chunks(items_max).rev().collect();
        let mut refused_pair: Option<&[&Telling]> = None;
        // Each call either gives outcomes to a chunk or splits it, so that there are fewer than
        // two for each item.
        while let Some(chunk) = waiting.pop() {
            match self.update(caller, chunk).await {
                Ok(entries) => {
                    for telling in chunk {
                        outcomes[telling.at] = Some(update_outcome(&telling.quantity, &entries));
                    }
                }
                Err(error)
                    if chunk.len() > 1 && !error.kind.is_connection_wide() && !is_lost(&error) =>
                {
                    let (first, second) = chunk.split_at(chunk.len() / 2);
                    waiting.extend([second, first]);
                    refused_pair = Some(chunk).filter(|chunk| chunk.len() == 2);
                    continue;
                }
                Err(error) => {
                    for telling in chunk {
                        outcomes[telling.at] = Some(failed_push(error.clone()));
                    }
                    if error.kind.is_connection_wide() {
                        for telling in waiting.into_iter().flatten() {
                            let held = PushOutcome::NotSent(held_back(&error));
                            outcomes[telling.at] = Some(held);
                        }
                        return;
                    }
                }
            }
            let is_taken = |telling: &&Telling| outcomes[telling.at] == Some(PushOutcome::Applied);
            if refused_pair.is_some_and(|pair| pair.iter().all(is_taken)) {
                refused_pair = None;
                caller.remember(ONE_AT_A_TIME, "", ONE_AT_A_TIME_SECONDS);
                waiting = waiting.into_iter().flat_map(|chunk| chunk.chunks(1).rev()).collect();
            }
        }
    }

    async fn update(
        &self,
        caller: &dyn Caller,
        chunk: &[&Telling],
    ) -> Result<Vec<UpdateEntry>, ChannelError> {
        let body = wire::build_bulk_update(chunk.iter().map(|telling| &telling.quantity));
        let request = Outgoing::new(INVENTORY, Method::POST, wire::bulk_update_url())
            .json(&body)
            .urgent(chunk.iter().any(|telling| telling.urgent));
        let response = self.send(caller, Grant::User, request).await?;
        // 207 is a success, too: each entry has its own status.
        if response.status.is_success() {
            return wire::parse_bulk_update(&response.body);
        }
        let error = error::classify(&response);
        // 25001 and 25025 come as 500 and say that nothing was done.
        let is_known = error.vendor_code.is_some();
        Err(if is_unclear(response.status) && !is_known { unclear(error) } else { error })
    }

    /// Tells all Trading listings, four at a time; a call that fails without saying which is
    /// done again one by one.
    async fn revise_all(
        &self,
        caller: &dyn Caller,
        batch: &PushBatch,
        trading: &[(usize, TradingItem)],
        outcomes: &mut [Option<PushOutcome>],
    ) {
        let open: Vec<&(usize, TradingItem)> = trading.iter().collect();
        let mut waiting: Vec<&[&(usize, TradingItem)]> =
            open.chunks(wire::REVISE_ITEMS_MAX).rev().collect();
        let calls_max = waiting.len().saturating_mul(1 + wire::REVISE_ITEMS_MAX);
        for _ in 0..calls_max {
            let Some(chunk) = waiting.pop() else { return };
            let items: Vec<&TradingItem> = chunk.iter().map(|(_, item)| item).collect();
            let is_urgent = |at: &usize| batch.items.get(*at).is_some_and(PushItem::is_urgent);
            let revise = Outgoing::new(TRADING, Method::POST, wire::TRADING_URL.to_owned())
                .body(wire::TRADING_BODY, wire::build_revise(&items))
                .urgent(chunk.iter().any(|(at, _)| is_urgent(at)));
            let answer = match self.trade(caller, "ReviseInventoryStatus", revise).await {
                Ok(answer) => answer,
                Err(error) => {
                    for (at, _) in chunk {
                        outcomes[*at] = Some(failed_push(error.clone()));
                    }
                    hold_back(waiting.iter().flat_map(|c| c.iter()), &error, outcomes);
                    return;
                }
            };
            let Some(first) = answer.errors.first() else {
                for (at, _) in chunk {
                    outcomes[*at] = Some(PushOutcome::Applied);
                }
                continue;
            };
            let error = error::classify_trading(first);
            if let [(at, _)] = chunk {
                outcomes[*at] = Some(failed_push(error));
                continue;
            }
            for piece in chunk.chunks(1).rev() {
                match piece {
                    [(at, item)] if answer.has_revised(item) => {
                        outcomes[*at] = Some(PushOutcome::Applied);
                    }
                    piece => waiting.push(piece),
                }
            }
        }
    }

    /// Reads the inventory items of SKUs; `Err` = a SKU is none, with the reason.
    async fn inventory_items(
        &self,
        caller: &dyn Caller,
        mut wanted: Vec<&str>,
    ) -> Result<BTreeMap<String, Result<Reading, String>>, ChannelError> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut shown = BTreeMap::new();
        for skus in wanted.chunks(wire::READ_ITEMS_MAX) {
            let request = Outgoing::new(INVENTORY, Method::POST, wire::bulk_get_url())
                .json(&wire::build_bulk_get(skus));
            let response = succeeded(self.send(caller, Grant::User, request).await?)?;
            shown.extend(wire::parse_bulk_get(&response.body)?);
        }
        Ok(shown)
    }

    /// Reads the offers of a listing: the one that the mapping names, else the published one,
    /// and the published ones on other marketplaces.
    async fn offers_of(
        &self,
        caller: &dyn Caller,
        listing: &Listing,
    ) -> Result<Offers, ChannelError> {
        let offer_id = match (listing.fields.get("offerId"), listing.fields.get("sku")) {
            (None, None) => return Ok(Offers::default()),
            (None, Some(sku)) => return self.published_offers(caller, sku, false).await,
            (Some(offer_id), Some(sku)) => {
                let (here, mut others) = self.offers(caller, sku, false).await?;
                others.retain(Offer::is_told);
                let own = here.into_iter().find(|offer| offer.offer_id == *offer_id);
                return Ok(Offers { own, others });
            }
            (Some(offer_id), None) => offer_id,
        };
        let own = match self.get(caller, INVENTORY, wire::offer_url(offer_id)).await {
            Ok(response) => Some(wire::parse_offer(&response.body)?),
            Err(error) if error.kind == ChannelErrorKind::ListingNotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Offers { own, others: Vec::new() })
    }

    async fn trading_reading(
        &self,
        caller: &dyn Caller,
        item_id: &str,
        listing: &Listing,
    ) -> Result<Reading, ChannelError> {
        let get = Outgoing::new(TRADING, Method::POST, wire::TRADING_URL.to_owned())
            .body(wire::TRADING_BODY, wire::build_get_item(item_id));
        let answer = self.trade(caller, "GetItem", get).await?;
        let Some(first) = answer.errors.first() else {
            return Ok(answer.available(listing.fields.get("sku").map(String::as_str)));
        };
        let error = error::classify_trading(first);
        if error.kind.is_connection_wide() {
            Err(error)
        } else {
            Ok(Reading::Unknown(error.detail))
        }
    }

    /// Returns the key that a signature names, kept for an hour.
    async fn public_key(&self, caller: &dyn Caller, kid: &str) -> Result<String, WebhookError> {
        let name = format!("key:{kid}");
        if let Some(pem) = caller.recall(&name) {
            return Ok(pem);
        }
        let request = Outgoing::new(NOTIFICATIONS, Method::GET, wire::public_key_url(kid));
        let answer = match self.send(caller, Grant::Application, request).await {
            // A key that eBay does not know signs nothing.
            Ok(response) if matches!(response.status.as_u16(), 400 | 404) => {
                return Err(WebhookError::Signature);
            }
            Ok(response) => succeeded(response),
            Err(error) => Err(error),
        };
        let pem = answer.and_then(|response| wire::parse_public_key(&response.body));
        let pem = pem.map_err(WebhookError::Key)?;
        caller.remember(&name, &pem, KEY_KEPT_SECONDS);
        Ok(pem)
    }

    /// Makes the destination of our notifications, or finds it; eBay checks the address with a
    /// challenge before it answers.
    async fn destination(
        &self,
        caller: &dyn Caller,
        url: &str,
        token: &Secret,
    ) -> Result<String, ChannelError> {
        let list = Outgoing::new(NOTIFICATIONS, Method::GET, wire::destinations_url());
        let response = self.send(caller, Grant::Application, list).await?;
        if response.status.is_success()
            && let Some(id) = wire::parse_destinations(&response.body, url)?
        {
            return Ok(id);
        }
        let create = Outgoing::new(NOTIFICATIONS, Method::POST, wire::destination_url())
            .json(&wire::build_destination(url, token.expose()))
            .once();
        let response = succeeded(self.send(caller, Grant::Application, create).await?)?;
        // 201 without a body; the id is the end of the Location.
        let location = response.headers.get("location").and_then(|value| value.to_str().ok());
        let id = location.and_then(|text| text.trim_end_matches('/').rsplit('/').next());
        id.filter(|id| !id.is_empty()).map(str::to_owned).ok_or_else(|| {
            let detail = "eBay made a destination without telling its id";
            ChannelError::new(ChannelErrorKind::Protocol, detail)
        })
    }

    /// Returns those of our topics that exist and that our scopes open.
    async fn open_topics(&self, caller: &dyn Caller) -> Result<Vec<Topic>, ChannelError> {
        let request = Outgoing::new(NOTIFICATIONS, Method::GET, wire::topics_url());
        let response = succeeded(self.send(caller, Grant::Application, request).await?)?;
        let mut topics = wire::parse_topics(&response.body, &auth::TOPIC_SCOPES)?;
        topics.retain(|topic| webhook::TOPICS.contains(&topic.id.as_str()));
        if topics.is_empty() {
            let detail = "eBay opens none of the topics that tell of stock and sales to us";
            return Err(ChannelError::new(ChannelErrorKind::Forbidden, detail));
        }
        Ok(topics)
    }

    /// Reads a page of the seller's Trading listings, without those that the Inventory API
    /// manages: they stand among the inventory items.
    async fn seller_list(
        &self,
        caller: &dyn Caller,
        page: u64,
        from: Timestamp,
    ) -> Result<Page<CatalogueEntry>, ChannelError> {
        let request = Outgoing::new(SELLER_LIST, Method::POST, wire::TRADING_URL.to_owned())
            .body(wire::TRADING_BODY, wire::build_seller_list(from, page));
        let answer = self.trade(caller, "GetSellerList", request).await?;
        if let Some(first) = answer.errors.first() {
            return Err(error::classify_trading(first));
        }
        let (mut items, more) = answer.listings();
        let skus = items.iter().filter_map(|item| item.sku.as_deref()).collect();
        let managed = self.inventory_items(caller, skus).await?;
        let is_managed = |sku: &String| managed.get(sku).is_some_and(Result::is_ok);
        items.retain(|item| !item.sku.as_ref().is_some_and(is_managed));
        let next = more.then(|| format!("trd:{}:{}", page.saturating_add(1), from.micros()));
        Ok(Page { items, next })
    }

    async fn get(
        &self,
        caller: &dyn Caller,
        bucket: &'static str,
        url: String,
    ) -> Result<Response, ChannelError> {
        let request = Outgoing::new(bucket, Method::GET, url);
        succeeded(self.send(caller, Grant::User, request).await?)
    }

    /// Sends a REST request with a token, once more with a new one when the first is refused.
    async fn send(
        &self,
        caller: &dyn Caller,
        grant: Grant,
        request: Outgoing,
    ) -> Result<Response, ChannelError> {
        let request = request.header("accept", "application/json");
        for _ in 0..ATTEMPTS_MAX {
            let token = auth::token(&self.config, caller, grant).await?;
            let signed = request.clone().bearer(&token)?;
            let response = caller.call(signed.build()).await?;
            if response.status.as_u16() != 401 {
                return Ok(response);
            }
            caller.drop_token(grant.token_name(), &token);
        }
        Err(refused_token())
    }

    /// Sends a Trading request; a refused token is told inside a 200.
    async fn trade(
        &self,
        caller: &dyn Caller,
        call: &'static str,
        request: Outgoing,
    ) -> Result<TradingAnswer, ChannelError> {
        let request = request
            .header("x-ebay-api-call-name", call)
            .header("x-ebay-api-siteid", self.config.trading_site())
            .header("x-ebay-api-compatibility-level", wire::TRADING_LEVEL);
        for _ in 0..ATTEMPTS_MAX {
            let token = auth::token(&self.config, caller, Grant::User).await?;
            let signed = request.clone().secret_header("x-ebay-api-iaf-token", token.expose())?;
            let response = caller.call(signed.build()).await?;
            if response.status.is_success() {
                let answer = wire::parse_trading(&response.body)?;
                if !answer.errors.iter().any(|error| error::refuses_token(&error.code)) {
                    return Ok(answer);
                }
            } else if response.status.as_u16() != 401 {
                let error = error::classify(&response);
                return Err(if is_unclear(response.status) { unclear(error) } else { error });
            }
            caller.drop_token(Grant::User.token_name(), &token);
        }
        Err(refused_token())
    }
}

/// A first attempt, and one with a new token.
const ATTEMPTS_MAX: usize = 2;

fn refused_token() -> ChannelError {
    ChannelError::new(ChannelErrorKind::Auth, "eBay refuses the access token, a new one too")
}

fn succeeded(response: Response) -> Result<Response, ChannelError> {
    if response.status.is_success() { Ok(response) } else { Err(error::classify(&response)) }
}

/// Returns whether the item's quantity alone does not say what a listing shows.
fn must_see_offer(fields: &BTreeMap<String, String>) -> bool {
    // By the offer's number alone there is no SKU to read.
    !(fields.contains_key("itemId") || (is_shared(fields) && fields.contains_key("sku")))
}

/// Returns whether a mapping names all of its SKU's offers, seen or told to show what the item
/// has.
fn is_shared(fields: &BTreeMap<String, String>) -> bool {
    fields.get(config::OFFER_QUANTITY).is_some_and(|word| word == config::OFFER_SHARES)
}

/// Returns the offers that a mapping names.
fn named_offers(listing: &Listing) -> OfferIds {
    let others = listing.fields.get(config::OTHER_OFFERS).map(String::as_str).unwrap_or_default();
    OfferIds {
        own: listing.fields.get("offerId").cloned(),
        others: others.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect(),
        listing: listing.fields.get(config::LISTING_ID).cloned(),
    }
}

/// Makes the note that the offers were seen to show what their item has.
fn shared_offers(
    listing: &Listing,
    item: Option<&Reading>,
    offers: Option<&Result<Offers, String>>,
) -> Option<ListingNote> {
    let (Some(Reading::Quantity(item)), Some(Ok(offers))) = (item, offers) else { return None };
    let ids = offers.ids();
    (!ids.is_empty() && offers.share(*item) && listing.fields.contains_key("sku"))
        .then(|| offers_note(listing, &ids))
}

/// Makes the note of a listing's offers, which show what the item has.
fn offers_note(listing: &Listing, offers: &OfferIds) -> ListingNote {
    let shares = (!offers.is_empty()).then(|| config::OFFER_SHARES.to_owned());
    let others = offers.others.join(",");
    let others = Some(others).filter(|others| !others.is_empty());
    let mut fields = BTreeMap::from([
        ("offerId".to_owned(), offers.own.clone()),
        (config::OFFER_QUANTITY.to_owned(), shares),
    ]);
    for (name, found) in
        [(config::OTHER_OFFERS, others), (config::LISTING_ID, offers.listing.clone())]
    {
        if found.is_some() || listing.fields.contains_key(name) {
            fields.insert(name.to_owned(), found);
        }
    }
    ListingNote { key: listing.key.clone(), fields }
}

/// Says which mappings are to name other offers than they do, after a push: item and offers
/// were told the same number.
fn offer_notes(
    batch: &PushBatch,
    inventory: &[Telling],
    outcomes: &[Option<PushOutcome>],
) -> Vec<ListingNote> {
    let note = |telling: &Telling| {
        let listing = &batch.items.get(telling.at)?.listing;
        let known = named_offers(listing);
        let is_noted =
            known == telling.quantity.offers && (known.is_empty() || is_shared(&listing.fields));
        let is_applied = outcomes.get(telling.at) == Some(&Some(PushOutcome::Applied));
        let is_told = is_applied && !is_noted;
        let none = OfferIds::default();
        let told = if is_applied { &telling.quantity.offers } else { &none };
        (is_told || telling.lost_offer).then(|| offers_note(listing, told))
    };
    inventory.iter().filter_map(note).collect()
}

/// Takes the offers that are gone out of what is told, so that they are looked up anew; returns
/// whether there were any. A mapping that knows its offer alone has nothing to look it up by.
fn lose_gone_offers(inventory: &mut [Telling], outcomes: &mut [Option<PushOutcome>]) -> bool {
    let mut lost = false;
    for Telling { at, quantity, offers_known, lost_offer, .. } in inventory {
        let is_gone = matches!(&outcomes[*at], Some(PushOutcome::Refused(error))
            if error.vendor_code.as_deref() == Some(NO_SUCH_OFFER));
        if is_gone && quantity.sku.is_some() && !quantity.offers.is_empty() {
            outcomes[*at] = None;
            quantity.offers = OfferIds::default();
            *offers_known = false;
            *lost_offer = true;
            lost = true;
        }
    }
    lost
}

/// Returns whether what was done is not known, so that it must not be taken apart and resent.
fn is_lost(error: &ChannelError) -> bool {
    matches!(failed_push(error.clone()), PushOutcome::Unknown(_))
}

/// Marks what was not sent because a call before it stopped the batch.
fn hold_back<'a, T: 'a>(
    rest: impl Iterator<Item = &'a &'a (usize, T)>,
    cause: &ChannelError,
    outcomes: &mut [Option<PushOutcome>],
) {
    for (at, _) in rest {
        outcomes[*at] = Some(PushOutcome::NotSent(held_back(cause)));
    }
}

/// Returns the bucket that a quota holds for: an API as a whole (`sell.inventory`; parts such as
/// `buy.browse.item.bulk` are counted apart), of the Trading API each call.
fn bucket_of(api: &str, resource: &str) -> Option<&'static str> {
    const APIS: [(&str, &str); 3] = [
        ("sell.inventory", INVENTORY),
        ("sell.fulfillment", ORDERS),
        ("commerce.notification", NOTIFICATIONS),
    ];
    if api.eq_ignore_ascii_case("TradingAPI") {
        return match resource {
            "ReviseInventoryStatus" | "GetItem" => Some(TRADING),
            "GetSellerList" => Some(SELLER_LIST),
            _ => None,
        };
    }
    let named = APIS.iter().find(|(name, _)| resource.eq_ignore_ascii_case(name));
    named.map(|(_, bucket)| *bucket)
}

/// Looks at every entry about a SKU and its offers; all must have succeeded.
fn update_outcome(quantity: &Quantity, entries: &[UpdateEntry]) -> PushOutcome {
    let mut about = entries.iter().filter(|entry| entry.is_about(quantity)).peekable();
    if about.peek().is_none() {
        let detail = "eBay's answer says nothing of this item";
        return PushOutcome::Unknown(ChannelError::new(ChannelErrorKind::Protocol, detail));
    }
    match about.find(|entry| !entry.is_success()) {
        None => PushOutcome::Applied,
        Some(entry) => failed_push(error::classify_entry(entry.status_code, &entry.errors)),
    }
}

/// Returns what is live on the connection's marketplace: the smaller of the inventory item's and
/// the offer's own quantity.
fn inventory_reading(item: Option<&Reading>, offers: Option<&Result<Offers, String>>) -> Reading {
    let own = match offers {
        Some(Ok(offers)) => offers.own.as_ref().and_then(|offer| offer.available_quantity),
        Some(Err(reason)) => return Reading::Unknown(reason.clone()),
        None => None,
    };
    match (item, own) {
        (Some(Reading::Quantity(item)), Some(own)) => Reading::Quantity(own.min(*item)),
        (Some(reading), _) => reading.clone(),
        (None, _) => Reading::Unknown("no such inventory item".to_owned()),
    }
}

/// Where in the catalogue a page is.
enum Place {
    /// So many pages into the inventory items.
    Inventory(u64),
    /// This page, counted from 1, of what ends after the instant.
    Trading(u64, Timestamp),
}

/// Reads a cursor of the catalogue: `inv:<page>`, then `trd:<page>:<since>`.
fn place(now: Timestamp, cursor: Option<&str>) -> Result<Place, ChannelError> {
    let Some(cursor) = cursor else { return Ok(Place::Inventory(0)) };
    if let Some(page) = cursor.strip_prefix("inv:") {
        return Ok(Place::Inventory(position(Some(page))?));
    }
    let trading = cursor.strip_prefix("trd:").and_then(|rest| rest.split_once(':'));
    let (page, from) = trading.unwrap_or((cursor, ""));
    let from = from.parse().map_or(now, Timestamp::from_micros);
    Ok(Place::Trading(position(Some(page))?, from))
}

/// Reads a cursor of ours: a page number or an offset.
fn position(cursor: Option<&str>) -> Result<u64, ChannelError> {
    cursor.map_or(Ok(0), |text| {
        text.parse().map_err(|_| ChannelError::new(ChannelErrorKind::Bug, "a cursor not of ours"))
    })
}
