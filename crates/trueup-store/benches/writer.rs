//! What a reservation costs the embedded store, without HTTP around it.
//!
//! ```text
//! cargo bench -p trueup-store -- [in flight] [SKUs] [reservations] [keyed | batch | pairs]
//! ```
//!
//! Prints reservations per second and the processor time of the writer's thread for each. Numbers
//! of one machine at one time: compare two builds in turns, never across days.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench that cannot go on stops")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use trueup_core::{
    Answer, Command, Item, Location, OrderId, Org, Quantity, ReservationId, Reserve, SetOnHand,
    Sku, SkuSettings, Source, Timestamp,
};
use trueup_store::embedded::Embedded;
use trueup_store::{Idempotency, Outcome, RecordedAnswer, Store, Submission};

/// How many reservations one command of `batch` makes.
const BATCH: u64 = 1_000;

struct Options {
    in_flight: u64,
    skus: u64,
    reservations: u64,
    way: Way,
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Plain,
    Keyed,
    Batch,
    Pairs,
}

fn options() -> Options {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |at: usize, default: u64| {
        words.get(at).map_or(default, |word| word.parse().expect("a number"))
    };
    let way = match words.get(3).map(String::as_str) {
        None => Way::Plain,
        Some("keyed") => Way::Keyed,
        Some("batch") => Way::Batch,
        Some("pairs") => Way::Pairs,
        Some(other) => panic!("{other:?} is not keyed, batch or pairs"),
    };
    Options {
        in_flight: number(0, 64),
        skus: number(1, 10_000),
        reservations: number(2, 300_000),
        way,
    }
}

#[allow(clippy::disallowed_methods, reason = "the edge of the bench is here")]
fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp::from_micros(i64::try_from(since.as_micros()).unwrap())
}

fn org() -> Org {
    Org::new("bench").unwrap()
}

fn sku(number: u64) -> Sku {
    Sku::new(&format!("SKU-{number:07}")).unwrap()
}

fn submission(command: Command, idempotency: Option<Idempotency>) -> Submission {
    Submission { org: org(), command, actor: Arc::from("bench"), source: Source::Api, idempotency }
}

fn scatter(number: u64) -> u64 {
    // SplitMix64's last step: spread, and the same in every run.
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 16
}

fn reserve(number: u64, skus: u64) -> Reserve {
    let millis = u128::from(number / 30) << 80;
    let item = Item {
        sku: sku(scatter(number) % skus),
        location: None,
        quantity: Quantity::new(1).unwrap(),
    };
    Reserve {
        id: ReservationId(millis | u128::from(scatter(number))),
        order: OrderId::new(&format!("order-{:016x}", scatter(number))).unwrap(),
        items: vec![item],
        ttl_seconds: 900,
    }
}

fn key(number: u64) -> Idempotency {
    Idempotency {
        key: Arc::from(format!("key-{:016x}", scatter(number))),
        fingerprint: [7; 32],
        render: Arc::new(|_| RecordedAnswer {
            status: 201,
            headers: vec![("content-type".to_owned(), "application/json".to_owned())],
            body: vec![b'x'; 240],
        }),
    }
}

/// Returns the processor time of the writer's thread.
fn writer_time() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let writer = threads.map(|thread| thread.unwrap().path()).find(|thread| {
        let name = std::fs::read_to_string(thread.join("comm")).unwrap_or_default();
        name.trim() == "ledger-writer"
    });
    let text = std::fs::read_to_string(writer.unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

async fn fill(store: &Embedded, skus: u64) {
    for first in (0..skus).step_by(10_000) {
        let set = |number| SetOnHand {
            sku: sku(number),
            quantity: Quantity::new(1_000_000).unwrap(),
            location: Location::main(),
            reason: None,
            settings: SkuSettings::default(),
            counted_at: None,
            if_version: None,
            publish: true,
        };
        let items = (first..skus.min(first + 10_000)).map(set).collect();
        store.submit(submission(Command::Bulk { items, atomic: true }, None)).await.unwrap();
    }
}

async fn one(store: &Embedded, number: u64, options: &Options) -> u64 {
    let wanted = reserve(number, options.skus);
    let id = wanted.id;
    match options.way {
        Way::Plain | Way::Keyed => {
            let key = (options.way == Way::Keyed).then(|| key(number));
            let outcome = store.submit(submission(Command::Reserve(wanted), key)).await.unwrap();
            assert!(matches!(outcome, Outcome::Decided(Ok(_)) | Outcome::Recorded(Ok(_), _)));
            1
        }
        Way::Batch => {
            let all = number * BATCH..(number + 1) * BATCH;
            let all = all.map(|number| reserve(number, options.skus)).collect();
            let command = submission(Command::ReserveBatch(all), None);
            let Outcome::Decided(Ok(Answer::ReservedBatch(all))) =
                store.submit(command).await.unwrap()
            else {
                panic!("the batch was refused")
            };
            assert!(all.iter().all(Result::is_ok));
            BATCH
        }
        Way::Pairs => {
            let commit = Command::Commit { id, reacquire: false };
            for command in [Command::Reserve(wanted), commit] {
                let outcome = store.submit(submission(command, None)).await.unwrap();
                assert!(matches!(outcome, Outcome::Decided(Ok(_))), "{outcome:?}");
            }
            1
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let options = Arc::new(options());
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(dir.path(), Arc::new(now)).unwrap());
    fill(&store, options.skus).await;
    while store.figures().behind > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let next = Arc::new(AtomicU64::new(0));
    let calls = match options.way {
        Way::Batch => options.reservations / BATCH,
        Way::Plain | Way::Keyed | Way::Pairs => options.reservations,
    };
    let (began, writer, commits) = (Instant::now(), writer_time(), store.figures().commits);
    let callers = (0..options.in_flight).map(|_| {
        let (store, options, next) = (store.clone(), options.clone(), next.clone());
        tokio::spawn(async move {
            let mut made = 0;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return made;
                }
                made += one(&store, number, &options).await;
            }
        })
    });
    let mut made: u64 = 0;
    for caller in callers.collect::<Vec<_>>() {
        made += caller.await.unwrap();
    }
    let (took, writer) = (began.elapsed(), writer_time() - writer);
    let commits = store.figures().commits - commits;
    #[allow(clippy::cast_precision_loss, reason = "figures to look at")]
    let (made, commits) = (made as f64, commits as f64);
    println!(
        "{:.0} a second, {:.1} in a commit; the writer took {:.2} µs for each ({:.0} % of a core)",
        made / took.as_secs_f64(),
        made / commits,
        writer.as_secs_f64() * 1e6 / made,
        100.0 * writer.as_secs_f64() / took.as_secs_f64(),
    );
}
