use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use trueup_testkit::ebay::{CLIENT_ID, CLIENT_SECRET, KEY_ID, REFRESH_TOKEN, Simulator};
use trueup_testkit::{SeedItem, Shop, SimServer};

use crate::spec::Spec;
use crate::{client, send, served};

struct Seller {
    sim: Simulator,
    server: SimServer,
    token: String,
}

async fn seller() -> Seller {
    let sim = Simulator::default();
    sim.seed((0..30).map(|n| SeedItem::new(format!("S{n:02}"), n)).collect()).unwrap();
    let server = served(sim.clone()).await;
    let basic = STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
    let refresh = REFRESH_TOKEN.replace('^', "%5E").replace('#', "%23");
    let request = client()
        .post(format!("{}/identity/v1/oauth2/token", server.url))
        .header("authorization", format!("Basic {basic}"))
        .body(format!("grant_type=refresh_token&refresh_token={refresh}"));
    let token = send(request).await.1["access_token"].as_str().unwrap().to_owned();
    Seller { sim, server, token }
}

impl Seller {
    async fn ask(&self, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url);
        let request =
            if body.is_null() { client().get(url) } else { client().post(url).json(&body) };
        send(request.header("authorization", format!("Bearer {}", self.token))).await
    }

    async fn get(&self, path: &str) -> Value {
        self.ask(path, Value::Null).await.1
    }
}

fn check_errors(spec: &Spec, body: &Value) {
    let errors = body["errors"].as_array().expect("a list of errors");
    assert!(!errors.is_empty());
    errors.iter().for_each(|error| spec.check("Error", error));
}

#[tokio::test]
async fn inventory_is_as_specified() {
    let Some(spec) = Spec::load("ebay_sell_inventory.json") else { return };
    let seller = seller().await;
    let base = "/sell/inventory/v1";
    let offers = seller.get(&format!("{base}/offer?sku=S03")).await;
    spec.check("Offers", &offers);
    let update = json!({"requests": [
        {"sku": "S03", "shipToLocationAvailability": {"quantity": 9},
         "offers": [{"offerId": offers["offers"][0]["offerId"], "availableQuantity": 9}]},
        {"sku": "nope", "shipToLocationAvailability": {"quantity": 1}},
    ]});
    spec.check("BulkPriceQuantity", &update);
    let (status, answer) = seller.ask(&format!("{base}/bulk_update_price_quantity"), update).await;
    assert_eq!((status, seller.sim.quantity("S03")), (207, Some(9)));
    spec.check("BulkPriceQuantityResponse", &answer);
    let wanted = json!({"requests": [{"sku": "S03"}, {"sku": "nope"}]});
    spec.check("BulkGetInventoryItem", &wanted);
    let (_, answer) = seller.ask(&format!("{base}/bulk_get_inventory_item"), wanted).await;
    spec.check("BulkGetInventoryItemResponse", &answer);
    let page = seller.get(&format!("{base}/inventory_item?limit=20&offset=0")).await;
    spec.check("InventoryItems", &page);
    let item = seller.get(&format!("{base}/inventory_item/S03")).await;
    spec.check("InventoryItemWithSkuLocaleGroupid", &item);
    spec.check("LocationResponse", &seller.get(&format!("{base}/location")).await);
    for path in ["/inventory_item/nope", "/offer", "/offer?sku=nope", "/inventory_item?limit=0"] {
        check_errors(&spec, &seller.get(&format!("{base}{path}")).await);
    }
    seller.sim.expire_tokens();
    check_errors(&spec, &seller.get(&format!("{base}/location")).await);
}

#[tokio::test]
async fn orders_are_as_specified() {
    let Some(spec) = Spec::load("ebay_sell_fulfillment.json") else { return };
    let seller = seller().await;
    let order = seller.sim.sell("S09", 2).unwrap();
    seller.sim.sell("S08", 1).unwrap();
    seller.sim.cancel(&order.order_id).unwrap();
    let base = "/sell/fulfillment/v1/order";
    let page = seller.get(&format!("{base}?limit=1&offset=0")).await;
    spec.check("OrderSearchPagedCollection", &page);
    for cents in [None, Some(400), Some(1_000)] {
        let order = match cents {
            None => seller.sim.sell_unpaid("S08", 1).unwrap(),
            Some(_) => seller.sim.sell("S08", 1).unwrap(),
        };
        cents.into_iter().for_each(|cents| seller.sim.refund(&order.order_id, cents).unwrap());
        spec.check("Order", &seller.get(&format!("{base}/{}", order.order_id)).await);
    }
    assert!(page["next"].is_string());
    spec.check("Order", &seller.get(&format!("{base}/{}", order.order_id)).await);
    check_errors(&spec, &seller.get(&format!("{base}/nope")).await);
}

#[tokio::test]
async fn keys_and_topics_are_as_specified() {
    let Some(spec) = Spec::load("ebay_notification.json") else { return };
    let seller = seller().await;
    let base = "/commerce/notification/v1";
    spec.check("PublicKey", &seller.get(&format!("{base}/public_key/{KEY_ID}")).await);
    spec.check("TopicSearchResponse", &seller.get(&format!("{base}/topic")).await);
}
