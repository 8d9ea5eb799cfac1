//! Connections, and what goes with them: consents and bulk batches.

use std::collections::BTreeSet;

use trueup_core::{ChannelId, Org};
use trueup_store::{
    CONSENTS_MAX, CatalogueQuery, Connection, Consent, Feed, FeedItem, InboxItem, ListingQuery,
    UnmappedLine,
};

use crate::catalogue::seen;
use crate::making::{
    Here, at, channel, connection, full_connection, key, mapping, org, other, sku,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_comes_back_as_it_was_put_and_is_replaced_whole() {
    let here = Here::new().await;
    for row in [connection("b"), full_connection("b"), connection("b")] {
        here.put_connection(&org(), row.clone()).await.unwrap();
        assert_eq!(here.connection(&org(), &row.id).await.unwrap(), Some(row));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_listed_by_the_bytes_of_their_ids_and_by_org() {
    let here = Here::new().await;
    let ids = ["B", "a", "a-1", "a1", "a_1", "b"];
    for id in ids.iter().rev() {
        here.put_connection(&org(), full_connection(id)).await.unwrap();
    }
    here.put_connection(&other(), connection("a")).await.unwrap();
    let found = here.connections(&org()).await.unwrap();
    assert_eq!(found, ids.map(full_connection));
    assert_eq!(here.connection(&other(), &channel("b")).await.unwrap(), None);
    let all = here.all_connections().await.unwrap();
    let ours = ids.map(|id| (org(), full_connection(id)));
    assert_eq!(all[..ours.len()], ours);
    assert_eq!(all[ours.len()..], [(other(), connection("a"))]);
}

/// A vendor's answer may hold any character; none of them may keep its trouble from being noted.
#[tokio::test(flavor = "multi_thread")]
async fn words_with_a_nul_are_kept_as_well_as_they_can_be() {
    let here = Here::new().await;
    let words = "nul \0 é \u{10ffff}";
    let row = Connection { last_error: Some((at(3), words.to_owned())), ..connection("a") };
    here.put_connection(&org(), row).await.unwrap();
    let found = here.connection(&org(), &channel("a")).await.unwrap().unwrap();
    let (_, said) = found.last_error.unwrap();
    assert_eq!(said.replace('\0', "\u{fffd}"), words.replace('\0', "\u{fffd}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_connection_takes_what_is_of_it_and_of_no_other() {
    let here = Here::new().await;
    for org in [org(), other()] {
        for id in ["a", "b"] {
            here.put_connection(&org, connection(id)).await.unwrap();
            here.put(&org, &[mapping(id, "1", "A")]).await;
            let read = seen("1", Some("A"), trueup_store::Match::Matched, "r");
            here.put_channel_listings(&org, &channel(id), vec![read]).await.unwrap();
            here.put_feed(&org, feed("f", id, 1)).await.unwrap();
            here.inbox_put(&org, webhook(id)).await.unwrap();
            here.put_unmapped_lines(&org, &channel(id), vec![unmapped()]).await.unwrap();
        }
    }
    here.put_consent(&org(), consent(1, "a")).await.unwrap();
    here.put_consent(&org(), consent(2, "b")).await.unwrap();
    here.put_consent(&other(), consent(3, "a")).await.unwrap();
    assert!(here.delete_connection(&org(), &channel("a")).await.unwrap());
    assert!(!here.delete_connection(&org(), &channel("a")).await.unwrap());
    here.check_listings(&ListingQuery::default(), &["b/1"]).await;
    let left = here.all_connections().await.unwrap();
    let left: Vec<_> = left.iter().map(|(org, row)| (org.as_str(), row.id.as_str())).collect();
    assert_eq!(left, [("acme", "b"), ("other", "a"), ("other", "b")]);
    for (org, id) in [(org(), "b"), (other(), "a"), (other(), "b")] {
        assert_eq!(kept(&here, &org, &channel(id)).await, [1; 4], "{org}/{id}");
    }
    assert_eq!(kept(&here, &org(), &channel("a")).await, [0; 4]);
    let mut waiting: Vec<_> = here
        .inbox_waiting(at(100), 9)
        .await
        .unwrap()
        .into_iter()
        .map(|(org, item)| format!("{org}/{}", item.channel))
        .collect();
    waiting.sort();
    assert_eq!(waiting, ["acme/b", "other/a", "other/b"]);
    assert_eq!(here.take_consent([1; 32]).await.unwrap(), None);
    for number in [2, 3] {
        assert!(here.take_consent([number; 32]).await.unwrap().is_some());
    }
    let none = BTreeSet::new();
    let gone = here.delete_mappings(&other(), &channel("a"), &sku("A"), none).await.unwrap();
    assert_eq!(gone, 1);
}

/// Returns how many listings, listings of the catalogue, feeds and unmapped lines a channel has.
async fn kept(here: &Here, org: &Org, id: &ChannelId) -> [usize; 4] {
    let all = CatalogueQuery { limit: 9, ..CatalogueQuery::default() };
    [
        here.listing_scopes(org, id, None, 9).await.unwrap().items.len(),
        here.channel_listings(org, id, all).await.unwrap().items.len(),
        here.feeds(org, id).await.unwrap().len(),
        here.unmapped_lines(org, id, None, 9).await.unwrap().items.len(),
    ]
}

fn webhook(on: &str) -> InboxItem {
    InboxItem {
        id: 0,
        channel: channel(on),
        delivery_id: "d".to_owned(),
        topic: "orders/create".to_owned(),
        body: vec![b'{', 0xff, b'}'],
        received_at: at(10),
        attempts: 0,
    }
}

fn unmapped() -> UnmappedLine {
    UnmappedLine {
        order_id: "1".to_owned(),
        line_id: "1".to_owned(),
        sku: None,
        fields: std::collections::BTreeMap::new(),
        sold: 2,
        restocked: 0,
        held: 0,
        cancelled: 0,
        placed_at: None,
        updated_at: None,
        since: at(7),
    }
}

pub(crate) fn consent(number: u8, on: &str) -> Consent {
    Consent {
        state_digest: [number; 32],
        channel: channel(on),
        kind: "shopify".to_owned(),
        redirect: "https://trueup.example/connect/shopify/callback".to_owned(),
        created_at: at(i64::from(number)),
        expires_at: at(i64::from(number) + 10),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_is_taken_once_and_belongs_to_its_org_and_channel() {
    let here = Here::new().await;
    here.put_consent(&org(), consent(1, "a")).await.unwrap();
    here.put_consent(&other(), consent(2, "a")).await.unwrap();
    let again = here.put_consent(&other(), consent(1, "b")).await;
    assert!(again.is_err(), "a digest is one row's, whatever the org");
    assert_eq!(here.take_consent([1; 32]).await.unwrap(), Some((org(), consent(1, "a"))));
    assert_eq!(here.take_consent([1; 32]).await.unwrap(), None);
    assert_eq!(here.take_consent([9; 32]).await.unwrap(), None);
    // The oldest of a channel is forgotten, another channel's and another org's stay.
    here.put_consent(&org(), consent(3, "b")).await.unwrap();
    let max = u8::try_from(CONSENTS_MAX).unwrap();
    for number in 10..=10 + max {
        here.put_consent(&org(), consent(number, "a")).await.unwrap();
    }
    assert_eq!(here.take_consent([10; 32]).await.unwrap(), None);
    assert!(here.take_consent([11; 32]).await.unwrap().is_some());
    assert_eq!(here.take_consent([2; 32]).await.unwrap(), Some((other(), consent(2, "a"))));
    assert_eq!(here.take_consent([3; 32]).await.unwrap(), Some((org(), consent(3, "b"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_is_taken_by_one_of_those_who_ask_at_the_same_time() {
    let here = Here::new().await;
    here.put_consent(&org(), consent(1, "a")).await.unwrap();
    let nodes = [here.another().await, here.another().await];
    let taken = nodes.iter().map(|node| node.take_consent([1; 32]));
    let taken = futures::future::try_join_all(taken).await.unwrap();
    assert_eq!(taken.iter().flatten().count(), 1);
}

pub(crate) fn feed(id: &str, on: &str, micros: i64) -> Feed {
    let item = |name: &str, earlier: Option<i64>| FeedItem {
        sku: sku(name),
        key: key(name),
        quantity: -7,
        version: 9,
        epoch: u32::MAX,
        earlier,
    };
    Feed {
        id: id.to_owned(),
        channel: channel(on),
        ticket: format!("ticket-{id}"),
        items: vec![item("B", None), item("A \"é\"", Some(3))],
        created_at: at(micros),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_are_kept_in_order_until_they_are_forgotten() {
    let here = Here::new().await;
    for row in [feed("2", "a", 20), feed("1", "a", 10), feed("3", "b", 5)] {
        here.put_feed(&org(), row).await.unwrap();
    }
    here.put_feed(&other(), feed("1", "a", 1)).await.unwrap();
    assert!(here.put_feed(&other(), feed("1", "a", 2)).await.is_err(), "it is there already");
    let (a, b) = (channel("a"), channel("b"));
    assert_eq!(here.feeds(&org(), &a).await.unwrap(), [feed("1", "a", 10), feed("2", "a", 20)]);
    assert_eq!(here.feed(&org(), &b, "3").await.unwrap(), Some(feed("3", "b", 5)));
    for nobody in ["1", "3\0"] {
        assert_eq!(here.feed(&org(), &b, nobody).await.unwrap(), None);
        here.delete_feed(&org(), &b, nobody).await.unwrap();
    }
    here.delete_feed(&org(), &a, "1").await.unwrap();
    assert_eq!(here.feeds(&org(), &a).await.unwrap(), [feed("2", "a", 20)]);
    assert_eq!(here.feeds(&org(), &b).await.unwrap(), [feed("3", "b", 5)]);
    assert_eq!(here.feeds(&other(), &a).await.unwrap(), [feed("1", "a", 1)]);
}
