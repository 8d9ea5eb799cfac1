//! Simulators behind a loopback listener: one each, or several on one address.

use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::shop::Shop;
use crate::{amazon, control, ebay, edge, shopify};

/// How long a stopping server waits for requests under way.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// Any of the simulators; it derefs to [`Shop`], so that a demo treats them alike.
#[derive(Clone)]
pub enum AnySimulator {
    /// A Shopify shop.
    Shopify(shopify::Simulator),
    /// An Amazon seller account.
    Amazon(amazon::Simulator),
    /// An eBay seller account.
    Ebay(ebay::Simulator),
}

impl AnySimulator {
    /// Returns the simulator as a shared trait object.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Shop> {
        match self {
            Self::Shopify(sim) => Arc::new(sim.clone()),
            Self::Amazon(sim) => Arc::new(sim.clone()),
            Self::Ebay(sim) => Arc::new(sim.clone()),
        }
    }
}

impl Deref for AnySimulator {
    type Target = dyn Shop;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Shopify(sim) => sim,
            Self::Amazon(sim) => sim,
            Self::Ebay(sim) => sim,
        }
    }
}

impl From<shopify::Simulator> for AnySimulator {
    fn from(sim: shopify::Simulator) -> Self {
        Self::Shopify(sim)
    }
}

impl From<amazon::Simulator> for AnySimulator {
    fn from(sim: amazon::Simulator) -> Self {
        Self::Amazon(sim)
    }
}

impl From<ebay::Simulator> for AnySimulator {
    fn from(sim: ebay::Simulator) -> Self {
        Self::Ebay(sim)
    }
}

/// Returns one simulator's routes: the vendor's, and control at `/_sim` and `/_sim/{vendor}`.
pub(crate) fn router(shop: Arc<dyn Shop>) -> Router {
    router_of(std::slice::from_ref(&shop)).nest("/_sim", control::routes(shop))
}

/// Returns the routes of several simulators of different vendors, control at `/_sim/{vendor}`.
fn router_of(shops: &[Arc<dyn Shop>]) -> Router {
    shops.iter().fold(Router::new(), |router, shop| {
        let control = format!("/_sim/{}", shop.vendor().as_str());
        router
            .merge(edge::wrap(shop.vendor_router(), shop))
            .nest(&control, control::routes(Arc::clone(shop)))
    })
}

/// Simulators that are being served; dropping it stops them at once.
pub struct SimServer {
    /// The address that was bound.
    pub addr: SocketAddr,
    /// The same as the `endpoint` of a Trueup connection: `http://127.0.0.1:PORT`.
    pub url: String,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl SimServer {
    /// Stops serving and delivering, and waits until both have ended.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        for task in &mut self.tasks {
            if tokio::time::timeout(GRACE_MAX, &mut *task).await.is_err() {
                task.abort();
            }
        }
    }
}

impl Drop for SimServer {
    fn drop(&mut self) {
        self.stop.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Serves one simulator on a loopback address (port 0 takes a free one) and delivers its webhooks.
///
/// # Errors
/// The address is not loopback or cannot be bound.
pub async fn spawn(sim: impl Into<AnySimulator>, addr: SocketAddr) -> io::Result<SimServer> {
    let shop = sim.into().shared();
    serve(router(Arc::clone(&shop)), &[shop], addr).await
}

/// Serves simulators of different vendors on one loopback address.
///
/// # Errors
/// The address is not loopback or cannot be bound, or a vendor occurs twice.
pub async fn spawn_all(sims: &[AnySimulator], addr: SocketAddr) -> io::Result<SimServer> {
    let shops: Vec<_> = sims.iter().map(AnySimulator::shared).collect();
    let twice = shops.iter().enumerate().any(|(index, shop)| {
        shops[..index].iter().any(|earlier| earlier.vendor() == shop.vendor())
    });
    if twice {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "one simulator per vendor"));
    }
    serve(router_of(&shops), &shops, addr).await
}

async fn serve(router: Router, shops: &[Arc<dyn Shop>], addr: SocketAddr) -> io::Result<SimServer> {
    if !addr.ip().is_loopback() {
        let words = "simulators listen on loopback only: their credentials are public";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let mut tasks = vec![tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
        if let Err(error) = served {
            tracing::error!(%error, "serve simulators");
        }
    })];
    for shop in shops {
        let outbox = Arc::clone(&shop.engine().outbox);
        tasks.push(tokio::spawn(outbox.run(stop.clone())));
    }
    Ok(SimServer { addr, url: format!("http://{addr}"), stop, tasks })
}
