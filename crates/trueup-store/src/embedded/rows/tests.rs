//! What of the tables cannot be said through the port, or not with every state that rows may have;
//! what any store must do is shown in `tests/it`.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::params;
use trueup_core::{
    ChannelId, ConflictFacts, Delta, Hold, LineBooked, ListingKey, ListingState, Location,
    Observed, Quantity, RestockPolicy, Sent, Sku, Timestamp,
};

use super::order_lines::{LineId, OrderLine};
use super::*;
use crate::encoding::records::ListingRow;
use crate::{
    AttemptNote, BlastRadius, ConnectionState, InboxItem, InboxSettled, ListingQuery, ListingScope,
    Mapping, Parked, RecordedAnswer, RuleSettings, UnmappedLine,
};

/// The columns of the ledger's table that this folder reads.
const SKU_TABLE: &str = "
    CREATE TABLE sku (
      org TEXT NOT NULL,
      sku TEXT NOT NULL,
      version INTEGER NOT NULL,
      publish_version INTEGER NOT NULL,
      updated_at INTEGER NOT NULL,
      PRIMARY KEY (org, sku)
    ) STRICT, WITHOUT ROWID";

fn rows() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    conn.execute_batch(SCHEMA).expect("the schema may be run again");
    conn.execute_batch(SKU_TABLE).unwrap();
    conn
}

fn org() -> Org {
    Org::new("acme").unwrap()
}

fn other() -> Org {
    Org::new("other").unwrap()
}

fn channel(id: &str) -> ChannelId {
    ChannelId::new(id).unwrap()
}

fn key(key: &str) -> ListingKey {
    ListingKey::new(key).unwrap()
}

fn sku(sku: &str) -> Sku {
    Sku::new(sku).unwrap()
}

fn at(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros)
}

/// Sets a SKU's version and publish version.
fn put_sku(conn: &Connection, org: &Org, sku: &str, version: i64, publish: i64) {
    let row = params![org.as_str(), sku, version, publish];
    conn.execute("INSERT OR REPLACE INTO sku VALUES (?, ?, ?, ?, 9)", row).unwrap();
}

fn connection(id: &str) -> crate::Connection {
    crate::Connection {
        id: channel(id),
        kind: "shopify".to_owned(),
        state: ConnectionState::Active,
        sync_inventory: true,
        sync_orders: false,
        strategy: None,
        rules: RuleSettings::default(),
        poll_interval_minutes: None,
        dry_run: false,
        restock: RestockPolicy::default(),
        endpoint: None,
        settings: BTreeMap::new(),
        sealed_credentials: vec![0, 159, 255],
        created_at: at(1),
        updated_at: at(2),
        last_sync: None,
        last_error: None,
        orders_seen_to: None,
        reason: None,
        blast_radius: BlastRadius::default(),
    }
}

fn mapping(on: &str, listing: &str, of: &str) -> Mapping {
    Mapping {
        channel: channel(on),
        key: key(listing),
        sku: sku(of),
        fields: BTreeMap::from([("id".to_owned(), listing.to_owned())]),
        strategy: None,
        rules: RuleSettings::default(),
        channel_fulfilled: false,
        enabled: true,
    }
}

fn put(conn: &Connection, org: &Org, mappings: &[Mapping]) {
    listings::put_mappings(conn, org, mappings).unwrap();
}

fn state(conn: &Connection, on: &str, listing: &str) -> Option<ListingState> {
    listings::state(conn, &org(), &channel(on), &key(listing)).unwrap()
}

/// Changes what is known of a listing of [`org`].
fn change(conn: &Connection, on: &str, listing: &str, how: impl Fn(&mut ListingState)) {
    let mut changed = state(conn, on, listing).expect("the listing is there");
    how(&mut changed);
    listings::put_state(conn, &org(), &changed).unwrap();
    assert_eq!(state(conn, on, listing), Some(changed), "the state comes back as it was put");
}

fn know_everything(state: &mut ListingState) {
    state.base = Some(-2);
    state.in_flight = Some(Sent { quantity: 7, version: 4, at: at(20) });
    state.acked_version = 3;
    state.acked_at = Some(at(19));
    state.observed = Some(Observed { quantity: -2, at: at(21) });
    state.provisional = Delta::new(-5).unwrap();
    state.forced = true;
    state.epoch = u32::MAX;
    state.in_conflict = true;
}

/// Checks which listings a query finds, as `channel/key`.
#[track_caller]
fn check_listings(conn: &Connection, query: &ListingQuery, expected: &[&str]) {
    let query = ListingQuery { limit: 100, ..query.clone() };
    let page = listings::query(conn, &org(), &query).unwrap();
    assert_eq!(names(&page.items), expected, "{query:?}");
    assert!(!page.more);
}

fn names(found: &[ListingRow]) -> Vec<String> {
    found.iter().map(|row| format!("{}/{}", row.mapping.channel, row.mapping.key)).collect()
}

// --- Connections ----------------------------------------------------------------------------

#[test]
fn a_deleted_connection_takes_its_listings_and_inbox_and_leaves_order_lines() {
    let conn = rows();
    let line = LineId { channel: &channel("a"), order: "1", line: "1" };
    for org in [org(), other()] {
        connections::put(&conn, &org, &connection("a")).unwrap();
        put(&conn, &org, &[mapping("a", "1", "A"), mapping("b", "1", "A")]);
        inbox::put(&conn, &org, &webhook("a", "d1")).unwrap();
        let booked = LineBooked { sold: 2, ..LineBooked::default() };
        let row = OrderLine { id: line, sku: &sku("A"), booked: &booked, at: at(1) };
        order_lines::put(&conn, &org, &row).unwrap();
        order_lines::put_unmapped(&conn, &org, &channel("a"), &[unmapped("1", "2")]).unwrap();
    }
    assert!(connections::delete(&conn, &org(), &channel("a")).unwrap());
    assert!(!connections::delete(&conn, &org(), &channel("a")).unwrap());
    check_listings(&conn, &ListingQuery::default(), &["b/1"]);
    assert!(order_lines::get(&conn, &org(), line).unwrap().is_some());
    let waiting = |org| order_lines::unmapped(&conn, &org, &channel("a"), None, 9).unwrap().items;
    assert_eq!((waiting(org()).len(), waiting(other()).len()), (0, 1));
    let left: Vec<_> = inbox::waiting(&conn, at(100), "[]", 9).unwrap();
    assert_eq!(left.iter().map(|(org, _)| org.clone()).collect::<Vec<_>>(), [other()]);
    assert_eq!(connections::all(&conn).unwrap().len(), 1);
    assert_eq!(
        listings::delete_mappings(&conn, &other(), &channel("a"), &sku("A"), &BTreeSet::new())
            .unwrap(),
        1
    );
}

// --- Listings -------------------------------------------------------------------------------

/// A column that keeps sealed bytes is named so; each of them must be found by a change of keys.
#[test]
fn no_sealed_column_is_left_out_of_a_change_of_keys() {
    const SQL: &str = "
        SELECT t.name || '.' || c.name
        FROM sqlite_schema t, pragma_table_info(t.name) c
        WHERE t.type = 'table'
          AND c.name LIKE '%sealed%'
        ORDER BY 1";
    let conn = rows();
    let mut read = conn.prepare(SQL).unwrap();
    let names = read.query_map([], |row| row.get(0)).unwrap();
    let names: Vec<String> = names.collect::<std::result::Result<_, _>>().unwrap();
    assert_eq!(names, ["connection.sealed_credentials", "subscription.sealed_secret"]);
}

#[test]
fn what_is_known_stays_with_the_sku_and_is_forgotten_with_another() {
    let conn = rows();
    put(&conn, &org(), &[mapping("a", "1", "A")]);
    change(&conn, "a", "1", know_everything);
    let known = state(&conn, "a", "1").unwrap();
    put(&conn, &org(), &[Mapping { enabled: false, ..mapping("a", "1", "A") }]);
    assert_eq!(state(&conn, "a", "1"), Some(known.clone()));

    put(&conn, &org(), &[mapping("a", "1", "B")]);
    let mut fresh = known.clone();
    fresh.sku = sku("B");
    fresh.base = None;
    fresh.in_flight = None;
    fresh.acked_version = 0;
    fresh.acked_at = None;
    fresh.observed = None;
    fresh.provisional = Delta::ZERO;
    fresh.forced = false;
    fresh.epoch = 0; // Goes on, and here it wraps.
    fresh.in_conflict = false;
    assert_eq!(state(&conn, "a", "1"), Some(fresh.clone()));

    // A late settlement of the SKU before must not count for the new one.
    listings::put_state(&conn, &org(), &known).unwrap();
    assert_eq!(state(&conn, "a", "1"), Some(fresh));
}

#[test]
fn the_epoch_goes_on_when_the_sku_changes() {
    let conn = rows();
    put(&conn, &org(), &[mapping("a", "1", "A")]);
    change(&conn, "a", "1", |state| state.epoch = 4);
    put(&conn, &org(), &[mapping("a", "1", "B")]);
    assert_eq!(state(&conn, "a", "1").unwrap().epoch, 5);
}

#[test]
fn the_state_of_a_listing_that_is_gone_is_dropped() {
    let conn = rows();
    put(&conn, &org(), &[mapping("a", "1", "A"), mapping("a", "2", "A"), mapping("a", "3", "B")]);
    put(&conn, &other(), &[mapping("a", "1", "A")]);
    let known = state(&conn, "a", "1").unwrap();
    assert_eq!(
        listings::delete_mappings(&conn, &org(), &channel("a"), &sku("A"), &BTreeSet::new())
            .unwrap(),
        2
    );
    assert_eq!(
        listings::delete_mappings(&conn, &org(), &channel("a"), &sku("A"), &BTreeSet::new())
            .unwrap(),
        0
    );
    listings::put_state(&conn, &org(), &ListingState { forced: true, ..known }).unwrap();
    check_listings(&conn, &ListingQuery::default(), &["a/3"]);
    let theirs = listings::state(&conn, &other(), &channel("a"), &key("1")).unwrap();
    assert!(!theirs.expect("another org's mapping stays").forced);
}

#[test]
fn a_listing_is_dirty_by_version_or_by_force() {
    let conn = rows();
    let keys = ["acked", "behind", "forced", "unpublished", "unknown", "unknown-forced"];
    for name in keys {
        let of = if name.starts_with("unknown") { "U" } else { name };
        put(&conn, &org(), &[mapping("a", name, of)]);
    }
    put_sku(&conn, &org(), "acked", 4, 4);
    put_sku(&conn, &org(), "behind", 4, 4);
    put_sku(&conn, &org(), "forced", 4, 4);
    put_sku(&conn, &org(), "unpublished", 4, 3);
    put_sku(&conn, &other(), "U", 9, 9);
    change(&conn, "a", "acked", |state| state.acked_version = 4);
    change(&conn, "a", "behind", |state| state.acked_version = 3);
    change(&conn, "a", "forced", |state| (state.acked_version, state.forced) = (4, true));
    change(&conn, "a", "unpublished", |state| state.acked_version = 3);
    change(&conn, "a", "unknown-forced", |state| state.forced = true);

    let dirty = ListingQuery { dirty: true, ..ListingQuery::default() };
    check_listings(&conn, &dirty, &["a/unknown-forced", "a/behind", "a/forced"]);
    // Of a SKU that is not in the ledger nothing is known that could be told.
    assert_eq!(listings::count_pending(&conn, &org(), &channel("a")).unwrap(), 2);
    assert_eq!(listings::count_pending(&conn, &org(), &channel("b")).unwrap(), 0);
    assert_eq!(listings::count_pending(&conn, &other(), &channel("a")).unwrap(), 0);
    let of_behind = ListingQuery { skus: Some(vec![sku("behind"), sku("acked")]), ..dirty };
    check_listings(&conn, &of_behind, &["a/behind"]);
}

#[test]
fn a_listing_is_suspicious_for_each_reason() {
    let conn = rows();
    type Change = fn(&mut ListingState);
    let reasons: [(&str, bool, Change); 9] = [
        ("0-quiet", false, |_| {}),
        ("1-agreed", false, |state| {
            state.base = Some(5);
            state.observed = Some(Observed { quantity: 5, at: at(1) });
        }),
        ("2-moved", true, |state| {
            state.base = Some(5);
            state.observed = Some(Observed { quantity: 4, at: at(1) });
        }),
        ("3-first-reading", true, |state| {
            state.observed = Some(Observed { quantity: 4, at: at(1) });
        }),
        ("4-unread", false, |state| state.base = Some(5)),
        ("5-in-flight", true, |state| {
            state.in_flight = Some(Sent { quantity: 1, version: 1, at: at(1) });
        }),
        ("6-conflict", true, |state| state.in_conflict = true),
        ("7-behind", true, |state| state.acked_version = 3),
        ("8-forced", true, |state| state.forced = true),
    ];
    let mut expected = Vec::new();
    for (name, suspicious, how) in reasons {
        put_sku(&conn, &org(), name, 4, 0);
        put(&conn, &org(), &[mapping("a", name, name)]);
        change(&conn, "a", name, |state| state.acked_version = 4);
        change(&conn, "a", name, how);
        expected.extend(suspicious.then(|| format!("a/{name}")));
    }
    put(&conn, &org(), &[mapping("a", "9-parked", "9")]);
    let parked = Some(Parked { code: "x".to_owned(), detail: String::new(), at: at(1) });
    let note = AttemptNote { key: key("9-parked"), attempts: 1, parked };
    listings::note_attempts(&conn, &org(), &channel("a"), &[note]).unwrap();
    expected.push("a/9-parked".to_owned());

    let query = ListingQuery { suspicious: true, ..ListingQuery::default() };
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check_listings(&conn, &query, &expected);
}

#[test]
fn the_lists_are_read_in_the_order_of_an_index() {
    let conn = rows();
    let cases = [
        "SELECT * FROM listing l WHERE org = ? AND (sku, listing_key) > (?, ?) ORDER BY sku, \
         listing_key, channel",
        "SELECT * FROM listing WHERE org = ? AND channel = ? ORDER BY sku, listing_key, channel",
        "SELECT * FROM sync_history WHERE org = ? AND id < ? ORDER BY id DESC",
        "SELECT * FROM sync_history WHERE org = ? AND operation = ? ORDER BY id DESC",
        "SELECT * FROM sync_history WHERE org = ? AND channel = ? ORDER BY id DESC",
        "SELECT * FROM sync_history WHERE org = ? AND sku = ? ORDER BY id DESC",
        "SELECT * FROM conflict WHERE org = ? ORDER BY id DESC",
        "SELECT * FROM delivery WHERE org = ? AND subscription = ? ORDER BY id DESC",
        "SELECT * FROM delivery WHERE state = 'pending' AND next_at <= ? ORDER BY next_at, id",
        "SELECT * FROM inbox WHERE state = 'waiting' AND next_at <= ? ORDER BY id",
    ];
    for sql in cases {
        let plan = plan(&conn, sql);
        assert!(plan.contains("USING INDEX"), "{sql}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

#[test]
fn a_few_keys_are_looked_up_one_by_one() {
    let sql = "SELECT * FROM listing l WHERE l.org = ? AND l.channel = ? \
         AND l.listing_key IN (SELECT value FROM json_each(?)) \
         ORDER BY +l.sku, l.listing_key, l.channel";
    let plan = plan(&rows(), sql);
    assert!(plan.contains("(org=? AND channel=? AND listing_key=?)"), "{plan}");
}

fn plan(conn: &Connection, sql: &str) -> String {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let bound = vec!["x"; statement.parameter_count()];
    let lines = statement
        .query_map(rusqlite::params_from_iter(bound), |row| row.get::<_, String>(3))
        .unwrap();
    lines.map(|line| line.unwrap()).collect::<Vec<_>>().join("; ")
}

// --- Order lines ----------------------------------------------------------------------------

#[test]
fn an_order_line_is_replaced_and_is_of_one_org_channel_order_and_line() {
    let conn = rows();
    let (a, b) = (channel("a"), channel("b"));
    let id = LineId { channel: &a, order: "1", line: "2" };
    let hold = |name: &str, units| Hold {
        sku: sku(name),
        location: Location::main(),
        quantity: Quantity::new(units).unwrap(),
    };
    let holds = [hold("A", 2), hold("B", 1)].into_iter().collect();
    for booked in [
        LineBooked { sold: 3, restocked: 0, voided: 0, held: 2, holds },
        LineBooked { sold: 3, restocked: 1, voided: 4, ..LineBooked::default() },
    ] {
        let row = OrderLine { id, sku: &sku("A"), booked: &booked, at: at(1) };
        order_lines::put(&conn, &org(), &row).unwrap();
        let held = order_lines::held(&conn, &org(), &a, None, 9).unwrap().items;
        assert_eq!(held.iter().map(|line| line.held).sum::<u64>(), booked.held);
        assert_eq!(order_lines::get(&conn, &org(), id).unwrap(), Some(booked));
    }
    assert_eq!(order_lines::get(&conn, &other(), id).unwrap(), None);
    for elsewhere in
        [LineId { channel: &b, ..id }, LineId { order: "2", ..id }, LineId { line: "1", ..id }]
    {
        assert_eq!(order_lines::get(&conn, &org(), elsewhere).unwrap(), None);
    }
}

#[test]
fn a_count_that_does_not_fit_is_refused() {
    let conn = rows();
    let id = LineId { channel: &channel("a"), order: "1", line: "2" };
    let booked = LineBooked { sold: u64::MAX, ..LineBooked::default() };
    let row = OrderLine { id, sku: &sku("A"), booked: &booked, at: at(1) };
    assert!(matches!(order_lines::put(&conn, &org(), &row), Err(RowsError::Corrupt(_))));
}

fn unmapped(order: &str, line: &str) -> UnmappedLine {
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

// --- Scopes ---------------------------------------------------------------------------------

/// Returns who leads in a scope.
fn leads(conn: &Connection, scope: &str) -> Vec<String> {
    let leaders = scopes::leaders(conn, &org(), &[scope.to_owned()]).unwrap();
    leaders.iter().map(|leader| format!("{}/{}", leader.channel, leader.key)).collect()
}

fn three_of_a_scope() -> Connection {
    let conn = rows();
    for id in ["a", "b", "c"] {
        connections::put(&conn, &org(), &connection(id)).unwrap();
        put(&conn, &org(), &[mapping(id, "1", "A"), mapping(id, "2", "B")]);
        set_scope(&conn, id, "1", Some("s1"));
        set_scope(&conn, id, "2", None);
    }
    conn
}

fn set_scope(conn: &Connection, on: &str, listing: &str, scope: Option<&str>) {
    scopes::set(conn, &org(), [(&channel(on), &key(listing), scope)]).unwrap();
}

#[test]
fn one_listing_of_a_scope_leads_and_the_next_takes_over_with_all_that_is_known() {
    let conn = three_of_a_scope();
    assert_eq!(leads(&conn, "s1"), ["a/1"]);
    change(&conn, "a", "1", know_everything);
    let pause = |id: &str, state| {
        connections::put(&conn, &org(), &crate::Connection { state, ..connection(id) }).unwrap()
    };
    assert!(pause("a", ConnectionState::Paused));
    assert_eq!(leads(&conn, "s1"), ["b/1"]);
    let (before, after) = (state(&conn, "a", "1").unwrap(), state(&conn, "b", "1").unwrap());
    assert_eq!((before.follows, before.base, before.in_flight), (true, None, None));
    let sent = Some(Sent { quantity: 7, version: 4, at: at(20) });
    assert_eq!((after.follows, after.base, after.in_flight), (false, Some(-2), sent));
    assert_eq!((after.acked_version, after.provisional.get()), (3, -5));
    assert_eq!((after.forced, after.in_conflict, after.epoch), (true, false, 0));
    // It stays with who has it.
    assert!(pause("a", ConnectionState::Active));
    assert!(!pause("a", ConnectionState::Active));
    assert_eq!(leads(&conn, "s1"), ["b/1"]);
    // Who computes only, or is told when asked only, goes behind who is told by itself.
    let asked = crate::Connection { sync_inventory: false, ..connection("b") };
    connections::put(&conn, &org(), &asked).unwrap();
    assert_eq!(leads(&conn, "s1"), ["a/1"]);
    let none = BTreeSet::new();
    listings::delete_mappings(&conn, &org(), &channel("a"), &sku("A"), &none).unwrap();
    assert_eq!(leads(&conn, "s1"), ["c/1"]);
    connections::delete(&conn, &org(), &channel("c")).unwrap();
    assert_eq!(leads(&conn, "s1"), ["b/1"]);
    connections::delete(&conn, &org(), &channel("b")).unwrap();
    assert_eq!(leads(&conn, "s1"), [""; 0]);
    assert_eq!(state(&conn, "a", "2").map(|state| state.follows), Some(false));
}

#[test]
fn what_is_told_nothing_is_not_pending() {
    let conn = rows();
    let names = ["flying", "accepted", "conflict", "disabled", "own", "parked", "refused", "tried"];
    let mappings = names.map(|name| Mapping {
        enabled: name != "disabled",
        channel_fulfilled: name == "own",
        ..mapping("a", name, name)
    });
    put(&conn, &org(), &mappings);
    let parked =
        |code: &str, at: Timestamp| Parked { code: code.to_owned(), detail: String::new(), at };
    let note =
        |name: &str, parked| AttemptNote { key: key(name), attempts: 1, parked: Some(parked) };
    for name in names {
        // SKUs are of instant 9 here.
        put_sku(&conn, &org(), name, 4, 4);
        let sent = Sent { quantity: 1, version: 4, at: at(5) };
        change(&conn, "a", name, |state| match name {
            "flying" => (state.acked_version, state.in_flight) = (4, Some(sent)),
            "accepted" => state.acked_version = 4,
            "conflict" => state.in_conflict = true,
            _ => {}
        });
    }
    let notes = [
        note("parked", parked("not_pushable", at(5))),
        note("refused", parked("invalid_value", at(9))),
        note("tried", parked("invalid_value", at(8))),
    ];
    listings::note_attempts(&conn, &org(), &channel("a"), &notes).unwrap();
    // The one in flight, and the one whose value has changed since it was refused.
    assert_eq!(listings::count_pending(&conn, &org(), &channel("a")).unwrap(), 2);
}

#[test]
fn a_follower_owes_nothing_and_names_its_leader() {
    let conn = three_of_a_scope();
    put_sku(&conn, &org(), "A", 3, 3);
    let of = |id: &str| ListingQuery { channel: Some(channel(id)), ..ListingQuery::default() };
    for (id, expected) in [("a", &["a/1"] as &[&str]), ("b", &[])] {
        check_listings(&conn, &ListingQuery { dirty: true, ..of(id) }, expected);
        check_listings(&conn, &ListingQuery { suspicious: true, ..of(id) }, expected);
        assert_eq!(
            listings::count_pending(&conn, &org(), &channel(id)).unwrap(),
            expected.len() as u64
        );
    }
    let query = ListingQuery { limit: 9, ..of("b") };
    let rows = listings::query(&conn, &org(), &query).unwrap().items;
    assert_eq!(rows[0].leader, Some((channel("a"), key("1"))));
    assert_eq!((rows[0].scope.as_deref(), rows[1].scope.as_deref()), (Some("s1"), None));
    let listed = |after: Option<&ListingKey>, limit: usize| {
        let page = scopes::list(&conn, &org(), &channel("b"), after, limit).unwrap();
        let row = |of: ListingScope| (of.key.to_string(), of.channel_fulfilled, of.scope);
        (page.items.into_iter().map(row).collect::<Vec<_>>(), page.more)
    };
    let first = ("1".to_owned(), false, Some("s1".to_owned()));
    let second = ("2".to_owned(), false, None);
    assert_eq!(listed(None, 9), (vec![first.clone(), second.clone()], false));
    assert_eq!(listed(None, 1), (vec![first], true));
    assert_eq!(listed(Some(&key("1")), 9), (vec![second], false));
    // Out of its scope it stands alone; one that comes in follows, and of another SKU it begins
    // with that SKU's versions.
    set_scope(&conn, "a", "1", None);
    assert_eq!(leads(&conn, "s1"), ["b/1"]);
    assert_eq!(state(&conn, "a", "1").map(|state| state.follows), Some(false));
    change(&conn, "b", "1", know_everything);
    set_scope(&conn, "a", "2", Some("s1"));
    assert_eq!(state(&conn, "a", "2").map(|state| state.follows), Some(true));
    connections::delete(&conn, &org(), &channel("b")).unwrap();
    connections::delete(&conn, &org(), &channel("c")).unwrap();
    let heir = state(&conn, "a", "2").unwrap();
    assert_eq!((heir.follows, heir.acked_version, heir.in_flight), (false, 0, None));
    assert_eq!((heir.base, heir.provisional.get(), heir.forced), (Some(-2), 0, true));
}

// --- Conflicts ------------------------------------------------------------------------------

fn facts(on: &str, listing: &str, micros: i64) -> ConflictFacts {
    ConflictFacts {
        channel: channel(on),
        key: key(listing),
        sku: sku("A"),
        master: 10,
        base: Some(8),
        expected: 9,
        observed: -1,
        at: at(micros),
    }
}

// --- Inbox ----------------------------------------------------------------------------------

fn webhook(on: &str, delivery: &str) -> InboxItem {
    InboxItem {
        id: 0,
        channel: channel(on),
        delivery_id: delivery.to_owned(),
        topic: "orders/create".to_owned(),
        body: vec![b'{', 0xff, b'}'],
        received_at: at(10),
        attempts: 0,
    }
}

fn waiting(conn: &Connection, micros: i64) -> Vec<u64> {
    inbox::waiting(conn, at(micros), "[]", 9)
        .unwrap()
        .into_iter()
        .map(|(_, item)| item.id)
        .collect()
}

#[test]
fn a_webhook_waits_until_its_time_and_until_it_is_settled() {
    let conn = rows();
    for delivery in ["1", "2", "3"] {
        inbox::put(&conn, &org(), &webhook("a", delivery)).unwrap();
    }
    let settle = |org: &Org, id, how: &InboxSettled| inbox::settle(&conn, org, id, how).unwrap();
    settle(&other(), 1, &InboxSettled::Done);
    assert_eq!(waiting(&conn, 9), [0; 0], "none before it came");
    assert_eq!(waiting(&conn, 10), [1, 2, 3], "another org settles nothing");
    settle(&org(), 1, &InboxSettled::Done);
    settle(&org(), 2, &InboxSettled::Later { at: at(50), why: "429".to_owned() });
    settle(&org(), 3, &InboxSettled::Dead { why: "no such SKU".to_owned() });
    assert_eq!(waiting(&conn, 49), [0; 0]);
    let again = inbox::waiting(&conn, at(50), "[]", 9).unwrap();
    assert_eq!(again[0].1, InboxItem { id: 2, attempts: 1, ..webhook("a", "2") });
    assert!(!inbox::put(&conn, &org(), &webhook("a", "1")).unwrap(), "a done one is known");

    let kept: Vec<u32> = ["1", "2", "3"]
        .iter()
        .map(|id| {
            let sql = "SELECT length(body) FROM inbox WHERE delivery_id = ?";
            conn.query_row(sql, [id], |row| row.get(0)).unwrap()
        })
        .collect();
    assert_eq!(kept, [0, 3, 3], "only a done one loses its body");
}

#[test]
fn done_webhooks_are_purged_after_a_while() {
    let conn = rows();
    for delivery in ["1", "2", "3"] {
        inbox::put(&conn, &org(), &webhook("a", delivery)).unwrap();
    }
    inbox::settle(&conn, &org(), 1, &InboxSettled::Done).unwrap();
    inbox::settle(&conn, &org(), 2, &InboxSettled::Dead { why: String::new() }).unwrap();
    assert_eq!(inbox::purge_done_before(&conn, at(10)).unwrap(), 0);
    assert_eq!(inbox::purge_done_before(&conn, at(11)).unwrap(), 1);
    assert_eq!(waiting(&conn, 10), [3]);
}

// --- Answers --------------------------------------------------------------------------------

#[test]
fn the_first_answer_of_a_key_stays() {
    let conn = rows();
    let answer = |status| RecordedAnswer {
        status,
        headers: vec![("etag".to_owned(), "\"3\"".to_owned())],
        body: b"{}".to_vec(),
    };
    let put = |org: &Org, key: &str, mark: u8, status, micros| {
        let answer = answer(status);
        answers::append(&conn, org, key, &[mark; 32], &answer, at(micros)).unwrap()
    };
    let find = |org: &Org, key: &str, n| {
        answers::write_digest(&conn, answers::digest(org, key), n).unwrap();
    };
    let get_of = |org: &Org, key: &str, young: &[i64]| {
        answers::get(&conn, (org, key), answers::digest(org, key), young)
    };
    let get = |org: &Org, key: &str| get_of(org, key, &[]);
    let first = put(&org(), "k", 1, 200, 10);
    assert_eq!(get(&org(), "k").unwrap(), None, "it is not found yet");
    let young = get_of(&org(), "k", &[first]).unwrap();
    assert_eq!(young, Some(([1; 32], answer(200))));
    assert_eq!(get_of(&other(), "k", &[first]).unwrap(), None, "of another org");
    find(&org(), "k", first);
    find(&org(), "k", put(&org(), "k", 2, 409, 20));
    find(&other(), "k", put(&other(), "k", 3, 201, 30));
    assert_eq!(answers::after(&conn, first).unwrap().len(), 2);
    assert_eq!(get(&org(), "k").unwrap(), Some(([1; 32], answer(200))));
    assert_eq!(get(&other(), "k").unwrap(), Some(([3; 32], answer(201))));
    assert_eq!(get(&org(), "K").unwrap(), None);
    assert_eq!(answers::purge_before(&conn, at(10)).unwrap(), 0);
    assert_eq!(answers::purge_before(&conn, at(11)).unwrap(), 1);
    assert_eq!(get(&org(), "k").unwrap(), Some(([2; 32], answer(409))));
    assert_eq!(answers::purge_before(&conn, at(99)).unwrap(), 1, "the newest stays");
    assert_eq!(get(&org(), "k").unwrap(), None);
    assert!(get(&other(), "k").unwrap().is_some());
}

// --- Constraints and corruption -------------------------------------------------------------

#[test]
fn the_schema_refuses_what_must_never_be() {
    let conn = rows();
    put(&conn, &org(), &[mapping("a", "1", "A")]);
    conflicts::flag(&conn, &org(), &facts("a", "1", 1)).unwrap();
    for sql in [
        "UPDATE listing SET in_flight_quantity = 1",
        "UPDATE listing SET observed_at = 1",
        "UPDATE listing SET parked_code = 'x'",
        "UPDATE listing SET strategy = 'loudest_wins'",
        "UPDATE listing SET forced = 2",
        "UPDATE listing SET acked_version = -1",
        "UPDATE listing SET base = 'many'",
        "INSERT INTO conflict SELECT NULL, org, channel, listing_key, sku, master, base, \
         expected, observed, opened_at, seen_at, NULL, NULL, NULL, NULL, NULL FROM conflict",
        "INSERT INTO api_key VALUES ('k', 'o', x'00', 's', '[]', 1, NULL)",
    ] {
        let refused = conn.execute(sql, []).unwrap_err();
        let code = refused.sqlite_error_code();
        assert_eq!(code, Some(rusqlite::ErrorCode::ConstraintViolation), "{sql}: {refused}");
    }
}

#[test]
fn rows_that_make_no_sense_are_an_error_and_no_panic() {
    let cases = [
        "UPDATE listing SET rules = '{'",
        "UPDATE listing SET rules = '{\"buffer\": 9007199254740992}'",
        "UPDATE listing SET rules = '{\"locations\": [\"\"]}'",
        "UPDATE listing SET sku = ''",
        "UPDATE listing SET provisional = 9007199254740992",
    ];
    for sql in cases {
        let conn = rows();
        put(&conn, &org(), &[mapping("a", "1", "A")]);
        conn.execute(sql, []).unwrap();
        let read = listings::state(&conn, &org(), &channel("a"), &key("1"));
        assert!(matches!(read, Err(RowsError::Corrupt(_))), "{sql}: {read:?}");
    }
}

#[test]
fn a_consent_is_taken_once_and_belongs_to_its_org_and_channel() {
    let conn = rows();
    let consent = |number: u8, on: &str| crate::Consent {
        state_digest: [number; 32],
        channel: channel(on),
        kind: "shopify".to_owned(),
        redirect: "https://trueup.example/connect/shopify/callback".to_owned(),
        created_at: at(i64::from(number)),
        expires_at: at(i64::from(number) + 10),
    };
    consents::put(&conn, &org(), &consent(1, "a")).unwrap();
    consents::put(&conn, &other(), &consent(2, "a")).unwrap();
    assert!(consents::put(&conn, &other(), &consent(1, "b")).is_err(), "a digest is one row's");
    assert_eq!(consents::take(&conn, &[1; 32]).unwrap(), Some((org(), consent(1, "a"))));
    assert_eq!(consents::take(&conn, &[1; 32]).unwrap(), None);
    assert_eq!(consents::take(&conn, &[9; 32]).unwrap(), None);
    // The oldest of a channel is forgotten, another org's stays.
    let max = u8::try_from(crate::CONSENTS_MAX).unwrap();
    for number in 10..=10 + max {
        consents::put(&conn, &org(), &consent(number, "a")).unwrap();
    }
    assert_eq!(consents::take(&conn, &[10; 32]).unwrap(), None);
    assert!(consents::take(&conn, &[11; 32]).unwrap().is_some());
    assert_eq!(consents::take(&conn, &[2; 32]).unwrap(), Some((other(), consent(2, "a"))));
    assert_eq!(consents::purge_before(&conn, at(25)).unwrap(), 3);
    connections::delete(&conn, &org(), &channel("a")).unwrap();
    assert_eq!(consents::take(&conn, &[50; 32]).unwrap(), None);
}
