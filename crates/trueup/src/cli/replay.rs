//! `trueup replay`: a real order history through the ledger and three simulated channels.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::stream::{self, StreamExt};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use trueup_core::{
    Adjust, Answer, ChannelId, Command, Delta, Item, Location, OrderId, Org, Quantity, Rejection,
    ReservationId, Reserve, SetOnHand, Sku, SkuSettings, Source, publish::Stock,
};
use trueup_store::{ListingQuery, Outcome, SkuQuery, StoreError, Submission};
use trueup_testkit::{SeedItem, Shop, ShopError};

use super::assembly::{Running, ServerOptions, StartError, SystemClock};
use super::market::{CHANNELS_MAX, Client, Market, MarketError};
use super::place::PlaceArgs;
use super::say::{Progress, data, say};
use crate::auth::{Mint, TokenSettings, mint};
use crate::config::{Config, ConfigError};

/// How many invoices are under way at once.
const IN_FLIGHT_MAX: usize = 64;
/// The most counts of one command.
const BULK_MAX: usize = 10_000;
/// How long the channels may take to settle at the end.
const QUIET_MAX: Duration = Duration::from_secs(180);
/// How many rounds of read-back and settling there are at the end.
const ROUNDS_MAX: usize = 10;
/// The most disagreements that are named.
const NAMED_MAX: usize = 20;
/// Where the faults of the simulated channels start from.
const FAULT_SEED: u64 = 20_101_201;

/// Replays an order history through reservations, commits, returns and simulated channels.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The history: `at,invoice,sku,quantity,country` as .csv or .csv.gz.
    pub file: PathBuf,
    /// Where the store is.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// The org to replay into.
    #[arg(long, default_value = "demo")]
    pub org: Org,
    /// Units of every SKU at the start.
    #[arg(long, default_value_t = 1_000_000)]
    pub initial: u64,
    /// How many simulated channels take part, besides the storefront.
    #[arg(long, default_value_t = CHANNELS_MAX)]
    pub channels: usize,
    /// How many times faster than the history; without it, as fast as it can.
    #[arg(long)]
    pub speed: Option<f64>,
    /// An SQS queue on this machine, such as http://127.0.0.1:4100/123456789012/trueup: Amazon's
    /// orders are told through it.
    #[arg(long, value_name = "URL")]
    pub sqs: Option<String>,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why a replay could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file could not be read.
    #[error("read {0}: {1}")]
    File(PathBuf, io::Error),
    /// A line is not what it should be.
    #[error("{0}, line {1}: {2}")]
    Line(PathBuf, u64, String),
    /// An option is out of its range.
    #[error("--{0}: {1}")]
    Option(&'static str, String),
    /// Nothing says where the store is, or the environment does not make sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The channels could not be set up.
    #[error(transparent)]
    Market(#[from] MarketError),
    /// The engine refused.
    #[error(transparent)]
    Engine(#[from] trueup_sync::EngineError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token for the server could not be made.
    #[error(transparent)]
    Token(#[from] crate::auth::MintError),
    /// The answer could not be written.
    #[error("write the answer: {0}")]
    Write(io::Error),
}

#[derive(Deserialize)]
struct Row {
    at: String,
    invoice: String,
    sku: String,
    quantity: i64,
}

/// An invoice with its lines of one SKU summed: what was sold, what came back.
struct Invoice {
    id: String,
    at: Option<jiff::civil::DateTime>,
    sold: BTreeMap<String, u64>,
    returned: BTreeMap<String, u64>,
}

/// A history: invoices in order, and what each SKU should end at.
struct History {
    lines: u64,
    invoices: Vec<Invoice>,
    skus: Vec<String>,
}

/// What a replay found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// Lines read.
    pub lines: u64,
    /// Invoices.
    pub invoices: u64,
    /// SKUs.
    pub skus: u64,
    /// Orders that were accepted by the storefront.
    pub storefront_orders: u64,
    /// Sales on the simulated channels.
    pub channel_sales: u64,
    /// Orders refused whole for lack of stock.
    pub refused: u64,
    /// Lines that went back into stock.
    pub returns: u64,
    /// Oversold events.
    pub oversold: u64,
    /// SKUs whose end is not what the accepted orders make it.
    pub lost: u64,
    /// Listings that do not show what they should.
    pub drifted: u64,
    /// What the ledger's own verification found.
    pub faults: Vec<String>,
    /// The first disagreements in words.
    pub disagreements: Vec<String>,
    /// Faults that the channels made, by kind.
    pub channel_faults: BTreeMap<String, u64>,
    /// Seconds from the first invoice to quiet.
    pub seconds: f64,
}

impl ReplayReport {
    /// Returns whether everything agrees.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.oversold == 0 && self.lost == 0 && self.drifted == 0 && self.faults.is_empty()
    }
}

/// Runs a replay; returns whether everything agrees at the end.
///
/// # Errors
/// [`ReplayError`] when it could not be run to its end.
pub async fn run(args: ReplayArgs) -> Result<bool, ReplayError> {
    let initial = Quantity::new(args.initial)
        .ok_or_else(|| ReplayError::Option("initial", "at most 2^53 − 1".to_owned()))?;
    if args.channels > CHANNELS_MAX {
        let why = format!("at most {CHANNELS_MAX}");
        return Err(ReplayError::Option("channels", why));
    }
    let history = read(&args.file)?;
    say(format_args!(
        "{} lines, {} invoices, {} SKUs",
        history.lines,
        history.invoices.len(),
        history.skus.len()
    ));
    let secret: [u8; 32] = rand::random();
    let running = Running::start(
        ServerOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            place: args.place.named()?,
            tokens: Some(TokenSettings::shared_secret(&secret)),
            keys: Config::load(None)?.keys()?,
            public_url: None,
            node_name: None,
            node_url: None,
            allow_private_endpoints: true,
            request_timeout: Duration::from_secs(10),
            // Simulated vendors index their orders at once.
            orders_overlap: Duration::from_secs(5),
        },
        None,
    )
    .await?;
    let client = client(&running, &secret, &args.org)?;
    let outcome = replay(&args, &history, initial, &running, &client).await;
    let stopped = running.stop().await;
    let report = outcome?;
    stopped?;
    print(&args, &report).map_err(ReplayError::Write)?;
    Ok(report.is_clean())
}

fn client(running: &Running, secret: &[u8], org: &Org) -> Result<Client, ReplayError> {
    use crate::auth::Scope;
    use trueup_sync::Clock as _;
    let token = mint(
        secret,
        &Mint {
            subject: "replay",
            orgs: std::slice::from_ref(org),
            scopes: &[Scope::Read, Scope::InventoryWrite, Scope::ChannelsAdmin],
            now: SystemClock.now(),
            ttl_seconds: 86_400,
            issuer: None,
            audience: None,
        },
    )?;
    Ok(Client::new(&running.url(), &token, org.as_str())?)
}

fn read(path: &Path) -> Result<History, ReplayError> {
    let file = File::open(path).map_err(|error| ReplayError::File(path.to_owned(), error))?;
    let plain: Box<dyn Read> = if path.extension().is_some_and(|ending| ending == "gz") {
        Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut history = History { lines: 0, invoices: Vec::new(), skus: Vec::new() };
    let mut index: BTreeMap<String, usize> = BTreeMap::new();
    let mut skus: BTreeMap<String, ()> = BTreeMap::new();
    let mut reader = csv::Reader::from_reader(plain);
    for (row, line) in reader.deserialize::<Row>().zip(2_u64..) {
        let wrong = |why: String| ReplayError::Line(path.to_owned(), line, why);
        let row = row.map_err(|error| wrong(error.to_string()))?;
        Sku::new(&row.sku).map_err(|error| wrong(format!("sku {error}")))?;
        history.lines += 1;
        let at = *index.entry(row.invoice.clone()).or_insert_with(|| {
            history.invoices.push(Invoice {
                id: row.invoice.clone(),
                at: jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", &row.at).ok(),
                sold: BTreeMap::new(),
                returned: BTreeMap::new(),
            });
            history.invoices.len() - 1
        });
        let invoice = &mut history.invoices[at];
        let units = row.quantity.unsigned_abs();
        let side = if row.quantity > 0 { &mut invoice.sold } else { &mut invoice.returned };
        if units > 0 {
            *side.entry(row.sku.clone()).or_insert(0) += units;
        }
        skus.insert(row.sku, ());
    }
    history.skus = skus.into_keys().collect();
    Ok(history)
}

/// What happened to one invoice.
#[derive(Default)]
struct Done {
    sold: BTreeMap<String, u64>,
    returned: BTreeMap<String, u64>,
    storefront: bool,
    refused: bool,
    channel_sales: u64,
}

async fn replay(
    args: &ReplayArgs,
    history: &History,
    initial: Quantity,
    running: &Running,
    client: &Client,
) -> Result<ReplayReport, ReplayError> {
    count_all(running, &args.org, &history.skus, initial).await?;
    let shown = i64::try_from(initial.get()).unwrap_or(i64::MAX);
    let items: Vec<SeedItem> =
        history.skus.iter().map(|sku| SeedItem::new(sku.clone(), shown)).collect();
    let market = Market::open(client, args.channels, &items, 1, args.sqs.as_deref()).await?;
    market.trouble(FAULT_SEED);
    say(format_args!("{} channels connected, faults on", market.stalls.len()));
    let started = tokio::time::Instant::now();
    let mut report = ReplayReport {
        lines: history.lines,
        invoices: count(history.invoices.len()),
        skus: count(history.skus.len()),
        ..ReplayReport::default()
    };
    let mut net: BTreeMap<String, i64> = BTreeMap::new();
    {
        let mut progress = Progress::new("invoices", report.invoices);
        let paced = Pace::new(args.speed, history);
        let (paced, market) = (&paced, &market);
        let work = history.invoices.iter().enumerate().map(async |(nth, invoice)| {
            paced.wait(started, invoice).await;
            sell(args, running, market, nth, invoice).await
        });
        let mut work = stream::iter(work).buffered(IN_FLIGHT_MAX);
        while let Some(done) = work.next().await {
            let done = done?;
            tally(&mut report, &mut net, done);
            progress.step();
        }
    }
    for stall in &market.stalls {
        for (kind, hits) in stall.shop.faults().hits() {
            let name = serde_json::to_value(kind).unwrap_or_default();
            let name = name.as_str().unwrap_or("other").to_owned();
            *report.channel_faults.entry(name).or_insert(0) += hits;
        }
    }
    market.calm();
    say("faults off; waiting for the channels to settle");
    for _ in 0..ROUNDS_MAX {
        settle(args, running, client, &market).await?;
        if drifted(running, args, &market).await?.is_empty() {
            break;
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    check(args, running, initial, &net, &market, &mut report).await?;
    market.close().await;
    Ok(report)
}

/// Spaces invoices as the history did, only faster.
struct Pace {
    speed: Option<f64>,
    first: Option<jiff::civil::DateTime>,
}

impl Pace {
    fn new(speed: Option<f64>, history: &History) -> Self {
        Self { speed, first: history.invoices.first().and_then(|invoice| invoice.at) }
    }

    async fn wait(&self, started: tokio::time::Instant, invoice: &Invoice) {
        let (Some(speed), Some(first), Some(at)) = (self.speed, self.first, invoice.at) else {
            return;
        };
        let after = at.duration_since(first).as_secs_f64() / speed;
        if let Ok(after) = Duration::try_from_secs_f64(after) {
            tokio::time::sleep_until(started + after).await;
        }
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

async fn count_all(
    running: &Running,
    org: &Org,
    skus: &[String],
    initial: Quantity,
) -> Result<(), ReplayError> {
    for chunk in skus.chunks(BULK_MAX) {
        let set = |sku: &String| {
            Sku::new(sku).ok().map(|sku| SetOnHand {
                sku,
                quantity: initial,
                location: Location::main(),
                reason: Some(Arc::from("opening count of the replay")),
                settings: SkuSettings::default(),
                counted_at: None,
                if_version: None,
                publish: true,
            })
        };
        let items = chunk.iter().filter_map(set).collect();
        submit(running, org, Command::Bulk { items, atomic: true }).await?.ok();
    }
    Ok(())
}

async fn submit(
    running: &Running,
    org: &Org,
    command: Command,
) -> Result<Result<Answer, Rejection>, StoreError> {
    let submission = Submission {
        org: org.clone(),
        command,
        actor: Arc::from("replay"),
        source: Source::Replay,
        idempotency: None,
    };
    match running.store.submit(submission).await? {
        Outcome::Decided(result) | Outcome::Recorded(result, _) => Ok(result),
        Outcome::Replayed(_) => Err(StoreError::Failed("a replayed answer".to_owned())),
    }
}

async fn sell(
    args: &ReplayArgs,
    running: &Running,
    market: &Market,
    nth: usize,
    invoice: &Invoice,
) -> Result<Done, ReplayError> {
    let mut done = Done::default();
    // Outlets take turns: the storefront, then each channel.
    let outlet = nth % (market.stalls.len() + 1);
    if !invoice.sold.is_empty() {
        match outlet.checked_sub(1).and_then(|at| market.stalls.get(at)) {
            Some(stall) => sell_on(&*stall.shop, invoice, &mut done),
            None => sell_here(running, &args.org, invoice, &mut done).await?,
        }
    }
    for (sku, units) in &invoice.returned {
        let back = Sku::new(sku).ok().zip(i64::try_from(*units).ok().and_then(Delta::new));
        let Some((name, delta)) = back else { continue };
        let command = Command::Adjust(Adjust {
            sku: name,
            delta,
            location: Location::main(),
            reason: Some(Arc::from(format!("return {}", invoice.id))),
            if_version: None,
            publish: true,
        });
        if submit(running, &args.org, command).await?.is_ok() {
            done.returned.insert(sku.clone(), *units);
        }
    }
    Ok(done)
}

/// A shopper on a channel: all lines or none, as its own orders.
fn sell_on(shop: &dyn Shop, invoice: &Invoice, done: &mut Done) {
    let mut made = Vec::new();
    for (sku, units) in &invoice.sold {
        let units = i64::try_from(*units).unwrap_or(i64::MAX);
        match shop.sell(sku, units) {
            Ok(order) => made.push(order),
            Err(
                ShopError::NotEnough { .. }
                | ShopError::UnknownSku(_)
                | ShopError::UnknownOrder(_)
                | ShopError::OrderClosed(_)
                | ShopError::BadQuantity
                | ShopError::Full,
            ) => {
                for order in &made {
                    // A cancelled sale comes back as an order with everything restocked.
                    drop(shop.cancel(&order.order_id));
                }
                done.refused = true;
                return;
            }
        }
    }
    done.channel_sales = count(made.len());
    done.sold.clone_from(&invoice.sold);
}

/// A shopper at the storefront: everything is held, then committed.
async fn sell_here(
    running: &Running,
    org: &Org,
    invoice: &Invoice,
    done: &mut Done,
) -> Result<(), ReplayError> {
    let item = |(sku, units): (&String, &u64)| {
        let (sku, quantity) = Sku::new(sku).ok().zip(Quantity::new(*units))?;
        Some(Item { sku, location: None, quantity })
    };
    let id = ReservationId(uuid::Uuid::now_v7().as_u128());
    let Ok(order) = OrderId::new(&invoice.id) else { return Ok(()) };
    let items = invoice.sold.iter().filter_map(item).collect();
    let reserve = Command::Reserve(Reserve { id, order, items, ttl_seconds: 900 });
    let id = match submit(running, org, reserve).await? {
        Ok(Answer::Reserved(reservation, _)) => reservation.id,
        Ok(_) | Err(_) => {
            done.refused = true;
            return Ok(());
        }
    };
    match submit(running, org, Command::Commit { id, reacquire: true }).await? {
        Ok(_) => {
            done.storefront = true;
            done.sold.clone_from(&invoice.sold);
        }
        Err(_) => done.refused = true,
    }
    Ok(())
}

fn tally(report: &mut ReplayReport, net: &mut BTreeMap<String, i64>, done: Done) {
    report.storefront_orders += u64::from(done.storefront);
    report.refused += u64::from(done.refused);
    report.channel_sales += done.channel_sales;
    report.returns += count(done.returned.len());
    for (sku, units) in done.sold {
        *net.entry(sku).or_insert(0) -= units.cast_signed();
    }
    for (sku, units) in done.returned {
        *net.entry(sku).or_insert(0) += units.cast_signed();
    }
}

/// Waits for quiet, polls for orders whose notices were lost, has every channel read back, and
/// waits again.
async fn settle(
    args: &ReplayArgs,
    running: &Running,
    client: &Client,
    market: &Market,
) -> Result<(), ReplayError> {
    running.engine.quiesce(QUIET_MAX).await;
    for stall in &market.stalls {
        let Ok(channel) = ChannelId::new(stall.channel) else { continue };
        running.engine.hear_orders(&args.org, &channel, QUIET_MAX).await?;
    }
    for stall in &market.stalls {
        let path = format!("/inventory/pull/{}", stall.channel);
        client.must(Method::POST, &path, Some(&json!({}))).await?;
    }
    running.engine.quiesce(QUIET_MAX).await;
    Ok(())
}

/// Names the listings that do not show what they should.
async fn drifted(
    running: &Running,
    args: &ReplayArgs,
    market: &Market,
) -> Result<Vec<String>, ReplayError> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let query = ListingQuery { after, limit: 1_000, ..ListingQuery::default() };
        let page = running.store.listings(&args.org, query).await?;
        for view in &page.items {
            let stall = market.stalls.iter().find(|s| s.channel == view.mapping.channel.as_str());
            let (Some(stall), Some(sku)) = (stall, &view.sku) else { continue };
            let published = view.state.rules.publish(Stock::Single(&sku.state)).published;
            let shown = stall.shop.quantity(view.mapping.sku.as_str());
            if shown.and_then(|shown| u64::try_from(shown).ok()) != Some(published) {
                let (channel, sku) = (&view.mapping.channel, &view.mapping.sku);
                found.push(format!("{sku} on {channel}: {shown:?} shown, {published} expected"));
            }
        }
        after = page.items.last().map(|v| (v.mapping.sku.clone(), v.mapping.key.clone()));
        if !page.more {
            return Ok(found);
        }
    }
}

async fn check(
    args: &ReplayArgs,
    running: &Running,
    initial: Quantity,
    net: &BTreeMap<String, i64>,
    market: &Market,
    report: &mut ReplayReport,
) -> Result<(), ReplayError> {
    let drifted = drifted(running, args, market).await?;
    report.drifted = count(drifted.len());
    report.disagreements.extend(drifted.into_iter().take(NAMED_MAX));
    let mut after: Option<Sku> = None;
    loop {
        let query = SkuQuery { after, limit: 1_000, ..SkuQuery::default() };
        let page = running.store.skus(&args.org, query).await?;
        for answer in &page.items {
            let Some(change) = net.get(answer.sku.as_str()) else { continue };
            let totals = answer.state.totals();
            let expected = initial.delta().get() + change;
            if totals.on_hand.get() != expected || totals.reserved != Quantity::ZERO {
                report.lost += 1;
                let words = format!(
                    "{}: {} on hand, {} reserved, {expected} expected",
                    answer.sku, totals.on_hand, totals.reserved
                );
                if report.disagreements.len() < NAMED_MAX {
                    report.disagreements.push(words);
                }
            }
        }
        after = page.items.last().map(|answer| answer.sku.clone());
        if !page.more {
            break;
        }
    }
    report.oversold = running.store.figures().oversold_events;
    report.faults = running.store.verify(&args.org).await?.faults;
    Ok(())
}

fn print(args: &ReplayArgs, report: &ReplayReport) -> io::Result<()> {
    if args.json {
        return data(serde_json::to_string_pretty(report).map_err(io::Error::other)?);
    }
    data(format_args!(
        "{} invoices: {} storefront orders, {} channel sales, {} refused, {} returns in {:.1} s",
        report.invoices,
        report.storefront_orders,
        report.channel_sales,
        report.refused,
        report.returns,
        report.seconds
    ))?;
    data(format_args!(
        "{} oversold, {} lost, {} drifted, {} faults in the ledger",
        report.oversold,
        report.lost,
        report.drifted,
        report.faults.len()
    ))?;
    for line in report.faults.iter().chain(&report.disagreements) {
        data(format_args!("  {line}"))?;
    }
    data(if report.is_clean() { "clean" } else { "NOT clean" })
}
