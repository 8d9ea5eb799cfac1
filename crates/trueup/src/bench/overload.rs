//! `trueup bench overload`: what becomes of answers when more is asked than can be done.
//!
//! First it is found out how much can be done, over connections that wait for their answers. Then
//! requests are due at a steady rate, a multiple of that, whether or not those before them are
//! answered, over more connections than the server answers at once. What is refused must say so
//! with a 503 and a `Retry-After`, and must not have been done.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::child::{Scratch, Served};
use super::client::{Connection, WireError};
use super::load::{self, ANSWER_WAIT_MAX, Load, Requests, Shape, Target, latencies, note};
use super::report::{Figures, ratio};
use super::stand::{Stand, until_quiet};
use super::{BenchError, STOCK, interrupted, scratch_under, usize_of};
use crate::api::REQUESTS_MAX;
use crate::cli::say::say;

/// How many SKUs there are beside the one that everybody wants.
const SKUS: u32 = 10_000;
/// How many connections at most find out what can be done.
const CAPACITY_CONNECTIONS: u32 = 256;
/// How long the server may take to open all connections.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(60);
/// Files that a process has open beside its connections.
const SPARE_FILES: u64 = 256;
/// What is answered when more waits than can be taken on.
const REFUSAL: u16 = 503;
const EXAMPLE_CHARS_MAX: usize = 300;

/// How to measure overload.
#[derive(Debug, Clone, clap::Args)]
pub struct OverloadOptions {
    /// How many times of what can be done is asked for; several are separated by commas.
    #[arg(long, value_name = "TIMES", default_value = "0.5,1,2,4", value_delimiter = ',',
        value_parser = times)]
    pub times: Vec<f64>,
    /// What is asked: reserve-hot, reserve-spread, reserve-batch or read.
    #[arg(long, value_name = "NAME", default_value = "reserve-hot", value_parser = single)]
    pub load: Load,
    /// The most connections; the server answers 8192 requests at once.
    #[arg(long, default_value_t = 9_216, value_parser = clap::value_parser!(u32).range(1..=16_384))]
    pub connections: u32,
    /// Seconds per measure.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub seconds: u32,
    /// Where to make the temporary data directory [default: the system's].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

impl OverloadOptions {
    fn capacity_connections(&self) -> u32 {
        self.load.connections(self.connections.min(CAPACITY_CONNECTIONS))
    }
}

fn times(word: &str) -> Result<f64, String> {
    let times = word.parse().ok().filter(|times| (0.1..=64.0).contains(times));
    times.ok_or_else(|| "must be a number from 0.1 to 64".to_owned())
}

/// Reads a load that is one request and leaves nothing to be ended.
fn single(word: &str) -> Result<Load, String> {
    let known = [Load::ReserveHot, Load::ReserveSpread, Load::ReserveBatch, Load::Read];
    let found = known.into_iter().find(|load| load.name() == word);
    found.ok_or_else(|| "must be reserve-hot, reserve-spread, reserve-batch or read".to_owned())
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverloadReport {
    /// What was asked.
    pub load: &'static str,
    /// Seconds per measure.
    pub seconds: u32,
    /// The most connections.
    pub connections: u32,
    /// How many requests the server answers at once.
    pub at_once_max: usize,
    /// Cores, shared by the server, the empty endpoint and the load generator.
    pub cores: usize,
    /// Whether the program was built with optimizations.
    pub optimized: bool,
    /// Requests per second over connections that wait for their answers.
    pub capacity: Figures,
    /// How many connections these were.
    pub capacity_connections: u32,
    /// One line for each multiple.
    pub rows: Vec<OverloadRow>,
    /// Why the figures do not count; empty = they do.
    pub failures: Vec<String>,
}

/// What one multiple of what can be done led to.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OverloadRow {
    /// The multiple.
    pub times: f64,
    /// Requests per second that were due.
    pub due_per_second: f64,
    /// Requests per second that the generator sent; fewer where it has no connection or time left.
    pub sent_per_second: f64,
    /// Requests that were done, by when they were answered.
    #[serde(flatten)]
    pub done: Figures,
    /// Done per second ÷ what can be done.
    pub to_capacity: f64,
    /// The slowest answer to what was done, in milliseconds.
    pub latest_ms: f64,
    /// How long the requests that are answered at once take at the rate at which they were done.
    pub bound_ms: f64,
    /// The one ÷ the other.
    pub latest_to_bound: f64,
    /// Requests that were refused, and how soon; none = nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Figures>,
    /// What the empty endpoint answers per second when it is asked for as much.
    pub floor_per_second: f64,
    /// Answers by status.
    pub statuses: BTreeMap<u16, u64>,
}

impl OverloadReport {
    /// Returns whether every answer was as wanted or a clear refusal, and nothing was done that
    /// was refused.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.failures.is_empty()
    }
}

impl Display for OverloadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load, seconds, connections, cores, at_once_max, .. } = self;
        writeln!(f, "{load}, {seconds} s per measure, {cores} cores shared with the generator")?;
        writeln!(f, "{connections} connections; the server answers {at_once_max} at once")?;
        if !self.optimized {
            writeln!(f, "this is a debug build: the figures say little")?;
        }
        let Figures { per_second, p50_ms, p99_ms } = self.capacity;
        let waiting = self.capacity_connections;
        writeln!(
            f,
            "what can be done: {per_second:.0} requests/s over {waiting} connections, \
             p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms"
        )?;
        writeln!(
            f,
            "{:>6}{:>10}{:>10}{:>10}{:>11}{:>10}{:>10}{:>11}{:>10}{:>12}{:>9}{:>12}{:>12}",
            "times",
            "due/s",
            "sent/s",
            "done/s",
            "÷ capacity",
            "p50 ms",
            "p99 ms",
            "latest ms",
            "bound ms",
            "refused/s",
            "p50 ms",
            "p99 ms",
            "empty/s"
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        writeln!(f)?;
        writeln!(f, "bound: what is answered at once ÷ done/s")?;
        self.failures.iter().try_for_each(|words| writeln!(f, "NOT VALID: {words}"))
    }
}

impl Display for OverloadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { times, due_per_second, sent_per_second, to_capacity, .. } = self;
        let Figures { per_second, p50_ms, p99_ms } = self.done;
        let Self { latest_ms, bound_ms, floor_per_second, .. } = self;
        write!(f, "{times:>6.1}{due_per_second:>10.0}{sent_per_second:>10.0}{per_second:>10.0}")?;
        write!(f, "{to_capacity:>11.2}{p50_ms:>10.2}{p99_ms:>10.2}{latest_ms:>11.1}")?;
        write!(f, "{bound_ms:>10.1}")?;
        match self.refused {
            None => write!(f, "{:>12}{:>9}{:>12}", 0, "", "")?,
            Some(Figures { per_second, p50_ms, p99_ms }) => {
                write!(f, "{per_second:>12.0}{p50_ms:>9.2}{p99_ms:>12.2}")?;
            }
        }
        write!(f, "{floor_per_second:>12.0}")
    }
}

/// Measures, and returns what was found.
///
/// # Errors
/// When something could not be started or broke off. Processes and files are gone either way.
pub async fn run(options: OverloadOptions) -> Result<OverloadReport, BenchError> {
    check_files(options.connections)?;
    // Declared first, dropped last: the processes are gone before their files are.
    let scratch = scratch_under(options.dir.as_deref())?;
    tokio::select! {
        report = Box::pin(measure_all(&options, &scratch)) => report,
        ended = interrupted() => Err(ended),
    }
}

/// Refuses to begin where this process may not open as many connections to the server and to the
/// empty endpoint.
fn check_files(connections: u32) -> Result<(), BenchError> {
    let path = PathBuf::from("/proc/self/limits");
    let text = fs::read_to_string(&path);
    let text = text.map_err(|source| BenchError::Dir { path, source })?;
    let needed = 2 * u64::from(connections) + SPARE_FILES;
    match files_max(&text) {
        Some(allowed) if allowed < needed => Err(BenchError::Files { needed, allowed }),
        Some(_) | None => Ok(()),
    }
}

/// Finds how many files may be open in what proc(5) says; `None` = as many as one likes.
fn files_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

async fn measure_all(
    options: &OverloadOptions,
    scratch: &Scratch,
) -> Result<OverloadReport, BenchError> {
    let stand = Stand::new(scratch, "data");
    let server = stand.serve(&[]).await?;
    let floor = Served::start("empty endpoint", &["bench-floor"], &[], scratch.path()).await?;
    let at = stand.target(&server, SKUS)?;
    let at_floor = Target { addr: floor.addr, ..at.clone() };
    let pool = |target| Pool { target, idle: Vec::new() };
    let (at, at_floor) = (pool(at), pool(at_floor));
    let mut overload = Overload { options, at, at_floor, done: 0, measures: 0, failures: vec![] };
    let result = overload.measure().await;
    floor.stop().await;
    let said = server.stop().await;
    if result.is_err() && !said.is_empty() {
        say(format_args!("the server said last:\n{said}"));
    }
    let (capacity, rows) = result?;
    Ok(OverloadReport {
        load: options.load.name(),
        seconds: options.seconds,
        connections: options.connections,
        at_once_max: REQUESTS_MAX,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        optimized: !cfg!(debug_assertions),
        capacity,
        capacity_connections: options.capacity_connections(),
        rows,
        failures: overload.failures,
    })
}

/// Whom to ask, and the connections to it. They are kept from measure to measure: closing
/// thousands of them is work for who is measured next.
struct Pool {
    target: Target,
    idle: Vec<Connection>,
}

/// A run under way.
struct Overload<'a> {
    options: &'a OverloadOptions,
    at: Pool,
    at_floor: Pool,
    /// Requests that were done, at any rate.
    done: u64,
    measures: u32,
    failures: Vec<String>,
}

impl Overload<'_> {
    async fn measure(&mut self) -> Result<(Figures, Vec<OverloadRow>), BenchError> {
        self.at.target.count_skus(0, SKUS, STOCK).await?;
        self.at.target.create_hot().await?;
        let capacity = self.capacity().await?;
        let mut rows = Vec::new();
        for times in &self.options.times {
            say(format_args!("{times} times of {:.0} requests per second", capacity.per_second));
            until_quiet(&self.at.target).await?;
            rows.push(self.row(*times, capacity.per_second).await?);
        }
        if self.options.load == Load::ReserveHot {
            self.failures.extend(self.at.target.check_hot(self.done).await?);
        }
        Ok((capacity, rows))
    }

    async fn capacity(&mut self) -> Result<Figures, BenchError> {
        let load = self.options.load;
        let connections = self.options.capacity_connections();
        self.measures += 1;
        let shape = Shape::new(connections, self.length(), self.measures);
        let failed = |source| BenchError::Load { name: load.name(), source };
        let outcome =
            load::run(load, slice::from_ref(&self.at.target), shape).await.map_err(failed)?;
        if outcome.tally.refused > 0 {
            let refused = outcome.tally.refused;
            let example = outcome.tally.example.as_deref().unwrap_or("nothing");
            self.failures.push(format!("{refused} refused before overload: {example}"));
        }
        let requests = outcome.tally.took.len();
        self.done += requests;
        let per_second = float(requests) / outcome.elapsed.as_secs_f64();
        Ok(Figures { per_second, ..Figures::of(&outcome) })
    }

    async fn row(&mut self, times: f64, capacity: f64) -> Result<OverloadRow, BenchError> {
        let due_per_second = (capacity * times).max(1.0);
        let floor = self.open_loop(Load::Floor, due_per_second).await?;
        let seen = self.open_loop(self.options.load, due_per_second).await?;
        self.done += seen.took.len();
        self.failures.extend(seen.failure(times));
        let seconds = self.length().as_secs_f64();
        let done = seen.figures(&seen.took, seen.done_in_time, seconds);
        let refused = seen.figures(&seen.refused, seen.refused.len(), seconds);
        let latest_ms = float(seen.took.max()) / 1e3;
        let at_once = u32::try_from(REQUESTS_MAX).map_or(f64::INFINITY, f64::from);
        let bound_ms = ratio(at_once * 1e3, done.per_second);
        Ok(OverloadRow {
            times,
            due_per_second,
            sent_per_second: float(seen.sent) / seconds,
            done,
            to_capacity: ratio(done.per_second, capacity),
            latest_ms,
            bound_ms,
            latest_to_bound: ratio(latest_ms, bound_ms),
            refused: (!seen.refused.is_empty()).then_some(refused),
            floor_per_second: float(floor.done_in_time) / seconds,
            statuses: seen.statuses,
        })
    }

    fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.options.seconds))
    }

    /// Asks at a steady rate, whatever becomes of the answers.
    async fn open_loop(&mut self, load: Load, per_second: f64) -> Result<Seen, BenchError> {
        self.measures += 1;
        let length = self.length();
        let pool = if load == Load::Floor { &mut self.at_floor } else { &mut self.at };
        let failed = |source| BenchError::Load { name: load.name(), source };
        let late = |_| failed(WireError::Malformed("it did not come in time"));
        let opening = open_more(&mut pool.idle, pool.target.addr, self.options.connections);
        timeout(OPEN_WAIT_MAX, opening).await.map_err(late)?.map_err(failed)?;
        let began = Instant::now();
        let pace = Pace { began, stop_at: began + length, per_second, next: 0.into() };
        let pace = Arc::new(pace);
        let mut callers = JoinSet::new();
        for (number, connection) in (0_u32..).zip(pool.idle.drain(..)) {
            let requests = Requests::new(load, &pool.target, self.measures, number);
            let caller = Caller { connection, requests, pace: pace.clone(), seen: Seen::new() };
            callers.spawn(caller.call());
        }
        let mut all = Seen::new();
        let ended = async {
            while let Some(ended) = callers.join_next().await {
                let (seen, connection) = ended.expect("a caller does not panic");
                all.add(seen);
                pool.idle.extend(connection);
            }
        };
        timeout_at(pace.stop_at + ANSWER_WAIT_MAX, ended).await.map_err(late)?;
        Ok(all)
    }
}

async fn open_more(
    idle: &mut Vec<Connection>,
    addr: SocketAddr,
    wanted: u32,
) -> Result<(), WireError> {
    let missing = usize_of(wanted).saturating_sub(idle.len());
    for _ in 0..missing {
        idle.push(Connection::open_answered(addr).await?);
    }
    Ok(())
}

/// When requests are due.
struct Pace {
    began: Instant,
    stop_at: Instant,
    per_second: f64,
    next: AtomicU64,
}

impl Pace {
    /// Returns when the next request is due; `None` when the time is up.
    fn next(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(float(number) / self.per_second);
        (due.max(Instant::now()) < self.stop_at).then_some(due)
    }
}

/// One connection, which takes what is due next whenever it is free.
struct Caller {
    connection: Connection,
    requests: Requests,
    pace: Arc<Pace>,
    seen: Seen,
}

impl Caller {
    /// Asks until the time is up; gives the connection back unless it broke.
    async fn call(mut self) -> (Seen, Option<Connection>) {
        while let Some(due) = self.pace.next() {
            sleep_until(due).await;
            let sent = Instant::now();
            let (request, wanted) = self.requests.next();
            self.seen.sent += 1;
            match self.connection.exchange(request).await {
                Ok(answer) => {
                    let now = Instant::now();
                    let took = now - sent;
                    *self.seen.statuses.entry(answer.status).or_default() += 1;
                    if answer.status == wanted {
                        note(&mut self.seen.took, took);
                        self.seen.done_in_time += u64::from(now < self.pace.stop_at);
                    } else if answer.status == REFUSAL && answer.has_retry_after {
                        note(&mut self.seen.refused, took);
                    } else {
                        self.seen.unclear(&String::from_utf8_lossy(answer.body));
                    }
                }
                Err(error) => {
                    self.seen.unclear(&error.to_string());
                    return (self.seen, None);
                }
            }
        }
        (self.seen, Some(self.connection))
    }
}

/// What became of requests.
struct Seen {
    sent: u64,
    /// Microseconds until what was done was answered.
    took: Histogram<u64>,
    /// Answers to what was done that came before the time was up.
    done_in_time: u64,
    /// Microseconds until a clear refusal.
    refused: Histogram<u64>,
    /// Answers that are neither, and requests without an answer.
    unclear: u64,
    example: Option<String>,
    statuses: BTreeMap<u16, u64>,
}

impl Seen {
    fn new() -> Self {
        Self {
            sent: 0,
            took: latencies(),
            done_in_time: 0,
            refused: latencies(),
            unclear: 0,
            example: None,
            statuses: BTreeMap::new(),
        }
    }

    fn unclear(&mut self, said: &str) {
        self.unclear += 1;
        self.example.get_or_insert_with(|| said.chars().take(EXAMPLE_CHARS_MAX).collect());
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.took.add(other.took).expect("it grows on its own");
        self.done_in_time += other.done_in_time;
        self.refused.add(other.refused).expect("it grows on its own");
        self.unclear += other.unclear;
        self.example = self.example.take().or(other.example);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }

    fn figures(&self, took: &Histogram<u64>, count: u64, seconds: f64) -> Figures {
        Figures { per_second: float(count) / seconds, ..Figures::of_latencies(took) }
    }

    /// Returns why a line does not count, if it does not.
    fn failure(&self, times: f64) -> Option<String> {
        let (unclear, statuses) = (self.unclear, &self.statuses);
        let example = self.example.as_deref().unwrap_or("nothing");
        (unclear > 0).then(|| {
            format!(
                "{times} times: {unclear} neither done nor clearly refused, statuses {statuses:?}; \
                 the first said {example}"
            )
        })
    }
}

/// Counts of a measure are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "they are far below 2^52")]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit          Soft Limit   Hard Limit   Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(files_max(limits), Some(1_024));
        assert_eq!(files_max("Max open files  unlimited unlimited files\n"), None);
    }

    #[test]
    fn requests_are_due_at_a_steady_rate_until_the_time_is_up() {
        let began = Instant::now() + Duration::from_secs(3_600);
        let stop_at = began + Duration::from_secs(1);
        let pace = Pace { began, stop_at, per_second: 4.0, next: 0.into() };
        let due: Vec<u128> = std::iter::from_fn(|| pace.next())
            .take(9)
            .map(|due| (due - began).as_millis())
            .collect();
        assert_eq!(due, [0, 250, 500, 750]);
    }

    /// Serves one connection, answering each request with the next of these.
    async fn answering(heads: &'static [&'static str]) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            for head in heads {
                assert!(stream.read(&mut request).await.unwrap() > 0);
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_refusal_is_clear_when_it_says_when_to_come_back() {
        const REFUSED: &str = "503 \r\nretry-after: 1";
        let addr = answering(&["201 ", REFUSED, "503 ", REFUSED, "409 "]).await;
        let target = Target { addr, token: "T".to_owned(), skus: 1, keyed: false };
        let began = Instant::now();
        let stop_at = began + Duration::from_secs(3_600);
        let pace = Arc::new(Pace { began, stop_at, per_second: 1_000.0, next: 0.into() });
        let connection = Connection::open(addr).await.unwrap();
        let requests = Requests::new(Load::ReserveHot, &target, 1, 0);
        let caller = Caller { connection, requests, pace, seen: Seen::new() };
        let (seen, connection) = caller.call().await;
        assert!(connection.is_none(), "it was closed after five answers");
        let counts = (seen.sent, seen.took.len(), seen.refused.len(), seen.unclear);
        assert_eq!(counts, (6, 1, 2, 3));
        assert_eq!(seen.statuses, BTreeMap::from([(201, 1), (409, 1), (503, 3)]));
        assert!(seen.failure(2.0).unwrap().starts_with("2 times: 3 neither done nor"));
        assert!(Seen::new().failure(2.0).is_none());
    }

    #[test]
    fn only_loads_of_one_request_are_offered() {
        assert_eq!(single("read"), Ok(Load::Read));
        assert!(single("reserve-commit").is_err());
        for word in ["0", "-1", "65", "x", "NaN"] {
            assert!(times(word).is_err(), "{word}");
        }
        assert_eq!(times("2.5"), Ok(2.5));
    }
}
