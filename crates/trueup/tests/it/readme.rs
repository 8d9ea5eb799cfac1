//! The README's examples, word for word, against the program.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use trueup_testkit::{SeedItem, Shop, shopify, spawn};

use crate::process::{Client, Server, token};

const README: &str = include_str!("../../../../README.md");

/// Returns the shell blocks between the two marks.
fn examples() -> Vec<&'static str> {
    let (_, rest) = README.split_once("<!-- examples").expect("the mark of the examples");
    let (part, _) = rest.split_once("<!-- end of examples -->").expect("the mark of their end");
    part.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

/// Runs a block as a person would paste it; returns its status and its answer.
fn paste(block: &str, server: &Server, token: &str, reservation: &str) -> (String, Value) {
    let block = block.replace("http://127.0.0.1:4620", &server.url);
    let script = format!("{} -s -w '\\n%{{http_code}}'", block.trim_end());
    let output = Command::new("bash")
        .args(["-c", &script])
        .env("JWT", token)
        .env("ORG", "acme")
        .env("RESERVATION", reservation)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_readme_work_word_for_word() {
    let dir = tempfile::tempdir().unwrap();
    let shop = shopify::Simulator::default();
    shop.seed(vec![SeedItem::new("SKU-100", 7)]).unwrap();
    let vendor = spawn(shop.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let server = Server::start(dir.path());
    let token = token("acme");
    let client = Client::new(&server.url, &token);
    client.must("PUT", "/inventory/SKU-100", Some(json!({ "quantity": 7 }))).await;
    let mut config = shop.channel_config(&vendor.url);
    config["syncInventory"] = json!(true);
    client.must("POST", "/channels/shopify/enable", Some(config)).await;
    client.must("POST", "/channels/shopify/mappings/discover", Some(json!({}))).await;

    let examples = examples();
    assert_eq!(examples.len(), 11, "every published example is there");
    let mut reservation = String::new();
    for block in examples {
        let (status, answer) =
            tokio::task::block_in_place(|| paste(block, &server, &token, &reservation));
        let line = block.lines().next().unwrap();
        if line.contains("/reserve ") {
            assert_eq!(status, "201", "{line}: {answer}");
            reservation = answer["reservationId"].as_str().unwrap().to_owned();
        } else if line.contains("/commit ") {
            // The example before it gave the stock back.
            assert_eq!((status.as_str(), &answer["code"]), ("409", &json!("reservation_released")));
        } else {
            assert_eq!(status, "200", "{line}: {answer}");
        }
        if line.contains("/sync/shopify") {
            assert_eq!(answer["status"], "completed", "{answer}");
            assert_eq!(shop.quantity("SKU-100"), Some(42));
        }
        if line.contains("/channels ") {
            assert_eq!(answer["master"], 42, "{answer}");
            assert_eq!(answer["channels"]["shopify"]["quantity"], 42, "{answer}");
        }
    }
    vendor.shutdown().await;
}
