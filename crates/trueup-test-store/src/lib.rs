//! A place for a store, for one test: a directory of the embedded store, or a PostgreSQL database
//! of its own.
//!
//! Which of them is said by `TRUEUP_TEST_STORE`, the URL of a PostgreSQL whose user may make
//! databases; without it the store is embedded. So one suite runs on both. Like every test, this
//! stops where it cannot go on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;
use trueup_store::embedded::{Embedded, Now};
use trueup_store::postgres::{Clock, Postgres};
use trueup_store::{NodeInfo, Store};

/// The variable that says where a store is opened.
const VARIABLE: &str = "TRUEUP_TEST_STORE";

/// A place for a store; what is in it goes with it.
#[derive(Debug, Clone)]
pub struct TestStore(Place);

#[derive(Debug, Clone)]
enum Place {
    Directory(Arc<TempDir>),
    Database(Arc<Database>),
}

impl TestStore {
    /// Makes an empty place of the kind that is being tested.
    pub async fn new() -> Self {
        match server() {
            Some(server) => Self(Place::Database(Arc::new(Database::new(server).await))),
            None => Self::embedded(),
        }
    }

    /// Makes an empty place for an embedded store, whatever is being tested.
    #[must_use]
    pub fn embedded() -> Self {
        Self(Place::Directory(Arc::new(tempfile::tempdir().unwrap())))
    }

    /// Returns whether it is for an embedded store.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        matches!(self.0, Place::Directory(_))
    }

    /// Opens the store that is here, as the node that works for everything: one that was opened
    /// before has ended or is taken for dead, and in a directory must have ended.
    pub async fn open(&self, now: Now) -> Arc<dyn Store> {
        match &self.0 {
            Place::Directory(dir) => Arc::new(Embedded::open(dir.path(), now).unwrap()),
            Place::Database(database) => Arc::new(database.open(now).await),
        }
    }

    /// Returns a place as a crash at this instant would leave it: a copy of the files, or the same
    /// database, in which what was not committed is not seen.
    #[must_use]
    pub fn crashed(&self) -> Self {
        match &self.0 {
            Place::Directory(dir) => Self(Place::Directory(Arc::new(copy(dir.path())))),
            Place::Database(_) => self.clone(),
        }
    }

    /// Returns the directory of an embedded store.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        match &self.0 {
            Place::Directory(dir) => Some(dir.path()),
            Place::Database(_) => None,
        }
    }

    /// Returns the URL of the database.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        match &self.0 {
            Place::Directory(_) => None,
            Place::Database(database) => Some(database.url()),
        }
    }
}

/// Returns the URL of the server that stores are opened on, where there is one.
fn server() -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "what is tested is said from outside")]
    std::env::var(VARIABLE).ok().filter(|url| !url.is_empty())
}

fn copy(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// A database of a test; dropped with it.
#[derive(Debug)]
struct Database {
    server: String,
    name: String,
}

impl Database {
    async fn new(server: String) -> Self {
        let name = format!("trueup_{}", uuid::Uuid::now_v7().simple());
        execute(&server, &format!("CREATE DATABASE {name} TEMPLATE {}", template(&server).await))
            .await;
        Self { server, name }
    }

    async fn open(&self, now: Now) -> Postgres {
        // A test does not wait for leases to run out.
        const BURY: &str = "DELETE FROM node; UPDATE lease SET node = NULL";
        execute(&self.url(), BURY).await;
        Postgres::open_node(&self.url(), Clock::Given(now), NodeInfo::default()).await.unwrap()
    }

    fn url(&self) -> String {
        in_database(&self.server, &self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // Outside of the runtime that the test runs in, which may be ending.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                execute(&server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            });
        });
        // A test that has failed is not made to abort by this.
        drop(dropped.join());
    }
}

/// Returns the name of a database with the schema and nothing else, made once per process.
async fn template(server: &str) -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let make = || async {
        let name = format!("trueup_template_{}", uuid::Uuid::now_v7().simple());
        execute(server, &format!("CREATE DATABASE {name}")).await;
        let still: Now = Arc::new(|| trueup_core::Timestamp::EPOCH);
        let store = Postgres::open(&in_database(server, &name), Clock::Given(still)).await.unwrap();
        store.close().await.unwrap();
        name
    };
    TEMPLATE.get_or_init(make).await
}

/// Returns the URL of a database of a server: `postgres://user@host/NAME?…`.
fn in_database(server: &str, name: &str) -> String {
    let (address, options) = server.split_once('?').unwrap_or((server, ""));
    let scheme_end = address.find("://").map_or(0, |at| at + 3);
    let path = address[scheme_end..].find('/').map_or(address.len(), |at| scheme_end + at);
    let options = if options.is_empty() { String::new() } else { format!("?{options}") };
    format!("{}/{name}{options}", &address[..path])
}

/// Runs a statement on a connection of its own.
async fn execute(server: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(server, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    drop(connection.await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_takes_the_place_of_the_servers() {
        for (server, expected) in [
            ("postgres://u@/postgres?host=/tmp/x", "postgres://u@/t?host=/tmp/x"),
            ("postgres://u:p@db:5432/postgres", "postgres://u:p@db:5432/t"),
            ("postgres://u@db?sslmode=disable", "postgres://u@db/t?sslmode=disable"),
        ] {
            assert_eq!(in_database(server, "t"), expected);
        }
    }
}
