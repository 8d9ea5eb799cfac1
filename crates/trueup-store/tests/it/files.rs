//! The data directory: locked, and refused when it is not what it should be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use trueup_core::{Command, ReservationId, ReservationStatus, SetOnHand, Timestamp};
use trueup_store::embedded::{Embedded, FILE_NAME, OpenError};
use trueup_store::{Health, MovementQuery, Outcome, ReservationQuery, SkuQuery, Store, StoreError};
use trueup_test_store::TestStore;

use crate::harness::{Fixture, adjust, commit, org, reserve, set, sku, submit};

fn refused(path: &Path, fixture: &Fixture) -> String {
    match Embedded::open(path, fixture.clock()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

/// A directory with a closed store of some SKUs.
async fn filled() -> Fixture {
    let mut fixture = Fixture::embedded().await;
    for number in 0..200 {
        fixture.put(&format!("SKU-{number}"), number).await;
    }
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fixture
}

#[tokio::test]
async fn a_second_process_is_told_so() {
    let fixture = Fixture::embedded().await;
    let error = Embedded::open(fixture.dir(), fixture.clock()).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
}

#[tokio::test]
async fn a_missing_directory_is_made() {
    let fixture = Fixture::embedded().await;
    let deep = fixture.dir().join("a/b");
    let store = Embedded::open(&deep, fixture.clock()).unwrap();
    assert_eq!(store.orgs().await, Ok(Vec::new()));
}

#[tokio::test]
async fn foreign_torn_and_damaged_files_are_refused_and_left_alone() {
    let fixture = filled().await;
    let path = fixture.dir().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    let foreign = {
        let other = tempfile::tempdir().unwrap();
        let path = other.path().join("other.db");
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("CREATE TABLE t (x)").unwrap();
        drop(conn);
        fs::read(path).unwrap()
    };
    let mut flipped = whole.clone();
    for at in (whole.len() / 3..whole.len()).step_by(4_096) {
        flipped[at] ^= 0xff;
        flipped[at + 1] ^= 0xff;
    }
    let cases: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("cut off within", whole[..50].to_vec()),
        ("cut off:", whole[..whole.len() / 2].to_vec()),
        ("not an SQLite file", vec![b'x'; 4_096]),
        ("another application", foreign),
        ("damaged", flipped),
    ];
    for (why, bytes) in cases {
        fs::write(&path, &bytes).unwrap();
        let error = refused(fixture.dir(), &fixture);
        assert!(error.contains(why), "{why}: {error}");
        assert!(fs::read(&path).unwrap() == bytes, "{why}: the file was touched");
    }
    fs::write(&path, &whole).unwrap();
    assert!(Embedded::open(fixture.dir(), fixture.clock()).is_ok());
}

/// What every SKU is said to have.
async fn numbers(store: &dyn Store) -> BTreeMap<String, (i64, i64)> {
    let all = SkuQuery { limit: 1_000, ..SkuQuery::default() };
    let page = store.skus(&org("acme"), all).await.unwrap();
    let sums = |answer: &trueup_core::SkuAnswer| {
        let totals = answer.state.totals();
        (totals.on_hand.get(), totals.reserved.delta().get())
    };
    page.items.iter().map(|answer| (answer.sku.to_string(), sums(answer))).collect()
}

/// A bit that a disk has changed, anywhere: the file is refused, or no SKU has another number and
/// what is missing is named when the ledger is added up.
#[tokio::test]
async fn a_bit_that_flips_never_makes_a_number_wrong() {
    const FLIPS: usize = 500;
    let mut fixture = Fixture::embedded().await;
    for number in 0..40 {
        fixture.put(&format!("SKU-{number}"), 1_000 + number).await;
        let name = format!("SKU-{number}");
        fixture.reserve(u128::from(number), &name, 3).await.unwrap();
    }
    let expected = numbers(fixture.store()).await;
    fixture.store().close().await.unwrap();
    fixture.store = None;
    let path = fixture.dir().join(FILE_NAME);
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for flip in 0..FLIPS {
        // All over the file, and never the same bit of a page.
        let at = (flip * whole.len() / FLIPS + flip * 7) % whole.len();
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (flip % 8);
        for file in ["", "-wal", "-shm"] {
            drop(fs::remove_file(fixture.dir().join(format!("{FILE_NAME}{file}"))));
        }
        fs::write(&path, &bytes).unwrap();
        let Ok(store) = Embedded::open(fixture.dir(), fixture.clock()) else {
            refused += 1;
            continue;
        };
        let found = numbers(&store).await;
        let faults = store.verify(&org("acme")).await.map_or(1, |found| found.faults.len());
        for (sku, sums) in &expected {
            match found.get(sku) {
                Some(found) => assert_eq!(found, sums, "byte {at}: {sku}"),
                None => assert!(faults > 0, "byte {at}: {sku} is missing and nobody says so"),
            }
        }
        drop(store.close().await);
    }
    assert!(refused > FLIPS / 20, "{refused} of {FLIPS} were refused");
}

/// What Litestream does to the file while the store is open (<https://litestream.io/how-it-works/>):
/// tables and rows of its own, a reading that goes on, and checkpoints.
#[tokio::test]
async fn another_process_may_read_on_and_write_tables_of_its_own() {
    let mut fixture = Fixture::embedded().await;
    let open = || rusqlite::Connection::open(fixture.dir().join(FILE_NAME)).unwrap();
    let (reader, writer) = (open(), open());
    writer
        .execute_batch(
            "CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER);
             CREATE TABLE _litestream_lock (id INTEGER)",
        )
        .unwrap();
    for round in 0..20_u64 {
        writer
            .execute_batch(
                "INSERT INTO _litestream_seq VALUES (1, 1)
                 ON CONFLICT (id) DO UPDATE SET seq = seq + 1",
            )
            .unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM _litestream_seq").unwrap();
        fixture.put("A", round).await;
        let mode = if round % 2 == 0 { "PASSIVE" } else { "TRUNCATE" };
        if round % 2 == 1 {
            reader.execute_batch("ROLLBACK").unwrap();
        }
        let sql = format!("PRAGMA wal_checkpoint({mode})");
        writer.query_row(&sql, [], |_| Ok(())).unwrap();
        fixture.put("A", round + 1).await;
        if round % 2 == 0 {
            reader.execute_batch("ROLLBACK").unwrap();
        }
    }
    drop((reader, writer));
    fixture.store().close().await.unwrap();
    fixture.open().await;
    assert_eq!(fixture.numbers("A").await, (20, 0));
    let found = fixture.store().verify(&org("acme")).await.unwrap();
    assert_eq!(found.faults, [""; 0]);
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let fixture = filled().await;
    let path = fixture.dir().join(FILE_NAME);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 999).unwrap();
    drop(conn);
    let error = refused(fixture.dir(), &fixture);
    assert!(error.contains("schema version 999"), "{error}");
}

#[tokio::test]
async fn an_earlier_version_is_brought_forward_with_all_it_has() {
    let mut fixture = filled().await;
    fixture.open().await;
    for id in 1..=3 {
        fixture.reserve(id, "SKU-100", 1).await.unwrap();
    }
    fixture.run(Command::Release { id: ReservationId(2) }).await.unwrap();
    fixture.store().close().await.unwrap();
    fixture.store = None;
    let path = fixture.dir().join(FILE_NAME);
    let conn = rusqlite::Connection::open(&path).unwrap();
    let shape = |conn: &rusqlite::Connection| -> Vec<String> {
        let sql = "SELECT m.type || ' ' || m.name || ' ' || coalesce(c.name || ' ' || c.type || ' '
             || c.\"notnull\" || ' ' || coalesce(c.dflt_value, '') || ' ' || c.pk, m.sql)
           FROM sqlite_master m LEFT JOIN pragma_table_info(m.name) c ON m.type = 'table'
           WHERE m.name NOT LIKE 'sqlite_%' ORDER BY 1";
        let mut statement = conn.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let spaces = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        rows.map(|row| spaces(row.unwrap()).replace("IF NOT EXISTS ", "")).collect()
    };
    let fresh = shape(&conn);
    // As version 1 had it.
    let undone = "
        DROP TABLE answer_digest;
        DROP TABLE recorded_answer;
        CREATE TABLE recorded_answer (
          org TEXT NOT NULL, idempotency_key TEXT NOT NULL, fingerprint BLOB NOT NULL,
          status INTEGER NOT NULL, headers TEXT NOT NULL, body BLOB NOT NULL,
          at INTEGER NOT NULL,
          PRIMARY KEY (org, idempotency_key)
        ) STRICT;
        CREATE INDEX recorded_answer_by_at ON recorded_answer (at);
        INSERT INTO recorded_answer
        VALUES ('acme', 'k', zeroblob(32), 201, '[]', x'7b7d', 1700000000000000);
        CREATE TABLE journal (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
        ALTER TABLE movement RENAME TO movement_now;
        CREATE TABLE movement (
          org TEXT NOT NULL, sku TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
          kind INTEGER NOT NULL, location TEXT NOT NULL, delta INTEGER NOT NULL,
          reserved_delta INTEGER NOT NULL, quantity_after INTEGER NOT NULL,
          reserved_after INTEGER NOT NULL, location_quantity_after INTEGER NOT NULL,
          location_reserved_after INTEGER NOT NULL, safety_stock INTEGER NOT NULL,
          low_stock_threshold INTEGER, backorder_limit INTEGER NOT NULL,
          publish INTEGER NOT NULL, reason TEXT, actor TEXT NOT NULL, source INTEGER NOT NULL,
          reference TEXT,
          PRIMARY KEY (org, sku, seq)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO movement
        SELECT org, sku, seq, at, kind, location, delta, reserved_delta, quantity_after,
          reserved_after, location_quantity_after, location_reserved_after, safety_stock,
          low_stock_threshold, backorder_limit, publish, reason, actor, source, reference
        FROM movement_now;
        DROP TABLE movement_now;
        DROP TABLE movement_mark;
        CREATE TABLE level_now AS SELECT * FROM level;
        DROP VIEW level;
        CREATE TABLE level (
          org TEXT NOT NULL, sku TEXT NOT NULL, location TEXT NOT NULL,
          on_hand INTEGER NOT NULL, reserved INTEGER NOT NULL CHECK (reserved >= 0),
          PRIMARY KEY (org, sku, location)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO level SELECT * FROM level_now;
        DROP TABLE level_now;
        ALTER TABLE sku DROP COLUMN levels;
        ALTER TABLE sku DROP COLUMN line;
        CREATE TABLE reservation_now AS SELECT * FROM reservation;
        DROP VIEW reservation;
        DROP TABLE reservation_active;
        DROP TABLE reservation_ended;
        DROP TABLE reservation_digest;
        DROP TABLE reservation_pack;
        CREATE TABLE reservation_sku (
          org TEXT NOT NULL, sku TEXT NOT NULL, id BLOB NOT NULL,
          PRIMARY KEY (org, sku, id)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE reservation (
          org TEXT NOT NULL, id BLOB NOT NULL, order_id TEXT NOT NULL, status INTEGER NOT NULL,
          items TEXT NOT NULL, holds TEXT NOT NULL, created_at INTEGER NOT NULL,
          expires_at INTEGER NOT NULL, ended_at INTEGER,
          PRIMARY KEY (org, id)
        ) STRICT, WITHOUT ROWID;
        INSERT INTO reservation SELECT * FROM reservation_now;
        DROP TABLE reservation_now;
        CREATE INDEX reservation_order ON reservation (org, order_id);
        CREATE INDEX reservation_active ON reservation (org, id) WHERE status = 1;
        DELETE FROM meta;
        INSERT INTO meta VALUES ('materialized', 7);
        DROP INDEX listing_leader;
        DROP INDEX listing_by_scope;
        ALTER TABLE listing DROP COLUMN scope;
        ALTER TABLE listing DROP COLUMN follows;
        ALTER TABLE listing DROP COLUMN base_at;
        ALTER TABLE listing DROP COLUMN booked_at;
        ALTER TABLE listing DROP COLUMN revised_count;
        ALTER TABLE listing DROP COLUMN revised_at;
        ALTER TABLE connection DROP COLUMN restock_policy;
        ALTER TABLE connection DROP COLUMN reason_code;
        ALTER TABLE connection DROP COLUMN reason_since;
        ALTER TABLE connection DROP COLUMN blast_radius;
        DROP INDEX run_by_start;
        DROP TABLE pause;
        ALTER TABLE run DROP COLUMN request;
        DROP TABLE consent;
        DROP TABLE feed;
        DROP INDEX order_line_held;
        ALTER TABLE order_line DROP COLUMN voided;
        ALTER TABLE order_line DROP COLUMN held;
        ALTER TABLE order_line DROP COLUMN holds;
        DROP TABLE unmapped_line;
        DROP TABLE channel_listing;
        INSERT INTO inbox (org, channel, delivery_id, topic, body, received_at, state, attempts,
          next_at)
        VALUES ('acme', 'shop', 'order:7:1', 'trueup.order', CAST('{\"order\":\"7\",
          \"placed_at\":null,\"updated_at\":5,\"lines\":[{\"line\":\"1\",\"sku\":null,
          \"fields\":{\"asin\":\"B0\"},\"sold\":2,\"restocked\":1}]}' AS BLOB), 9, 'waiting', 3,
          99)";
    conn.execute_batch(undone).unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    drop(conn);
    fixture.open().await;
    let conn = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(shape(&conn), fresh, "a file brought forward is as a new one");
    drop(conn);
    let recorded = fixture.store().recorded(&org("acme"), "k").await.unwrap().unwrap();
    assert_eq!((recorded.0, recorded.1.status), ([0; 32], 201));
    assert_eq!(fixture.numbers("SKU-199").await, (199, 0));
    assert_eq!(fixture.numbers("SKU-100").await, (100, 2));
    let lines = MovementQuery { limit: 9, ..MovementQuery::default() };
    let lines = fixture.store().movements(&org("acme"), &sku("SKU-100"), lines).await.unwrap();
    assert_eq!(lines.items.iter().map(|line| line.seq).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
    for (status, ids) in
        [(ReservationStatus::Active, &[3, 1][..]), (ReservationStatus::Released, &[2])]
    {
        let query = ReservationQuery {
            status: Some(status),
            sku: Some(sku("SKU-100")),
            limit: 9,
            ..ReservationQuery::default()
        };
        let found = fixture.store().reservations(&org("acme"), query).await.unwrap().items;
        assert_eq!(found.iter().map(|found| found.id.0).collect::<Vec<_>>(), ids);
    }
    let query = trueup_store::ListingQuery { limit: 1, ..Default::default() };
    assert!(fixture.store().listings(&org("acme"), query).await.is_ok());
    assert_eq!(fixture.store().verify(&org("acme")).await.unwrap().faults, [""; 0]);
    let shop = trueup_core::ChannelId::new("shop").unwrap();
    let kept = fixture.store().unmapped_lines(&org("acme"), &shop, None, 9).await.unwrap().items;
    assert_eq!(
        (kept.len(), kept[0].sold, kept[0].updated_at),
        (1, 2, Some(Timestamp::from_micros(5)))
    );
    assert_eq!((kept[0].sku.clone(), kept[0].fields["asin"].as_str()), (None, "B0"));
}

#[tokio::test]
async fn an_earlier_version_that_was_not_stopped_is_refused() {
    let fixture = filled().await;
    let path = fixture.dir().join(FILE_NAME);
    let conn = rusqlite::Connection::open(&path).unwrap();
    let unfinished = "CREATE TABLE journal (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
        INSERT INTO journal VALUES (8, x'00')";
    conn.execute_batch(unfinished).unwrap();
    conn.pragma_update(None, "user_version", 9).unwrap();
    drop(conn);
    let error = refused(fixture.dir(), &fixture);
    assert!(error.contains("start and stop that version"), "{error}");
}

#[tokio::test]
async fn a_line_that_was_changed_is_refused() {
    let fixture = Fixture::embedded().await;
    fixture.put("A", 1).await;
    let changes =
        ["delta = delta + 1", "quantity_after = 0", "reserved_delta = 1", "sku = 'another'"];
    for (nth, change) in (0..).zip(changes) {
        let crashed = crashed_with_a_line_to_apply(&fixture, nth * 100).await;
        let conn = rusqlite::Connection::open(crashed.dir().unwrap().join(FILE_NAME)).unwrap();
        let newest = "line = (SELECT max(line) FROM movement)";
        let sql = format!("UPDATE movement SET {change} WHERE {newest}");
        assert_eq!(conn.execute(&sql, []).unwrap(), 1);
        drop(conn);
        let error = refused(crashed.dir().unwrap(), &fixture);
        assert!(error.contains("damaged"), "{change}: {error}");
    }
}

/// A copy of the files while the row of the SKU is behind its newest line; a busy machine may
/// have to try a few times.
async fn crashed_with_a_line_to_apply(fixture: &Fixture, from: u64) -> TestStore {
    for units in from + 5..from + 55 {
        fixture.put("A", units).await;
        let crashed = fixture.place.crashed();
        let conn = rusqlite::Connection::open(crashed.dir().unwrap().join(FILE_NAME)).unwrap();
        let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let upto = number("SELECT value FROM meta WHERE name = 'upto_line'");
        if upto < number("SELECT max(line) FROM movement") {
            return crashed;
        }
    }
    panic!("the row of the SKU was never behind");
}

#[tokio::test]
async fn a_log_without_its_file_is_refused() {
    let fixture = Fixture::embedded().await;
    fixture.put("A", 1).await;
    let crashed = fixture.place.crashed();
    fs::remove_file(crashed.dir().unwrap().join(FILE_NAME)).unwrap();
    let error = refused(crashed.dir().unwrap(), &fixture);
    assert!(error.contains("missing"), "{error}");
}

#[tokio::test]
async fn a_crash_while_the_file_is_made_leaves_nothing_that_looks_like_a_store() {
    let fixture = Fixture::embedded().await;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("trueup.db.new"), b"half").unwrap();
    let store = Embedded::open(dir.path(), fixture.clock()).unwrap();
    assert_eq!(store.verify(&org("acme")).await.unwrap().skus, 0);
}

/// What the disk did not take may be lost, whatever the system shows: nobody is told that it is
/// there, and nothing is built on it.
#[tokio::test]
async fn a_flush_that_fails_is_final_until_the_next_start() {
    let mut fixture = filled().await;
    fixture.open().await;
    let log = fixture.dir().join(format!("{FILE_NAME}-wal"));
    assert!(log.exists());
    // The log cannot be opened to be flushed.
    fs::remove_file(&log).unwrap();
    let store = fixture.store();
    let put = Command::SetOnHand(set("SKU-1", 77));
    for _ in 0..2 {
        let refused = submit(store, "acme", put.clone()).await;
        assert!(matches!(refused, Err(StoreError::ReadOnly(_))), "{refused:?}");
    }
    assert_eq!(fixture.numbers("SKU-1").await, (1, 0), "memory has what is durable");
    assert!(matches!(store.health(), Health::Failing(_)));
    let rows = store.movements(&org("acme"), &sku("SKU-1"), MovementQuery::default()).await;
    assert!(rows.is_err(), "rows may show what is not durable");
    assert!(store.close().await.is_err());
    fixture.open().await;
    fixture.put("SKU-1", 78).await;
    assert_eq!(fixture.numbers("SKU-1").await, (78, 0));
}

/// Rows of SKUs are written behind, a piece with each commit; a crash in between leaves some of
/// them newer than the line after which lines are applied.
#[tokio::test]
async fn a_crash_between_two_pieces_of_rows_leaves_a_whole_ledger() {
    const SKUS: usize = 12_000;
    let fixture = Fixture::embedded().await;
    let names: Vec<String> = (0..SKUS).map(|nth| format!("SKU-{nth:05}")).collect();
    let items = names.iter().map(|name| set(name, 10)).collect();
    fixture.run(Command::Bulk { items, atomic: true }).await.unwrap();
    let mut partly = 0;
    for round in 0..40 {
        let items = names.iter().step_by(2).map(|name| set(name, 11 + round)).collect();
        fixture.run(Command::Bulk { items, atomic: true }).await.unwrap();
        let id = u128::from(round);
        fixture.reserve(id, "SKU-00000", 1).await.unwrap();
        fixture.run(commit(id)).await.unwrap();
        let counted_at = fixture.now();
        fixture.run(adjust("SKU-00001", 1)).await.unwrap();
        let mut copies = Vec::new();
        while fixture.store().figures().behind > 0 {
            copies.push(fixture.place.crashed());
        }
        for crashed in copies.iter().filter(|crashed| is_partly_in_rows(crashed)) {
            partly += 1;
            let again = crashed.open(fixture.clock()).await;
            for name in ["SKU-00000", "SKU-00001", "SKU-00002", "SKU-11998", "SKU-11999"] {
                let found = again.sku(&org("acme"), &sku(name)).await.unwrap();
                let live = fixture.store().sku(&org("acme"), &sku(name)).await.unwrap();
                assert_eq!(found, live, "round {round}");
            }
            let count = SetOnHand { counted_at: Some(counted_at), ..set("SKU-00001", 100) };
            let counted = submit(&*again, "acme", Command::SetOnHand(count)).await.unwrap();
            assert!(matches!(counted, Outcome::Decided(Ok(_))));
            let found = again.sku(&org("acme"), &sku("SKU-00001")).await.unwrap().unwrap();
            assert_eq!(found.state.totals().on_hand.get(), 101, "the line after it counts once");
            assert_eq!(again.verify(&org("acme")).await.unwrap().faults, [""; 0]);
        }
        if partly > 0 {
            return;
        }
    }
    panic!("no copy was taken between two pieces");
}

/// Returns whether a crash left rows that are newer than the line after which lines are applied.
fn is_partly_in_rows(crashed: &TestStore) -> bool {
    let copy = crashed.crashed();
    let conn = rusqlite::Connection::open(copy.dir().unwrap().join(FILE_NAME)).unwrap();
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let line = number("SELECT coalesce(max(line), 0) FROM sku WHERE sku = 'SKU-00000'");
    let upto = number("SELECT value FROM meta WHERE name = 'upto_line'");
    line > upto
}

/// Digests of many reservations at once are appended in packs, a piece with each commit.
#[tokio::test]
async fn many_reservations_at_once_are_found_before_during_and_after_their_round() {
    const MANY: u128 = 9_000;
    let fixture = Fixture::embedded().await;
    let names: Vec<String> = (0..30).map(|nth| format!("SKU-{nth:02}")).collect();
    let items = names.iter().map(|name| set(name, 1_000)).collect();
    fixture.run(Command::Bulk { items, atomic: true }).await.unwrap();
    let name_of = |id: u128| names[usize::try_from(id % 30).unwrap()].as_str();
    let many = (0..MANY).map(|id| reserve(id, name_of(id), 1)).collect();
    fixture.run(Command::ReserveBatch(many)).await.unwrap();

    let by_sku: Vec<u128> = (0..MANY).rev().filter(|id| id % 30 == 7).collect();
    let are_found = async |store: &dyn Store| {
        let found = async |query: ReservationQuery| -> Vec<u128> {
            let query = ReservationQuery { limit: 1_000, ..query };
            let page = store.reservations(&org("acme"), query).await.unwrap();
            page.items.iter().map(|found| found.id.0).collect()
        };
        for id in (0..MANY).step_by(499) {
            let order = Some(reserve(id, "any", 1).order);
            assert_eq!(found(ReservationQuery { order, ..Default::default() }).await, [id]);
        }
        let asked = ReservationQuery { sku: Some(sku("SKU-07")), ..Default::default() };
        assert_eq!(found(asked).await, by_sku);
    };
    // Its copy is taken before anybody asks for what is behind, which has it written.
    let mut copies = vec![fixture.place.crashed()];
    while fixture.store().figures().behind > 0 {
        copies.push(fixture.place.crashed());
    }
    copies.push(fixture.place.crashed());
    assert!(has_packs(copies.last().unwrap()), "nothing went into packs");
    are_found(fixture.store()).await;
    for copy in &copies {
        let again = copy.open(fixture.clock()).await;
        are_found(&*again).await;
        assert_eq!(again.verify(&org("acme")).await.unwrap().faults, [""; 0]);
    }
}

fn has_packs(crashed: &TestStore) -> bool {
    let copy = crashed.crashed();
    let conn = rusqlite::Connection::open(copy.dir().unwrap().join(FILE_NAME)).unwrap();
    let sql = "SELECT EXISTS (SELECT 1 FROM reservation_pack)";
    conn.query_row(sql, [], |row| row.get(0)).unwrap()
}
