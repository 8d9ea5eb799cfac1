//! Runs the connectors against the simulators and checks every request that they make against
//! the vendors' specifications.

use std::collections::BTreeMap;
use std::sync::Mutex;

use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema};
use async_trait::async_trait;
use axum::body::Bytes;
use axum::routing::post;
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trueup_channels::ebay as ebay_connector;
use trueup_channels::{
    BulkItem, BulkState, Caller, CatalogueEntry, Channel, ChannelError, ChannelErrorKind,
    HandedOver, Listing, ListingNote, Notice, OrderNotice, PushBatch, PushItem, PushOutcome,
    RateHint, Reading, Request, Response, Secret, Settings, Turn, Wants, WebhookRequest,
};
use trueup_core::{Sku, Timestamp};
use trueup_testkit::{AnySimulator, FulfilledBy, SeedItem, Shop, SimServer, amazon, ebay, shopify};

use crate::spec::Spec;
use crate::{client, served, spec};

/// What we use of Shopify's schema beyond the pruned copy, from the Admin API reference of
/// 2026-07: inventoryActivate, Order.refunds, webhookSubscriptions, webhookSubscriptionDelete,
/// ProductVariant.displayName, and an item's levels with their locations.
const SHOPIFY_REST: &str = "
extend type Mutation {
  inventoryActivate(inventoryItemId: ID!, locationId: ID!, available: Int, onHand: Int):
    InventoryActivatePayload
  webhookSubscriptionDelete(id: ID!): WebhookSubscriptionDeletePayload
}
type WebhookSubscriptionDeletePayload { deletedWebhookSubscriptionId: ID userErrors: [UserError!]! }
type InventoryActivatePayload { inventoryLevel: InventoryLevel userErrors: [UserError!]! }
extend type Order { createdAt: DateTime! refunds(first: Int): [Refund!]! }
type Refund implements Node {
  id: ID!
  refundLineItems(first: Int, after: String): RefundLineItemConnection!
}
type RefundLineItemConnection { nodes: [RefundLineItem!]! pageInfo: PageInfo! }
type RefundLineItem { quantity: Int! restockType: RefundLineItemRestockType! lineItem: LineItem! }
enum RefundLineItemRestockType { CANCEL LEGACY_RESTOCK NO_RESTOCK RETURN }
extend type QueryRoot {
  webhookSubscriptions(first: Int, after: String, uri: String): WebhookSubscriptionConnection!
}
extend type ProductVariant { displayName: String! }
extend type InventoryItem {
  duplicateSkuCount: Int!
  inventoryLevels(first: Int, after: String): InventoryLevelConnection!
}
extend type InventoryLevel { location: Location! }
extend type QueryRoot { currentAppInstallation: AppInstallation! }
type AppInstallation { accessScopes: [AccessScope!]! }
type AccessScope { handle: String! }
type WebhookSubscriptionConnection { nodes: [WebhookSubscription!]! pageInfo: PageInfo! }
";

fn shopify_schema() -> Option<Valid<Schema>> {
    let text = std::fs::read_to_string(spec::path("shopify_admin_2026-07.graphql")?).unwrap();
    let schema = Schema::builder().parse(text, "pruned").parse(SHOPIFY_REST, "rest").build();
    Some(Valid::assume_valid(schema.unwrap_or_else(|bad| bad.partial)))
}

/// Asserts that a document and its variables are what the schema takes.
fn check_document(schema: &Valid<Schema>, body: &Value) {
    let text = body["query"].as_str().unwrap();
    let document = ExecutableDocument::parse_and_validate(schema, text, "ours.graphql");
    let document = document.unwrap_or_else(|bad| panic!("{text}: {}", bad.errors));
    let operation = document.operations.get(None).unwrap();
    let bytes = body["variables"].to_string();
    let variables = serde_json::from_str(&bytes).unwrap();
    coerce_variable_values(schema, operation, &variables)
        .unwrap_or_else(|bad| panic!("{text} {bytes}: {bad:?}"));
    for input in body.pointer("/variables/input/quantities").into_iter() {
        // The SDL does not say so, the server does: the key must be there.
        let keyed = |quantity: &Value| quantity.get("changeFromQuantity").is_some();
        assert!(input.as_array().unwrap().iter().all(keyed), "{input}");
    }
}

/// Which definition of which file a JSON body must be like, by the end of its path.
const BODIES: [(&str, &str, &str, &str); 10] = [
    ("PATCH", "/items/", "amazon_listings.json", "ListingsItemPatchRequest"),
    ("POST", "/2021-06-30/documents", "amazon_feeds.json", "CreateFeedDocumentSpecification"),
    ("POST", "/2021-06-30/feeds", "amazon_feeds.json", "CreateFeedSpecification"),
    ("POST", "/v1/destinations", "amazon_notifications.json", "CreateDestinationRequest"),
    ("POST", "/v1/subscriptions/", "amazon_notifications.json", "CreateSubscriptionRequest"),
    ("POST", "/bulk_update_price_quantity", "ebay_sell_inventory.json", "BulkPriceQuantity"),
    ("POST", "/bulk_get_inventory_item", "ebay_sell_inventory.json", "BulkGetInventoryItem"),
    ("POST", "/v1/destination", "ebay_notification.json", "DestinationRequest"),
    ("POST", "/v1/subscription", "ebay_notification.json", "CreateSubscriptionRequest"),
    ("PUT", "/", "", "feed"),
];

/// Which files name the paths and query parameters of a GET, and the base of their paths.
const PATHS: [(&str, &str); 8] = [
    ("amazon_listings.json", ""),
    ("amazon_feeds.json", ""),
    ("amazon_fba_inventory.json", ""),
    ("amazon_orders.json", ""),
    ("amazon_notifications.json", ""),
    ("ebay_sell_inventory.json", "/sell/inventory/v1"),
    ("ebay_sell_fulfillment.json", "/sell/fulfillment/v1"),
    ("ebay_notification.json", "/commerce/notification/v1"),
];

/// Paths that no specification names: what is uploaded to and downloaded from by addresses that
/// the vendor made.
const UNNAMED: [&str; 1] = ["/_amazon_documents/"];

/// Asserts that a JSON body is what its operation takes.
fn check_body(method: &str, path: &str, body: &[u8]) {
    let found = BODIES.iter().find(|(verb, part, _, _)| *verb == method && path.contains(part));
    let Some((_, _, file, definition)) = found else {
        assert!(body.is_empty(), "no definition is known for {method} {path}");
        return;
    };
    let body: Value = serde_json::from_slice(body).unwrap();
    if *definition == "feed" {
        let file = "amazon_schemas/feeds/listings-feed-schema-v2.json";
        Spec::load_schema(file).unwrap().check_whole(&body);
    } else {
        Spec::load(file).unwrap().check(definition, &body);
    }
}

/// Operations that the vendors document and no specification here has, each with its parameters.
/// <https://developer.ebay.com/api-docs/commerce/notification/resources/destination/methods/getDestinations>
/// <https://developer.ebay.com/api-docs/developer/analytics/resources/rate_limit/methods/getRateLimits>
/// <https://developer.ebay.com/api-docs/developer/analytics/resources/user_rate_limit/methods/getUserRateLimits>
const PRUNED: [(&str, &str, &[&str]); 3] = [
    ("GET", "/commerce/notification/v1/destination", &["limit", "continuation_token"]),
    ("GET", "/developer/analytics/v1_beta/rate_limit/", &["api_context", "api_name"]),
    ("GET", "/developer/analytics/v1_beta/user_rate_limit/", &["api_context", "api_name"]),
];

/// Asserts that the query parameters are those of the operation, with all that it requires.
fn check_query(method: &str, url: &url::Url) {
    let pruned = PRUNED.iter().find(|(verb, path, _)| *verb == method && *path == url.path());
    if let Some((_, _, known)) = pruned {
        assert!(url.query_pairs().all(|(name, _)| known.contains(&&*name)), "{url}: of {known:?}");
        return;
    }
    let given: Vec<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    for (file, base) in PATHS {
        let Some(path) = url.path().strip_prefix(base) else { continue };
        let text = std::fs::read_to_string(spec::path(file).unwrap()).unwrap();
        let root: Value = serde_json::from_str(&text).unwrap();
        let paths = root["paths"].as_object().unwrap();
        let Some((_, operations)) = paths.iter().find(|(known, _)| is_path(known, path)) else {
            continue;
        };
        let operation = &operations[method.to_ascii_lowercase()];
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let in_query = |p: &&Value| p["in"] == "query";
        let names = |p: &Value| p["name"].as_str().unwrap().to_owned();
        let known: Vec<String> = parameters.iter().filter(in_query).map(names).collect();
        let required = parameters.iter().filter(in_query).filter(|p| p["required"] == true);
        assert!(given.iter().all(|name| known.contains(name)), "{url}: of {known:?}");
        assert!(required.map(names).all(|name| given.contains(&name)), "{url} lacks a parameter");
        return;
    }
    assert!(UNNAMED.iter().any(|part| url.path().contains(part)), "no file names {method} {url}");
}

fn is_path(known: &str, path: &str) -> bool {
    let (known, path): (Vec<&str>, Vec<&str>) =
        (known.split('/').collect(), path.split('/').collect());
    known.len() == path.len()
        && known.iter().zip(&path).all(|(known, part)| known.starts_with('{') || known == part)
}

/// Sends to a simulator what is checked before.
struct Checked {
    server: SimServer,
    client: reqwest::Client,
    schema: Valid<Schema>,
    tokens: Mutex<BTreeMap<String, Secret>>,
    remembered: Mutex<BTreeMap<String, String>>,
    credentials: Mutex<BTreeMap<String, Secret>>,
}

impl Checked {
    fn check(&self, request: &Request) {
        let url = url::Url::parse(&request.url).unwrap();
        let method = request.method.as_str();
        if url.path().ends_with("/graphql.json") {
            check_document(&self.schema, &serde_json::from_slice(&request.body).unwrap());
        } else if !url.path().ends_with("/token") && !url.path().ends_with("/api.dll") {
            check_body(method, url.path(), &request.body);
            check_query(method, &url);
        }
    }
}

#[async_trait]
impl Caller for Checked {
    async fn call(&self, request: Request) -> Result<Response, ChannelError> {
        self.check(&request);
        let url = url::Url::parse(&request.url).unwrap();
        let at = request.url.find(url.path()).unwrap();
        let url = format!("{}{}", self.server.url, &request.url[at..]);
        let sent = self
            .client
            .request(request.method, url)
            .headers(request.headers)
            .body(request.body)
            .send()
            .await;
        let answer = sent.map_err(|error| {
            ChannelError::new(ChannelErrorKind::UnknownOutcome, error.to_string())
        })?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        Ok(Response { status, headers, body: answer.bytes().await.unwrap() })
    }

    fn learn(&self, _bucket: &'static str, hint: RateHint) {
        assert!(hint.per_second > 0.0);
    }

    fn token(&self, name: &str) -> Option<Secret> {
        self.tokens.lock().unwrap().get(name).cloned()
    }

    fn keep_token(&self, name: &str, token: Secret, _expires_in_seconds: u64) {
        self.tokens.lock().unwrap().insert(name.to_owned(), token);
    }

    fn drop_token(&self, name: &str, refused: &Secret) {
        self.tokens.lock().unwrap().retain(|kept, token| kept != name || token != refused);
    }

    fn recall(&self, name: &str) -> Option<String> {
        self.remembered.lock().unwrap().get(name).cloned()
    }

    fn remember(&self, name: &str, text: &str, _seconds: u64) {
        self.remembered.lock().unwrap().insert(name.to_owned(), text.to_owned());
    }

    fn forget(&self, name: &str) {
        self.remembered.lock().unwrap().remove(name);
    }

    async fn note_listings(&self, _notes: Vec<ListingNote>) {}

    fn credential(&self, name: &str) -> Option<Secret> {
        self.credentials.lock().unwrap().get(name).cloned()
    }

    async fn keep_credentials(
        &self,
        values: Vec<(&'static str, Secret)>,
    ) -> Result<(), ChannelError> {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.credentials.lock().unwrap().extend(values);
        Ok(())
    }

    async fn turn_to_renew(&self) -> Turn {
        Box::new(())
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_795_426_246_000_000)
    }
}

struct Bench {
    caller: Checked,
    channel: Box<dyn Channel>,
    settings: Settings,
    kind: &'static str,
}

/// Asserts that nothing is missing, whatever the connection is to do.
async fn check_whole(bench: &Bench) {
    let wants = Wants { orders: true, channel_fulfilled: true };
    assert_eq!(bench.channel.missing(&bench.caller, wants).await.unwrap(), []);
}

/// Opens a connection as the simulator says that one should be enabled.
async fn bench(sim: AnySimulator, kind: &'static str) -> Option<Bench> {
    let schema = shopify_schema()?;
    let shop = sim.shared();
    let server = served(sim).await;
    let known = trueup_channels::kind(kind).unwrap();
    let config = shop.channel_config(&server.url);
    let mut settings = Settings::default();
    for (name, value) in config.as_object().unwrap() {
        if known.setting_names().contains(&name.as_str()) {
            settings.fields.insert(name.clone(), value.clone());
        }
    }
    for (name, text) in config["credentials"].as_object().unwrap() {
        settings.credentials.insert(name.clone(), Secret::new(text.as_str().unwrap()));
    }
    if kind == "amazon" {
        // The simulator posts with whatever secret it is told.
        settings.credentials.insert("webhookSecret".into(), Secret::new("hush"));
    }
    if kind == "ebay" {
        let token = Secret::new(VERIFICATION_TOKEN);
        settings.credentials.insert("verificationToken".into(), token);
    }
    let channel = known.open(&settings).unwrap_or_else(|wrong| panic!("{wrong:?} in {config}"));
    let (tokens, remembered) = (Mutex::default(), Mutex::default());
    let credentials = Mutex::new(settings.credentials.clone());
    let caller = Checked { server, client: client(), schema, tokens, remembered, credentials };
    Some(Bench { caller, channel, settings, kind })
}

impl Bench {
    async fn catalogue(&self) -> Vec<CatalogueEntry> {
        let (mut entries, mut cursor) = (Vec::new(), None);
        loop {
            let page = self.channel.catalogue(&self.caller, cursor.as_deref()).await.unwrap();
            entries.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                return entries;
            }
        }
    }

    fn listing(&self, sku: &str, fields: &Value, fulfilled: bool) -> Listing {
        let fields = fields.as_object().unwrap();
        let fields = fields.iter().map(|(name, value)| {
            (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        let kind = trueup_channels::kind(self.kind).unwrap();
        let (key, fields) = kind.listing(&self.settings, fields.collect()).unwrap();
        Listing { sku: Sku::new(sku).unwrap(), key, fields, channel_fulfilled: fulfilled }
    }

    fn batch(&self, token: u32, items: &[(&Listing, u64, Option<i64>)]) -> PushBatch {
        let item = |(listing, quantity, before): &(&Listing, u64, Option<i64>)| PushItem {
            listing: (*listing).clone(),
            quantity: *quantity,
            expected_before: *before,
        };
        let token = format!("00000000-0000-4000-8000-{token:012}");
        PushBatch { token, items: items.iter().map(item).collect() }
    }

    async fn push(&self, token: u32, items: &[(&Listing, u64, Option<i64>)]) -> Vec<PushOutcome> {
        self.channel.push(&self.caller, &self.batch(token, items)).await
    }

    async fn read(&self, listings: &[Listing]) -> Vec<Option<i64>> {
        let readings = self.channel.read(&self.caller, listings).await.unwrap();
        let known = |reading: Reading| match reading {
            Reading::Quantity(quantity) => Some(quantity),
            Reading::Unknown(_) => None,
        };
        readings.into_iter().map(known).collect()
    }

    async fn orders(&self) -> BTreeMap<String, OrderNotice> {
        let (mut orders, mut cursor) = (BTreeMap::new(), None);
        loop {
            let since = Timestamp::from_micros(1_577_836_800_000_000);
            let page = self.channel.orders(&self.caller, since, cursor.as_deref()).await.unwrap();
            orders.extend(page.items.into_iter().map(|order| (order.order_id.clone(), order)));
            cursor = page.next;
            if cursor.is_none() {
                return orders;
            }
        }
    }

    /// Waits for a delivery of this topic, checks its signature and reads it.
    async fn told(
        &self,
        hook: &mut mpsc::Receiver<(HeaderMap, Bytes)>,
        topic: &str,
    ) -> Vec<Notice> {
        loop {
            let (headers, body) = hook.recv().await.unwrap();
            let request = WebhookRequest { headers: &headers, body: &body };
            let verified = self.channel.verify_webhook(&self.caller, request).await.unwrap();
            assert!(!verified.delivery_id.is_empty());
            let mut broken = body.to_vec();
            broken.push(b' ');
            let request = WebhookRequest { headers: &headers, body: &broken };
            let again = self.channel.verify_webhook(&self.caller, request).await;
            // Amazon's secret does not cover the body.
            assert!(again.is_err() || self.kind == "amazon");
            if verified.topic == topic {
                return self.channel.parse_webhook(topic, &body).unwrap();
            }
        }
    }
}

/// Opens an endpoint that keeps headers and raw bytes.
async fn raw_hook() -> (String, mpsc::Receiver<(HeaderMap, Bytes)>) {
    let (sink, arrived) = mpsc::channel(100);
    let take = async move |headers: HeaderMap, body: Bytes| {
        sink.send((headers, body)).await.unwrap();
    };
    let router = axum::Router::new().route("/hook", post(take));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, arrived)
}

/// What eBay's endpoint validation is answered with.
const VERIFICATION_TOKEN: &str = "abcdefghijklmnopqrstuvwxyz_0123456789";

/// Opens an endpoint that answers eBay's challenge and takes whatever is posted.
async fn challenged() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let own = url.clone();
    let prove = async move |uri: http::Uri| {
        let query = uri.query().unwrap_or_default().to_owned();
        let code = query.strip_prefix("challenge_code=").unwrap();
        let answer = ebay_connector::challenge_response(code, VERIFICATION_TOKEN, &own);
        axum::Json(json!({"challengeResponse": answer}))
    };
    let router = axum::Router::new().route("/hook", axum::routing::get(prove).post(async || ()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn order_line(notices: &[Notice]) -> (String, String, u64, u64) {
    let [Notice::Order(order)] = notices else { panic!("{notices:?}") };
    line_of(order)
}

/// Returns order, line, units sold, and units that came back or were cancelled.
fn line_of(order: &OrderNotice) -> (String, String, u64, u64) {
    let [line] = order.lines.as_slice() else { panic!("{order:?}") };
    let back = line.state.restocked.max(line.state.cancelled);
    (order.order_id.clone(), line.line_id.clone(), line.state.sold, back)
}

fn seeds(count: u32) -> Vec<SeedItem> {
    (0..count).map(|n| SeedItem::new(format!("S{n:03}"), i64::from(n))).collect()
}

#[tokio::test]
async fn shopify_keeps_to_its_schema() {
    let sim = shopify::Simulator::default();
    let mut items = seeds(130);
    items[3].tracked = false;
    sim.seed(items).unwrap();
    let Some(bench) = bench(sim.clone().into(), "shopify").await else { return };
    check_whole(&bench).await;
    let connected = bench.channel.connect(&bench.caller).await.unwrap();
    assert!(!connected.locations.is_empty());
    let catalogue = bench.catalogue().await;
    assert_eq!(catalogue.len(), 130);
    let of = |sku: &str| bench.listing(sku, &sim.listing(sku).unwrap(), false);
    let (a, b, c) = (of("S010"), of("S011"), of("S012"));
    let items = [(&a, 5, Some(10)), (&b, 6, Some(99)), (&c, 1, Some(12))];
    let outcomes = bench.push(1, &items).await;
    assert_eq!(outcomes, [PushOutcome::Applied, PushOutcome::Stale, PushOutcome::Applied]);
    // Sent again, its first key is one whose attempt failed; what was applied is stale now.
    assert_eq!(bench.push(1, &items).await, vec![PushOutcome::Stale; 3]);
    // What is not known is read before it is set, and stocked where it is not.
    let mut elsewhere = a.clone();
    let other = format!("gid://shopify/Location/{}", shopify::state::LOCATION_ID + 1);
    elsewhere.fields.insert("locationId".into(), other);
    let untracked = of("S003");
    let items = [(&c, 0, None), (&untracked, 1, None), (&elsewhere, 4, None)];
    let outcomes = bench.push(4, &items).await;
    assert!(matches!(outcomes[1], PushOutcome::Refused(_)), "{outcomes:?}");
    assert_eq!([&outcomes[0], &outcomes[2]], [&PushOutcome::Applied; 2]);
    // A push that went through is replayed, not applied again.
    for _ in 0..2 {
        let outcomes = bench.push(2, &[(&b, 13, Some(11))]).await;
        assert_eq!(outcomes, [PushOutcome::Applied]);
    }
    assert_eq!(bench.push(3, &[(&b, 11, Some(13))]).await, [PushOutcome::Applied]);
    let missing = json!({"inventoryItemId": "1"});
    let missing = bench.listing("M", &missing, false);
    let read = bench.read(&[a.clone(), b, c, of("S003"), missing]).await;
    assert_eq!(read, [Some(5), Some(11), Some(0), None, None]);

    let (url, mut hook) = raw_hook().await;
    let topics = bench.channel.subscribe(&bench.caller, &url).await.unwrap();
    assert_eq!(topics.len(), 9);
    assert_eq!(bench.channel.subscribe(&bench.caller, &url).await.unwrap(), topics);
    let told = bench.channel.subscribed(&bench.caller, &url).await.unwrap();
    assert_eq!(told.map(|told| told.len()), Some(9));
    let sold = sim.sell("S010", 2).unwrap();
    let told = bench.told(&mut hook, "orders/create").await;
    let (order_id, line_id, units, back) = order_line(&told);
    assert_eq!((units, back), (2, 0));
    sim.cancel(&sold.order_id).unwrap();
    let (_, _, units, back) = order_line(&bench.told(&mut hook, "orders/cancelled").await);
    assert_eq!((units, back), (2, 2));
    let polled = line_of(&bench.orders().await[&order_id]);
    assert_eq!(polled, (order_id, line_id, 2, 2));
    sim.set_quantity("S010", 1).unwrap();
    let told = bench.told(&mut hook, "inventory_levels/update").await;
    let [Notice::InventoryHint { fields, .. }] = told.as_slice() else { panic!("{told:?}") };
    let kind = trueup_channels::kind("shopify").unwrap();
    assert!(kind.names_listing(&a.fields, fields));
    bench.channel.unsubscribe(&bench.caller, &url).await.unwrap();
    assert_eq!(bench.channel.subscribed(&bench.caller, &url).await.unwrap(), Some(Vec::new()));
}

#[tokio::test]
async fn amazon_keeps_to_its_models() {
    let settings = amazon::Settings {
        apply_ms: 0,
        feed_queue_ms: 0,
        feed_run_ms: 0,
        ..amazon::Settings::default()
    };
    let sim = amazon::Simulator::new(settings);
    let mut items = seeds(30);
    items[1].fulfilled_by = FulfilledBy::Channel;
    items[2].lead_time_days = Some(3);
    sim.seed(items).unwrap();
    let Some(bench) = bench(sim.clone().into(), "amazon").await else { return };
    check_whole(&bench).await;
    bench.channel.connect(&bench.caller).await.unwrap();
    let catalogue = bench.catalogue().await;
    assert_eq!(catalogue.len(), 30);
    assert_eq!(catalogue.iter().filter(|entry| entry.channel_fulfilled).count(), 1);
    let of = |sku: &str| bench.listing(sku, &json!({"sellerSku": sku}), sku == "S001");
    let (a, b, nope, fba) = (of("S002"), of("S003"), of("nope"), of("S001"));
    sim.expire_tokens();
    let outcomes = bench.push(1, &[(&a, 7, None), (&nope, 1, None), (&fba, 1, None)]).await;
    assert_eq!(outcomes[0], PushOutcome::Accepted);
    assert!(matches!(outcomes[1..], [PushOutcome::Refused(_), PushOutcome::Refused(_)]));
    assert_eq!((sim.lead_time_days("S002"), sim.flipped().len()), (Some(3), 0));
    let push = bench.batch(2, &[(&b, 8, None), (&fba, 1, None)]);
    let said = |push: &PushBatch| -> Vec<Option<BulkItem>> {
        push.items.iter().map(|item| bench.channel.bulk_item(item)).collect()
    };
    let [Some(item), None] = &said(&push)[..] else { panic!("Amazon ships the second itself") };
    let handed_over = bench.channel.bulk_start(&bench.caller, std::slice::from_ref(item)).await;
    let HandedOver::Ticket(ticket) = handed_over else { panic!("{handed_over:?}") };
    let look = bench.channel.bulk_look(&bench.caller, &ticket, 1).await.unwrap();
    assert_eq!(look, BulkState::Done(vec![PushOutcome::Accepted]));
    let unknown = bench.channel.bulk_look(&bench.caller, "7", 1).await.unwrap();
    assert!(matches!(unknown, BulkState::Lost(_)), "{unknown:?}");
    assert_eq!(bench.read(&[a, b, nope, fba]).await, [Some(7), Some(8), None, Some(1)]);

    let (url, mut hook) = raw_hook().await;
    sim.set_webhook(&url, "hush").unwrap();
    let push = bench.batch(3, &[(&of("S004"), 9, None)]);
    let items: Vec<BulkItem> = said(&push).into_iter().flatten().collect();
    let started = bench.channel.bulk_start(&bench.caller, &items).await;
    let HandedOver::Ticket(ticket) = started else { panic!("{started:?}") };
    let told = bench.told(&mut hook, "FEED_PROCESSING_FINISHED").await;
    assert_eq!(told, [Notice::BulkEnded { ticket }]);
    let sold = sim.sell("S009", 2).unwrap();
    let (order_id, line_id, units, back) = order_line(&bench.told(&mut hook, "ORDER_CHANGE").await);
    assert_eq!((order_id.as_str(), units, back), (sold.order_id.as_str(), 2, 0));
    sim.cancel(&sold.order_id).unwrap();
    let polled = line_of(&bench.orders().await[&order_id]);
    // Whether it had been paid for is not told; the ledger knows what it booked.
    assert_eq!(polled, (order_id, line_id, 0, u64::MAX));
}

#[tokio::test]
async fn amazon_finds_every_listing_past_the_first_thousand() {
    // The instant that `Checked` says it is.
    let now = "2026-11-23T09:30:46Z".parse().unwrap();
    let clock = trueup_testkit::SimClock::manual(now);
    let settings = amazon::Settings { rate_scale: 10_000, clock, ..amazon::Settings::default() };
    let sim = amazon::Simulator::new(settings);
    let count = 2_300;
    sim.seed((0..count).map(|n| SeedItem::new(format!("S{n:04}"), 1)).collect()).unwrap();
    let Some(bench) = bench(sim.into(), "amazon").await else { return };
    let mut skus: Vec<String> =
        bench.catalogue().await.into_iter().filter_map(|entry| entry.sku).collect();
    skus.sort();
    let all: Vec<String> = (0..count).map(|n| format!("S{n:04}")).collect();
    assert!(skus == all, "{} of {count}, each once", skus.len());
}

#[tokio::test]
async fn amazon_subscribes_as_its_model_says() {
    let queue_url = "http://127.0.0.1:9/123456789012/trueup";
    let settings =
        amazon::Settings { queue_url: Some(queue_url.to_owned()), ..amazon::Settings::default() };
    let sim = amazon::Simulator::new(settings);
    let Some(bench) = bench(sim.clone().into(), "amazon").await else { return };
    let mut settings = bench.settings.clone();
    settings.fields.insert("eventBridgeAccountId".into(), json!("123456789012"));
    settings.fields.insert("eventBridgeRegion".into(), json!("us-east-1"));
    let channel = trueup_channels::kind("amazon")
        .unwrap()
        .open(&settings)
        .unwrap_or_else(|wrong| panic!("{wrong:?}"));
    let mut types = channel.subscribe(&bench.caller, "").await.unwrap();
    types.sort();
    assert_eq!(types.len(), 4);
    assert_eq!(sim.subscribed(), types);
    let again = channel.subscribe(&bench.caller, "").await.unwrap();
    assert_eq!(again.len(), types.len(), "what is there is left alone");
}

#[tokio::test]
async fn ebay_keeps_to_its_contracts() {
    let sim = ebay::Simulator::default();
    let mut items = seeds(30);
    items[4].offer_quantity = Some(2);
    items[5].legacy = true;
    sim.seed(items).unwrap();
    let Some(bench) = bench(sim.clone().into(), "ebay").await else { return };
    check_whole(&bench).await;
    bench.channel.connect(&bench.caller).await.unwrap();
    // The old listing comes once, and those of the Inventory API are not proposed twice.
    let catalogue = bench.catalogue().await;
    assert_eq!(catalogue.len(), 30);
    let old: Vec<&CatalogueEntry> =
        catalogue.iter().filter(|entry| entry.fields.contains_key("itemId")).collect();
    assert_eq!(old.iter().map(|entry| entry.sku.as_deref()).collect::<Vec<_>>(), [Some("S005")]);
    let limits = bench.channel.limits(&bench.caller).await.unwrap().unwrap();
    assert_eq!(limits.len(), 5, "{limits:?}");
    let url = challenged().await;
    let topics = bench.channel.subscribe(&bench.caller, &url).await.unwrap();
    assert_eq!(topics, ["ORDER_CONFIRMATION", "ITEM_AVAILABILITY"]);
    assert_eq!(bench.channel.subscribe(&bench.caller, &url).await.unwrap(), topics);
    let of = |sku: &str| bench.listing(sku, &sim.listing(sku).unwrap(), false);
    let plain = |sku: &str| bench.listing(sku, &json!({"sku": sku}), false);
    let (offered, legacy, bare, nope) = (of("S004"), of("S005"), plain("S006"), plain("nope"));
    assert!(legacy.fields.contains_key("itemId"), "{legacy:?}");
    assert_eq!(bench.read(&[offered.clone(), legacy.clone()]).await, [Some(2), Some(5)]);
    sim.expire_tokens();
    let items = [(&offered, 9, None), (&legacy, 8, None), (&bare, 7, None), (&nope, 1, None)];
    let outcomes = bench.push(1, &items).await;
    assert!(outcomes[..3].iter().all(|o| *o == PushOutcome::Applied), "{outcomes:?}");
    assert!(matches!(outcomes[3], PushOutcome::Refused(_)), "{outcomes:?}");
    let read = bench.read(&[offered, legacy, bare.clone(), nope]).await;
    assert_eq!(read, [Some(9), Some(8), Some(7), None]);

    let (url, mut hook) = raw_hook().await;
    sim.set_webhook(&url, "").unwrap();
    let sold = sim.sell("S006", 7).unwrap();
    let (order_id, line_id, units, back) =
        order_line(&bench.told(&mut hook, "ORDER_CONFIRMATION").await);
    assert_eq!((units, back), (7, 0));
    let told = bench.told(&mut hook, "ITEM_AVAILABILITY").await;
    let [Notice::InventoryHint { fields, .. }] = told.as_slice() else { panic!("{told:?}") };
    assert!(trueup_channels::kind("ebay").unwrap().names_listing(&bare.fields, fields));
    sim.cancel(&sold.order_id).unwrap();
    let polled = line_of(&bench.orders().await[&order_id]);
    assert_eq!(polled, (order_id, line_id, 7, 7));
}
