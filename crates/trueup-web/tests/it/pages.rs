//! Every page and every form.

use http::StatusCode;

use crate::api::House;

/// Every screen, with something that it must show.
const SCREENS: [(&str, &str); 21] = [
    ("/", "low on stock"),
    ("/stock", "On hand of A&#60;b&#62;"),
    ("/stock/A%3Cb%3E", "50 on hand − 6 reserved − 2 safety stock − 4 kept off this channel = 38"),
    ("/low-stock", "2026-11-24 10:00:00"),
    ("/drift", "<b>+2</b> 40 for 38"),
    ("/conflicts", "Ours is right"),
    ("/reservations", "order-1"),
    ("/activity", "inventory push"),
    ("/activity/run_1", "completed"),
    ("/activity/run_2", "Held: it would zero 60 of 60 listings"),
    ("/?", "Held until you decide"),
    ("/??", "</a> by ann since"),
    ("/channels?", "Let everything go on"),
    ("/stock/A%3Cb%3E?", "Paused by bob since"),
    (
        "/stock/A%3Cb%3E?from=2026-11-23T10%3A00%3A00Z",
        "by channel sale, 3 lines</th><td class=\"n\">−7",
    ),
    ("/channels", "shopify"),
    ("/channels/shopify", "Tell it every number"),
    ("/import", "Look what would change"),
    ("/access", "API keys"),
    ("/system", "Commands decided"),
    ("/login", "Token or API key"),
];

#[tokio::test]
async fn every_screen_shows_what_the_api_says() {
    let house = House::signed_in().await;
    for (path, shown) in SCREENS {
        let page = house.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text);
        assert!(page.text.contains(shown), "{path} lacks {shown:?}: {}", page.text);
        assert!(!page.text.contains("A<b>"), "{path} writes a name as markup");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert!(!page.text.contains("style=") && !page.text.contains("onclick"), "{path}");
        let leaves = ["href=\"http", "src=\"http", "action=\"http"];
        assert!(!leaves.iter().any(|word| page.text.contains(word)), "{path} leads away");
    }
}

#[tokio::test]
async fn nobody_sees_anything_before_signing_in() {
    let house = House::new();
    for (path, _) in SCREENS.into_iter().filter(|(path, _)| *path != "/login") {
        let page = house.get(path).await;
        assert_eq!(page.status, StatusCode::SEE_OTHER, "{path}");
        assert!(page.location().starts_with("/login?back="), "{path}");
    }
    let wrong = [("org", "acme"), ("credential", "bad.bad.bad")];
    let page = house.post("/login", &wrong).await;
    assert_eq!(page.status, StatusCode::UNAUTHORIZED);
    assert!(page.text.contains("that is unauthorized"));
    assert!(!page.headers.contains_key("set-cookie"));
    let right = [("org", "acme"), ("credential", "good.good.good")];
    let page = house.post_from("cross-site", "/login", &right).await;
    assert_eq!(page.status, StatusCode::FORBIDDEN);
}

/// Where a form goes and what it says; what the API is asked then, with its method, address and
/// body; and where the browser goes next.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    (&'static str, &'static str, &'static str),
    &'static str,
);

#[tokio::test]
async fn forms_do_what_they_say_and_only_for_their_own_session() {
    let house = House::signed_in().await;
    let form = house.get("/stock").await.form();
    let cases: [Case; 15] = [
        (
            "/stock/bulk",
            &[("count:A<b>", "7"), ("was:A<b>", "50"), ("reason", "shelf")],
            (
                "PUT",
                "/sales-channel/inventory/bulk/update",
                r#"{"items":[{"sku":"A<b>","quantity":7}],"atomic":true,"reason":"shelf"}"#,
            ),
            "/stock?done=bulk",
        ),
        (
            "/stock/A%3Cb%3E/count",
            &[("units", "12"), ("location", "back"), ("publish", "1")],
            (
                "PUT",
                "/sales-channel/inventory/A%3Cb%3E",
                r#"{"quantity":12,"locationId":"back","syncToChannels":true}"#,
            ),
            "/stock/A%3Cb%3E?done=counted",
        ),
        (
            "/reservations/rsv_1/release",
            &[],
            ("POST", "/sales-channel/inventory/reservation/rsv_1/release", "{}"),
            "/reservations?done=released",
        ),
        (
            "/conflicts",
            &[("id", "7"), ("resolution", "master"), ("note", " looked ")],
            (
                "POST",
                "/sales-channel/inventory/conflicts/7/resolve",
                r#"{"resolution":"master","note":"looked"}"#,
            ),
            "/conflicts?done=resolved",
        ),
        (
            "/channels/shopify/pause",
            &[],
            ("POST", "/sales-channel/channels/shopify/disable", "{}"),
            "/channels/shopify?done=paused",
        ),
        (
            "/activity/run_2/confirm",
            &[],
            ("POST", "/sales-channel/sync/runs/run_2/confirm", "{}"),
            "/activity/run_1?done=confirmed",
        ),
        (
            "/pauses/pause",
            &[("note", "stocktaking")],
            ("POST", "/sales-channel/sync/pause", r#"{"note":"stocktaking"}"#),
            "/channels?done=stopped",
        ),
        (
            "/pauses/resume",
            &[],
            ("POST", "/sales-channel/sync/resume", "{}"),
            "/channels?done=goes-on",
        ),
        (
            "/stock/A%3Cb%3E/pause",
            &[("note", "")],
            ("POST", "/sales-channel/inventory/A%3Cb%3E/pause", "{}"),
            "/stock/A%3Cb%3E?done=stopped",
        ),
        (
            "/conflicts/7/undo",
            &[],
            ("POST", "/sales-channel/inventory/conflicts/7/undo", "{}"),
            "/conflicts?done=reopened",
        ),
        (
            "/activity/run_1/undo",
            &[],
            ("POST", "/sales-channel/sync/runs/run_1/undo", "{}"),
            "/activity/run_1?done=undone",
        ),
        (
            "/activity/run_2/cancel",
            &[],
            ("POST", "/sales-channel/sync/runs/run_2/cancel", "{}"),
            "/activity/run_1?done=cancelled",
        ),
        (
            "/channels/shopify/limits",
            &[("zeroPercent", "10"), ("zeroNumber", ""), ("changePercent", "x")],
            (
                "PUT",
                "/sales-channel/channels/shopify/blast-radius",
                r#"{"zeroPercent":10,"changePercent":"x"}"#,
            ),
            "/channels/shopify?done=limited",
        ),
        (
            "/channels/shopify/rehearse",
            &[],
            ("POST", "/sales-channel/inventory/sync/shopify", r#"{"dryRun":true}"#),
            "/activity/run_1",
        ),
        (
            "/channels/shopify/look",
            &[],
            ("POST", "/sales-channel/inventory/pull/shopify", r#"{"dryRun":true}"#),
            "/activity/run_1",
        ),
    ];
    for (path, fields, (method, address, body), then) in cases {
        let mut whole = vec![("form", form.as_str())];
        whole.extend(fields);
        let foreign = house.post_from("cross-site", path, &whole).await;
        assert_eq!(foreign.status, StatusCode::FORBIDDEN, "{path}");
        whole[0].1 = "guessed";
        assert_eq!(house.post(path, &whole).await.status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(house.wishes(), [], "{path}");
        whole[0].1 = &form;
        let page = house.post(path, &whole).await;
        assert_eq!((page.status, page.location()), (StatusCode::SEE_OTHER, then), "{path}");
        let wished = (method.to_owned(), address.to_owned(), body.to_owned());
        assert_eq!(house.wishes(), [wished], "{path}");
    }
}

#[tokio::test]
async fn what_is_refused_is_told_with_the_way_back() {
    let house = House::signed_in().await;
    let form = house.get("/stock").await.form();
    let fields = [("form", form.as_str()), ("units", "-90")];
    let page = house.post("/stock/A%3Cb%3E/adjust", &fields).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text.contains("that is insufficient_stock"));
    assert!(page.text.contains("href=\"/stock/A%3Cb%3E\""));
    let fields = [("form", form.as_str())];
    let page = house.post("/channels/shopify/settings", &fields).await;
    assert_eq!(page.status, StatusCode::CONFLICT);
    assert!(page.text.contains("It would change 60 listings: zero 60, lower 0, raise 0."));
    assert!(page.text.contains("A&#60;b&#62;") && page.text.contains(">41</td>"), "{}", page.text);
    let fields = [("form", form.as_str()), ("confirm", "1")];
    let page = house.post("/channels/shopify/settings", &fields).await;
    assert_eq!(page.location(), "/channels/shopify?done=connected");
    let page = house.get("/stock/nothing").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(page.text.contains("Not there"));
}

#[tokio::test]
async fn a_page_leads_to_the_next_with_its_filters() {
    let house = House::signed_in().await;
    let page = house.get("/stock?search=a%26b&status=low").await;
    let next = "/stock?search=a%26b&#38;status=low&#38;cursor=n%26x";
    assert!(page.text.contains(next), "{}", page.text);
    let done = house.get("/stock?done=bulk").await;
    assert!(done.text.contains("The counts are booked."));
    let other = house.get("/stock?done=%3Cscript%3E").await;
    assert!(!other.text.contains("class=\"done\""));
}

#[tokio::test]
async fn one_page_has_one_wish_however_often_it_is_sent() {
    let house = House::signed_in().await;
    let form = house.get("/stock/A%3Cb%3E").await.form();
    let fields = [("form", form.as_str()), ("units", "3")];
    let path = "/stock/A%3Cb%3E/count";
    for _ in 0..2 {
        assert_eq!(house.post(path, &fields).await.status, StatusCode::SEE_OTHER);
    }
    let keys = house.keys();
    assert!(keys.len() == 2 && keys[0] == keys[1] && !keys[0].is_empty(), "{keys:?}");
    let other = house.get("/stock/A%3Cb%3E").await.form();
    let fields = [("form", other.as_str()), ("units", "3")];
    assert_eq!(house.post(path, &fields).await.status, StatusCode::SEE_OTHER);
    assert_ne!(house.keys(), [keys[0].clone()]);
}

#[tokio::test]
async fn a_link_signs_in_once_after_a_question() {
    let house = House::new();
    let pass = |credential| [("org", "acme"), ("credential", credential), ("seconds", "60")];
    let made = house.post("/login/links", &pass("bad.bad.bad")).await;
    assert_eq!(made.status, StatusCode::UNAUTHORIZED);
    let made = house.post("/login/links", &pass("good.good.good")).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let link = made.text;
    assert!(link.starts_with("/login/once/") && !link.contains("good"), "{link}");
    // Who only looks at it does not use it up.
    assert!(house.get(&link).await.text.contains("acme"));
    let foreign = house.post_from("cross-site", &link, &[]).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    let used = house.post(&link, &[]).await;
    assert_eq!((used.status, used.location()), (StatusCode::SEE_OTHER, "/"));
    assert!(used.headers.contains_key("set-cookie"));
    let again = house.post(&link, &[]).await;
    assert_eq!(again.status, StatusCode::NOT_FOUND);
    assert!(!again.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn a_sign_out_takes_the_cookie_away() {
    let house = House::signed_in().await;
    let form = house.get("/").await.form();
    let page = house.post("/logout", &[("form", &form)]).await;
    assert_eq!((page.status, page.location()), (StatusCode::SEE_OTHER, "/login"));
    assert!(page.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test]
async fn settings_and_imports_are_looked_at_before_they_are_done() {
    let house = House::signed_in().await;
    let form = house.get("/channels/shopify").await.form();
    let fields =
        [("form", form.as_str()), ("buffer", "2"), ("percent", ""), ("conflictStrategy", "")];
    let page = house.post("/channels/shopify/try", &fields).await;
    for words in [
        "It would change 12 listings: zero 3, lower 9, raise 0; 2 conflicts.",
        "2 of 3 oversells avoided, 14 units hidden.",
        "A&#60;b&#62;",
    ] {
        assert!(page.text.contains(words), "{words}: {}", page.text);
    }
    let asked = |what: &str| {
        let path = format!("/sales-channel/channels/shopify/{what}");
        ("POST".to_owned(), path, r#"{"buffer":2}"#.to_owned())
    };
    assert_eq!(house.wishes(), [asked("what-if"), asked("backtest")]);
    let fields =
        [("form", form.as_str()), ("text", "sku,quantity"), ("publish", "1"), ("do", "look")];
    let page = house.post("/import", &fields).await;
    assert!(page.text.contains("<h3>On shopify</h3>"), "{}", page.text);
    assert!(page.text.contains("It would change 1 listings: zero 1"), "{}", page.text);
}
