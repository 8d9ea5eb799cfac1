//! What was measured, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::{Load, Outcome};
use super::postgres::{Compared, Form, PostgresRow, ratio_to};

/// What a run of the benchmark found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How it was run.
    pub setting: Setting,
    /// Append 4 KiB and `fdatasync` on the file system of the data directory.
    pub disk_sync: Figures,
    /// The empty endpoint first, then each load; fewer connections first.
    pub rows: Vec<Row>,
    /// The same reservations in PostgreSQL, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub postgres: Vec<PostgresRow>,
    /// Why the figures do not count; empty = they do.
    pub failures: Vec<String>,
}

/// How a benchmark was run.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// How many SKUs there were.
    pub skus: u32,
    /// Paired rounds; figures are medians over them.
    pub rounds: u32,
    /// Seconds per measure.
    pub seconds: u32,
    /// Cores, shared by the server, the empty endpoint and the load generator.
    pub cores: usize,
    /// Whether every order carried an idempotency key.
    pub idempotency_keys: bool,
    /// Whether the program was built with optimizations.
    pub optimized: bool,
    /// Where the servers keep their data: `embedded` or `postgres`.
    pub store: &'static str,
    /// Where the data was.
    pub data_dir: String,
}

/// A rate and latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Units per second.
    pub per_second: f64,
    /// The median latency in milliseconds.
    pub p50_ms: f64,
    /// The 99th percentile in milliseconds.
    pub p99_ms: f64,
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The load's name.
    pub name: &'static str,
    /// What is counted per second.
    pub unit: &'static str,
    /// How many connections asked.
    pub connections: u32,
    /// How many servers they were dealt out among.
    pub nodes: u32,
    /// Medians over the rounds.
    #[serde(flatten)]
    pub figures: Figures,
    /// The rate ÷ that of the empty endpoint just before and after; the median over the rounds.
    pub to_floor: f64,
    /// The rate ÷ that of the empty endpoint with 64 connections, for loads with fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_wide_floor: Option<f64>,
    /// The rate ÷ that of single reservations of random SKUs with as many connections, for other
    /// reservations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_spread: Option<f64>,
    /// The rate ÷ that of PostgreSQL with as many callers, in the better of its forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_postgres: Option<f64>,
    /// The rate ÷ that of PostgreSQL with as many callers, in a transaction of three statements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_transaction: Option<f64>,
    /// The rate ÷ that of the same with one server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_one_node: Option<f64>,
    /// The p99 ÷ (disk sync p99 + empty endpoint p99); the median over the rounds.
    pub p99_to_floor: f64,
    /// Answers by status, over all rounds.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers that were not as wanted; more than none = the row does not count.
    pub refused: u64,
}

impl Figures {
    /// Computes the figures of one measure.
    pub(super) fn of(outcome: &Outcome) -> Self {
        let rate = float(outcome.tally.done) / seconds(outcome.elapsed);
        Self { per_second: rate, ..Self::of_latencies(&outcome.tally.took) }
    }

    /// Computes figures of work that was done one after the other.
    pub(super) fn of_latencies(took: &Histogram<u64>) -> Self {
        let at = |quantile| float(took.value_at_quantile(quantile)) / 1e3;
        Self { per_second: 1e6 / took.mean().max(1.0), p50_ms: at(0.5), p99_ms: at(0.99) }
    }

    /// Returns the mean of two neighbours.
    pub(super) fn between(self, other: Self) -> Self {
        let mean = |a: f64, b: f64| f64::midpoint(a, b);
        Self {
            per_second: mean(self.per_second, other.per_second),
            p50_ms: mean(self.p50_ms, other.p50_ms),
            p99_ms: mean(self.p99_ms, other.p99_ms),
        }
    }

    /// Returns the median of each figure.
    pub(super) fn medians(all: &[Self]) -> Self {
        Self {
            per_second: median(all.iter().map(|one| one.per_second)),
            p50_ms: median(all.iter().map(|one| one.p50_ms)),
            p99_ms: median(all.iter().map(|one| one.p99_ms)),
        }
    }
}

/// What one load did in all rounds, each beside its own floor.
pub(super) struct Gathered {
    pub(super) load: Load,
    pub(super) connections: u32,
    /// How many servers the connections are dealt out among.
    pub(super) nodes: u32,
    pub(super) rounds: Vec<Paired>,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) refused: u64,
    pub(super) example: Option<String>,
    /// The same in PostgreSQL, where that was asked for.
    pub(super) compared: Option<Compared>,
}

/// A measure with what it is compared with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paired {
    pub(super) figures: Figures,
    pub(super) beside: Beside,
}

/// What the machine could do in the moments of a measure.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside {
    /// The empty endpoint with as many connections.
    pub(super) floor: Figures,
    /// The empty endpoint with more of them, where that is asked for.
    pub(super) wide_floor: Option<Figures>,
    pub(super) sync: Figures,
}

impl Beside {
    /// Returns the mean of two neighbours.
    pub(super) fn between(self, other: Self) -> Self {
        let wide = self.wide_floor.zip(other.wide_floor);
        Self {
            floor: self.floor.between(other.floor),
            wide_floor: wide.map(|(one, other)| one.between(other)),
            sync: self.sync.between(other.sync),
        }
    }
}

impl Gathered {
    pub(super) fn new(load: Load, connections: u32) -> Self {
        Self {
            load,
            connections,
            nodes: 1,
            rounds: Vec::new(),
            statuses: BTreeMap::new(),
            refused: 0,
            example: None,
            compared: None,
        }
    }

    /// Returns whether another load is compared with the same measures of the floor.
    pub(super) fn shares_floor(&self, other: &Self) -> bool {
        let is_batch = |one: &Self| one.load == Load::ReserveBatch;
        self.connections == other.connections && is_batch(self) == is_batch(other)
    }

    /// Adds what was answered; figures are added when their floor is known.
    pub(super) fn add_answers(&mut self, outcome: &Outcome) {
        for (status, count) in &outcome.tally.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.refused += outcome.tally.refused;
        self.example = self.example.take().or_else(|| outcome.tally.example.clone());
    }

    /// Makes the line of the report, beside single reservations with as many connections, and
    /// beside the same with one server.
    pub(super) fn row(&self, spread: Option<&Self>, one_node: Option<&Self>) -> Row {
        let all: Vec<Figures> = self.rounds.iter().map(|round| round.figures).collect();
        let rate =
            |round: &Paired, under: Figures| ratio(round.figures.per_second, under.per_second);
        let p99_to_floor = |round: &Paired| {
            let Beside { floor, sync, .. } = round.beside;
            ratio(round.figures.p99_ms, floor.p99_ms + sync.p99_ms)
        };
        let wide = |round: &Paired| Some(rate(round, round.beside.wide_floor?));
        let to_wide: Vec<f64> = self.rounds.iter().filter_map(wide).collect();
        let rates = || self.rounds.iter().map(|round| round.figures.per_second);
        let compared = self.compared.as_ref();
        Row {
            name: self.load.name(),
            unit: self.load.unit(),
            connections: self.connections,
            nodes: self.nodes,
            figures: Figures::medians(&all),
            to_floor: median(self.rounds.iter().map(|round| rate(round, round.beside.floor))),
            to_wide_floor: (!to_wide.is_empty()).then(|| median(to_wide.into_iter())),
            to_spread: spread.map(|spread| paired_ratio(self, spread)),
            to_postgres: compared.map(|beside| ratio_to(rates(), beside.best())),
            to_transaction: compared.map(|beside| ratio_to(rates(), beside.of(Form::Transaction))),
            to_one_node: one_node.map(|one| paired_ratio(self, one)),
            p99_to_floor: median(self.rounds.iter().map(p99_to_floor)),
            statuses: self.statuses.clone(),
            refused: self.refused,
        }
    }

    /// Returns why the row does not count, if it does not.
    pub(super) fn failure(&self) -> Option<String> {
        let done = self.rounds.iter().all(|round| round.figures.per_second > 0.0);
        if self.refused == 0 && done {
            return None;
        }
        let (name, refused, statuses) = (self.load.name(), self.refused, &self.statuses);
        let example = self.example.as_deref().unwrap_or("nothing");
        Some(format!("{name}: {refused} not done, statuses {statuses:?}; the first said {example}"))
    }
}

/// Returns the median over the rounds of one load's rate ÷ another's in the same round.
fn paired_ratio(over: &Gathered, under: &Gathered) -> f64 {
    let pairs = over.rounds.iter().zip(&under.rounds);
    median(pairs.map(|(over, under)| ratio(over.figures.per_second, under.figures.per_second)))
}

impl Report {
    /// Returns whether every answer was as wanted and every check held.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }

    /// Draws the report as an SVG file that needs nothing else.
    #[must_use]
    pub fn plot(&self) -> String {
        super::plot::render(self)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.setting)?;
        let Setting { store, data_dir, .. } = &self.setting;
        writeln!(f, "{store} store, data in {data_dir}")?;
        let to_postgres = if self.postgres.is_empty() { "" } else { "÷ postgres" };
        writeln!(
            f,
            "{:<20}{:>6}{:>12} {:<13}{:>9}{:>10}{:>9}{:>10}{:>15}{to_postgres:>12}",
            "measure",
            "conns",
            "per second",
            "unit",
            "p50 ms",
            "p99 ms",
            "÷ empty",
            "÷ spread",
            "p99 ÷ (s + e)"
        )?;
        self.rows.iter().try_for_each(|row| write!(f, "{row}"))?;
        let Figures { per_second, p50_ms, p99_ms } = self.disk_sync;
        writeln!(
            f,
            "{:<20}{:>6}{per_second:>12.0} {:<13}{p50_ms:>9.3}{p99_ms:>10.3}",
            "disk sync", 1, "syncs"
        )?;
        self.postgres.iter().try_for_each(|row| write!(f, "{row}"))?;
        writeln!(f)?;
        for row in &self.rows {
            if let Some(to_wide) = row.to_wide_floor {
                writeln!(f, "{} ÷ empty endpoint of 64 connections: {to_wide:.2}", row.named())?;
            }
            let of = row.connections;
            if let Some(to_transaction) = row.to_transaction {
                let name = row.named();
                writeln!(
                    f,
                    "{name} ÷ PostgreSQL's transaction, {of} callers: {to_transaction:.2}"
                )?;
            }
            if let Some(to_one) = row.to_one_node {
                writeln!(
                    f,
                    "{} ÷ the same of one node, {of} connections: {to_one:.2}",
                    row.named()
                )?;
            }
        }
        writeln!(f, "÷ empty: ÷ empty endpoint of as many connections")?;
        writeln!(f, "÷ spread: ÷ reserve-spread of as many connections")?;
        writeln!(f, "p99 ÷ (s + e): p99 ÷ (disk sync p99 + empty endpoint p99)")?;
        if !self.postgres.is_empty() {
            writeln!(f, "÷ postgres: ÷ PostgreSQL's better form with as many callers")?;
        }
        self.failures.iter().try_for_each(|words| writeln!(f, "NOT VALID: {words}"))
    }
}

impl Row {
    /// Returns its name, with how many servers were asked where these are several.
    fn named(&self) -> String {
        match self.nodes {
            1 => self.name.to_owned(),
            nodes => format!("{} on {nodes}", self.name),
        }
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { per_second, p50_ms, p99_ms } = self.figures;
        let Self { unit, connections, to_floor, p99_to_floor, .. } = self;
        let name = self.named();
        let to_spread = self.to_spread.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        write!(f, "{name:<20}{connections:>6}{per_second:>12.0} {unit:<13}{p50_ms:>9.3}")?;
        write!(f, "{p99_ms:>10.3}{to_floor:>9.2}{to_spread:>10}{p99_to_floor:>15.2}")?;
        if let Some(to_postgres) = self.to_postgres {
            write!(f, "{to_postgres:>12.2}")?;
        }
        writeln!(f, "{}", if self.refused == 0 { "" } else { "  NOT VALID" })
    }
}

impl Display for PostgresRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { per_second, p50_ms, p99_ms } = self.figures;
        let name = format!("pg {}", self.load);
        let Self { form, connections, .. } = self;
        writeln!(
            f,
            "{name:<20}{connections:>6}{per_second:>12.0} {:<13}{p50_ms:>9.3}{p99_ms:>10.3}  one {}",
            "reservations",
            form.name(),
        )
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { skus, rounds, seconds, cores, .. } = self;
        write!(f, "{skus} SKUs, {rounds} round(s) of {seconds} s per measure, {cores} cores ")?;
        write!(f, "shared with the load generator")?;
        if self.idempotency_keys {
            write!(f, ", with idempotency keys")?;
        }
        if !self.optimized {
            write!(f, "; a debug build, whose figures say little")?;
        }
        Ok(())
    }
}

/// Returns the middle of some figures, or the mean of the two in the middle; 0 of none.
pub(super) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.get(half) {
        None => 0.0,
        Some(upper) if sorted.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(sorted[half - 1], *upper),
    }
}

/// Divides; 0 when there is nothing to divide by, as JSON knows no infinity.
pub(super) fn ratio(over: f64, under: f64) -> f64 {
    if under > 0.0 { over / under } else { 0.0 }
}

/// A count as a float; counts and microseconds of a measure are far below 2^32.
fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn seconds(length: Duration) -> f64 {
    length.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(per_second: f64) -> Figures {
        Figures { per_second, p50_ms: 1.0, p99_ms: 4.0 }
    }

    fn gathered(load: Load, rates: &[f64]) -> Gathered {
        let mut gathered = Gathered::new(load, 64);
        gathered.rounds = rates
            .iter()
            .map(|rate| {
                let (floor, wide_floor) = (figures(100.0), Some(figures(200.0)));
                let beside = Beside { floor, wide_floor, sync: figures(10.0) };
                Paired { figures: figures(*rate), beside }
            })
            .collect();
        gathered
    }

    #[test]
    fn a_median_is_the_middle_or_the_mean_of_two() {
        let check = |all: &[f64], expected: f64| {
            let found = median(all.iter().copied());
            assert!((found - expected).abs() < 1e-9, "{all:?}: {found}");
        };
        check(&[], 0.0);
        check(&[3.0], 3.0);
        check(&[9.0, 1.0], 5.0);
        check(&[9.0, 1.0, 2.0], 2.0);
    }

    #[test]
    fn ratios_are_medians_of_pairs() {
        let spread = gathered(Load::ReserveSpread, &[10.0, 50.0, 90.0]);
        let hot = gathered(Load::ReserveHot, &[10.0, 25.0, 90.0]);
        let (row, hot) = (spread.row(None, None), hot.row(Some(&spread), Some(&spread)));
        assert_eq!(row.to_spread, None);
        for (found, expected) in [
            (Some(row.to_floor), 0.5),
            (row.to_wide_floor, 0.25),
            (Some(row.p99_to_floor), 0.5),
            (hot.to_spread, 1.0),
            (hot.to_one_node, 1.0),
        ] {
            assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?}: {expected}");
        }
    }

    #[test]
    fn a_row_with_a_refusal_does_not_count() {
        let mut row = gathered(Load::Read, &[10.0]);
        assert_eq!(row.failure(), None);
        row.refused = 2;
        row.statuses.insert(503, 2);
        row.example = Some("overloaded".to_owned());
        let words = "read: 2 not done, statuses {503: 2}; the first said overloaded";
        assert_eq!(row.failure().as_deref(), Some(words));
        assert!(gathered(Load::Read, &[0.0]).failure().is_some());
    }
}
