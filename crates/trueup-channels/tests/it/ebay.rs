use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::hazmat::PrehashSigner as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey as _, LineEnding};
use serde_json::{Value, json};
use sha1::Digest as _;
use trueup_channels::ebay::challenge_response;
use trueup_channels::{
    ChannelErrorKind, Listing, Notice, Reading, Secret, Settings, WebhookRequest,
};
use trueup_core::Timestamp;

use crate::harness::{
    Answer, Fake, answer, batch, channel, fields, headers, hint_of, item, json as reply, listing,
    listing_key, lost, not_sent, order_of, settings, shorts, wrong_settings,
};

const TOKEN: &str = "abcdefghijklmnopqrstuvwxyz_0123456789";

fn seller() -> Settings {
    settings(
        &[("marketplaceId", json!("EBAY_DE"))],
        &[
            ("clientId", "id"),
            ("clientSecret", "hush"),
            ("refreshToken", "v^1.1#refresh"),
            ("verificationToken", TOKEN),
        ],
    )
}

fn offered(sku: &str, offer: &str) -> Listing {
    let known = [("sku", sku), ("offerId", offer), ("offerQuantity", "shared")];
    listing("ebay", &seller(), &known)
}

fn by_number(item_id: &str, sku: Option<&str>) -> Listing {
    let mut pairs = vec![("itemId", item_id)];
    pairs.extend(sku.map(|sku| ("sku", sku)));
    listing("ebay", &seller(), &pairs)
}

fn entry(sku: &str, status: u16, errors: &[i64]) -> Value {
    let error = |id: &i64| json!({"errorId": id, "domain": "API_INVENTORY", "message": "words"});
    let errors: Vec<Value> = errors.iter().map(error).collect();
    json!({"sku": sku, "statusCode": status, "errors": errors, "warnings": []})
}

fn updated(status: u16, entries: &[Value]) -> Answer {
    reply(status, json!({"responses": entries}))
}

fn refused(status: u16, id: i64) -> Answer {
    reply(status, json!({"errors": [{"errorId": id, "message": "words"}]}))
}

fn revised(ack: &str, errors: &[(&str, &str)], items: &[&str]) -> Answer {
    let errors: String = errors
        .iter()
        .map(|(code, class)| {
            format!(
                "<Errors><ShortMessage>a &amp; b</ShortMessage><ErrorCode>{code}</ErrorCode>\
                 <SeverityCode>Error</SeverityCode>\
                 <ErrorClassification>{class}</ErrorClassification></Errors>"
            )
        })
        .collect();
    let items: String = items
        .iter()
        .map(|id| format!("<InventoryStatus><ItemID>{id}</ItemID><SKU/></InventoryStatus>"))
        .collect();
    answer(
        200,
        &[],
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ReviseInventoryStatusResponse \
             xmlns=\"urn:ebay:apis:eBLBaseComponents\"><Ack>{ack}</Ack>{errors}{items}\
             </ReviseInventoryStatusResponse>"
        ),
    )
}

#[test]
fn settings_are_checked_all_at_once() {
    assert_eq!(wrong_settings("ebay", &seller()), Vec::<String>::new());
    let wrong = settings(
        &[("marketplaceId", json!("ebay-de")), ("bulkItemsMax", json!(26))],
        &[("verificationToken", "short")],
    );
    assert_eq!(
        wrong_settings("ebay", &wrong),
        [
            "marketplaceId",
            "bulkItemsMax",
            "credentials.verificationToken",
            "credentials.clientId",
            "credentials.clientSecret",
            "credentials.refreshToken"
        ]
    );
    for (user, password, wrong) in [
        ("ebay", "a password of ours", &["credentials.checkPassword"][..]),
        ("ebay", "0123456789abcdef", &[]),
        ("e:bay", "0123456789abcde", &["credentials.checkUser", "credentials.checkPassword"]),
    ] {
        let mut checked = seller();
        for (name, text) in [("checkUser", user), ("checkPassword", password)] {
            checked.credentials.insert(name.into(), Secret::new(text));
        }
        assert_eq!(wrong_settings("ebay", &checked), wrong);
        checked.credentials.remove("checkUser");
        assert!(wrong_settings("ebay", &checked).contains(&"credentials.checkUser".to_owned()));
    }
    let mut one = seller();
    one.fields.insert("bulkItemsMax".into(), json!(1));
    assert_eq!(channel("ebay", &one).capabilities().push_items_max, 1);
}

#[test]
fn a_listing_is_a_sku_an_offer_or_an_item_number() {
    let table: [(&[(&str, &str)], &str); 10] = [
        (&[("sku", "A"), ("offerId", "1"), ("offerQuantity", "shared")], "sku:A"),
        (&[("sku", "A"), ("offerQuantity", "7")], "wrong: offerQuantity"),
        (&[("sku", "A")], "sku:A"),
        (&[("sku", "A"), ("offerId", "36445435465")], "sku:A"),
        (&[("offerId", "36445435465")], "offer:36445435465"),
        (&[("itemId", "110043671232")], "item:110043671232"),
        (&[("itemId", "110043671232"), ("sku", "A")], "item:110043671232/A"),
        (&[], "wrong: sku"),
        (&[("itemId", "1"), ("offerId", "2")], "wrong: itemId"),
        (&[("itemId", "v1|1|0"), ("asin", "B0")], "wrong: asin itemId"),
    ];
    for (given, expected) in table {
        assert_eq!(listing_key("ebay", &seller(), given), expected, "{given:?}");
    }
    let kind = trueup_channels::kind("ebay").unwrap();
    let order = fields(&[("sku", "A"), ("itemId", "7")]);
    for (ours, expected) in [
        (fields(&[("sku", "A")]), true),
        (fields(&[("sku", "B")]), false),
        (fields(&[("itemId", "7")]), true),
        (fields(&[("itemId", "7"), ("sku", "A")]), true),
        (fields(&[("itemId", "7"), ("sku", "B")]), false),
        (fields(&[("offerId", "7")]), false),
    ] {
        assert_eq!(kind.names_listing(&ours, &order), expected, "{ours:?}");
    }
    let variation = fields(&[("itemId", "7"), ("sku", "A")]);
    assert!(!kind.names_listing(&variation, &fields(&[("sku", "A")])));
}

#[tokio::test]
async fn item_and_offer_are_told_together_and_offers_looked_up_once() {
    let offers = json!({"offers": [
        {"offerId": "1", "sku": "A/1", "status": "PUBLISHED", "availableQuantity": 3},
        {"offerId": "2", "sku": "A/1", "status": "UNPUBLISHED"}]});
    let grant = reply(
        200,
        json!({"access_token": "v^1.1#granted", "expires_in": 7200,
               "token_type": "User Access Token"}),
    );
    let fake = Fake::new([
        grant,
        reply(200, offers),
        refused(404, 25713),
        updated(200, &[entry("A/1", 200, &[]), entry("B", 200, &[])]),
        updated(200, &[entry("A/1", 200, &[]), entry("B", 200, &[])]),
    ])
    .of(&seller());
    let ebay = channel("ebay", &seller());
    let plain = |sku: &str| listing("ebay", &seller(), &[("sku", sku)]);
    let push = batch(vec![item(plain("A/1"), 42, None), item(plain("B"), 7, None)]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Applied", "Applied"]);
    // The offers of A are known now.
    assert_eq!(fake.noted(), ["sku:A/1 offerId=1 offerQuantity=shared"]);
    let known = [("sku", "A/1"), ("offerId", "1"), ("offerQuantity", "shared")];
    let known = listing("ebay", &seller(), &known);
    let again = batch(vec![item(known, 41, None), item(plain("B"), 6, None)]);
    assert_eq!(shorts(&ebay.push(&fake, &again).await), ["Applied", "Applied"]);
    assert_eq!(fake.noted(), [""; 0]);
    let inventory = "https://api.ebay.com/sell/inventory/v1";
    assert_eq!(
        fake.urls(),
        [
            "POST https://api.ebay.com/identity/v1/oauth2/token".to_owned(),
            format!("GET {inventory}/offer?sku=A%2F1"),
            format!("GET {inventory}/offer?sku=B"),
            format!("POST {inventory}/bulk_update_price_quantity"),
            format!("POST {inventory}/bulk_update_price_quantity"),
        ]
    );
    let asked = fake.asked();
    // No scope is named: the token has those that were consented to.
    let grant = "grant_type=refresh_token&refresh_token=v%5E1.1%23refresh";
    assert_eq!(std::str::from_utf8(&asked[0].body), Ok(grant));
    assert_eq!(asked[0].headers["authorization"], "Basic aWQ6aHVzaA==");
    assert!(asked[0].headers["authorization"].is_sensitive());
    assert_eq!(asked[3].headers["authorization"], "Bearer v^1.1#granted");
    assert!(asked[3].headers["authorization"].is_sensitive());
    assert_eq!(
        fake.body(3),
        json!({"requests": [
            {"sku": "A/1", "shipToLocationAvailability": {"quantity": 42},
             "offers": [{"offerId": "1", "availableQuantity": 42}]},
            {"sku": "B", "shipToLocationAvailability": {"quantity": 7}}]})
    );
}

#[tokio::test]
async fn every_failure_has_its_outcome() {
    let table: [(Answer, &str); 21] = [
        (updated(200, &[entry("A", 200, &[])]), "Applied"),
        (updated(207, &[entry("A", 400, &[25709])]), "Refused InvalidValue 25709"),
        (updated(200, &[entry("A", 400, &[25702])]), "Refused ListingNotFound 25702"),
        (updated(207, &[entry("A", 500, &[25001])]), "NotSent Transient 25001"),
        (updated(207, &[entry("A", 500, &[25025])]), "NotSent Transient 25025"),
        (updated(207, &[entry("A", 500, &[])]), "Unknown UnknownOutcome -"),
        (updated(207, &[entry("A", 400, &[25038])]), "Refused NotPushable 25038"),
        (updated(207, &[entry("A", 400, &[25759])]), "Refused InvalidValue 25759"),
        (updated(200, &[entry("B", 200, &[])]), "Unknown Protocol -"),
        (refused(400, 25002), "Refused InvalidValue 25002"),
        (refused(400, 99999), "Refused InvalidValue 99999"),
        (refused(403, 1100), "NotSent Forbidden 1100"),
        (refused(429, 2001), "NotSent Throttled 2001"),
        (refused(500, 25001), "NotSent Transient 25001"),
        (answer(500, &[], ""), "Unknown UnknownOutcome -"),
        (answer(503, &[], ""), "NotSent Transient -"),
        (answer(504, &[], "<html>"), "Unknown UnknownOutcome -"),
        (answer(200, &[], "<html>"), "Unknown Protocol -"),
        (answer(418, &[], ""), "Unknown Protocol -"),
        (lost(), "Unknown UnknownOutcome -"),
        (not_sent(), "NotSent Transient -"),
    ];
    for (given, expected) in table {
        let shown = format!("{given:?}");
        let fake = Fake::granted([given]);
        let push = batch(vec![item(offered("A", "1"), 42, None)]);
        let outcomes = channel("ebay", &seller()).push(&fake, &push).await;
        assert_eq!(shorts(&outcomes), [expected], "{shown}");
    }
}

#[tokio::test]
async fn a_batch_refused_whole_is_halved_until_one_is_to_blame() {
    let bad = || refused(400, 25709);
    let fake = Fake::granted([
        bad(),
        bad(),
        bad(),
        updated(200, &[entry("B", 200, &[])]),
        updated(200, &[entry("C", 200, &[]), entry("D", 200, &[])]),
    ]);
    let items = ["A", "B", "C", "D"].iter().map(|sku| item(offered(sku, "1"), 1, None)).collect();
    let outcomes = channel("ebay", &seller()).push(&fake, &batch(items)).await;
    assert_eq!(shorts(&outcomes), ["Refused InvalidValue 25709", "Applied", "Applied", "Applied"]);
    assert_eq!(fake.asked().len(), 5);
}

/// Answers as an account that takes so many SKUs in a bulk update.
fn taking(items_max: usize, sizes: &[usize], skus: &[String]) -> Vec<Answer> {
    let mut next = 0;
    let mut answers = Vec::new();
    for &size in sizes {
        if size > items_max {
            answers.push(refused(400, 25709));
        } else {
            let entries: Vec<Value> =
                skus[next..next + size].iter().map(|sku| entry(sku, 200, &[])).collect();
            next += size;
            answers.push(updated(200, &entries));
        }
    }
    answers
}

#[tokio::test]
async fn that_an_account_takes_one_sku_in_a_call_is_learned() {
    let skus: Vec<String> = (0..25).map(|n| format!("S{n:02}")).collect();
    let items = || skus.iter().map(|sku| item(offered(sku, "1"), 1, None)).collect();
    // Halved five times, then two that were refused together are taken one by one.
    let mut sizes = vec![25, 12, 6, 3, 1, 2];
    sizes.extend([1; 24]);
    let ebay = channel("ebay", &seller());
    let fake =
        Fake::granted(taking(1, &sizes, &skus).into_iter().chain(taking(1, &[1; 25], &skus)));
    assert_eq!(shorts(&ebay.push(&fake, &batch(items())).await), ["Applied"; 25]);
    assert_eq!(shorts(&ebay.push(&fake, &batch(items())).await), ["Applied"; 25]);
    assert_eq!(fake.asked().len(), 30 + 25, "it is not asked a second time");
}

#[tokio::test]
async fn a_full_batch_with_one_to_blame_is_taken_apart_in_one_push() {
    let skus: Vec<String> = (0..25).map(|n| format!("S{n:02}")).collect();
    let items = skus.iter().map(|sku| item(offered(sku, "1"), 1, None)).collect();
    let told = |from: usize, to: usize| {
        let entries: Vec<Value> = skus[from..to].iter().map(|s| entry(s, 200, &[])).collect();
        updated(200, &entries)
    };
    let bad = || refused(400, 25709);
    // The last but one is to blame: 25, 12, 13 = 6 + 7, 7 = 3 + 4, 4 = 2 + 2, 2 = 1 + 1.
    let script = [
        bad(),
        told(0, 12),
        bad(),
        told(12, 18),
        bad(),
        told(18, 21),
        bad(),
        told(21, 23),
        bad(),
        bad(),
        told(24, 25),
    ];
    let fake = Fake::granted(script);
    let outcomes = shorts(&channel("ebay", &seller()).push(&fake, &batch(items)).await);
    for (nth, outcome) in outcomes.iter().enumerate() {
        let wanted = if nth == 23 { "Refused InvalidValue 25709" } else { "Applied" };
        assert_eq!(outcome, wanted, "{nth}");
    }
    assert_eq!(fake.asked().len(), 11);
}

fn offer_gone(sku: &str, offer: &str) -> Answer {
    let gone = json!({"offerId": offer, "statusCode": 400,
                      "errors": [{"errorId": 25713, "message": "no offer"}]});
    updated(207, &[entry(sku, 200, &[]), gone])
}

#[tokio::test]
async fn an_offer_that_is_gone_is_forgotten_and_looked_up_anew() {
    let offers = |id: &str| {
        json!({"offers": [{"offerId": id, "sku": "A", "status": "PUBLISHED",
                           "marketplaceId": "EBAY_DE", "format": "FIXED_PRICE"}]})
    };
    let told = |offer: &str| {
        updated(200, &[entry("A", 200, &[]), json!({"offerId": offer, "statusCode": 200})])
    };
    let fake = Fake::granted([offer_gone("A", "1"), reply(200, offers("2")), told("2")]);
    let ebay = channel("ebay", &seller());
    let push = batch(vec![item(offered("A", "1"), 42, None)]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Applied"]);
    assert_eq!(fake.body(2)["requests"][0]["offers"][0]["offerId"], "2");
    assert_eq!(fake.noted(), ["sku:A offerId=2 offerQuantity=shared"]);

    // Without another one the item alone is told.
    let fake = Fake::granted([
        offer_gone("A", "1"),
        refused(404, 25713),
        updated(200, &[entry("A", 200, &[])]),
    ]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Applied"]);
    assert_eq!(fake.noted(), ["sku:A offerId offerQuantity"]);

    // The same number again is asked for once.
    let fake = Fake::granted([offer_gone("A", "1"), reply(200, offers("1")), offer_gone("A", "1")]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Refused ListingNotFound 25713"]);

    // A mapping that knows the offer alone has nothing to look it up by.
    let alone = listing("ebay", &seller(), &[("offerId", "1")]);
    let gone =
        updated(207, &[json!({"offerId": "1", "statusCode": 404, "errors": [{"errorId": 25713}]})]);
    let fake = Fake::granted([gone]);
    let push = batch(vec![item(alone, 42, None)]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Refused ListingNotFound 25713"]);
}

#[tokio::test]
async fn the_offers_of_a_sku_on_all_marketplaces_are_told_with_their_item() {
    let offer = |id: &str, place: &str, format: &str, quantity: u64| {
        json!({"offerId": id, "sku": "A", "status": "PUBLISHED", "marketplaceId": place,
               "format": format, "availableQuantity": quantity})
    };
    let offers = |elsewhere: u64| {
        let offers = json!({"offers": [
            offer("1", "EBAY_US", "FIXED_PRICE", elsewhere), offer("2", "EBAY_DE", "AUCTION", 1),
            offer("3", "EBAY_DE", "FIXED_PRICE", 9), offer("4", "EBAY_US", "AUCTION", 1)]});
        reply(200, offers)
    };
    let told = || {
        let of_offer = |id: &str| json!({"offerId": id, "sku": "A", "statusCode": 200});
        updated(200, &[of_offer("3"), of_offer("1")])
    };
    let fake = Fake::granted([offers(5), told()]);
    let ebay = channel("ebay", &seller());
    // One that names its own offer by hand does not know of the others.
    let named = listing("ebay", &seller(), &[("sku", "A"), ("offerId", "3")]);
    let outcomes = ebay.push(&fake, &batch(vec![item(named, 7, None)])).await;
    assert_eq!(shorts(&outcomes), ["Applied"]);
    let both = |quantity: u64| {
        json!({"sku": "A", "shipToLocationAvailability": {"quantity": quantity}, "offers": [
            {"offerId": "3", "availableQuantity": quantity},
            {"offerId": "1", "availableQuantity": quantity}]})
    };
    assert_eq!(fake.body(1)["requests"], json!([both(7)]));
    assert_eq!(fake.noted(), ["sku:A offerId=3 offerQuantity=shared otherOfferIds=1"]);
    let known =
        [("sku", "A"), ("offerId", "3"), ("otherOfferIds", "1"), ("offerQuantity", "shared")];
    let known = listing("ebay", &seller(), &known);
    let fake = Fake::granted([told()]);
    let outcomes = ebay.push(&fake, &batch(vec![item(known.clone(), 6, None)])).await;
    assert_eq!(shorts(&outcomes), ["Applied"]);
    assert_eq!(fake.body(0)["requests"], json!([both(6)]));
    assert_eq!(fake.noted(), [""; 0]);

    // Where one of them fails, the SKU is not told.
    let half = updated(
        207,
        &[
            json!({"offerId": "3", "sku": "A", "statusCode": 200}),
            json!({"offerId": "1", "sku": "A", "statusCode": 400, "errors": [{"errorId": 25002}]}),
        ],
    );
    let outcomes = ebay.push(&Fake::granted([half]), &batch(vec![item(known, 6, None)])).await;
    assert_eq!(shorts(&outcomes), ["Refused InvalidValue 25002"]);

    // What is live here is read, and the others are known once they show the same.
    let plain = listing("ebay", &seller(), &[("sku", "A")]);
    for (elsewhere, noted) in
        [(5, &[][..]), (9, &["sku:A offerId=3 offerQuantity=shared otherOfferIds=1"][..])]
    {
        let items = json!({"responses": [stocked("A", json!(9))]});
        let fake = Fake::granted([offers(elsewhere), reply(200, items)]);
        let shown = ebay.read(&fake, std::slice::from_ref(&plain)).await.unwrap();
        assert_eq!(shown, [Reading::Quantity(9)]);
        assert_eq!(fake.noted(), noted, "{elsewhere} elsewhere");
    }
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let grant = || reply(200, json!({"access_token": "new-granted", "expires_in": 7200}));
    let unauthorized = || refused(401, 1001);
    let push = batch(vec![item(offered("A", "1"), 42, None)]);
    let applied = updated(200, &[entry("A", 200, &[])]);
    let fake = Fake::granted([unauthorized(), grant(), applied]);
    let ebay = channel("ebay", &seller());
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["Applied"]);
    let fake = Fake::granted([unauthorized(), grant(), unauthorized()]);
    assert_eq!(shorts(&ebay.push(&fake, &push).await), ["NotSent Auth -"]);
    let bad = json!({"error": "invalid_grant", "error_description": "v^1.1#refresh is bad"});
    let fake = Fake::new([reply(400, bad)]).of(&seller());
    let outcomes = ebay.push(&fake, &push).await;
    assert_eq!(shorts(&outcomes), ["NotSent Auth invalid_grant"]);
    assert!(!format!("{outcomes:?}").contains("refresh"));
}

#[tokio::test]
async fn a_token_that_was_renewed_meanwhile_is_used() {
    let told = updated(200, &[entry("A", 200, &[])]);
    let ok = || revised("Success", &[], &["7"]);
    let refuses = revised("Failure", &[("932", "RequestError")], &[]);
    for (listing, header, newer, refusal, answer) in [
        (offered("A", "1"), "authorization", "Bearer newer-granted", refused(401, 1001), told),
        (by_number("7", None), "x-ebay-api-iaf-token", "newer-granted", refused(401, 0), ok()),
        (by_number("7", None), "x-ebay-api-iaf-token", "newer-granted", refuses, ok()),
    ] {
        let fake = Fake::granted([refusal, answer]).renewed_meanwhile("user", "newer-granted");
        let push = batch(vec![item(listing, 42, None)]);
        assert_eq!(shorts(&channel("ebay", &seller()).push(&fake, &push).await), ["Applied"]);
        assert_eq!(fake.asked()[1].headers[header], newer);
    }
}

#[tokio::test]
async fn old_listings_go_through_the_trading_api_four_at_a_time() {
    let fake = Fake::granted([revised("Success", &[], &[]), revised("Warning", &[], &[])]);
    let mut items: Vec<_> =
        (1..=5).map(|n| item(by_number(&n.to_string(), None), n, None)).collect();
    items[0].listing = by_number("1", Some("A<&>"));
    let outcomes = channel("ebay", &seller()).push(&fake, &batch(items)).await;
    assert_eq!(shorts(&outcomes), ["Applied"; 5]);
    let asked = fake.asked();
    assert_eq!(asked[0].url, "https://api.ebay.com/ws/api.dll");
    assert_eq!(asked[0].headers["x-ebay-api-call-name"], "ReviseInventoryStatus");
    assert_eq!(asked[0].headers["x-ebay-api-siteid"], "77");
    assert_eq!(asked[0].headers["x-ebay-api-iaf-token"], "user-granted");
    assert!(asked[0].headers["x-ebay-api-iaf-token"].is_sensitive());
    let body = String::from_utf8_lossy(&asked[0].body);
    assert!(
        body.contains(
            "<ItemID>1</ItemID><SKU>A&lt;&amp;&gt;</SKU><Quantity>1</Quantity></InventoryStatus>"
        ),
        "{body}"
    );
    assert_eq!(body.matches("<InventoryStatus>").count(), 4);
}

#[tokio::test]
async fn a_trading_failure_is_laid_at_the_right_door() {
    let request = "RequestError";
    let partly = revised("PartialFailure", &[("17", request)], &["1", "3"]);
    let alone = revised("Failure", &[("17", request)], &[]);
    let fake = Fake::granted([partly, alone]);
    let items = (1..=3).map(|n| item(by_number(&n.to_string(), None), n, None)).collect();
    let outcomes = channel("ebay", &seller()).push(&fake, &batch(items)).await;
    assert_eq!(shorts(&outcomes), ["Applied", "Refused ListingNotFound 17", "Applied"]);

    let table = [
        (revised("Failure", &[("21917091", request)], &[]), "Applied"),
        (revised("Failure", &[("21916583", request)], &[]), "Refused InvalidValue 21916583"),
        (revised("Failure", &[("291", request)], &[]), "Refused NotPushable 291"),
        (revised("Failure", &[("10007", "SystemError")], &[]), "NotSent Transient 10007"),
        (revised("Failure", &[], &[]), "Unknown Protocol -"),
        (answer(200, &[], "<a></b>"), "Unknown Protocol -"),
        (answer(500, &[], ""), "Unknown UnknownOutcome -"),
        (lost(), "Unknown UnknownOutcome -"),
    ];
    for (given, expected) in table {
        let shown = format!("{given:?}");
        let fake = Fake::granted([given]);
        let push = batch(vec![item(by_number("1", None), 1, None)]);
        let outcomes = channel("ebay", &seller()).push(&fake, &push).await;
        assert_eq!(shorts(&outcomes), [expected], "{shown}");
    }
    let expired = || revised("Failure", &[("932", request)], &[]);
    let grant = reply(200, json!({"access_token": "new-granted", "expires_in": 7200}));
    let fake = Fake::granted([expired(), grant, revised("Success", &[], &[])]);
    let push = batch(vec![item(by_number("1", None), 1, None)]);
    assert_eq!(shorts(&channel("ebay", &seller()).push(&fake, &push).await), ["Applied"]);
}

fn stocked(sku: &str, quantity: Value) -> Value {
    json!({"sku": sku, "statusCode": 200, "inventoryItem": {
        "availability": {"shipToLocationAvailability": {"quantity": quantity}}}})
}

#[tokio::test]
async fn an_offer_that_shares_its_items_quantity_is_read_once() {
    let known = |sku: &str| {
        let pairs = [("sku", sku), ("offerId", "1"), ("offerQuantity", "shared")];
        listing("ebay", &seller(), &pairs)
    };
    let offer = |sku: &str, own: Value| {
        let offer = json!({"offerId": "1", "sku": sku, "status": "PUBLISHED",
                           "availableQuantity": own});
        reply(200, json!({"offers": [offer]}))
    };
    let items = json!({"responses": [stocked("A", json!(7)), stocked("B", json!(5)),
                                     stocked("C", json!(4)), stocked("D", json!(3))]});
    let fake = Fake::granted([
        offer("B", json!(5)),
        offer("C", json!(2)),
        refused(404, 25713),
        reply(200, items),
    ]);
    let plain = |sku: &str| listing("ebay", &seller(), &[("sku", sku)]);
    let ebay = channel("ebay", &seller());
    let listings = [known("A"), plain("B"), plain("C"), plain("D")];
    let readings = ebay.read(&fake, &listings).await.unwrap();
    assert_eq!(readings, [7, 5, 2, 3].map(Reading::Quantity));
    // Of C the offer has less than the item: it must be seen again until both are told.
    assert_eq!(fake.noted(), ["sku:B offerId=1 offerQuantity=shared"]);

    let items = json!({"responses": (0..25).map(|n| stocked(&format!("S{n:02}"), json!(n)))
        .collect::<Vec<_>>()});
    let fake = Fake::granted([reply(200, items)]);
    let listings: Vec<Listing> = (0..25).map(|n| known(&format!("S{n:02}"))).collect();
    assert_eq!(ebay.read(&fake, &listings).await.unwrap().len(), 25);
    assert_eq!(fake.asked().len(), 1, "one call for all");
}

#[tokio::test]
async fn the_live_quantity_is_the_smaller_one_and_absent_is_never_zero() {
    let offers = json!({"offers": [{"offerId": "1", "sku": "B", "status": "PUBLISHED",
                                    "availableQuantity": 3}]});
    let only = json!({"offerId": "9", "sku": "C", "status": "PUBLISHED"});
    let items = json!({"responses": [
        stocked("A", json!(7)), stocked("B", json!(5)), stocked("C", json!(2)),
        entry("D", 404, &[25702]),
        {"sku": "E", "statusCode": 200, "inventoryItem": {}}]});
    let got =
        |inner: &str| answer(200, &[], format!("<R><Ack>Success</Ack><Item>{inner}</Item></R>"));
    let fake = Fake::granted([
        reply(200, offers),
        reply(200, only),
        reply(207, items),
        got("<Quantity>10</Quantity><SellingStatus><QuantitySold>4</QuantitySold>\
             <ListingStatus>Active</ListingStatus></SellingStatus>"),
        got("<Variations><Variation><SKU>V</SKU><Quantity>3</Quantity><SellingStatus>\
             <QuantitySold>1</QuantitySold></SellingStatus></Variation></Variations>"),
        got("<Quantity>1</Quantity><SellingStatus><ListingStatus>Completed</ListingStatus>\
             </SellingStatus>"),
    ]);
    let plain = |sku: &str| {
        let pairs = [("sku", sku), ("offerId", "0"), ("offerQuantity", "shared")];
        listing("ebay", &seller(), &pairs)
    };
    let listings = [
        plain("A"),
        listing("ebay", &seller(), &[("sku", "B"), ("offerId", "1")]),
        listing("ebay", &seller(), &[("offerId", "9")]),
        plain("D"),
        plain("E"),
        by_number("1", None),
        by_number("2", Some("V")),
        by_number("3", None),
    ];
    let readings = channel("ebay", &seller()).read(&fake, &listings).await.unwrap();
    let known: Vec<Option<i64>> = readings
        .iter()
        .map(|reading| match reading {
            Reading::Quantity(quantity) => Some(*quantity),
            Reading::Unknown(_) => None,
        })
        .collect();
    assert_eq!(known, [Some(7), Some(3), Some(2), None, None, Some(6), Some(2), None]);
    assert_eq!(
        fake.body(2)["requests"],
        json!([{"sku": "A"}, {"sku": "B"}, {"sku": "C"}, {"sku": "D"}, {"sku": "E"}])
    );
}

#[tokio::test]
async fn pages_are_counted_as_each_api_counts_them() {
    let items = json!({"total": 401, "inventoryItems": [{"sku": "A", "product": {"title": "Lamp"},
        "availability": {"shipToLocationAvailability": {"quantity": 4}}}]});
    let line = json!({"lineItemId": "L1", "sku": "A", "legacyItemId": "7", "quantity": 2});
    let order = |id: &str, state: &str| {
        json!({"orderId": id, "lastModifiedDate": "2026-11-23T09:00:00.000Z",
               "cancelStatus": {"cancelState": state}, "lineItems": [line]})
    };
    let orders = json!({"total": 201, "orders": [
        order("1", "NONE_REQUESTED"), order("2", "CANCELED"), order("3", "IN_PROGRESS")]});
    let fake = Fake::granted([reply(200, items), reply(200, orders)]);
    let ebay = channel("ebay", &seller());
    let page = ebay.catalogue(&fake, Some("inv:1")).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("inv:2"));
    assert_eq!(page.items[0].reading, Reading::Quantity(4));
    let since = Timestamp::from_micros(1_795_426_246_000_000);
    let page = ebay.orders(&fake, since, None).await.unwrap();
    assert_eq!(page.next.as_deref(), Some("200"));
    let cancelled: Vec<u64> = page.items.iter().map(|o| o.lines[0].state.cancelled).collect();
    assert_eq!(cancelled, [0, 2, 0]);
    assert_eq!(page.items[0].lines[0].fields, fields(&[("sku", "A"), ("itemId", "7")]));
    let urls = fake.urls();
    assert!(urls[0].ends_with("/inventory_item?limit=200&offset=1"));
    assert!(urls[1].ends_with(
        "/order?filter=lastmodifieddate%3A%5B2026-11-23T09%3A30%3A46.000Z..%5D&limit=200&offset=0"
    ));
    for cursor in ["x", "inv:x", "trd:x:1"] {
        let error = ebay.catalogue(&Fake::new([]), Some(cursor)).await.unwrap_err();
        assert_eq!(error.kind, ChannelErrorKind::Bug);
    }
}

#[tokio::test]
async fn what_is_not_paid_for_is_held_and_what_was_refunded_unshipped_comes_free() {
    let money = |value: &str| json!({"value": value, "currency": "EUR"});
    let refund = |value: &str, issued: bool| {
        let mut refund = json!({"refundId": "5", "amount": money(value)});
        if issued {
            refund["refundDate"] = "2026-11-23T09:00:00.000Z".into();
        }
        refund
    };
    // The order's payment status, that of its payment, its cancel state, the line's fulfilment,
    // what was refunded of a line of 2 for 19.90; units sold, held and cancelled.
    let paid = "PAID";
    let table = [
        (paid, paid, "NONE_REQUESTED", "NOT_STARTED", json!([]), (2, 0, 0)),
        ("PENDING", "PENDING", "NONE_REQUESTED", "NOT_STARTED", json!([]), (0, 2, 0)),
        ("FAILED", "FAILED", "NONE_REQUESTED", "NOT_STARTED", json!([]), (0, 2, 0)),
        ("FAILED", "FAILED", "CANCELED", "NOT_STARTED", json!([]), (0, 2, 2)),
        // They are said of a refund, too.
        ("PENDING", paid, "NONE_REQUESTED", "FULFILLED", json!([]), (2, 0, 0)),
        ("FAILED", paid, "IN_PROGRESS", "NOT_STARTED", json!([]), (2, 0, 0)),
        ("FULLY_REFUNDED", paid, "CANCELED", "NOT_STARTED", json!([]), (2, 0, 2)),
        ("FULLY_REFUNDED", paid, "NONE_REQUESTED", "NOT_STARTED", json!([]), (2, 0, 2)),
        ("FULLY_REFUNDED", paid, "NONE_REQUESTED", "FULFILLED", json!([]), (2, 0, 0)),
        ("FULLY_REFUNDED", paid, "NONE_REQUESTED", "IN_PROGRESS", json!([]), (2, 0, 0)),
        (
            "PARTIALLY_REFUNDED",
            paid,
            "NONE_REQUESTED",
            "NOT_STARTED",
            json!([refund("10.00", true), refund("9.9", true)]),
            (2, 0, 2),
        ),
        (
            "PARTIALLY_REFUNDED",
            paid,
            "NONE_REQUESTED",
            "FULFILLED",
            json!([refund("19.90", true)]),
            (2, 0, 0),
        ),
        // A discount, and a refund that is under way.
        (
            "PARTIALLY_REFUNDED",
            paid,
            "NONE_REQUESTED",
            "NOT_STARTED",
            json!([refund("10.00", true), refund("9.90", false)]),
            (2, 0, 0),
        ),
        (
            paid,
            paid,
            "NONE_REQUESTED",
            "NOT_STARTED",
            json!([refund("-19.90", true), refund("many", true)]),
            (2, 0, 0),
        ),
    ];
    let orders: Vec<Value> = table
        .iter()
        .enumerate()
        .map(|(nth, (status, payment, cancel, fulfilment, refunds, _))| {
            json!({"orderId": nth.to_string(),
                   "lastModifiedDate": format!("2026-11-23T09:{nth:02}:00.000Z"),
                   "orderPaymentStatus": status,
                   "paymentSummary": {"payments": [{"paymentStatus": payment}]},
                   "cancelStatus": {"cancelState": cancel},
                   "lineItems": [{"lineItemId": "L", "sku": "A", "quantity": 2,
                       "lineItemFulfillmentStatus": fulfilment, "lineItemCost": money("29.90"),
                       "discountedLineItemCost": money("19.90"), "refunds": refunds}]})
        })
        .collect();
    let fake = Fake::granted([reply(200, json!({"total": table.len(), "orders": orders}))]);
    let since = Timestamp::from_micros(0);
    let page = channel("ebay", &seller()).orders(&fake, since, None).await.unwrap();
    assert_eq!(page.items.len(), table.len());
    for (order, row) in page.items.iter().zip(&table) {
        let state = order.lines[0].state;
        assert_eq!((state.sold, state.held, state.cancelled), row.5, "{row:?}");
        assert_eq!((state.restocked, state.part), (0, None));
    }
}

#[tokio::test]
async fn an_account_deletion_is_let_in_by_its_signature_and_changes_nothing() {
    let topic = "MARKETPLACE_ACCOUNT_DELETION";
    let data = json!({"username": "sim-buyer", "userId": "u-1", "eiasToken": "e-1"});
    let body = notification(topic, &data);
    let fake = Fake::granted([public_key()]);
    assert_eq!(verify(&fake, &signature("k-1", &body), &body).await, format!("{topic} n-1"));
    let forged = verify(&fake, &signature("k-1", "other"), &body).await;
    assert_eq!(forged, "the signature does not hold");
    let notices = parse(topic, &data);
    let [Notice::Ignored(why)] = notices.as_slice() else { panic!("{notices:?}") };
    assert!(!why.contains("sim-buyer") && !why.contains("u-1"), "{why}");
}

fn key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

/// The key on one line, as eBay sends it.
fn public_key() -> Answer {
    let pem = key().verifying_key().to_public_key_pem(LineEnding::LF).unwrap().replace('\n', "");
    reply(200, json!({"key": pem, "algorithm": "ECDSA", "digest": "SHA1"}))
}

fn signature(kid: &str, body: &str) -> String {
    let signed: Signature = key().sign_prehash(&sha1::Sha1::digest(body)).unwrap();
    let signed = STANDARD.encode(signed.to_der().as_bytes());
    let header = json!({"alg": "ecdsa", "kid": kid, "signature": signed, "digest": "SHA1"});
    STANDARD.encode(header.to_string())
}

fn notification(topic: &str, data: &Value) -> String {
    json!({"metadata": {"topic": topic, "schemaVersion": "1.0", "deprecated": false},
           "notification": {"notificationId": "n-1", "eventDate": "2026-11-23T09:00:00.000Z",
           "publishDate": "2026-11-23T09:00:01.000Z", "publishAttemptCount": 1, "data": data}})
    .to_string()
}

async fn verify(fake: &Fake, header: &str, body: &str) -> String {
    let map = headers(&[("x-ebay-signature", header)]);
    let request = WebhookRequest { headers: &map, body: body.as_bytes() };
    match channel("ebay", &seller()).verify_webhook(fake, request).await {
        Ok(verified) => format!("{} {}", verified.topic, verified.delivery_id),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_notification_is_let_in_by_its_signature() {
    let body = notification("ORDER_CONFIRMATION", &json!({}));
    let good = signature("k-1", &body);
    let refused = "the signature does not hold";
    let fake = Fake::granted([public_key()]);
    assert_eq!(verify(&fake, &good, &body).await, "ORDER_CONFIRMATION n-1");
    // The key is kept.
    assert_eq!(verify(&fake, &good, &body).await, "ORDER_CONFIRMATION n-1");
    assert_eq!(verify(&fake, &good, &body.replace("n-1", "n-2")).await, refused);
    assert_eq!(verify(&fake, &signature("k-1", "other"), &body).await, refused);
    assert_eq!(fake.urls(), ["GET https://api.ebay.com/commerce/notification/v1/public_key/k-1"]);
    assert_eq!(fake.asked()[0].headers["authorization"], "Bearer application-granted");
    // Nothing is asked for what is no key id, and an unknown key signs nothing.
    for header in ["%%%", &STANDARD.encode("{}"), &signature("../x", &body)] {
        assert_eq!(verify(&Fake::new([]), header, &body).await, refused);
    }
    let fake = Fake::granted([answer(404, &[], "")]);
    assert_eq!(verify(&fake, &good, &body).await, refused);
    let fake = Fake::granted([not_sent()]);
    let shown = verify(&fake, &good, &body).await;
    assert_eq!(shown, "the signing key could not be read: no connection");
    // Kept rubbish is no key.
    let fake = Fake::new([]).keep("key:k-1", "rubbish");
    assert_eq!(verify(&fake, &good, &body).await, refused);
}

#[test]
fn a_challenge_is_answered_with_the_hash_of_code_token_and_url() {
    // printf %s "codetokenhttps://x.example/hook" | sha256sum
    assert_eq!(
        challenge_response("code", "token", "https://x.example/hook"),
        challenge_response("codetoken", "", "https://x.example/hook"),
    );
    assert_eq!(
        challenge_response("a", "b", "c"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

fn parse(topic: &str, data: &Value) -> Vec<Notice> {
    let body = notification(topic, data);
    channel("ebay", &seller()).parse_webhook(topic, body.as_bytes()).unwrap()
}

#[test]
fn notifications_become_notices() {
    let whole = json!({"orderId": "11-1", "lineItemId": "L1", "legacyItemId": "7", "sku": "A",
                       "quantity": 2});
    let inside = json!({"order": {"orderId": "11-1", "lineItems": [whole]}});
    for data in [&whole, &inside] {
        let order = order_of(parse("ORDER_CONFIRMATION", data));
        let line = &order.lines[0];
        assert_eq!((order.order_id.as_str(), line.line_id.as_str()), ("11-1", "L1"));
        assert_eq!((line.state.sold, line.state.restocked), (2, 0));
        assert_eq!(line.fields, fields(&[("sku", "A"), ("itemId", "7")]));
    }
    // Another id of the line than the poll's must not count a second time.
    let other = json!({"orderId": "11-1", "orderLineItemId": "7-99", "quantity": 2,
                       "listing": {"listingId": "7"}});
    assert_eq!(hint_of(parse("ORDER_CONFIRMATION", &other)), fields(&[("itemId", "7")]));
    let availability = json!({"itemId": "v1|7|0", "sku": "A", "availability": "UNAVAILABLE"});
    let expected = fields(&[("sku", "A"), ("itemId", "7")]);
    assert_eq!(hint_of(parse("ITEM_AVAILABILITY", &availability)), expected);
    for (topic, data) in
        [("ITEM_AVAILABILITY", json!({})), ("MARKETPLACE_ACCOUNT_DELETION", json!({"x": 1}))]
    {
        assert!(matches!(parse(topic, &data).as_slice(), [Notice::Ignored(_)]));
    }
}

#[tokio::test]
async fn topics_that_are_open_are_subscribed() {
    let url = "https://trueup.example/upstream/webhooks/o/ebay";
    let none = || reply(200, json!({"total": 0, "destinations": []}));
    let scope = |name: &str| format!("https://api.ebay.com/oauth/api_scope{name}");
    let topic = |id: &str, status: &str, scopes: Value, payloads: Value| {
        json!({"topicId": id, "status": status, "authorizationScopes": scopes,
               "supportedPayloads": payloads})
    };
    let payload = |version: &str, deprecated: bool| {
        json!({"deliveryProtocol": "HTTPS", "format": ["JSON"], "schemaVersion": version,
               "deprecated": deprecated})
    };
    let both = json!([payload("1.0", false), payload("1.1", false), payload("2.0", true)]);
    let order = topic("ORDER_CONFIRMATION", "ENABLED", json!([scope("/sell.fulfillment")]), both);
    let item = |status: &str, of: &str| {
        topic("ITEM_AVAILABILITY", status, json!([scope(of)]), json!([payload("1.0", false)]))
    };
    let other = topic("ITEM_PRICE_REVISION", "ENABLED", json!([]), json!([payload("1.0", false)]));
    let topics = |item: Value| {
        reply(200, json!({"total": 3, "topics": [order.clone(), item, other.clone()]}))
    };
    let place = [("location", "https://api.ebay.com/commerce/notification/v1/destination/d-1")];
    let fake = Fake::granted([
        topics(item("ENABLED", "")),
        none(),
        answer(201, &place, ""),
        answer(201, &[], ""),
        refused(403, 195_003),
    ]);
    let ebay = channel("ebay", &seller());
    assert_eq!(ebay.subscribe(&fake, url).await.unwrap(), ["ORDER_CONFIRMATION"]);
    assert_eq!(
        fake.body(2),
        json!({"name": "trueup", "status": "ENABLED",
               "deliveryConfig": {"endpoint": url, "verificationToken": TOKEN}})
    );
    assert_eq!(fake.body(3)["destinationId"], "d-1");
    assert_eq!(fake.body(3)["payload"]["deliveryProtocol"], "HTTPS");
    assert_eq!(fake.body(3)["payload"]["schemaVersion"], "1.1");
    // What is closed to us or switched off is not asked for.
    for closed in [item("ENABLED", "/buy.item.feed"), item("DISABLED", "")] {
        let fake =
            Fake::granted([topics(closed), none(), answer(201, &place, ""), answer(201, &[], "")]);
        assert_eq!(ebay.subscribe(&fake, url).await.unwrap(), ["ORDER_CONFIRMATION"]);
    }
    let fake = Fake::granted([reply(200, json!({"total": 1, "topics": [other.clone()]}))]);
    let error = ebay.subscribe(&fake, url).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Forbidden);
    // It is there already, and so are the subscriptions.
    let known = json!({"destinations": [
        {"destinationId": "d-9", "deliveryConfig": {"endpoint": url}}]});
    let fake = Fake::granted([
        topics(item("ENABLED", "")),
        reply(200, known),
        refused(409, 1),
        refused(409, 1),
    ]);
    assert_eq!(ebay.subscribe(&fake, url).await.unwrap().len(), 2);
    let mut bare = seller();
    bare.credentials.remove("verificationToken");
    let error = channel("ebay", &bare).subscribe(&Fake::new([]), url).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Config);
}

#[tokio::test]
async fn connecting_reads_one_item() {
    let fake = Fake::granted([reply(200, json!({"total": 0}))]);
    assert!(channel("ebay", &seller()).connect(&fake).await.is_ok());
    let fake = Fake::granted([refused(403, 1100)]);
    let error = channel("ebay", &seller()).connect(&fake).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Forbidden);
}

#[test]
fn revisions_are_counted_by_days_that_start_at_eight_oclock_in_greenwich() {
    let kind = trueup_channels::kind("ebay").unwrap();
    let hour = |hour: i64| Timestamp::from_micros(hour * 3_600_000_000);
    for (at, began) in [(8, 8), (9, 8), (31, 8), (32, 32), (7, -16), (0, -16)] {
        assert_eq!(kind.day_of(hour(at)), (hour(began), hour(began + 24)), "{at}");
    }
    assert_eq!(channel("ebay", &seller()).capabilities().revisions_per_day, Some(250));
    let mut american = seller();
    american.fields.insert("marketplaceId".into(), json!("EBAY_US"));
    let counts =
        |settings: &Settings, of: &Listing| channel("ebay", settings).counts_revisions(&of.fields);
    assert!(counts(&seller(), &offered("A", "1")) && counts(&american, &offered("A", "1")));
    let old = by_number("1", None);
    assert!(counts(&seller(), &old) && !counts(&american, &old), "of old listings, German ones");
}

#[tokio::test]
async fn quotas_are_read_for_the_application_and_for_the_seller() {
    let rate = |limit: u64, remaining: u64, window: u64| {
        json!({"limit": limit, "remaining": remaining, "count": 1, "timeWindow": window,
               "reset": "2026-11-24T08:00:00.000Z"})
    };
    let api = |context: &str, name: &str, resources: Value| json!({"apiContext": context, "apiName": name, "apiVersion": "v1", "resources": resources});
    let application = json!({"rateLimits": [
        api("sell", "inventory", json!([
            {"name": "sell.inventory", "rates": [rate(10, 9, 5), rate(2_000, 1_500, 86_400)]},
            {"name": "sell.inventory.bulk_migrate", "rates": [rate(20, 1, 86_400)]}])),
        api("TradingAPI", "TradingAPI", json!([
            {"name": "AddItem", "rates": [rate(5_000, 1, 86_400)]},
            {"name": "GetItem", "rates": [rate(5_000, 4_000, 86_400)]},
            {"name": "ReviseInventoryStatus", "rates": [rate(5_000, 3_000, 86_400)]},
            {"name": "GetSellerList"}])),
        api("buy", "browse", json!([{"name": "buy.browse", "rates": [rate(5_000, 2, 86_400)]}]))]});
    let seller_s = json!({"rateLimits": [api("sell", "inventory", json!([
        {"name": "sell.inventory", "rates": [rate(900, 800, 86_400)]}]))]});
    let ebay = channel("ebay", &seller());
    let fake = Fake::granted([reply(200, application.clone()), reply(200, seller_s)]);
    let mut told = ebay.limits(&fake).await.unwrap().unwrap();
    told.sort_by_key(|(bucket, _)| *bucket);
    let short: Vec<(&str, u64, u64)> =
        told.iter().map(|(bucket, quota)| (*bucket, quota.limit, quota.remaining)).collect();
    assert_eq!(short, [("inventory", 900, 800), ("trading", 5_000, 3_000)]);
    let resets_at = Timestamp::from_micros(1_795_507_200_000_000);
    assert_eq!((told[0].1.resets_at, told[0].1.window_ms), (resets_at, 86_400_000));
    let base = "https://api.ebay.com/developer/analytics/v1_beta";
    assert_eq!(
        fake.urls(),
        [format!("GET {base}/rate_limit/"), format!("GET {base}/user_rate_limit/")]
    );
    let asked = fake.asked();
    assert_eq!(asked[0].headers["authorization"], "Bearer application-granted");
    assert_eq!(asked[1].headers["authorization"], "Bearer user-granted");
    // The seller's may be closed to us, and an account may have none.
    let fake = Fake::granted([reply(200, application), refused(403, 1100)]);
    assert_eq!(ebay.limits(&fake).await.unwrap().unwrap().len(), 2);
    let fake = Fake::granted([answer(204, &[], ""), answer(204, &[], "")]);
    assert_eq!(ebay.limits(&fake).await, Ok(Some(Vec::new())));
    let fake = Fake::granted([answer(503, &[], "")]);
    assert!(ebay.limits(&fake).await.is_err());
}

#[tokio::test]
async fn what_could_be_oversold_is_urgent() {
    let ebay = channel("ebay", &seller());
    for (quantity, before, urgent) in
        [(0, None, true), (3, Some(5), true), (5, Some(5), false), (7, None, false)]
    {
        for of in [offered("A", "1"), by_number("1", None)] {
            let answer = match of.fields.get("itemId") {
                Some(_) => revised("Success", &[], &[]),
                None => updated(200, &[entry("A", 200, &[])]),
            };
            let fake = Fake::granted([answer]);
            ebay.push(&fake, &batch(vec![item(of, quantity, before)])).await;
            assert_eq!(fake.asked()[0].urgent, urgent, "{quantity} after {before:?}");
        }
    }
}

#[tokio::test]
async fn the_catalogue_goes_on_with_old_listings_that_no_other_api_manages() {
    let last = json!({"total": 1, "inventoryItems": [{"sku": "NEW"}]});
    let item = |id: &str, inner: &str| format!("<Item><ItemID>{id}</ItemID>{inner}</Item>");
    let simple = |sku: &str, quantity: u32, sold: u32| {
        format!(
            "<SKU>{sku}</SKU><Title>A &amp; B</Title><ListingType>FixedPriceItem</ListingType>\
             <Quantity>{quantity}</Quantity><SellingStatus><QuantitySold>{sold}</QuantitySold>\
             <ListingStatus>Active</ListingStatus></SellingStatus>"
        )
    };
    let variations = "<Variations>\
        <Variation><SKU>V-1</SKU><Quantity>5</Quantity><SellingStatus><QuantitySold>2\
        </QuantitySold></SellingStatus></Variation>\
        <Variation><Quantity>1</Quantity></Variation></Variations>";
    let items = [
        item("1", &simple("OLD", 10, 4)),
        item("2", &simple("NEW", 3, 0)),
        item("3", variations),
        item("4", "<ListingType>Chinese</ListingType><Quantity>1</Quantity>"),
    ]
    .concat();
    let list = |more: bool| {
        let body = format!(
            "<R><Ack>Success</Ack><HasMoreItems>{more}</HasMoreItems><ItemArray>{items}\
             </ItemArray></R>"
        );
        answer(200, &[], body)
    };
    let managed = || {
        let known = stocked("NEW", json!(3));
        let none = |sku: &str| entry(sku, 404, &[25702]);
        reply(207, json!({"responses": [known, none("OLD"), none("V-1")]}))
    };
    let fake = Fake::granted([reply(200, last), list(true), managed(), list(false), managed()]);
    let ebay = channel("ebay", &seller());
    let page = ebay.catalogue(&fake, None).await.unwrap();
    assert_eq!(page.items.len(), 1);
    let cursor = page.next.unwrap();
    assert!(cursor.starts_with("trd:1:"), "{cursor}");
    let page = ebay.catalogue(&fake, Some(&cursor)).await.unwrap();
    let short: Vec<_> = page
        .items
        .iter()
        .map(|entry| (entry.sku.as_deref(), entry.fields.clone(), entry.reading.clone()))
        .collect();
    assert_eq!(
        short,
        [
            (Some("OLD"), fields(&[("itemId", "1")]), Reading::Quantity(6)),
            (Some("V-1"), fields(&[("itemId", "3"), ("sku", "V-1")]), Reading::Quantity(3)),
            (None, fields(&[("itemId", "3")]), Reading::Quantity(1)),
        ]
    );
    assert_eq!(page.items[0].title.as_deref(), Some("A & B"));
    let next = page.next.unwrap();
    assert_eq!(next, cursor.replace("trd:1:", "trd:2:"), "the same range of times");
    assert_eq!(ebay.catalogue(&fake, Some(&next)).await.unwrap().next, None);
    let asked = fake.asked();
    assert_eq!(asked[1].headers["x-ebay-api-call-name"], "GetSellerList");
    assert_eq!(asked[1].bucket, "trading.list");
    let body = String::from_utf8_lossy(&asked[1].body);
    for part in [
        "<EndTimeFrom>2026-11-23T09:30:46.000Z</EndTimeFrom>",
        "<EndTimeTo>2027-03-22T09:30:46.000Z</EndTimeTo>",
        "<EntriesPerPage>200</EntriesPerPage><PageNumber>1</PageNumber>",
        "<OutputSelector>ItemArray.Item.Variations.Variation.SKU</OutputSelector>",
    ] {
        assert!(body.contains(part), "{part} in {body}");
    }
    assert_eq!(fake.body(2)["requests"], json!([{"sku": "NEW"}, {"sku": "OLD"}, {"sku": "V-1"}]));
    let fake = Fake::granted([revised("Failure", &[("518", "RequestError")], &[])]);
    let error = ebay.catalogue(&fake, Some(&cursor)).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Throttled);
}

#[tokio::test]
async fn a_variation_without_a_sku_is_known_by_its_number() {
    let line = |variation: Value| {
        json!({"lineItemId": "L1", "legacyItemId": "7", "legacyVariationId": variation,
               "quantity": 1})
    };
    let order = json!({"total": 1, "orders": [{"orderId": "1", "lineItems": [
        line(json!("55")), line(json!("0")), line(Value::Null)]}]});
    let fake = Fake::granted([reply(200, order)]);
    let since = Timestamp::from_micros(0);
    let page = channel("ebay", &seller()).orders(&fake, since, None).await.unwrap();
    let lines: Vec<_> = page.items[0].lines.iter().map(|line| line.fields.clone()).collect();
    let whole = fields(&[("itemId", "7")]);
    let sold = fields(&[("itemId", "7"), ("variationId", "55")]);
    assert_eq!(lines, [sold.clone(), whole.clone(), whole.clone()]);
    let kind = trueup_channels::kind("ebay").unwrap();
    let of = |variation: &str| fields(&[("itemId", "7"), ("sku", "V"), ("variationId", variation)]);
    for (ours, expected) in [
        (of("55"), true),
        (of("56"), false),
        (fields(&[("itemId", "7"), ("sku", "V")]), false),
        (whole, true),
    ] {
        assert_eq!(kind.names_listing(&ours, &sold), expected, "{ours:?}");
    }
    let key = |pairs: &[(&str, &str)]| listing_key("ebay", &seller(), pairs);
    assert_eq!(key(&[("itemId", "7"), ("sku", "V"), ("variationId", "55")]), "item:7/V");
    assert_eq!(key(&[("sku", "V"), ("variationId", "55")]), "wrong: variationId");
}
