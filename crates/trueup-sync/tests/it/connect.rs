//! Connecting, mapping and discovering.

use std::collections::BTreeMap;

use base64::Engine as _;
use sha2::Digest as _;
use trueup_channels::{CatalogueEntry, Reading, Secret};
use trueup_sync::{Enable, Engine, EngineError, STATUS_LISTINGS_MAX};

use crate::fake;
use crate::house::{House, PATIENCE, channel, draft, enabling, fresh_shop, options, sku, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_setting_is_named_and_nothing_is_kept() {
    let house = House::open().await;
    let id = channel("plain");
    let enable = Enable {
        settings: BTreeMap::from([("colour".to_owned(), "red".into())]),
        ..Enable::default()
    };
    let refused = house.engine.enable(&house.org, &id, enable).await;
    let Err(EngineError::Settings(errors)) = refused else { panic!("{refused:?}") };
    let named: Vec<&str> = errors.iter().map(|error| error.setting.as_str()).collect();
    assert_eq!(named, ["colour", "shop", "credentials.token"]);
    let kind = Enable { kind: Some("woo".to_owned()), ..Enable::default() };
    let refused = house.engine.enable(&house.org, &id, kind).await;
    assert_eq!(refused, Err(EngineError::UnknownKind("woo".to_owned())));
    let (name, shop) = fresh_shop("refusing");
    shop.state().down = true;
    let refused = house.engine.enable(&house.org, &id, enabling("plain", &name)).await;
    assert!(matches!(refused, Err(EngineError::Channel(_))), "{refused:?}");
    assert_eq!(house.store.connection(&house.org, &id).await.unwrap(), None);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_and_kept_when_not_given_again() {
    let house = House::open().await;
    let (name, _) = fresh_shop("sealed");
    let id = channel("plain");
    let row = house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    let again = Enable { credentials: BTreeMap::new(), ..enabling("plain", &name) };
    house.engine.enable(&house.org, &id, again).await.unwrap();
    let other = Enable {
        credentials: BTreeMap::from([("token".to_owned(), Secret::new("SECRET-TOKEN"))]),
        ..enabling("plain", &name)
    };
    let row2 = house.engine.enable(&house.org, &id, other).await.unwrap();
    assert_eq!(row.created_at, row2.created_at);
    let debug = format!("{row2:?}");
    assert!(!debug.contains("SECRET-TOKEN"));
    assert!(!String::from_utf8_lossy(&row2.sealed_credentials).contains("SECRET-TOKEN"));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_secrets_go_to_no_other_place() {
    let house = House::open().await;
    let (name, shop) = fresh_shop("place");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    let (elsewhere, _) = fresh_shop("elsewhere");
    let without = |name: &str| Enable { credentials: BTreeMap::new(), ..enabling("plain", name) };
    let endpoint = Some("http://127.0.0.1:9".to_owned());
    for enable in [without(&elsewhere), Enable { endpoint, ..without(&name) }] {
        let refused = house.engine.enable(&house.org, &id, enable).await;
        let Err(EngineError::Settings(errors)) = refused else { panic!("{refused:?}") };
        assert_eq!(errors[0].setting, "credentials.token");
    }
    let other_kind = Enable { kind: Some("careful".to_owned()), ..enabling("careful", &name) };
    let refused = house.engine.enable(&house.org, &id, other_kind).await;
    let Err(EngineError::Settings(errors)) = refused else { panic!("{refused:?}") };
    assert_eq!(errors[0].setting, "kind");
    assert!(!shop.state().down);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_endpoint_is_refused_unless_it_is_allowed() {
    let house = House::open().await;
    let strict = trueup_sync::EngineOptions { allow_private_endpoints: false, ..options() };
    let engine = Engine::start_with(house.store.clone(), strict, fake::find).await.unwrap();
    let (name, _) = fresh_shop("private");
    for endpoint in ["http://127.0.0.1:9100", "http://localhost", "http://[::1]", "nonsense"] {
        let enable = Enable { endpoint: Some(endpoint.to_owned()), ..enabling("plain", &name) };
        let refused = engine.enable(&house.org, &channel("plain"), enable).await;
        assert!(matches!(refused, Err(EngineError::EndpointNotAllowed(_))), "{endpoint}");
    }
    assert!(engine.check_address("http://10.0.0.1/hook").await.is_err());
    engine.stop().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mappings_are_checked_all_or_none() {
    let house = House::open().await;
    let (name, _) = fresh_shop("mapping");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    let mut bad = draft("B", "b");
    bad.fields.clear();
    let drafts = vec![draft("A", "a"), bad, draft("C", "a")];
    let refused = house.engine.map(&house.org, &id, drafts).await;
    let Err(EngineError::Mapping(errors)) = refused else { panic!("{refused:?}") };
    let named: Vec<(usize, &str)> =
        errors.iter().map(|(at, error)| (*at, error.setting.as_str())).collect();
    assert_eq!(named, [(1, "id"), (2, "listing")]);
    // A SKU that the ledger does not know yet is kept and left alone.
    house.engine.map(&house.org, &id, vec![draft("LATER", "l")]).await.unwrap();
    house.settle().await;
    assert_eq!(house.listing(&id, "LATER").await.sku, None);
    house.close().await;
}

/// A listing of a shop's catalogue; one without a key lacks its identifier.
pub(crate) fn entry(key: &str, sku: Option<&str>, shown: i64) -> CatalogueEntry {
    let name = if key.starts_with('?') { "other" } else { "id" };
    CatalogueEntry {
        sku: sku.map(str::to_owned),
        title: None,
        fields: BTreeMap::from([(name.to_owned(), key.to_owned())]),
        reading: Reading::Quantity(shown),
        channel_fulfilled: false,
        duplicate: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_maps_exact_skus_and_proposes_near_ones() {
    let house = House::open().await;
    let (name, shop) = fresh_shop("discovery");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    for of in ["SKU-1", "SKU-2", "SKU-3", "ONLY-OURS"] {
        house.count(of, 5, true).await;
    }
    let entries = [
        ("1", Some("SKU-1")),
        ("2", Some("sku 2")),
        ("3a", Some("SKU-3")),
        ("3b", Some("SKU-3")),
        ("4", Some("THEIRS")),
        ("5", None),
    ];
    for (key, sku) in entries {
        shop.state().catalogue.push(entry(key, sku, 1));
        shop.state().shown.insert(key.to_owned(), 1);
    }
    let found = house.engine.discover(&house.org, &id, true, PATIENCE).await.unwrap();
    assert_eq!(found.mapped(), 0);
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    let statuses: Vec<&str> = found.proposals.iter().map(|proposal| proposal.status).collect();
    let expected = ["matched", "near_miss", "duplicate", "duplicate", "unknown_sku", "no_sku"];
    assert_eq!(statuses, expected);
    assert_eq!(found.proposals[1].suggestions, [sku("SKU-2")]);
    assert_eq!(found.mapped(), 1);
    assert!(found.unlisted.contains(&sku("ONLY-OURS")));
    house.settle().await;
    assert_eq!(shop.shown("1"), Some(5));
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!(found.proposals[0].status, "already_mapped");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_of_many_pages_is_matched_across_them_and_forgotten_when_it_is_gone() {
    let house = House::open().await;
    let (name, shop) = fresh_shop("pages");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    for of in ["A-1", "A1", "B-1", "D-1", "E-1", "OURS"] {
        house.count(of, 5, true).await;
    }
    shop.state().catalogue_page = 1;
    let entries = [
        ("1", Some("B-1")),
        ("2", Some("a.1")),
        ("3", Some("d1")),
        ("4", Some("E-1")),
        ("5", Some("B-1")),
        ("?6", Some("D-1")),
        ("7", Some(" ")),
    ];
    shop.state().catalogue = entries.map(|(key, sku)| entry(key, sku, 1)).into();
    // A page that fails in passing is asked for again.
    shop.state().catalogue_fails = 2;
    let found = house.engine.discover(&house.org, &id, true, PATIENCE).await.unwrap();
    let stands = |found: &trueup_sync::Discovery| -> Vec<(&'static str, Vec<String>)> {
        let of = |p: &trueup_sync::Proposal| {
            (p.status, p.suggestions.iter().map(ToString::to_string).collect())
        };
        found.proposals.iter().map(of).collect()
    };
    let expected = [
        ("duplicate", vec!["B-1"]),
        ("near_miss", vec!["A-1", "A1"]),
        ("near_miss", vec!["D-1"]),
        ("matched", vec![]),
        ("duplicate", vec!["B-1"]),
        ("no_sku", vec![]),
        ("incomplete", vec!["D-1"]),
    ];
    let own = |all: Vec<&str>| all.into_iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(stands(&found), expected.map(|(status, of)| (status, own(of))));
    assert_eq!(found.unlisted, ["A-1", "A1", "OURS"].map(sku));
    assert_eq!((found.run.status, found.mapped()), (trueup_store::RunStatus::Completed, 0));
    for (name, count) in [("listed", 7), ("nearMiss", 2), ("duplicate", 2), ("matched", 1)] {
        assert_eq!(found.run.counters[name], count, "{name}");
    }
    let history = house.history("inventory_discovery").await;
    assert_eq!((history.len(), history[0].status.as_str()), (1, "ok"));
    assert_eq!(history[0].run, Some(found.run.id));
    // What is gone from the catalogue is forgotten; what is mapped stays mapped.
    shop.state().catalogue.truncate(4);
    shop.state().catalogue.push(entry("2", Some("A1"), 1));
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    let words: Vec<&str> = found.proposals.iter().map(|p| p.status).collect();
    assert_eq!((words, found.mapped()), (vec!["matched", "matched", "near_miss", "matched"], 3));
    assert_eq!(found.unlisted, ["A-1", "D-1", "OURS"].map(sku));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovery_goes_on_when_nobody_waits_and_is_one_at_a_time() {
    let house = House::open().await;
    let (name, shop) = fresh_shop("long");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    house.count("A", 5, true).await;
    shop.state().catalogue_page = 1;
    shop.state().catalogue = vec![entry("1", Some("A"), 1), entry("2", Some("B"), 1)];
    shop.state().catalogue_stop_at = Some(1);
    let none = std::time::Duration::ZERO;
    let first = house.engine.discover(&house.org, &id, false, none).await.unwrap();
    assert_eq!(first.run.status, trueup_store::RunStatus::Running);
    until("the second page is asked for", || shop.state().catalogue_waits).await;
    let again = house.engine.discover(&house.org, &id, false, none).await.unwrap();
    assert_eq!(again.run.id, first.run.id);
    assert_eq!((again.proposals.len(), again.mapped(), again.unlisted.len()), (1, 0, 0));
    let refused = house.engine.discover(&house.org, &id, true, none).await;
    let run = first.run.id.clone();
    assert_eq!(refused.unwrap_err(), EngineError::DiscoveryUnderWay { run });
    shop.state().catalogue_stop_at = None;
    let done = house.engine.wait_run(&house.org, &first.run.id, PATIENCE).await.unwrap();
    assert_eq!(done.status, trueup_store::RunStatus::Completed, "{done:?}");
    assert_eq!((done.counters["mapped"], done.counters["unknownSku"]), (1, 1));
    // Connected anew, a discovery under way ends; the next one begins from the front.
    shop.state().catalogue_stop_at = Some(1);
    let cut = house.engine.discover(&house.org, &id, false, none).await.unwrap().run.id;
    assert_ne!(cut, first.run.id);
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    let cut = house.engine.wait_run(&house.org, &cut, PATIENCE).await.unwrap();
    assert_eq!(cut.status, trueup_store::RunStatus::Failed);
    shop.state().catalogue_stop_at = None;
    shop.state().down = true;
    let failed = house.engine.discover(&house.org, &id, false, PATIENCE).await;
    assert!(matches!(failed, Err(EngineError::Channel(_))), "{failed:?}");
    shop.state().down = false;
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!(found.proposals[0].status, "already_mapped");
    assert_eq!(house.history("inventory_discovery").await.len(), 4);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_with_what_is_owed() {
    let house = House::open().await;
    let (id, shop) = house.connect("plain", &[("A", "a", 1)], |_| {}).await;
    house.count("A", 3, true).await;
    house.settle().await;
    house.engine.stop().await;
    house.count("A", 4, true).await;
    let engine = Engine::start_with(house.store.clone(), options(), fake::find).await.unwrap();
    assert!(engine.quiesce(crate::house::PATIENCE).await);
    assert_eq!(shop.shown("a"), Some(4));
    engine.remove(&house.org, &id).await.unwrap();
    let gone = engine.remove(&house.org, &id).await;
    assert_eq!(gone, Err(EngineError::ChannelNotFound(id)));
    engine.stop().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vendor_that_offers_pkce_is_sent_a_challenge_that_its_verifier_answers() {
    let house = House::open().await;
    let public_url = Some("https://trueup.example/".to_owned());
    let public = trueup_sync::EngineOptions { public_url, ..options() };
    let engine = Engine::start_with(house.store.clone(), public, fake::find).await.unwrap();
    let (name, shop) = fresh_shop("asking");
    let id = channel("asking");
    let enable = Enable { credentials: BTreeMap::new(), ..enabling("asking", &name) };
    let waiting = engine.enable(&house.org, &id, enable).await.unwrap();
    assert_eq!(waiting.reason.unwrap().code, trueup_sync::AUTHORIZATION_NEEDED);
    let resumed = engine.resume(&house.org, &id).await;
    assert_eq!(resumed, Err(EngineError::AuthorizationNeeded));
    let page = engine.consent_page(&house.org, &id, "asking").await.unwrap();
    let url = url::Url::parse(&page.url).unwrap();
    let value = |wanted: &str| {
        let found = url.query_pairs().find(|(name, _)| name == wanted).unwrap();
        found.1.into_owned()
    };
    assert_eq!(value("r"), "https://trueup.example/connect/asking/callback");
    let back = [("state".to_owned(), value("s")), ("code".to_owned(), "c".to_owned())];
    let other = engine.finish_consent("plain", &back).await;
    assert!(matches!(other, Err(EngineError::ConsentState)), "{other:?}");
    let page = engine.consent_page(&house.org, &id, "asking").await.unwrap();
    let url = url::Url::parse(&page.url).unwrap();
    let value = |wanted: &str| {
        let found = url.query_pairs().find(|(name, _)| name == wanted).unwrap();
        found.1.into_owned()
    };
    let back = [("state".to_owned(), value("s")), ("code".to_owned(), "c".to_owned())];
    let (org, row) = engine.finish_consent("asking", &back).await.unwrap();
    assert_eq!((org, row.id, row.reason), (house.org.clone(), id.clone(), None));
    let verifier = shop.state().verifier.clone().unwrap();
    assert_eq!(verifier.len(), 43);
    assert!(!page.url.contains(&verifier));
    let digest = sha2::Sha256::digest(verifier.as_bytes());
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
    assert_eq!(value("c"), encoded);
    let none = engine.consent_page(&house.org, &channel("plain"), "plain").await;
    assert_eq!(none, Err(EngineError::NoConsent("plain".to_owned())));
    engine.stop().await;
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_looks_at_so_many_listings_and_says_when_there_are_more() {
    let house = House::open().await;
    let (id, _) = house.connect("plain", &[], |enable| enable.sync_inventory = false).await;
    house.settle().await;
    // One SKU with many listings, none of which was told anything yet.
    house.count("A", 5, false).await;
    let drafts = (0..STATUS_LISTINGS_MAX).map(|at| draft("A", &format!("{at}"))).collect();
    house.engine.map(&house.org, &id, drafts).await.unwrap();
    let status = async || house.engine.status(&house.org, &id).await.unwrap();
    assert!(!status().await.at_least, "all were looked at");
    house.engine.map(&house.org, &id, vec![draft("A", "one more")]).await.unwrap();
    assert!(status().await.at_least);
    house.close().await;
}
