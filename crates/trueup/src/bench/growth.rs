//! `trueup bench growth`: what becomes of a reservation's cost, of memory, of the start and of the
//! file when there is more of everything.
//!
//! Each step has a server and a data directory of its own. It is filled, ended by `kill -9`, and
//! started again, which is timed; then it is ended in order, so that the file is all there is, and
//! started for the last time to be measured.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::slice;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::child::{Scratch, Served};
use super::load::{self, BATCH_RESERVATIONS, Load, Shape, Target};
use super::report::{Beside, Figures, Gathered, Paired, ratio};
use super::stand::{Stand, until_quiet};
use super::{BenchError, FLOOR_PART, STOCK, WARM_UP, interrupted, measure_syncs, scratch_under};
use crate::cli::say::say;

/// How many SKUs there are where something else grows.
const SKUS: u32 = 10_000;
/// How long a filling by reservations may take.
const FILL_MAX: Duration = Duration::from_secs(1_800);
const MIB: f64 = 1_048_576.0;

/// How to measure growth.
#[derive(Debug, Clone, clap::Args)]
pub struct GrowthOptions {
    /// Steps of SKUs, separated by commas.
    #[arg(long, value_name = "COUNTS", default_value = "1000,10000,100000,1000000",
        value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=9_999_999))]
    pub skus: Vec<u32>,
    /// Steps of ledger lines beside those that made the SKUs.
    #[arg(long, value_name = "COUNTS", default_value = "0,100000,1000000,10000000",
        value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub lines: Vec<u32>,
    /// Steps of live reservations, in thousands.
    #[arg(long, value_name = "THOUSANDS", default_value = "0,10,100,1000",
        value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub reservations: Vec<u32>,
    /// Only these, separated by commas.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<Growing>,
    /// Connections, each with one request in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Seconds per measure.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Where to make the temporary data directories [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What there is more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Growing {
    /// SKUs.
    Skus,
    /// Lines of the ledger.
    Lines,
    /// Reservations that hold.
    Reservations,
    /// Reservations that were made and committed, one after the other.
    Pairs,
}

impl Growing {
    const ALL: [Self; 4] = [Self::Skus, Self::Lines, Self::Reservations, Self::Pairs];

    fn word(self) -> &'static str {
        match self {
            Self::Skus => "skus",
            Self::Lines => "lines",
            Self::Reservations => "reservations",
            Self::Pairs => "pairs",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrowthReport {
    /// Seconds per measure.
    pub seconds: u32,
    /// How many connections asked.
    pub connections: u32,
    /// Cores, shared by the server, the empty endpoint and the load generator.
    pub cores: usize,
    /// Whether the program was built with optimizations.
    pub optimized: bool,
    /// One line for each step.
    pub rows: Vec<GrowthRow>,
    /// What one more of each takes.
    pub each: Vec<Each>,
    /// Why the figures do not count; empty = they do.
    pub failures: Vec<String>,
}

/// One step.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrowthRow {
    /// What there was more of.
    pub growing: Growing,
    /// How many of them.
    pub count: u64,
    /// Single reservations of random SKUs.
    #[serde(flatten)]
    pub figures: Figures,
    /// The rate ÷ that of the empty endpoint just before and after.
    pub to_floor: f64,
    /// What a reservation costs beside the empty endpoint ÷ the same at the first step.
    pub cost_to_first: f64,
    /// The p99 ÷ (disk sync p99 + empty endpoint p99).
    pub p99_to_floor: f64,
    /// From starting the program after `kill -9` until it listens.
    pub start_seconds: f64,
    /// Resident memory after that start, when no rows are behind.
    pub memory_mib: f64,
    /// The data directory after an end in order.
    pub file_mib: f64,
}

/// What one more of something takes, between the first step and the last.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Each {
    /// Of what.
    pub growing: Growing,
    /// Bytes of resident memory.
    pub memory_bytes: f64,
    /// Bytes of the data directory.
    pub file_bytes: f64,
}

impl GrowthReport {
    /// Returns whether every answer was as wanted.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Display for GrowthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, connections, cores, .. } = self;
        writeln!(f, "{seconds} s per measure, {connections} connections, {cores} cores")?;
        if !self.optimized {
            writeln!(f, "this is a debug build: the figures say little")?;
        }
        writeln!(
            f,
            "{:<14}{:>10}{:>12}{:>9}{:>10}{:>9}{:>12}{:>15}{:>9}{:>12}{:>10}",
            "growing",
            "count",
            "per second",
            "p50 ms",
            "p99 ms",
            "÷ empty",
            "cost ÷ 1st",
            "p99 ÷ (s + e)",
            "start s",
            "memory MiB",
            "file MiB"
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        writeln!(f)?;
        for Each { growing, memory_bytes, file_bytes } in &self.each {
            let word = growing.word();
            writeln!(
                f,
                "{word}: each takes {memory_bytes:.0} B of memory, {file_bytes:.0} of file"
            )?;
        }
        self.failures.iter().try_for_each(|words| writeln!(f, "NOT VALID: {words}"))
    }
}

impl Display for GrowthRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { per_second, p50_ms, p99_ms } = self.figures;
        let Self { growing, count, to_floor, cost_to_first, p99_to_floor, .. } = self;
        let Self { start_seconds, memory_mib, file_mib, .. } = self;
        write!(f, "{:<14}{count:>10}{per_second:>12.0}{p50_ms:>9.3}", growing.word())?;
        write!(f, "{p99_ms:>10.3}{to_floor:>9.2}{cost_to_first:>12.2}{p99_to_floor:>15.2}")?;
        write!(f, "{start_seconds:>9.2}{memory_mib:>12.1}{file_mib:>10.1}")
    }
}

/// Measures, and returns what was found.
///
/// # Errors
/// When something could not be started or broke off. Processes and files are gone either way.
pub async fn run(options: GrowthOptions) -> Result<GrowthReport, BenchError> {
    // Declared first, dropped last: the processes are gone before their files are.
    let scratch = scratch_under(options.dir.as_deref())?;
    tokio::select! {
        report = Box::pin(measure_all(&options, &scratch)) => report,
        ended = interrupted() => Err(ended),
    }
}

async fn measure_all(
    options: &GrowthOptions,
    scratch: &Scratch,
) -> Result<GrowthReport, BenchError> {
    let floor = Served::start("empty endpoint", &["bench-floor"], &[], scratch.path()).await?;
    let mut growth = Growth { options, scratch, floor, rows: Vec::new(), failures: Vec::new() };
    let mut each = Vec::new();
    let wanted = |growing: &Growing| options.only.is_empty() || options.only.contains(growing);
    for growing in Growing::ALL.into_iter().filter(wanted) {
        let first = growth.rows.len();
        for count in growth.steps(growing) {
            growth.step(growing, count, first).await?;
        }
        each.extend(between(growing, &growth.rows[first..]));
    }
    let Growth { floor, rows, failures, .. } = growth;
    floor.stop().await;
    Ok(GrowthReport {
        seconds: options.seconds,
        connections: options.connections,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        optimized: !cfg!(debug_assertions),
        rows,
        each,
        failures,
    })
}

/// Returns what one more takes, where there are two steps.
fn between(growing: Growing, rows: &[GrowthRow]) -> Option<Each> {
    let (first, last) = (rows.first()?, rows.last()?);
    let more = last.count.checked_sub(first.count).filter(|more| *more > 0)?;
    let each = |first: f64, last: f64| (last - first) * MIB / float(more);
    Some(Each {
        growing,
        memory_bytes: each(first.memory_mib, last.memory_mib),
        file_bytes: each(first.file_mib, last.file_mib),
    })
}

/// A run under way.
struct Growth<'a> {
    options: &'a GrowthOptions,
    scratch: &'a Scratch,
    floor: Served,
    rows: Vec<GrowthRow>,
    failures: Vec<String>,
}

impl Growth<'_> {
    fn steps(&self, growing: Growing) -> Vec<u64> {
        let options = self.options;
        let thousands = || options.reservations.iter().map(|thousands| u64::from(*thousands));
        match growing {
            Growing::Skus => options.skus.iter().map(|count| u64::from(*count)).collect(),
            Growing::Lines => options.lines.iter().map(|count| u64::from(*count)).collect(),
            Growing::Reservations => thousands().map(|count| count * BATCH_RESERVATIONS).collect(),
            // As many seconds of pairs; how many these are is found out.
            Growing::Pairs => vec![0, u64::from(options.seconds)],
        }
    }

    /// Fills a server of its own, and looks at all that may have grown with it.
    async fn step(&mut self, growing: Growing, step: u64, first: usize) -> Result<(), BenchError> {
        say(format_args!("{}: {step}", growing.word()));
        let stand = Stand::new(self.scratch, &format!("data-{}", self.rows.len()));
        let skus = if growing == Growing::Skus { small(step) } else { SKUS };
        let server = stand.serve(&[]).await?;
        let count = self.fill(&stand.target(&server, skus)?, growing, step).await?;
        server.stop().await;

        let began = Instant::now();
        let server = stand.serve(&[]).await?;
        let start_seconds = began.elapsed().as_secs_f64();
        until_quiet(&stand.target(&server, skus)?).await?;
        let memory_mib = server.memory()?;
        server.terminate().await?;
        let file_mib = float(stand.bytes()?) / MIB;

        let server = stand.serve(&[]).await?;
        let measured = self.cost(&stand.target(&server, skus)?).await;
        server.stop().await;
        let measured = measured?;
        self.failures.extend(measured.failure());
        stand.clear()?;
        let row = measured.row(None, None);
        let mut row = GrowthRow {
            growing,
            count,
            figures: row.figures,
            to_floor: row.to_floor,
            cost_to_first: 1.0,
            p99_to_floor: row.p99_to_floor,
            start_seconds,
            memory_mib,
            file_mib,
        };
        if let Some(first) = self.rows.get(first) {
            row.cost_to_first = ratio(first.to_floor, row.to_floor);
        }
        self.rows.push(row);
        Ok(())
    }

    /// Makes what the step is about; returns how many that were.
    async fn fill(&mut self, at: &Target, growing: Growing, step: u64) -> Result<u64, BenchError> {
        at.count_skus(0, at.skus, STOCK).await?;
        match growing {
            Growing::Skus => Ok(step),
            Growing::Lines => {
                let mut left = small(step);
                let mut quantity = STOCK;
                while left > 0 {
                    // A count that says nothing new would be no change.
                    quantity = if quantity == STOCK { STOCK - 1 } else { STOCK };
                    let now = left.min(at.skus);
                    at.count_skus(0, now, quantity).await?;
                    left -= now;
                }
                Ok(step)
            }
            Growing::Reservations => {
                let shape =
                    Shape { requests_max: step / BATCH_RESERVATIONS, ..Shape::new(1, FILL_MAX, 0) };
                self.load(Load::ReserveBatch, at, shape).await
            }
            Growing::Pairs => {
                let length = Duration::from_secs(step);
                self.load(Load::ReserveCommit, at, Shape::new(self.options.connections, length, 0))
                    .await
            }
        }
    }

    /// Runs a load to fill a server; returns how many units were done.
    async fn load(&mut self, load: Load, at: &Target, shape: Shape) -> Result<u64, BenchError> {
        let mut gathered = Gathered::new(load, shape.connections);
        let figures = run_load(&mut gathered, at, shape).await?;
        let refused = gathered.refused > 0;
        self.failures.extend(refused.then(|| gathered.failure()).flatten());
        Ok(figures.1)
    }

    /// Measures single reservations beside the floor.
    async fn cost(&self, at: &Target) -> Result<Gathered, BenchError> {
        let length = Duration::from_secs(u64::from(self.options.seconds));
        let connections = self.options.connections;
        let at_floor = Target { addr: self.floor.addr, ..at.clone() };
        let mut floor = Gathered::new(Load::Floor, connections);
        let mut spread = Gathered::new(Load::ReserveSpread, connections);
        run_load(&mut spread, at, Shape::new(connections, WARM_UP, 1)).await?;
        run_load(&mut floor, &at_floor, Shape::new(connections, WARM_UP, 1)).await?;
        let sync = measure_syncs(self.scratch, length / FLOOR_PART).await?;
        let part = Shape::new(connections, length / FLOOR_PART, 2);
        let (before, _) = run_load(&mut floor, &at_floor, part).await?;
        let (figures, _) = run_load(&mut spread, at, Shape::new(connections, length, 3)).await?;
        let (after, _) = run_load(&mut floor, &at_floor, part).await?;
        let beside = Beside { floor: before.between(after), wide_floor: None, sync };
        spread.rounds.push(Paired { figures, beside });
        Ok(spread)
    }
}

/// Runs a load once and keeps what was answered; returns its figures and how many units were done.
async fn run_load(
    into: &mut Gathered,
    at: &Target,
    shape: Shape,
) -> Result<(Figures, u64), BenchError> {
    let load = into.load;
    let failed = |source| BenchError::Load { name: load.name(), source };
    let outcome = load::run(load, slice::from_ref(at), shape).await.map_err(failed)?;
    into.add_answers(&outcome);
    Ok((Figures::of(&outcome), outcome.tally.done))
}

/// A step as a smaller number: the options bound it.
fn small(step: u64) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}

/// Counts and bytes here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "they are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(count: u64, memory_mib: f64, file_mib: f64) -> GrowthRow {
        GrowthRow {
            growing: Growing::Skus,
            count,
            figures: Figures { per_second: 1.0, p50_ms: 1.0, p99_ms: 1.0 },
            to_floor: 1.0,
            cost_to_first: 1.0,
            p99_to_floor: 1.0,
            start_seconds: 1.0,
            memory_mib,
            file_mib,
        }
    }

    #[test]
    fn what_each_takes_is_between_the_first_step_and_the_last() {
        let rows = [row(1_000, 10.0, 1.0), row(5_000, 90.0, 1.0), row(1_049_576, 310.0, 101.0)];
        let each = between(Growing::Skus, &rows).unwrap();
        assert!((each.memory_bytes - 300.0).abs() < 1e-9, "{each:?}");
        assert!((each.file_bytes - 100.0).abs() < 1e-9, "{each:?}");
        assert!(between(Growing::Skus, &rows[..1]).is_none());
        assert!(between(Growing::Skus, &[]).is_none());
    }
}
