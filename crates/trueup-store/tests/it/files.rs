//! The data directory: locked, and refused when it is not what it should be.

use std::fs;
use std::path::Path;

use trueup_store::Store;
use trueup_store::embedded::{Embedded, FILE_NAME, OpenError};

use crate::harness::{Fixture, org};

fn refused(path: &Path, fixture: &Fixture) -> String {
    match Embedded::open(path, fixture.clock()) {
        Ok(_) => panic!("it was opened"),
        Err(error) => error.to_string(),
    }
}

/// A directory with a closed store of some SKUs.
async fn filled() -> Fixture {
    let mut fixture = Fixture::new();
    for number in 0..200 {
        fixture.put(&format!("SKU-{number}"), number).await;
    }
    fixture.store().close().await.unwrap();
    fixture.store = None;
    fixture
}

#[tokio::test]
async fn a_second_process_is_told_so() {
    let fixture = Fixture::new();
    let error = Embedded::open(fixture.dir.path(), fixture.clock()).unwrap_err();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
}

#[tokio::test]
async fn a_missing_directory_is_made() {
    let fixture = Fixture::new();
    let deep = fixture.dir.path().join("a/b");
    let store = Embedded::open(&deep, fixture.clock()).unwrap();
    assert_eq!(store.orgs().await, Ok(Vec::new()));
}

#[tokio::test]
async fn foreign_torn_and_damaged_files_are_refused_and_left_alone() {
    let fixture = filled().await;
    let path = fixture.dir.path().join(FILE_NAME);
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
        let error = refused(fixture.dir.path(), &fixture);
        assert!(error.contains(why), "{why}: {error}");
        assert!(fs::read(&path).unwrap() == bytes, "{why}: the file was touched");
    }
    fs::write(&path, &whole).unwrap();
    assert!(Embedded::open(fixture.dir.path(), fixture.clock()).is_ok());
}

#[tokio::test]
async fn a_later_version_is_refused() {
    let fixture = filled().await;
    let path = fixture.dir.path().join(FILE_NAME);
    let conn = rusqlite::Connection::open(&path).unwrap();
    conn.pragma_update(None, "user_version", 999).unwrap();
    drop(conn);
    let error = refused(fixture.dir.path(), &fixture);
    assert!(error.contains("schema version 999"), "{error}");
}

#[tokio::test]
async fn an_earlier_version_is_brought_forward_with_all_it_has() {
    let mut fixture = filled().await;
    let path = fixture.dir.path().join(FILE_NAME);
    let conn = rusqlite::Connection::open(&path).unwrap();
    // As version 1 had it.
    conn.execute_batch("ALTER TABLE listing DROP COLUMN base_at").unwrap();
    conn.pragma_update(None, "user_version", 1).unwrap();
    drop(conn);
    fixture.open();
    assert_eq!(fixture.numbers("SKU-199").await, (199, 0));
    let query = trueup_store::ListingQuery { limit: 1, ..Default::default() };
    assert!(fixture.store().listings(&org("acme"), query).await.is_ok());
    assert_eq!(fixture.store().verify(&org("acme")).await.unwrap().faults, [""; 0]);
}

#[tokio::test]
async fn a_journal_record_that_was_changed_is_refused() {
    let fixture = Fixture::new();
    fixture.put("A", 1).await;
    let crashed = fixture.crashed_copy();
    let conn = rusqlite::Connection::open(crashed.path().join(FILE_NAME)).unwrap();
    let changed =
        conn.execute("UPDATE journal SET body = zeroblob(length(body)) WHERE seq = 1", []).unwrap();
    drop(conn);
    assert_eq!(changed, 1, "the record is still in the journal");
    let error = refused(crashed.path(), &fixture);
    assert!(error.contains("damaged"), "{error}");
}

#[tokio::test]
async fn a_log_without_its_file_is_refused() {
    let fixture = Fixture::new();
    fixture.put("A", 1).await;
    let crashed = fixture.crashed_copy();
    fs::remove_file(crashed.path().join(FILE_NAME)).unwrap();
    let error = refused(crashed.path(), &fixture);
    assert!(error.contains("missing"), "{error}");
}

#[tokio::test]
async fn a_crash_while_the_file_is_made_leaves_nothing_that_looks_like_a_store() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("trueup.db.new"), b"half").unwrap();
    let store = Embedded::open(dir.path(), fixture.clock()).unwrap();
    assert_eq!(store.verify(&org("acme")).await.unwrap().skus, 0);
}
