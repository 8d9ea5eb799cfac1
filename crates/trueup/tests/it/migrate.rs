//! `trueup migrate` as an operator runs it: refused, tried out, killed, run again, served.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use trueup_sync::SecretKey;
use trueup_test_store::TestStore;

use crate::process::{Client, KEY, Server, run, token};
use crate::rekey::seal;

/// How many SKUs the larger directory has: several pieces of each table.
const SKUS: usize = 20_000;

async fn database() -> Option<(TestStore, String)> {
    let place = TestStore::new().await;
    let url = place.url()?;
    Some((place, url))
}

/// Puts so many SKUs into a directory.
fn fill(dir: &Path, count: usize) {
    let mut stock = "sku,quantity\n".to_owned();
    for number in 0..count {
        writeln!(stock, "S-{number:06},{}", number % 9).unwrap();
    }
    let file = dir.join("stock.csv");
    std::fs::write(&file, stock).unwrap();
    let [file, dir] = [&file, dir].map(|path| path.to_str().unwrap());
    let imported = run(&["import", file, "--data-dir", dir, "--org", "acme"]);
    assert!(imported.status.success(), "{}", said(&imported));
}

fn migrate(dir: &Path, url: &str, more: &[&str], key: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trueup"));
    command.args(["migrate", "--from", dir.to_str().unwrap(), "--to", url]).args(more);
    command.envs(key.map(|key| ("TRUEUP_SECRET_KEY", key)));
    command
}

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", said(output));
    said(output)
}

fn answered(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_directory_moves_with_its_key_and_is_served_from_there_alone() {
    let Some((_place, url)) = database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fill(dir, 20);
    seal(dir, &SecretKey::from_hex(KEY).unwrap(), &["a", "b"]).await;
    // The key goes first: without it nobody could open what is sealed.
    let words = refused(&migrate(dir, &url, &[], None).output().unwrap());
    assert!(words.contains("no key is configured"), "{words}");
    let other = "f".repeat(64);
    let words = refused(&migrate(dir, &url, &[], Some(&other)).output().unwrap());
    assert!(words.contains("2 of 2 secrets cannot be opened"), "{words}");
    assert!(!dir.join("MOVED").exists());
    let running = Server::start(dir);
    let words = refused(&migrate(dir, &url, &[], Some(KEY)).output().unwrap());
    assert!(words.contains("in use") && words.contains("hint: stop the server"), "{words}");
    assert!(running.terminate());
    let tried =
        answered(&migrate(dir, &url, &["--dry-run", "--json"], Some(KEY)).output().unwrap());
    let plan = &tried["orgs"][0];
    assert_eq!((plan["org"].as_str(), plan["tables"]["sku"].as_u64()), (Some("acme"), Some(20)));
    assert!(!dir.join("MOVED").exists());
    let moved = answered(&migrate(dir, &url, &["--json"], Some(KEY)).output().unwrap());
    let org = &moved["orgs"][0];
    assert_eq!((org["org"].as_str(), org["skus"].as_u64()), (Some("acme"), Some(20)));
    assert_eq!(org["onHand"].as_u64(), Some((0..20).map(|n| n % 9).sum()));
    // The directory says where it has gone.
    let words = refused(&run(&["serve", "--data-dir", dir.to_str().unwrap()]));
    assert!(words.contains("has moved to postgres://") && words.contains("MOVED"), "{words}");
    let server = Server::start_with(&["--store", &url], &[("TRUEUP_SECRET_KEY", KEY)]);
    let client = Client::new(&server.url, &token("acme"));
    let found = client.must("GET", "/inventory/S-000005", None).await;
    assert_eq!(found["quantity"].as_i64(), Some(5), "{found}");
    assert!(server.terminate());
    let verified = run(&["verify", "--store", &url, "--org", "acme"]);
    assert!(verified.status.success(), "{}", said(&verified));
}

#[tokio::test]
async fn a_move_that_is_killed_goes_on_and_nobody_sees_half_of_it() {
    let Some((_place, url)) = database().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fill(dir, SKUS);
    for round in 1..=2 {
        let mut killed = migrate(dir, &url, &[], None).stderr(Stdio::piped()).spawn().unwrap();
        let talk = BufReader::new(killed.stderr.take().unwrap());
        let first = talk.lines().map_while(Result::ok).nth(round + 1).unwrap();
        assert!(first.contains("rows copied and compared: "), "{first}");
        killed.kill().unwrap();
        killed.wait().unwrap();
        let words = refused(&run(&["serve", "--data-dir", dir.to_str().unwrap()]));
        assert!(words.contains("is being moved to postgres://"), "{words}");
        let server = Server::start_with(&["--store", &url], &[("TRUEUP_SECRET_KEY", KEY)]);
        let client = Client::new(&server.url, &token("acme"));
        let (status, answer) = client.call("GET", "/inventory/S-000001", None).await.unwrap();
        assert_eq!((status, answer["code"].as_str()), (503, Some("org_arriving")), "{answer}");
        assert!(server.terminate());
    }
    let moved = answered(&migrate(dir, &url, &["--json"], None).output().unwrap());
    assert_eq!(moved["orgs"][0]["skus"].as_u64(), Some(SKUS as u64));
    let again = answered(&migrate(dir, &url, &["--json"], None).output().unwrap());
    assert_eq!(again["orgs"][0]["before"].as_bool(), Some(true), "{again}");
}
