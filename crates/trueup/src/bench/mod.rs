//! `trueup bench`: what this machine does per second, beside what it can do at best.
//!
//! The server and the empty endpoint run as processes of their own, of this same program; the
//! load generator is this process. A round is: disk sync, then floor, load, floor, load, …,
//! floor, so that each load is compared with the empty endpoint of the moments around it: on a
//! shared machine only such ratios mean anything.
//!
//! Every answer is counted by its status, and one that is not as wanted makes the run invalid;
//! at the end the hot SKU must hold exactly what was acknowledged. Nothing outside loopback is
//! talked to, and nothing is left behind.

mod ask;
mod channels;
mod child;
mod client;
mod floor;
mod growth;
mod load;
mod overload;
mod plot;
mod postgres;
mod report;
mod stand;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Duration;

pub use channels::{ChannelOptions, ChannelReport, ChannelRow, Direction, run as run_channels};
use child::{Scratch, Served};
pub use client::WireError;
pub use floor::serve_floor;
pub use growth::{Each, Growing, GrowthOptions, GrowthReport, GrowthRow, run as run_growth};
pub use load::Load;
use load::{Outcome, Shape, Target};
pub use overload::{OverloadOptions, OverloadReport, OverloadRow, run as run_overload};
use postgres::{Cluster, Compared, Tools};
pub use postgres::{Form, PostgresRow};
use report::{Beside, Gathered, Paired};
pub use report::{Figures, Report, Row, Setting};
use stand::Stand;

use crate::cli::demo::StopSignals;
use crate::cli::say::say;

const ORG: &str = "bench";
const HOT_SKU: &str = "BENCH-HOT-SKU";
/// Units of each SKU at first: more than any run can hold.
const STOCK: u64 = 1_000_000_000_000;
/// How long reservations hold: longer than a run, or expiry would disturb the last check.
const HOLD_SECONDS: u32 = 86_400;
/// How long each load is asked before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// How long a single request outside of the loads may take.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(60);
/// How many connections the floor has that all loads of one aim are compared with.
const WIDE_CONNECTIONS: u32 = 64;
/// The floor and the disk are measured for this part of a load's time, as there are more of them.
const FLOOR_PART: u32 = 3;

/// What to measure in place of the loads.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BenchCommand {
    /// Measure how long it takes until a change is on every channel, beside the channels' limits.
    Push(ChannelOptions),
    /// Measure how long reading every listing back takes, beside the channels' limits.
    Pull(ChannelOptions),
    /// Measure what becomes of cost, memory, start and file when there is more of everything.
    Growth(GrowthOptions),
    /// Measure what becomes of answers when more is asked than can be done.
    Overload(OverloadOptions),
}

/// How to run the benchmark.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchOptions {
    /// Something else than the loads.
    #[command(subcommand)]
    pub what: Option<BenchCommand>,
    /// How many connections, each with one request in flight; several are separated by commas,
    /// and each has its own floor. Batches always use 16.
    #[arg(long, value_name = "COUNT", default_value = "64", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: Vec<u32>,
    /// Seconds per measure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Paired rounds; the report shows medians.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// How many SKUs there are.
    #[arg(long, default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=9_999_999))]
    pub skus: u32,
    /// Only these loads, separated by commas; the floor is always measured.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<Load>,
    /// Send an Idempotency-Key with every change.
    #[arg(long)]
    pub idempotency_keys: bool,
    /// Measure the same reservations in another system too, in the same rounds.
    #[arg(long, value_name = "SYSTEM")]
    pub vs: Option<Peer>,
    /// Where the server keeps its data; postgres is a cluster made for the run.
    #[arg(long, value_name = "STORE", default_value = "embedded")]
    pub store: StoreKind,
    /// Measure with so many servers on one database too, each beside one server alone.
    #[arg(long, value_name = "COUNT", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=8))]
    pub nodes: u32,
    /// Where PostgreSQL's programs are [default: where they usually are].
    #[arg(long, value_name = "DIR")]
    pub postgres_bin: Option<PathBuf>,
    /// Where to make the temporary data directory [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Draw the report into an SVG file too.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// What else can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// A cluster made for the run by PostgreSQL's own tools, asked by pgbench.
    Postgres,
}

/// Where the measured server keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum StoreKind {
    /// In a directory.
    Embedded,
    /// In PostgreSQL.
    Postgres,
}

impl StoreKind {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Postgres => "postgres",
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The temporary directory could not be made or used.
    #[error("use a temporary directory under {path}")]
    Dir {
        /// Where it was tried.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// What the system tells of the server's memory could not be read or begun anew.
    #[error("look at the server's memory in {path}")]
    Memory {
        /// The file of `/proc`.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A process could not be started.
    #[error("start the {name}")]
    Spawn {
        /// Which one.
        name: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A process ended or said nothing of its address in time.
    #[error("the {name} does not listen; it said: {said}")]
    NotListening {
        /// Which one.
        name: &'static str,
        /// The last that it said.
        said: String,
    },
    /// The server did not end in order when it was asked to.
    #[error("end the server in order ({how}); it said: {said}")]
    NotEnded {
        /// How it ended.
        how: String,
        /// The last that it said.
        said: String,
    },
    /// Not as many connections may be opened as are wanted.
    #[error("open {needed} files: this process may have {allowed}")]
    Files {
        /// How many are needed.
        needed: u64,
        /// How many are allowed.
        allowed: u64,
    },
    /// The token could not be signed.
    #[error("sign a token")]
    Token(#[source] jsonwebtoken::errors::Error),
    /// A load broke off.
    #[error("run {name}: {source}")]
    Load {
        /// Which one.
        name: &'static str,
        /// Why it broke off.
        source: WireError,
    },
    /// A request outside of the loads got no answer.
    #[error("{what}")]
    Request {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: WireError,
    },
    /// A request outside of the loads was refused.
    #[error("{what}: answered {status}: {said}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The answer's status.
        status: u16,
        /// The beginning of the answer.
        said: String,
    },
    /// Channels could not be prepared or measured.
    #[error("measure channels: {0}")]
    Channels(Box<crate::cli::market::MarketError>),
    /// The plot could not be written.
    #[error("write {path}: {source}")]
    Plot {
        /// Where it was to be.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Several servers cannot have one directory.
    #[error("run several nodes on the embedded store: it has one")]
    OneNode,
    /// PostgreSQL's tools were not found.
    #[error("find PostgreSQL's programs: there is no {tool}")]
    NoPostgres {
        /// The first that is missing.
        tool: &'static str,
    },
    /// One of PostgreSQL's tools failed.
    #[error("run {tool}; it said: {said}")]
    Postgres {
        /// Which one.
        tool: &'static str,
        /// The beginning of what it said.
        said: String,
    },
    /// Something took longer than it may.
    #[error("{0}")]
    Late(&'static str),
    /// The person asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Signals cannot be listened to.
    #[error("listen to signals")]
    Signals(#[source] io::Error),
}

impl BenchError {
    /// Says what may help.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoPostgres { .. } => Some(
                "install PostgreSQL's server (Debian: postgresql), or name the directory of \
                 initdb, pg_ctl, postgres, psql and pgbench with --postgres-bin",
            ),
            Self::OneNode => Some("add --store postgres"),
            Self::Files { .. } => {
                Some("raise the limit with ulimit -n, or ask for fewer --connections")
            }
            Self::Dir { .. }
            | Self::Memory { .. }
            | Self::Spawn { .. }
            | Self::NotListening { .. }
            | Self::NotEnded { .. }
            | Self::Token(_)
            | Self::Load { .. }
            | Self::Request { .. }
            | Self::Refused { .. }
            | Self::Channels(_)
            | Self::Plot { .. }
            | Self::Postgres { .. }
            | Self::Late(_)
            | Self::Interrupted
            | Self::Signals(_) => None,
        }
    }
}

/// Measures, and returns what was found. Look at [`Report::is_valid`] before believing it.
///
/// # Errors
/// When something could not be started or broke off. Processes and files are gone either way.
pub async fn run(options: BenchOptions) -> Result<Report, BenchError> {
    // Declared first, dropped last: the processes are gone before their files are.
    let scratch = scratch_under(options.dir.as_deref())?;
    tokio::select! {
        // The one that loses is dropped, and the processes with it.
        report = Box::pin(with_processes(&options, &scratch)) => report,
        ended = interrupted() => Err(ended),
    }
}

/// Makes a directory of our own where it is wanted.
fn scratch_under(dir: Option<&Path>) -> Result<Scratch, BenchError> {
    let under = dir.map_or_else(std::env::temp_dir, Path::to_owned);
    Scratch::make(&under).map_err(|source| BenchError::Dir { path: under, source })
}

/// Waits until the person or the system asks us to stop.
async fn interrupted() -> BenchError {
    match StopSignals::listen() {
        Ok(signals) => {
            signals.first().await;
            BenchError::Interrupted
        }
        Err(error) => BenchError::Signals(error),
    }
}

async fn with_processes(options: &BenchOptions, scratch: &Scratch) -> Result<Report, BenchError> {
    if options.nodes > 1 && options.store == StoreKind::Embedded {
        return Err(BenchError::OneNode);
    }
    let cluster = cluster(options).await?;
    let stand = Stand::new(scratch, "data");
    let stand = match &cluster {
        Some(cluster) if options.store == StoreKind::Postgres => stand.in_database(cluster.url()),
        Some(_) | None => stand,
    };
    let (mut servers, mut at_servers) = (Vec::new(), Vec::new());
    for _ in 0..options.nodes {
        let server = stand.serve(&[]).await?;
        let keyed = options.idempotency_keys;
        at_servers.push(Target { keyed, ..stand.target(&server, options.skus)? });
        servers.push(server);
    }
    let floor = Served::start("empty endpoint", &["bench-floor"], &[], scratch.path()).await?;
    let at_floor = Target { addr: floor.addr, ..at_servers[0].clone() };
    let mut bench = Bench {
        options,
        scratch,
        at_servers,
        at_floor,
        cluster,
        floors: BTreeMap::new(),
        measures: 0,
        accepted_hot: 0,
    };
    let result = bench.measure_all().await;
    floor.stop().await;
    for server in servers {
        let said = server.stop().await;
        if result.is_err() && !said.is_empty() {
            say(format_args!("the server said last:\n{said}"));
        }
    }
    result
}

/// Starts a PostgreSQL where one is needed.
async fn cluster(options: &BenchOptions) -> Result<Option<Cluster>, BenchError> {
    let servers = match options.store {
        StoreKind::Postgres => options.nodes,
        StoreKind::Embedded => 0,
    };
    if servers == 0 && options.vs.is_none() {
        return Ok(None);
    }
    let tools = Tools::find(options.postgres_bin.as_deref()).await?;
    let callers = options.connections.iter().copied().max().unwrap_or(1);
    let dir = options.dir.as_deref();
    Cluster::start(tools, dir, options.skus, callers, servers).await.map(Some)
}

/// Returns the name of a SKU; all are as long as [`HOT_SKU`].
fn sku_name(number: u32) -> String {
    format!("BENCH-{number:07}")
}

/// A run under way.
struct Bench<'a> {
    options: &'a BenchOptions,
    scratch: &'a Scratch,
    /// One for each server.
    at_servers: Vec<Target>,
    at_floor: Target,
    cluster: Option<Cluster>,
    /// The empty endpoint, by how many connections ask.
    floors: BTreeMap<u32, Gathered>,
    /// Measures so far, to keep order ids unique.
    measures: u32,
    /// Reservations of the hot SKU that were acknowledged.
    accepted_hot: u64,
}

impl Bench<'_> {
    async fn measure_all(&mut self) -> Result<Report, BenchError> {
        say(format_args!("creating {} SKUs", self.options.skus));
        self.at_servers[0].count_skus(0, self.options.skus, STOCK).await?;
        self.at_servers[0].create_hot().await?;
        let mut gathered = self.gather();
        self.warm_up(&mut gathered).await?;
        let mut syncs = Vec::new();
        for round in 1..=self.options.rounds {
            say(format_args!("round {round} of {}", self.options.rounds));
            syncs.extend(self.round(&mut gathered).await?);
        }
        let mut failures: Vec<String> =
            self.floors.values().chain(&gathered).filter_map(Gathered::failure).collect();
        failures.extend(self.at_servers[0].check_hot(self.accepted_hot).await?);
        if let Some(cluster) = &self.cluster {
            failures.extend(cluster.check().await?);
        }
        Ok(self.report(&gathered, &syncs, failures))
    }

    /// Lists what is measured: each load with each number of connections, on one server and on all,
    /// those that share a floor together.
    fn gather(&self) -> Vec<Gathered> {
        let mut measured = BTreeSet::new();
        for wanted in &self.options.connections {
            for load in Load::ALL.into_iter().filter(|load| self.wants(*load)) {
                let is_batch = load == Load::ReserveBatch;
                for nodes in [1, self.options.nodes] {
                    measured.insert((is_batch, load.connections(*wanted), load, nodes));
                }
            }
        }
        let gathered = measured.into_iter();
        let of = |(_, connections, load, nodes)| {
            let is_compared = self.options.vs.is_some() && nodes == 1;
            let compared = is_compared.then(|| Compared::beside(load, connections)).flatten();
            Gathered { nodes, compared, ..Gathered::new(load, connections) }
        };
        gathered.map(of).collect()
    }

    fn wants(&self, load: Load) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&load)
    }

    /// Asks each load shortly; the figures are thrown away, refusals and holds are not.
    async fn warm_up(&mut self, gathered: &mut [Gathered]) -> Result<(), BenchError> {
        for each in gathered {
            self.measure(each, WARM_UP).await?;
            if !self.floors.contains_key(&each.connections) {
                self.measure_floor(each.connections, WARM_UP).await?;
            }
        }
        Ok(())
    }

    /// Measures everything once; returns the disk's figures, one for each number of connections.
    async fn round(&mut self, gathered: &mut [Gathered]) -> Result<Vec<Figures>, BenchError> {
        let length = Duration::from_secs(u64::from(self.options.seconds));
        let part = length / FLOOR_PART;
        let mut syncs = Vec::new();
        for group in gathered.chunk_by_mut(Gathered::shares_floor) {
            let sync = measure_syncs(self.scratch, part).await?;
            let mut before = self.beside(&group[0], part, sync).await?;
            for each in group {
                let figures = self.measure(each, length).await?;
                let after = self.beside(each, part, sync).await?;
                each.rounds.push(Paired { figures, beside: before.between(after) });
                before = after;
                if let (Some(cluster), Some(into)) = (&mut self.cluster, &mut each.compared) {
                    cluster.measure(into, self.options.seconds).await?;
                }
            }
            syncs.push(sync);
        }
        Ok(syncs)
    }

    /// Measures what a load is compared with.
    async fn beside(
        &mut self,
        load: &Gathered,
        length: Duration,
        sync: Figures,
    ) -> Result<Beside, BenchError> {
        let floor = self.measure_floor(load.connections, length).await?;
        let wide_floor = match load.load {
            Load::ReserveBatch => Some(self.measure_floor(WIDE_CONNECTIONS, length).await?),
            Load::Floor
            | Load::ReserveSpread
            | Load::ReserveHot
            | Load::ReserveCommit
            | Load::Read
            | Load::Mixed => None,
        };
        self.keep_floor(load.connections, floor, sync);
        if let Some(figures) = wide_floor {
            self.keep_floor(WIDE_CONNECTIONS, figures, sync);
        }
        Ok(Beside { floor, wide_floor, sync })
    }

    /// Adds figures of the floor to its own line of the report.
    fn keep_floor(&mut self, connections: u32, figures: Figures, sync: Figures) {
        if let Some(floor) = self.floors.get_mut(&connections) {
            let beside = Beside { floor: figures, wide_floor: None, sync };
            floor.rounds.push(Paired { figures, beside });
        }
    }

    async fn measure_floor(
        &mut self,
        connections: u32,
        length: Duration,
    ) -> Result<Figures, BenchError> {
        let known = self.floors.remove(&connections);
        let mut floor = known.unwrap_or_else(|| Gathered::new(Load::Floor, connections));
        let figures = self.measure(&mut floor, length).await;
        self.floors.insert(connections, floor);
        figures
    }

    /// Runs a load once and keeps what was answered.
    async fn measure(
        &mut self,
        into: &mut Gathered,
        length: Duration,
    ) -> Result<Figures, BenchError> {
        let load = into.load;
        self.measures += 1;
        let shape = Shape::new(into.connections, length, self.measures);
        let targets = match load {
            Load::Floor => slice::from_ref(&self.at_floor),
            Load::ReserveSpread
            | Load::ReserveHot
            | Load::ReserveCommit
            | Load::ReserveBatch
            | Load::Read
            | Load::Mixed => &self.at_servers[..usize_of(into.nodes)],
        };
        let failed = |source| BenchError::Load { name: load.name(), source };
        let outcome: Outcome = load::run(load, targets, shape).await.map_err(failed)?;
        into.add_answers(&outcome);
        if load == Load::ReserveHot {
            self.accepted_hot += outcome.tally.done;
        }
        Ok(Figures::of(&outcome))
    }

    fn report(&self, gathered: &[Gathered], syncs: &[Figures], failures: Vec<String>) -> Report {
        let spread = |like: &Gathered| {
            if !matches!(like.load, Load::ReserveHot | Load::ReserveCommit) {
                return None;
            }
            let is_spread = |one: &&Gathered| one.load == Load::ReserveSpread;
            let mut all = gathered.iter().filter(is_spread);
            all.find(|one| one.connections == like.connections && one.nodes == like.nodes)
        };
        let one_node = |like: &Gathered| {
            let is_same = |one: &&Gathered| {
                (one.load, one.connections, one.nodes) == (like.load, like.connections, 1)
            };
            gathered.iter().find(is_same).filter(|_| like.nodes > 1)
        };
        let compared = gathered.iter().filter_map(|one| one.compared.as_ref());
        let floors = self.floors.values().map(|floor| floor.row(None, None));
        Report {
            setting: Setting {
                skus: self.options.skus,
                rounds: self.options.rounds,
                seconds: self.options.seconds,
                cores: std::thread::available_parallelism().map_or(1, usize::from),
                idempotency_keys: self.options.idempotency_keys,
                optimized: !cfg!(debug_assertions),
                store: self.options.store.name(),
                data_dir: self.scratch.path().display().to_string(),
            },
            disk_sync: Figures::medians(syncs),
            rows: floors
                .chain(gathered.iter().map(|one| one.row(spread(one), one_node(one))))
                .collect(),
            postgres: compared.flat_map(Compared::rows).collect(),
            failures,
        }
    }
}

/// Measures the disk's sync latency.
async fn measure_syncs(scratch: &Scratch, length: Duration) -> Result<Figures, BenchError> {
    let path = scratch.path().to_owned();
    let failed = |source| BenchError::Dir { path: scratch.path().to_owned(), source };
    let measuring = tokio::task::spawn_blocking(move || floor::measure_syncs(&path, length));
    let measured = measuring.await.map_err(|error| failed(io::Error::other(error)))?;
    Ok(Figures::of_latencies(&measured.map_err(failed)?))
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).expect("a usize has at least 32 bits here")
}

fn excerpt(text: &str) -> String {
    text.chars().take(300).collect()
}
