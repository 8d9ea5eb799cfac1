//! Lines of channels' orders: what was booked of them, and those that nothing answers to yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use trueup_core::{
    ChannelId, ChannelLine, ChannelOrder, Command, Location, Org, Quantity, RestockPolicy,
};
use trueup_store::{HeldLine, OrderLineId, Page, UnmappedLine};

use crate::making::{Here, at, channel, connection, org, other, sku};

/// A line of which so many are sold and so many only held.
pub(crate) fn line(id: &str, sold: u64, held: u64) -> ChannelLine {
    ChannelLine {
        line: Arc::from(id),
        listing: None,
        sku: sku("A"),
        units: Quantity::new(1).unwrap(),
        sold,
        restocked: 0,
        held,
        cancelled: 0,
    }
}

pub(crate) fn order(on: &str, id: &str, lines: Vec<ChannelLine>) -> Command {
    Command::ChannelOrder(ChannelOrder {
        channel: channel(on),
        order: Arc::from(id),
        occurred_at: None,
        location: Location::main(),
        restock: RestockPolicy::default(),
        lines,
    })
}

fn id(order: &str, line: &str) -> OrderLineId {
    (order.to_owned(), line.to_owned())
}

async fn numbers(here: &Here, org: &Org) -> (i64, u64) {
    let totals = here.sku(org, &sku("A")).await.unwrap().unwrap().state.totals();
    (totals.on_hand.get(), totals.reserved.get())
}

#[tokio::test]
async fn an_order_is_booked_once_and_stays_booked_when_its_connection_goes() {
    let here = Here::new().await;
    for org in [org(), other()] {
        here.put_sku(&org, "A", 10).await;
        here.put_connection(&org, connection("a")).await.unwrap();
    }
    for sold in [2, 2, 3, 1] {
        here.decide(&org(), order("a", "1", vec![line("1", sold, 0)])).await;
    }
    assert_eq!(numbers(&here, &org()).await, (7, 0));
    assert!(here.delete_connection(&org(), &channel("a")).await.unwrap());
    here.decide(&org(), order("a", "1", vec![line("1", 3, 0), line("2", 1, 0)])).await;
    assert_eq!(numbers(&here, &org()).await, (6, 0));
    // Another channel, order, line or org is another line.
    for (on, id) in [("b", "1"), ("a", "2")] {
        here.decide(&org(), order(on, id, vec![line("1", 1, 0)])).await;
    }
    assert_eq!(numbers(&here, &org()).await, (4, 0));
    assert_eq!(numbers(&here, &other()).await, (10, 0));
    assert_eq!(here.verify(&org()).await.unwrap().faults, [""; 0]);
}

#[tokio::test]
async fn lines_that_hold_stock_are_listed_by_order_and_line() {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 10).await;
    let lines = vec![line("2", 0, 2), line("1", 0, 1), line("3", 1, 1)];
    here.decide(&org(), order("a", "7", lines)).await;
    here.decide(&org(), order("a", "10", vec![line("1", 0, 1)])).await;
    here.decide(&org(), order("b", "1", vec![line("1", 0, 1)])).await;
    assert_eq!(numbers(&here, &org()).await, (9, 5));
    let list = async |after: Option<OrderLineId>, limit| {
        let page = here.held_lines(&org(), &channel("a"), after, limit).await.unwrap();
        let place = |line: HeldLine| (line.order_id, line.line_id, line.held);
        (page.items.into_iter().map(place).collect::<Vec<_>>(), page.more)
    };
    let of = |order: &str, line: &str, held| (order.to_owned(), line.to_owned(), held);
    let (all, more) = list(None, 9).await;
    assert_eq!(all, [of("10", "1", 1), of("7", "1", 1), of("7", "2", 2)]);
    assert!(!more, "what is sold is held no more");
    assert_eq!(list(None, 2).await, (all[..2].to_vec(), true));
    assert_eq!(list(Some(id("7", "1")), 9).await, (all[2..].to_vec(), false));
    // Paid for, it is sold.
    here.decide(&org(), order("a", "7", vec![line("2", 2, 2), line("1", 1, 1)])).await;
    assert_eq!(list(None, 9).await, (all[..1].to_vec(), false));
    assert_eq!(numbers(&here, &org()).await, (6, 2));
    let page = here.held_lines(&other(), &channel("a"), None, 9).await.unwrap();
    assert_eq!(page.items, []);
    assert_eq!(here.verify(&org()).await.unwrap().faults, [""; 0]);
}

#[tokio::test]
async fn booked_lines_are_found_under_their_connection_and_move_to_another() {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 100).await;
    for (on, order_id, line_id) in
        [("a", "7", "1"), ("a", "7", "2"), ("a", "8", "1"), ("b", "7", "2")]
    {
        here.decide(&org(), order(on, order_id, vec![line(line_id, 2, 0)])).await;
    }
    let (a, b, c) = (channel("a"), channel("b"), channel("c"));
    let under = async |order: &str, of: &[ChannelId]| {
        let mut found = here.booked_under(&org(), order, of.to_vec()).await.unwrap();
        found.sort();
        found
    };
    let line = |line: &str, on: &ChannelId| (line.to_owned(), on.clone());
    let all = [a.clone(), c.clone()];
    assert_eq!(under("7", &all).await, [line("1", &a), line("2", &a)]);
    assert_eq!(under("\0", &all).await, []);
    let move_lines = async |most| here.move_order_lines(&org(), &a, &b, most).await.unwrap();
    assert_eq!(here.move_order_lines(&other(), &a, &b, 9).await.unwrap(), 0);
    assert_eq!(
        (move_lines(1).await, move_lines(9).await, move_lines(9).await),
        (1, 1, 0),
        "the one that was there already stays"
    );
    let both = [a.clone(), b.clone()];
    assert_eq!(under("7", &both).await, [line("1", &b), line("2", &a), line("2", &b)]);
    assert_eq!(under("8", &both).await, [line("1", &b)]);
    // Moved, it is booked there.
    here.decide(&org(), order("b", "8", vec![self::line("1", 3, 0)])).await;
    assert_eq!(numbers(&here, &org()).await, (100 - 9, 0));
}

pub(crate) fn unmapped(order: &str, line: &str) -> UnmappedLine {
    UnmappedLine {
        order_id: order.to_owned(),
        line_id: line.to_owned(),
        sku: Some("A".to_owned()),
        fields: BTreeMap::from([("asin".to_owned(), "B01".to_owned())]),
        sold: 2,
        restocked: 0,
        held: 0,
        cancelled: u64::MAX,
        placed_at: None,
        updated_at: Some(at(5)),
        since: at(7),
    }
}

#[tokio::test]
async fn lines_that_wait_for_a_mapping_grow_and_are_listed_in_order_until_they_are_booked() {
    let here = Here::new().await;
    let a = channel("a");
    let put = async |lines: Vec<UnmappedLine>| {
        here.put_unmapped_lines(&org(), &a, lines).await.unwrap().len()
    };
    let first = vec![unmapped("2", "1"), unmapped("1", "2"), unmapped("1", "1")];
    assert_eq!(put(first).await, 3);
    assert_eq!(put(Vec::new()).await, 0);
    let later = UnmappedLine {
        sold: 1,
        restocked: 1,
        cancelled: 0,
        placed_at: Some(at(1)),
        updated_at: Some(at(4)),
        since: at(9),
        ..unmapped("1", "1")
    };
    assert_eq!(put(vec![later]).await, 0);
    let list = async |after: Option<OrderLineId>, limit| {
        here.unmapped_lines(&org(), &a, after, limit).await.unwrap()
    };
    let page = list(None, 1).await;
    let grown = UnmappedLine {
        restocked: 1,
        cancelled: i64::MAX.unsigned_abs(),
        placed_at: Some(at(1)),
        ..unmapped("1", "1")
    };
    assert_eq!((page.items, page.more), (vec![grown.clone()], true));
    let names = |page: Page<UnmappedLine>| -> Vec<_> {
        page.items.into_iter().map(|line| (line.order_id, line.line_id)).collect()
    };
    assert_eq!(names(list(Some(id("1", "1")), 9).await), [id("1", "2"), id("2", "1")]);
    let booked = vec![unmapped("1", "1"), unmapped("2", "1")];
    here.delete_unmapped_lines(&org(), &a, booked).await.unwrap();
    assert_eq!(names(list(None, 9).await), [id("1", "1"), id("1", "2")], "the first has grown");
    assert_eq!(here.unmapped_lines(&other(), &a, None, 9).await.unwrap().items, []);
    // Of one that comes twice at once, both count.
    let twice = [(3, 0), (1, 2)].map(|(sold, held)| UnmappedLine { sold, held, ..grown.clone() });
    assert_eq!(put(twice.to_vec()).await, 0);
    let both = list(None, 1).await.items;
    assert_eq!(both, [UnmappedLine { sold: 3, held: 2, ..grown }]);
    here.delete_unmapped_lines(&org(), &a, both).await.unwrap();
    assert_eq!(names(list(None, 9).await), [id("1", "2")]);
}

#[tokio::test]
async fn unmapped_lines_go_with_their_connection() {
    let here = Here::new().await;
    for org in [org(), other()] {
        here.put_connection(&org, connection("a")).await.unwrap();
        here.put_unmapped_lines(&org, &channel("a"), vec![unmapped("1", "1")]).await.unwrap();
    }
    here.delete_connection(&org(), &channel("a")).await.unwrap();
    for (org, left) in [(org(), 0), (other(), 1)] {
        let page = here.unmapped_lines(&org, &channel("a"), None, 9).await.unwrap();
        assert_eq!(page.items.len(), left, "{org}");
    }
}

/// Two nodes that meet the same line at once: it is new to one, and what both say of it counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unmapped_line_that_two_keep_at_once_is_new_to_one() {
    let here = Here::new().await;
    let another = here.another().await;
    let (org, a) = (org(), channel("a"));
    for round in 0..20 {
        let order = format!("{round:02}");
        let mine = ["1", "2", "3"].map(|line| unmapped(&order, line)).to_vec();
        let theirs =
            ["3", "2", "1"].map(|line| UnmappedLine { sold: 1, held: 5, ..unmapped(&order, line) });
        let (mine, theirs) = tokio::join!(
            here.put_unmapped_lines(&org, &a, mine),
            another.put_unmapped_lines(&org, &a, theirs.to_vec()),
        );
        let mut new = [mine.unwrap(), theirs.unwrap()].concat();
        new.sort();
        assert_eq!(new, ["1", "2", "3"].map(|line| id(&order, line)));
    }
    let kept = here.unmapped_lines(&org, &a, None, 1_000).await.unwrap().items;
    assert_eq!(kept.len(), 60);
    assert!(kept.iter().all(|line| (line.sold, line.held) == (2, 5)));
}

/// Two nodes that book the same order at once, each with what it heard: each unit is sold once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_two_book_at_once_is_sold_once() {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 1_000).await;
    let another = here.another().await;
    let book = |store: Arc<dyn trueup_store::Store>, command: Command| async move {
        let submission = trueup_store::Submission {
            org: org(),
            command,
            actor: Arc::from("test"),
            source: trueup_core::Source::Channel,
            idempotency: None,
        };
        store.submit(submission).await.unwrap()
    };
    let mine = here.another().await;
    for round in 0..20 {
        let of = |sold| order("a", &format!("{round}"), vec![line("1", sold, 0)]);
        tokio::join!(book(mine.clone(), of(2)), book(another.clone(), of(3)));
    }
    assert_eq!(numbers(&here, &org()).await, (1_000 - 60, 0));
    assert_eq!(here.verify(&org()).await.unwrap().faults, [""; 0]);
}
