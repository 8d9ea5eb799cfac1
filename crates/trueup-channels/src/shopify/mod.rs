//! Shopify through the GraphQL Admin API; `docs.md` says what is supported and why.

mod auth;
mod config;
mod error;
mod webhook;
mod wire;

use std::collections::BTreeMap;

use async_trait::async_trait;
use http::Method;
use serde_json::Value;
use sha2::Digest as _;
use trueup_core::{ListingKey, Timestamp};

use crate::consent::Consent;
use crate::exchange::{
    self, Outgoing, channel_fulfilled, failed_push, held_back, is_unclear, too_many, unclear,
};
use crate::port::{
    Caller, Capabilities, CatalogueEntry, Channel, ChannelError, ChannelErrorKind, Connected, Kind,
    Listing, Missing, Notice, OrderNotice, Page, PushBatch, PushOutcome, RateHint, Reading, Secret,
    SettingError, Settings, VerifiedWebhook, Wants, WebhookError, WebhookRequest,
};

use self::config::Config;
use self::wire::{
    Activated, Document, InventoryQuantityInput, Location, PolledOrder, SetRefusal, Shown,
    Subscription, Variant,
};

/// The one rate budget: the cost bucket of app and shop.
const BUCKET: &str = "graphql";
/// What a set of up to 250 quantities was recorded to ask for.
const SET_COST: u32 = 13;
/// What a page or a batch of 250 objects with a nested list asks for at most, as recorded.
const PAGE_COST: u32 = 100;
/// What a page of 250 objects with a list within a list asks for at most, as recorded.
const VARIANTS_COST: u32 = 310;
/// How many variants a page has; the smaller ones where a query may not cost so much.
/// <https://shopify.dev/docs/api/usage/limits#single-query-limit>
const VARIANT_PAGES: [usize; 3] = [wire::ARRAY_ITEMS_MAX, 100, 25];
/// How many further pages of locations of one item are read (50 each): a shop has at most 1000.
/// <https://help.shopify.com/en/manual/locations/setting-up-your-locations>
const LEVEL_PAGES_MAX: usize = 20;
/// How often one push is sent again without the items that were refused.
const PUSH_ROUNDS_MAX: usize = 5;
/// How many items one push stocks at their location; a call each.
const ACTIVATIONS_MAX: usize = 25;
/// How many pages of locations are read (50 each).
const LOCATION_PAGES_MAX: usize = 20;
/// How many further pages of lines of one order are read (100 each).
const ORDER_LINE_PAGES_MAX: usize = 10;

/// The kind `shopify`.
#[derive(Debug, Clone, Copy)]
pub struct Shopify;

impl Kind for Shopify {
    fn name(&self) -> &'static str {
        "shopify"
    }

    fn setting_names(&self) -> &'static [&'static str] {
        config::SETTING_NAMES
    }

    fn open(&self, settings: &Settings) -> Result<Box<dyn Channel>, Vec<SettingError>> {
        Ok(Box::new(Shop { config: Config::read(settings)? }))
    }

    fn listing(
        &self,
        settings: &Settings,
        fields: BTreeMap<String, String>,
    ) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
        config::listing(settings, fields)
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
        config::awaits_consent(settings)
    }

    fn budgets(&self) -> &'static [(&'static str, RateHint)] {
        // The Standard plan: 100 points a second, a bucket of 2000 as recorded.
        // <https://shopify.dev/docs/api/usage/limits>
        const BUDGETS: &[(&str, RateHint)] =
            &[(BUCKET, RateHint { per_second: 100.0, burst: Some(2_000.0), remaining: None })];
        BUDGETS
    }
}

const CAPABILITIES: Capabilities = Capabilities {
    push_items_max: wire::ARRAY_ITEMS_MAX,
    pushes_at_once_max: 4,
    bulk_items_max: 0,
    bulk_from: 0,
    bulk_usual_ms: 0,
    bulk_bucket: None,
    bulk_above: 0,
    bulk_look_ms: 0,
    read_items_max: wire::ARRAY_ITEMS_MAX,
    reads_apart: false,
    sweep_items_max: 0,
    compare_and_set: true,
    verify_by_reading: false,
    settle_ms: 2_000,
    quantity_max: wire::QUANTITY_MAX,
    revisions_per_day: None,
    orders_poll_ms: 60_000,
    orders_fresh_ms: 30_000,
};

/// One connected shop.
struct Shop {
    config: Config,
}

#[async_trait]
impl Channel for Shop {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn connect(&self, caller: &dyn Caller) -> Result<Connected, ChannelError> {
        let locations = self.locations(caller).await?;
        let mut found = BTreeMap::new();
        match &self.config.default_location {
            Some(wanted) if !locations.iter().any(|l| l.id == *wanted && l.is_active) => {
                let detail = format!("the shop has no active location {wanted}");
                return Err(ChannelError::new(ChannelErrorKind::Config, detail));
            }
            Some(_) => {}
            None => {
                if let Some(location) = only_location(&locations) {
                    found.insert("defaultLocationId".to_owned(), location.id.clone());
                }
            }
        }
        Ok(Connected {
            account: Some(self.config.host.clone()),
            locations: locations.into_iter().map(|l| (l.id, l.name)).collect(),
            found,
        })
    }

    async fn missing(
        &self,
        caller: &dyn Caller,
        wants: Wants,
    ) -> Result<Vec<Missing>, ChannelError> {
        let data = self.query(caller, &wire::build_scopes(), SET_COST).await?;
        let granted = wire::parse_scopes(data)?;
        let mut missing: Vec<Missing> = auth::scopes(wants.orders)
            .into_iter()
            .filter(|scope| !auth::is_granted(&granted, scope))
            .map(Missing::scope)
            .collect();
        let Some(wanted) = &self.config.default_location else { return Ok(missing) };
        if !auth::is_granted(&granted, "read_locations") {
            return Ok(missing);
        }
        let locations = self.locations(caller).await?;
        let what = "defaultLocationId".to_owned();
        match locations.iter().find(|location| location.id == *wanted) {
            None => missing.push(Missing {
                what,
                code: "location_unknown",
                detail: format!("the shop has no location {wanted}"),
            }),
            Some(location) if !location.is_active => missing.push(Missing {
                what,
                code: "location_inactive",
                detail: format!("the location {wanted} is not active"),
            }),
            Some(_) => {}
        }
        Ok(missing)
    }

    async fn push(&self, caller: &dyn Caller, batch: &PushBatch) -> Vec<PushOutcome> {
        let mut push = Push::new(batch);
        self.find_out(caller, &mut push, &batch.token).await;
        for _ in 0..PUSH_ROUNDS_MAX {
            let open = push.open();
            if open.is_empty() {
                break;
            }
            let quantities: Vec<&InventoryQuantityInput> =
                open.iter().filter_map(|&at| push.inputs[at].as_ref()).collect();
            let key = round_key(&batch.token, &quantities, push.attempt);
            let refusals = self.set(caller, &quantities, &batch.token, &key).await;
            let unstocked = push.settle(&open, refusals);
            self.activate(caller, &mut push, &unstocked, &key).await;
        }
        push.finish()
    }

    async fn read(
        &self,
        caller: &dyn Caller,
        listings: &[Listing],
    ) -> Result<Vec<Reading>, ChannelError> {
        let shown = self.levels(caller, listings.iter().filter_map(ids)).await?;
        let reading = |listing: &Listing| match ids(listing) {
            Some((item, location)) => shown
                .get(&(location.to_owned(), item.to_owned()))
                .map_or_else(|| Reading::Unknown(NO_ITEM.to_owned()), |shown| (*shown).into()),
            None => Reading::Unknown("the mapping names no item and location".to_owned()),
        };
        Ok(listings.iter().map(reading).collect())
    }

    async fn catalogue(
        &self,
        caller: &dyn Caller,
        cursor: Option<&str>,
    ) -> Result<Page<CatalogueEntry>, ChannelError> {
        let above = cursor.map(str::parse).transpose().map_err(|_| {
            ChannelError::new(ChannelErrorKind::Bug, "the catalogue's cursor is not a number")
        })?;
        let (mut variants, more) = self.variants(caller, above).await?;
        for variant in &mut variants {
            self.read_further_levels(caller, variant).await?;
        }
        let last = variants.iter().filter_map(|variant| variant.number).max();
        if more && last <= above {
            let detail = "the page of variants has none beyond those before";
            return Err(ChannelError::new(ChannelErrorKind::Protocol, detail));
        }
        let location = self.config.default_location.as_deref();
        let items = variants.into_iter().flat_map(|variant| wire::entries(variant, location));
        let next = last.filter(|_| more).map(|number| number.to_string());
        Ok(Page { items: items.collect(), next })
    }

    async fn orders(
        &self,
        caller: &dyn Caller,
        since: Timestamp,
        cursor: Option<&str>,
    ) -> Result<Page<OrderNotice>, ChannelError> {
        let data = self.query(caller, &wire::build_orders(since, cursor), PAGE_COST).await?;
        let Page { mut items, next } = wire::parse_orders(data)?;
        for order in &mut items {
            self.read_further_lines(caller, order).await?;
        }
        self.take_off_lost_units(caller, &mut items).await?;
        Ok(Page { items: items.into_iter().map(|order| order.notice).collect(), next })
    }

    async fn verify_webhook(
        &self,
        _caller: &dyn Caller,
        request: WebhookRequest<'_>,
    ) -> Result<VerifiedWebhook, WebhookError> {
        webhook::verify(&self.config, request)
    }

    fn parse_webhook(&self, topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
        webhook::parse(topic, body)
    }

    async fn subscribe(&self, caller: &dyn Caller, url: &str) -> Result<Vec<String>, ChannelError> {
        let known = self.subscriptions(caller, url).await?.unwrap_or_default();
        let is_known = |topic: &str| known.iter().any(|known| known.topic == topic);
        for (topic, fields) in wire::TOPICS.into_iter().filter(|(topic, _)| !is_known(topic)) {
            let document = wire::build_subscribe(topic, fields, url);
            let data = self.mutate(caller, &document, SET_COST, Repeat::No).await?;
            let errors = wire::parse_user_errors("webhookSubscriptionCreate", &data)?;
            // Somebody else subscribed it in between.
            let refused = errors.into_iter().find(|words| !words.contains("already been taken"));
            if let Some(words) = refused {
                let detail = format!("subscribe {topic}: {}", exchange::clip(&words));
                return Err(ChannelError::new(ChannelErrorKind::InvalidValue, detail));
            }
        }
        Ok(wire::TOPICS.into_iter().map(|(topic, _)| topic.to_owned()).collect())
    }

    async fn subscribed(
        &self,
        caller: &dyn Caller,
        url: &str,
    ) -> Result<Option<Vec<String>>, ChannelError> {
        let known = self.subscriptions(caller, url).await?;
        Ok(known.map(|known| known.into_iter().map(|known| known.topic).collect()))
    }

    async fn unsubscribe(&self, caller: &dyn Caller, url: &str) -> Result<(), ChannelError> {
        for subscription in self.subscriptions(caller, url).await?.unwrap_or_default() {
            let document = wire::build_unsubscribe(&subscription.id);
            let data = self.mutate(caller, &document, SET_COST, Repeat::Yes).await?;
            // One that is gone already is no longer our concern.
            let errors = wire::parse_user_errors("webhookSubscriptionDelete", &data)?;
            let refused = errors.into_iter().find(|words| !words.contains("does not exist"));
            if let Some(words) = refused {
                let detail =
                    format!("unsubscribe {}: {}", subscription.topic, exchange::clip(&words));
                return Err(ChannelError::new(ChannelErrorKind::InvalidValue, detail));
            }
        }
        Ok(())
    }
}

/// What is said of an item that is not there.
const NO_ITEM: &str = "no such inventory item";
/// What items show, by location and item.
type Levels = BTreeMap<(String, String), Shown>;

/// Whether a mutation may be sent twice after a broken connection.
#[derive(Clone, Copy)]
enum Repeat {
    /// It carries an `@idempotent` key.
    Yes,
    No,
}

impl Shop {
    /// Reads what pairs of item and location show.
    async fn levels<'a>(
        &self,
        caller: &dyn Caller,
        pairs: impl Iterator<Item = (&'a str, &'a str)> + Send,
    ) -> Result<Levels, ChannelError> {
        let mut levels = Levels::new();
        for (location, items) in by_location(pairs) {
            for items in items.chunks(wire::ARRAY_ITEMS_MAX) {
                let document = wire::build_levels(items, location);
                let data = self.query(caller, &document, PAGE_COST).await?;
                for (item, shown) in wire::parse_levels(data)? {
                    levels.insert((location.to_owned(), item), shown);
                }
            }
        }
        Ok(levels)
    }

    /// Finds out what the items show of which that is not known, so that nothing is overwritten
    /// blindly: what gives no number is refused, what is not stocked at its location is stocked.
    async fn find_out(&self, caller: &dyn Caller, push: &mut Push, token: &str) {
        let blind: Vec<usize> = push.blind().collect();
        if blind.is_empty() {
            return;
        }
        let pairs = blind.iter().filter_map(|&at| push.inputs[at].as_ref());
        let pairs: Vec<(String, String)> = pairs
            .map(|input| (input.inventory_item_id.clone(), input.location_id.clone()))
            .collect();
        let pairs = pairs.iter().map(|(item, location)| (item.as_str(), location.as_str()));
        let levels = match self.levels(caller, pairs).await {
            Ok(levels) => levels,
            Err(error) => {
                for at in blind {
                    push.outcomes[at] = Some(PushOutcome::NotSent(held_back(&error)));
                }
                return;
            }
        };
        let mut unstocked = Vec::new();
        for at in blind {
            let Some(input) = &mut push.inputs[at] else { continue };
            let place = (input.location_id.clone(), input.inventory_item_id.clone());
            let refused = |kind, detail: &str| {
                Some(PushOutcome::Refused(ChannelError::new(kind, detail.to_owned())))
            };
            push.outcomes[at] = match levels.get(&place) {
                Some(Shown::Available(quantity)) => {
                    input.change_from_quantity = Some(*quantity);
                    None
                }
                Some(Shown::NotStocked) => {
                    unstocked.push(at);
                    None
                }
                Some(Shown::NotTracked) => {
                    refused(ChannelErrorKind::NotPushable, "the item is not tracked by Shopify")
                }
                Some(Shown::NoNumber) => {
                    let detail = "Shopify says no number to compare with";
                    let error = ChannelError::new(ChannelErrorKind::Transient, detail);
                    Some(PushOutcome::NotSent(error))
                }
                None => refused(ChannelErrorKind::ListingNotFound, NO_ITEM),
            };
        }
        self.activate(caller, push, &unstocked, token).await;
    }

    /// Sends a set; `Ok` = what it refused.
    async fn set(
        &self,
        caller: &dyn Caller,
        quantities: &[&InventoryQuantityInput],
        token: &str,
        key: &str,
    ) -> Result<Vec<SetRefusal>, ChannelError> {
        let document = wire::build_set(quantities, token, key);
        let data = self.mutate(caller, &document, SET_COST, Repeat::Yes).await?;
        wire::parse_set(data)
    }

    /// Stocks items at their locations, so that the next round can set them.
    async fn activate(&self, caller: &dyn Caller, push: &mut Push, unstocked: &[usize], key: &str) {
        for &at in unstocked {
            let Some(input) = push.inputs[at].clone() else { continue };
            if push.activations == ACTIVATIONS_MAX {
                let detail = "more items to stock at their location than one push does";
                let error = ChannelError::new(ChannelErrorKind::Transient, detail);
                push.outcomes[at] = Some(PushOutcome::NotSent(error));
                continue;
            }
            push.activations += 1;
            let document = wire::build_activate(&input, &format!("{key}-stock-{at}"));
            let answer = self.mutate(caller, &document, SET_COST, Repeat::Yes).await;
            match answer.and_then(wire::parse_activate) {
                // What was known before is what the push rests on; only where nothing was, the
                // level that has just come about is what is compared with.
                Ok(Activated::Stocked(available)) => {
                    if let Some(input) = &mut push.inputs[at] {
                        input.change_from_quantity = input.change_from_quantity.or(available);
                    }
                }
                Ok(Activated::Refused(words)) => {
                    let words = exchange::clip(&words);
                    let detail = format!("the item cannot be stocked at the location: {words}");
                    let error = ChannelError::new(ChannelErrorKind::NotPushable, detail)
                        .with_code("ITEM_NOT_STOCKED_AT_LOCATION");
                    push.outcomes[at] = Some(PushOutcome::Refused(error));
                }
                // The set was refused as a whole, so nothing is known to be changed.
                Err(error) => {
                    push.outcomes[at] = Some(PushOutcome::NotSent(held_back(&error)));
                }
            }
        }
    }

    /// Returns our subscriptions of an address; `None` where the server cannot list them.
    async fn subscriptions(
        &self,
        caller: &dyn Caller,
        url: &str,
    ) -> Result<Option<Vec<Subscription>>, ChannelError> {
        match self.query(caller, &wire::build_subscriptions(url), PAGE_COST).await {
            Ok(data) => wire::parse_subscriptions(data, url).map(Some),
            Err(error) if error.kind == ChannelErrorKind::Bug => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn locations(&self, caller: &dyn Caller) -> Result<Vec<Location>, ChannelError> {
        let mut locations = Vec::new();
        let mut after: Option<String> = None;
        for _ in 0..LOCATION_PAGES_MAX {
            let document = wire::build_locations(after.as_deref());
            let page = wire::parse_locations(self.query(caller, &document, PAGE_COST).await?)?;
            locations.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(locations)
    }

    /// Reads the variants above a number: a page of 250, or of fewer where the shop finds that too
    /// dear. The flag says whether there are more.
    async fn variants(
        &self,
        caller: &dyn Caller,
        above: Option<u64>,
    ) -> Result<(Vec<Variant>, bool), ChannelError> {
        let mut pages = VARIANT_PAGES.into_iter().peekable();
        while let Some(first) = pages.next() {
            let document = wire::build_variants(above, first);
            match self.query(caller, &document, VARIANTS_COST).await {
                Ok(data) => return wire::parse_variants(data),
                Err(error) if error::is_too_dear(&error) && pages.peek().is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok((Vec::new(), false))
    }

    async fn read_further_levels(
        &self,
        caller: &dyn Caller,
        variant: &mut Variant,
    ) -> Result<(), ChannelError> {
        for _ in 0..LEVEL_PAGES_MAX {
            let (Some(item), Some(after)) = (&variant.item, variant.more_levels.take()) else {
                return Ok(());
            };
            let document = wire::build_item_levels(item, &after);
            let data = self.query(caller, &document, PAGE_COST).await?;
            wire::parse_item_levels(data, variant)?;
        }
        Ok(())
    }

    async fn read_further_lines(
        &self,
        caller: &dyn Caller,
        order: &mut PolledOrder,
    ) -> Result<(), ChannelError> {
        for _ in 0..ORDER_LINE_PAGES_MAX {
            let Some(after) = order.more_lines.take() else { return Ok(()) };
            let document = wire::build_order_lines(&order.gid, &after);
            let page = wire::parse_order_lines(self.query(caller, &document, PAGE_COST).await?)?;
            order.notice.lines.extend(page.items);
            order.more_lines = page.next;
        }
        Ok(())
    }

    /// `quantity − currentQuantity` counts refunded units that never came back, too. Orders
    /// that lost units are rare, so their refunds are read apart.
    async fn take_off_lost_units(
        &self,
        caller: &dyn Caller,
        orders: &mut [PolledOrder],
    ) -> Result<(), ChannelError> {
        let lost_some =
            |order: &&PolledOrder| order.notice.lines.iter().any(|line| line.state.restocked > 0);
        let gids: Vec<&str> = orders.iter().filter(lost_some).map(|o| o.gid.as_str()).collect();
        if gids.is_empty() {
            return Ok(());
        }
        // A failure is handed on, whatever it is: without them, units that never came back would
        // be booked as restocked.
        let data = self.query(caller, &wire::build_refunds(&gids), PAGE_COST).await?;
        let lost = wire::parse_lost_units(data)?;
        for order in orders {
            wire::without_lost(&mut order.notice, &lost);
        }
        Ok(())
    }

    async fn query(
        &self,
        caller: &dyn Caller,
        document: &Document,
        cost: u32,
    ) -> Result<Value, ChannelError> {
        let request = self.request(document).cost(cost);
        self.send(caller, request).await.map_err(|(error, _)| error)
    }

    async fn mutate(
        &self,
        caller: &dyn Caller,
        document: &Document,
        cost: u32,
        repeat: Repeat,
    ) -> Result<Value, ChannelError> {
        let request = self.request(document).cost(cost);
        let request = match repeat {
            Repeat::Yes => request,
            Repeat::No => request.once(),
        };
        self.send(caller, request).await.map_err(|(error, trace)| match trace {
            Trace::None => error,
            Trace::Possible => unclear(error),
        })
    }

    fn request(&self, document: &Document) -> Outgoing {
        let Config { host, api_version, .. } = &self.config;
        let url = format!("https://{host}/admin/api/{api_version}/graphql.json");
        Outgoing::new(BUCKET, Method::POST, url).header("accept", "application/json").json(document)
    }

    /// Sends a request with a token, once more with a new one when the first is refused.
    async fn send(
        &self,
        caller: &dyn Caller,
        request: Outgoing,
    ) -> Result<Value, (ChannelError, Trace)> {
        let none = |error| (error, Trace::None);
        let mut renewals_left = usize::from(auth::is_renewable(&self.config));
        let mut refused: Option<Secret> = None;
        let response = loop {
            let token = auth::token(&self.config, caller, refused.as_ref()).await.map_err(none)?;
            let request = request
                .clone()
                .secret_header("x-shopify-access-token", token.expose())
                .map_err(none)?;
            let response = caller.call(request.build()).await.map_err(none)?;
            if response.status.as_u16() != 401 {
                break response;
            }
            caller.drop_token(auth::TOKEN, &token);
            if renewals_left == 0 {
                return Err(none(error::classify(&response)));
            }
            renewals_left -= 1;
            refused = Some(token);
        };
        if response.status.as_u16() != 200 {
            let trace = if is_unclear(response.status) { Trace::Possible } else { Trace::None };
            return Err((error::classify(&response), trace));
        }
        let answer = wire::parse_answer(&response.body).map_err(|e| (e, Trace::Possible))?;
        if let Some(status) = answer.cost.as_ref().and_then(|c| c.throttle_status.as_ref()) {
            let hint = RateHint {
                per_second: status.restore_rate,
                burst: Some(status.maximum_available),
                remaining: Some(status.currently_available),
            };
            caller.learn(BUCKET, hint);
        }
        answer.data.map_err(|error| {
            // INTERNAL_SERVER_ERROR and TIMEOUT say nothing about what was done.
            let passing = error.kind == ChannelErrorKind::Transient;
            (error, if passing { Trace::Possible } else { Trace::None })
        })
    }
}

/// Whether a failed call may have left its mark.
#[derive(Clone, Copy)]
enum Trace {
    None,
    Possible,
}

/// A push under way: what is settled and what is still open.
struct Push {
    inputs: Vec<Option<InventoryQuantityInput>>,
    outcomes: Vec<Option<PushOutcome>>,
    activations: usize,
    attempt: Attempt,
}

/// Which attempt at its levels a call is.
#[derive(Clone, Copy)]
enum Attempt {
    /// The first call of a push, under the token itself.
    First,
    /// A later one: how often these very levels were tried before.
    Later(usize),
}

impl Push {
    fn new(batch: &PushBatch) -> Self {
        let mut push = Self {
            inputs: Vec::new(),
            outcomes: Vec::new(),
            activations: 0,
            attempt: Attempt::First,
        };
        for (at, item) in batch.items.iter().enumerate() {
            let fields = &item.listing.fields;
            let input = if at >= wire::ARRAY_ITEMS_MAX {
                Err(PushOutcome::NotSent(too_many(wire::ARRAY_ITEMS_MAX)))
            } else if item.listing.channel_fulfilled {
                Err(PushOutcome::Refused(channel_fulfilled()))
            } else {
                wire::quantity_input(fields, item.quantity, item.expected_before)
                    .map_err(PushOutcome::Refused)
            };
            let (input, outcome) = match input {
                Ok(input) => (Some(input), None),
                Err(outcome) => (None, Some(outcome)),
            };
            push.inputs.push(input);
            push.outcomes.push(outcome);
        }
        push
    }

    /// Returns the items of which it is not known what they show.
    fn blind(&self) -> impl Iterator<Item = usize> + '_ {
        let is_blind = |at: &usize| match &self.inputs[*at] {
            Some(input) => input.change_from_quantity.is_none(),
            None => false,
        };
        (0..self.inputs.len()).filter(is_blind)
    }

    /// Returns the items without an outcome.
    fn open(&self) -> Vec<usize> {
        (0..self.outcomes.len()).filter(|&at| self.outcomes[at].is_none()).collect()
    }

    /// Takes in what a set of the open items answered; one refusal means that nothing was set.
    /// Returns the items to stock at their location first.
    fn settle(
        &mut self,
        open: &[usize],
        refusals: Result<Vec<SetRefusal>, ChannelError>,
    ) -> Vec<usize> {
        let refusals = match refusals {
            Ok(refusals) => refusals,
            Err(error) => {
                for &at in open {
                    self.outcomes[at] = Some(failed_push(error.clone()));
                }
                return Vec::new();
            }
        };
        if refusals.is_empty() {
            for &at in open {
                self.outcomes[at] = Some(PushOutcome::Applied);
            }
            return Vec::new();
        }
        let mut unstocked = Vec::new();
        for refusal in refusals {
            let error = error::classify_user_error(&refusal.code, &refusal.message);
            let at = refusal.index.and_then(|index| open.get(index).copied());
            match (at, refusal.code.as_str()) {
                // The next round has a new key and nothing was done under this one.
                (None, "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED") => {}
                // The request that runs may set them yet: the same key again, later.
                (_, error::CONCURRENT) => {
                    for &at in open {
                        self.outcomes[at] = Some(PushOutcome::Unknown(error.clone()));
                    }
                    return Vec::new();
                }
                (None, _) => self.fail_open(open, &error),
                (Some(at), "ITEM_NOT_STOCKED_AT_LOCATION") => unstocked.push(at),
                (Some(at), _) => self.outcomes[at] = Some(failed_push(error)),
            }
        }
        self.attempt = match self.attempt {
            Attempt::First | Attempt::Later(_) if self.open().len() < open.len() => {
                Attempt::Later(0)
            }
            Attempt::First => Attempt::Later(1),
            Attempt::Later(number) => Attempt::Later(number + 1),
        };
        unstocked.retain(|&at| self.outcomes[at].is_none());
        unstocked.dedup();
        unstocked
    }

    /// A refusal that names no item is about the call: nothing was set, no item is to blame.
    fn fail_open(&mut self, open: &[usize], error: &ChannelError) {
        for &at in open {
            if self.outcomes[at].is_none() {
                self.outcomes[at] = Some(PushOutcome::NotSent(error.clone()));
            }
        }
    }

    fn finish(self) -> Vec<PushOutcome> {
        let left_over = || {
            let detail = "held back by other items of the batch";
            PushOutcome::NotSent(ChannelError::new(ChannelErrorKind::Transient, detail))
        };
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(left_over)).collect()
    }
}

/// A key used again with other parameters is an error, and so is one whose attempt failed. So
/// the key of a call names its levels (never its quantities) and its attempt: a push that is
/// sent again meets the keys of the calls that were made before, and only those.
/// <https://shopify.dev/docs/api/usage/idempotent-requests>
fn round_key(token: &str, quantities: &[&InventoryQuantityInput], attempt: Attempt) -> String {
    let number = match attempt {
        Attempt::First => return token.to_owned(),
        Attempt::Later(number) => number,
    };
    let mut hash = sha2::Sha256::new();
    for quantity in quantities {
        for id in [&quantity.inventory_item_id, &quantity.location_id] {
            hash.update(id.as_bytes());
            hash.update([0]);
        }
    }
    let levels = hex::encode(&hash.finalize()[..8]);
    format!("{token}-{levels}-{number}")
}

fn ids(listing: &Listing) -> Option<(&str, &str)> {
    let item = listing.fields.get("inventoryItemId")?;
    let location = listing.fields.get("locationId")?;
    Some((item, location))
}

fn by_location<'a>(
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (item, location) in pairs {
        let items = groups.entry(location).or_default();
        if !items.contains(&item) {
            items.push(item);
        }
    }
    groups
}

/// Returns the one location that online orders are shipped from, or the one there is.
fn only_location(locations: &[Location]) -> Option<&Location> {
    let active: Vec<&Location> = locations.iter().filter(|l| l.is_active).collect();
    let online: Vec<&Location> =
        active.iter().copied().filter(|l| l.fulfills_online_orders).collect();
    match (active.as_slice(), online.as_slice()) {
        ([only], _) | (_, [only]) => Some(only),
        (_, _) => None,
    }
}
