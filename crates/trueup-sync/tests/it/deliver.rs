//! Outgoing webhooks: signed, sent again after a failure, replayed on demand.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use trueup_channels::Secret;
use trueup_store::{DeliveryState, Subscription};
use trueup_sync::{EngineError, sign};

use crate::house::{House, until};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A subscriber that keeps what it is sent and answers a status.
async fn subscriber(status: u16) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            let mut buffer = vec![0; 4_096];
            while !is_whole(&text) {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(length) => text.push_str(&String::from_utf8_lossy(&buffer[..length])),
                }
            }
            kept.lock().unwrap().push(text);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n");
            let answer = format!("{head}connection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, seen)
}

fn is_whole(text: &str) -> bool {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = header(head, "content-length").and_then(|text| text.parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn header(request: &str, name: &str) -> Option<String> {
    let lines = request.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_owned())
}

async fn subscribe(house: &House, url: &str) {
    let row = Subscription {
        id: "sub".to_owned(),
        url: url.to_owned(),
        events: Vec::new(),
        sealed_secret: house.engine.seal(&Secret::new(SECRET)),
        enabled: true,
        description: None,
        created_at: trueup_core::Timestamp::EPOCH,
    };
    house.store.put_subscription(&house.org, row).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_signed_and_delivered() {
    let house = House::open().await;
    let (url, seen) = subscriber(204).await;
    subscribe(&house, &url).await;
    house.count("A", 5, false).await;
    until("it is delivered", || !seen.lock().unwrap().is_empty()).await;
    let request = seen.lock().unwrap()[0].clone();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let id = header(head, "webhook-id").unwrap();
    let timestamp: i64 = header(head, "webhook-timestamp").unwrap().parse().unwrap();
    assert_eq!(header(head, "webhook-signature").unwrap(), sign(SECRET, &id, timestamp, body));
    settled(&house, DeliveryState::Delivered).await;
    let again = house.engine.replay_delivery(&house.org, &id).await;
    assert_eq!(again, Ok(()));
    until("it is delivered again", || {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|text| header(text, "webhook-id").as_ref() == Some(&id)).count() == 2
    })
    .await;
    let missing = house.engine.replay_delivery(&house.org, "none").await;
    assert_eq!(missing, Err(EngineError::NotFound("delivery")));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_waits_to_be_sent_again() {
    let house = House::open().await;
    let (url, _) = subscriber(500).await;
    subscribe(&house, &url).await;
    house.count("A", 5, false).await;
    let row = settled(&house, DeliveryState::Pending).await;
    assert_eq!(row.attempts, 1);
    assert_eq!(row.last_result.as_deref(), Some("500"));
    house.close().await;
}

/// Waits until a delivery was tried and stands like this.
async fn settled(house: &House, state: DeliveryState) -> trueup_store::Delivery {
    let end = tokio::time::Instant::now() + crate::house::PATIENCE;
    loop {
        let page = house.store.deliveries(&house.org, "sub", None, 10).await.unwrap();
        let mut rows = page.items.into_iter();
        if let Some(row) = rows.find(|row| row.attempts > 0 && row.state == state) {
            return row;
        }
        assert!(tokio::time::Instant::now() < end, "it was not settled");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
