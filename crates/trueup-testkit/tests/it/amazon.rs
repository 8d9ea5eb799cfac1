use std::time::Duration;

use serde_json::{Value, json};
use trueup_testkit::amazon::{
    CLIENT_ID, CLIENT_SECRET, MARKETPLACE_ID, REFRESH_TOKEN, SECRET_HEADER, SELLER_ID, Settings,
    Simulator,
};
use trueup_testkit::faults::{Chance, Faults};
use trueup_testkit::{FulfilledBy, SeedItem, Shop, SimClock, SimServer};

use crate::{client, endpoint, served};

struct Seller {
    sim: Simulator,
    clock: SimClock,
    server: SimServer,
    token: String,
}

async fn seller(settings: Settings, items: Vec<SeedItem>) -> Seller {
    let clock = SimClock::manual("2026-11-23T00:00:00Z".parse().unwrap());
    let sim = Simulator::new(Settings { clock: clock.clone(), ..settings });
    sim.seed(items).unwrap();
    let server = served(sim.clone()).await;
    let token = token(&server, REFRESH_TOKEN).await["access_token"].as_str().unwrap().to_owned();
    Seller { sim, clock, server, token }
}

async fn token(server: &SimServer, refresh_token: &str) -> Value {
    let form = format!(
        "grant_type=refresh_token&refresh_token={}&client_id={CLIENT_ID}\
         &client_secret={CLIENT_SECRET}",
        refresh_token.replace('|', "%7C")
    );
    let request = client().post(format!("{}/auth/o2/token", server.url)).body(form);
    request.send().await.unwrap().json().await.unwrap()
}

impl Seller {
    async fn send(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let method = method.parse().unwrap();
        let request = client().request(method, format!("{}{path}", self.server.url));
        let mut request = request.header("x-amz-access-token", &self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn patch(&self, sku: &str, op: &str, value: Value) -> (u16, Value) {
        let path =
            format!("/listings/2021-08-01/items/{SELLER_ID}/{sku}?marketplaceIds={MARKETPLACE_ID}");
        let patch = json!({"op": op, "path": "/attributes/fulfillment_availability",
                           "value": [value]});
        self.send("PATCH", &path, Some(json!({"productType": "PRODUCT", "patches": [patch]}))).await
    }
}

fn default(quantity: i64) -> Value {
    json!({"fulfillment_channel_code": "DEFAULT", "quantity": quantity})
}

#[tokio::test]
async fn an_accepted_patch_is_applied_later() {
    let mut item = SeedItem::new("A/1", 5);
    item.lead_time_days = Some(3);
    let seller = seller(Settings { apply_ms: 60_000, ..Settings::default() }, vec![item]).await;
    let (status, answer) = seller.patch("A%2F1", "merge", default(9)).await;
    assert_eq!((status, &answer["status"]), (200, &json!("ACCEPTED")));
    assert_eq!((answer["sku"].as_str(), seller.sim.quantity("A/1")), (Some("A/1"), Some(5)));
    seller.clock.advance(Duration::from_secs(60));
    assert_eq!(seller.sim.quantity("A/1"), Some(9));
    assert_eq!(seller.sim.lead_time_days("A/1"), Some(3));
    seller.patch("A%2F1", "replace", default(4)).await;
    seller.clock.advance(Duration::from_secs(60));
    assert_eq!(
        (seller.sim.quantity("A/1"), seller.sim.lead_time_days("A/1")),
        (Some(4), None),
        "a replace wipes the handling time"
    );
    let path = format!(
        "/listings/2021-08-01/items/{SELLER_ID}/A%2F1?marketplaceIds={MARKETPLACE_ID}\
         &includedData=summaries,fulfillmentAvailability"
    );
    let (_, item) = seller.send("GET", &path, None).await;
    assert_eq!(
        item["fulfillmentAvailability"],
        json!([{"fulfillmentChannelCode": "DEFAULT", "quantity": 4}])
    );
}

#[tokio::test]
async fn bad_patches_are_invalid_or_refused() {
    let seller = seller(Settings::default(), vec![SeedItem::new("A", 5)]).await;
    for (sku, op, value, status, said) in [
        ("A", "merge", default(-1), 200, "INVALID"),
        ("A", "merge", json!({"quantity": 3}), 200, "INVALID"),
        (
            "A",
            "merge",
            json!({"fulfillment_channel_code": "AMAZON_NA", "quantity": 3}),
            200,
            "INVALID",
        ),
        ("nope", "merge", default(1), 200, "INVALID"),
        ("A", "smash", default(1), 400, "InvalidInput"),
    ] {
        let (got, answer) = seller.patch(sku, op, value).await;
        let word = answer.get("status").unwrap_or(&answer["errors"][0]["code"]);
        assert_eq!((got, word.as_str()), (status, Some(said)), "{answer}");
    }
    seller.sim.faults().update(|faults| faults.poison = ["A".to_owned()].into());
    assert_eq!(seller.patch("A", "merge", default(1)).await.1["status"], "INVALID");
    let preview = format!(
        "/listings/2021-08-01/items/{SELLER_ID}/A?marketplaceIds={MARKETPLACE_ID}\
         &mode=VALIDATION_PREVIEW"
    );
    seller.sim.set_faults(Faults::default());
    let patch = json!({"op": "merge", "path": "/attributes/fulfillment_availability",
                       "value": [default(1)]});
    let body = json!({"productType": "PRODUCT", "patches": [patch]});
    assert_eq!(seller.send("PATCH", &preview, Some(body)).await.1["status"], "VALID");
    seller.clock.advance(Duration::from_secs(60));
    assert_eq!(seller.sim.quantity("A"), Some(5));
}

#[tokio::test]
async fn a_merchant_quantity_on_an_fba_listing_is_noted() {
    let mut item = SeedItem::new("F", 50);
    item.fulfilled_by = FulfilledBy::Channel;
    let seller = seller(Settings::default(), vec![item]).await;
    assert!(seller.sim.flipped().is_empty());
    assert_eq!(seller.patch("F", "merge", default(7)).await.1["status"], "ACCEPTED");
    seller.clock.advance(Duration::from_secs(1));
    assert_eq!(seller.sim.flipped(), ["F"]);
    let path = format!(
        "/fba/inventory/v1/summaries?details=true&granularityType=Marketplace\
         &granularityId={MARKETPLACE_ID}&marketplaceIds={MARKETPLACE_ID}&sellerSkus=F,A"
    );
    let (status, answer) = seller.send("GET", &path, None).await;
    let found = &answer["payload"]["inventorySummaries"][0];
    assert_eq!((status, &found["inventoryDetails"]["fulfillableQuantity"]), (200, &json!(50)));
}

#[tokio::test]
async fn listings_are_searched_by_identifier_and_by_page() {
    let items = (0..45).map(|n| SeedItem::new(format!("S{n:02}"), n)).collect();
    let seller = seller(Settings::default(), items).await;
    let base = format!(
        "/listings/2021-08-01/items/{SELLER_ID}?marketplaceIds={MARKETPLACE_ID}\
         &includedData=fulfillmentAvailability&pageSize=20"
    );
    let (mut seen, mut token) = (0, String::new());
    loop {
        let (_, answer) = seller.send("GET", &format!("{base}{token}"), None).await;
        assert_eq!(answer["numberOfResults"], 45);
        seen += answer["items"].as_array().unwrap().len();
        match answer["pagination"]["nextToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 45);
    let path = format!("{base}&identifiersType=SKU&identifiers=S03,S44,nope");
    let (_, answer) = seller.send("GET", &path, None).await;
    assert_eq!(answer["items"].as_array().unwrap().len(), 2);
    let many = vec!["X"; 21].join(",");
    let path = format!("{base}&identifiersType=SKU&identifiers={many}");
    assert_eq!(seller.send("GET", &path, None).await.0, 400);
}

async fn submit(seller: &Seller, body: &Value) -> (u16, Value) {
    let content_type = "application/json; charset=UTF-8";
    let wanted = json!({"contentType": content_type});
    let (status, made) = seller.send("POST", "/feeds/2021-06-30/documents", Some(wanted)).await;
    assert_eq!(status, 201);
    let put = client().put(made["url"].as_str().unwrap()).header("content-type", content_type);
    assert_eq!(put.body(body.to_string()).send().await.unwrap().status(), 200);
    let feed = json!({"feedType": "JSON_LISTINGS_FEED", "marketplaceIds": [MARKETPLACE_ID],
                      "inputFeedDocumentId": made["feedDocumentId"]});
    seller.send("POST", "/feeds/2021-06-30/feeds", Some(feed)).await
}

#[tokio::test]
async fn a_feed_goes_from_queue_to_done_and_reports_each_message() {
    let items = vec![SeedItem::new("A", 5), SeedItem::new("B", 5)];
    let settings = Settings { feed_gzip: true, rate_scale: 1, ..Settings::default() };
    let seller = seller(settings, items).await;
    let message = |id: u32, sku: &str, quantity: i64| {
        json!({"messageId": id, "sku": sku, "operationType": "PATCH", "productType": "PRODUCT",
               "patches": [{"op": "merge", "path": "/attributes/fulfillment_availability",
                            "value": [default(quantity)]}]})
    };
    let feed = json!({
        "header": {"sellerId": SELLER_ID, "version": "2.0", "issueLocale": "en_US"},
        "messages": [message(1, "A", 8), message(2, "B", -1), message(3, "unknown", 1)],
    });
    let (status, made) = submit(&seller, &feed).await;
    assert_eq!(status, 202, "{made}");
    let path = format!("/feeds/2021-06-30/feeds/{}", made["feedId"].as_str().unwrap());
    for wanted in ["IN_QUEUE", "IN_PROGRESS", "DONE"] {
        assert_eq!(seller.send("GET", &path, None).await.1["processingStatus"], wanted);
        seller.clock.advance(Duration::from_millis(300));
    }
    assert_eq!((seller.sim.quantity("A"), seller.sim.quantity("B")), (Some(8), Some(5)));
    let done = seller.send("GET", &path, None).await.1;
    let result = done["resultFeedDocumentId"].as_str().unwrap();
    let path = format!("/feeds/2021-06-30/documents/{result}");
    let document = seller.send("GET", &path, None).await.1;
    assert_eq!(document["compressionAlgorithm"], "GZIP");
    let url = document["url"].as_str().unwrap();
    let bytes = client().get(url).send().await.unwrap().bytes().await.unwrap();
    let report: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(bytes.as_ref())).unwrap();
    assert_eq!(report["summary"]["messagesAccepted"], 2);
    assert_eq!(report["issues"][0]["sku"], "B");
    for _ in 0..4 {
        assert_eq!(submit(&seller, &feed).await.0, 202);
    }
    assert_eq!(submit(&seller, &feed).await.0, 429, "the sixth feed in five minutes");
}

#[tokio::test]
async fn tokens_and_rates_are_checked() {
    let settings = Settings { rate_scale: 1, ..Settings::default() };
    let seller = seller(settings, vec![SeedItem::new("A", 5)]).await;
    assert_eq!(token(&seller.server, "Atzr|other").await["error"], "invalid_grant");
    for n in 0..5 {
        assert_eq!(seller.patch("A", "merge", default(n)).await.0, 200);
    }
    let (status, answer) = seller.patch("A", "merge", default(9)).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (429, &json!("QuotaExceeded")));
    seller.clock.advance(Duration::from_millis(200));
    assert_eq!(seller.patch("A", "merge", default(9)).await.0, 200);
    seller.sim.set_faults(Faults { expire_tokens: true, ..Faults::default() });
    let (status, answer) = seller.patch("A", "merge", default(9)).await;
    assert_eq!((status, &answer["errors"][0]["code"]), (403, &json!("Unauthorized")));
    seller.sim.set_faults(Faults { throttled: Chance::next(1), ..Faults::default() });
    assert_eq!(seller.patch("A", "merge", default(9)).await.0, 429);
}

#[tokio::test]
async fn a_sale_is_notified_and_polled_until_cancelled() {
    let seller = seller(Settings::default(), vec![SeedItem::new("A", 5)]).await;
    let mut endpoint = endpoint(0).await;
    seller.sim.set_webhook(&endpoint.url, "hush").unwrap();
    let order = seller.sim.sell("A", 2).unwrap();
    assert_eq!(seller.sim.quantity("A"), Some(3));
    let told = endpoint.next().await;
    assert_eq!(told.header(SECRET_HEADER), "hush");
    let change = told.json()["Payload"]["OrderChangeNotification"].clone();
    assert_eq!(change["AmazonOrderId"], order.order_id.as_str());
    assert_eq!(change["Summary"]["OrderItems"][0]["SellerSKU"], "A");
    seller.clock.advance(Duration::from_secs(5));
    seller.sim.cancel(&order.order_id).unwrap();
    let told = endpoint.next().await.json();
    let status = &told["Payload"]["OrderChangeNotification"]["Summary"]["OrderStatus"];
    assert_eq!(status, "Canceled");
    let path = "/orders/2026-01-01/orders?lastUpdatedAfter=2026-11-23T00:00:01Z\
                &includedData=FULFILLMENT&fulfilledBy=MERCHANT";
    let (_, answer) = seller.send("GET", path, None).await;
    assert_eq!(answer["orders"][0]["fulfillment"]["fulfillmentStatus"], "CANCELLED");
    assert_eq!(answer["orders"][0]["orderItems"][0]["quantityOrdered"], 2);
    assert_eq!(seller.send("GET", "/orders/2026-01-01/orders", None).await.0, 400);
}

#[tokio::test]
async fn feeds_are_processed_one_after_the_other_and_may_break_off() {
    let settings = Settings::default();
    let (queue_ms, run_ms) = (settings.feed_queue_ms, settings.feed_run_ms);
    let seller = seller(settings, vec![SeedItem::new("X", 1), SeedItem::new("Y", 1)]).await;
    let message = |id: u32, sku: &str, quantity: i64| {
        json!({"messageId": id, "sku": sku, "operationType": "PATCH", "productType": "PRODUCT",
               "patches": [{"op": "merge", "path": "/attributes/fulfillment_availability",
                   "value": [default(quantity)]}]})
    };
    let feed = |messages: Vec<Value>| json!({"header": {"sellerId": SELLER_ID, "version": "2.0"}, "messages": messages});
    seller.sim.faults().update(|faults| faults.feed_fatal = Chance::next(1));
    let mut ids = Vec::new();
    for quantity in [7, 9] {
        let messages = vec![message(1, "X", quantity), message(2, "Y", quantity)];
        let (status, made) = submit(&seller, &feed(messages)).await;
        assert_eq!(status, 202);
        ids.push(made["feedId"].as_str().unwrap().to_owned());
    }
    let status = async |id: &str| {
        let path = format!("/feeds/2021-06-30/feeds/{id}");
        let (_, feed) = seller.send("GET", &path, None).await;
        feed["processingStatus"].as_str().unwrap().to_owned()
    };
    seller.clock.advance(Duration::from_millis(queue_ms + run_ms));
    assert_eq!(
        (status(&ids[0]).await, status(&ids[1]).await),
        ("FATAL".into(), "IN_PROGRESS".into())
    );
    let shown = || (seller.sim.quantity("X"), seller.sim.quantity("Y"));
    assert_eq!(shown(), (Some(7), Some(1)), "half of it was applied");
    seller.clock.advance(Duration::from_millis(run_ms));
    assert_eq!(status(&ids[1]).await, "DONE");
    assert_eq!(shown(), (Some(9), Some(9)));
}
