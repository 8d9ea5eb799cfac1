//! The key that secrets are encrypted with is changed: whole, interrupted, refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use trueup_channels::Secret;
use trueup_core::{ChannelId, Org, Timestamp};
use trueup_store::embedded::Embedded;
use trueup_store::{Store, Subscription};
use trueup_sync::{Clock, Enable, Engine, EngineOptions, KeyRing, SecretKey};

use crate::process::Server;

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1)
    }
}

fn key(byte: u8) -> SecretKey {
    SecretKey::new([byte; 32])
}

fn keep(dir: &Path, name: &str, key: &SecretKey) {
    fs::write(dir.join(name), key.to_hex()).unwrap();
}

fn kept(dir: &Path) -> SecretKey {
    SecretKey::from_hex(&fs::read_to_string(dir.join("secret.key")).unwrap()).unwrap()
}

async fn open(dir: &Path) -> Arc<dyn Store> {
    Arc::new(Embedded::open(dir, Arc::new(|| Still.now())).unwrap())
}

fn options(key: &SecretKey) -> EngineOptions {
    EngineOptions {
        allow_private_endpoints: false,
        keys: key.clone().into(),
        request_timeout: Duration::from_secs(1),
        orders_overlap: trueup_sync::ORDERS_OVERLAP,
        public_url: Some("https://trueup.example".to_owned()),
        clock: Arc::new(Still),
    }
}

/// Puts signing secrets into a store, sealed with a key.
pub(crate) async fn seal(dir: &Path, key: &SecretKey, names: &[&str]) {
    let store = open(dir).await;
    let engine = Engine::start(store.clone(), options(key)).await.unwrap();
    for name in names {
        let row = Subscription {
            id: (*name).to_owned(),
            url: "https://example.com/hook".to_owned(),
            events: vec!["*".to_owned()],
            sealed_secret: engine.seal(&Secret::new(*name)),
            enabled: true,
            description: None,
            created_at: Timestamp::from_micros(1),
        };
        store.put_subscription(&Org::new("acme").unwrap(), row).await.unwrap();
    }
    engine.stop().await;
    store.close().await.unwrap();
}

/// Enables a channel that waits for its account: its credentials are kept, and nothing is sent.
async fn enable(dir: &Path, key: &SecretKey) {
    let store = open(dir).await;
    let engine = Engine::start(store.clone(), options(key)).await.unwrap();
    let secret = |(name, text): (&str, &str)| (name.to_owned(), Secret::new(text));
    let enable = Enable {
        kind: Some("ebay".to_owned()),
        settings: [("marketplaceId", "EBAY_US"), ("ruName", "a-b-c")]
            .map(|(name, text)| (name.to_owned(), text.into()))
            .into(),
        credentials: [("clientId", "id"), ("clientSecret", "hush")].map(secret).into(),
        ..Enable::default()
    };
    let (org, channel) = (Org::new("acme").unwrap(), ChannelId::new("ebay").unwrap());
    engine.enable(&org, &channel, enable).await.unwrap();
    let page = engine.consent_page(&org, &channel, "ebay").await.unwrap();
    assert!(page.url.contains("client_id=id"), "the credentials can be opened");
    engine.stop().await;
    store.close().await.unwrap();
}

/// Returns how many secrets are sealed with a key, all of which must open with it alone.
async fn sealed_with(dir: &Path, key: &SecretKey) -> usize {
    let store = open(dir).await;
    let done = trueup_sync::rekey(&*store, &KeyRing::from(key.clone())).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(done.resealed, 0);
    done.current
}

fn rekey(dir: &Path, arguments: &[&str], environment: &[(&str, String)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trueup"))
        .args(["rekey", "--json", "--data-dir"])
        .arg(dir)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap()
}

fn answered(output: &Output) -> (u64, u64) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    (answer["resealed"].as_u64().unwrap(), answer["current"].as_u64().unwrap())
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_key_in_a_file_is_replaced_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    keep(dir, "secret.key", &key(1));
    seal(dir, &key(1), &["a", "b", "c"]).await;
    assert_eq!(answered(&rekey(dir, &[], &[])), (3, 0));
    assert_ne!(kept(dir), key(1));
    assert!(!dir.join("secret.key.new").exists());
    assert_eq!(sealed_with(dir, &kept(dir)).await, 3);
    let named = dir.join("named");
    fs::write(&named, key(9).to_hex()).unwrap();
    let arguments = ["--new-key-file", named.to_str().unwrap()];
    assert_eq!(answered(&rekey(dir, &arguments, &[])), (3, 0));
    assert_eq!(kept(dir), key(9));
    assert_eq!(sealed_with(dir, &key(9)).await, 3);
}

#[tokio::test]
async fn what_was_interrupted_is_brought_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // Killed after the new key was kept and some secrets were sealed with it.
    keep(dir, "secret.key", &key(1));
    keep(dir, "secret.key.new", &key(2));
    seal(dir, &key(1), &["a", "b", "c"]).await;
    seal(dir, &key(2), &["d", "e"]).await;
    let words = refused(&rekey(dir, &["--new-key-file", "/dev/null"], &[]));
    assert!(words.contains("interrupted"), "{words}");
    assert_eq!(answered(&rekey(dir, &[], &[])), (3, 2));
    assert_eq!(kept(dir), key(2));
    assert_eq!(sealed_with(dir, &key(2)).await, 5);
}

#[tokio::test]
async fn a_key_of_the_environment_is_changed_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    seal(dir, &key(1), &["a", "b"]).await;
    let given = |name, byte| (name, key(byte).to_hex());
    let alone = [given("TRUEUP_SECRET_KEY", 2)];
    let words = refused(&rekey(dir, &[], &alone));
    assert!(words.contains("hint: set TRUEUP_SECRET_KEY to the new key"), "{words}");
    let both = [given("TRUEUP_SECRET_KEY", 2), given("TRUEUP_SECRET_KEY_PREVIOUS", 1)];
    assert_eq!(answered(&rekey(dir, &[], &both)), (2, 0));
    assert_eq!(answered(&rekey(dir, &[], &both)), (0, 2));
    assert_eq!(sealed_with(dir, &key(2)).await, 2);
    assert!(!dir.join("secret.key").exists(), "no key is left behind");
    // A key that stood in the data directory before is known, too.
    keep(dir, "secret.key", &key(2));
    assert_eq!(answered(&rekey(dir, &[], &[given("TRUEUP_SECRET_KEY", 3)])), (2, 0));
    assert_eq!(sealed_with(dir, &key(3)).await, 2);
}

#[tokio::test]
async fn credentials_and_signing_secrets_are_sealed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    seal(dir, &key(1), &["a"]).await;
    enable(dir, &key(1)).await;
    keep(dir, "secret.key", &key(1));
    assert_eq!(answered(&rekey(dir, &[], &[])), (2, 0));
    let new = kept(dir);
    assert_ne!(new, key(1));
    assert_eq!(sealed_with(dir, &new).await, 2);
    let store = open(dir).await;
    let engine = Engine::start(store.clone(), options(&new)).await.unwrap();
    let (org, channel) = (Org::new("acme").unwrap(), ChannelId::new("ebay").unwrap());
    let page = engine.consent_page(&org, &channel, "ebay").await.unwrap();
    assert!(page.url.contains("client_id=id"), "the new key alone opens them");
    engine.stop().await;
    store.close().await.unwrap();
}

#[tokio::test]
async fn with_the_wrong_key_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    seal(dir, &key(1), &["a", "b"]).await;
    keep(dir, "secret.key", &key(7));
    let words = refused(&rekey(dir, &[], &[]));
    assert!(words.contains("2 of 2 secrets cannot be opened"), "{words}");
    assert!(words.contains(&format!("sealed with the key {}", key(1).id())), "{words}");
    assert_eq!(kept(dir), key(7));
    assert!(!dir.join("secret.key.new").exists());
    assert_eq!(sealed_with(dir, &key(1)).await, 2);
}

#[tokio::test]
async fn a_running_server_is_not_pulled_the_key_from_under() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let before = kept(dir.path());
    let words = refused(&rekey(dir.path(), &[], &[]));
    assert!(words.contains("hint: stop the other process"), "{words}");
    assert_eq!(kept(dir.path()), before);
    assert!(server.terminate());
}
