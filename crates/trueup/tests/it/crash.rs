//! `kill -9` under load: what was acknowledged is there, no more and no less, and nothing was ever
//! oversold.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use trueup_test_store::TestStore;

use crate::load::Load;
use crate::process::{Client, Server, place, run, token};

const BUYERS: u64 = 12;
/// How often the server is killed, and how much is acknowledged in all; `.ci/crash` sets both.
const CYCLES: u64 = 20;
const CYCLES_VARIABLE: &str = "TRUEUP_CRASH_CYCLES";
const OPERATIONS: u64 = 6_000;
const OPERATIONS_VARIABLE: &str = "TRUEUP_CRASH_OPERATIONS";
/// How often everything is compared in between, and not the news alone.
const ALL_EVERY: u64 = 50;

#[allow(clippy::disallowed_methods, reason = "a test has no configuration")]
fn setting(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_twelve_buyers_were_told_is_there_after_each_of_twenty_power_cuts() {
    let cycles = setting(CYCLES_VARIABLE, CYCLES);
    let operations = setting(OPERATIONS_VARIABLE, OPERATIONS);
    let store = TestStore::new().await;
    let token = token("acme");
    let mut load = Load::new(BUYERS);
    // When it is killed is chosen by what it has acknowledged by then.
    let mut chance = StdRng::seed_from_u64(cycles);
    for cycle in 0..=cycles {
        let server = Server::start_at(&store);
        let client = Client::new(&server.url, &token);
        if cycle == 0 {
            load.stock(&client).await;
        }
        assert_eq!(load.ask_again(&client).await, 0, "cycle {cycle}");
        let is_last = cycle == cycles;
        let wrong = load.compare(&client, is_last || cycle % ALL_EVERY == 0).await;
        assert_eq!(wrong, [""; 0], "cycle {cycle}");
        if is_last {
            assert!(server.terminate(), "it stops in order");
            break;
        }
        let mut working = load.begin(&client);
        let by_now = operations * cycle / cycles;
        let enough = by_now + chance.random_range(0..=2 * operations / cycles);
        let one_more = load.memory.lock().acknowledged() + 1;
        working.until(enough.max(one_more)).await;
        server.kill();
        load.end(working).await;
    }
    let acknowledged = load.memory.lock().acknowledged();
    assert!(acknowledged >= operations * 9 / 10, "the buyers were busy: {acknowledged}");
    println!("{acknowledged} operations were acknowledged in {cycles} cycles, and all are there");
    let [flag, place] = &place(&store);
    let verified = run(&["verify", flag, place, "--org", "acme"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
