//! Connecting, mapping and discovering.

use std::collections::BTreeMap;

use trueup_channels::{CatalogueEntry, Reading, Secret};
use trueup_store::Store;
use trueup_sync::{Enable, Engine, EngineError};

use crate::fake;
use crate::house::{House, channel, draft, enabling, fresh_shop, options, sku};

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

#[tokio::test(flavor = "multi_thread")]
async fn discovery_maps_exact_skus_and_proposes_near_ones() {
    let house = House::open().await;
    let (name, shop) = fresh_shop("discovery");
    let id = channel("plain");
    house.engine.enable(&house.org, &id, enabling("plain", &name)).await.unwrap();
    for of in ["SKU-1", "SKU-2", "SKU-3", "ONLY-OURS"] {
        house.count(of, 5, true).await;
    }
    let entry = |key: &str, sku: Option<&str>| CatalogueEntry {
        sku: sku.map(str::to_owned),
        title: None,
        fields: BTreeMap::from([("id".to_owned(), key.to_owned())]),
        reading: Reading::Quantity(1),
        channel_fulfilled: false,
        duplicate: false,
    };
    let entries = [
        ("1", Some("SKU-1")),
        ("2", Some("sku 2")),
        ("3a", Some("SKU-3")),
        ("3b", Some("SKU-3")),
        ("4", Some("THEIRS")),
        ("5", None),
    ];
    for (key, sku) in entries {
        shop.state().catalogue.push(entry(key, sku));
        shop.state().shown.insert(key.to_owned(), 1);
    }
    let found = house.engine.discover(&house.org, &id, true).await.unwrap();
    assert_eq!(found.mapped, 0);
    let found = house.engine.discover(&house.org, &id, false).await.unwrap();
    let statuses: Vec<&str> = found.proposals.iter().map(|proposal| proposal.status).collect();
    let expected = ["matched", "near_miss", "duplicate", "duplicate", "unknown_sku", "no_sku"];
    assert_eq!(statuses, expected);
    assert_eq!(found.proposals[1].suggestion, Some(sku("SKU-2")));
    assert_eq!(found.mapped, 1);
    assert!(found.unlisted.contains(&sku("ONLY-OURS")));
    house.settle().await;
    assert_eq!(shop.shown("1"), Some(5));
    let found = house.engine.discover(&house.org, &id, false).await.unwrap();
    assert_eq!(found.proposals[0].status, "already_mapped");
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
