//! Webhooks that were let in and wait.

use trueup_core::Org;
use trueup_store::{InboxItem, InboxSettled, Store};

use crate::making::{Here, at, channel, connection, org, other};

pub(crate) fn webhook(on: &str, delivery: &str) -> InboxItem {
    InboxItem {
        id: 0,
        channel: channel(on),
        delivery_id: delivery.to_owned(),
        topic: "orders/create".to_owned(),
        body: vec![b'{', 0xff, 0, b'}'],
        received_at: at(10),
        attempts: 0,
    }
}

async fn waiting(store: &dyn Store, micros: i64) -> Vec<(Org, InboxItem)> {
    store.inbox_waiting(at(micros), 9).await.unwrap()
}

async fn names(store: &dyn Store, micros: i64) -> Vec<String> {
    waiting(store, micros).await.into_iter().map(|(_, item)| item.delivery_id).collect()
}

#[tokio::test]
async fn a_webhook_is_kept_once_per_org_and_channel() {
    let here = Here::new().await;
    assert!(here.inbox_put(&org(), webhook("a", "d")).await.unwrap());
    assert!(!here.inbox_put(&org(), webhook("a", "d")).await.unwrap());
    assert!(here.inbox_put(&org(), webhook("b", "d")).await.unwrap());
    assert!(here.inbox_put(&other(), webhook("a", "d")).await.unwrap());
    let all = waiting(&*here, 10).await;
    let orgs: Vec<_> = all.iter().map(|(org, _)| org.as_str()).collect();
    assert_eq!(orgs, ["acme", "acme", "other"]);
    assert_eq!(all[0].1, InboxItem { id: all[0].1.id, ..webhook("a", "d") });
    assert_eq!(here.inbox_waiting(at(10), 2).await.unwrap(), all[..2]);
}

#[tokio::test]
async fn of_many_webhooks_each_is_kept_once() {
    let here = Here::new().await;
    here.inbox_put(&org(), webhook("a", "2")).await.unwrap();
    let many = ["1", "2", "1", "3"].map(|delivery| webhook("a", delivery)).to_vec();
    let new = here.inbox_put_many(&org(), many).await.unwrap();
    assert_eq!(new, [true, false, false, true]);
    assert_eq!(here.inbox_put_many(&org(), Vec::new()).await.unwrap(), [false; 0]);
    assert_eq!(names(&*here, 10).await, ["2", "1", "3"]);
}

#[tokio::test]
async fn a_webhook_waits_until_its_time_and_until_it_is_settled() {
    let here = Here::new().await;
    for delivery in ["1", "2", "3"] {
        here.inbox_put(&org(), webhook("a", delivery)).await.unwrap();
    }
    let all = waiting(&*here, 10).await;
    let settle = async |org: &Org, nth: usize, how: InboxSettled| {
        here.inbox_settle(org, all[nth - 1].1.id, how).await.unwrap();
    };
    settle(&other(), 1, InboxSettled::Done).await;
    assert_eq!(names(&*here, 9).await, [""; 0], "none before it came");
    assert_eq!(names(&*here, 10).await, ["1", "2", "3"], "another org settles nothing");
    settle(&org(), 1, InboxSettled::Done).await;
    settle(&org(), 2, InboxSettled::Later { at: at(50), why: "429\0".to_owned() }).await;
    settle(&org(), 3, InboxSettled::Dead { why: "no such SKU".to_owned() }).await;
    assert_eq!(names(&*here, 49).await, [""; 0]);
    let again = waiting(&*here, 50).await;
    let (id, attempts) = (all[1].1.id, 1);
    assert_eq!(again, [(org(), InboxItem { id, attempts, ..webhook("a", "2") })]);
    assert!(!here.inbox_put(&org(), webhook("a", "1")).await.unwrap(), "a done one is known");
    // A done one loses its body, which may name customers; the others keep theirs.
    let lengths = "SELECT octet_length(body)::text FROM inbox ORDER BY delivery_id";
    if let Some(lengths) = here.query(lengths).await {
        assert_eq!(lengths, ["0", "4", "4"]);
    }
    // Whoever settles one that is not waiting any more changes nothing.
    settle(&org(), 3, InboxSettled::Later { at: at(1), why: String::new() }).await;
    assert_eq!(names(&*here, 50).await, ["2"]);
}

#[tokio::test]
async fn the_oldest_webhooks_of_all_orgs_come_first() {
    let here = Here::new().await;
    for (nth, micros) in (1..8).zip([10, 20, 30, 40, 50, 60, 70]) {
        let org = Org::new(&format!("org-{}", nth * 5 % 8)).unwrap();
        let item = InboxItem { received_at: at(micros), ..webhook("a", &micros.to_string()) };
        here.inbox_put(&org, item).await.unwrap();
    }
    assert_eq!(names(&*here, 60).await, ["10", "20", "30", "40", "50", "60"]);
    let first = here.inbox_waiting(at(99), 3).await.unwrap();
    let orgs: Vec<_> = first.iter().map(|(org, _)| org.as_str()).collect();
    assert_eq!(orgs, ["org-5", "org-2", "org-7"]);
}

#[tokio::test]
async fn webhooks_go_with_their_connection() {
    let here = Here::new().await;
    here.put_connection(&org(), connection("a")).await.unwrap();
    for on in ["a", "b"] {
        here.inbox_put(&org(), webhook(on, "d")).await.unwrap();
    }
    assert!(here.delete_connection(&org(), &channel("a")).await.unwrap());
    let left = waiting(&*here, 10).await;
    assert_eq!(left.iter().map(|(_, item)| item.channel.as_str()).collect::<Vec<_>>(), ["b"]);
}

/// Whoever forgets looks for it twice a second; the clock of the store is the test's.
#[tokio::test]
async fn done_webhooks_are_forgotten_after_a_week() {
    let here = Here::new().await;
    for delivery in ["done", "waiting"] {
        let item = InboxItem { received_at: here.now(), ..webhook("a", delivery) };
        here.inbox_put(&org(), item).await.unwrap();
    }
    let id = waiting(&*here, i64::MAX).await[0].1.id;
    here.inbox_settle(&org(), id, InboxSettled::Done).await.unwrap();
    here.pass(7 * 86_400 - 1);
    assert!(!here.inbox_put(&org(), webhook("a", "done")).await.unwrap());
    here.pass(600);
    let mut tries = 0;
    while !here.inbox_put(&org(), webhook("a", "done")).await.unwrap() {
        tries += 1;
        assert!(tries < 50, "it is never forgotten");
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    }
    assert!(!here.inbox_put(&org(), webhook("a", "waiting")).await.unwrap());
}

/// A vendor that repeats a delivery may reach two nodes at once: one of them has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_comes_to_two_at_once_is_new_to_one() {
    let here = Here::new().await;
    let another = here.another().await;
    for round in 0..20 {
        let many = || (0..5).map(|nth| webhook("a", &format!("{round}-{nth}"))).collect();
        let reversed = || {
            let mut items: Vec<InboxItem> = many();
            items.reverse();
            items
        };
        let (org, single) = (org(), webhook("a", &format!("{round}-2")));
        let (first, second, third) = tokio::join!(
            here.inbox_put_many(&org, many()),
            another.inbox_put_many(&org, reversed()),
            another.inbox_put(&org, single),
        );
        let (first, mut second, third) = (first.unwrap(), second.unwrap(), third.unwrap());
        second.reverse();
        for nth in 0..5 {
            let news = [first[nth], second[nth], nth == 2 && third];
            assert_eq!(news.into_iter().filter(|is_new| *is_new).count(), 1, "{round}-{nth}");
        }
    }
    let all = here.inbox_waiting(at(10), 1_000).await.unwrap();
    let mut ids: Vec<u64> = all.iter().map(|(_, item)| item.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
}
