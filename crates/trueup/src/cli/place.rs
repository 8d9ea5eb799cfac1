//! Where the store is: in a directory of this machine, or in a PostgreSQL database.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Deserialize;
use trueup_core::Timestamp;
use trueup_store::embedded::{self, Embedded, Now};
use trueup_store::postgres::{self, Postgres};
use trueup_store::{NodeInfo, Store};
use trueup_sync::Clock;

use super::assembly::SystemClock;
use crate::config::{Config, ConfigError, DATA_DIR, STORE};

/// The URL of a PostgreSQL database; shown nowhere, because it may hold a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

impl StoreUrl {
    /// Returns whether a password stands in it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        let (address, query) = self.0.split_once('?').unwrap_or((&self.0, ""));
        let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.is_some_and(|user| user.contains(':'))
            || query.split('&').any(|pair| pair.starts_with("password="))
    }
}

impl StoreUrl {
    /// Returns the URL, password and all: for who opens it, and nobody else.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreUrl(***)")
    }
}

impl From<String> for StoreUrl {
    /// Takes any text: what is wrong with it is said when it is used, without showing it.
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Which store a command works on.
#[derive(Debug, Clone, Default, Args)]
pub struct PlaceArgs {
    /// The store's directory, made when it is missing [env: `TRUEUP_DATA_DIR`].
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    pub data_dir: Option<PathBuf>,
    /// A PostgreSQL database in place of a directory, as postgres://user@host/database [env:
    /// `TRUEUP_STORE`, which other users of the machine cannot see].
    #[arg(long, value_name = "URL")]
    pub store: Option<StoreUrl>,
}

impl PlaceArgs {
    /// Returns where the store is, where this or the configuration says it.
    #[must_use]
    pub fn place(&self, config: &Config) -> Option<Place> {
        let flags = Place::of(self.data_dir.as_ref(), self.store.as_ref());
        flags.or_else(|| Place::of(config.data_dir.as_ref(), config.store.as_ref()))
    }

    /// Returns where the store is that the flags or the environment name.
    ///
    /// # Errors
    /// When neither names one, or the environment does not make sense.
    pub fn named(&self) -> Result<Place, ConfigError> {
        let place = self.place(&Config::load(None)?);
        place.ok_or_else(|| ConfigError::Value {
            name: "--data-dir".to_owned(),
            detail: "is missing: which store?".to_owned(),
            hint: Some(format!("name it with --data-dir or --store, or set {DATA_DIR} or {STORE}")),
        })
    }
}

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The embedded store of a directory.
    Directory(PathBuf),
    /// A store in a PostgreSQL database.
    Database(StoreUrl),
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory was refused.
    #[error(transparent)]
    Directory(#[from] embedded::OpenError),
    /// The database was refused.
    #[error(transparent)]
    Database(#[from] postgres::OpenError),
}

/// A store that is open, and the clock that it decides by.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What else compares instants with the store's has to look at the same one.
    pub clock: Arc<dyn Clock>,
}

impl Place {
    fn of(dir: Option<&PathBuf>, url: Option<&StoreUrl>) -> Option<Self> {
        let directory = dir.cloned().map(Self::Directory);
        directory.or_else(|| url.cloned().map(Self::Database))
    }

    /// Returns the directory that is used when nothing says where the store is.
    #[must_use]
    pub fn usual() -> Self {
        Self::Directory(PathBuf::from("trueup-data"))
    }

    /// Opens the store that is here; in a database nodes may be at work on it.
    ///
    /// # Errors
    /// When the directory is in use or refused, or the database cannot be reached or is refused.
    pub async fn open(&self) -> Result<Opened, OpenError> {
        self.open_as(None).await
    }

    /// Opens the store that is here as a node that works for its part of the orgs.
    ///
    /// # Errors
    /// As of [`Place::open`].
    pub async fn open_node(&self, info: NodeInfo) -> Result<Opened, OpenError> {
        self.open_as(Some(info)).await
    }

    async fn open_as(&self, node: Option<NodeInfo>) -> Result<Opened, OpenError> {
        match self {
            Self::Directory(dir) => {
                let store = Embedded::open(dir, Arc::new(|| SystemClock.now()))?;
                Ok(Opened { store: Arc::new(store), clock: Arc::new(SystemClock) })
            }
            Self::Database(url) => {
                let (url, clock) = (&*url.0, postgres::Clock::Database);
                let store = match node {
                    Some(info) => Postgres::open_node(url, clock, info).await?,
                    None => Postgres::open(url, clock).await?,
                };
                let clock = Arc::new(DatabaseClock(store.clock()));
                Ok(Opened { store: Arc::new(store), clock })
            }
        }
    }

    /// Returns the directory that is the store's own: where a key may be kept when none is
    /// configured.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(dir) => Some(dir),
            Self::Database(_) => None,
        }
    }
}

/// The database's clock, so that nodes agree.
struct DatabaseClock(Now);

impl fmt::Debug for DatabaseClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseClock")
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        StoreUrl(text.to_owned())
    }

    #[test]
    fn a_password_is_found_and_shown_nowhere() {
        for (text, has) in [
            ("postgres://u@db/trueup", false),
            ("postgres://u:p@db/trueup", true),
            ("postgres://u:p@ss@db:5432/trueup?sslmode=disable", true),
            ("postgres://db:5432/a:b@c", false),
            ("postgres://u@/trueup?host=/run/postgresql", false),
            ("postgres://u@/trueup?host=/run&password=p", true),
            ("nonsense", false),
        ] {
            assert_eq!(url(text).has_password(), has, "{text}");
            assert!(!format!("{:?}", Place::Database(url(text))).contains(text));
        }
    }

    #[tokio::test]
    async fn a_refused_url_is_not_told() {
        let refused = Place::Database(url("postgres://u:hunter2@h:port/d")).open().await;
        let words = refused.err().map(|error| error.to_string()).unwrap();
        assert!(!words.contains("hunter2") && words.contains("URL"), "{words}");
    }

    #[test]
    fn flags_stand_over_the_configuration() {
        let (dir, other) = (PathBuf::from("/a"), PathBuf::from("/b"));
        let in_dir = PlaceArgs { data_dir: Some(dir.clone()), store: None };
        let in_database = PlaceArgs { data_dir: None, store: Some(url("postgres://db/x")) };
        let config = Config { data_dir: Some(other.clone()), ..Config::default() };
        let database = Config { store: Some(url("postgres://db/y")), ..Config::default() };
        assert_eq!(in_dir.place(&database), Some(Place::Directory(dir)));
        let named = in_database.place(&config);
        assert_eq!(named, Some(Place::Database(url("postgres://db/x"))));
        let none = PlaceArgs::default();
        assert_eq!(none.place(&config), Some(Place::Directory(other)));
        assert_eq!(none.place(&database), Some(Place::Database(url("postgres://db/y"))));
        assert_eq!(none.place(&Config::default()), None);
    }
}
