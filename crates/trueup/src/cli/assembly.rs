//! Puts a server together: store, engine, API and listener; and takes it apart again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trueup_core::Timestamp;
use trueup_store::{NodeInfo, Store};
use trueup_sync::{Clock, Engine, EngineError, EngineOptions};

use crate::api::{ApiOptions, App, Parts, router};
use crate::auth::Auth;
use crate::auth::TokenSettings;
use crate::cli::keys::{KeyError, KeySettings};
use crate::cli::place::{OpenError, Opened, Place};

/// For what the key of the dashboard's sessions is derived.
const SESSIONS: &str = "trueup 2026 dashboard sessions";
/// How long requests under way may take to end when the server stops.
const DRAIN_MAX: Duration = Duration::from_secs(25);

/// How long a node of several says that it is going before it does, so that nobody sends it more.
const DRAIN_NOTICE: Duration = Duration::from_secs(3);
/// How often the figures that were noted are added up; until then each has a place of its own.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// How many connections may wait to be taken.
const BACKLOG: u32 = 1_024;

/// The system's clock; the one place that the program reads it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(jiff::Timestamp::now().as_microsecond())
    }
}

/// What a server is made from.
#[derive(Debug)]
pub struct ServerOptions {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the store is.
    pub place: Place,
    /// How tokens are checked; `None` = API keys only.
    pub tokens: Option<TokenSettings>,
    /// Where the keys are that secrets are encrypted with.
    pub keys: KeySettings,
    /// The URL under which the server is reached from outside.
    pub public_url: Option<String>,
    /// What the node is called; its address by default.
    pub node_name: Option<String>,
    /// Where other nodes reach it; the address that it listens on by default.
    pub node_url: Option<String>,
    /// Whether endpoints and webhook addresses may be private or loopback.
    pub allow_private_endpoints: bool,
    /// How long a vendor's answer may take.
    pub request_timeout: Duration,
    /// How far polls of orders look back.
    pub orders_overlap: Duration,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory or the database was refused.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The address is taken or not ours.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The key that secrets are encrypted with could not be read or made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A server that is answering.
pub struct Running {
    /// The address that was bound.
    pub addr: SocketAddr,
    /// The ledger.
    pub store: Arc<dyn Store>,
    /// The sync engine.
    pub engine: Engine,
    draining: CancellationToken,
    stopping: CancellationToken,
    /// How long it says that it is going.
    notice: Duration,
    serving: JoinHandle<io::Result<()>>,
}

impl Running {
    /// Opens the store, starts the engine and listens.
    ///
    /// # Errors
    /// [`StartError`] says what stands in the way; nothing is left running.
    pub async fn start(
        options: ServerOptions,
        metrics: Option<PrometheusHandle>,
    ) -> Result<Self, StartError> {
        let refused = |error| StartError::Listen(options.listen, error);
        // Bound first, for other nodes are told the address; nobody is let in before all is there.
        let socket = bind(options.listen).map_err(refused)?;
        let addr = socket.local_addr().map_err(refused)?;
        let node = NodeInfo {
            name: options.node_name.unwrap_or_else(|| addr.to_string()),
            url: options.node_url.unwrap_or_else(|| format!("http://{addr}")),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let Opened { store, clock } = options.place.open_node(node.clone()).await?;
        let keys = options.keys.ring(&options.place)?;
        let key = keys.active.derive(SESSIONS, b"");
        let is_secure = options.public_url.as_ref().is_some_and(|url| url.starts_with("https://"));
        let engine_options = EngineOptions {
            allow_private_endpoints: options.allow_private_endpoints,
            keys,
            request_timeout: options.request_timeout,
            orders_overlap: options.orders_overlap,
            public_url: options.public_url.clone(),
            clock: clock.clone(),
        };
        let engine = Engine::start(store.clone(), engine_options).await?;
        let listener = socket.listen(BACKLOG).map_err(refused)?;
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        if let Some(figures) = metrics.clone() {
            tokio::spawn(add_up(figures, stopping.clone()));
        }
        let app = App::new(Parts {
            store: store.clone(),
            engine: engine.clone(),
            auth: Auth::new(store.clone(), options.tokens),
            clock,
            metrics,
            options: ApiOptions { public_url: options.public_url, node },
            draining: draining.clone(),
            stopping: stopping.clone(),
        });
        let stop = stopping.clone();
        let api = router(app);
        let dashboard =
            trueup_web::routes(trueup_web::Options { api: api.clone(), key, is_secure });
        let serve = axum::serve(listener, dashboard.merge(api))
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let serving = tokio::spawn(async move { serve.await });
        let notice = match options.place {
            Place::Directory(_) => Duration::ZERO,
            Place::Database(_) => DRAIN_NOTICE,
        };
        Ok(Self { addr, store, engine, draining, stopping, notice, serving })
    }

    /// Returns the server's address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Says that it is going, stops the workers and hands their work over to other nodes, takes no
    /// more requests, lets those under way end, and closes the store.
    ///
    /// # Errors
    /// When the store could not be closed cleanly; what was acknowledged is durable all the same.
    pub async fn stop(self) -> Result<(), trueup_store::StoreError> {
        self.draining.cancel();
        if !self.notice.is_zero() {
            // Others work for its orgs before it stops answering: what needs them is passed on.
            tokio::time::sleep(self.notice).await;
            self.engine.stop().await;
            if let Err(error) = self.store.retire().await {
                tracing::warn!(%error, "the node's work could not be handed over");
            }
        }
        self.stopping.cancel();
        let abort = self.serving.abort_handle();
        match tokio::time::timeout(DRAIN_MAX, self.serving).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the listener ended"),
            Ok(Err(error)) => tracing::warn!(%error, "the listener died"),
            Err(_) => {
                abort.abort();
                tracing::warn!("requests under way were cut off after {DRAIN_MAX:?}");
            }
        }
        self.engine.stop().await;
        self.store.close().await
    }
}

/// Adds figures up again and again until the server stops, whether or not anybody asks for them.
async fn add_up(figures: PrometheusHandle, stopping: CancellationToken) {
    let again = async {
        loop {
            tokio::time::sleep(FIGURES_EVERY).await;
            figures.run_upkeep();
        }
    };
    stopping.run_until_cancelled(again).await;
}

/// Binds a socket as a listener does.
fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a server before, which are ending, are not in the way.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
