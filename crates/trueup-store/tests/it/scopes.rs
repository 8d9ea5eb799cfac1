//! Listings that show one number: one of them is told it.

use std::collections::BTreeSet;
use std::sync::Arc;

use trueup_core::{ListingKey, PushResult, Strategy};
use trueup_store::{Connection, ConnectionState, ListingQuery, ListingScope, Mapping, Store};

use crate::making::{Here, channel, connection, key, mapping, org, other, push, sku};

/// How many rounds two nodes are in each other's way.
const ROUNDS: usize = 12;

impl Here {
    /// Returns who leads in a scope.
    async fn leads(&self, scope: &str) -> Vec<String> {
        let leaders = self.leaders(&org(), vec![scope.to_owned()]).await.unwrap();
        leaders.iter().map(|leader| format!("{}/{}", leader.channel, leader.key)).collect()
    }

    async fn set_scope(&self, on: &str, listing: &str, scope: Option<&str>) {
        let scopes = vec![(key(listing), scope.map(str::to_owned))];
        self.set_scopes(&org(), &channel(on), scopes).await.unwrap();
    }

    async fn set_connection(&self, row: Connection) {
        self.put_connection(&org(), row).await.unwrap();
    }

    async fn set_state(&self, id: &str, state: ConnectionState) {
        self.set_connection(Connection { state, ..connection(id) }).await;
    }

    async fn follows(&self, on: &str, listing: &str) -> bool {
        self.listing(on, listing).await.unwrap().state.follows
    }
}

/// Connections a, b and c with a listing 1 of SKU A each that show one number, and one 2 of SKU B.
async fn three_of_a_scope() -> Here {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 5).await;
    here.put_sku(&org(), "B", 7).await;
    for id in ["a", "b", "c"] {
        here.set_connection(connection(id)).await;
        let rows =
            vec![(mapping(id, "1", "A"), Some("s1".to_owned())), (mapping(id, "2", "B"), None)];
        here.put_mappings(&org(), rows).await.unwrap();
    }
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn one_listing_of_a_scope_leads_and_the_next_takes_over_with_all_that_is_known() {
    let here = three_of_a_scope().await;
    assert_eq!(here.leads("s1").await, ["a/1"]);
    here.mark("a", push("1", 5, 1)).await;
    here.settle("a", push("1", 5, 1), PushResult::Applied).await;
    here.mark("a", push("1", 5, 1)).await;
    let known = here.listing("a", "1").await.unwrap().state;
    here.set_state("a", ConnectionState::Paused).await;
    assert_eq!(here.leads("s1").await, ["b/1"]);
    let before = here.listing("a", "1").await.unwrap().state;
    assert_eq!((before.follows, before.base, before.in_flight), (true, None, None));
    let after = here.listing("b", "1").await.unwrap().state;
    assert_eq!((after.follows, after.base, after.base_at), (false, Some(5), known.base_at));
    assert_eq!((after.in_flight, after.acked_at), (known.in_flight, known.acked_at));
    assert_eq!((after.acked_version, after.forced, after.epoch), (1, true, 1));
    // It stays with who has it.
    here.set_state("a", ConnectionState::Active).await;
    assert_eq!(here.leads("s1").await, ["b/1"]);
    // Who computes only, or is told when asked only, goes behind who is told by itself.
    here.set_connection(Connection { sync_inventory: false, ..connection("b") }).await;
    assert_eq!(here.leads("s1").await, ["a/1"]);
    let none = BTreeSet::new();
    here.delete_mappings(&org(), &channel("a"), &sku("A"), none).await.unwrap();
    assert_eq!(here.leads("s1").await, ["c/1"]);
    here.delete_connection(&org(), &channel("c")).await.unwrap();
    assert_eq!(here.leads("s1").await, ["b/1"]);
    here.delete_connection(&org(), &channel("b")).await.unwrap();
    assert_eq!(here.leads("s1").await, [""; 0]);
    assert!(!here.follows("a", "2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_owes_nothing_and_names_its_leader() {
    let here = three_of_a_scope().await;
    let of = |id: &str| ListingQuery {
        channel: Some(channel(id)),
        skus: Some(vec![sku("A")]),
        ..ListingQuery::default()
    };
    for (id, expected, pending) in [("a", &["a/1"] as &[&str], 2), ("b", &[], 1)] {
        here.check_listings(&ListingQuery { dirty: true, ..of(id) }, expected).await;
        here.check_listings(&ListingQuery { suspicious: true, ..of(id) }, expected).await;
        assert_eq!(here.pending(&org(), id).await, pending);
    }
    let leader = |of: Option<trueup_store::ListingView>| of.unwrap().leader;
    assert_eq!(leader(here.listing("a", "1").await), None);
    assert_eq!(leader(here.listing("b", "1").await), Some((channel("a"), key("1"))));
    assert_eq!(leader(here.listing("b", "2").await), None);
    let listed = async |after: Option<ListingKey>, limit: usize| {
        let page = here.listing_scopes(&org(), &channel("b"), after, limit).await.unwrap();
        let row = |of: ListingScope| (of.key.to_string(), of.channel_fulfilled, of.scope);
        (page.items.into_iter().map(row).collect::<Vec<_>>(), page.more)
    };
    let first = ("1".to_owned(), false, Some("s1".to_owned()));
    let second = ("2".to_owned(), false, None);
    assert_eq!(listed(None, 9).await, (vec![first.clone(), second.clone()], false));
    assert_eq!(listed(None, 1).await, (vec![first], true));
    assert_eq!(listed(Some(key("1")), 9).await, (vec![second], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_its_scope_a_listing_stands_alone_and_one_that_comes_in_follows() {
    let here = three_of_a_scope().await;
    here.set_scope("a", "1", None).await;
    assert_eq!(here.leads("s1").await, ["b/1"]);
    assert!(!here.follows("a", "1").await);
    here.settle("b", push("1", 5, 1), PushResult::Applied).await;
    here.mark("b", push("1", 5, 1)).await;
    here.set_scope("a", "2", Some("s1")).await;
    assert!(here.follows("a", "2").await);
    here.delete_connection(&org(), &channel("b")).await.unwrap();
    here.delete_connection(&org(), &channel("c")).await.unwrap();
    // Of another SKU it begins with that SKU's versions.
    let heir = here.listing("a", "2").await.unwrap().state;
    assert_eq!((heir.follows, heir.acked_version, heir.in_flight), (false, 0, None));
    assert_eq!((heir.base, heir.provisional.get(), heir.forced), (Some(5), 0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_change_their_scopes_in_one_call() {
    let here = three_of_a_scope().await;
    here.set_scope("a", "2", Some("s2")).await;
    here.set_scope("b", "2", Some("s2")).await;
    assert_eq!(
        (here.leads("s1").await, here.leads("s2").await),
        (vec!["a/1".into()], vec!["a/2".into()])
    );
    // Both that lead change places: each comes into a scope that others lead by then, or nobody.
    let swap = vec![
        (key("gone"), Some("s9".to_owned())),
        (key("1"), Some("s2".to_owned())),
        (key("2"), Some("s1".to_owned())),
    ];
    here.set_scopes(&org(), &channel("a"), swap).await.unwrap();
    let one = (here.leads("s1").await, here.leads("s2").await);
    assert_eq!((one.0.len(), one.1.len()), (1, 1), "{one:?}");
    assert_eq!(here.leads("s9").await, [""; 0]);
    // In and out again: nothing is left of it.
    let out = vec![(key("1"), Some("s3".to_owned())), (key("1"), None), (key("2"), None)];
    here.set_scopes(&org(), &channel("a"), out).await.unwrap();
    assert_eq!(here.leads("s3").await, [""; 0]);
    assert!(!here.follows("a", "1").await && !here.follows("a", "2").await);
    assert_eq!(here.leads("s1").await.len(), 1);
    assert_eq!(here.leads("s2").await, ["b/2"]);
}

/// Of those that are mapped first, whatever they are called.
#[tokio::test(flavor = "multi_thread")]
async fn of_equals_the_one_that_was_mapped_first_takes_over() {
    let here = Here::new().await;
    for id in ["m", "z", "a", "k"] {
        here.set_connection(connection(id)).await;
        let row = (mapping(id, "1", "A"), Some("s".to_owned()));
        here.put_mappings(&org(), vec![row]).await.unwrap();
    }
    for next in ["z/1", "a/1", "k/1"] {
        let leader = here.leads("s").await[0].split('/').next().unwrap().to_owned();
        here.delete_connection(&org(), &channel(&leader)).await.unwrap();
        assert_eq!(here.leads("s").await, [next]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_of_one_connection_may_share_a_number() {
    let here = Here::new().await;
    here.set_connection(connection("a")).await;
    let rows = ["1", "2"].map(|listing| (mapping("a", listing, listing), Some("s".to_owned())));
    here.put_mappings(&org(), rows.into()).await.unwrap();
    assert_eq!(here.leads("s").await, ["a/1"]);
    here.delete_mappings(&org(), &channel("a"), &sku("1"), BTreeSet::new()).await.unwrap();
    assert_eq!(here.leads("s").await, ["a/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_is_of_one_org() {
    let here = three_of_a_scope().await;
    let row = (mapping("z", "9", "Z"), Some("s1".to_owned()));
    here.put_mappings(&other(), vec![row]).await.unwrap();
    let theirs = here.leaders(&other(), vec!["s1".to_owned(), "\0".to_owned()]).await.unwrap();
    assert_eq!((theirs.len(), theirs[0].key.as_str()), (1, "9"));
    assert_eq!(here.leads("s1").await, ["a/1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_closed_where_another_listing_takes_over() {
    let here = three_of_a_scope().await;
    let manual = Mapping { strategy: Some(Strategy::Manual), ..mapping("a", "1", "A") };
    here.put_mappings(&org(), vec![(manual, Some("s1".to_owned()))]).await.unwrap();
    here.settle("a", push("1", 5, 1), PushResult::Applied).await;
    here.read("a", "1", 3).await;
    let open =
        async || here.conflicts(&org(), Some(true), None, None, 9).await.unwrap().items.len();
    assert_eq!(open().await, 1);
    here.set_state("a", ConnectionState::Paused).await;
    assert_eq!(open().await, 0);
    assert!(!here.listing("b", "1").await.unwrap().state.in_conflict);
}

/// Checks that every scope with listings is led by one of them.
async fn check_led(here: &Here) {
    let all = here.all_listings(&org()).await;
    let scopes: BTreeSet<String> = all.iter().filter_map(|row| row.scope.clone()).collect();
    for scope in scopes {
        let leading: Vec<_> = all
            .iter()
            .filter(|row| row.scope.as_ref() == Some(&scope) && !row.state.follows)
            .map(|row| (&row.mapping.channel, &row.mapping.key))
            .collect();
        assert_eq!(leading.len(), 1, "{scope}: {leading:?}");
    }
    assert!(all.iter().all(|row| row.scope.is_some() || !row.state.follows));
}

/// Two nodes that change scopes at the same time leave each of them with one that leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_scope_has_one_leader_whoever_changes_it_at_the_same_time() {
    let here = three_of_a_scope().await;
    let nodes: [Arc<dyn Store>; 3] =
        [here.another().await, here.another().await, here.another().await];
    let put = async |node: &Arc<dyn Store>, id: &str, n: usize| {
        let scope = |m: usize| Some(format!("x{}", (n + m) % 3));
        let rows = vec![(mapping(id, "1", "A"), scope(0)), (mapping(id, "3", "B"), scope(1))];
        node.put_mappings(&org(), rows).await.unwrap();
        let moved = vec![(key("3"), scope(2)), (key("1"), None), (key("2"), scope(1))];
        node.set_scopes(&org(), &channel(id), moved).await.unwrap();
        let none = BTreeSet::new();
        node.delete_mappings(&org(), &channel(id), &sku("B"), none).await.unwrap();
        let state = [ConnectionState::Paused, ConnectionState::Active][n % 2];
        node.put_connection(&org(), Connection { state, ..connection(id) }).await.unwrap();
        node.put_mappings(&org(), vec![(mapping(id, "1", "A"), scope(1))]).await.unwrap();
    };
    for n in 0..ROUNDS {
        let [one, two, three] = &nodes;
        tokio::join!(put(one, "a", n), put(two, "b", n + n / 2), put(three, "c", n / 3));
        check_led(&here).await;
    }
}

/// What the ledger notes of a listing while its number is handed over is not lost: it is noted of
/// the one that led before, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_while_another_takes_over_is_noted_once() {
    let here = three_of_a_scope().await;
    let node = here.another().await;
    for n in 0..ROUNDS {
        let leader = here.leads("s1").await[0].split('/').next().unwrap().to_owned();
        let number = 10 + i64::try_from(n).unwrap();
        here.mark(&leader, push("1", number, 1)).await;
        let paused = Connection { state: ConnectionState::Paused, ..connection(&leader) };
        let pause = async || node.put_connection(&org(), paused.clone()).await.unwrap();
        let settle = here.settle(&leader, push("1", number, 1), PushResult::Applied);
        tokio::join!(settle, pause());
        check_led(&here).await;
        let now = here.leads("s1").await[0].split('/').next().unwrap().to_owned();
        assert_ne!(now, leader);
        let state = here.listing(&now, "1").await.unwrap().state;
        let sent = state.in_flight.map(|sent| sent.quantity);
        assert!(state.base == Some(number) || sent == Some(number), "{state:?}");
        let before = here.listing(&leader, "1").await.unwrap().state;
        assert_eq!((before.base, before.in_flight), (None, None));
        here.set_state(&leader, ConnectionState::Active).await;
    }
}
