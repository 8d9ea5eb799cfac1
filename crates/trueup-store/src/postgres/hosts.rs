//! Connecting to whichever of several hosts is the one that takes writes.
//!
//! Each host has its time, for everything until it can be used: one that is cut off, or is frozen
//! and takes connections without ever answering, does not keep others from being tried.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Connect;
use futures::future::{BoxFuture, FutureExt, pending};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long one host may take until it can be used.
const HOST_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client is connected by.
pub(super) type HostConnection =
    Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The hosts of a database, and which of them was the right one. Clones know it of one another.
#[derive(Clone)]
pub(super) struct Hosts {
    each: Arc<[Config]>,
    tls: MakeRustlsConnect,
    right: Arc<AtomicUsize>,
    time_each: Duration,
}

impl Hosts {
    /// Takes a configuration apart that may name several.
    pub(super) fn new(config: &Config, tls: MakeRustlsConnect) -> Self {
        Self { each: each(config), tls, right: Arc::default(), time_each: HOST_TIMEOUT }
    }

    /// Connects to the same hosts with another configuration.
    pub(super) fn with(self, config: &Config) -> Self {
        Self { each: each(config), ..self }
    }

    /// Returns how long it takes at most until all have been tried.
    pub(super) fn patience(&self) -> Duration {
        self.time_each * u32::try_from(self.each.len()).unwrap_or(u32::MAX)
    }
}

impl Hosts {
    /// Connects to the host that was the right one before, or else to the next that is; what is
    /// sent and received goes on only while the connection is polled. Where none even refuses, it
    /// waits for ever: whoever asks has a time of its own.
    pub(super) async fn reach(&self) -> Result<(Client, HostConnection), Error> {
        let count = self.each.len();
        let first = self.right.load(Ordering::Relaxed);
        let mut refused = None;
        for index in (0..count).map(|step| (first + step) % count) {
            let Some(config) = self.each.get(index) else { continue };
            match timeout(self.time_each, config.connect(self.tls.clone())).await {
                Ok(Ok(reached)) => {
                    self.right.store(index, Ordering::Relaxed);
                    return Ok(reached);
                }
                Ok(Err(error)) => refused = Some(error),
                Err(_) => {}
            }
        }
        match refused {
            Some(error) => Err(error),
            None => pending().await,
        }
    }
}

impl Connect for Hosts {
    fn connect(&self, _: &Config) -> BoxFuture<'_, Result<(Client, JoinHandle<()>), Error>> {
        async move {
            let (client, connection) = self.reach().await?;
            // Whoever uses the client hears of what ends its connection.
            Ok((client, tokio::spawn(connection.map(drop))))
        }
        .boxed()
    }
}

/// Returns the configuration of each host alone.
fn each(config: &Config) -> Arc<[Config]> {
    let count = config.get_hosts().len().max(config.get_hostaddrs().len());
    (0..count).map(|index| of_host(config, index)).collect()
}

/// Returns the configuration of one host alone.
fn of_host(config: &Config, index: usize) -> Config {
    let mut alone = Config::new();
    match config.get_hosts().get(index) {
        Some(tokio_postgres::config::Host::Tcp(name)) => alone.host(name),
        Some(tokio_postgres::config::Host::Unix(path)) => alone.host_path(path),
        None => &mut alone,
    };
    if let Some(address) = config.get_hostaddrs().get(index) {
        alone.hostaddr(*address);
    }
    if let Some(port) = config.get_ports().get(index).or_else(|| config.get_ports().first()) {
        alone.port(*port);
    }
    if let Some(user) = config.get_user() {
        alone.user(user);
    }
    if let Some(password) = config.get_password() {
        alone.password(password);
    }
    if let Some(name) = config.get_dbname() {
        alone.dbname(name);
    }
    if let Some(options) = config.get_options() {
        alone.options(options);
    }
    if let Some(name) = config.get_application_name() {
        alone.application_name(name);
    }
    if let Some(silence) = config.get_tcp_user_timeout() {
        alone.tcp_user_timeout(*silence);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        alone.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        alone.keepalives_retries(retries);
    }
    alone
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .target_session_attrs(config.get_target_session_attrs())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle());
    alone
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::postgres::address::Address;

    #[test]
    fn what_is_said_of_all_is_said_of_each() {
        let both = "postgres://u:p@one:1,two:2/d?target_session_attrs=read-write&keepalives=1";
        let mut config: Config = both.parse().unwrap();
        config
            .options("-c jit=off")
            .application_name("trueup")
            .ssl_mode(tokio_postgres::config::SslMode::Require);
        for (index, alone) in [
            (0, "postgres://u:p@one:1/d?target_session_attrs=read-write&keepalives=1"),
            (1, "postgres://u:p@two:2/d?target_session_attrs=read-write&keepalives=1"),
        ] {
            let mut wanted: Config = alone.parse().unwrap();
            wanted
                .options("-c jit=off")
                .application_name("trueup")
                .ssl_mode(tokio_postgres::config::SslMode::Require);
            assert_eq!(of_host(&config, index), wanted);
        }
    }

    #[tokio::test]
    async fn a_host_that_never_answers_does_not_hide_the_next() {
        let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "postgres://u@{},{}/d?sslmode=disable",
            frozen.local_addr().unwrap(),
            other.local_addr().unwrap()
        );
        let address = Address::parse(&url).unwrap();
        let config = address.config();
        let hosts = Hosts::new(&config, address.tls().unwrap());
        let hosts = Hosts { time_each: Duration::from_millis(1), ..hosts };
        tokio::select! {
            asked = other.accept() => drop(asked.unwrap()),
            _ = hosts.connect(&config) => panic!("nobody answers"),
        }
    }
}
