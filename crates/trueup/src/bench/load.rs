//! The loads: what is asked over and over, and what came of it.
//!
//! Cost per request here: one formatted body in a reused buffer, one write, one or two reads,
//! one histogram entry; no allocation but for the first few.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::client::{Connection, WireError};
use super::floor::FLOOR_PATH;
use super::{HOLD_SECONDS, HOT_SKU, ORG, STOCK, sku_name};

/// Reservations in one request of the batch load.
pub(super) const BATCH_RESERVATIONS: u64 = 1_000;
/// Connections of the batch load.
const BATCH_CONNECTIONS: u32 = 16;
/// The most reservations that a connection keeps to end them later.
const HELD_MAX: usize = 1_024;
/// The most requests of one connection in one measure.
const REQUESTS_MAX: u64 = 50_000_000;
/// How long the last answers of a measure, or all connections, may take.
pub(super) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// How much of a refusal is shown.
const EXAMPLE_CHARS_MAX: usize = 300;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Load {
    /// Nothing: the empty endpoint, with the body of a reserve request.
    #[value(skip)]
    Floor,
    /// One unit of a random SKU.
    ReserveSpread,
    /// One unit of always the same SKU.
    ReserveHot,
    /// One unit of a random SKU, and then its commit.
    ReserveCommit,
    /// 1000 reservations in a request, each of a random SKU.
    ReserveBatch,
    /// The level of a random SKU.
    Read,
    /// Reads, reserves, commits, releases and counts, blended as a shop does.
    Mixed,
}

impl Load {
    /// Every load of the server, in the order of the report.
    pub(super) const ALL: [Self; 6] = [
        Self::ReserveSpread,
        Self::ReserveHot,
        Self::ReserveCommit,
        Self::ReserveBatch,
        Self::Read,
        Self::Mixed,
    ];

    /// Returns its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "empty endpoint",
            Self::ReserveSpread => "reserve-spread",
            Self::ReserveHot => "reserve-hot",
            Self::ReserveCommit => "reserve-commit",
            Self::ReserveBatch => "reserve-batch",
            Self::Read => "read",
            Self::Mixed => "mixed",
        }
    }

    /// Returns what is counted per second.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Floor | Self::Read | Self::Mixed => "requests",
            Self::ReserveSpread | Self::ReserveHot | Self::ReserveBatch => "reservations",
            Self::ReserveCommit => "pairs",
        }
    }

    /// Returns how many connections it uses when so many are wanted.
    pub(super) fn connections(self, wanted: u32) -> u32 {
        match self {
            Self::ReserveBatch => BATCH_CONNECTIONS,
            Self::Floor
            | Self::ReserveSpread
            | Self::ReserveHot
            | Self::ReserveCommit
            | Self::Read
            | Self::Mixed => wanted,
        }
    }

    /// Returns the request that a unit of it begins with.
    fn step(self, chance: &mut SmallRng) -> Step {
        match self {
            Self::Floor => Step::Empty,
            Self::ReserveSpread | Self::ReserveCommit => Step::Reserve,
            Self::ReserveHot => Step::ReserveHot,
            Self::ReserveBatch => Step::Batch,
            Self::Read => Step::Read,
            Self::Mixed => mixed(chance.random_range(0..100)),
        }
    }

    /// Returns whether its reservations are ended by the connection that made them.
    fn ends_holds(self) -> bool {
        matches!(self, Self::ReserveCommit | Self::Mixed)
    }
}

/// One request of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing, of the empty endpoint.
    Empty,
    Reserve,
    ReserveHot,
    Batch,
    Read,
    /// Sells what this connection holds.
    Commit,
    /// Gives back what this connection holds.
    Release,
    /// Counts a random SKU.
    Count,
}

impl Step {
    /// Returns the only status that it may be answered with. Order ids are unique, so that a
    /// reserve that is not 201 was not a new hold.
    fn status_wanted(self) -> u16 {
        match self {
            Self::Empty | Self::Reserve | Self::ReserveHot => 201,
            Self::Batch | Self::Read | Self::Commit | Self::Release | Self::Count => 200,
        }
    }
}

/// Returns the request of the blend for a percentile: of 100 requests, 60 read, 20 reserve, 10
/// commit, 7 release and 3 count.
fn mixed(percentile: u32) -> Step {
    match percentile {
        0..60 => Step::Read,
        60..80 => Step::Reserve,
        80..90 => Step::Commit,
        90..97 => Step::Release,
        _ => Step::Count,
    }
}

/// Whom to ask, and how.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) addr: SocketAddr,
    /// The bearer token.
    pub(super) token: String,
    /// How many SKUs there are.
    pub(super) skus: u32,
    /// Whether every order carries an idempotency key.
    pub(super) keyed: bool,
}

/// How long and with how many connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) connections: u32,
    pub(super) length: Duration,
    /// Tells this measure's order ids from every other's of the run.
    pub(super) measure: u32,
    /// The most requests of one connection.
    pub(super) requests_max: u64,
}

impl Shape {
    /// As many requests as fit into the time.
    pub(super) fn new(connections: u32, length: Duration, measure: u32) -> Self {
        Self { connections, length, measure, requests_max: REQUESTS_MAX }
    }
}

/// What came of a measure.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) elapsed: Duration,
}

/// Counts of a measure.
pub(super) struct Tally {
    /// Units that were done as asked.
    pub(super) done: u64,
    /// Answers by status.
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Answers with another status than the one wanted, and refusals inside a batch.
    pub(super) refused: u64,
    /// What the first refusal said.
    pub(super) example: Option<String>,
    /// Microseconds per unit of work (a request, or a pair).
    pub(super) took: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        let (statuses, took) = (BTreeMap::new(), latencies());
        Self { done: 0, statuses, refused: 0, example: None, took }
    }

    /// Counts an answer; returns whether it is the one wanted.
    fn count(&mut self, status: u16, wanted: u16, body: &[u8]) -> bool {
        *self.statuses.entry(status).or_default() += 1;
        if status != wanted {
            self.refuse(1, body);
        }
        status == wanted
    }

    fn refuse(&mut self, count: u64, body: &[u8]) {
        self.refused += count;
        self.example.get_or_insert_with(|| {
            String::from_utf8_lossy(body).chars().take(EXAMPLE_CHARS_MAX).collect()
        });
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.refused += other.refused;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.example = self.example.take().or(other.example);
        self.took.add(other.took).expect("it grows on its own");
    }
}

/// Makes a histogram of microseconds, to three figures.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new(3).expect("three figures are allowed")
}

/// Notes how long something took.
pub(super) fn note(took: &mut Histogram<u64>, elapsed: Duration) {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX / 2);
    took.record(micros).expect("it grows on its own");
}

/// Asks over all connections for as long as the shape says, and counts what came of it. The
/// connections go to the targets in turn.
pub(super) async fn run(
    load: Load,
    targets: &[Target],
    shape: Shape,
) -> Result<Outcome, WireError> {
    let late = |_| WireError::Malformed("it did not come in time");
    let mut connections = Vec::new();
    for (_, target) in (0..shape.connections).zip(targets.iter().cycle()) {
        let opened = timeout(ANSWER_WAIT_MAX, Connection::open_answered(target.addr)).await;
        connections.push((target, opened.map_err(late)??));
    }
    let began = Instant::now();
    let stop_at = began + shape.length;
    let mut workers = JoinSet::new();
    for (number, (target, connection)) in (0_u32..).zip(connections) {
        let requests = Requests::new(load, target, shape.measure, number);
        let worker = Worker { load, connection, requests, tally: Tally::new() };
        workers.spawn(worker.work(stop_at, shape.requests_max));
    }
    // Dropping the set on an early return aborts the other workers.
    let mut tally = Tally::new();
    let all = async {
        while let Some(ended) = workers.join_next().await {
            tally.add(ended.expect("a worker does not panic and is not aborted")?);
        }
        Ok::<(), WireError>(())
    };
    timeout_at(stop_at + ANSWER_WAIT_MAX, all).await.map_err(late)??;
    Ok(Outcome { tally, elapsed: began.elapsed() })
}

/// One connection at work.
struct Worker {
    load: Load,
    connection: Connection,
    requests: Requests,
    tally: Tally,
}

impl Worker {
    /// Asks until the time is up; what was asked is always waited for, so that every
    /// acknowledgement is counted.
    async fn work(mut self, stop_at: Instant, requests_max: u64) -> Result<Tally, WireError> {
        let mut before = Instant::now();
        for _ in 0..requests_max {
            if before >= stop_at {
                break;
            }
            self.ask_once().await?;
            let after = Instant::now();
            note(&mut self.tally.took, after - before);
            before = after;
        }
        Ok(self.tally)
    }

    async fn ask_once(&mut self) -> Result<(), WireError> {
        let step = self.requests.draw();
        let mut done = self.ask(step).await?;
        if self.load == Load::ReserveCommit && done > 0 {
            done = self.ask(Step::Commit).await?;
        }
        self.tally.done += done;
        Ok(())
    }

    /// Asks once and returns how many units that did.
    async fn ask(&mut self, step: Step) -> Result<u64, WireError> {
        let Self { load, connection, requests, tally } = self;
        let answer = connection.exchange(requests.write(step)).await?;
        if !tally.count(answer.status, step.status_wanted(), answer.body) {
            return Ok(0);
        }
        match step {
            Step::Batch => {
                let held = held_in(answer.body);
                if held != BATCH_RESERVATIONS {
                    tally.refuse(BATCH_RESERVATIONS.abs_diff(held), answer.body);
                }
                return Ok(held);
            }
            Step::Reserve if load.ends_holds() => {
                let id = reservation_id(answer.body)
                    .ok_or(WireError::Malformed("there is no reservationId"))?;
                requests.hold(id);
            }
            Step::Empty
            | Step::Reserve
            | Step::ReserveHot
            | Step::Read
            | Step::Commit
            | Step::Release
            | Step::Count => {}
        }
        Ok(1)
    }
}

/// Finds the id in the answer to a reserve request without parsing the rest.
fn reservation_id(body: &[u8]) -> Option<&str> {
    let (_, rest) = std::str::from_utf8(body).ok()?.split_once("\"reservationId\":\"")?;
    rest.split_once('"').map(|(id, _)| id)
}

/// Counts the holds in the answer to a batch: a 200 may have refusals inside.
fn held_in(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).unwrap_or_default();
    u64::try_from(text.matches("\"status\":\"active\"").count()).unwrap_or(u64::MAX)
}

/// Writes requests into one buffer.
pub(super) struct Requests {
    load: Load,
    /// The headers that all requests share.
    headers: String,
    keyed: bool,
    skus: u32,
    chance: SmallRng,
    /// What the order ids of this connection begin with.
    prefix: String,
    orders: u64,
    /// Requests so far, to keep keys unique.
    sent: u64,
    /// Reservations of this connection that it may still end.
    held: Vec<String>,
    body: Vec<u8>,
    request: Vec<u8>,
}

const WRITES: &str = "a Vec takes every byte";

impl Requests {
    pub(super) fn new(load: Load, target: &Target, measure: u32, connection: u32) -> Self {
        let headers = format!(
            "host: {}\r\nauthorization: Bearer {}\r\norgid: {ORG}\r\n",
            target.addr, target.token
        );
        Self {
            load,
            headers,
            keyed: target.keyed,
            skus: target.skus,
            chance: SmallRng::seed_from_u64(u64::from(measure) << 32 | u64::from(connection)),
            prefix: format!("b{measure:05}-{connection:04}"),
            orders: 0,
            sent: 0,
            held: Vec::new(),
            body: Vec::new(),
            request: Vec::new(),
        }
    }

    /// Returns the next request and the only status that it may be answered with.
    pub(super) fn next(&mut self) -> (&[u8], u16) {
        let step = self.draw();
        (self.write(step), step.status_wanted())
    }

    /// Decides what is asked next. Where nothing is held that could be ended, more is held.
    fn draw(&mut self) -> Step {
        match self.load.step(&mut self.chance) {
            Step::Commit | Step::Release if self.held.is_empty() => Step::Reserve,
            step => step,
        }
    }

    /// Keeps a reservation to be ended later, unless very many are kept.
    fn hold(&mut self, id: &str) {
        if self.held.len() < HELD_MAX {
            self.held.push(id.to_owned());
        }
    }

    /// Returns the next request of a kind.
    fn write(&mut self, step: Step) -> &[u8] {
        self.body.clear();
        match step {
            Step::Empty => {
                self.order_of_any();
                self.post(FLOOR_PATH)
            }
            Step::Reserve => {
                self.order_of_any();
                self.post("/sales-channel/inventory/reserve")
            }
            Step::ReserveHot => {
                self.order_of(HOT_SKU);
                self.post("/sales-channel/inventory/reserve")
            }
            Step::Batch => {
                self.batch();
                self.post("/sales-channel/inventory/reserve/batch")
            }
            Step::Read => self.get(),
            Step::Commit => self.end("commit"),
            Step::Release => self.end("release"),
            Step::Count => self.count(),
        }
    }

    /// Ends one of the reservations that are held, whichever chance picks.
    fn end(&mut self, verb: &str) -> &[u8] {
        let index = self.chance.random_range(0..self.held.len());
        let id = self.held.swap_remove(index);
        self.body.extend_from_slice(b"{}");
        self.post(&format!("/sales-channel/inventory/reservation/{id}/{verb}"))
    }

    fn count(&mut self) -> &[u8] {
        let sku = sku_name(self.chance.random_range(0..self.skus));
        write!(self.body, r#"{{"quantity":{STOCK},"reason":"count"}}"#).expect(WRITES);
        self.send("PUT", &format!("/sales-channel/inventory/{sku}"))
    }

    fn batch(&mut self) {
        self.body.extend_from_slice(b"{\"reservations\":[");
        for index in 0..BATCH_RESERVATIONS {
            if index > 0 {
                self.body.push(b',');
            }
            self.order_of_any();
        }
        self.body.extend_from_slice(b"]}");
    }

    fn order_of_any(&mut self) {
        let sku = sku_name(self.chance.random_range(0..self.skus));
        self.order_of(&sku);
    }

    fn order_of(&mut self, sku: &str) {
        self.orders += 1;
        write!(
            self.body,
            r#"{{"items":[{{"sku":"{sku}","quantity":1}}],"orderId":"{}-{:08}","ttlSeconds":{}}}"#,
            self.prefix, self.orders, HOLD_SECONDS,
        )
        .expect(WRITES);
    }

    fn post(&mut self, path: &str) -> &[u8] {
        self.send("POST", path)
    }

    fn send(&mut self, method: &str, path: &str) -> &[u8] {
        self.request.clear();
        write!(self.request, "{method} {path} HTTP/1.1\r\n{}", self.headers).expect(WRITES);
        if self.keyed {
            self.sent += 1;
            let (prefix, sent) = (&self.prefix, self.sent);
            write!(self.request, "idempotency-key: {prefix}-{sent:08}\r\n").expect(WRITES);
        }
        let length = self.body.len();
        write!(self.request, "content-type: application/json\r\ncontent-length: {length}\r\n\r\n")
            .expect(WRITES);
        self.request.extend_from_slice(&self.body);
        &self.request
    }

    fn get(&mut self) -> &[u8] {
        let sku = sku_name(self.chance.random_range(0..self.skus));
        self.request.clear();
        let headers = &self.headers;
        let path = "/sales-channel/inventory";
        write!(self.request, "GET {path}/{sku} HTTP/1.1\r\n{headers}\r\n").expect(WRITES);
        &self.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(load: Load) -> Requests {
        let addr = "127.0.0.1:9".parse().unwrap();
        let target = Target { addr, token: "T".to_owned(), skus: 5, keyed: true };
        Requests::new(load, &target, 7, 3)
    }

    #[test]
    fn a_request_says_how_long_its_body_is() {
        let mut requests = requests(Load::ReserveHot);
        let text = String::from_utf8(requests.next().0.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let lines: Vec<&str> = head.lines().collect();
        assert_eq!(lines[0], "POST /sales-channel/inventory/reserve HTTP/1.1");
        let length = format!("content-length: {}", body.len());
        assert!(lines.contains(&length.as_str()), "{head}");
        assert!(lines.contains(&"authorization: Bearer T"), "{head}");
        assert!(lines.contains(&"orgid: bench"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["items"][0]["sku"], "BENCH-HOT-SKU");
        assert_eq!(body["items"][0]["quantity"], 1);
    }

    #[test]
    fn a_batch_holds_different_orders() {
        let mut requests = requests(Load::ReserveBatch);
        let text = String::from_utf8(requests.next().0.to_vec()).unwrap();
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let orders = body["reservations"].as_array().unwrap();
        assert_eq!(orders.len(), 1_000);
        assert_ne!(orders[0]["orderId"], orders[999]["orderId"]);
    }

    #[test]
    fn the_blend_ends_what_it_holds_and_nothing_twice() {
        let mut requests = requests(Load::Mixed);
        let (mut made, mut ended, mut counted) = (0, Vec::new(), 0);
        for number in 0..10_000 {
            let step = requests.draw();
            let text = String::from_utf8(requests.write(step).to_vec()).unwrap();
            let path = text.split(' ').nth(1).unwrap().to_owned();
            match step {
                Step::Reserve => {
                    made += 1;
                    requests.hold(&format!("rsv_{number}"));
                }
                Step::Commit | Step::Release => ended.push(path),
                Step::Count => counted += 1,
                _ => assert_eq!(step, Step::Read),
            }
        }
        let paths: std::collections::BTreeSet<String> =
            ended.iter().map(|path| path.rsplit_once('/').unwrap().0.to_owned()).collect();
        assert_eq!(paths.len(), ended.len(), "each is ended once");
        assert!((1_900..2_200).contains(&made), "{made} of 10 000 reserve");
        assert!((1_550..1_850).contains(&ended.len()), "{} of 10 000 end one", ended.len());
        assert!((200..400).contains(&counted), "{counted} of 10 000 count");
    }

    #[test]
    fn refusals_inside_a_batch_are_not_counted_as_holds() {
        let body = br#"{"results":[{"status":201,"reservation":{"status":"active"}},
            {"status":409,"error":{"code":"insufficient_stock"}}]}"#;
        assert_eq!(held_in(body), 1);
        assert_eq!(reservation_id(br#"{"reservationId":"rsv_1","orderId":"x"}"#), Some("rsv_1"));
        assert_eq!(reservation_id(br#"{"code":"x"}"#), None);
    }

    #[test]
    fn another_status_than_the_one_wanted_is_a_refusal() {
        let mut tally = Tally::new();
        assert!(tally.count(201, 201, b""));
        assert!(!tally.count(200, 201, b"unchanged"));
        assert!(!tally.count(503, 201, b"overloaded"));
        let mut all = Tally::new();
        all.add(tally);
        assert_eq!((all.refused, all.example.as_deref()), (2, Some("unchanged")));
        assert_eq!(all.statuses, BTreeMap::from([(200, 1), (201, 1), (503, 1)]));
    }
}
