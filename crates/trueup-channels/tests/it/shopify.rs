use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use trueup_channels::{
    ChannelErrorKind, Listing, Notice, PartId, PushItem, Reading, Settings, WebhookError,
    WebhookRequest,
};
use trueup_core::Timestamp;

use crate::harness::{
    Answer, Fake, answer, batch, channel, fields, headers, hint_of, item, json as reply, listing,
    listing_key, lost, not_sent, order_of, settings, short, shorts, wrong_settings,
};

fn shop() -> Settings {
    settings(
        &[("shop", json!("acme")), ("defaultLocationId", json!("9"))],
        &[("accessToken", "shpat_secret"), ("webhookSecret", "hush")],
    )
}

fn client_shop() -> Settings {
    settings(
        &[("shop", json!("acme.myshopify.com"))],
        &[("clientId", "id"), ("clientSecret", "hush")],
    )
}

fn level(number: u64) -> Listing {
    listing("shopify", &shop(), &[("inventoryItemId", &number.to_string())])
}

fn items(count: u64) -> Vec<PushItem> {
    (1..=count).map(|n| item(level(n), 10 + n, Some(5))).collect()
}

/// A 200 answer with recorded throttle numbers.
fn data(data: Value) -> Answer {
    reply(200, json!({"data": data, "extensions": cost(1996.0)}))
}

fn cost(available: f64) -> Value {
    json!({"cost": {"requestedQueryCost": 13, "actualQueryCost": 13, "throttleStatus": {
        "maximumAvailable": 2000.0, "currentlyAvailable": available, "restoreRate": 100.0}}})
}

fn set(errors: &[(&str, Option<usize>)]) -> Answer {
    let error = |(code, index): &(&str, Option<usize>)| {
        let field = index
            .map(|at| json!(["input", "quantities", at.to_string(), "changeFromQuantity"]))
            .unwrap_or(json!(["input"]));
        json!({"code": code, "field": field, "message": format!("words of {code}")})
    };
    let errors: Vec<Value> = errors.iter().map(error).collect();
    data(json!({"inventorySetQuantities": {
        "inventoryAdjustmentGroup": null, "userErrors": errors}}))
}

fn graphql_error(code: &str) -> Answer {
    let errors = json!([{"message": format!("words of {code}"), "extensions": {"code": code}}]);
    reply(200, json!({"data": null, "errors": errors, "extensions": cost(3.0)}))
}

#[test]
fn settings_are_checked_all_at_once() {
    let token: &[(&str, &str)] = &[("accessToken", "t")];
    let table: [(&[(&str, Value)], &[(&str, &str)], &[&str]); 10] = [
        (&[("shop", json!("acme"))], token, &[]),
        (&[("shop", json!("https://Acme.myshopify.com/"))], token, &[]),
        (&[("shop", json!("acme")), ("defaultLocationId", json!(106318430514_u64))], token, &[]),
        (&[], &[], &["shop", "credentials.accessToken"]),
        (&[("shop", json!("acme.example.com"))], token, &["shop"]),
        (&[("shop", json!("acme/../x"))], token, &["shop"]),
        (
            &[("shop", json!("acme")), ("defaultLocationId", json!("gid://shopify/Product/1"))],
            token,
            &["defaultLocationId"],
        ),
        (&[("shop", json!("acme")), ("apiVersion", json!("2025-10"))], token, &["apiVersion"]),
        (&[("shop", json!("acme"))], &[("clientId", "id")], &["credentials.clientSecret"]),
        (
            &[("shop", json!("acme"))],
            &[("refreshToken", "r")],
            &["credentials.clientId", "credentials.clientSecret"],
        ),
    ];
    for (given, credentials, expected) in table {
        assert_eq!(wrong_settings("shopify", &settings(given, credentials)), expected, "{given:?}");
    }
}

#[test]
fn a_listing_is_an_item_at_a_location() {
    let table: [(&[(&str, &str)], &str); 6] = [
        (&[("inventoryItemId", "12")], "12@9"),
        (&[("inventoryItemId", "gid://shopify/InventoryItem/12"), ("locationId", "7")], "12@7"),
        (&[("inventoryItemId", "12"), ("locationId", "gid://shopify/Location/7")], "12@7"),
        (&[("variantId", "3")], "wrong: inventoryItemId"),
        (&[("inventoryItemId", "gid://shopify/ProductVariant/1")], "wrong: inventoryItemId"),
        (&[("inventoryItemId", "12"), ("sku", "A")], "wrong: sku"),
    ];
    for (given, expected) in table {
        assert_eq!(listing_key("shopify", &shop(), given), expected, "{given:?}");
    }
    let bare = settings(&[("shop", json!("acme"))], &[("accessToken", "t")]);
    assert_eq!(listing_key("shopify", &bare, &[("inventoryItemId", "1")]), "wrong: locationId");
}

#[test]
fn a_notice_names_a_listing_by_item_and_location_or_by_variant() {
    let kind = trueup_channels::kind("shopify").unwrap();
    let ours = fields(&[
        ("inventoryItemId", "gid://shopify/InventoryItem/1"),
        ("variantId", "gid://shopify/ProductVariant/2"),
        ("locationId", "gid://shopify/Location/9"),
    ]);
    let table: [(&[(&str, &str)], bool); 5] = [
        (&[("inventoryItemId", "gid://shopify/InventoryItem/1")], true),
        (&[("inventoryItemId", "1"), ("locationId", "9")], true),
        (&[("inventoryItemId", "1"), ("locationId", "8")], false),
        (&[("variantId", "gid://shopify/ProductVariant/2")], true),
        (&[("sku", "A")], false),
    ];
    for (theirs, expected) in table {
        assert_eq!(kind.names_listing(&ours, &fields(theirs)), expected, "{theirs:?}");
    }
}

#[tokio::test]
async fn a_set_is_absolute_compared_and_idempotent() {
    let fake = Fake::new([set(&[])]);
    let push = batch(vec![item(level(1), 42, Some(41)), item(level(2), 0, Some(-1))]);
    let outcomes = channel("shopify", &shop()).push(&fake, &push).await;
    assert_eq!(shorts(&outcomes), ["Applied", "Applied"]);
    let asked = &fake.asked()[0];
    assert_eq!(asked.url, "https://acme.myshopify.com/admin/api/2026-07/graphql.json");
    assert_eq!(asked.headers["x-shopify-access-token"], "shpat_secret");
    assert!(asked.headers["x-shopify-access-token"].is_sensitive());
    let body = fake.body(0);
    assert!(body["query"].as_str().unwrap().contains("@idempotent(key: $key)"));
    assert_eq!(body["variables"]["key"], push.token);
    assert_eq!(
        body["variables"]["input"],
        json!({
            "name": "available", "reason": "correction",
            "referenceDocumentUri": format!("gid://trueup/Push/{}", push.token),
            "quantities": [
                {"inventoryItemId": "gid://shopify/InventoryItem/1",
                 "locationId": "gid://shopify/Location/9",
                 "quantity": 42, "changeFromQuantity": 41},
                {"inventoryItemId": "gid://shopify/InventoryItem/2",
                 "locationId": "gid://shopify/Location/9",
                 "quantity": 0, "changeFromQuantity": -1},
            ],
        })
    );
    let (bucket, hint) = fake.learned()[0];
    assert_eq!((bucket, hint.per_second, hint.burst), ("graphql", 100.0, Some(2000.0)));
    assert_eq!(hint.remaining, Some(1996.0));
}

#[tokio::test]
async fn one_bad_item_does_not_fail_the_others() {
    let stale = set(&[("CHANGE_FROM_QUANTITY_STALE", Some(1))]);
    let gone = set(&[("INVALID_INVENTORY_ITEM", Some(0))]);
    let fake = Fake::new([stale, gone, set(&[])]);
    let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(3))).await;
    let gone = "Refused ListingNotFound INVALID_INVENTORY_ITEM";
    assert_eq!(shorts(&outcomes), [gone, "Stale", "Applied"]);
    let key = |at: usize| fake.body(at)["variables"]["key"].as_str().unwrap().to_owned();
    let (first, second, third) = (key(0), key(1), key(2));
    assert_eq!(first, batch(Vec::new()).token);
    // Other levels, another key; made of the levels, so that a repeat meets it again.
    assert!(second.starts_with(&format!("{first}-")) && second.ends_with("-0"), "{second}");
    assert_ne!(second, third);
    let last = fake.body(2);
    assert_eq!(last["variables"]["input"]["quantities"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_item_that_is_not_stocked_is_stocked_and_set() {
    let activated = json!({"inventoryActivate": {
        "inventoryLevel": {"id": "gid://shopify/InventoryLevel/1"}, "userErrors": []}});
    let unstocked = set(&[("ITEM_NOT_STOCKED_AT_LOCATION", Some(1))]);
    let fake = Fake::new([unstocked, data(activated), set(&[])]);
    let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(2))).await;
    assert_eq!(shorts(&outcomes), ["Applied", "Applied"]);
    let asked = fake.body(1);
    assert_eq!(asked["variables"]["item"], "gid://shopify/InventoryItem/2");
    assert!(asked["query"].as_str().unwrap().contains("@idempotent(key: $key)"));
    // Refused once more.
    let unstocked = set(&[("ITEM_NOT_STOCKED_AT_LOCATION", Some(0))]);
    let refused = json!({"inventoryActivate": {
        "inventoryLevel": null, "userErrors": [{"field": null, "message": "not here"}]}});
    let fake = Fake::new([unstocked, data(refused), set(&[])]);
    let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(2))).await;
    let refused = "Refused NotPushable ITEM_NOT_STOCKED_AT_LOCATION";
    assert_eq!(shorts(&outcomes), [refused, "Applied"]);
}

#[tokio::test]
async fn what_is_not_known_is_found_out_and_never_overwritten_blindly() {
    let level_of =
        |available: i64| json!({"quantities": [{"name": "available", "quantity": available}]});
    let id = |n: u64| format!("gid://shopify/InventoryItem/{n}");
    let nodes = json!({"nodes": [
        {"id": id(1), "tracked": true, "inventoryLevel": level_of(7)},
        {"id": id(2), "tracked": false, "inventoryLevel": level_of(0)},
        {"id": id(3), "tracked": true, "inventoryLevel": null},
        null,
        {"id": id(5), "tracked": true, "inventoryLevel": {"quantities": []}},
    ]});
    let mut kept = level_of(4);
    kept["id"] = json!("gid://shopify/InventoryLevel/1");
    let activated = json!({"inventoryActivate": {"inventoryLevel": kept, "userErrors": []}});
    let blind = || batch((1..=5).map(|n| item(level(n), 10 + n, None)).collect());
    let fake = Fake::new([data(nodes), data(activated), set(&[])]);
    let outcomes = channel("shopify", &shop()).push(&fake, &blind()).await;
    let expected = [
        "Applied",
        "Refused NotPushable -",
        "Applied",
        "Refused ListingNotFound -",
        "NotSent Transient -",
    ];
    assert_eq!(shorts(&outcomes), expected);
    let set = fake.body(2);
    let quantities = set["variables"]["input"]["quantities"].as_array().unwrap();
    let compared: Vec<&Value> = quantities.iter().map(|q| &q["changeFromQuantity"]).collect();
    // An item that was stocked here before has its old number back: it is compared with that.
    assert_eq!(compared, [7, 4]);
    let fake = Fake::new([graphql_error("THROTTLED")]);
    let outcomes = channel("shopify", &shop()).push(&fake, &blind()).await;
    assert_eq!(shorts(&outcomes), ["NotSent Throttled THROTTLED"; 5]);
}

#[tokio::test]
async fn rounds_are_bounded() {
    let script = (0..5).map(|_| set(&[("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED", None)]));
    let fake = Fake::new(script);
    let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(1))).await;
    assert_eq!(shorts(&outcomes), ["NotSent Transient -"]);
    assert_eq!(fake.asked().len(), 5);
}

#[tokio::test]
async fn every_failure_has_its_outcome() {
    let table: [(Answer, &str); 22] = [
        (set(&[]), "Applied"),
        (set(&[("CHANGE_FROM_QUANTITY_STALE", Some(0))]), "Stale"),
        (set(&[("COMPARE_QUANTITY_STALE", Some(0))]), "Stale"),
        (set(&[("INVALID_LOCATION", Some(0))]), "Refused NotPushable INVALID_LOCATION"),
        (
            set(&[("NON_MUTABLE_INVENTORY_ITEM", Some(0))]),
            "Refused NotPushable NON_MUTABLE_INVENTORY_ITEM",
        ),
        (
            set(&[("INVALID_QUANTITY_TOO_HIGH", Some(0))]),
            "Refused InvalidValue INVALID_QUANTITY_TOO_HIGH",
        ),
        (
            set(&[("IDEMPOTENCY_CONCURRENT_REQUEST", None)]),
            "Unknown Throttled IDEMPOTENCY_CONCURRENT_REQUEST",
        ),
        (
            set(&[("IDEMPOTENCY_KEY_PARAMETER_MISMATCH", None)]),
            "NotSent Bug IDEMPOTENCY_KEY_PARAMETER_MISMATCH",
        ),
        (set(&[("INVALID_REASON", None)]), "NotSent Bug INVALID_REASON"),
        (graphql_error("THROTTLED"), "NotSent Throttled THROTTLED"),
        (graphql_error("ACCESS_DENIED"), "NotSent Forbidden ACCESS_DENIED"),
        (graphql_error("BAD_REQUEST"), "NotSent Bug BAD_REQUEST"),
        (graphql_error("INVALID_FIELD_ARGUMENTS"), "NotSent Bug INVALID_FIELD_ARGUMENTS"),
        (graphql_error("INTERNAL_SERVER_ERROR"), "Unknown UnknownOutcome INTERNAL_SERVER_ERROR"),
        (reply(401, json!({"errors": "[API] Invalid API key"})), "NotSent Auth -"),
        (reply(402, json!({})), "NotSent AccountBlocked -"),
        (reply(403, json!({})), "NotSent Forbidden -"),
        (reply(404, json!({"errors": "Not Found"})), "NotSent Config -"),
        (reply(429, json!({})), "NotSent Throttled -"),
        (reply(502, json!({})), "Unknown UnknownOutcome -"),
        (reply(503, json!({})), "NotSent Transient -"),
        (answer(200, &[], "<html>"), "Unknown UnknownOutcome -"),
    ];
    for (given, expected) in table {
        let shown = format!("{given:?}");
        let fake = Fake::new([given]);
        let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(1))).await;
        assert_eq!(shorts(&outcomes), [expected], "{shown}");
    }
    for (given, expected) in
        [(lost(), "Unknown UnknownOutcome -"), (not_sent(), "NotSent Transient -")]
    {
        let fake = Fake::new([given]);
        let outcomes = channel("shopify", &shop()).push(&fake, &batch(items(1))).await;
        assert_eq!(shorts(&outcomes), [expected]);
    }
}

#[tokio::test]
async fn a_throttle_says_how_long_to_wait() {
    let fake = Fake::new([graphql_error("THROTTLED")]);
    let read = channel("shopify", &shop()).read(&fake, &[level(1)]).await;
    let error = read.unwrap_err();
    // (13 − 3) ÷ 100 points a second.
    assert_eq!((error.kind, error.retry_after_ms), (ChannelErrorKind::Throttled, Some(100)));
}

#[tokio::test]
async fn what_cannot_be_pushed_is_refused_without_a_call() {
    let mut fulfilled = item(level(1), 1, None);
    fulfilled.listing.channel_fulfilled = true;
    let mut broken = item(level(2), 1, None);
    broken.listing.fields.remove("locationId");
    let fake = Fake::new([]);
    let outcomes = channel("shopify", &shop()).push(&fake, &batch(vec![fulfilled, broken])).await;
    assert_eq!(shorts(&outcomes), ["Refused NotPushable -", "Refused InvalidValue -"]);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let grant =
        || reply(200, json!({"access_token": "new-granted", "scope": "x", "expires_in": 86399}));
    let refused = || reply(401, json!({"errors": "no"}));
    let locations = || {
        data(json!({"locations": {"pageInfo": {"hasNextPage": false, "endCursor": null},
            "nodes": [{"id": "gid://shopify/Location/9", "name": "Shop", "isActive": true,
                       "fulfillsOnlineOrders": true}]}}))
    };
    let fake = Fake::granted([refused(), grant(), locations()]);
    let connected = channel("shopify", &client_shop()).connect(&fake).await.unwrap();
    assert_eq!(connected.found["defaultLocationId"], "gid://shopify/Location/9");
    let asked = fake.asked();
    assert_eq!(asked[1].url, "https://acme.myshopify.com/admin/oauth/access_token");
    assert_eq!(fake.body(1)["grant_type"], "client_credentials");
    assert_eq!(asked[2].headers["x-shopify-access-token"], "new-granted");
    let fake = Fake::granted([refused(), grant(), refused()]);
    let error = channel("shopify", &client_shop()).connect(&fake).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Auth);
    let fake = Fake::new([reply(400, json!({"error": "invalid_client hush"}))]);
    let error = channel("shopify", &client_shop()).connect(&fake).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Auth);
    assert!(!format!("{error:?}").contains("hush"));
}

#[tokio::test]
async fn a_token_that_was_renewed_meanwhile_is_used() {
    let fake = Fake::granted([reply(401, json!({"errors": "no"})), no_nodes()])
        .renewed_meanwhile("access", "newer-granted");
    channel("shopify", &client_shop()).read(&fake, &[level(1)]).await.unwrap();
    assert_eq!(fake.asked()[1].headers["x-shopify-access-token"], "newer-granted");
}

fn offline_shop() -> Settings {
    settings(
        &[("shop", json!("acme")), ("defaultLocationId", json!("9"))],
        &[("clientId", "id"), ("clientSecret", "hush"), ("refreshToken", "r0")],
    )
}

/// A grant of expiring tokens with these numbers.
fn rotated(number: u32) -> Answer {
    reply(
        200,
        json!({"access_token": format!("a{number}"), "expires_in": 3_600, "scope": "x",
               "refresh_token": format!("r{number}"), "refresh_token_expires_in": 7_776_000}),
    )
}

fn no_nodes() -> Answer {
    data(json!({"nodes": [null]}))
}

#[tokio::test]
async fn a_refresh_token_is_replaced_with_each_use() {
    let refused = || reply(401, json!({"errors": "no"}));
    let fake = Fake::new([rotated(1), no_nodes(), refused(), rotated(2), no_nodes(), no_nodes()])
        .of(&offline_shop());
    let shop = channel("shopify", &offline_shop());
    for _ in 0..2 {
        shop.read(&fake, &[level(1)]).await.unwrap();
    }
    // After a restart the access token that was kept is good for as long as was said.
    fake.run_out();
    shop.read(&fake, &[level(1)]).await.unwrap();
    let asked = fake.asked();
    assert_eq!(fake.body(0)["grant_type"], "refresh_token");
    assert_eq!(
        (&fake.body(0)["refresh_token"], &fake.body(3)["refresh_token"]),
        (&json!("r0"), &json!("r1"))
    );
    let used = |at: usize| asked[at].headers["x-shopify-access-token"].to_str().unwrap();
    assert_eq!([used(1), used(2), used(4), used(5)], ["a1", "a1", "a2", "a2"]);
    let kept = |name: &str| fake.kept(name).unwrap();
    assert_eq!((kept("refreshToken"), kept("accessToken")), ("r2".into(), "a2".into()));
    assert_eq!(kept("accessTokenExpiresAt"), "2026-11-23T10:30:46.000Z");
    assert_eq!(kept("refreshTokenExpiresAt"), "2027-02-21T09:30:46.000Z");
}

#[tokio::test]
async fn a_new_token_that_cannot_be_kept_is_not_used() {
    let mut fake = Fake::new([rotated(1), rotated(1), no_nodes()]).of(&offline_shop());
    fake.keeps_nothing = true;
    let shop = channel("shopify", &offline_shop());
    let error = shop.read(&fake, &[level(1)]).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Transient);
    assert!(!format!("{error:?}").contains("a1"));
    fake.keeps_nothing = false;
    shop.read(&fake, &[level(1)]).await.unwrap();
    // The refresh token before is good until its replacement is used.
    assert_eq!(fake.body(1)["refresh_token"], "r0");
    assert_eq!(fake.asked().len(), 3);
}

#[tokio::test]
async fn absent_is_never_zero() {
    let level_of =
        |available: i64| json!({"quantities": [{"name": "available", "quantity": available}]});
    let id = |n: u64| format!("gid://shopify/InventoryItem/{n}");
    let nodes = json!({"nodes": [
        {"id": id(1), "tracked": true, "inventoryLevel": level_of(-2)},
        {"id": id(2), "tracked": false, "inventoryLevel": level_of(0)},
        {"id": id(3), "tracked": true, "inventoryLevel": null},
        null,
    ]});
    let fake = Fake::new([data(nodes)]);
    let listings: Vec<Listing> = (1..=4).map(level).collect();
    let readings = channel("shopify", &shop()).read(&fake, &listings).await.unwrap();
    assert_eq!(readings[0], Reading::Quantity(-2));
    assert!(readings[1..].iter().all(|reading| matches!(reading, Reading::Unknown(_))));
    assert_eq!(fake.body(0)["variables"]["location"], "gid://shopify/Location/9");
}

fn variant(number: u64, duplicates: u64, levels: &[(u64, i64)], more: Option<&str>) -> Value {
    let level = |(location, available): &(u64, i64)| {
        json!({"location": {"id": format!("gid://shopify/Location/{location}")},
               "quantities": [{"name": "available", "quantity": available}]})
    };
    let levels: Vec<Value> = levels.iter().map(level).collect();
    json!({"id": format!("gid://shopify/ProductVariant/{number}"), "sku": "A",
        "displayName": "Shirt - Red",
        "inventoryItem": {"id": format!("gid://shopify/InventoryItem/{number}"), "tracked": true,
            "duplicateSkuCount": duplicates, "inventoryLevels": {
                "pageInfo": {"hasNextPage": more.is_some(), "endCursor": more}, "nodes": levels}}})
}

fn variants(nodes: &[Value], more: bool) -> Answer {
    data(json!({"productVariants": {"pageInfo": {"hasNextPage": more}, "nodes": nodes}}))
}

/// Reads one page and says of each entry: item, location, reading, whether it is a duplicate.
async fn entries_of(settings: &Settings, script: Vec<Answer>) -> Vec<String> {
    let page = channel("shopify", settings).catalogue(&Fake::new(script), None).await.unwrap();
    let last = |text: Option<&String>| {
        text.map_or("-".to_owned(), |text| text.rsplit('/').next().unwrap().to_owned())
    };
    let entry = |entry: &trueup_channels::CatalogueEntry| {
        let number = match &entry.reading {
            Reading::Quantity(quantity) => quantity.to_string(),
            Reading::Unknown(_) => "?".to_owned(),
        };
        let (item, location) = (&entry.fields["inventoryItemId"], entry.fields.get("locationId"));
        let mark = if entry.duplicate { " duplicate" } else { "" };
        format!("{}@{} {number}{mark}", last(Some(item)), last(location))
    };
    page.items.iter().map(entry).collect()
}

#[tokio::test]
async fn the_catalogue_has_a_listing_for_each_place_and_one_to_map() {
    let with = |levels: &[(u64, i64)]| vec![variants(&[variant(5, 0, levels, None)], false)];
    let bare = settings(&[("shop", json!("acme"))], &[("accessToken", "t")]);
    let table: [(&Settings, Vec<Answer>, &[&str]); 7] = [
        (&shop(), with(&[(7, 3), (9, -1)]), &["5@9 -1", "5@7 3 duplicate"]),
        (&shop(), with(&[(7, 3)]), &["5@7 3"]),
        // Neither is the connection's: people say which.
        (&shop(), with(&[(6, 2), (7, 3)]), &["5@6 2 duplicate", "5@7 3 duplicate"]),
        (&shop(), with(&[]), &["5@9 ?"]),
        (&bare, with(&[(7, 3)]), &["5@7 3"]),
        (&bare, with(&[]), &["5@- ?"]),
        (&shop(), vec![variants(&[variant(5, 1, &[(9, 3)], None)], false)], &["5@9 3 duplicate"]),
    ];
    for (settings, script, expected) in table {
        assert_eq!(entries_of(settings, script).await, expected);
    }
    // An item that more places stock than the page shows.
    let more = json!({"nodes": [{"id": "gid://shopify/InventoryItem/5", "inventoryLevels": {
        "pageInfo": {"hasNextPage": false, "endCursor": null},
        "nodes": [{"location": {"id": "gid://shopify/Location/9"},
                   "quantities": [{"name": "available", "quantity": 8}]}]}}]});
    let script = vec![variants(&[variant(5, 0, &[(7, 3)], Some("c"))], false), data(more)];
    assert_eq!(entries_of(&shop(), script).await, ["5@9 8", "5@7 3 duplicate"]);
}

#[tokio::test]
async fn the_catalogue_is_walked_by_id() {
    let page = || variants(&[variant(8, 0, &[(9, 3)], None), variant(6, 0, &[], None)], true);
    let fake = Fake::new([graphql_error("MAX_COST_EXCEEDED"), page()]);
    let read = channel("shopify", &shop()).catalogue(&fake, Some("5")).await.unwrap();
    assert_eq!(
        (read.next.as_deref(), read.items[0].title.as_deref()),
        (Some("8"), Some("Shirt - Red"))
    );
    let asked = |at: usize| fake.body(at)["variables"].clone();
    assert_eq!(asked(0), json!({"first": 250, "query": "id:>5"}));
    assert_eq!(asked(1), json!({"first": 100, "query": "id:>5"}));
    // A walk that does not go on would go on for ever.
    let error = channel("shopify", &shop()).catalogue(&Fake::new([page()]), Some("8")).await;
    assert_eq!(error.unwrap_err().kind, ChannelErrorKind::Protocol);
}

#[tokio::test]
async fn an_order_tells_what_is_sold_and_what_came_back() {
    let line = |id: u64, quantity: u64, current: u64| {
        json!({"id": format!("gid://shopify/LineItem/{id}"), "sku": "A", "quantity": quantity,
               "currentQuantity": current, "variant": {"id": "gid://shopify/ProductVariant/5",
               "inventoryItem": {"id": "gid://shopify/InventoryItem/1"}}})
    };
    let page = json!({"orders": {"pageInfo": {"hasNextPage": false, "endCursor": null}, "nodes": [{
        "id": "gid://shopify/Order/77", "legacyResourceId": "77",
        "updatedAt": "2026-11-23T09:00:00Z", "cancelledAt": null,
        "lineItems": {"pageInfo": {"hasNextPage": true, "endCursor": "more"},
                      "nodes": [line(1, 3, 1)]}}]}});
    let more = json!({"nodes": [{"lineItems": {
        "pageInfo": {"hasNextPage": false, "endCursor": null}, "nodes": [line(2, 2, 2)]}}]});
    let refunds = json!({"nodes": [{"id": "gid://shopify/Order/77", "refunds": [{
        "id": "gid://shopify/Refund/1", "refundLineItems": {"nodes": [
            {"quantity": 1, "restockType": "NO_RESTOCK",
             "lineItem": {"id": "gid://shopify/LineItem/1"}},
            {"quantity": 1, "restockType": "RETURN",
             "lineItem": {"id": "gid://shopify/LineItem/1"}}]}}]}]});
    let fake = Fake::new([data(page.clone()), data(more.clone()), data(refunds)]);
    let since = Timestamp::from_micros(1_795_426_246_000_000);
    let page_read = channel("shopify", &shop()).orders(&fake, since, None).await.unwrap();
    let order = &page_read.items[0];
    assert_eq!((order.order_id.as_str(), order.lines[0].line_id.as_str()), ("77", "1"));
    let totals: Vec<(u64, u64)> =
        order.lines.iter().map(|line| (line.state.sold, line.state.restocked)).collect();
    // Two units are gone from line 1, one of them for good.
    assert_eq!(totals, [(3, 1), (2, 0)]);
    let query = fake.body(0)["variables"]["query"].clone();
    assert_eq!(query, "updated_at:>='2026-11-23T09:30:46.000Z'");
    // Without the refunds it is not known which units came back.
    let fake = Fake::new([data(page), data(more), graphql_error("undefinedField")]);
    let error = channel("shopify", &shop()).orders(&fake, since, None).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Bug);
}

#[tokio::test]
async fn only_missing_topics_are_subscribed() {
    let url = "https://trueup.example/upstream/webhooks/o/shopify";
    let listed = json!({"webhookSubscriptions": {"nodes": [
        {"id": "gid://shopify/WebhookSubscription/1", "topic": "ORDERS_CREATE", "uri": url},
        {"id": "gid://shopify/WebhookSubscription/2", "topic": "ORDERS_UPDATED",
         "uri": "https://elsewhere.example/"}]}});
    let made = |errors: Value| {
        data(json!({"webhookSubscriptionCreate": {
            "webhookSubscription": null, "userErrors": errors}}))
    };
    let taken = json!([{"field": null,
        "message": "Address for this topic has already been taken"}]);
    let mut script = vec![data(listed.clone()), made(taken)];
    script.extend((0..7).map(|_| made(json!([]))));
    let fake = Fake::new(script);
    let topics = channel("shopify", &shop()).subscribe(&fake, url).await.unwrap();
    assert_eq!(topics.len(), 9);
    assert_eq!(fake.body(1)["variables"]["topic"], "ORDERS_UPDATED");
    let asked = &fake.body(1)["variables"]["sub"];
    assert_eq!((&asked["uri"], &asked["format"]), (&json!(url), &json!("JSON")));
    // What is read of a body is asked for, and nothing of the buyer.
    let fields = asked["includeFields"].as_array().unwrap();
    assert!(fields.contains(&json!("line_items.current_quantity")), "{fields:?}");
    let buyers = ["customer", "email", "phone", "address", "note", "name", "browser", "client"];
    let told: String = fields.iter().map(|field| field.as_str().unwrap()).collect();
    assert!(buyers.iter().all(|word| !told.contains(word)), "{told}");
    let fake = Fake::new([data(listed)]);
    let told = channel("shopify", &shop()).subscribed(&fake, url).await.unwrap().unwrap();
    assert_eq!(told, ["ORDERS_CREATE"]);
}

#[tokio::test]
async fn our_subscriptions_are_taken_back_and_nobody_elses() {
    let url = "https://trueup.example/upstream/webhooks/o/shopify";
    let listed = json!({"webhookSubscriptions": {"nodes": [
        {"id": "gid://shopify/WebhookSubscription/1", "topic": "ORDERS_CREATE", "uri": url},
        {"id": "gid://shopify/WebhookSubscription/2", "topic": "ORDERS_UPDATED", "uri": url},
        {"id": "gid://shopify/WebhookSubscription/3", "topic": "ORDERS_CREATE",
         "uri": "https://elsewhere.example/"}]}});
    let gone = |errors: Value| {
        data(json!({"webhookSubscriptionDelete": {
            "deletedWebhookSubscriptionId": null, "userErrors": errors}}))
    };
    let missing = json!([{"field": ["id"], "message": "Webhook subscription does not exist"}]);
    let fake = Fake::new([data(listed.clone()), gone(json!([])), gone(missing)]);
    channel("shopify", &shop()).unsubscribe(&fake, url).await.unwrap();
    let ids: Vec<Value> = (1..3).map(|at| fake.body(at)["variables"]["id"].clone()).collect();
    assert_eq!(ids, [1, 2].map(|id| json!(format!("gid://shopify/WebhookSubscription/{id}"))));
    let no = json!([{"field": ["id"], "message": "not yours"}]);
    let fake = Fake::new([data(listed), gone(no)]);
    assert!(channel("shopify", &shop()).unsubscribe(&fake, url).await.is_err());
}

fn signed(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

async fn verify(settings: &Settings, pairs: &[(&str, &str)], body: &str) -> String {
    let map = headers(pairs);
    let request = WebhookRequest { headers: &map, body: body.as_bytes() };
    match channel("shopify", settings).verify_webhook(&Fake::new([]), request).await {
        Ok(verified) => format!("{} {}", verified.topic, verified.delivery_id),
        Err(WebhookError::Malformed(_)) => "malformed".into(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_webhook_is_let_in_by_its_signature_over_the_raw_bytes() {
    let body = r#"{"id": 1}"#;
    let good = signed("hush", body);
    let (id, our) =
        (("x-shopify-webhook-id", "d-1"), ("x-shopify-shop-domain", "acme.myshopify.com"));
    let topic = ("x-shopify-topic", "orders/create");
    let other = ("x-shopify-shop-domain", "other.myshopify.com");
    let rotated = settings(
        &[("shop", json!("acme"))],
        &[("accessToken", "t"), ("webhookSecret", "new"), ("webhookSecretPrevious", "hush")],
    );
    let none = settings(&[("shop", json!("acme"))], &[("accessToken", "t")]);
    let refused = "the signature does not hold";
    let hmac = "x-shopify-hmac-sha256";
    let table: [(&Settings, Vec<(&str, &str)>, &str, &str); 11] = [
        (&shop(), vec![(hmac, &good), id, our, topic], body, "orders/create d-1"),
        (&client_shop(), vec![(hmac, &good), id, our, topic], body, "orders/create d-1"),
        (&rotated, vec![(hmac, &good), id, our, topic], body, "orders/create d-1"),
        (&shop(), vec![(hmac, &good), id, our, topic], r#"{"id":1}"#, refused),
        (&shop(), vec![(hmac, &good), id, our, topic], r#"{"id": "#, refused),
        (&shop(), vec![(hmac, "%%%"), id, our, topic], body, refused),
        (&shop(), vec![id, our, topic], body, refused),
        (&none, vec![(hmac, &good), id, our, topic], body, "the connection has no webhook secret"),
        (&shop(), vec![(hmac, &good), our, topic], body, "malformed"),
        // One app's secret signs for all its shops.
        (&shop(), vec![(hmac, &good), id, other, topic], body, refused),
        (&shop(), vec![(hmac, &good), id, topic], body, "malformed"),
    ];
    for (settings, pairs, body, expected) in table {
        assert_eq!(verify(settings, &pairs, body).await, expected, "{pairs:?}");
    }
}

fn parse(topic: &str, body: &Value) -> Vec<Notice> {
    channel("shopify", &shop()).parse_webhook(topic, body.to_string().as_bytes()).unwrap()
}

#[test]
fn webhooks_become_notices() {
    let order = json!({
        "id": 77, "updated_at": "2026-11-23T10:00:00+01:00", "cancelled_at": null,
        "line_items": [
            {"id": 1, "sku": "A", "variant_id": 5, "quantity": 3, "current_quantity": 1},
            {"id": 2, "sku": "", "variant_id": null, "quantity": 1},
        ],
        "refunds": [{"id": 8, "order_id": 77, "refund_line_items": [
            {"line_item_id": 1, "quantity": 1, "restock_type": "no_restock"},
            {"line_item_id": 1, "quantity": 1, "restock_type": "return"}]}],
    });
    for topic in ["orders/create", "orders/updated", "orders/cancelled"] {
        let notice = order_of(parse(topic, &order));
        assert_eq!((notice.order_id.as_str(), notice.lines[0].line_id.as_str()), ("77", "1"));
        assert_eq!(notice.updated_at, Some(Timestamp::from_micros(1_795_424_400_000_000)));
        assert_eq!((notice.lines[0].state.sold, notice.lines[0].state.restocked), (3, 1));
        assert_eq!(notice.lines[0].fields["variantId"], "gid://shopify/ProductVariant/5");
        assert_eq!((notice.lines[1].sku.clone(), notice.lines[1].state.restocked), (None, 0));
        assert_eq!(notice.lines[1].fields, BTreeMap::new());
    }
    let refund = &order["refunds"][0];
    let notice = order_of(parse("refunds/create", refund));
    let state = notice.lines[0].state;
    assert_eq!((state.sold, state.restocked, state.part), (0, 1, Some(PartId(8))));
    let level = json!({"inventory_item_id": 1, "location_id": 9, "available": 4,
                       "updated_at": "2026-11-23T09:00:00Z"});
    for topic in ["inventory_levels/update", "inventory_levels/connect"] {
        let fields = hint_of(parse(topic, &level));
        assert_eq!(fields["inventoryItemId"], "gid://shopify/InventoryItem/1");
        assert_eq!(fields["locationId"], "gid://shopify/Location/9");
    }
    for topic in ["orders/edited", "shop/update"] {
        assert!(matches!(parse(topic, &json!({})).as_slice(), [Notice::Ignored(_)]));
    }
    assert_eq!(parse("app/uninstalled", &json!({"id": 1})), [Notice::Disconnected]);
    let shop = channel("shopify", &shop());
    let error = shop.parse_webhook("orders/create", b"[]").unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Protocol);
}

#[tokio::test]
async fn a_default_location_that_is_not_there_is_a_wrong_setting() {
    let none = json!({"locations": {"pageInfo": {"hasNextPage": false, "endCursor": null},
        "nodes": []}});
    let fake = Fake::new([data(none)]);
    let error = channel("shopify", &shop()).connect(&fake).await.unwrap_err();
    assert_eq!(error.kind, ChannelErrorKind::Config);
}

#[test]
fn outcomes_are_written_short() {
    assert_eq!(short(&trueup_channels::PushOutcome::Accepted), "Accepted");
}
