//! Notifications from a real queue protocol: the Amazon connector against moto's SQS, which checks
//! every signature, and the simulated Amazon that sends to it.
//!
//! moto is a Python program: `.ci/sqs-stand-in` installs it under `target/venv`. Without it the
//! test says that it is skipped, unless `TRUEUP_REQUIRE_SQS` is set.

#![allow(clippy::print_stderr, reason = "a skip must be seen")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use trueup_channels::ChannelErrorKind;
use trueup_sync::EngineError;
use trueup_testkit::{AnySimulator, Chance, Down, Faults, SeedItem, Shop, amazon, spawn};

use crate::house::{House, PATIENCE, channel};
use crate::sims::enable_of;

/// The calls that set the stand-in up: user, key, policy, queue.
const SET_UP_CALLS: u32 = 4;
const ACCOUNT: &str = "123456789012";

/// A running moto; it is ended when dropped.
struct StandIn {
    url: String,
    client: reqwest::Client,
    _child: Child,
}

#[allow(clippy::disallowed_methods, reason = "whether to skip is for who runs the tests")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn program() -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("moto_server"));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let found = on_path.chain([target.join("venv/bin/moto_server")]).find(|file| file.is_file());
    if found.is_none() {
        let words = "there is no moto_server on PATH or in target/venv: run .ci/sqs-stand-in";
        assert!(variable("TRUEUP_REQUIRE_SQS").is_none(), "{words}");
        eprintln!("SKIPPED: {words}");
    }
    found
}

impl StandIn {
    /// Starts moto on a free port; after so many calls every signature is checked.
    async fn start(unchecked_calls: u32) -> Option<Self> {
        let mut child = Command::new(program()?)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", unchecked_calls.to_string())
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("moto ended");
                if let Some((_, url)) = line.split_once("Running on ") {
                    return url.trim().to_owned();
                }
            }
        };
        let url = tokio::time::timeout(Duration::from_secs(60), listening).await.unwrap();
        // It writes a line for each call and must not be stopped by a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Some(Self { url, client, _child: child })
    }

    /// Calls a service without a signature; the stand-in only needs to know which service.
    async fn call(&self, service: &str, target: Option<&str>, body: String) -> String {
        let scope = format!(
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, \
             SignedHeaders=host, Signature=x"
        );
        let mut request = self.client.post(format!("{}/", self.url)).header("authorization", scope);
        request = match target {
            Some(target) => request
                .header("x-amz-target", target)
                .header("content-type", "application/x-amz-json-1.0"),
            None => request.header("content-type", "application/x-www-form-urlencoded"),
        };
        let answer = request.body(body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{service} {target:?}: {status} {text}");
        text
    }

    async fn sqs(&self, action: &str, body: Value) -> Value {
        let text = self.call("sqs", Some(&format!("AmazonSQS.{action}")), body.to_string()).await;
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Makes a user who may use queues; returns the access key's id and secret.
    async fn user(&self) -> (String, String) {
        let iam = async |fields: &[(&str, &str)]| {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("Version", "2010-05-08").append_pair("UserName", "reader");
            form.extend_pairs(fields);
            self.call("iam", None, form.finish()).await
        };
        iam(&[("Action", "CreateUser")]).await;
        let key = iam(&[("Action", "CreateAccessKey")]).await;
        let policy = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"},
        ]});
        let policy = policy.to_string();
        iam(&[("Action", "PutUserPolicy"), ("PolicyName", "p"), ("PolicyDocument", &policy)]).await;
        let part = |name: &str| {
            let (_, rest) = key.split_once(&format!("<{name}>")).unwrap();
            rest.split_once('<').unwrap().0.to_owned()
        };
        (part("AccessKeyId"), part("SecretAccessKey"))
    }

    /// From now on, so many calls are let through without a look at their signature.
    async fn let_through(&self, calls: u32) {
        let request = self.client.post(format!("{}/moto-api/reset-auth", self.url));
        let request = request.header("content-type", "text/plain").body(calls.to_string());
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_come_from_a_signed_queue_and_are_booked_once() {
    let Some(moto) = StandIn::start(SET_UP_CALLS).await else { return };
    let (key, secret) = moto.user().await;
    moto.sqs("CreateQueue", json!({"QueueName": "trueup"})).await;
    let queue_url = format!("{}/{ACCOUNT}/trueup", moto.url);
    let sim = amazon::Simulator::new(amazon::Settings {
        rate_scale: 200,
        queue_url: Some(queue_url.clone()),
        ..amazon::Settings::default()
    });
    sim.seed(vec![SeedItem::new("A", 20)]).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let shop: AnySimulator = sim.clone().into();
    let server = spawn(shop.clone(), any).await.unwrap();
    let house = House::open_with(trueup_channels::kind).await;
    house.count("A", 20, true).await;
    let id = channel("amazon");

    // A signature with another secret is not let in, and nothing is kept.
    let enable = |secret: &str| {
        let mut config = sim.channel_config(&server.url);
        config["credentials"]["awsAccessKeyId"] = key.as_str().into();
        config["credentials"]["awsSecretAccessKey"] = secret.into();
        enable_of(&config)
    };
    let wrong = format!("{secret}x");
    let refused = house.engine.enable(&house.org, &id, enable(&wrong)).await;
    let Err(EngineError::Channel(error)) = refused else { panic!("{refused:?}") };
    assert_eq!(error.kind, ChannelErrorKind::Auth, "{error:?}");
    assert_eq!(error.vendor_code.as_deref(), Some("SignatureDoesNotMatch"));
    assert!(!format!("{error:?}").contains(&secret));

    house.engine.enable(&house.org, &id, enable(&secret)).await.unwrap();
    let types = ["FBA_INVENTORY_AVAILABILITY_CHANGES", "FEED_PROCESSING_FINISHED", "ORDER_CHANGE"];
    assert_eq!(sim.subscribed(), types);
    let found = house.engine.discover(&house.org, &id, false, PATIENCE).await.unwrap();
    assert_eq!(found.mapped(), 1);
    house.settle().await;

    // Amazon sends while we are paused: each notification twice, and one thing that is none.
    house.engine.disable(&house.org, &id).await.unwrap();
    shop.set_faults(Faults { webhook_duplicated: Chance::per_mille(1_000), ..Faults::default() });
    moto.let_through(1_000).await;
    for _ in 0..3 {
        sim.sell("A", 2).unwrap();
    }
    let kept = sim.sell("A", 1).unwrap();
    sim.cancel(&kept.order_id).unwrap();
    moto.sqs("SendMessage", json!({"QueueUrl": queue_url, "MessageBody": "hello"})).await;
    let end = tokio::time::Instant::now() + PATIENCE;
    while shop.webhooks().delivered < 8 || shop.webhooks().waiting > 0 {
        assert!(tokio::time::Instant::now() < end, "{:?}", shop.webhooks());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    moto.let_through(0).await;

    // Nobody else can tell of the orders: Amazon itself is down.
    shop.set_faults(Faults { down: Some(Down::Unavailable), ..Faults::default() });
    house.engine.resume(&house.org, &id).await.unwrap();
    let end = tokio::time::Instant::now() + PATIENCE;
    while house.on_hand("A").await != 14 {
        assert!(tokio::time::Instant::now() < end, "{}", house.on_hand("A").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The queue is empty now; what was no notification is kept for people.
    moto.let_through(1_000_000).await;
    let counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
    let ask = json!({"QueueUrl": queue_url, "AttributeNames": counts});
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let left = moto.sqs("GetQueueAttributes", ask.clone()).await;
        if counts.iter().all(|name| left["Attributes"][*name] == "0") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{left}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    shop.set_faults(Faults::default());
    let heard = house.engine.hear_orders(&house.org, &id, PATIENCE).await;
    assert_eq!(heard, Ok(true));
    house.settle().await;
    assert_eq!(house.on_hand("A").await, 14, "the poll tells the same orders again");
    let deliveries = house.history("webhook").await;
    let dead = deliveries.iter().filter(|entry| entry.detail["dead"] == true).count();
    assert_eq!(dead, 1, "{deliveries:?}");
    let orders =
        |topic: &str| deliveries.iter().filter(|entry| entry.detail["topic"] == topic).count();
    // Five, or four where the cancellation overtook the order's own notification.
    assert!((4..=5).contains(&orders("ORDER_CHANGE")), "{deliveries:?}");
    house.close().await;
    server.shutdown().await;
}
