use std::io::Write as _;

use serde_json::{Value, json};
use trueup_channels::{
    BulkItem, BulkState, ChannelError, ChannelErrorKind, HandedOver, LineState, Listing, Notice,
    PushItem, Reading, Secret, Settings, WebhookRequest,
};
use trueup_core::Timestamp;

use crate::harness::{
    Answer, Fake, answer, batch, channel, fields, headers, hint_of, item, json as reply, listing,
    listing_key, lost, not_sent, order_of, settings, shorts, wrong_settings,
};

const HOST: &str = "https://sellingpartnerapi-eu.amazon.com";

fn seller() -> Settings {
    settings(
        &[
            ("sellerId", json!("A1SELLER")),
            ("marketplaceIds", json!(["A1PA6795UKMFR9", "A13V1IB3VIYZZH"])),
            ("region", json!("eu")),
        ],
        &[
            ("clientId", "id"),
            ("clientSecret", "hush"),
            ("refreshToken", "Atzr|refresh"),
            ("webhookSecret", "between-us"),
        ],
    )
}

fn sku(text: &str) -> Listing {
    listing("amazon", &seller(), &[("sellerSku", text)])
}

fn fba(text: &str) -> Listing {
    Listing { channel_fulfilled: true, ..sku(text) }
}

fn items(skus: &[&str]) -> Vec<PushItem> {
    skus.iter().map(|text| item(sku(text), 42, Some(1))).collect()
}

fn submission(status: &str, issues: Value) -> Answer {
    reply(200, json!({"sku": "A", "status": status, "submissionId": "s", "issues": issues}))
}

fn errors(status: u16, code: &str, message: &str, details: &str) -> Answer {
    let error = json!({"code": code, "message": message, "details": details});
    reply(status, json!({"errors": [error]}))
}

fn expired() -> Answer {
    let details = "The access token you provided has expired.";
    errors(403, "Unauthorized", "Access to requested resource is denied.", details)
}

fn grant() -> Answer {
    reply(
        200,
        json!({"access_token": "Atza|granted", "token_type": "bearer", "expires_in": 3600,
               "refresh_token": "Atzr|refresh"}),
    )
}

#[test]
fn settings_are_checked_all_at_once() {
    assert_eq!(wrong_settings("amazon", &seller()), Vec::<String>::new());
    assert_eq!(
        wrong_settings("amazon", &settings(&[("region", json!("mars"))], &[])),
        [
            "sellerId",
            "marketplaceIds",
            "region",
            "credentials.clientId",
            "credentials.clientSecret",
            "credentials.refreshToken"
        ]
    );
    let mut one = seller();
    one.fields.insert("marketplaceIds".into(), json!(["A/B"]));
    assert_eq!(wrong_settings("amazon", &one), ["marketplaceIds"]);
}

#[test]
fn a_listing_is_a_seller_sku() {
    let table: [(&[(&str, &str)], &str); 3] = [
        (&[("sellerSku", "A 1"), ("asin", "B0")], "A 1"),
        (&[("asin", "B0")], "wrong: sellerSku"),
        (&[("sellerSku", "A"), ("marketplaceId", "x")], "wrong: marketplaceId"),
    ];
    for (given, expected) in table {
        assert_eq!(listing_key("amazon", &seller(), given), expected);
    }
    let kind = trueup_channels::kind("amazon").unwrap();
    let ours = fields(&[("sellerSku", "A"), ("asin", "B0")]);
    assert!(kind.names_listing(&ours, &fields(&[("sellerSku", "A")])));
    assert!(!kind.names_listing(&ours, &fields(&[("asin", "B0")])));
}

#[tokio::test]
async fn a_patch_merges_the_merchants_quantity() {
    let accepted = submission("ACCEPTED", json!([]));
    let limited = accepted.map(|mut response| {
        response.headers.insert("x-amzn-ratelimit-limit", "5.0".parse().unwrap());
        response
    });
    let fake = Fake::new([grant(), limited]).of(&seller());
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A/1 ü"]))).await;
    assert_eq!(shorts(&outcomes), ["Accepted"]);
    let asked = fake.asked();
    assert_eq!(asked[0].url, "https://api.amazon.com/auth/o2/token");
    assert_eq!(
        String::from_utf8_lossy(&asked[0].body),
        "grant_type=refresh_token&refresh_token=Atzr%7Crefresh&client_id=id&client_secret=hush"
    );
    assert_eq!(
        asked[1].url,
        format!(
            "{HOST}/listings/2021-08-01/items/A1SELLER/A%2F1%20%C3%BC\
             ?marketplaceIds=A1PA6795UKMFR9,A13V1IB3VIYZZH&issueLocale=en_US"
        )
    );
    assert_eq!(asked[1].method, "PATCH");
    assert_eq!(asked[1].headers["x-amz-access-token"], "Atza|granted");
    assert!(asked[1].headers["x-amz-access-token"].is_sensitive());
    assert_eq!(asked[1].headers["x-amz-date"], "20261123T093046Z");
    assert_eq!(
        fake.body(1),
        json!({"productType": "PRODUCT", "patches": [{
            "op": "merge", "path": "/attributes/fulfillment_availability",
            "value": [{"fulfillment_channel_code": "DEFAULT", "quantity": 42}]}]})
    );
    let (bucket, hint) = fake.learned()[0];
    assert_eq!((bucket, hint.per_second), ("listings.patch", 5.0));
}

#[tokio::test]
async fn every_failure_has_its_outcome() {
    let issue = json!([
        {"code": "1", "message": "a warning", "severity": "WARNING", "categories": []},
        {"code": "90220", "message": "is required", "severity": "ERROR", "categories": []}]);
    let table: [(Answer, &str); 12] = [
        (submission("ACCEPTED", json!([])), "Accepted"),
        (submission("INVALID", issue), "Refused InvalidValue 90220"),
        (submission("ODD", json!([])), "Unknown Protocol -"),
        (errors(400, "InvalidInput", "bad", ""), "Refused InvalidValue InvalidInput"),
        (errors(403, "Unauthorized", "no role", ""), "NotSent Forbidden Unauthorized"),
        (errors(404, "NotFound", "no", ""), "Refused ListingNotFound NotFound"),
        (errors(429, "QuotaExceeded", "slow", ""), "NotSent Throttled QuotaExceeded"),
        (errors(500, "InternalFailure", "no", ""), "Unknown UnknownOutcome InternalFailure"),
        (errors(503, "ServiceUnavailable", "no", ""), "NotSent Transient ServiceUnavailable"),
        (answer(200, &[], "<html>"), "Unknown Protocol -"),
        (lost(), "Unknown UnknownOutcome -"),
        (not_sent(), "NotSent Transient -"),
    ];
    for (given, expected) in table {
        let shown = format!("{given:?}");
        let fake = Fake::granted([given]);
        let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A"]))).await;
        assert_eq!(shorts(&outcomes), [expected], "{shown}");
    }
}

#[tokio::test]
async fn a_throttle_stops_the_batch_and_a_refusal_does_not() {
    let invalid = submission("INVALID", json!([]));
    let throttled = errors(429, "QuotaExceeded", "slow", "");
    let fake = Fake::granted([invalid, throttled]);
    let mut items = items(&["A", "B", "C"]);
    items.insert(1, item(fba("F"), 5, None));
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items)).await;
    assert_eq!(
        shorts(&outcomes),
        [
            "Refused InvalidValue -",
            "Refused NotPushable -",
            "NotSent Throttled QuotaExceeded",
            "NotSent Throttled QuotaExceeded"
        ]
    );
}

#[tokio::test]
async fn an_expired_token_is_renewed_once() {
    let fake = Fake::granted([expired(), grant(), submission("ACCEPTED", json!([]))]);
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A"]))).await;
    assert_eq!(shorts(&outcomes), ["Accepted"]);
    let fake = Fake::granted([expired(), grant(), expired()]);
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A"]))).await;
    assert_eq!(shorts(&outcomes), ["NotSent Auth Unauthorized"]);
    let refused = json!({"error": "invalid_grant", "error_description": "Atzr|refresh is bad"});
    let fake = Fake::new([reply(400, refused)]).of(&seller());
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A"]))).await;
    assert_eq!(shorts(&outcomes), ["NotSent Auth invalid_grant"]);
    assert!(!format!("{outcomes:?}").contains("Atzr"));
}

#[tokio::test]
async fn a_token_that_was_renewed_meanwhile_is_used() {
    let fake = Fake::granted([expired(), submission("ACCEPTED", json!([]))])
        .renewed_meanwhile("access", "newer-granted");
    let outcomes = channel("amazon", &seller()).push(&fake, &batch(items(&["A"]))).await;
    assert_eq!(shorts(&outcomes), ["Accepted"]);
    assert_eq!(fake.asked()[1].headers["x-amz-access-token"], "newer-granted");
}

fn document(url: &str) -> Answer {
    reply(201, json!({"feedDocumentId": "doc-1", "url": url}))
}

fn state(status: &str) -> Answer {
    reply(
        200,
        json!({"feedId": "f", "feedType": "JSON_LISTINGS_FEED", "processingStatus": status,
               "createdTime": "2026-11-23T09:00:00Z", "resultFeedDocumentId": "res-1"}),
    )
}

fn report(issues: Value, accepted: u64) -> Value {
    json!({"header": {"sellerId": "A1SELLER", "version": "2.0", "feedId": "f"},
           "issues": issues, "summary": {"errors": 1, "warnings": 0, "messagesProcessed": 2,
           "messagesAccepted": accepted, "messagesInvalid": 1}})
}

/// Hands three items over, of which the second cannot go the bulk way.
async fn start(script: Vec<Answer>) -> (HandedOver, Fake) {
    let fake = Fake::granted(script);
    let mut items = items(&["A", "B"]);
    items.insert(1, item(fba("F"), 5, None));
    let channel = channel("amazon", &seller());
    let said: Vec<Option<BulkItem>> = items.iter().map(|item| channel.bulk_item(item)).collect();
    assert!(said[1].is_none(), "{said:?}");
    let said: Vec<BulkItem> = said.into_iter().flatten().collect();
    let handed_over = channel.bulk_start(&fake, &said).await;
    (handed_over, fake)
}

#[tokio::test]
async fn a_feed_is_uploaded_and_made_once() {
    let (started, fake) = start(vec![
        document("https://storage.example/in?sig=1"),
        answer(200, &[], ""),
        reply(202, json!({"feedId": "f/1"})),
    ])
    .await;
    assert_eq!(started, HandedOver::Ticket("f/1".into()));
    assert_eq!(
        fake.urls(),
        [
            format!("POST {HOST}/feeds/2021-06-30/documents"),
            "PUT https://storage.example/in?sig=1".into(),
            format!("POST {HOST}/feeds/2021-06-30/feeds"),
        ]
    );
    let upload = &fake.asked()[1];
    assert_eq!(upload.headers["content-type"], "application/json; charset=UTF-8");
    assert!(!upload.headers.contains_key("x-amz-access-token"));
    let body = fake.body(1);
    assert_eq!(body["header"]["version"], "2.0");
    assert_eq!(body["messages"][1]["messageId"], 2);
    assert_eq!(body["messages"][1]["sku"], "B");
    assert_eq!(body["messages"][1]["patches"][0]["op"], "merge");
    let create = &fake.asked()[2];
    assert!(!create.repeatable);
    // Every feed draws on the budget of five in five minutes.
    let kind = trueup_channels::kind("amazon").unwrap();
    let (_, budget) = kind.budgets().iter().find(|(name, _)| *name == create.bucket).unwrap();
    assert_eq!((budget.per_second, budget.burst), (5.0 / 300.0, Some(5.0)));
}

#[tokio::test]
async fn it_is_told_apart_whether_amazon_has_a_feed() {
    let uploaded = || vec![document("https://storage.example/in"), answer(200, &[], "")];
    let with = |last: Answer| [uploaded(), vec![last]].concat_answers();
    let table: Vec<(Vec<Answer>, &str)> = vec![
        (vec![errors(429, "QuotaExceeded", "x", "")], "No Throttled QuotaExceeded"),
        (vec![document("https://storage.example/in"), answer(403, &[], "")], "No Transient -"),
        (with(errors(400, "InvalidInput", "x", "")), "No InvalidValue InvalidInput"),
        (with(errors(429, "QuotaExceeded", "x", "")), "No Throttled QuotaExceeded"),
        // It is looked for by its time.
        (with(errors(500, "InternalFailure", "x", "")), LOST_FEED),
        (with(lost()), LOST_FEED),
    ];
    for (script, expected) in table {
        let shown = format!("{script:?}");
        let (started, fake) = start(script).await;
        let words = match started {
            HandedOver::Ticket(ticket) => ticket,
            HandedOver::No(error) => {
                let code = error.vendor_code.as_deref().unwrap_or("-");
                format!("No {:?} {code}", error.kind)
            }
            HandedOver::Unclear(error) => panic!("{error}: {shown}"),
        };
        assert_eq!(words, expected, "{shown}");
        fake.asked();
    }
}

/// The ticket of a feed that was made at the fake's instant and whose id was lost.
const LOST_FEED: &str = "made at 1795426246000000";

#[tokio::test]
async fn a_feed_whose_id_was_lost_is_looked_for_by_its_time() {
    let made = |ids: &[&str]| {
        let feed = |id: &&str| {
            json!({"feedId": id, "feedType": "JSON_LISTINGS_FEED",
            "createdTime": "2026-11-23T09:30:47.000Z", "processingStatus": "IN_QUEUE"})
        };
        reply(200, json!({"feeds": ids.iter().map(feed).collect::<Vec<_>>()}))
    };
    let look = async |fake: &Fake, ticket: &str| match channel("amazon", &seller())
        .bulk_look(fake, ticket, 2)
        .await
    {
        Ok(BulkState::Lost(error)) => format!("Lost {:?}", error.kind),
        Err(error) => format!("Err {:?}", error.kind),
        other => format!("{other:?}"),
    };
    // Found once, it is followed by its id.
    let fake = Fake::granted([made(&["f/1"]), state("IN_QUEUE"), state("CANCELLED")]);
    assert_eq!(look(&fake, LOST_FEED).await, "Ok(Waiting)");
    assert_eq!(look(&fake, LOST_FEED).await, "Lost UnknownOutcome");
    assert_eq!(
        fake.urls(),
        [
            format!(
                "GET {HOST}/feeds/2021-06-30/feeds?feedTypes=JSON_LISTINGS_FEED\
                 &createdSince=2026-11-23T09%3A29%3A46.000Z\
                 &createdUntil=2026-11-23T09%3A33%3A46.000Z&pageSize=100"
            ),
            format!("GET {HOST}/feeds/2021-06-30/feeds/f%2F1"),
            format!("GET {HOST}/feeds/2021-06-30/feeds/f%2F1"),
        ]
    );
    // One whose id was told is another one.
    let fake = Fake::granted([made(&["f/2", "f/1"]), state("IN_QUEUE")]).keep("feed:f/2", "");
    assert_eq!(look(&fake, LOST_FEED).await, "Ok(Waiting)");
    assert!(fake.urls()[1].ends_with("/f%2F1"));
    let long_ago = "made at 1795425940000000";
    let table = [
        (made(&[]), LOST_FEED, "Ok(Waiting)"),
        (made(&[]), long_ago, "Lost UnknownOutcome"),
        (made(&["f/1", "f/2"]), LOST_FEED, "Lost UnknownOutcome"),
        (errors(429, "QuotaExceeded", "x", ""), LOST_FEED, "Err Throttled"),
    ];
    for (listed, ticket, expected) in table {
        let fake = Fake::granted([listed]);
        assert_eq!(look(&fake, ticket).await, expected);
        assert_eq!(fake.asked().len(), 1);
    }
}

async fn look(script: Vec<Answer>) -> (Result<BulkState, ChannelError>, Fake) {
    let fake = Fake::granted(script);
    let state = channel("amazon", &seller()).bulk_look(&fake, "f/1", 2).await;
    (state, fake)
}

#[tokio::test]
async fn a_feeds_report_says_what_became_of_each_message() {
    let issue = json!([{"messageId": 2, "sku": "B", "code": "90220", "severity": "ERROR",
                        "message": "no"}, {"messageId": 1, "severity": "WARNING", "message": "x"}]);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(report(issue, 1).to_string().as_bytes()).unwrap();
    let (state, fake) = look(vec![
        state("DONE"),
        document("https://storage.example/out?sig=2"),
        answer(200, &[], packed.finish().unwrap()),
    ])
    .await;
    let Ok(BulkState::Done(outcomes)) = state else { panic!("{state:?}") };
    assert_eq!(shorts(&outcomes), ["Accepted", "Refused InvalidValue 90220"]);
    assert_eq!(
        fake.urls(),
        [
            format!("GET {HOST}/feeds/2021-06-30/feeds/f%2F1"),
            format!("GET {HOST}/feeds/2021-06-30/documents/res-1"),
            "GET https://storage.example/out?sig=2".into(),
        ]
    );
}

#[tokio::test]
async fn a_look_at_a_feed_says_how_far_it_is() {
    let done = |last: Answer| vec![state("DONE"), document("https://storage.example/out"), last];
    let rejected = report(json!([{"severity": "ERROR", "code": "9", "message": "format"}]), 0);
    let mut partial = report(json!([]), 1);
    partial["summary"]["messagesProcessed"] = json!(1);
    let table: Vec<(Vec<Answer>, &str)> = vec![
        (vec![state("IN_QUEUE")], "Waiting"),
        (vec![state("IN_PROGRESS")], "Waiting"),
        (vec![state("CANCELLED")], "Lost UnknownOutcome"),
        (vec![state("FATAL")], "Lost UnknownOutcome"),
        (vec![errors(404, "NotFound", "x", "")], "Lost UnknownOutcome"),
        (vec![state("NEW_WORD")], "Err Protocol"),
        (vec![errors(429, "QuotaExceeded", "x", "")], "Err Throttled"),
        (vec![lost()], "Err UnknownOutcome"),
        (done(reply(200, rejected)), "NotSent InvalidValue 9"),
        (done(reply(200, partial)), "Unknown UnknownOutcome -"),
        (done(reply(200, json!("no report"))), "Accepted"),
        (done(errors(503, "ServiceUnavailable", "x", "")), "Err Transient"),
    ];
    for (script, expected) in table {
        let shown = format!("{script:?}");
        let (state, fake) = look(script).await;
        let words = match state {
            Ok(BulkState::Waiting) => "Waiting".to_owned(),
            Ok(BulkState::Lost(error)) => format!("Lost {:?}", error.kind),
            Ok(BulkState::Done(outcomes)) => {
                let shorts = shorts(&outcomes);
                assert_eq!(shorts[0], shorts[1], "{shown}");
                shorts[0].clone()
            }
            Err(error) => format!("Err {:?}", error.kind),
        };
        assert_eq!(words, expected, "{shown}");
        fake.asked();
    }
}

trait ConcatAnswers {
    fn concat_answers(self) -> Vec<Answer>;
}

impl ConcatAnswers for [Vec<Answer>; 2] {
    fn concat_answers(self) -> Vec<Answer> {
        self.into_iter().flatten().collect()
    }
}

#[tokio::test]
async fn absent_is_never_zero() {
    let code =
        |code: &str, units: Value| json!([{"fulfillmentChannelCode": code, "quantity": units}]);
    let found = json!({"numberOfResults": 3, "items": [
        {"sku": "A", "fulfillmentAvailability": code("DEFAULT", json!(7))},
        {"sku": "B", "fulfillmentAvailability": [{"fulfillmentChannelCode": "AMAZON_EU"}]},
        {"sku": "C"}]});
    let alone = json!({"sku": "D,1", "fulfillmentAvailability": code("DEFAULT", json!(2))});
    let fba_found = json!({"payload": {"granularity": {}, "inventorySummaries": [
        {"sellerSku": "F", "totalQuantity": 9, "inventoryDetails": {"fulfillableQuantity": 4}},
        {"sellerSku": "G", "totalQuantity": 9}]}});
    let missing = errors(404, "NotFound", "no", "");
    let nothing = reply(200, json!({"payload": {"granularity": {}, "inventorySummaries": []}}));
    let found = [reply(200, found), reply(200, alone), missing, reply(200, fba_found), nothing];
    let fake = Fake::granted(found);
    let listings =
        [sku("A"), fba("F"), sku("B"), sku("C"), sku("D,1"), sku("E,1"), sku("Z"), fba("G")];
    let readings = channel("amazon", &seller()).read(&fake, &listings).await.unwrap();
    let known: Vec<Option<i64>> = readings
        .iter()
        .map(|reading| match reading {
            Reading::Quantity(quantity) => Some(*quantity),
            Reading::Unknown(_) => None,
        })
        .collect();
    assert_eq!(known, [Some(7), Some(4), None, None, Some(2), None, None, None]);
    let urls = fake.urls();
    assert!(urls[0].contains("&identifiersType=SKU&identifiers=A,B,C,Z&"), "{}", urls[0]);
    assert!(urls[1].contains("/A1SELLER/D%2C1?"), "{}", urls[1]);
    assert!(urls[3].contains("granularityId=A1PA6795UKMFR9&"), "{}", urls[3]);
    assert!(urls[3].ends_with("&sellerSkus=F,G"), "{}", urls[3]);
    // What the first marketplace does not know is looked for in the next one.
    assert!(urls[4].contains("granularityId=A13V1IB3VIYZZH&"), "{}", urls[4]);
    assert!(urls[4].ends_with("&sellerSku=G"), "{}", urls[4]);
}

#[tokio::test]
async fn the_catalogue_is_paged_and_never_turns_in_a_circle() {
    let page = |next: &str| {
        reply(
            200,
            json!({"numberOfResults": 1, "pagination": {"nextToken": next}, "items": [{
                "sku": "A", "summaries": [{"asin": "B0", "itemName": "Lamp"}],
                "fulfillmentAvailability": [{"fulfillmentChannelCode": "AMAZON_EU"}]}]}),
        )
    };
    let fake = Fake::granted([page("t/2"), page("t/2")]);
    let seller = channel("amazon", &seller());
    let first = seller.catalogue(&fake, None).await.unwrap();
    assert_eq!(first.next.as_deref(), Some("t/2"));
    assert_eq!(first.items[0].title.as_deref(), Some("Lamp"));
    assert_eq!(first.items[0].fields, fields(&[("sellerSku", "A"), ("asin", "B0")]));
    assert!(first.items[0].channel_fulfilled);
    let second = seller.catalogue(&fake, first.next.as_deref()).await.unwrap();
    assert_eq!(second.next, None);
    assert!(fake.urls()[1].ends_with("&pageToken=t%2F2"));
}

#[tokio::test]
async fn an_order_tells_what_is_sold_held_and_cancelled() {
    let order = |id: &str, status: &str, updated: &str| {
        json!({"orderId": id, "createdTime": updated, "lastUpdatedTime": updated,
            "salesChannel": {"channelName": "AMAZON"},
            "fulfillment": {"fulfillmentStatus": status, "fulfilledBy": "MERCHANT"},
            "orderItems": [{"orderItemId": format!("{id}-1"), "quantityOrdered": 2,
                            "product": {"sellerSku": "A", "asin": "B0"}}]})
    };
    let page = json!({"pagination": {"nextToken": "n"}, "orders": [
        order("3", "CANCELLED", "2026-11-23T09:00:00Z"),
        order("2", "UNSHIPPED", "2026-11-23T08:30:00Z"),
        order("1", "PENDING", "2026-11-23T08:00:00Z"),
        order("0", "PENDING_AVAILABILITY", "2026-11-23T07:00:00Z")]});
    let fake = Fake::granted([reply(200, page)]);
    let since = Timestamp::from_micros(1_795_426_246_000_000);
    let page = channel("amazon", &seller()).orders(&fake, since, Some("p=")).await.unwrap();
    let told: Vec<(&str, LineState)> =
        page.items.iter().map(|order| (order.order_id.as_str(), order.lines[0].state)).collect();
    let held = LineState { held: 2, ..LineState::default() };
    let sold = LineState { sold: 2, ..LineState::default() };
    let cancelled = LineState { cancelled: u64::MAX, ..LineState::default() };
    let expected = vec![("0", held), ("1", held), ("2", sold), ("3", cancelled)];
    assert_eq!((told, page.next.as_deref()), (expected, Some("n")));
    assert_eq!(
        fake.urls()[0],
        format!(
            "GET {HOST}/orders/2026-01-01/orders?lastUpdatedAfter=2026-11-23T09%3A30%3A46.000Z\
             &marketplaceIds=A1PA6795UKMFR9,A13V1IB3VIYZZH&fulfilledBy=MERCHANT\
             &includedData=FULFILLMENT,CANCELLATION&maxResultsPerPage=100&paginationToken=p%3D"
        )
    );
}

fn notification(kind: &str, payload: &Value) -> Value {
    json!({"NotificationVersion": "1.0", "NotificationType": kind, "PayloadVersion": "1.0",
           "EventTime": "2026-11-23T09:00:00.000Z", "Payload": payload,
           "NotificationMetadata": {"ApplicationId": "a", "SubscriptionId": "s",
           "PublishTime": "2026-11-23T09:00:00Z", "NotificationId": "n-1"}})
}

#[tokio::test]
async fn two_secrets_are_good_while_one_replaces_the_other() {
    let mut changing = seller();
    changing.credentials.insert("webhookSecretPrevious".into(), Secret::new("old"));
    let body = notification("ORDER_CHANGE", &json!({})).to_string();
    for (secret, good) in [("between-us", true), ("old", true), ("older", false)] {
        let map = headers(&[("x-api-key", secret)]);
        let request = WebhookRequest { headers: &map, body: body.as_bytes() };
        let verified = channel("amazon", &changing).verify_webhook(&Fake::new([]), request).await;
        assert_eq!(verified.is_ok(), good, "{secret}");
    }
}

#[tokio::test]
async fn a_notification_is_let_in_by_the_shared_secret() {
    let bare = notification("ORDER_CHANGE", &json!({}));
    let wrapped = json!({"version": "0", "id": "e", "source": "aws.partner/x", "detail": bare});
    let table: [(Option<(&str, &str)>, String, &str); 6] = [
        (Some(("x-trueup-webhook-secret", "between-us")), bare.to_string(), "ORDER_CHANGE n-1"),
        (Some(("x-api-key", "between-us")), wrapped.to_string(), "ORDER_CHANGE n-1"),
        (Some(("x-api-key", "between-u")), bare.to_string(), "the signature does not hold"),
        (Some(("x-api-key", "")), bare.to_string(), "the signature does not hold"),
        (None, bare.to_string(), "the signature does not hold"),
        (
            Some(("x-api-key", "between-us")),
            json!({"NotificationType": "X", "Payload": {}}).to_string(),
            "the delivery is malformed: no NotificationId",
        ),
    ];
    for (pair, body, expected) in table {
        let map = headers(pair.as_slice());
        let request = WebhookRequest { headers: &map, body: body.as_bytes() };
        let verified = channel("amazon", &seller()).verify_webhook(&Fake::new([]), request).await;
        let shown = match verified {
            Ok(verified) => format!("{} {}", verified.topic, verified.delivery_id),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected);
    }
}

fn parse(kind: &str, payload: &Value) -> Vec<Notice> {
    let body = notification(kind, payload).to_string();
    channel("amazon", &seller()).parse_webhook(kind, body.as_bytes()).unwrap()
}

#[test]
fn notifications_become_notices() {
    let quantity = json!({"SellerId": "A1SELLER", "FulfillmentChannelCode": "DEFAULT",
                          "Sku": "A", "Quantity": 99});
    let fba = json!({"SellerId": "A1SELLER", "FNSKU": "X", "ASIN": "B0", "SKU": "A"});
    for (kind, payload) in [
        ("LISTINGS_ITEM_MFN_QUANTITY_CHANGE", &quantity),
        ("FBA_INVENTORY_AVAILABILITY_CHANGES", &fba),
    ] {
        assert_eq!(hint_of(parse(kind, payload)), fields(&[("sellerSku", "A")]));
    }
    let nothing = LineState::default();
    for (status, fulfilled_by, state) in [
        ("Unshipped", "MFN", LineState { sold: 10, ..nothing }),
        ("Pending", "MFN", LineState { held: 10, ..nothing }),
        ("Canceled", "MFN", LineState { cancelled: u64::MAX, ..nothing }),
        ("Shipped", "AFN", LineState { sold: 10, channel_fulfilled: true, ..nothing }),
    ] {
        let order = order_of(parse(
            "ORDER_CHANGE",
            &json!({"OrderChangeNotification": {"AmazonOrderId": "903-1", "Summary": {
                "OrderStatus": status, "FulfillmentType": fulfilled_by, "OrderItems": [{
                "OrderItemId": "O1", "SellerSKU": "A", "Quantity": 10, "QuantityShipped": 0}]}}}),
        ));
        let line = &order.lines[0];
        assert_eq!((order.order_id.as_str(), line.line_id.as_str()), ("903-1", "O1"));
        assert_eq!(line.state, state);
    }
    let ended = json!({"feedProcessingFinishedNotification": {"accountId": "a", "feedId": "7",
        "feedType": "JSON_LISTINGS_FEED", "processingStatus": "DONE"}});
    let ended = parse("FEED_PROCESSING_FINISHED", &ended);
    assert_eq!(ended, [Notice::BulkEnded { ticket: "7".into() }]);
    assert!(matches!(parse("REPORT_X", &json!({})).as_slice(), [Notice::Ignored(_)]));
}

#[tokio::test]
async fn connecting_reads_a_page_and_subscribing_does_nothing_without_a_queue_or_bus() {
    let empty = || reply(200, json!({"numberOfResults": 0, "items": []}));
    let fake = Fake::granted([empty()]);
    let amazon = channel("amazon", &seller());
    assert_eq!(amazon.connect(&fake).await.unwrap().account.as_deref(), Some("A1SELLER"));
    assert_eq!(amazon.subscribe(&fake, "https://x.example").await.unwrap(), Vec::<String>::new());
    assert_eq!((amazon.queue(), amazon.subscribes_address()), (None, false));
    let fake = Fake::granted([errors(400, "InvalidInput", "merchant", "")]);
    assert_eq!(amazon.connect(&fake).await.unwrap_err().kind, ChannelErrorKind::Config);
}

const QUEUE_URL: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/trueup";

fn with_queue(url: &str) -> Settings {
    let mut settings = seller();
    settings.fields.insert("queueUrl".into(), json!(url));
    for (name, text) in [("awsAccessKeyId", "AKIDEXAMPLE"), ("awsSecretAccessKey", "aws-hush")] {
        settings.credentials.insert(name.into(), Secret::new(text));
    }
    settings
}

#[test]
fn a_queues_settings_are_checked_together() {
    assert_eq!(wrong_settings("amazon", &with_queue(QUEUE_URL)), Vec::<String>::new());
    let mut keyless = with_queue(QUEUE_URL);
    keyless.credentials.remove("awsSecretAccessKey");
    assert_eq!(wrong_settings("amazon", &keyless), ["credentials.awsSecretAccessKey"]);
    for (url, wrong) in [
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", "queueUrl"),
        ("https://sqs.eu-west-1.amazonaws.com/trueup", "queueUrl"),
        ("ftp://sqs.eu-west-1.amazonaws.com/123456789012/trueup", "queueUrl"),
        ("https://queue.example/123456789012/trueup", "awsRegion"),
    ] {
        assert_eq!(wrong_settings("amazon", &with_queue(url)), [wrong], "{url}");
    }
    let mut named = with_queue("http://127.0.0.1:4100/123456789012/trueup");
    named.fields.insert("awsRegion".into(), json!("us-east-1"));
    assert_eq!(wrong_settings("amazon", &named), Vec::<String>::new());
    let mut bus = seller();
    bus.fields.insert("eventBridgeAccountId".into(), json!("12345"));
    assert_eq!(wrong_settings("amazon", &bus), ["eventBridgeAccountId", "eventBridgeRegion"]);
    // Keys without a queue are what an earlier connection left: they are not needed.
    let mut left = with_queue(QUEUE_URL);
    left.fields.remove("queueUrl");
    assert_eq!(wrong_settings("amazon", &left), Vec::<String>::new());
}

fn message(id: &str, body: &str) -> Value {
    json!({"MessageId": id, "ReceiptHandle": format!("r-{id}"), "MD5OfBody": "x", "Body": body})
}

#[tokio::test]
async fn a_queue_is_received_from_and_deleted_from_at_its_own_address() {
    let told = notification("ORDER_CHANGE", &json!({})).to_string();
    let fake = Fake::new([
        reply(200, json!({"Messages": [message("m-1", &told), message("m-2", "hello")]})),
        reply(200, json!({})),
        reply(200, json!({"Successful": [], "Failed": []})),
        reply(200, json!({"Failed": [{"Id": "0", "Code": "x", "SenderFault": false}]})),
    ]);
    let amazon = channel("amazon", &with_queue(QUEUE_URL));
    let notices = amazon.receive(&fake, 5_000).await.unwrap();
    let names: Vec<(&str, &str, &str)> = notices
        .iter()
        .map(|n| (n.receipt.as_str(), n.delivery_id.as_str(), n.topic.as_str()))
        .collect();
    assert_eq!(names, [("r-m-1", "n-1", "ORDER_CHANGE"), ("r-m-2", "m-2", "unreadable")]);
    assert!(amazon.parse_webhook("unreadable", &notices[1].body).is_err());
    assert_eq!(amazon.receive(&fake, 60_000).await.unwrap(), []);
    // Ten at once, no more.
    let receipts: Vec<String> = (0..11).map(|n| format!("r-{n}")).collect();
    assert!(amazon.delete(&fake, &receipts).await.is_err(), "one was left");
    let asked = fake.asked();
    for request in &asked {
        assert_eq!(request.url, "https://sqs.eu-west-1.amazonaws.com/");
        assert!(request.own_address);
        assert_eq!(request.headers["content-type"], "application/x-amz-json-1.0");
        assert_eq!(request.headers["x-amz-date"], "20261123T093046Z");
        let signature = request.headers["authorization"].to_str().unwrap();
        let scope = "Credential=AKIDEXAMPLE/20261123/eu-west-1/sqs/aws4_request";
        let signed = "SignedHeaders=content-type;host;x-amz-date;x-amz-target";
        assert!(signature.contains(scope) && signature.contains(signed), "{signature}");
        assert!(!format!("{request:?}").contains("AKIDEXAMPLE"));
    }
    let targets = asked.iter().map(|request| request.headers["x-amz-target"].to_str().unwrap());
    let (receive, delete) = ("AmazonSQS.ReceiveMessage", "AmazonSQS.DeleteMessageBatch");
    assert_eq!(targets.collect::<Vec<_>>(), [receive, receive, delete, delete]);
    assert_eq!((asked[0].held_back_ms, asked[1].held_back_ms), (5_000, 20_000));
    let wanted = json!({"QueueUrl": QUEUE_URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 5,
                        "VisibilityTimeout": 60});
    assert_eq!(fake.body(0), wanted);
    assert_eq!(fake.body(2)["Entries"].as_array().unwrap().len(), 10);
    assert_eq!(fake.body(3)["Entries"], json!([{"Id": "0", "ReceiptHandle": "r-10"}]));
}

#[tokio::test]
async fn every_refusal_of_a_queue_has_its_kind() {
    use ChannelErrorKind::{Auth, Config, Forbidden, Protocol, Throttled, Transient};
    let coded = |status, code: &str| reply(status, json!({"__type": code, "message": "no"}));
    let xml = "<ErrorResponse><Errors><Error><Code>SignatureDoesNotMatch</Code></Error></Errors>";
    for (refusal, kind) in [
        (coded(400, "com.amazonaws.sqs#QueueDoesNotExist"), Config),
        (coded(403, "com.amazon.coral.service#UnrecognizedClientException"), Auth),
        (coded(403, "com.amazon.coral.service#InvalidSignatureException"), Auth),
        (coded(400, "com.amazon.coral.service#ExpiredTokenException"), Auth),
        (coded(403, "com.amazon.coral.service#AccessDeniedException"), Forbidden),
        (coded(400, "com.amazonaws.sqs#RequestThrottled"), Throttled),
        (coded(400, "com.amazonaws.sqs#InvalidAttributeValue"), Protocol),
        (answer(403, &[], xml), Auth),
        (answer(503, &[], ""), Transient),
    ] {
        let fake = Fake::new([refusal]);
        let refused = channel("amazon", &with_queue(QUEUE_URL)).receive(&fake, 1_000).await;
        assert_eq!(refused.unwrap_err().kind, kind);
    }
}

#[tokio::test]
async fn connecting_looks_at_the_queue_and_hides_nothing() {
    let empty = || reply(200, json!({"numberOfResults": 0, "items": []}));
    let fake = Fake::granted([empty(), reply(200, json!({"Messages": [message("m", "x")]}))]);
    channel("amazon", &with_queue(QUEUE_URL)).connect(&fake).await.unwrap();
    assert_eq!(fake.body(1)["VisibilityTimeout"], 0);
    let refused = reply(403, json!({"__type": "com.amazon.coral.service#AccessDenied"}));
    let fake = Fake::granted([empty(), refused]);
    let error = channel("amazon", &with_queue(QUEUE_URL)).connect(&fake).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Forbidden);
}

#[tokio::test]
async fn subscribing_leaves_alone_what_is_there() {
    let arn = "arn:aws:sqs:eu-west-1:123456789012:trueup";
    let ours = json!({"destinationId": "d-1", "name": "x", "resource": {"sqs": {"arn": arn}}});
    let to = |id: &str| json!({"payload": {"subscriptionId": "s", "payloadVersion": "1.0", "destinationId": id}});
    let settings = with_queue(QUEUE_URL);
    let types = ["ORDER_CHANGE", "FBA_INVENTORY_AVAILABILITY_CHANGES", "FEED_PROCESSING_FINISHED"];
    let known = |id: &str| types.map(|_| reply(200, to(id)));

    // Nothing is there yet: with the application's own token, then with the seller's.
    let absent = || errors(404, "NotFound", "no subscription", "");
    let mut script = vec![reply(200, json!({"payload": []})), reply(200, json!({"payload": ours}))];
    for _ in types {
        script.extend([absent(), reply(200, to("d-1"))]);
    }
    let fake = Fake::granted(script);
    assert_eq!(channel("amazon", &settings).subscribe(&fake, "").await.unwrap(), types);
    let asked = fake.asked();
    let tokens: Vec<&str> =
        asked.iter().map(|r| r.headers["x-amz-access-token"].to_str().unwrap()).collect();
    assert_eq!(tokens[..3], ["notifications-granted", "notifications-granted", "access-granted"]);
    assert_eq!(
        fake.body(1),
        json!({"name": "trueup", "resourceSpecification": {"sqs": {"arn": arn}}})
    );
    assert_eq!(fake.body(3), json!({"payloadVersion": "1.0", "destinationId": "d-1"}));
    assert!(!asked[1].repeatable && !asked[3].repeatable);

    // All is there.
    let mut script = vec![reply(200, json!({"payload": [ours]}))];
    script.extend(known("d-1"));
    let fake = Fake::granted(script);
    assert_eq!(channel("amazon", &settings).subscribe(&fake, "").await.unwrap(), types);
    assert!(fake.asked().iter().all(|request| request.method == "GET"));

    // Somebody else's subscriptions stay as they are, and it is said.
    let mut script = vec![reply(200, json!({"payload": [ours]}))];
    script.extend(known("d-2"));
    let fake = Fake::granted(script);
    let error = channel("amazon", &settings).subscribe(&fake, "").await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Config);
    assert!(error.detail.contains("ORDER_CHANGE"), "{error}");
    assert!(fake.asked().iter().all(|request| request.method == "GET"));
}

#[tokio::test]
async fn a_catalogue_of_a_thousand_is_read_by_windows() {
    let found = |results: u64, next: Value| {
        let items = json!([{"sku": "A", "summaries": []}]);
        reply(200, json!({"numberOfResults": results, "items": items, "pagination": next}))
    };
    let more = json!({"nextToken": "t"});
    let none = json!({});
    // All of it, one window, its halves; then its second page, and the next window.
    let fake = Fake::granted([
        found(1_000, more.clone()),
        found(1_700, more.clone()),
        found(900, more),
        found(900, none.clone()),
        found(800, none),
    ]);
    let seller = channel("amazon", &seller());
    let (mut cursor, mut pages) = (None, 0);
    loop {
        let page = seller.catalogue(&fake, cursor.as_deref()).await.unwrap();
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    let urls = fake.urls();
    assert!(!urls[0].contains("createdAfter"));
    let made = |at: usize| {
        let (_, rest) = urls[at].split_once("&createdAfter=").unwrap();
        let rest = rest.split("&pageToken").next().unwrap();
        let (after, before) = rest.split_once("&createdBefore=").unwrap();
        (after.to_owned(), before.to_owned())
    };
    let oldest = "1995-01-01T00%3A00%3A00.000Z";
    assert_eq!(made(1), (oldest.to_owned(), "2026-11-23T10%3A30%3A45.999Z".to_owned()));
    assert_eq!((made(2).0, made(2).1 < made(1).1), (oldest.to_owned(), true));
    assert_eq!(made(3), made(2));
    assert!(urls[3].ends_with("&pageToken=t"));
    assert_eq!(made(4).1, made(1).1, "the rest");
    assert!(made(4).0 > made(2).1);
}

#[tokio::test]
async fn a_line_is_cancelled_alone_by_its_execution_and_not_by_a_request() {
    let line = |id: &str, cancellation: Value, fulfilled: u64| {
        json!({"orderItemId": id, "quantityOrdered": 2, "product": {"sellerSku": id},
               "cancellation": cancellation, "fulfillment": {"quantityFulfilled": fulfilled}})
    };
    let executed = json!({"cancellationExecution": {"cancelledBy": "BUYER"}});
    let asked = json!({"cancellationRequest": {"requester": "BUYER"}});
    let page = json!({"orders": [{"orderId": "1", "createdTime": "2026-11-23T09:00:00Z",
        "lastUpdatedTime": "2026-11-23T09:00:00Z", "salesChannel": {"channelName": "AMAZON"},
        "fulfillment": {"fulfillmentStatus": "UNSHIPPED", "fulfilledBy": "MERCHANT"},
        "orderItems": [line("A", executed.clone(), 0), line("B", asked, 0), line("C", executed, 2)]}]});
    let fake = Fake::granted([reply(200, page)]);
    let since = Timestamp::from_micros(1_795_426_246_000_000);
    let page = channel("amazon", &seller()).orders(&fake, since, None).await.unwrap();
    let told: Vec<(u64, u64)> =
        page.items[0].lines.iter().map(|l| (l.state.sold, l.state.cancelled)).collect();
    assert_eq!(told, [(0, u64::MAX), (2, 0), (2, 0)]);
}

#[tokio::test]
async fn what_amazon_holds_is_looked_for_in_every_marketplace_once() {
    let summaries = |skus: &[(&str, i64)]| {
        let entry = |(sku, quantity): &(&str, i64)| json!({"sellerSku": sku, "inventoryDetails": {"fulfillableQuantity": quantity}});
        let list: Vec<Value> = skus.iter().map(entry).collect();
        reply(200, json!({"payload": {"inventorySummaries": list}}))
    };
    let fake = Fake::granted([summaries(&[("A", 3)]), summaries(&[("B", 4)])]);
    let listings = [fba("A"), fba("B"), fba("C")];
    let readings = channel("amazon", &seller()).read(&fake, &listings).await.unwrap();
    assert!(matches!(readings[0], Reading::Quantity(3)));
    assert_eq!(readings[1], Reading::Quantity(4));
    assert!(matches!(readings[2], Reading::Unknown(_)));
    let urls = fake.urls();
    assert!(urls[0].contains("marketplaceIds=A1PA6795UKMFR9&sellerSkus=A,B,C"), "{}", urls[0]);
    assert!(urls[1].contains("marketplaceIds=A13V1IB3VIYZZH&sellerSkus=B,C"), "{}", urls[1]);
}
