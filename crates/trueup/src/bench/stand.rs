//! A server under test with data of its own, which may be ended and started again.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::child::{Scratch, Served};
use super::load::Target;
use super::{BenchError, ORG};
use crate::cli::token::every_scope;

/// When the token expires: in 2100. Its secret is random and dies with the run.
const TOKEN_EXPIRES: i64 = 4_102_444_800;
/// How long rows may take until none is behind, and how often that is looked at.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(300);
const QUIET_LOOK: Duration = Duration::from_millis(100);
/// The figure that says how many rows are behind.
const BEHIND: &str = "trueup_store_behind_rows ";

/// What a server needs to be started, once or again.
pub(super) struct Stand<'a> {
    scratch: &'a Scratch,
    secret: String,
    data_dir: PathBuf,
    /// The database, where it takes the place of the directory.
    database: Option<String>,
}

impl<'a> Stand<'a> {
    /// Names a data directory, which the server makes.
    pub(super) fn new(scratch: &'a Scratch, name: &str) -> Self {
        let secret = hex::encode(rand::random::<[u8; 32]>());
        Self { scratch, secret, data_dir: scratch.path().join(name), database: None }
    }

    /// Has the data in a database, which any number of servers may share.
    pub(super) fn in_database(self, url: String) -> Self {
        Self { database: Some(url), ..self }
    }

    /// Starts the server and waits until it listens.
    pub(super) async fn serve(&self, more: &[&str]) -> Result<Served, BenchError> {
        let data_dir = self.data_dir.to_string_lossy();
        let place = match &self.database {
            Some(url) => ["--store", url],
            None => ["--data-dir", &data_dir],
        };
        let arguments = [&["serve", "--listen", "127.0.0.1:0"], &place[..]].concat();
        let mut environment = vec![("TRUEUP_JWT_SECRET", self.secret.as_str())];
        // Servers of one database must have the same; one alone makes its own.
        environment.extend(self.database.is_some().then_some(("TRUEUP_SECRET_KEY", &*self.secret)));
        let arguments = [&arguments[..], more].concat();
        Served::start("server", &arguments, &environment, self.scratch.path()).await
    }

    /// Signs a token that may do everything that is measured.
    pub(super) fn token(&self) -> Result<String, BenchError> {
        let claims = json!({
            "sub": "bench",
            "org": ORG,
            "scope": every_scope(),
            "exp": TOKEN_EXPIRES,
        });
        let key = EncodingKey::from_secret(self.secret.as_bytes());
        jsonwebtoken::encode(&Header::default(), &claims, &key).map_err(BenchError::Token)
    }

    /// Says whom to ask.
    pub(super) fn target(&self, server: &Served, skus: u32) -> Result<Target, BenchError> {
        Ok(Target { addr: server.addr, token: self.token()?, skus, keyed: false })
    }

    /// Returns how many bytes the data directory has.
    pub(super) fn bytes(&self) -> Result<u64, BenchError> {
        let sum = || -> io::Result<u64> {
            fs::read_dir(&self.data_dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
        };
        sum().map_err(|source| BenchError::Dir { path: self.data_dir.clone(), source })
    }

    /// Removes the data directory of a server that is gone.
    pub(super) fn clear(self) -> Result<(), BenchError> {
        let removed = fs::remove_dir_all(&self.data_dir);
        removed.map_err(|source| BenchError::Dir { path: self.data_dir, source })
    }
}

/// Waits until no rows are behind.
pub(super) async fn until_quiet(at: &Target) -> Result<(), BenchError> {
    let what = "read the server's figures";
    let mut connection = at.connect(what).await?;
    let until = Instant::now() + QUIET_WAIT_MAX;
    while Instant::now() < until {
        let text = at.text(&mut connection, what, ("GET", "/metrics"), "").await?;
        if behind(&text) == Some(0) {
            return Ok(());
        }
        sleep(QUIET_LOOK).await;
    }
    Err(BenchError::Late("rows are still behind"))
}

/// Finds how many rows are behind in what `/metrics` says.
fn behind(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(BEHIND))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_behind_are_found_among_the_figures() {
        let text = "# TYPE trueup_store_behind_rows gauge\ntrueup_store_behind_rows 12\nx 1\n";
        assert_eq!(behind(text), Some(12));
        assert_eq!(behind("trueup_ready 1\n"), None);
    }
}
