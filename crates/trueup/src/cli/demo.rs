//! `trueup demo`: a server with simulated channels, selling until it is stopped.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use trueup_core::Org;
use trueup_sync::Clock;
use trueup_testkit::SeedItem;

use super::assembly::{Running, ServerOptions, StartError, SystemClock};
use super::keys::KeySettings;
use super::link::{self, LinkError};
use super::market::{CHANNELS_MAX, Client, Market, MarketError};
use super::place::Place;
use super::say::say;
use crate::auth::{Mint, Scope, TokenSettings, mint};

const ORG: &str = "demo";
const CATALOGUE: u32 = 300;
const FAULT_SEED: u64 = 7;
const SUMMARY_EVERY: Duration = Duration::from_secs(2);
const SALE_EVERY: Duration = Duration::from_millis(40);
const TOKEN_SECONDS: u32 = 86_400;

/// Starts a server with simulated channels and sells on all of them.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4620")]
    pub listen: SocketAddr,
    /// End by itself after so many seconds.
    #[arg(long)]
    pub seconds: Option<u64>,
}

/// Why the demo did not run.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The channels could not be set up.
    #[error(transparent)]
    Market(#[from] MarketError),
    /// The token could not be made.
    #[error(transparent)]
    Token(#[from] crate::auth::MintError),
    /// No link to the dashboard could be made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A directory for the demo's store could not be made.
    #[error("make a directory for the demo: {0}")]
    Directory(std::io::Error),
    /// The store could not be closed.
    #[error(transparent)]
    Store(#[from] trueup_store::StoreError),
}

/// Runs the demo until Ctrl-C, SIGTERM or its time is over; leaves nothing behind.
///
/// # Errors
/// [`DemoError`] says what stands in the way.
pub async fn run(args: DemoArgs) -> Result<(), DemoError> {
    let dir = std::env::temp_dir().join(format!("trueup-demo-{}", uuid::Uuid::now_v7().simple()));
    let outcome = run_in(&args, &dir).await;
    match std::fs::remove_dir_all(&dir) {
        Ok(()) => {}
        Err(error) => say(format_args!("remove {}: {error}", dir.display())),
    }
    outcome
}

async fn run_in(args: &DemoArgs, dir: &std::path::Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(dir).map_err(DemoError::Directory)?;
    let secret: [u8; 32] = rand::random();
    let running = Running::start(
        ServerOptions {
            listen: args.listen,
            place: Place::Directory(dir.to_owned()),
            tokens: Some(TokenSettings::shared_secret(&secret)),
            keys: KeySettings::default(),
            public_url: None,
            node_name: None,
            node_url: None,
            allow_private_endpoints: true,
            request_timeout: Duration::from_secs(5),
            orders_overlap: trueup_sync::ORDERS_OVERLAP,
        },
        None,
    )
    .await?;
    let org = Org::new(ORG).map_err(|e| DemoError::Directory(std::io::Error::other(e)))?;
    let token = mint(
        &secret,
        &Mint {
            subject: "demo",
            orgs: std::slice::from_ref(&org),
            scopes: &[
                Scope::Read,
                Scope::InventoryWrite,
                Scope::ReservationsWrite,
                Scope::ChannelsAdmin,
            ],
            now: SystemClock.now(),
            ttl_seconds: TOKEN_SECONDS,
            issuer: None,
            audience: None,
        },
    )?;
    let client = Client::new(&running.url(), &token, ORG)?;
    let link = link::ask(&running.url(), &org, &token, TOKEN_SECONDS).await?;
    let sold = sell_until_stopped(args, &client, &Introduction { link, token }).await;
    say("stopping");
    running.stop().await?;
    Ok(sold?)
}

/// What people are told to get in with.
struct Introduction {
    link: String,
    token: String,
}

async fn sell_until_stopped(
    args: &DemoArgs,
    client: &Client,
    introduction: &Introduction,
) -> Result<(), MarketError> {
    let skus: Vec<String> = (100..100 + CATALOGUE).map(|number| format!("SKU-{number}")).collect();
    let items: Vec<_> = skus
        .iter()
        .map(|sku| json!({ "sku": sku, "quantity": 200, "lowStockThreshold": 20 }))
        .collect();
    let body = json!({ "items": items, "reason": "opening count" });
    client.must(Method::PUT, "/inventory/bulk/update", Some(&body)).await?;
    let seeds: Vec<SeedItem> = skus.iter().map(|sku| SeedItem::new(sku.clone(), 200)).collect();
    let market = Market::open(client, CHANNELS_MAX, &seeds, 1, None).await?;
    market.trouble(FAULT_SEED);
    introduction.tell(client.url());
    let stop = stopped(args.seconds);
    tokio::pin!(stop);
    let mut chance = StdRng::seed_from_u64(FAULT_SEED);
    let mut summary = tokio::time::interval(SUMMARY_EVERY);
    let mut sale = tokio::time::interval(SALE_EVERY);
    sale.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sales = Sales::default();
    loop {
        tokio::select! {
            () = &mut stop => break,
            _ = summary.tick() => summarize(client, &market, &sales).await?,
            _ = sale.tick() => sell(client, &market, &skus, &mut chance, &mut sales).await?,
        }
    }
    market.close().await;
    Ok(())
}

#[derive(Default)]
struct Sales {
    storefront: u64,
    abandoned: u64,
    refused: u64,
    orders: u64,
}

/// One shopper somewhere: mostly few units, on a few SKUs more than on others.
async fn sell(
    client: &Client,
    market: &Market,
    skus: &[String],
    chance: &mut StdRng,
    sales: &mut Sales,
) -> Result<(), MarketError> {
    let hot = chance.random_bool(0.3);
    let sku = &skus[chance.random_range(0..if hot { 5 } else { skus.len() })];
    let units = chance.random_range(1..4);
    let outlet = chance.random_range(0..=market.stalls.len());
    if let Some(stall) = outlet.checked_sub(1).and_then(|at| market.stalls.get(at)) {
        // A shopper who finds too few leaves; the shop counts it.
        drop(stall.shop.sell(sku, units));
        return Ok(());
    }
    sales.orders += 1;
    let order = format!("web-{}", sales.orders);
    let body = json!({ "items": [{ "sku": sku, "quantity": units }], "orderId": order });
    let (status, held) = client.call(Method::POST, "/inventory/reserve", Some(&body)).await?;
    if status != 201 {
        sales.refused += 1;
        if chance.random_bool(0.5) {
            restock(client, sku).await?;
        }
        return Ok(());
    }
    let id = held["reservationId"].as_str().unwrap_or_default();
    let verb = if chance.random_bool(0.85) { "commit" } else { "release" };
    let path = format!("/inventory/reservation/{id}/{verb}");
    client.must(Method::POST, &path, None).await?;
    if verb == "commit" {
        sales.storefront += 1
    } else {
        sales.abandoned += 1
    }
    Ok(())
}

async fn restock(client: &Client, sku: &str) -> Result<(), MarketError> {
    let path = format!("/inventory/{sku}/adjust");
    let body = json!({ "delta": 100, "reason": "delivery", "syncToChannels": true });
    client.must(Method::POST, &path, Some(&body)).await?;
    Ok(())
}

async fn summarize(client: &Client, market: &Market, sales: &Sales) -> Result<(), MarketError> {
    let mut words = format!("storefront {} sold", sales.storefront);
    words += &format!(" {} abandoned {} refused", sales.abandoned, sales.refused);
    for stall in &market.stalls {
        let path = format!("/channels/{}/status", stall.channel);
        let (_, status) = client.call(Method::GET, &path, None).await?;
        words += &format!(
            " | {} {} sold, {} pending, {} drifted, {} conflicts, {}",
            stall.channel,
            stall.shop.counters().sales,
            status["pending"],
            status["drifted"],
            status["conflicts"],
            status["status"].as_str().unwrap_or("?"),
        );
    }
    let oversold = oversold(market);
    say(format_args!("{words} | oversells {oversold}"));
    Ok(())
}

/// Counts listings that a channel shows below zero: units sold that were not there.
fn oversold(market: &Market) -> usize {
    let below = |sku: &str| market.stalls.iter().any(|s| s.shop.quantity(sku) < Some(0));
    (100..100 + CATALOGUE).filter(|number| below(&format!("SKU-{number}"))).count()
}

impl Introduction {
    fn tell(&self, url: &str) {
        let Self { link, token } = self;
        say(format_args!(
            "\nTrueup is running on {url} with simulated Shopify, Amazon and eBay, faults on.\n\
             \n  Dashboard  {link}\n             (signs in once; again at {url}/login with the \
             org {ORG} and the token below)\n  API        {url}/docs\n\
             \nTry:\n\
             \n  export JWT={token}\n\
             \n  curl {url}/sales-channel/inventory/SKU-100 \\\n    \
             -H \"Authorization: Bearer $JWT\" -H \"orgid: {ORG}\"\n\
             \n  curl -X PUT {url}/sales-channel/inventory/SKU-100 \\\n    \
             -H \"Authorization: Bearer $JWT\" -H \"orgid: {ORG}\" \\\n    \
             -d '{{\"quantity\": 42, \"syncToChannels\": true, \"reason\": \"warehouse count\"}}'\n\
             \n  curl {url}/sales-channel/inventory/SKU-100/channels \\\n    \
             -H \"Authorization: Bearer $JWT\" -H \"orgid: {ORG}\"\n\
             \nCtrl-C stops everything.\n"
        ));
    }
}

/// Ctrl-C and SIGTERM, from now on.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Begins to listen; until then a signal ends the process at once.
    ///
    /// # Errors
    /// When the system does not let us.
    pub fn listen() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the first of them.
    pub async fn first(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for Ctrl-C, SIGTERM or the end of the time that was given.
pub async fn stopped(seconds: Option<u64>) {
    let time = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    let signals = async {
        match StopSignals::listen() {
            Ok(signals) => signals.first().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => {}
        () = signals => {}
    }
}
