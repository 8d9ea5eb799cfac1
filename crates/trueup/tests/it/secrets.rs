//! Secrets that were planted are looked for wherever somebody may look: logs at the most talkative
//! level, later answers, figures, what is shown before a sign-in.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use trueup_testkit::{AnySimulator, SeedItem, shopify, spawn};

use crate::process::{Client, KEY, SECRET, token};

const TRIES_MAX: u32 = 600;

#[tokio::test(flavor = "multi_thread")]
async fn no_planted_secret_is_found_in_logs_answers_or_figures() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_trueup"))
        .args(["serve", "--listen", "127.0.0.1:0", "--allow-private-endpoints", "--data-dir"])
        .arg(dir.path().join("data"))
        .envs([("TRUEUP_JWT_SECRET", SECRET), ("TRUEUP_SECRET_KEY", KEY), ("TRUEUP_LOG", "trace")])
        .stderr(File::create(&log).unwrap())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let read = || String::from_utf8_lossy(&fs::read(&log).unwrap()).into_owned();
    let mut url = None;
    for _ in 0..TRIES_MAX {
        let text = read();
        let line = text.lines().find_map(|line| line.split_once("listening on "));
        url = line.map(|(_, url)| url.trim().to_owned());
        if url.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let url = url.expect("it says where it listens");
    let bearer = token("acme");
    let client = Client::new(&url, &bearer);
    // A channel that works, and one whose credentials are refused.
    let shop = AnySimulator::from(shopify::Simulator::new(shopify::Settings::default()));
    shop.seed(vec![SeedItem::new("A", 1)]).unwrap();
    let server = spawn(shop.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    client.must("PUT", "/inventory/A", Some(json!({ "quantity": 5 }))).await;
    let mut config = shop.channel_config(&server.url);
    config["syncInventory"] = json!(true);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let credentials = config["credentials"].as_object().unwrap();
    let mut planted: Vec<String> = credentials.values().filter_map(text).collect();
    let mut wrong = config.clone();
    wrong["credentials"]["accessToken"] = json!("shpat_planted_and_refused_0123456789");
    planted.push("shpat_planted_and_refused_0123456789".to_owned());
    let refused = client.call("POST", "/channels/shopify/enable", Some(wrong)).await.unwrap();
    assert_eq!(refused.0, 400);
    client.must("POST", "/channels/shopify/enable", Some(config)).await;
    client.must("POST", "/channels/shopify/mappings/discover", Some(json!({}))).await;
    client.must("POST", "/inventory/sync/shopify", Some(json!({}))).await;
    // What is shown once.
    let hook = json!({ "url": "http://127.0.0.1:9/hook", "events": ["inventory.updated"] });
    let hook = client.must("POST", "/webhooks", Some(hook)).await;
    planted.extend(text(&hook["secret"]));
    let rotate = format!("/webhooks/{}/rotate-secret", hook["id"].as_str().unwrap());
    planted.extend(text(&client.must("POST", &rotate, None).await["secret"]));
    let key = json!({ "subject": "robot", "scopes": ["channels:admin"] });
    planted.extend(text(&client.must("POST", "/keys", Some(key)).await["key"]));
    planted.extend([bearer.clone(), SECRET.to_owned(), KEY.to_owned()]);
    client.must("PUT", "/inventory/A", Some(json!({ "quantity": 6 }))).await;
    drop(client.call("POST", "/inventory/reserve", Some(json!({ "nonsense": 1 }))).await);
    drop(Client::new(&url, "a.b.c").call("GET", "/inventory", None).await);
    assert!(planted.len() >= 8, "{}", planted.len());
    planted.retain(|secret| secret.len() >= 8);
    // Where somebody may look.
    let mut seen: Vec<(String, String)> = Vec::new();
    for path in [
        "/channels",
        "/channels/shopify",
        "/channels/shopify/status",
        "/webhooks",
        rotate.trim_end_matches("/rotate-secret"),
        "/keys",
        "/sync/history?limit=1000",
        "/sync/runs",
        "/cluster",
    ] {
        seen.push((path.to_owned(), client.must("GET", path, None).await.to_string()));
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for path in ["/metrics", "/openapi.json", "/readyz", "/", "/channels"] {
        let request = http.get(format!("{url}{path}")).bearer_auth("wrong");
        seen.push((path.to_owned(), request.send().await.unwrap().text().await.unwrap()));
    }
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
    let log = read();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is talkative");
    seen.push(("the log".to_owned(), log));
    for (place, text) in &seen {
        for secret in &planted {
            let at = text.find(secret.as_str());
            let about = at.map(|at| &text[at.saturating_sub(80).min(at)..at]);
            assert!(at.is_none(), "{place} has a secret after {about:?}");
        }
    }
    server.shutdown().await;
}
