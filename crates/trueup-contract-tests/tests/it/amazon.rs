use serde_json::{Value, json};
use trueup_testkit::amazon::{
    CLIENT_ID, CLIENT_SECRET, MARKETPLACE_ID, REFRESH_TOKEN, SELLER_ID, Settings, Simulator,
};
use trueup_testkit::{FulfilledBy, SeedItem, Shop, SimServer};

use crate::spec::Spec;
use crate::{client, send, served};

struct Seller {
    sim: Simulator,
    server: SimServer,
    token: String,
}

async fn seller() -> Seller {
    let settings =
        Settings { apply_ms: 0, feed_queue_ms: 0, feed_run_ms: 0, ..Settings::default() };
    let sim = Simulator::new(settings);
    let mut items: Vec<SeedItem> = (0..30).map(|n| SeedItem::new(format!("S{n:02}"), n)).collect();
    items[0].lead_time_days = Some(3);
    items[1].fulfilled_by = FulfilledBy::Channel;
    sim.seed(items).unwrap();
    let server = served(sim.clone()).await;
    let refresh = REFRESH_TOKEN.replace('|', "%7C");
    let token =
        granted(&server, &format!("grant_type=refresh_token&refresh_token={refresh}")).await;
    Seller { sim, server, token }
}

async fn granted(server: &SimServer, grant: &str) -> String {
    let form = format!("{grant}&client_id={CLIENT_ID}&client_secret={CLIENT_SECRET}");
    let (_, answer) = send(client().post(format!("{}/auth/o2/token", server.url)).body(form)).await;
    answer["access_token"].as_str().unwrap().to_owned()
}

impl Seller {
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url);
        let request = client().request(method.parse().unwrap(), url);
        let request = request.header("x-amz-access-token", &self.token);
        send(if body.is_null() { request } else { request.json(&body) }).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, Value::Null).await.1
    }
}

fn patch(quantity: i64) -> Value {
    json!({"productType": "PRODUCT", "patches": [{
        "op": "merge", "path": "/attributes/fulfillment_availability",
        "value": [{"fulfillment_channel_code": "DEFAULT", "quantity": quantity}],
    }]})
}

#[tokio::test]
async fn listings_are_as_specified() {
    let Some(spec) = Spec::load("amazon_listings.json") else { return };
    let seller = seller().await;
    let base = format!("/listings/2021-08-01/items/{SELLER_ID}");
    let data = "summaries,attributes,issues,offers,fulfillmentAvailability,productTypes";
    let query = format!("?marketplaceIds={MARKETPLACE_ID}&includedData={data}");
    for (sku, quantity) in [("S02", 5), ("S02", -1), ("nope", 1)] {
        spec.check("ListingsItemPatchRequest", &patch(quantity));
        let path = format!("{base}/{sku}?marketplaceIds={MARKETPLACE_ID}");
        let (status, answer) = seller.ask("PATCH", &path, patch(quantity)).await;
        assert_eq!(status, 200);
        spec.check("ListingsItemSubmissionResponse", &answer);
    }
    for sku in ["S00", "S01", "S02"] {
        spec.check("Item", &seller.get(&format!("{base}/{sku}{query}")).await);
    }
    let page = seller.get(&format!("{base}{query}&pageSize=20")).await;
    assert!(page["pagination"]["nextToken"].is_string());
    spec.check("ItemSearchResults", &page);
    spec.check("ErrorList", &seller.get(&format!("{base}/nope{query}")).await);
    spec.check("ErrorList", &seller.get(&base).await);
    seller.sim.expire_tokens();
    spec.check("ErrorList", &seller.get(&format!("{base}{query}")).await);
}

#[tokio::test]
async fn feeds_and_their_reports_are_as_specified() {
    let Some(spec) = Spec::load("amazon_feeds.json") else { return };
    let folder = "amazon_schemas/feeds";
    let feed_schema = Spec::load_schema(&format!("{folder}/listings-feed-schema-v2.json")).unwrap();
    let ended = "amazon_schemas/notifications/FeedProcessingFinishedNotification.json";
    let ended = Spec::load_schema(ended).unwrap();
    let report_schema = format!("{folder}/listings-feed-processing-report-schema-v2.json");
    let report_schema = Spec::load_schema(&report_schema).unwrap();
    let seller = seller().await;
    let message = |id: u32, sku: &str, quantity: i64| {
        let mut message = json!({"messageId": id, "sku": sku, "operationType": "PATCH"});
        message.as_object_mut().unwrap().extend(patch(quantity).as_object().unwrap().clone());
        message
    };
    let feed = json!({
        "header": {"sellerId": SELLER_ID, "version": "2.0", "issueLocale": "en_US"},
        "messages": [message(1, "S02", 8), message(2, "S03", -1)],
    });
    feed_schema.check_whole(&feed);
    let kind = "application/json; charset=UTF-8";
    let wanted = json!({"contentType": kind});
    spec.check("CreateFeedDocumentSpecification", &wanted);
    let (_, document) = seller.ask("POST", "/feeds/2021-06-30/documents", wanted).await;
    spec.check("CreateFeedDocumentResponse", &document);
    let put = client().put(document["url"].as_str().unwrap()).header("content-type", kind);
    put.body(feed.to_string()).send().await.unwrap().error_for_status().unwrap();
    let mut hook = crate::hook().await;
    seller.sim.set_webhook(&hook.0, "hush").unwrap();
    let wanted = json!({"feedType": "JSON_LISTINGS_FEED", "marketplaceIds": [MARKETPLACE_ID],
                        "inputFeedDocumentId": document["feedDocumentId"]});
    spec.check("CreateFeedSpecification", &wanted);
    let (_, made) = seller.ask("POST", "/feeds/2021-06-30/feeds", wanted).await;
    spec.check("CreateFeedResponse", &made);
    let id = made["feedId"].as_str().unwrap();
    // Nobody has looked at the feed.
    let told = hook.1.recv().await.unwrap();
    ended.check_whole(&told);
    let told = &told["payload"]["feedProcessingFinishedNotification"];
    assert_eq!([&told["feedId"], &told["processingStatus"]], [&json!(id), &json!("DONE")]);
    let listed = seller.get("/feeds/2021-06-30/feeds?feedTypes=JSON_LISTINGS_FEED").await;
    assert_eq!(listed["feeds"].as_array().map(Vec::len), Some(1), "{listed}");
    spec.check("Feed", &listed["feeds"][0]);
    let feed = seller.get(&format!("/feeds/2021-06-30/feeds/{id}")).await;
    spec.check("Feed", &feed);
    assert_eq!(feed["processingStatus"], "DONE");
    let result = feed["resultFeedDocumentId"].as_str().unwrap();
    let document = seller.get(&format!("/feeds/2021-06-30/documents/{result}")).await;
    spec.check("FeedDocument", &document);
    let (_, report) = send(client().get(document["url"].as_str().unwrap())).await;
    assert_eq!(report["issues"].as_array().unwrap().len(), 1);
    report_schema.check_whole(&report);
}

#[tokio::test]
async fn fba_summaries_are_as_specified() {
    let Some(spec) = Spec::load("amazon_fba_inventory.json") else { return };
    let seller = seller().await;
    let path = format!(
        "/fba/inventory/v1/summaries?details=true&granularityType=Marketplace\
         &granularityId={MARKETPLACE_ID}&marketplaceIds={MARKETPLACE_ID}"
    );
    let answer = seller.get(&path).await;
    assert_eq!(answer["payload"]["inventorySummaries"].as_array().unwrap().len(), 1);
    spec.check("GetInventorySummariesResponse", &answer);
    let bad = seller.get("/fba/inventory/v1/summaries").await;
    spec.check("GetInventorySummariesResponse", &bad);
}

#[tokio::test]
async fn orders_are_as_specified() {
    let Some(spec) = Spec::load("amazon_orders.json") else { return };
    let seller = seller().await;
    let order = seller.sim.sell("S09", 2).unwrap();
    seller.sim.sell("S01", 1).unwrap();
    let cancelled = seller.sim.sell("S08", 1).unwrap();
    seller.sim.cancel(&cancelled.order_id).unwrap();
    let path = "/orders/2026-01-01/orders?lastUpdatedAfter=2020-01-01T00:00:00Z\
                &includedData=FULFILLMENT&maxResultsPerPage=2";
    let page = seller.get(path).await;
    spec.check("SearchOrdersResponse", &page);
    let token = page["pagination"]["nextToken"].as_str().unwrap();
    let rest = seller.get(&format!("{path}&paginationToken={token}")).await;
    spec.check("SearchOrdersResponse", &rest);
    assert_eq!(rest["orders"].as_array().unwrap().len(), 1);
    let path = format!("/orders/2026-01-01/orders/{}", order.order_id);
    spec.check("GetOrderResponse", &seller.get(&path).await);
    spec.check("ErrorList", &seller.get("/orders/2026-01-01/orders/nope").await);
}

#[tokio::test]
async fn destinations_and_subscriptions_are_as_specified() {
    let Some(spec) = Spec::load("amazon_notifications.json") else { return };
    let mut seller = seller().await;
    let sellers_own = seller.token.clone();
    let scope = "grant_type=client_credentials&scope=sellingpartnerapi::notifications";
    seller.token = granted(&seller.server, scope).await;
    let path = "/notifications/v1/destinations";
    let wanted =
        |specification: Value| json!({"name": "q", "resourceSpecification": specification});
    let queue = wanted(json!({"sqs": {"arn": "arn:aws:sqs:us-east-1:123456789012:q"}}));
    spec.check("CreateDestinationRequest", &queue);
    let (status, made) = seller.ask("POST", path, queue.clone()).await;
    assert_eq!(status, 200);
    spec.check("CreateDestinationResponse", &made);
    let bus = wanted(json!({"eventBridge": {"accountId": "123456789012", "region": "us-east-1"}}));
    spec.check("CreateDestinationResponse", &seller.ask("POST", path, bus).await.1);
    let (status, twice) = seller.ask("POST", path, queue).await;
    assert_eq!(status, 409);
    spec.check("CreateDestinationResponse", &twice);
    spec.check("GetDestinationsResponse", &seller.get(path).await);

    let id = made["payload"]["destinationId"].clone();
    let path = "/notifications/v1/subscriptions/ORDER_CHANGE";
    let wanted = json!({"payloadVersion": "1.0", "destinationId": id});
    let (status, _) = seller.ask("POST", path, wanted.clone()).await;
    assert_eq!(status, 403, "a subscription belongs to the seller");
    seller.token = sellers_own;
    let (status, absent) = seller.ask("GET", path, Value::Null).await;
    assert_eq!(status, 404);
    spec.check("GetSubscriptionResponse", &absent);
    spec.check("CreateSubscriptionResponse", &seller.ask("POST", path, wanted.clone()).await.1);
    assert_eq!(seller.ask("POST", path, wanted.clone()).await.0, 409);
    spec.check("GetSubscriptionResponse", &seller.get(path).await);
    let to_a_bus = "/notifications/v1/subscriptions/LISTINGS_ITEM_MFN_QUANTITY_CHANGE";
    assert_eq!(seller.ask("POST", to_a_bus, wanted).await.0, 400, "it goes to no queue");
}

#[tokio::test]
async fn notifications_are_as_specified() {
    let folder = "amazon_schemas/notifications";
    let order_change = format!("{folder}/OrderChangeNotification.json");
    let Some(order_change) = Spec::load_schema(&order_change) else { return };
    let quantity_change = format!("{folder}/ListingsItemMfnQuantityChange.json");
    let quantity_change = Spec::load_schema(&quantity_change).unwrap();
    let settings = Settings { pending_ms: 1, notify_quantities: true, ..Settings::default() };
    let sim = Simulator::new(settings);
    sim.seed(vec![SeedItem::new("A", 5)]).unwrap();
    let _server = served(sim.clone()).await;
    let mut hook = crate::hook().await;
    sim.set_webhook(&hook.0, "hush").unwrap();
    let order = sim.sell("A", 2).unwrap();
    let (mut statuses, mut quantities) = (Vec::new(), 0);
    while statuses.len() < 3 {
        if statuses.len() == 2 && quantities == 1 {
            sim.cancel(&order.order_id).unwrap();
        }
        let told = hook.1.recv().await.unwrap();
        if told["NotificationType"] == "ORDER_CHANGE" {
            order_change.check_whole(&told);
            let status = "/Payload/OrderChangeNotification/Summary/OrderStatus";
            statuses.push(told.pointer(status).unwrap().as_str().unwrap().to_owned());
        } else {
            quantity_change.check_whole(&told);
            quantities += 1;
        }
    }
    statuses.sort_unstable();
    assert_eq!(statuses, ["Canceled", "Pending", "Unshipped"]);

    let fba_change = format!("{folder}/FBAInventoryAvailabilityChangeNotification.json");
    let fba_change = Spec::load_schema(&fba_change).unwrap();
    sim.seed(vec![SeedItem { fulfilled_by: FulfilledBy::Channel, ..SeedItem::new("F", 5) }])
        .unwrap();
    sim.set_quantity("F", 4).unwrap();
    loop {
        let told = hook.1.recv().await.unwrap();
        if told["NotificationType"] == "FBA_INVENTORY_AVAILABILITY_CHANGES" {
            fba_change.check_whole(&told);
            break;
        }
    }
}
