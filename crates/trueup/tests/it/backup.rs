//! Backups that are made while a server is at work, and what is restored from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::load::{Load, lacks};
use crate::process::{Client, Server, run, token};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn back_up(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut args = vec!["backup", "--data-dir", text(from), "--to", text(to), "--json"];
    args.extend(more);
    run(&args)
}

fn made(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{why}: {said}");
}

fn restore(from: &Path, to: &Path, more: &[&str]) -> Output {
    let mut args = vec!["restore", "--from", text(from), "--data-dir", text(to), "--json"];
    args.extend(more);
    run(&args)
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| !text(path).ends_with(".lock"));
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_before_a_backup_under_load_is_restored_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (data, backups) = (at("data"), at("backups"));
    let server = Server::start(&data);
    let client = Client::new(&server.url, &token("acme"));
    let mut load = Load::new(12);
    load.stock(&client).await;
    let mut working = load.begin(&client);
    working.until(300).await;
    let mut last = Value::Null;
    for number in 1..=3_u64 {
        let before = load.memory.lock().clone();
        let (from, to) = (data.clone(), backups.clone());
        let output = tokio::task::spawn_blocking(move || back_up(&from, &to, &[])).await.unwrap();
        last = made(&output);
        let restored = at(&format!("restored-{number}"));
        let put = restore(&backups, &restored, &[]);
        assert_eq!(made(&put)["backup"], last["backup"]);
        let again = Server::start(&restored);
        let there = Client::new(&again.url, &token("acme"));
        assert_eq!(lacks(&before, &there).await, [""; 0]);
        assert!(again.terminate());
        let acknowledged = load.memory.lock().acknowledged();
        assert!(acknowledged > before.acknowledged(), "it was under load all the while");
        working.until(acknowledged + 100).await;
    }
    server.kill();
    load.end(working).await;
    // Of a directory that was left by a crash, everything.
    let before = load.memory.lock().clone();
    let crashed = made(&back_up(&data, &backups, &[]));
    assert_ne!(crashed["backup"], last["backup"]);
    let restored = at("crashed");
    assert_eq!(made(&restore(&backups, &restored, &[]))["backup"], crashed["backup"]);
    let verified = run(&["verify", "--data-dir", text(&restored), "--org", "acme"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let server = Server::start(&restored);
    let client = Client::new(&server.url, &token("acme"));
    assert_eq!(lacks(&before, &client).await, [""; 0]);
    assert_eq!(load.ask_again(&client).await, 0);
    assert_eq!(load.compare(&client, true).await, [""; 0]);
    assert!(server.terminate());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_backup_up_to_an_instant_is_restored_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (data, backups) = (at("data"), at("backups"));
    refused(&back_up(&data, &backups, &[]), "it is not there");
    let server = Server::start(&data);
    let client = Client::new(&server.url, &token("acme"));
    let mut taken = Vec::new();
    for quantity in 1..=4 {
        client.must("PUT", "/inventory/A", Some(json!({ "quantity": quantity }))).await;
        let made = made(&back_up(&data, &backups, &[]));
        assert_eq!(made["note"]["orgs"][0]["movements"], quantity);
        taken.push(made["note"]["takenAt"].as_str().unwrap().to_owned());
    }
    assert!(server.terminate());
    let export = |dir: &Path| {
        let output = run(&["export", "--data-dir", text(dir), "--org", "acme"]);
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().nth(1).and_then(|line| line.split(',').nth(1)).unwrap().to_owned()
    };
    for (number, instant) in taken.iter().enumerate() {
        let to = at(&format!("at-{number}"));
        made(&restore(&backups, &to, &["--at", instant]));
        assert_eq!(export(&to), (number + 1).to_string());
        // What is there stays, whatever it is.
        refused(&restore(&backups, &to, &[]), "is there already");
        assert_eq!(export(&to), (number + 1).to_string());
    }
    fs::create_dir(at("empty")).unwrap();
    refused(&restore(&backups, &at("empty"), &[]), "is there already");
    refused(
        &restore(&backups, &at("too-early"), &["--at", "2020-01-01T00:00:00Z"]),
        "no such backup",
    );
    refused(&restore(&backups, &at("no-instant"), &["--at", "yesterday"]), "instant");
    // One may be named, and the oldest go.
    let oldest = entries(&backups)[0].clone();
    made(&restore(&oldest, &at("named"), &[]));
    assert_eq!(export(&at("named")), "1");
    made(&back_up(&data, &backups, &["--keep", "2"]));
    let kept = entries(&backups);
    assert_eq!(kept.len(), 2);
    // What was damaged since is not restored, and leaves nothing behind.
    let file = kept[1].join("trueup.db");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let before = entries(dir.path());
    refused(&restore(&backups, &at("damaged"), &[]), "is refused");
    bytes.truncate(middle);
    fs::write(&file, &bytes).unwrap();
    refused(&restore(&backups, &at("damaged"), &[]), "is refused");
    assert_eq!(entries(dir.path()), before);
    // A leftover of a backup that was killed is neither restored nor in the way.
    fs::create_dir(backups.join(".making")).unwrap();
    fs::write(backups.join(".making/trueup.db"), "half").unwrap();
    made(&back_up(&data, &backups, &[]));
    assert!(!backups.join(".making").exists());
    let database = run(&["backup", "--store", "postgres://db/x", "--to", text(&backups)]);
    refused(&database, "PostgreSQL's own means");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_in_a_backup_only_as_they_are_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, backups) = (dir.path().join("data"), dir.path().join("backups"));
    let server = Server::start(&data);
    let client = Client::new(&server.url, &token("acme"));
    let hook = json!({ "url": "http://127.0.0.1:9/hook", "events": ["inventory.low_stock"] });
    let hook = client.must("POST", "/webhooks", Some(hook)).await;
    let secret = hook["secret"].as_str().unwrap().to_owned();
    let made = made(&back_up(&data, &backups, &[]));
    assert_eq!(made["note"]["sealed"], 1);
    assert!(server.terminate());
    let backup = entries(&backups).remove(0);
    assert_eq!(entries(&backup).len(), 2, "the file and its note; no key");
    let bare = secret.trim_start_matches("whsec_");
    for path in entries(&backup) {
        let bytes = fs::read(&path).unwrap();
        let has = |needle: &str| bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
        assert!(!has(bare), "{}", path.display());
    }
    // With the key beside it, it is used again.
    let restored = dir.path().join("restored");
    let said = restore(&backups, &restored, &[]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("secret.key"));
    fs::copy(data.join("secret.key"), restored.join("secret.key")).unwrap();
    let server = Server::start(&restored);
    let client = Client::new(&server.url, &token("acme"));
    let found = client.must("GET", "/webhooks", None).await;
    assert_eq!(found["items"][0]["id"], hook["id"], "{found}");
    assert!(server.terminate());
}
