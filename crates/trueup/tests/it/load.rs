//! Load from outside whose every acknowledged operation is remembered, and the comparison of all of
//! it with what a server has.
//!
//! A buyer asks each thing under an idempotency key of its own. What was not answered is asked again
//! with the same key, of whichever server is there by then, so that in the end every outcome is
//! known and numbers can be compared exactly.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::process::Client;

/// The SKUs: the first has little stock, so that buyers fight for it.
const SKUS: [&str; 5] = ["HOT", "A", "B", "C", "D"];
const SCARCE: i64 = 50;
const PLENTY: i64 = 10_000_000;
/// The most reservations that a buyer holds at a time.
const HELD_MAX: usize = 20;

/// What became of a reservation, as far as a buyer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Held,
    Sold,
    Released,
}

impl Fate {
    fn status(self) -> &'static str {
        match self {
            Self::Held => "active",
            Self::Sold => "committed",
            Self::Released => "released",
        }
    }
}

#[derive(Debug, Clone)]
struct Bought {
    sku: &'static str,
    units: i64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sums {
    on_hand: i64,
    reserved: i64,
}

/// Everything that was acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    bought: BTreeMap<String, Bought>,
    /// Units that were added to SKUs.
    added: BTreeMap<&'static str, i64>,
    /// The newest version of SKUs that an answer named.
    versions: BTreeMap<&'static str, u64>,
    /// Reservations that were told since the last look.
    news: Vec<String>,
    /// Answers that make no sense.
    faults: Vec<String>,
    acknowledged: u64,
}

impl Memory {
    /// Returns how many operations were acknowledged.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn note(&mut self, ask: &Ask, status: u16, answer: &Value) -> Option<String> {
        self.acknowledged += 1;
        match (&ask.what, status) {
            (What::Reserve { sku, units }, 201) => {
                let id = answer["reservationId"].as_str().unwrap_or_default().to_owned();
                let bought = Bought { sku, units: *units, fate: Fate::Held };
                if self.bought.insert(id.clone(), bought).is_some() {
                    self.faults.push(format!("{id} was given twice"));
                }
                self.news.push(id.clone());
                return Some(id);
            }
            (What::Reserve { sku, .. }, 409) if answer["code"] == "insufficient_stock" => {
                if *sku != SKUS[0] {
                    self.faults.push(format!("there is enough of {sku}: {answer}"));
                }
            }
            (What::End { id, fate }, 200) => {
                if let Some(bought) = self.bought.get_mut(id) {
                    bought.fate = *fate;
                }
                self.news.push(id.clone());
            }
            (What::Add { sku, units }, 200) => {
                *self.added.entry(*sku).or_default() += units;
                let version = answer["version"].as_u64().unwrap_or_default();
                let newest = self.versions.entry(*sku).or_default();
                *newest = (*newest).max(version);
            }
            _ => self.faults.push(format!("{ask:?} was answered {status} {answer}")),
        }
        None
    }

    fn sums(&self) -> BTreeMap<&'static str, Sums> {
        let stock = |sku: &&'static str| {
            let on_hand = stock_of(sku) + self.added.get(sku).copied().unwrap_or_default();
            (*sku, Sums { on_hand, reserved: 0 })
        };
        let mut sums: BTreeMap<_, _> = SKUS.iter().map(stock).collect();
        for Bought { sku, units, fate } in self.bought.values() {
            let sums = sums.entry(sku).or_default();
            match fate {
                Fate::Held => sums.reserved += units,
                Fate::Sold => sums.on_hand -= units,
                Fate::Released => {}
            }
        }
        sums
    }
}

fn stock_of(sku: &str) -> i64 {
    if sku == SKUS[0] { SCARCE } else { PLENTY }
}

#[derive(Debug, Clone)]
enum What {
    Reserve { sku: &'static str, units: i64 },
    End { id: String, fate: Fate },
    Add { sku: &'static str, units: i64 },
}

/// What is asked until it is answered.
#[derive(Debug, Clone)]
struct Ask {
    key: String,
    what: What,
}

impl Ask {
    fn path(&self) -> String {
        match &self.what {
            What::Reserve { .. } => "/inventory/reserve".to_owned(),
            What::End { id, fate } => {
                let verb = if *fate == Fate::Sold { "commit" } else { "release" };
                format!("/inventory/reservation/{id}/{verb}")
            }
            What::Add { sku, .. } => format!("/inventory/{sku}/adjust"),
        }
    }

    fn body(&self) -> Option<Value> {
        match &self.what {
            What::Reserve { sku, units } => Some(json!({
                "items": [{ "sku": sku, "quantity": units }],
                "orderId": format!("order-{}", self.key),
                "ttlSeconds": 604_800,
            })),
            What::End { .. } => None,
            What::Add { units, .. } => Some(json!({ "delta": units, "reason": "found" })),
        }
    }
}

struct Buyer {
    number: u64,
    asked: u64,
    chance: StdRng,
    held: Vec<String>,
    waiting: Option<Ask>,
}

impl Buyer {
    fn new(number: u64) -> Self {
        let chance = StdRng::seed_from_u64(number);
        Self { number, asked: 0, chance, held: Vec::new(), waiting: None }
    }

    fn next(&mut self) -> Ask {
        self.asked += 1;
        let key = format!("{}-{}", self.number, self.asked);
        let sku = SKUS[self.chance.random_range(0..SKUS.len())];
        let units = self.chance.random_range(1..=3);
        let dice: u32 = self.chance.random_range(0..100);
        let is_full = self.held.len() >= HELD_MAX;
        let what = if dice < 10 {
            What::Add { sku, units }
        } else if is_full || (dice < 50 && !self.held.is_empty()) {
            let at = self.chance.random_range(0..self.held.len());
            let fate = if dice.is_multiple_of(2) { Fate::Sold } else { Fate::Released };
            What::End { id: self.held.swap_remove(at), fate }
        } else {
            What::Reserve { sku, units }
        };
        Ask { key, what }
    }

    /// Asks what waits for an answer, or the next thing; returns whether it was answered.
    async fn step(&mut self, client: &Client, memory: &Mutex<Memory>) -> bool {
        let ask = self.waiting.take().unwrap_or_else(|| self.next());
        let answer = client.call_as(Some(&ask.key), "POST", &ask.path(), ask.body()).await;
        match answer {
            Some((status, answer)) if status < 500 => {
                let held = memory.lock().note(&ask, status, &answer);
                self.held.extend(held);
                true
            }
            Some(_) | None => {
                self.waiting = Some(ask);
                false
            }
        }
    }
}

/// Some buyers and what they were told.
pub(crate) struct Load {
    buyers: Vec<Buyer>,
    pub(crate) memory: Arc<Mutex<Memory>>,
    acknowledged: watch::Sender<u64>,
}

/// Buyers at work.
pub(crate) struct Working {
    tasks: Vec<tokio::task::JoinHandle<Buyer>>,
    acknowledged: watch::Receiver<u64>,
}

impl Working {
    /// Waits until so many operations were acknowledged in all, or nobody works any more.
    pub(crate) async fn until(&mut self, acknowledged: u64) {
        let Self { tasks, acknowledged: heard } = self;
        while *heard.borrow_and_update() < acknowledged
            && !tasks.iter().all(tokio::task::JoinHandle::is_finished)
        {
            let pause = std::time::Duration::from_millis(50);
            // What matters is the count; the pause is for the case that all have stopped.
            drop(tokio::time::timeout(pause, heard.changed()).await);
        }
    }
}

impl Load {
    pub(crate) fn new(buyers: u64) -> Self {
        let buyers = (0..buyers).map(Buyer::new).collect();
        Self { buyers, memory: Arc::default(), acknowledged: watch::channel(0).0 }
    }

    /// Puts the stock there that is fought for.
    pub(crate) async fn stock(&self, client: &Client) {
        for sku in SKUS {
            let body = json!({ "quantity": stock_of(sku) });
            client.must("PUT", &format!("/inventory/{sku}"), Some(body)).await;
        }
    }

    /// Sets all buyers to work until one of their requests is not answered.
    pub(crate) fn begin(&mut self, client: &Client) -> Working {
        let heard = self.acknowledged.subscribe();
        let work = |mut buyer: Buyer| {
            let (client, memory) = (client.clone(), self.memory.clone());
            let counter = self.acknowledged.clone();
            tokio::spawn(async move {
                while buyer.step(&client, &memory).await {
                    counter.send_modify(|count| *count += 1);
                }
                buyer
            })
        };
        let tasks = self.buyers.drain(..).map(work).collect();
        Working { tasks, acknowledged: heard }
    }

    /// Waits until nobody works any more: the server has gone, or acknowledges nothing.
    pub(crate) async fn end(&mut self, working: Working) {
        for task in working.tasks {
            self.buyers.push(task.await.unwrap());
        }
    }

    /// Asks once more what was not answered; returns how much still is not.
    pub(crate) async fn ask_again(&mut self, client: &Client) -> usize {
        let mut unanswered = 0;
        for buyer in self.buyers.iter_mut().filter(|buyer| buyer.waiting.is_some()) {
            if buyer.step(client, &self.memory).await {
                self.acknowledged.send_modify(|count| *count += 1);
            } else {
                unanswered += 1;
            }
        }
        unanswered
    }

    /// Says where SKUs' numbers are not what was acknowledged.
    pub(crate) async fn compare_numbers(&self, client: &Client) -> Vec<String> {
        let sums = self.memory.lock().sums();
        let mut wrong = Vec::new();
        for (sku, expected) in sums {
            let Some((200, found)) = client.call("GET", &format!("/inventory/{sku}"), None).await
            else {
                wrong.push(format!("{sku} is not told"));
                continue;
            };
            let number = |name: &str| found[name].as_i64().unwrap_or(i64::MIN);
            let found = Sums { on_hand: number("quantity"), reserved: number("reserved") };
            if found != expected {
                wrong.push(format!("{sku}: {found:?}, {expected:?} was acknowledged"));
            }
            if found.reserved > found.on_hand {
                wrong.push(format!("{sku} is oversold: {found:?}"));
            }
        }
        wrong
    }

    /// Says where the server has other than what was acknowledged since the last look, or at all.
    pub(crate) async fn compare(&self, client: &Client, all: bool) -> Vec<String> {
        let mut wrong = self.compare_numbers(client).await;
        let (news, faults) = {
            let mut memory = self.memory.lock();
            (std::mem::take(&mut memory.news), std::mem::take(&mut memory.faults))
        };
        wrong.extend(faults);
        let expected: BTreeMap<String, &'static str> = {
            let bought = &self.memory.lock().bought;
            let status = |id: &String| bought.get(id).map(|bought| bought.fate.status());
            match all {
                true => bought.iter().map(|(id, b)| (id.clone(), b.fate.status())).collect(),
                false => {
                    news.into_iter().filter_map(|id| Some((id.clone(), status(&id)?))).collect()
                }
            }
        };
        if !all {
            for (id, status) in &expected {
                let found = client.call("GET", &format!("/inventory/reservation/{id}"), None).await;
                let found = found.map(|(_, answer)| answer["status"].clone());
                if found.as_ref().and_then(Value::as_str) != Some(status) {
                    wrong.push(format!("{id} was told to be {status} and is {found:?}"));
                }
            }
            return wrong;
        }
        let found = statuses(client).await;
        for (id, status) in &expected {
            if found.get(id).map(String::as_str) != Some(status) {
                wrong.push(format!("{id} was told to be {status} and is {:?}", found.get(id)));
            }
        }
        for (id, status) in found.iter().filter(|(id, _)| !expected.contains_key(*id)) {
            wrong.push(format!("nobody was told of {id}, which is {status}"));
        }
        wrong
    }
}

/// Says what of an earlier state of the memory a server lacks that went on after it.
pub(crate) async fn lacks(memory: &Memory, client: &Client) -> Vec<String> {
    let found = statuses(client).await;
    let mut wrong = Vec::new();
    for (id, bought) in &memory.bought {
        let status = found.get(id).map(String::as_str);
        let fits = match bought.fate {
            Fate::Held => matches!(status, Some("active" | "committed" | "released")),
            Fate::Sold | Fate::Released => status == Some(bought.fate.status()),
        };
        if !fits {
            wrong.push(format!("{id} was {:?} and is {status:?}", bought.fate));
        }
    }
    for (sku, version) in &memory.versions {
        let now = client.must("GET", &format!("/inventory/{sku}"), None).await;
        if now["version"].as_u64() < Some(*version) {
            wrong.push(format!("{sku} was at version {version}: {now}"));
        }
    }
    wrong
}

/// Lists all reservations with what they are.
async fn statuses(client: &Client) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/inventory/reservations?limit=1000{cursor}");
        let page = client.must("GET", &path, None).await;
        for item in page["items"].as_array().unwrap() {
            let text = |field: &str| item[field].as_str().unwrap().to_owned();
            found.insert(text("reservationId"), text("status"));
        }
        match &page["nextCursor"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            _ => return found,
        }
    }
}
