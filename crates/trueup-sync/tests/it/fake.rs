//! A channel in memory that does as it is told: a kind for each set of capabilities.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::time::{Duration, Instant};
use trueup_channels::{
    BulkItem, BulkState, Callback, CallbackError, Caller, Capabilities, CatalogueEntry, Channel,
    ChannelError, ChannelErrorKind, Connected, Consent, ConsentAsk, ConsentCode, HandedOver, Kind,
    LineState, Listing, Notice, OrderLine, OrderNotice, Page, PushBatch, PushItem, PushOutcome,
    Queue, QueuedNotice, Reading, Secret, SettingError, Settings, VerifiedWebhook, WebhookError,
    WebhookRequest,
};
use trueup_core::{ListingKey, Timestamp};

static SHOPS: LazyLock<Mutex<BTreeMap<String, Arc<FakeShop>>>> = LazyLock::new(Mutex::default);

/// What a fake shop holds and how it behaves.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) shown: BTreeMap<String, i64>,
    /// Numbers that show later.
    coming: Vec<(Instant, String, i64)>,
    /// Every item that was sent: listing, quantity, token.
    pub(crate) sent: Vec<(String, u64, String)>,
    pub(crate) down: bool,
    /// Keeps pushes waiting, before anything is applied.
    pub(crate) hold_pushes: bool,
    /// Pushes that are under way now, and the most there ever were at once.
    pub(crate) pushing: u32,
    pub(crate) pushing_max: u32,
    /// Applies the next push and loses the answer.
    pub(crate) lose_answers: u32,
    pub(crate) refused: BTreeSet<String>,
    pub(crate) lying: BTreeSet<String>,
    pub(crate) unreadable: BTreeSet<String>,
    pub(crate) lag: Duration,
    pub(crate) orders: Vec<OrderNotice>,
    pub(crate) reads: u64,
    /// How long a push takes.
    pub(crate) push_takes: Duration,
    /// Listings of pushes that are under way.
    pushed: Vec<String>,
    /// The most pushes that were under way together, and how many are now.
    pub(crate) at_once_max: usize,
    at_once: usize,
    /// What should never happen: a listing in two pushes, a reading during a push.
    pub(crate) clashes: Vec<String>,
    pub(crate) catalogue: Vec<CatalogueEntry>,
    /// Listings on a page of the catalogue; 0 = all.
    pub(crate) catalogue_page: usize,
    /// How many pages were read.
    pub(crate) catalogue_reads: u32,
    /// How many pages are refused in passing.
    pub(crate) catalogue_fails: u32,
    /// The entry at which the catalogue keeps its reader waiting.
    pub(crate) catalogue_stop_at: Option<usize>,
    pub(crate) catalogue_waits: bool,
    /// The numbers that came the bulk way.
    pub(crate) bulk: Vec<u64>,
    /// Bulk batches by ticket; they are applied when they are looked at.
    pub(crate) feeds: BTreeMap<String, Vec<BulkItem>>,
    /// Keeps bulk batches waiting.
    pub(crate) hold_feeds: bool,
    /// So many bulk batches break off before anything is applied.
    pub(crate) lose_feeds: u32,
    /// How often a bulk batch was asked after.
    pub(crate) looks: u32,
    /// How often orders were asked for.
    pub(crate) polls: u64,
    /// Whether orders cannot be polled.
    pub(crate) deaf: bool,
    /// What waits in the queue: receipt, delivery id, topic, body.
    pub(crate) queue: Vec<(String, &'static str, String)>,
    /// Receipts that were deleted.
    pub(crate) deleted: Vec<String>,
    /// How long a receipt takes, how many are under way, and the most there ever were at once.
    pub(crate) queue_far: Duration,
    receiving: u32,
    pub(crate) receiving_max: u32,
    /// Whether the queue cannot be received from, and how many deletions are lost.
    pub(crate) queue_down: bool,
    pub(crate) undeleted: u32,
    /// What a consent's code was exchanged with.
    pub(crate) verifier: Option<String>,
}

impl State {
    fn take_off(&mut self, batch: &PushBatch) {
        self.at_once += 1;
        self.at_once_max = self.at_once_max.max(self.at_once);
        for item in &batch.items {
            let key = item.listing.key.as_str().to_owned();
            if self.pushed.contains(&key) {
                self.clashes.push(format!("{key} in two pushes"));
            }
            self.pushed.push(key);
        }
    }

    fn set_down(&mut self, batch: &PushBatch) {
        self.at_once -= 1;
        for item in &batch.items {
            let at = self.pushed.iter().position(|key| *key == item.listing.key.as_str());
            self.pushed.remove(at.unwrap());
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct FakeShop {
    state: Mutex<State>,
}

impl FakeShop {
    /// Opens the shop of a name.
    pub(crate) fn named(name: &str) -> Arc<Self> {
        SHOPS.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        let coming = std::mem::take(&mut state.coming);
        for (at, key, quantity) in coming {
            if at <= now {
                state.shown.insert(key, quantity);
            } else {
                state.coming.push((at, key, quantity));
            }
        }
        state
    }

    pub(crate) fn shown(&self, key: &str) -> Option<i64> {
        self.state().shown.get(key).copied()
    }

    pub(crate) fn sent_to(&self, key: &str) -> Vec<u64> {
        let state = self.state();
        state.sent.iter().filter(|(of, ..)| of == key).map(|(_, quantity, _)| *quantity).collect()
    }

    /// Sells on the channel: its number falls, and its orders tell of it.
    pub(crate) fn sell(&self, order: &str, key: &str, units: u64, at: Timestamp) {
        let mut state = self.state();
        *state.shown.entry(key.to_owned()).or_default() -= i64::try_from(units).unwrap();
        state.orders.push(order_of(order, key, units, 0, at));
    }
}

pub(crate) fn order_of(
    order: &str,
    key: &str,
    sold: u64,
    restocked: u64,
    at: Timestamp,
) -> OrderNotice {
    OrderNotice {
        order_id: order.to_owned(),
        placed_at: Some(at),
        updated_at: Some(at),
        lines: vec![OrderLine {
            line_id: format!("{order}-1"),
            sku: None,
            fields: BTreeMap::from([("id".to_owned(), key.to_owned())]),
            state: LineState { sold, restocked, ..LineState::default() },
        }],
    }
}

pub(crate) struct FakeKind {
    name: &'static str,
    capabilities: Capabilities,
}

const PLAIN: Capabilities = Capabilities {
    push_items_max: 10,
    pushes_at_once_max: 1,
    bulk_items_max: 0,
    bulk_from: 0,
    bulk_usual_ms: 0,
    bulk_bucket: None,
    bulk_above: 0,
    bulk_look_ms: 10,
    read_items_max: 10,
    reads_apart: false,
    sweep_items_max: 0,
    compare_and_set: false,
    verify_by_reading: false,
    settle_ms: 60,
    quantity_max: 1_000,
    revisions_per_day: None,
    orders_poll_ms: 60_000,
    orders_fresh_ms: 30_000,
};

/// Takes numbers as they are.
static PLAIN_KIND: FakeKind = FakeKind { name: "plain", capabilities: PLAIN };
/// Compares before it sets.
static CAREFUL_KIND: FakeKind =
    FakeKind { name: "careful", capabilities: Capabilities { compare_and_set: true, ..PLAIN } };
/// Has a bulk way from four listings on.
static BULKY_KIND: FakeKind = FakeKind {
    name: "bulky",
    capabilities: Capabilities { bulk_items_max: 100, bulk_from: 4, bulk_above: 5, ..PLAIN },
};
/// Has a bulk way that is thought to take a minute.
static HASTY_KIND: FakeKind = FakeKind {
    name: "hasty",
    capabilities: Capabilities { bulk_from: 60, bulk_usual_ms: 60_000, ..BULKY_KIND.capabilities },
};
/// Has a queue.
static QUEUED_KIND: FakeKind = FakeKind { name: "queued", capabilities: PLAIN };
/// Takes now and applies later.
static SLOW_KIND: FakeKind = FakeKind {
    name: "slow",
    capabilities: Capabilities { verify_by_reading: true, settle_ms: 80, ..PLAIN },
};

/// Takes now and applies later, and counts readings apart.
static APART_KIND: FakeKind = FakeKind {
    name: "apart",
    capabilities: Capabilities {
        verify_by_reading: true,
        reads_apart: true,
        settle_ms: 60_000,
        ..PLAIN
    },
};
/// Counts revisions, in days of its own.
static COUNTING_KIND: FakeKind = FakeKind {
    name: "counting",
    capabilities: Capabilities { revisions_per_day: Some(2), ..PLAIN },
};
/// Takes several small pushes at once.
static WIDE_KIND: FakeKind = FakeKind {
    name: "wide",
    capabilities: Capabilities { push_items_max: 2, pushes_at_once_max: 3, ..PLAIN },
};
/// Is read page by page.
static PAGED_KIND: FakeKind =
    FakeKind { name: "paged", capabilities: Capabilities { sweep_items_max: 4, ..PLAIN } };
/// How long a day of the fake vendors is, in milliseconds.
const DAY_MS: i64 = 400;

/// Is let in at a page of the vendor's, with PKCE.
static ASKING_KIND: FakeKind = FakeKind { name: "asking", capabilities: PLAIN };

/// The page of the kind `asking`.
struct AskingPage;

#[async_trait]
impl Consent for AskingPage {
    fn pkce(&self) -> bool {
        true
    }

    fn url(&self, _: &Settings, ask: &ConsentAsk<'_>) -> Result<String, Vec<SettingError>> {
        let challenge = ask.challenge.unwrap_or_default();
        let (state, redirect) = (ask.state, ask.redirect);
        Ok(format!("https://vendor.example/?s={state}&c={challenge}&r={redirect}"))
    }

    fn read_callback(
        &self,
        _: &Settings,
        query: &[(String, String)],
    ) -> Result<Callback, CallbackError> {
        let code = query.iter().find(|(name, _)| name == "code");
        let code = code.map(|(_, code)| Secret::new(code.as_str()));
        code.map(Callback::of).ok_or(CallbackError::Denied)
    }

    /// Gives the verifier as the token, so that a test can look at it.
    async fn exchange(
        &self,
        settings: &Settings,
        _: &dyn Caller,
        code: &ConsentCode,
    ) -> Result<BTreeMap<String, Secret>, ChannelError> {
        let shop = settings.fields["shop"].as_str().unwrap();
        let verifier = code.verifier.clone().unwrap();
        FakeShop::named(shop).state().verifier = Some(verifier.expose().to_owned());
        Ok(BTreeMap::from([("token".to_owned(), code.code.clone())]))
    }
}

pub(crate) fn find(name: &str) -> Option<&'static dyn Kind> {
    let kinds: [&'static FakeKind; 11] = [
        &PLAIN_KIND,
        &CAREFUL_KIND,
        &QUEUED_KIND,
        &SLOW_KIND,
        &COUNTING_KIND,
        &WIDE_KIND,
        &PAGED_KIND,
        &BULKY_KIND,
        &ASKING_KIND,
        &HASTY_KIND,
        &APART_KIND,
    ];
    kinds.into_iter().find(|kind| kind.name == name).map(|kind| kind as &dyn Kind)
}

impl Kind for FakeKind {
    fn day_of(&self, at: Timestamp) -> (Timestamp, Timestamp) {
        let began = at.micros().div_euclid(DAY_MS * 1_000) * DAY_MS * 1_000;
        (Timestamp::from_micros(began), Timestamp::from_micros(began).plus_millis(DAY_MS))
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn consent(&self) -> Option<&'static dyn Consent> {
        (self.name == "asking").then_some(&AskingPage)
    }

    fn awaits_consent(&self, settings: &Settings) -> bool {
        self.name == "asking" && !settings.credentials.contains_key("token")
    }

    fn setting_names(&self) -> &'static [&'static str] {
        &["shop", "credentials.token"]
    }

    fn open(&self, settings: &Settings) -> Result<Box<dyn Channel>, Vec<SettingError>> {
        let mut errors = Vec::new();
        let wrong = |setting: &str| SettingError {
            setting: setting.to_owned(),
            detail: "is required".to_owned(),
        };
        let shop = settings.fields.get("shop").and_then(|value| value.as_str());
        if shop.is_none() {
            errors.push(wrong("shop"));
        }
        if !settings.credentials.contains_key("token") && self.name != "asking" {
            errors.push(wrong("credentials.token"));
        }
        match shop {
            Some(shop) if errors.is_empty() => {
                let shop = FakeShop::named(shop);
                let capabilities = self.capabilities.clone();
                let has_queue = self.name == "queued";
                Ok(Box::new(FakeChannel { shop, capabilities, has_queue }))
            }
            Some(_) | None => Err(errors),
        }
    }

    fn listing(
        &self,
        _: &Settings,
        fields: BTreeMap<String, String>,
    ) -> Result<(ListingKey, BTreeMap<String, String>), Vec<SettingError>> {
        match fields.get("id").and_then(|id| ListingKey::new(id).ok()) {
            Some(key) => Ok((key, fields)),
            None => Err(vec![SettingError {
                setting: "id".to_owned(),
                detail: "is required".to_owned(),
            }]),
        }
    }

    fn account(&self, settings: &Settings) -> Option<String> {
        settings.fields.get("shop").and_then(|shop| shop.as_str()).map(str::to_owned)
    }

    fn listing_names(&self) -> &'static [&'static str] {
        &["id"]
    }

    fn names_listing(
        &self,
        listing: &BTreeMap<String, String>,
        fields: &BTreeMap<String, String>,
    ) -> bool {
        fields.contains_key("id") && listing.get("id") == fields.get("id")
    }
}

struct FakeChannel {
    shop: Arc<FakeShop>,
    capabilities: Capabilities,
    has_queue: bool,
}

fn down() -> ChannelError {
    ChannelError::new(ChannelErrorKind::Transient, "the shop is down")
}

impl FakeChannel {
    fn push_one(&self, state: &mut State, item: &PushItem, token: &str) -> PushOutcome {
        let key = item.listing.key.as_str();
        let shown = state.shown.get(key).copied().unwrap_or(0);
        if self.capabilities.compare_and_set
            && !state.refused.contains(key)
            && item.expected_before.is_some_and(|expected| expected != shown)
        {
            return PushOutcome::Stale;
        }
        self.set(state, key, item.quantity, token)
    }

    fn set(&self, state: &mut State, key: &str, quantity: u64, token: &str) -> PushOutcome {
        let key = key.to_owned();
        if state.refused.contains(&key) {
            let detail = "the listing has ended";
            return PushOutcome::Refused(ChannelError::new(ChannelErrorKind::NotPushable, detail));
        }
        state.sent.push((key.clone(), quantity, token.to_owned()));
        let quantity = i64::try_from(quantity).unwrap();
        if !state.lying.contains(&key) {
            if state.lag.is_zero() {
                state.shown.insert(key, quantity);
            } else {
                let at = Instant::now() + state.lag;
                state.coming.push((at, key, quantity));
            }
        }
        if self.capabilities.verify_by_reading {
            PushOutcome::Accepted
        } else {
            PushOutcome::Applied
        }
    }
}

#[async_trait]
impl Channel for FakeChannel {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn connect(&self, _: &dyn Caller) -> Result<Connected, ChannelError> {
        if self.shop.state().down {
            return Err(ChannelError::new(ChannelErrorKind::Auth, "wrong token"));
        }
        Ok(Connected::default())
    }

    async fn push(&self, _: &dyn Caller, batch: &PushBatch) -> Vec<PushOutcome> {
        {
            let mut state = self.shop.state();
            state.pushing += 1;
            state.pushing_max = state.pushing_max.max(state.pushing);
        }
        while self.shop.state().hold_pushes {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let push_takes = self.shop.state().push_takes;
        if !push_takes.is_zero() {
            self.shop.state().take_off(batch);
            tokio::time::sleep(push_takes).await;
            self.shop.state().set_down(batch);
        }
        let mut state = self.shop.state();
        state.pushing -= 1;
        if state.down {
            return batch.items.iter().map(|_| PushOutcome::NotSent(down())).collect();
        }
        let outcomes: Vec<PushOutcome> =
            batch.items.iter().map(|item| self.push_one(&mut state, item, &batch.token)).collect();
        if state.lose_answers > 0 {
            state.lose_answers -= 1;
            let lost = ChannelError::new(ChannelErrorKind::UnknownOutcome, "no answer");
            return outcomes.iter().map(|_| PushOutcome::Unknown(lost.clone())).collect();
        }
        outcomes
    }

    fn bulk_item(&self, item: &PushItem) -> Option<BulkItem> {
        Some(BulkItem { name: item.listing.key.as_str().into(), quantity: item.quantity })
    }

    async fn bulk_start(&self, _: &dyn Caller, items: &[BulkItem]) -> HandedOver {
        let mut state = self.shop.state();
        state.bulk.extend(items.iter().map(|item| item.quantity));
        let ticket = format!("feed-{}", state.bulk.len());
        state.feeds.insert(ticket.clone(), items.to_vec());
        HandedOver::Ticket(ticket)
    }

    async fn bulk_look(
        &self,
        _: &dyn Caller,
        ticket: &str,
        count: usize,
    ) -> Result<BulkState, ChannelError> {
        let mut state = self.shop.state();
        state.looks += 1;
        if state.down {
            return Err(down());
        }
        if state.hold_feeds {
            return Ok(BulkState::Waiting);
        }
        let lost = || ChannelError::new(ChannelErrorKind::UnknownOutcome, "it broke off");
        let Some(items) = state.feeds.remove(ticket) else { return Ok(BulkState::Lost(lost())) };
        assert_eq!(items.len(), count);
        if state.lose_feeds > 0 {
            state.lose_feeds -= 1;
            return Ok(BulkState::Lost(lost()));
        }
        let outcome = |item: &BulkItem| self.set(&mut state, &item.name, item.quantity, "bulk");
        Ok(BulkState::Done(items.iter().map(outcome).collect()))
    }

    async fn read(
        &self,
        _: &dyn Caller,
        listings: &[Listing],
    ) -> Result<Vec<Reading>, ChannelError> {
        let mut state = self.shop.state();
        if state.down {
            return Err(down());
        }
        state.reads += 1;
        if state.at_once > 0 {
            state.clashes.push("a reading during a push".to_owned());
        }
        let reading = |listing: &Listing| {
            let key = listing.key.as_str();
            match state.shown.get(key) {
                Some(shown) if !state.unreadable.contains(key) => Reading::Quantity(*shown),
                Some(_) | None => Reading::Unknown("untracked".to_owned()),
            }
        };
        Ok(listings.iter().map(reading).collect())
    }

    async fn catalogue(
        &self,
        _: &dyn Caller,
        cursor: Option<&str>,
    ) -> Result<Page<CatalogueEntry>, ChannelError> {
        let from: usize = cursor.map_or(0, |text| text.parse().unwrap());
        let waits = || {
            let mut state = self.shop.state();
            state.catalogue_waits = state.catalogue_stop_at.is_some_and(|at| at <= from);
            state.catalogue_waits
        };
        while waits() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let mut state = self.shop.state();
        if state.down {
            let detail = "the catalogue is closed";
            return Err(ChannelError::new(ChannelErrorKind::Forbidden, detail));
        }
        if state.catalogue_fails > 0 {
            state.catalogue_fails -= 1;
            return Err(down());
        }
        state.catalogue_reads += 1;
        let size = if state.catalogue_page == 0 { usize::MAX } else { state.catalogue_page };
        let items: Vec<CatalogueEntry> =
            state.catalogue.iter().skip(from).take(size).cloned().collect();
        let next = from + items.len();
        let more = next < state.catalogue.len();
        Ok(Page { items, next: more.then(|| next.to_string()) })
    }

    async fn orders(
        &self,
        _: &dyn Caller,
        _: Timestamp,
        _: Option<&str>,
    ) -> Result<Page<OrderNotice>, ChannelError> {
        let mut state = self.shop.state();
        state.polls += 1;
        if state.down || state.deaf {
            return Err(down());
        }
        Ok(Page { items: state.orders.clone(), next: None })
    }

    async fn verify_webhook(
        &self,
        _: &dyn Caller,
        request: WebhookRequest<'_>,
    ) -> Result<VerifiedWebhook, WebhookError> {
        let text = |name: &str| {
            request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        if text("signature").as_deref() != Some("good") {
            return Err(WebhookError::Signature);
        }
        let delivery_id = text("id").ok_or(WebhookError::Signature)?;
        Ok(VerifiedWebhook { delivery_id, topic: text("topic").unwrap_or_default() })
    }

    /// `order`: ID KEY SOLD RESTOCKED; `pending`: ID KEY HELD; `cancelled`: ID KEY; `hint`: KEY.
    fn parse_webhook(&self, topic: &str, body: &[u8]) -> Result<Vec<Notice>, ChannelError> {
        let text = String::from_utf8_lossy(body).into_owned();
        let words: Vec<&str> = text.split(' ').collect();
        match (topic, words.as_slice()) {
            ("order", [order, key, sold, restocked]) => {
                let at = Timestamp::from_micros(1);
                let (sold, restocked) = (sold.parse().unwrap(), restocked.parse().unwrap());
                let mut order = order_of(order, key, sold, restocked, at);
                (order.placed_at, order.updated_at) = (None, None);
                Ok(vec![Notice::Order(order)])
            }
            ("pending" | "cancelled", [order, key, rest @ ..]) => {
                let mut order = order_of(order, key, 0, 0, Timestamp::from_micros(1));
                (order.placed_at, order.updated_at) = (None, None);
                let state = &mut order.lines[0].state;
                state.held = rest.first().map_or(0, |held| held.parse().unwrap());
                state.cancelled = if topic == "cancelled" { u64::MAX } else { 0 };
                Ok(vec![Notice::Order(order)])
            }
            ("hint", [key]) => {
                let fields = BTreeMap::from([("id".to_owned(), (*key).to_owned())]);
                Ok(vec![Notice::InventoryHint { fields, shows: None, at: None }])
            }
            (_, _) => Err(ChannelError::new(ChannelErrorKind::Protocol, "not ours")),
        }
    }

    async fn subscribe(&self, _: &dyn Caller, _: &str) -> Result<Vec<String>, ChannelError> {
        Ok(Vec::new())
    }

    fn queue(&self) -> Option<Queue> {
        self.has_queue.then_some(Queue { wait_ms_max: 20, notices_max: 10, hidden_ms: 0 })
    }

    async fn receive(
        &self,
        _: &dyn Caller,
        wait_ms: u64,
    ) -> Result<Vec<QueuedNotice>, ChannelError> {
        if self.shop.state().queue.is_empty() {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        let far = {
            let mut state = self.shop.state();
            state.receiving += 1;
            state.receiving_max = state.receiving_max.max(state.receiving);
            state.queue_far
        };
        tokio::time::sleep(far).await;
        let mut state = self.shop.state();
        state.receiving -= 1;
        if state.queue_down {
            return Err(down());
        }
        let notice = |(id, topic, body): &(String, &'static str, String)| QueuedNotice {
            receipt: format!("receipt of {id}"),
            delivery_id: id.clone(),
            topic: (*topic).to_owned(),
            body: body.clone().into(),
        };
        Ok(state.queue.iter().take(10).map(notice).collect())
    }

    async fn delete(&self, _: &dyn Caller, receipts: &[String]) -> Result<(), ChannelError> {
        let mut state = self.shop.state();
        if state.undeleted > 0 {
            state.undeleted -= 1;
            return Err(down());
        }
        state.queue.retain(|(id, _, _)| !receipts.contains(&format!("receipt of {id}")));
        state.deleted.extend(receipts.iter().cloned());
        Ok(())
    }
}
