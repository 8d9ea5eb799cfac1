//! Differences that wait, or waited, for an operator.

use trueup_core::{Command, ListingPush, Org, PushResult, Reconcile, Resolution, Strategy};
use trueup_store::{Conflict, Resolved, Store};

use crate::making::{Here, at, channel, connection, key, mapping, org, other, push, sku};

/// A listing that was told 10 and shows it, on a connection whose differences people settle.
pub(crate) async fn told(here: &Here, org: &Org, on: &str, listing: &str) {
    let manual = trueup_store::Connection { strategy: Some(Strategy::Manual), ..connection(on) };
    here.put_connection(org, manual).await.unwrap();
    if here.sku(org, &sku("A")).await.unwrap().is_none() {
        here.put_sku(org, "A", 10).await;
    }
    here.put(org, &[mapping(on, listing, "A")]).await;
    let sent = push(listing, 10, 1);
    let (channel, items) = (channel(on), vec![sent.clone()]);
    here.decide(org, Command::MarkSent { channel: channel.clone(), items }).await;
    let items = vec![(sent, PushResult::Applied)];
    here.decide(org, Command::Settle { channel, items }).await;
}

/// Tells what listings of a channel show.
pub(crate) async fn read(here: &Here, org: &Org, on: &str, readings: &[(&str, i64)]) {
    let reading = |(listing, observed): &(&str, i64)| trueup_core::ListingReading {
        key: key(listing),
        observed: *observed,
    };
    let reconcile = Reconcile {
        channel: channel(on),
        read_at: here.now(),
        settle_ms: 0,
        strategy: None,
        readings: readings.iter().map(reading).collect(),
    };
    here.decide(org, Command::Reconcile(reconcile)).await;
}

async fn resolve(here: &Here, org: &Org, on: &str, listing: &str) {
    let resolve = Command::Resolve {
        channel: channel(on),
        key: key(listing),
        resolution: Resolution::Master,
        note: None,
    };
    here.decide(org, resolve).await;
}

async fn list(store: &dyn Store, org: &Org, open: Option<bool>) -> Vec<Conflict> {
    store.conflicts(org, open, None, None, 99).await.unwrap().items
}

async fn count_open(store: &dyn Store, org: &Org, on: &str) -> u64 {
    store.channel_counts(org, &channel(on)).await.unwrap().conflicts
}

#[tokio::test]
async fn a_listing_has_one_open_conflict_with_its_newest_numbers() {
    let here = Here::new().await;
    told(&here, &org(), "a", "1").await;
    read(&here, &org(), "a", &[("1", 7)]).await;
    let first = list(&*here, &org(), None).await.swap_remove(0);
    here.put_sku(&org(), "A", 12).await;
    read(&here, &org(), "a", &[("1", -3)]).await;
    let again = list(&*here, &org(), None).await;
    let newest = Conflict { master: 12, expected: 12, observed: -3, ..first.clone() };
    assert_eq!(again, [Conflict { seen_at: again[0].seen_at, ..newest }]);
    assert!(again[0].seen_at > first.seen_at);
    let whole = Conflict {
        id: first.id,
        channel: channel("a"),
        key: key("1"),
        sku: sku("A"),
        master: 10,
        base: Some(10),
        expected: 10,
        observed: 7,
        opened_at: first.seen_at,
        seen_at: first.seen_at,
        resolved: None,
    };
    assert_eq!(first, whole);
    assert_eq!(here.conflict(&org(), first.id).await.unwrap(), Some(again[0].clone()));
    assert_eq!(here.conflict(&other(), first.id).await.unwrap(), None);
    assert_eq!(count_open(&*here, &org(), "a").await, 1);
}

#[tokio::test]
async fn a_closed_conflict_stays_and_the_next_is_another() {
    let here = Here::new().await;
    for org in [org(), other()] {
        told(&here, &org, "a", "1").await;
        read(&here, &org, "a", &[("1", 7)]).await;
    }
    let first = list(&*here, &org(), Some(true)).await.swap_remove(0);
    resolve(&here, &org(), "a", "1").await;
    assert_eq!(list(&*here, &org(), Some(true)).await, []);
    assert_eq!(count_open(&*here, &org(), "a").await, 0);
    assert_eq!(count_open(&*here, &other(), "a").await, 1);
    let closed = here.conflict(&org(), first.id).await.unwrap().unwrap();
    let unnoted = closed.resolved.expect("it is closed");
    assert_eq!((unnoted.by.as_str(), unnoted.resolution.as_str()), ("unknown", "unknown"));
    assert!(unnoted.at > first.seen_at);

    // What is flagged after that is another one.
    told_again(&here).await;
    read(&here, &org(), "a", &[("1", 6)]).await;
    let next = list(&*here, &org(), Some(true)).await.swap_remove(0);
    assert!(next.id > first.id);
    let of_first = here.conflict(&org(), first.id).await.unwrap().unwrap();
    assert!(of_first.resolved.is_some());
}

/// Has the push that the resolution owes go through.
async fn told_again(here: &Here) {
    let view = here.listing("a", "1").await.unwrap();
    let version = view.sku.unwrap().state.version;
    let sent = ListingPush { epoch: view.state.epoch, ..push("1", 10, version) };
    here.mark("a", sent.clone()).await;
    here.settle("a", sent, PushResult::Applied).await;
}

#[tokio::test]
async fn a_resolution_may_be_noted_before_or_after_the_ledger_closes() {
    for note_first in [true, false] {
        let here = Here::new().await;
        told(&here, &org(), "a", "1").await;
        read(&here, &org(), "a", &[("1", 7)]).await;
        let id = list(&*here, &org(), None).await[0].id;
        let resolved = Resolved {
            at: at(7),
            by: "mia".to_owned(),
            resolution: "channel".to_owned(),
            note: Some("counted".to_owned()),
        };
        let note = async |org: &Org| here.note_resolved(org, id, resolved.clone()).await.unwrap();
        let resolved_now = async || here.conflict(&org(), id).await.unwrap().unwrap().resolved;
        if note_first {
            note(&org()).await;
            assert_eq!(resolved_now().await, None, "a note does not close");
            resolve(&here, &org(), "a", "1").await;
        } else {
            resolve(&here, &org(), "a", "1").await;
            note(&other()).await;
            assert_eq!(resolved_now().await.unwrap().by, "unknown");
            note(&org()).await;
        }
        let found = resolved_now().await.unwrap();
        assert_eq!(found, Resolved { at: found.at, ..resolved });
    }
}

#[tokio::test]
async fn conflicts_are_filtered_newest_first() {
    let here = Here::new().await;
    for (on, listing) in [("a", "1"), ("a", "2"), ("b", "1")] {
        told(&here, &org(), on, listing).await;
        read(&here, &org(), on, &[(listing, 7)]).await;
    }
    told(&here, &other(), "a", "1").await;
    read(&here, &other(), "a", &[("1", 7)]).await;
    resolve(&here, &org(), "a", "1").await;
    let a = channel("a");
    let find = async |open: Option<bool>, channel, before: Option<u64>, limit| {
        let page = here.conflicts(&org(), open, channel, before, limit).await.unwrap();
        let name = |conflict: &Conflict| format!("{}/{}", conflict.channel, conflict.key);
        (page.items.iter().map(name).collect::<Vec<_>>(), page.more)
    };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let newest = list(&*here, &org(), None).await[0].id;
    assert_eq!(find(None, None, None, 9).await, (names(&["b/1", "a/2", "a/1"]), false));
    assert_eq!(find(None, None, None, 1).await, (names(&["b/1"]), true));
    assert_eq!(find(None, None, Some(newest), 9).await, (names(&["a/2", "a/1"]), false));
    assert_eq!(find(Some(true), None, None, 9).await, (names(&["b/1", "a/2"]), false));
    assert_eq!(find(Some(false), None, None, 9).await, (names(&["a/1"]), false));
    assert_eq!(find(Some(true), Some(&a), None, 9).await, (names(&["a/2"]), false));
}

#[tokio::test]
async fn a_conflict_of_a_listing_that_is_gone_or_moved_is_closed() {
    let here = Here::new().await;
    for org in [org(), other()] {
        for listing in ["stays", "moved", "gone"] {
            told(&here, &org, "a", listing).await;
        }
        here.put_sku(&org, "B", 1).await;
        read(&here, &org, "a", &[("stays", 7), ("moved", 7), ("gone", 7)]).await;
    }
    here.put(&org(), &[mapping("a", "moved", "B")]).await;
    assert_eq!(count_open(&*here, &org(), "a").await, 2);
    let but = [key("stays")].into();
    here.delete_mappings(&org(), &channel("a"), &sku("A"), but).await.unwrap();
    assert_eq!(count_open(&*here, &org(), "a").await, 1);
    assert_eq!(count_open(&*here, &other(), "a").await, 3);
    let closed = list(&*here, &org(), Some(false)).await;
    assert_eq!(closed.len(), 2);
    for conflict in closed {
        let resolved = conflict.resolved.unwrap();
        assert_eq!((resolved.by.as_str(), resolved.resolution.as_str()), ("trueup", "unmapped"));
    }
    here.delete_connection(&org(), &channel("a")).await.unwrap();
    assert_eq!(list(&*here, &org(), Some(true)).await, []);
}

/// Two nodes that read one listing at once leave one open conflict, with a number of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_two_read_at_once_have_one_open_conflict_each() {
    let here = Here::new().await;
    let names: Vec<String> = (0..20).map(|nth| format!("{nth:02}")).collect();
    for name in &names {
        told(&here, &org(), "a", name).await;
    }
    let another = here.another().await;
    let flag = async |store: &dyn Store, observed: i64, backwards: bool| {
        for nth in 0..names.len() {
            let nth = if backwards { names.len() - 1 - nth } else { nth };
            let reconcile = Reconcile {
                channel: channel("a"),
                read_at: here.now(),
                settle_ms: 0,
                strategy: None,
                readings: vec![trueup_core::ListingReading { key: key(&names[nth]), observed }],
            };
            let submission = trueup_store::Submission {
                org: org(),
                command: Command::Reconcile(reconcile),
                actor: "test".into(),
                source: trueup_core::Source::Pull,
                idempotency: None,
            };
            store.submit(submission).await.unwrap();
        }
    };
    tokio::join!(flag(&*here, 7, false), flag(&*another, 6, true));
    let open = list(&*here, &org(), Some(true)).await;
    assert_eq!(list(&*here, &org(), None).await, open, "none was closed");
    let mut keys: Vec<&str> = open.iter().map(|conflict| conflict.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, names);
}
