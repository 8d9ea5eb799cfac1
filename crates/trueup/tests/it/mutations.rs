//! Good requests with something wrong in them, of every operation, by a seed: whatever comes is
//! answered, and never as a failure of the server's.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::api::{Api, START};
use super::tenants::operations;

/// How often each operation is asked.
const ROUNDS: u64 = 60;

/// What parsers stumble over.
const PIECES: [&[u8]; 24] = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\"",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9007199254740993",
    b"18446744073709551616",
    b"0.1",
    b"\r\n",
    b";",
    b"=cmd|' /C calc'!A0",
    b"\xe2\x80\xae",
    b"SKU",
];

fn mutate(chance: &mut StdRng, good: &[u8]) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..chance.random_range(1..=4) {
        let at = chance.random_range(0..=bytes.len());
        match chance.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.random_range(0..8),
            1 if at < bytes.len() => {
                bytes.remove(at);
            }
            2 => bytes.truncate(at),
            3 => {
                let copy = bytes[at..].to_vec();
                bytes.extend_from_slice(&copy);
            }
            _ => {
                let piece = PIECES[chance.random_range(0..PIECES.len())];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Writes any bytes so that they may stand in a path or a query.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_sent_is_answered_and_never_as_a_failure() {
    let api = Api::start().await;
    let bearer = format!("Bearer {}", super::api::token_with("acme", &trueup::auth::Scope::ALL));
    let mut chance = StdRng::seed_from_u64(START.unsigned_abs());
    let mut asked = 0;
    for operation in operations().iter().filter(|operation| !operation.is_stream()) {
        for round in 0..ROUNDS {
            let mut path = operation.path.clone();
            for parameter in ["sku", "channelId", "id", "deliveryId", "orgId", "vendor"] {
                let name = mutate(&mut chance, b"A-1_x");
                path = path.replace(&format!("{{{parameter}}}"), &escaped(&name));
            }
            if operation.method == "GET" && round % 2 == 0 {
                let cursor = mutate(&mut chance, b"eyJhIjoxfQ");
                let limit = mutate(&mut chance, b"10");
                path.push_str(&format!("?cursor={}&limit={}", escaped(&cursor), escaped(&limit)));
            }
            // An address that is mutated may be anybody's.
            let body = match operation.body {
                good if good.contains("http://") => Vec::new(),
                good => mutate(&mut chance, good.as_bytes()),
            };
            let key = escaped(&mutate(&mut chance, b"key"));
            let headers = [
                ("authorization", bearer.as_str()),
                ("orgid", "acme"),
                ("idempotency-key", key.as_str()),
                (
                    "content-type",
                    ["application/json", "text/csv", "x"][usize::from(round % 3 == 0)],
                ),
            ];
            let shown = String::from_utf8_lossy(&body).into_owned();
            let got = api.raw(&operation.method, &path, &headers, body).await;
            let status = got.status.as_u16();
            assert!(status < 500, "{} {path} {shown:?}: {status} {}", operation.method, got.text());
            asked += 1;
        }
    }
    assert!(asked > 4_000, "{asked}");
    api.stop().await;
}
