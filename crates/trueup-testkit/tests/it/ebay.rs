use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use serde_json::{Value, json};
use sha1::Digest;
use trueup_testkit::ebay::{CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN, Settings, Simulator};
use trueup_testkit::faults::{Chance, Faults};
use trueup_testkit::{SeedItem, Shop, SimServer};

use crate::{client, endpoint, served};

struct Seller {
    sim: Simulator,
    server: SimServer,
    token: String,
}

async fn seller(settings: Settings, items: Vec<SeedItem>) -> Seller {
    let sim = Simulator::new(settings);
    sim.seed(items).unwrap();
    let server = served(sim.clone()).await;
    let answer = token(&server, REFRESH_TOKEN).await;
    assert_eq!(answer["token_type"], "User Access Token");
    let token = answer["access_token"].as_str().unwrap().to_owned();
    Seller { sim, server, token }
}

async fn token(server: &SimServer, refresh_token: &str) -> Value {
    let refresh = refresh_token.replace('^', "%5E").replace('#', "%23");
    let basic = STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
    let request = client()
        .post(format!("{}/identity/v1/oauth2/token", server.url))
        .header("authorization", format!("Basic {basic}"))
        .body(format!("grant_type=refresh_token&refresh_token={refresh}"));
    request.send().await.unwrap().json().await.unwrap()
}

impl Seller {
    async fn send(&self, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url);
        let request = match body {
            Some(body) => client().post(url).json(&body),
            None => client().get(url),
        };
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn update(&self, requests: Value) -> (u16, Value) {
        let path = "/sell/inventory/v1/bulk_update_price_quantity";
        self.send(path, Some(json!({"requests": requests}))).await
    }

    async fn trading(&self, call: &str, body: &str) -> String {
        let request = client()
            .post(format!("{}/ws/api.dll", self.server.url))
            .header("X-EBAY-API-CALL-NAME", call)
            .header("X-EBAY-API-IAF-TOKEN", &self.token)
            .body(body.to_owned());
        request.send().await.unwrap().text().await.unwrap()
    }
}

fn total(sku: &str, quantity: i64) -> Value {
    json!({"sku": sku, "shipToLocationAvailability": {"quantity": quantity}})
}

#[tokio::test]
async fn a_bulk_update_is_judged_item_by_item() {
    let items = vec![SeedItem::new("A", 5), SeedItem::new("B", 5), SeedItem::new("C", 5)];
    let seller = seller(Settings { revisions_max: 2, ..Settings::default() }, items).await;
    seller.sim.faults().update(|faults| faults.poison = ["C".to_owned()].into());
    let requests = [total("A", 9), total("nope", 1), total("B", -1), total("C", 1)];
    let (status, answer) = seller.update(json!(requests)).await;
    assert_eq!(status, 207);
    let codes: Vec<_> = answer["responses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["statusCode"].as_u64().unwrap(), one["errors"][0]["errorId"].as_u64()))
        .collect();
    let wanted = [(200, None), (404, Some(25_702)), (400, Some(25_709)), (400, Some(25_709))];
    assert_eq!(codes, wanted);
    assert_eq!((seller.sim.quantity("A"), seller.sim.quantity("B")), (Some(9), Some(5)));
    seller.sim.set_faults(Faults { busy: Chance::next(1), ..Faults::default() });
    let (status, answer) = seller.update(json!([total("A", 8)])).await;
    assert_eq!((status, &answer["responses"][0]["errors"][0]["errorId"]), (207, &json!(25_025)));
    assert_eq!(seller.update(json!([total("A", 8)])).await.0, 200);
    let (_, answer) = seller.update(json!([total("A", 7)])).await;
    assert_eq!(answer["responses"][0]["errors"][0]["errorId"], 25_019, "revised too often");
    assert_eq!(seller.sim.revisions("A"), Some(2));
    let many: Vec<Value> = (0..26).map(|_| total("A", 1)).collect();
    assert_eq!(seller.update(json!(many)).await.0, 400);
}

#[tokio::test]
async fn the_smaller_of_total_and_offer_is_shown() {
    let mut item = SeedItem::new("A", 10);
    item.offer_quantity = Some(4);
    let seller = seller(Settings::default(), vec![item]).await;
    assert_eq!(seller.sim.quantity("A"), Some(4));
    assert_eq!(seller.update(json!([total("A", 20)])).await.0, 200);
    assert_eq!(seller.sim.quantity("A"), Some(4), "the offer's quantity overrides");
    let (_, offers) = seller.send("/sell/inventory/v1/offer?sku=A", None).await;
    let offer = offers["offers"][0]["offerId"].clone();
    let mut both = total("A", 7);
    both["offers"] = json!([{"offerId": offer, "availableQuantity": 7}]);
    let (status, answer) = seller.update(json!([both])).await;
    assert_eq!((status, &answer["responses"][0]["offerId"]), (200, &offer));
    assert_eq!(seller.sim.quantity("A"), Some(7));
    assert_eq!(seller.send("/sell/inventory/v1/offer", None).await.0, 400);
}

#[tokio::test]
async fn items_are_read_in_bulk_and_by_page_number() {
    let items = (0..45).map(|n| SeedItem::new(format!("S{n:02}"), n)).collect();
    let seller = seller(Settings::default(), items).await;
    let path = "/sell/inventory/v1/inventory_item?limit=20&offset=2";
    let (_, page) = seller.send(path, None).await;
    assert_eq!((&page["size"], &page["total"]), (&json!(5), &json!(45)));
    assert_eq!(page["inventoryItems"][0]["sku"], "S40");
    assert_eq!(page.get("next"), None);
    let body = json!({"requests": [{"sku": "S03"}, {"sku": "nope"}]});
    let path = "/sell/inventory/v1/bulk_get_inventory_item";
    let (status, answer) = seller.send(path, Some(body)).await;
    let available = "/responses/0/inventoryItem/availability/shipToLocationAvailability/quantity";
    assert_eq!((status, answer.pointer(available)), (207, Some(&json!(3))));
    assert_eq!(seller.send("/sell/inventory/v1/inventory_item/nope", None).await.0, 404);
    let (_, limits) = seller.send("/developer/analytics/v1_beta/rate_limit/", None).await;
    assert_eq!(limits["rateLimits"][0]["resources"][0]["rates"][0]["count"], 3);
}

#[tokio::test]
async fn legacy_listings_are_revised_by_trading() {
    let mut item = SeedItem::new("L & co", 5);
    item.legacy = true;
    let seller = seller(Settings::default(), vec![item, SeedItem::new("A", 5)]).await;
    let id = |sku: &str| {
        seller.sim.items("", 10).iter().find(|item| item["sku"] == sku).unwrap()["itemId"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let status = |id: &str, quantity: i64| {
        format!(
            "<InventoryStatus><ItemID>{id}</ItemID><SKU>L &amp; co</SKU>\
                 <Quantity>{quantity}</Quantity></InventoryStatus>"
        )
    };
    let call = async |inside: &str| {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><ReviseInventoryStatusRequest \
             xmlns=\"urn:ebay:apis:eBLBaseComponents\">{inside}</ReviseInventoryStatusRequest>"
        );
        seller.trading("ReviseInventoryStatus", &body).await
    };
    let legacy = id("L & co");
    let answer = call(&status(&legacy, 3)).await;
    assert!(answer.contains("<Ack>Success</Ack>"), "{answer}");
    assert_eq!(seller.sim.quantity("L & co"), Some(3));
    assert!(call(&status(&legacy, 3)).await.contains("<ErrorCode>21917091</ErrorCode>"));
    assert!(call(&status(&legacy, 3).repeat(5)).await.contains("21916254"));
    let modern = status(&id("A"), 1).replace("L &amp; co", "A");
    assert!(call(&modern).await.contains("<Ack>Failure</Ack>"));
    assert!(call(&(status(&legacy, 4) + &modern)).await.contains("PartialFailure"));
    seller.sim.sell("L & co", 1).unwrap();
    let body = format!("<GetItemRequest><ItemID>{legacy}</ItemID></GetItemRequest>");
    let answer = seller.trading("GetItem", &body).await;
    assert!(answer.contains("<Quantity>4</Quantity>"), "available and sold: {answer}");
    assert!(answer.contains("<QuantitySold>1</QuantitySold>"));
}

#[tokio::test]
async fn a_sale_is_notified_with_a_signature_that_verifies() {
    let seller = seller(Settings::default(), vec![SeedItem::new("A", 5)]).await;
    let mut endpoint = endpoint(1).await;
    seller.sim.set_webhook(&endpoint.url, "").unwrap();
    let order = seller.sim.sell("A", 2).unwrap();
    let told = endpoint.next().await;
    assert_eq!(told.json()["notification"]["data"]["orderId"], order.order_id.as_str());
    assert_eq!(told.json()["notification"]["publishAttemptCount"], 2);
    let header: Value =
        serde_json::from_slice(&STANDARD.decode(told.header("X-EBAY-SIGNATURE")).unwrap()).unwrap();
    let path = format!("/commerce/notification/v1/public_key/{}", header["kid"].as_str().unwrap());
    let (_, key) = seller.send(&path, None).await;
    let base64 = key["key"].as_str().unwrap().replace("-----BEGIN PUBLIC KEY-----", "");
    let der = STANDARD.decode(base64.replace("-----END PUBLIC KEY-----", "")).unwrap();
    let key = VerifyingKey::from_public_key_der(&der).unwrap();
    let signature = STANDARD.decode(header["signature"].as_str().unwrap()).unwrap();
    let signature = Signature::from_der(&signature).unwrap();
    key.verify_prehash(&sha1::Sha1::digest(&told.body), &signature).unwrap();
    let path =
        "/sell/fulfillment/v1/order?filter=lastmodifieddate:%5B2020-01-01T00:00:00.000Z..%5D";
    let (_, orders) = seller.send(path, None).await;
    assert_eq!(
        (&orders["total"], &orders["orders"][0]["lineItems"][0]["quantity"]),
        (&json!(1), &json!(2))
    );
    seller.sim.cancel(&order.order_id).unwrap();
    let (_, orders) = seller.send(path, None).await;
    assert_eq!(orders["orders"][0]["cancelStatus"]["cancelState"], "CANCELED");
    assert_eq!(seller.sim.quantity("A"), Some(5));
}

#[tokio::test]
async fn a_bad_refresh_token_is_an_invalid_grant() {
    let seller = seller(Settings::default(), vec![]).await;
    assert_eq!(token(&seller.server, "other").await["error"], "invalid_grant");
    seller.sim.expire_tokens();
    assert_eq!(seller.send("/sell/inventory/v1/inventory_item", None).await.0, 401);
}

#[tokio::test]
async fn a_token_opens_what_was_granted_and_asked_for() {
    let seller = seller(Settings::default(), vec![SeedItem::new("A", 5)]).await;
    let basic = STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
    let grant = async |kind: &str, scope: &str| {
        let mut fields = vec![("grant_type", kind), ("refresh_token", REFRESH_TOKEN)];
        fields.extend((!scope.is_empty()).then_some(("scope", scope)));
        let request = client()
            .post(format!("{}/identity/v1/oauth2/token", seller.server.url))
            .header("authorization", format!("Basic {basic}"))
            .body(
                url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish(),
            );
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let opens = async |answer: &Value, path: &str| {
        let request = client()
            .get(format!("{}{path}", seller.server.url))
            .bearer_auth(answer["access_token"].as_str().unwrap());
        request.send().await.unwrap().status().as_u16()
    };
    let (items, orders) = ("/sell/inventory/v1/inventory_item", "/sell/fulfillment/v1/order");
    let inventory = "https://api.ebay.com/oauth/api_scope/sell.inventory";
    let both = format!("{inventory} https://api.ebay.com/oauth/api_scope/sell.fulfillment");
    let refresh = "refresh_token";
    let all = grant(refresh, "").await;
    assert_eq!((opens(&all, items).await, opens(&all, orders).await), (200, 200));
    let narrow = grant(refresh, inventory).await;
    assert_eq!((opens(&narrow, items).await, opens(&narrow, orders).await), (200, 403));
    seller.sim.withhold_scope("sell.fulfillment");
    assert_eq!(grant(refresh, &both).await["error"], "invalid_scope");
    let rest = grant(refresh, "").await;
    assert_eq!((opens(&rest, items).await, opens(&rest, orders).await), (200, 403));
    let application = "client_credentials";
    assert_eq!(grant(application, inventory).await["error"], "invalid_scope");
    assert_eq!(grant(application, "").await["error"], "invalid_scope");
    let own = grant(application, "https://api.ebay.com/oauth/api_scope").await;
    assert_eq!(opens(&own, items).await, 403);
}
