//! Drives each simulator over HTTP, as a connector would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod amazon;
mod control;
mod ebay;
mod shopify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use trueup_testkit::{AnySimulator, SimServer, spawn};

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap()
}

async fn served(sim: impl Into<AnySimulator>) -> SimServer {
    spawn(sim, any_port()).await.unwrap()
}

/// A webhook as it arrived.
struct Arrived {
    headers: HeaderMap,
    body: Bytes,
}

impl Arrived {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// An endpoint that keeps what it is sent; the first so many deliveries are refused.
struct Endpoint {
    url: String,
    arrived: mpsc::Receiver<Arrived>,
}

type Sink = State<(mpsc::Sender<Arrived>, Arc<Mutex<u32>>)>;

async fn take(State((sink, refuse)): Sink, headers: HeaderMap, body: Bytes) -> StatusCode {
    {
        let mut left = refuse.lock();
        if *left > 0 {
            *left -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
    }
    sink.send(Arrived { headers, body }).await.unwrap();
    StatusCode::NO_CONTENT
}

async fn endpoint(refuse: u32) -> Endpoint {
    let (sink, arrived) = mpsc::channel(1_000);
    let router = axum::Router::new()
        .route("/hook", axum::routing::post(take))
        .with_state((sink, Arc::new(Mutex::new(refuse))));
    let listener = tokio::net::TcpListener::bind(any_port()).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Endpoint { url, arrived }
}

impl Endpoint {
    async fn next(&mut self) -> Arrived {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.arrived.recv());
        wait.await.expect("a webhook in time").expect("the endpoint runs")
    }
}
