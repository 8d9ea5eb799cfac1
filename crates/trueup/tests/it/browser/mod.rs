//! The dashboard in a real browser: each screen's main task, what a screen reader and a narrow
//! screen need, and that a page asks nobody but its own server.

mod driver;
mod house;

use std::path::Path;

use serde_json::{Value, json};
use trueup_testkit::Shop;

use driver::skip;
use house::House;

use crate::process::run;

/// Every screen, by the heading that it has.
const SCREENS: [(&str, &str); 18] = [
    ("/", "Overview"),
    ("/stock", "Stock"),
    ("/stock/SKU-1", "SKU-1"),
    ("/low-stock", "Low stock"),
    ("/reservations", "Reservations"),
    ("/drift", "Drift"),
    ("/conflicts", "Conflicts"),
    ("/activity", "Activity"),
    ("/channels", "Channels"),
    ("/channels/shopify", "shopify"),
    ("/channels/shopify/listings", "Listings of shopify"),
    ("/channels/shopify/settings", "Settings of shopify"),
    ("/connect-channel?kind=amazon", "Connect Amazon"),
    ("/import", "Import counts"),
    ("/access", "Webhooks and keys"),
    ("/system", "System"),
    ("/login", "Sign in"),
    ("/stock/missing", "Not there"),
];

/// Where `.ci/axe` puts axe-core.
const AXE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/axe/package/axe.min.js");

#[tokio::test(flavor = "multi_thread")]
async fn people_sign_in_with_a_token_or_a_link_and_out_again() {
    let Some(house) = House::open().await else { return };
    let browser = &house.browser;
    browser.open(&house.url("/stock")).await;
    browser.fill("[name=org]", "acme").await;
    browser.fill("[name=credential]", "not.a.token").await;
    browser.click("#login button").await;
    browser.until("a refusal", "return document.querySelector('[role=alert]') !== null", &[]).await;
    browser.fill("[name=credential]", &house.token).await;
    browser.click("#login button").await;
    browser
        .until("the page that was asked for", "return location.pathname === '/stock'", &[])
        .await;
    browser.sees("SKU-1").await;

    let cookies = browser.cookies().await;
    let cookie = &cookies[0];
    assert_eq!((&cookie["httpOnly"], &cookie["sameSite"]), (&json!(true), &json!("Lax")));
    assert!(!cookie["value"].as_str().unwrap().contains(&house.token), "it is sealed");
    assert_eq!(browser.run("return document.cookie", &[]).await, "");

    browser.click(".who button").await;
    browser.until("the sign-in page", "return location.pathname === '/login'", &[]).await;
    browser.open(&house.url("/stock")).await;
    browser.until("no stock", "return location.pathname === '/login'", &[]).await;

    let link = house.link("inventory:read");
    browser.open(&link).await;
    browser.sees("acme").await;
    browser.click("#once button").await;
    browser.sees("Overview").await;
    // Who may only read is told what is not shown, and refused what is not allowed.
    browser.open(&house.url("/system")).await;
    browser.sees("Who may see the nodes has the scope").await;
    browser.open(&house.url("/access")).await;
    browser.sees("Who may see keys has the scope").await;
    browser.open(&house.url("/stock/SKU-1")).await;
    browser.fill("form[action$=count] [name=units]", "1").await;
    browser.click("form[action$=count] button").await;
    browser.sees("scope_missing").await;
    assert_eq!(house.on_hand("SKU-1").await, 100);
    browser.click(".who button").await;
    browser.until("the sign-in page", "return location.pathname === '/login'", &[]).await;
    browser.open(&link).await;
    browser.sees("was used").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_screen_is_sound() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    house.make_trouble().await;
    let axe = std::fs::read_to_string(AXE).ok();
    if axe.is_none() {
        skip("axe-core is not there (.ci/axe fetches it)");
    }
    for (path, heading) in SCREENS {
        for (scheme, width) in [("light", 1200), ("dark", 390)] {
            house.look_as(scheme, width).await;
            browser.open(&house.url(path)).await;
            assert_eq!(browser.text("h1").await, heading, "{path}");
            let script = "return document.documentElement.scrollWidth <= innerWidth";
            assert_eq!(browser.run(script, &[]).await, true, "{path} is wider than {width}");
            if let Some(axe) = &axe {
                assert_eq!(house.violations(axe).await, json!([]), "{path}, {scheme}");
            }
        }
        let errors = browser.errors().await;
        // A page that is not there is told by its status, which the console notes.
        assert!(errors.is_empty() || path.ends_with("missing"), "{path}: {errors:?}");
        for asked in browser.requests().await {
            let is_own = asked.starts_with(&house.url("/")) || asked.starts_with("data:");
            assert!(is_own, "{path} asks for {asked}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_follow_the_stock_while_it_is_sold() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    browser.open(&house.url("/stock")).await;
    browser
        .until("live", "return document.getElementById('live').textContent === 'live'", &[])
        .await;
    // What somebody is typing is left alone.
    browser.fill("[name='count:SKU-3']", "12").await;
    for nth in 0..20 {
        house.shop.sell("SKU-1", 1).unwrap();
        let body =
            json!({ "items": [{"sku": "SKU-2", "quantity": 1}], "orderId": format!("o-{nth}") });
        house.client.must("POST", "/inventory/reserve", Some(body)).await;
    }
    house.must_count("SKU-3", 77).await;
    for (sku, on_hand, reserved, available) in [("SKU-1", 80, 0, 80), ("SKU-2", 100, 20, 80)] {
        browser
            .until(sku, ROW_SHOWS, &[json!(sku), json!(on_hand), json!(reserved), json!(available)])
            .await;
        let view = house.client.must("GET", &format!("/inventory/{sku}"), None).await;
        assert_eq!((&view["quantity"], &view["available"]), (&json!(on_hand), &json!(available)));
    }
    browser.until("the channel's number", CHANNEL_SHOWS, &[json!("SKU-2"), json!(80)]).await;
    assert_eq!(house.shop.quantity("SKU-2"), Some(80));
    let typed = "return document.querySelector(\"[name='count:SKU-3']\").value";
    assert_eq!(browser.run(typed, &[]).await, "12");
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

/// Whether a run has ended well.
const COMPLETED: &str = "return document.body.innerText.includes('completed')";
/// Whether the row of a SKU shows three numbers.
const ROW_SHOWS: &str = "
    const row = document.querySelector(`tr[data-sku='${arguments[0]}']`);
    const shown = [...row.querySelectorAll('[data-of]')].map((one) => Number(one.value ?? one.textContent));
    return JSON.stringify(shown) === JSON.stringify([...arguments].slice(1, 4));";
const CHANNEL_SHOWS: &str = "
    const cell = document.querySelector(`[data-live='shopify ${arguments[0]}']`);
    return Number(cell.textContent) === arguments[1];";

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_found_counted_and_changed() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    browser.open(&house.url("/stock")).await;
    // The first step by keyboard passes the screens by.
    browser.type_into("body", "\u{e004}").await;
    browser.until("the way past", "return document.activeElement.matches('.skip')", &[]).await;
    // "/" leads to the search.
    browser.type_into("body", "/").await;
    browser.until("the search", "return document.activeElement.name === 'search'", &[]).await;
    browser.type_into("[name=search]", "SKU-4\n").await;
    let only = "return [...document.querySelectorAll('tr[data-sku]')].map((row) => row.dataset.sku).join() === 'SKU-4'";
    browser.until("SKU-4 alone", only, &[]).await;
    browser.fill("[name='count:SKU-4']", "33").await;
    browser.fill("[name=reason]", "shelf").await;
    browser.click("fieldset button").await;
    browser.sees("The counts are booked.").await;
    assert_eq!(house.on_hand("SKU-4").await, 33);

    browser.open(&house.url("/stock/SKU-4")).await;
    browser.fill("form[action$=adjust] [name=units]", "-3").await;
    browser.fill("form[action$=adjust] [name=reason]", "broken").await;
    // Sent twice from one page, as by an impatient hand, it is one change.
    let twice = "
        const form = document.querySelector('form[action$=adjust]');
        const send = () => fetch(form.action, { method: 'POST', body: new URLSearchParams(new FormData(form)) });
        const end = arguments[arguments.length - 1];
        Promise.all([send(), send()]).then((all) => end(all.every((answer) => answer.ok)));";
    assert_eq!(browser.run_async(twice).await, true);
    browser.click("form[action$=adjust] button").await;
    browser.sees("The change is booked.").await;
    assert_eq!(house.on_hand("SKU-4").await, 30);
    browser.sees("broken").await;
    browser.fill("form[action$=adjust] [name=units]", "-31").await;
    browser.click("form[action$=adjust] button").await;
    browser.sees("insufficient_stock").await;
    browser.click("main .button").await;
    browser.fill("form[action$=count] [name=units]", "50").await;
    browser.click("form[action$=count] [name=publish]").await;
    browser.click("form[action$=count] button").await;
    browser.sees("The count is booked.").await;
    browser.fill("[name=lowStockThreshold]", "60").await;
    browser.fill("[name=safetyStock]", "4").await;
    browser.click("form[action$=settings] button").await;
    browser.sees("The settings are kept.").await;
    let sku = house.client.must("GET", "/inventory/SKU-4", None).await;
    let set = (number(&sku, "quantity"), number(&sku, "safetyStock"), &sku["lowStock"]);
    assert_eq!(set, (50, 4, &json!(true)));
    browser.click("form[action$='shopify/push'] button").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    assert_eq!(house.shop.quantity("SKU-4"), Some(46));

    browser.open(&house.url("/stock")).await;
    browser.click("details summary").await;
    browser.fill("[name=sku]", "NEW 2/3").await;
    browser.fill("[name=units]", "6").await;
    browser.click("details button").await;
    browser.sees("The count is booked.").await;
    assert_eq!(browser.text("h1").await, "NEW 2/3");
    browser.open(&house.url("/stock")).await;
    browser.click("details summary").await;
    browser.fill("[name=sku]", "SKU-1").await;
    browser.fill("[name=units]", "6").await;
    browser.click("details button").await;
    browser.sees("There is such a SKU already").await;
    assert_eq!(house.on_hand("SKU-1").await, 100);
    browser.open(&house.url("/stock/SKU-4")).await;
    browser.until("told", "return document.querySelector('[data-live=listings]').innerText.includes('50 on hand − 4 safety stock = 46')", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_reservations_and_channels_are_worked_on() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    browser.open(&house.url("/conflicts")).await;
    browser.sees("Nothing waits for a decision.").await;
    // It comes while somebody looks.
    house.make_trouble().await;
    browser.sees("told 100, shows 93: 7 fewer by itself").await;
    browser.open(&house.url("/drift")).await;
    browser.sees("93 for 100").await;
    browser.click("button[value=pull]").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    browser.sees("SKU-5").await;
    browser.open(&house.url("/conflicts")).await;
    browser.click("[name=id]").await;
    browser.fill("[name=note]", "shelf looked at").await;
    browser.click("button[value=channel]").await;
    browser.sees("What was chosen is resolved.").await;
    browser.sees("Nothing waits for a decision.").await;
    assert_eq!(house.on_hand("SKU-5").await, 93);

    browser.open(&house.url("/reservations")).await;
    browser.sees("cart-1").await;
    browser.fill("[name=sku]", "SKU-2").await;
    browser.click("main [role=search] button").await;
    browser.sees("There are none.").await;
    browser.fill("[name=sku]", "SKU-1").await;
    browser.click("main [role=search] button").await;
    browser.sees("cart-1").await;
    browser.click("form[action$=extend] button").await;
    browser.sees("It holds for another 15 minutes").await;
    browser.click("form[action$=release] button").await;
    browser.sees("The stock is free again.").await;
    browser.sees("There are none.").await;

    browser.open(&house.url("/channels")).await;
    browser.click("main th a").await;
    browser.click("form[action$=pause] button").await;
    browser.sees("The channel is paused").await;
    let channel = house.client.must("GET", "/channels/shopify", None).await;
    assert_eq!(channel["state"], "paused");
    browser.click("form[action$=resume] button").await;
    browser.sees("The channel goes on.").await;
    browser.click("form[action$=look] button").await;
    browser.sees("changing nothing").await;
    browser.until("the run's end", COMPLETED, &[]).await;

    browser.open(&house.url("/")).await;
    browser.sees("units reserved").await;
    let bars = "return document.querySelectorAll('.spark rect').length > 0";
    browser.until("what was reserved", bars, &[]).await;
    browser.open(&house.url("/low-stock")).await;
    browser.sees("SKU-6").await;
    browser.sees("Days of cover").await;
    // Who did what to channels is kept.
    browser.open(&house.url("/activity?operation=administration")).await;
    browser.sees("action channel_resumed · by cli").await;
    browser.sees("action channel_paused · by cli").await;
    browser.open(&house.url("/activity?operation=inventory_conflict")).await;
    browser.sees("resolved").await;
    browser.open(&house.url("/system")).await;
    browser.sees("this one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_connected_changed_and_mapped() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    let (vendor, config) = house.second_shop().await;
    browser.open(&house.url("/channels")).await;
    browser.click("a[href$='kind=shopify']").await;
    browser.fill("[name=id]", "outlet").await;
    browser.fill("[name=shop]", config["shop"].as_str().unwrap()).await;
    browser.fill("[name=defaultLocationId]", config["defaultLocationId"].as_str().unwrap()).await;
    browser.fill("[name=endpoint]", &vendor.url).await;
    browser.fill("[name='credentials.accessToken']", "shpat_wrong").await;
    browser.click("main button.main").await;
    browser.until("a refusal", "return document.querySelector('.notice.bad') !== null", &[]).await;
    browser.open(&house.url("/connect-channel?kind=shopify")).await;
    browser.fill("[name=id]", "outlet").await;
    browser.fill("[name=shop]", config["shop"].as_str().unwrap()).await;
    browser.fill("[name=defaultLocationId]", config["defaultLocationId"].as_str().unwrap()).await;
    browser.fill("[name=endpoint]", &vendor.url).await;
    let token = config["credentials"]["accessToken"].as_str().unwrap();
    browser.fill("[name='credentials.accessToken']", token).await;
    browser.fill("[name=buffer]", "2").await;
    browser.click("main button.main").await;
    browser.sees("The channel is connected").await;
    assert!(!browser.text("html").await.contains(token), "credentials are never shown");

    browser.click("a[href$=settings]").await;
    browser
        .until("a form", "return document.querySelector('[name=buffer]')?.value === '2'", &[])
        .await;
    browser.fill("[name=buffer]", "3").await;
    browser.click("main button.main").await;
    browser.sees("The channel is connected").await;
    let channel = house.client.must("GET", "/channels/outlet", None).await;
    assert_eq!((&channel["buffer"], &channel["shop"]), (&json!(3), &config["shop"]));

    browser.click("a[href$=listings]").await;
    browser.click("form[action$=discover] button").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    browser.open(&house.url("/channels/outlet/listings?status=unmapped")).await;
    browser.sees("ODD-1").await;
    browser.fill("input[name=sku]", "SKU-9").await;
    browser.click("td form button").await;
    browser.sees("The listing is mapped.").await;
    browser.open(&house.url("/stock/SKU-9")).await;
    browser.sees("100 on hand − 3 kept off this channel = 97").await;
    browser.open(&house.url("/channels/outlet/listings?status=mapped")).await;
    browser.click("form[action$=unmap] button").await;
    browser.accept_alert().await;
    browser.sees("The SKU is not mapped here any more.").await;
    vendor.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_keys_and_subscriptions_go_in() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    let file = house.file("counts.csv", "sku,quantity\nSKU-7,8\nNEW-1,3\nSKU-8,many\n");
    browser.open(&house.url("/import")).await;
    browser.type_into("[name=file]", &file).await;
    browser.click("button[value=look]").await;
    browser.sees("What would change").await;
    browser.sees("Line 4").await;
    assert_eq!(house.on_hand("SKU-7").await, 100);
    browser.click("button[value=book]").await;
    browser.sees("What was booked").await;
    assert_eq!((house.on_hand("SKU-7").await, house.on_hand("NEW-1").await), (8, 3));
    // The refused line is left to be put right.
    let left = browser.run("return document.querySelector('textarea').value", &[]).await;
    assert!(
        left.as_str().unwrap().starts_with("sku,quantity,refused_because\nSKU-8,many,"),
        "{left}"
    );
    browser.fill("textarea", "sku,quantity\nSKU-8,9\n").await;
    browser.click("button[value=book]").await;
    browser.sees("The file is booked.").await;
    assert_eq!(house.on_hand("SKU-8").await, 9);

    let export = "
        const end = arguments[arguments.length - 1];
        fetch('/stock.csv').then((answer) => answer.text()).then(end);";
    let all = browser.run_async(export).await;
    assert!(all.as_str().unwrap().contains("\nSKU-8,9,"), "{all}");

    browser.open(&house.url("/access")).await;
    browser.click("details:has([name=subject]) summary").await;
    browser.fill("[name=subject]", "till").await;
    browser.click("[value='inventory:read']").await;
    browser.click("details:has([name=subject]) button").await;
    browser.sees("shown this once").await;
    let key = browser.text(".secret").await;
    assert_eq!(house.status_with_key(&key).await, 200);
    browser.open(&house.url("/access")).await;
    assert!(!browser.text("body").await.contains(&key), "it is not shown again");
    browser.click("form[action$=revoke] button").await;
    browser.accept_alert().await;
    browser.sees("The key is revoked.").await;
    assert_eq!(house.status_with_key(&key).await, 401);

    browser.click("details:has([name=url]) summary").await;
    browser.fill("[name=url]", &house.url("/nobody")).await;
    browser.click("[value='inventory.updated']").await;
    browser.click("details:has([name=url]) button").await;
    browser.sees("shown this once").await;
    house.must_count("SKU-1", 5).await;
    browser.open(&house.url("/access")).await;
    browser.click("th a[href*=webhooks]").await;
    browser.sees("inventory.updated").await;
    browser.click("form[action$=replay] button").await;
    browser.sees("The delivery is sent again.").await;
    assert_eq!(browser.errors().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_usable_without_scripts() {
    let Some(house) = House::open().await else { return };
    let browser = &house.browser;
    browser.chromium("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    house.sign_in().await;
    assert_eq!(browser.text("#live").await, "", "no script runs");
    browser.open(&house.url("/stock?search=SKU-2")).await;
    browser.fill("[name='count:SKU-2']", "21").await;
    browser.click("fieldset button").await;
    browser.sees("The counts are booked.").await;
    assert_eq!(house.on_hand("SKU-2").await, 21);
    let file = house.file("counts.csv", "sku,quantity\nSKU-3,4\n");
    browser.open(&house.url("/import")).await;
    browser.type_into("[name=file]", &file).await;
    browser.click("button[value=book]").await;
    browser.sees("The file is booked.").await;
    assert_eq!(house.on_hand("SKU-3").await, 4);
}

/// The most bytes of the first page with all that it needs, as they come over the wire.
const FIRST_PAGE_BYTES_MAX: usize = 60_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_is_light() {
    let server = house::Shown::start().await;
    let mut bytes = 0;
    for path in ["/", "/assets/app.css", "/assets/app.js"] {
        bytes += server.bytes_of(path).await;
    }
    assert!(bytes <= FIRST_PAGE_BYTES_MAX, "{bytes} bytes");
}

/// Returns a path as text.
fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Returns the number in a field of an answer.
fn number(answer: &Value, field: &str) -> i64 {
    answer[field].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_much_is_looked_at_held_confirmed_and_undone() {
    let Some(house) = House::signed_in().await else { return };
    let browser = &house.browser;
    let count_all = async |units: i64| {
        let items: Vec<Value> =
            (1..=12).map(|nth| json!({ "sku": format!("SKU-{nth}"), "quantity": units })).collect();
        let body = json!({ "items": items });
        house.client.must("PUT", "/inventory/bulk/update", Some(body)).await;
    };
    browser.open(&house.url("/channels/shopify")).await;
    browser.fill("[name=zeroNumber]", "3").await;
    browser.click("form[action$=limits] button").await;
    browser.sees("The limits are kept.").await;
    count_all(0).await;
    browser.click("form[action$=rehearse] button").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    browser.sees("would push").await;
    browser.open(&house.url("/channels/shopify")).await;
    browser.click("form[action$=push] button").await;
    browser.sees("Held: it would zero 12 of 12 listings").await;
    assert_eq!(house.shop.quantity("SKU-1"), Some(100), "nothing is told");
    browser.open(&house.url("/")).await;
    browser.sees("Held until you decide").await;
    browser.click("section li a[href^='/activity/']").await;
    browser.click("form[action$=confirm] button").await;
    browser.sees("It is done as it was confirmed.").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    assert_eq!(house.shop.quantity("SKU-12"), Some(0));
    count_all(100).await;
    browser.click("form[action$=undo] button").await;
    browser.sees("What was shown before is shown again").await;
    browser.until("the run's end", COMPLETED, &[]).await;
    browser.sees("It undoes").await;
    assert_eq!(house.shop.quantity("SKU-12"), Some(100));

    browser.open(&house.url("/channels/shopify")).await;
    browser.fill("[name=buffer]", "4").await;
    browser.click("form[action$=try] button").await;
    browser.sees("It would change 12 listings: zero 0, lower 12, raise 0").await;
    browser.sees("0 of 0 oversells avoided").await;
    let settings = "/channels/shopify/settings";
    browser.open(&house.url(settings)).await;
    browser.fill("[name=buffer]", "100").await;
    browser.click("button.main").await;
    browser.sees("Nothing was done.").await;
    browser.sees("It would change 12 listings: zero 12").await;

    browser.open(&house.url("/stock/SKU-1")).await;
    browser.fill("form[action$=pause] [name=note]", "stocktaking").await;
    browser.click("form[action$=pause] button").await;
    browser.sees("No channel is told its number, not even zero").await;
    browser.open(&house.url("/channels")).await;
    browser.sees("stocktaking").await;
    browser.click("form[action$='/pauses/pause'] button").await;
    browser.sees("Everything is paused by cli").await;
    browser.open(&house.url("/")).await;
    browser.sees("no channel is told anything").await;
    browser.open(&house.url("/channels")).await;
    browser.click("form[action$='/pauses/resume'] button").await;
    browser.sees("It goes on").await;
    browser.open(&house.url("/stock/SKU-1?from=2026-01-01T00:00:00Z")).await;
    browser.sees("it was not there").await;
    browser.click("form[action$=resume] button").await;
    browser.sees("It goes on").await;

    let explained = run(&["explain", "SKU-1", "--org", "acme", "--url", &house.url("")]);
    let words = String::from_utf8(explained.stdout).unwrap();
    assert!(words.contains("because       100 on hand = 100"), "{words}");
    let unknown = run(&["explain", "NONE", "--org", "acme", "--url", &house.url("")]);
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("404"), "{unknown:?}");
}
