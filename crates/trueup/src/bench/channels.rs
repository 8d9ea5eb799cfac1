//! `trueup bench push` and `trueup bench pull`: how long it takes until very many numbers are on
//! the channels, beside what the channels' own limits allow.
//!
//! The simulated channels run in this process with the limits that the vendors document; the
//! server is a process of its own. Everything is prepared with the limits off: listings, mappings,
//! first readings. Then the server is started anew, so that it knows the documented limits only,
//! and the change is made and waited for.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use trueup_testkit::limits::Rate;
use trueup_testkit::{AnySimulator, Faults, SeedItem, Vendor, amazon, ebay, shopify};

use super::child::{Scratch, Served};
use super::stand::Stand;
use super::{BenchError, ORG, interrupted, scratch_under};
use crate::cli::market::{Client, MarketError, Stall};
use crate::cli::say::say;

/// Units of each SKU before the change.
const STOCK: u64 = 50;
/// By how many units the change raises or lowers.
const CHANGE: u64 = 7;
/// One SKU of so many is sold out by the change.
const ZERO_EACH: u32 = 1_000;
/// The most SKUs or mappings in one request.
const CHUNK: usize = 10_000;
/// How many times their limits the channels allow while everything is prepared.
const HURRY: u32 = 10_000;
/// How long every answer of a channel takes: nearer to a vendor than loopback is.
const ANSWER_MS: u64 = 100;
/// How long a feed waits and is processed, one after the other.
const FEED_QUEUE_MS: u64 = 5_000;
const FEED_RUN_MS: u64 = 15_000;
/// How many calls eBay is asked at once: it documents no rate, so this is the engine's own limit.
const EBAY_AT_ONCE: f64 = 4.0;
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long preparing and measuring may take.
const PREPARE_MAX: Duration = Duration::from_secs(900);
const MEASURE_MAX: Duration = Duration::from_secs(3_000);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From a bulk change until every channel shows it.
    Push,
    /// From asking for a pull until its run has ended.
    Pull,
}

/// How to measure channels.
#[derive(Debug, Clone, clap::Args)]
pub struct ChannelOptions {
    /// How many SKUs, each with a listing on every channel.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    pub skus: u32,
    /// Only these channels, separated by commas.
    #[arg(long, value_name = "VENDOR", value_delimiter = ',', value_parser = vendor)]
    pub channels: Vec<Vendor>,
    /// Where to make the temporary data directory [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

fn vendor(word: &str) -> Result<Vendor, String> {
    let known = [Vendor::Shopify, Vendor::Amazon, Vendor::Ebay];
    let found = known.into_iter().find(|vendor| vendor.as_str() == word);
    found.ok_or_else(|| "must be shopify, amazon or ebay".to_owned())
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelReport {
    /// What was measured.
    pub direction: Direction,
    /// How many SKUs there were.
    pub skus: u32,
    /// Cores, shared by the server and the simulated channels.
    pub cores: usize,
    /// Whether the program was built with optimizations.
    pub optimized: bool,
    /// One line for each channel.
    pub rows: Vec<ChannelRow>,
    /// The server's resident memory before, in MiB.
    pub memory_before_mib: f64,
    /// By how much it was larger at its peak, in MiB.
    pub memory_extra_mib: f64,
    /// Why the figures do not count; empty = they do.
    pub failures: Vec<String>,
}

/// How long one channel took.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelRow {
    /// The vendor.
    pub channel: &'static str,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// How long the limits make it take at least, in seconds.
    pub floor_seconds: f64,
    /// The one ÷ the other.
    pub to_floor: f64,
    /// Requests that the channel saw.
    pub requests: u64,
    /// What the floor is made of.
    pub floor: String,
}

impl ChannelReport {
    /// Returns whether every channel showed what it should and nothing broke off.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Display for ChannelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.direction {
            Direction::Push => "changed SKUs until every channel shows them",
            Direction::Pull => "listings of each channel, read and compared",
        };
        writeln!(f, "{} {what}; {} cores", self.skus, self.cores)?;
        writeln!(
            f,
            "{:<10}{:>10}{:>10}{:>10}{:>10}  floor",
            "channel", "s", "floor s", "÷ floor", "requests"
        )?;
        for row in &self.rows {
            let ChannelRow { channel, seconds, floor_seconds, to_floor, requests, floor } = row;
            writeln!(
                f,
                "{channel:<10}{seconds:>10.1}{floor_seconds:>10.1}{to_floor:>10.3}{requests:>10}  \
                 {floor}",
            )?;
        }
        let (before, extra) = (self.memory_before_mib, self.memory_extra_mib);
        writeln!(
            f,
            "memory of the server: {before:.0} MiB before, {extra:.0} MiB more at its peak"
        )?;
        for failure in &self.failures {
            writeln!(f, "NOT VALID: {failure}")?;
        }
        Ok(())
    }
}

/// Measures, and returns what was found.
///
/// # Errors
/// When something could not be started or broke off. Processes and files are gone either way.
pub async fn run(
    direction: Direction,
    options: ChannelOptions,
) -> Result<ChannelReport, BenchError> {
    // Declared first, dropped last: the processes are gone before their files are.
    let scratch = scratch_under(options.dir.as_deref())?;
    tokio::select! {
        report = Box::pin(with_channels(direction, &options, &scratch)) => report,
        ended = interrupted() => Err(ended),
    }
}

async fn with_channels(
    direction: Direction,
    options: &ChannelOptions,
    scratch: &Scratch,
) -> Result<ChannelReport, BenchError> {
    let all = [Vendor::Shopify, Vendor::Amazon, Vendor::Ebay];
    let wanted = |vendor: &Vendor| options.channels.is_empty() || options.channels.contains(vendor);
    let mut stalls = Vec::new();
    for vendor in all.into_iter().filter(wanted) {
        stalls.push(open(vendor, options.skus).await?);
    }
    let stand = Stand::new(scratch, "data");
    let bench = Bench { direction, skus: options.skus, stalls, stand };
    let result = Box::pin(bench.measure()).await;
    for stall in bench.stalls {
        stall.close().await;
    }
    result
}

/// Starts a simulated channel with the documented limits, which are off until it is measured.
async fn open(vendor: Vendor, skus: u32) -> Result<Stall, BenchError> {
    let shop: AnySimulator = match vendor {
        Vendor::Shopify => shopify::Simulator::default().into(),
        Vendor::Amazon => amazon::Simulator::new(amazon::Settings {
            rate_scale: 1,
            feed_queue_ms: FEED_QUEUE_MS,
            feed_run_ms: FEED_RUN_MS,
            ..amazon::Settings::default()
        })
        .into(),
        Vendor::Ebay => ebay::Simulator::default().into(),
    };
    shop.set_hurry(HURRY);
    let quantity = i64::try_from(STOCK).unwrap_or(i64::MAX);
    let items = (0..skus).map(|number| SeedItem::new(super::sku_name(number), quantity));
    Ok(Stall::open(shop, items.collect()).await?)
}

/// Returns a mapping's `listing` as a discovery finds it, and a first reading completes it.
fn listing(stall: &Stall, sku: &str) -> Option<Value> {
    let mut listing = stall.shop.listing(sku)?;
    if let (Vendor::Ebay, Value::Object(fields)) = (stall.shop.vendor(), &mut listing) {
        // Without it the offers of each SKU are looked up once.
        fields.insert("offerQuantity".to_owned(), json!("shared"));
    }
    Some(listing)
}

/// Returns whether a listing shows what it should after the change.
fn is_right(stall: &Stall, number: u32) -> bool {
    stall.shop.quantity(&super::sku_name(number)) == i64::try_from(changed(number)).ok()
}

/// Waits for a channel's listings: each is looked at until it was seen to be right, and no more,
/// so that looking takes nothing from what is measured.
struct Watch<'a> {
    stall: &'a Stall,
    /// The first listing that was not seen to be right.
    next: u32,
    /// How many requests there were before.
    requests: u64,
    /// When all were right, in seconds, and after how many requests.
    done: Option<(f64, u64)>,
}

impl<'a> Watch<'a> {
    fn of(stall: &'a Stall) -> Self {
        Self { stall, next: 0, requests: stall.shop.counters().requests, done: None }
    }

    fn look(&mut self, skus: u32, began: Instant) {
        if self.done.is_some() {
            return;
        }
        let now = began.elapsed().as_secs_f64();
        while self.next < skus && is_right(self.stall, self.next) {
            self.next += 1;
        }
        if self.next == skus {
            let requests = self.stall.shop.counters().requests - self.requests;
            self.done = Some((now, requests));
            say(format_args!("{} shows all", self.stall.channel));
        }
    }
}

/// Returns the least time that a push of the change takes, and of what.
fn push_floor(vendor: Vendor, skus: u32) -> (f64, String) {
    let answer = seconds(ANSWER_MS);
    match vendor {
        Vendor::Shopify => {
            let points = calls(skus, shopify::writes::ARRAY_MAX) * float(shopify::SET_COST);
            let floor = over_bucket(points, shopify::Settings::default().bucket) + answer;
            (floor, format!("{points} points, 2000 saved up, 100 a second"))
        }
        Vendor::Amazon => {
            let zeroes = skus.div_ceil(ZERO_EACH);
            let patches = over_bucket(f64::from(zeroes), amazon::LISTINGS_RATE);
            let feeds = calls(skus.saturating_sub(zeroes), amazon::feeds::MESSAGES_MAX);
            let feeding = seconds(FEED_QUEUE_MS) + feeds * seconds(FEED_RUN_MS);
            let words = format!("{zeroes} patches at 5 a second beside {feeds} feeds");
            (patches.max(feeding) + answer, words)
        }
        Vendor::Ebay => {
            let calls = calls(skus, ebay::wire::BULK_MAX);
            let words = format!("{calls} calls of {ANSWER_MS} ms, {EBAY_AT_ONCE} at once");
            ((calls / EBAY_AT_ONCE).ceil() * answer, words)
        }
    }
}

/// Returns the least time that a pull takes, and of what.
fn pull_floor(vendor: Vendor, skus: u32, spent: u64) -> (f64, String) {
    let answer = seconds(ANSWER_MS);
    match vendor {
        Vendor::Shopify => {
            let points = f64::from(u32::try_from(spent).unwrap_or(u32::MAX));
            let floor = over_bucket(points, shopify::Settings::default().bucket);
            let latency = calls(skus, shopify::reads::NODES_MAX) * answer;
            (floor.max(latency), format!("{points} points, 2000 saved up, 100 a second"))
        }
        Vendor::Amazon => {
            let searches = calls(skus, amazon::SEARCH_MAX);
            let floor = over_bucket(searches, amazon::LISTINGS_RATE) + answer;
            (floor, format!("{searches} searches at 5 a second"))
        }
        Vendor::Ebay => {
            let pages = calls(skus, ebay::PAGE_MAX);
            (pages * answer, format!("{pages} pages of {ANSWER_MS} ms, one by one"))
        }
    }
}

/// Returns how many calls so many items take.
fn calls(items: u32, items_max: usize) -> f64 {
    let items_max = u32::try_from(items_max).unwrap_or(u32::MAX).max(1);
    f64::from(items.div_ceil(items_max))
}

fn float(number: i64) -> f64 {
    f64::from(i32::try_from(number).unwrap_or(i32::MAX))
}

/// Returns how long it takes to draw so much from a full bucket.
fn over_bucket(units: f64, rate: Rate) -> f64 {
    (units - float(rate.burst)).max(0.0) * 1_000.0 / float(rate.milli_per_second)
}

fn seconds(millis: u64) -> f64 {
    Duration::from_millis(millis).as_secs_f64()
}

/// Returns what a SKU has after the change.
fn changed(number: u32) -> u64 {
    match number {
        number if number.is_multiple_of(ZERO_EACH) => 0,
        number if number.is_multiple_of(2) => STOCK + CHANGE,
        _ => STOCK - CHANGE,
    }
}

struct Bench<'a> {
    direction: Direction,
    skus: u32,
    stalls: Vec<Stall>,
    stand: Stand<'a>,
}

impl Bench<'_> {
    async fn measure(&self) -> Result<ChannelReport, BenchError> {
        let server = self.serve().await?;
        let prepared = self.prepare(&self.client(&server)?).await;
        server.stop().await;
        prepared?;
        // What it learned of the limits that were off is gone with it.
        let server = self.serve().await?;
        let client = self.client(&server)?;
        let measured = self.measure_with(&server, &client).await;
        let said = server.stop().await;
        if measured.is_err() && !said.is_empty() {
            say(format_args!("the server said last:\n{said}"));
        }
        measured
    }

    async fn serve(&self) -> Result<Served, BenchError> {
        self.stand.serve(&["--allow-private-endpoints"]).await
    }

    fn client(&self, server: &Served) -> Result<Client, BenchError> {
        let url = format!("http://{}", server.addr);
        Ok(Client::new(&url, &self.stand.token()?, ORG)?)
    }

    /// Makes SKUs, connections and mappings, and waits until every listing was read.
    async fn prepare(&self, client: &Client) -> Result<(), BenchError> {
        say(format_args!("preparing {} SKUs on {} channels", self.skus, self.stalls.len()));
        self.count(client, |_| STOCK, false).await?;
        for stall in &self.stalls {
            stall.enable(client, |_| ()).await?;
            let numbers: Vec<u32> = (0..self.skus).collect();
            for chunk in numbers.chunks(CHUNK) {
                let mapping = |number: &u32| {
                    let sku = super::sku_name(*number);
                    json!({ "sku": sku, "listing": listing(stall, &sku) })
                };
                let mappings: Vec<Value> = chunk.iter().map(mapping).collect();
                let path = format!("/channels/{}/mappings", stall.channel);
                let body = json!({ "mappings": mappings });
                client.must(Method::PUT, &path, Some(&body)).await?;
            }
        }
        let until = Instant::now() + PREPARE_MAX;
        self.settle(client, until).await?;
        // A listing that has never been read would be read before its first push.
        for stall in &self.stalls {
            let path = format!("/inventory/pull/{}", stall.channel);
            self.run_to_its_end(client, &path, until).await?;
        }
        self.settle(client, until).await
    }

    /// Counts every SKU.
    async fn count(
        &self,
        client: &Client,
        quantity: impl Fn(u32) -> u64,
        publish: bool,
    ) -> Result<(), BenchError> {
        let numbers: Vec<u32> = (0..self.skus).collect();
        for chunk in numbers.chunks(CHUNK) {
            let item = |number: &u32| json!({ "sku": super::sku_name(*number), "quantity": quantity(*number) });
            let items: Vec<Value> = chunk.iter().map(item).collect();
            let body = json!({ "items": items, "syncToChannels": publish });
            client.must(Method::PUT, "/inventory/bulk/update", Some(&body)).await?;
        }
        Ok(())
    }

    async fn settle(&self, client: &Client, until: Instant) -> Result<(), BenchError> {
        for stall in &self.stalls {
            let path = format!("/channels/{}/status", stall.channel);
            loop {
                let status = client.must(Method::GET, &path, None).await?;
                if status["pending"] == json!(0) {
                    break;
                }
                if Instant::now() >= until {
                    return Err(BenchError::Late("the channels did not settle"));
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(())
    }

    async fn run_to_its_end(
        &self,
        client: &Client,
        path: &str,
        until: Instant,
    ) -> Result<Value, BenchError> {
        let run = client.must(Method::POST, path, Some(&json!({}))).await?;
        let id = run["runId"].as_str().unwrap_or_default().to_owned();
        let path = format!("/sync/runs/{id}");
        loop {
            let run = client.must(Method::GET, &path, None).await?;
            if run["status"] != json!("running") {
                return Ok(run);
            }
            if Instant::now() >= until {
                return Err(BenchError::Late("a run did not end"));
            }
            sleep(LOOK).await;
        }
    }

    async fn measure_with(
        &self,
        server: &Served,
        client: &Client,
    ) -> Result<ChannelReport, BenchError> {
        self.settle(client, Instant::now() + PREPARE_MAX).await?;
        for stall in &self.stalls {
            stall.shop.set_hurry(1);
            let response_lag_ms = ANSWER_MS;
            stall.shop.set_faults(Faults { response_lag_ms, ..Faults::default() });
            stall.shop.clear_requests();
        }
        let before = server.memory()?;
        server.forget_peak()?;
        say(format_args!("measuring"));
        let (rows, failures) = match self.direction {
            Direction::Push => self.push(client).await?,
            Direction::Pull => self.pull(client).await?,
        };
        let peak = server.peak_memory()?;
        Ok(ChannelReport {
            direction: self.direction,
            skus: self.skus,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            optimized: !cfg!(debug_assertions),
            rows,
            memory_before_mib: before,
            memory_extra_mib: (peak - before).max(0.0),
            failures,
        })
    }

    async fn push(&self, client: &Client) -> Result<(Vec<ChannelRow>, Vec<String>), BenchError> {
        let mut watches: Vec<Watch<'_>> = self.stalls.iter().map(Watch::of).collect();
        let began = Instant::now();
        self.count(client, changed, true).await?;
        let until = began + MEASURE_MAX;
        while watches.iter().any(|watch| watch.done.is_none()) && Instant::now() < until {
            watches.iter_mut().for_each(|watch| watch.look(self.skus, began));
            sleep(LOOK).await;
        }
        let mut failures = Vec::new();
        let mut rows = Vec::new();
        for Watch { stall, done, .. } in watches {
            let (floor, words) = push_floor(stall.shop.vendor(), self.skus);
            if let Some((took, requests)) = done {
                rows.push(row(stall, took, floor, requests, words));
            }
            let wrong = (0..self.skus).filter(|number| !is_right(stall, *number)).count();
            if wrong > 0 {
                failures.push(format!("{} shows {wrong} of {} wrong", stall.channel, self.skus));
            }
        }
        Ok((rows, failures))
    }

    async fn pull(&self, client: &Client) -> Result<(Vec<ChannelRow>, Vec<String>), BenchError> {
        let until = Instant::now() + MEASURE_MAX;
        let each = self.stalls.iter().map(|stall| async move {
            let (requests, spent) = (stall.shop.counters().requests, stall.shop.spent());
            let began = Instant::now();
            let path = format!("/inventory/pull/{}", stall.channel);
            let run = self.run_to_its_end(client, &path, until).await?;
            let took = began.elapsed().as_secs_f64();
            let spent = stall.shop.spent() - spent;
            let requests = stall.shop.counters().requests - requests;
            let (floor, words) = pull_floor(stall.shop.vendor(), self.skus, spent);
            let failure = (run["matched"] != json!(self.skus))
                .then(|| format!("{}: {} of {} matched", stall.channel, run["matched"], self.skus));
            Ok::<_, BenchError>((row(stall, took, floor, requests, words), failure))
        });
        let done = futures::future::try_join_all(each).await?;
        let (rows, failures): (Vec<ChannelRow>, Vec<Option<String>>) = done.into_iter().unzip();
        Ok((rows, failures.into_iter().flatten().collect()))
    }
}

fn row(stall: &Stall, took: f64, floor: f64, requests: u64, words: String) -> ChannelRow {
    ChannelRow {
        channel: stall.channel,
        seconds: took,
        floor_seconds: floor,
        to_floor: took / floor.max(f64::MIN_POSITIVE),
        requests,
        floor: words,
    }
}

impl From<MarketError> for BenchError {
    fn from(error: MarketError) -> Self {
        Self::Channels(Box::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_change_raises_lowers_and_sells_out() {
        assert_eq!([0, 1, 2, 999, 1_000].map(changed), [0, 43, 57, 43, 0]);
    }

    #[test]
    fn a_bucket_gives_what_it_has_saved_up_at_once() {
        for (units, expected) in [(1_000.0, 0.0), (2_000.0, 0.0), (4_000.0, 20.0)] {
            let took = over_bucket(units, Rate { milli_per_second: 100_000, burst: 2_000 });
            assert!((took - expected).abs() < 1e-9, "{units}: {took}");
        }
    }
}
