//! Checks what simulators answer against the vendors' own specifications.
//!
//! Connectors' requests are checked the same way: add a module, take [`spec::Spec`].

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::print_stderr, reason = "a skip must be seen")]

mod amazon;
mod connectors;
mod ebay;
mod shopify;
mod spec;
mod suite;

use std::time::Duration;

use axum::Json;
use axum::routing::post;
use serde_json::Value;
use tokio::sync::mpsc;
use trueup_testkit::{AnySimulator, SimServer, spawn};

async fn served(sim: impl Into<AnySimulator>) -> SimServer {
    spawn(sim, ([127, 0, 0, 1], 0).into()).await.unwrap()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap()
}

/// Sends a request and returns status and JSON body.
async fn send(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Opens an endpoint for webhooks; returns its address and what arrives.
async fn hook() -> (String, mpsc::Receiver<Value>) {
    let (sink, arrived) = mpsc::channel(100);
    let take = async move |Json(body): Json<Value>| sink.send(body).await.unwrap();
    let router = axum::Router::new().route("/hook", post(take));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, arrived)
}
