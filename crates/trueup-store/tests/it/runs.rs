//! Runs over channels, and the sync history.

use std::collections::BTreeMap;

use serde_json::json;
use trueup_store::{HistoryEntry, HistoryQuery, Run, RunQuery, RunStatus, Shard};

use crate::making::{Here, at, channel, org, other, sku};

pub(crate) fn run(id: &str, status: RunStatus) -> Run {
    Run {
        id: id.to_owned(),
        operation: "inventory_push".to_owned(),
        channel: channel("a"),
        status,
        dry_run: false,
        counters: BTreeMap::from([("total".to_owned(), u64::MAX)]),
        warnings: json!([{ "b": 1, "a": "\0" }]),
        items: json!([]),
        error: None,
        request: json!({}),
        started_at: at(1),
        finished_at: None,
    }
}

#[tokio::test]
async fn a_run_is_replaced_and_stays_in_its_org() {
    let here = Here::new().await;
    let ended = Run {
        status: RunStatus::Partial,
        dry_run: true,
        error: Some("two failed".to_owned()),
        finished_at: Some(at(9)),
        ..run("r", RunStatus::Completed)
    };
    let held = Run { request: json!({ "push": "all" }), ..run("r", RunStatus::Held) };
    let given_up = Run { finished_at: Some(at(8)), ..run("r", RunStatus::Cancelled) };
    for row in [run("r", RunStatus::Running), held, given_up, ended] {
        here.put_run(&org(), row.clone()).await.unwrap();
        assert_eq!(here.run(&org(), "r").await.unwrap(), Some(row));
    }
    assert_eq!(here.run(&other(), "r").await.unwrap(), None);
    assert_eq!(here.run(&org(), "\0").await.unwrap(), None);
    here.put_run(&other(), run("r", RunStatus::Failed)).await.unwrap();
    let kept = here.run(&org(), "r").await.unwrap().unwrap();
    assert_eq!(kept.status, RunStatus::Partial);
}

#[tokio::test]
async fn runs_are_listed_newest_first_by_channel_status_and_operation() {
    let here = Here::new().await;
    let put = |id: &str, began: i64, on: &str, status| Run {
        channel: channel(on),
        started_at: at(began),
        items: json!([1]),
        warnings: json!([2]),
        request: json!({ "push": "all" }),
        ..run(id, status)
    };
    for row in [
        put("a", 1, "x", RunStatus::Held),
        put("b", 2, "y", RunStatus::Completed),
        put("c", 2, "x", RunStatus::Completed),
        Run { operation: "inventory_pull".to_owned(), ..put("d", 3, "x", RunStatus::Held) },
    ] {
        here.put_run(&org(), row).await.unwrap();
    }
    here.put_run(&other(), put("e", 4, "x", RunStatus::Held)).await.unwrap();
    let check = async |query: RunQuery, expected: &[&str], more: bool| {
        let page = here.runs(&org(), query).await.unwrap();
        let ids: Vec<&str> = page.items.iter().map(|run| run.id.as_str()).collect();
        assert_eq!((ids.as_slice(), page.more), (expected, more));
        for run in &page.items {
            assert_eq!((&run.items, &run.warnings), (&json!([]), &json!([])));
            assert_eq!(run.request, json!({}));
        }
    };
    let all = RunQuery { limit: 9, ..RunQuery::default() };
    check(all.clone(), &["d", "c", "b", "a"], false).await;
    check(RunQuery { limit: 2, ..all.clone() }, &["d", "c"], true).await;
    let before = Some((at(2), "c".to_owned()));
    check(RunQuery { before, ..all.clone() }, &["b", "a"], false).await;
    let of = Some(channel("x"));
    check(RunQuery { channel: of, ..all.clone() }, &["d", "c", "a"], false).await;
    let held = Some(RunStatus::Held);
    check(RunQuery { status: held, ..all.clone() }, &["d", "a"], false).await;
    let operation = Some("inventory_push".to_owned());
    check(RunQuery { status: held, operation, ..all }, &["a"], false).await;
}

#[tokio::test]
async fn runs_that_a_crash_left_running_are_ended_in_every_org() {
    let here = Here::new().await;
    here.put_run(&org(), run("1", RunStatus::Running)).await.unwrap();
    here.put_run(&org(), run("2", RunStatus::Completed)).await.unwrap();
    here.put_run(&other(), run("1", RunStatus::Running)).await.unwrap();
    assert_eq!(here.abandon_runs(Shard::all().collect(), at(7)).await.unwrap(), 2);
    assert_eq!(here.abandon_runs(Shard::all().collect(), at(8)).await.unwrap(), 0);
    let ended = here.run(&org(), "1").await.unwrap().unwrap();
    assert_eq!((ended.status, ended.finished_at), (RunStatus::Failed, Some(at(7))));
    assert_eq!(ended.error.as_deref(), Some("interrupted by a restart"));
    let completed = here.run(&org(), "2").await.unwrap();
    assert_eq!(completed, Some(run("2", RunStatus::Completed)));
}

pub(crate) fn entry(micros: i64, operation: &str) -> HistoryEntry {
    HistoryEntry {
        id: 0,
        at: at(micros),
        operation: operation.to_owned(),
        channel: None,
        sku: None,
        status: "ok".to_owned(),
        run: None,
        detail: json!({}),
    }
}

#[tokio::test]
async fn history_is_filtered_newest_first() {
    let here = Here::new().await;
    let rich = HistoryEntry {
        channel: Some(channel("a")),
        sku: Some(sku("A")),
        status: "error".to_owned(),
        run: Some("r".to_owned()),
        detail: json!({ "z": [1], "a": null, "n": "\0" }),
        ..entry(20, "push")
    };
    let entries = vec![entry(10, "push"), rich.clone(), entry(30, "pull")];
    here.add_history(&org(), entries).await.unwrap();
    here.add_history(&org(), Vec::new()).await.unwrap();
    here.add_history(&other(), vec![entry(40, "push")]).await.unwrap();
    let find = async |query: &HistoryQuery| {
        let query = HistoryQuery { limit: 9, ..query.clone() };
        here.history(&org(), query).await.unwrap().items
    };
    let all = HistoryQuery::default();
    let found = find(&all).await;
    assert_eq!(found[1], HistoryEntry { id: found[1].id, ..rich });
    // Numbers are the store's; they grow.
    let ids: Vec<u64> = found.iter().map(|entry| entry.id).collect();
    assert!(ids[0] > ids[1] && ids[1] > ids[2], "{ids:?}");
    let before = |nth: usize| Some(ids[ids.len() - nth]);
    let narrow =
        HistoryQuery { operation: Some("push".to_owned()), before: before(2), ..all.clone() };
    let table: [(HistoryQuery, &[i64]); 11] = [
        (all.clone(), &[30, 20, 10]),
        (HistoryQuery { operation: Some("push".to_owned()), ..all.clone() }, &[20, 10]),
        (HistoryQuery { operation: Some("\0".to_owned()), ..all.clone() }, &[]),
        (HistoryQuery { channel: Some(channel("a")), ..all.clone() }, &[20]),
        (HistoryQuery { sku: Some(sku("A")), ..all.clone() }, &[20]),
        (HistoryQuery { status: Some("ok".to_owned()), ..all.clone() }, &[30, 10]),
        (HistoryQuery { from: Some(at(20)), ..all.clone() }, &[30, 20]),
        (HistoryQuery { to: Some(at(20)), ..all.clone() }, &[10]),
        (HistoryQuery { before: before(3), ..all }, &[20, 10]),
        (HistoryQuery { sku: Some(sku("A")), ..narrow.clone() }, &[]),
        (narrow, &[10]),
    ];
    for (query, expected) in table {
        let found = find(&query).await;
        let instants: Vec<i64> = found.iter().map(|entry| entry.at.micros()).collect();
        assert_eq!(instants, expected, "{query:?}");
    }
}

#[tokio::test]
async fn a_page_says_whether_more_follows() {
    let here = Here::new().await;
    let entries = vec![entry(1, "a"), entry(2, "a"), entry(3, "a")];
    here.add_history(&org(), entries).await.unwrap();
    for (limit, found, more) in [(0, 0, true), (2, 2, true), (3, 3, false), (usize::MAX, 3, false)]
    {
        let query = HistoryQuery { limit, ..HistoryQuery::default() };
        let page = here.history(&org(), query).await.unwrap();
        assert_eq!((page.items.len(), page.more), (found, more), "a page of {limit}");
    }
}

/// Two nodes that add at once give each entry a number of its own, and no reader that pages by
/// numbers passes one over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_two_add_at_once_have_numbers_of_their_own() {
    const EACH: i64 = 20;
    let here = Here::new().await;
    let another = here.another().await;
    let add = async |store: &dyn trueup_store::Store, from: i64| {
        for nth in from..from + EACH {
            store.add_history(&org(), vec![entry(nth, "a"), entry(nth, "b")]).await.unwrap();
        }
    };
    tokio::join!(add(&*here, 0), add(&*another, EACH));
    let query = HistoryQuery { limit: 1_000, ..HistoryQuery::default() };
    let found = here.history(&org(), query).await.unwrap().items;
    let ids: Vec<u64> = found.iter().map(|entry| entry.id).collect();
    assert_eq!(i64::try_from(ids.len()), Ok(EACH * 4));
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
}
