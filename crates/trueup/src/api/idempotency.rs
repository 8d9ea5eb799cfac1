//! `Idempotency-Key`: the same request twice has one effect and one answer.
//!
//! A request that is one ledger command hands its key to the store, which records the answer in
//! the transaction of the command ([`Incoming::submit`]). Every other POST and PUT looks for a
//! recorded answer first and records its own after ([`Incoming::once`]); between the two, a
//! guard in memory keeps a second one waiting.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use trueup_core::{Answer, Command, Org, Rejection, Source};
use trueup_store::{Idempotency, Outcome, Store, Submission};

use crate::api::extract::{Caller, Need};
use crate::api::problem::{Problem, overloaded};
use crate::api::reply::Reply;
use crate::api::{Answered, App, AppState, body};

/// The largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 10 << 20;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// How long a body may take to arrive.
const BODY_SECONDS_MAX: u64 = 60;
/// How long a second request waits for the first of the same key.
const TWIN_SECONDS_MAX: u64 = 65;
/// The most requests with keys that are guarded at once.
const GUARDED_MAX: usize = 10_000;

/// A request with its whole body.
pub struct Incoming {
    key: Option<Arc<str>>,
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Bytes,
}

impl FromRequest<AppState> for Incoming {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &AppState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let key = read_key(&parts.headers)?;
        let body = read_body(&parts.headers, body).await?;
        let target = match &key {
            Some(_) => parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned(),
            None => String::new(),
        };
        Ok(Self { key, method: parts.method, target, headers: parts.headers, body })
    }
}

fn read_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(first) = values.next() else { return Ok(None) };
    let text = first.to_str().ok().filter(|text| {
        (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
    });
    match text {
        Some(text) if values.next().is_none() => Ok(Some(Arc::from(text))),
        Some(_) | None => {
            let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters, given once";
            Err(Problem::bad("invalid_idempotency_key", detail))
        }
    }
}

/// Reads a body within the limits of size and time.
///
/// # Errors
/// 413 `body_too_large`, 408 `request_timeout`, 400 when it breaks off.
pub async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    read_body_within(headers, body, BODY_BYTES_MAX).await
}

/// Reads a body of so many bytes at the most within the limit of time.
///
/// # Errors
/// As [`read_body`].
pub(super) async fn read_body_within(
    headers: &HeaderMap,
    body: Body,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let too_large = || {
        let detail = format!("the body is larger than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
    };
    let length = headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: Option<u64> = length.and_then(|text| text.parse().ok());
    if length.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    let reading = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), reading).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::bad("incomplete_body", "the body broke off")),
        Err(_) => {
            let detail = "the body did not arrive in time";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
        }
    }
}

/// Makes the wire answer of a decision.
pub type Render = Arc<dyn Fn(&Result<Answer, Rejection>) -> Reply + Send + Sync>;

/// What came of a submitted command.
pub struct Submitted {
    /// The answer for the client.
    pub reply: Reply,
    /// What was decided now; `None` when the answer is a replay.
    pub decided: Option<Result<Answer, Rejection>>,
}

impl Incoming {
    /// Returns the raw body.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Parses the body.
    ///
    /// # Errors
    /// As [`body::parse`].
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        body::parse(&self.body)
    }

    /// Parses a body that may be absent.
    ///
    /// # Errors
    /// As [`body::parse`].
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        body::parse_optional(&self.body)
    }

    fn fingerprint(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.method.as_str())
            .chain_update(b" ")
            .chain_update(&self.target)
            .chain_update(b"\n")
            .chain_update(&self.body)
            .finalize()
            .into()
    }

    /// Submits the command that the request is, with its key.
    ///
    /// # Errors
    /// When the store did not decide.
    pub async fn submit<N: Need>(
        &self,
        app: &App,
        caller: &Caller<N>,
        command: Command,
        render: Render,
    ) -> Result<Submitted, Problem> {
        let idempotency = self.key.as_ref().map(|key| {
            let render = Arc::clone(&render);
            Idempotency {
                key: Arc::clone(key),
                fingerprint: self.fingerprint(),
                render: Arc::new(move |decided| render(decided).record()),
            }
        });
        let submission = Submission {
            org: caller.org.clone(),
            command,
            actor: Arc::clone(&caller.actor),
            source: Source::Api,
            idempotency,
        };
        Ok(match app.store.submit(submission).await? {
            Outcome::Decided(decided) => {
                Submitted { reply: render(&decided), decided: Some(decided) }
            }
            Outcome::Recorded(decided, recorded) => {
                Submitted { reply: Reply::recorded(recorded), decided: Some(decided) }
            }
            Outcome::Replayed(recorded) => {
                Submitted { reply: Reply::replayed(recorded), decided: None }
            }
        })
    }

    /// Does work that is not one command, at most once for the request's key.
    ///
    /// # Errors
    /// What the work says; 422 when the key was used with another request.
    pub async fn once<N: Need, F>(&self, app: &App, caller: &Caller<N>, work: F) -> Answered
    where
        F: Future<Output = Answered>,
    {
        let secretive = async { work.await.map(|reply| (reply, None)) };
        self.once_secretly(app, caller, secretive).await
    }

    /// The same for work whose answer holds a secret: what is kept is the second reply.
    ///
    /// # Errors
    /// As [`Incoming::once`].
    pub async fn once_secretly<N: Need, F>(
        &self,
        app: &App,
        caller: &Caller<N>,
        work: F,
    ) -> Answered
    where
        F: Future<Output = Result<(Reply, Option<Reply>), Problem>>,
    {
        let Some(key) = &self.key else { return work.await.map(|(reply, _)| reply) };
        let fingerprint = self.fingerprint();
        let guard = app.in_flight.enter(&caller.org, key).await?;
        if let Some(reply) = recorded(&*app.store, &caller.org, key, fingerprint).await? {
            return Ok(reply);
        }
        let answer = Box::pin(work).await;
        let kept = match &answer {
            Ok((_, Some(kept))) => kept.clone(),
            Ok((reply, None)) => reply.clone(),
            Err(problem) => problem.reply(),
        };
        if kept.is_definitive() {
            app.store.record(&caller.org, key, fingerprint, kept.record()).await?;
        }
        drop(guard);
        answer.map(|(reply, _)| reply)
    }
}

async fn recorded(
    store: &dyn Store,
    org: &Org,
    key: &str,
    fingerprint: [u8; 32],
) -> Result<Option<Reply>, Problem> {
    match store.recorded(org, key).await? {
        None => Ok(None),
        Some((known, _)) if known != fingerprint => {
            Err(trueup_store::StoreError::IdempotencyKeyReused.into())
        }
        Some((_, answer)) => Ok(Some(Reply::replayed(answer))),
    }
}

type Guards = FxHashMap<(Org, Arc<str>), Arc<tokio::sync::Mutex<()>>>;

/// The keys of requests that are being worked on.
#[derive(Default)]
pub struct InFlight {
    guards: Mutex<Guards>,
}

/// Keeps others with the same key waiting until it is dropped.
pub struct Guard<'a> {
    owner: &'a InFlight,
    name: (Org, Arc<str>),
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl InFlight {
    async fn enter(&self, org: &Org, key: &Arc<str>) -> Result<Guard<'_>, Problem> {
        let name = (org.clone(), Arc::clone(key));
        let lock = {
            let mut guards = self.guards.lock();
            if guards.len() >= GUARDED_MAX && !guards.contains_key(&name) {
                return Err(overloaded());
            }
            Arc::clone(guards.entry(name.clone()).or_default())
        };
        // Made before waiting, so that a request that is given up on leaves nothing behind.
        let mut guard = Guard { owner: self, name, held: None };
        let limit = Duration::from_secs(TWIN_SECONDS_MAX);
        match tokio::time::timeout(limit, lock.lock_owned()).await {
            Ok(held) => {
                guard.held = Some(held);
                Ok(guard)
            }
            Err(_) => {
                let detail = "a request with this Idempotency-Key is still being worked on";
                Err(Problem::new(StatusCode::CONFLICT, "idempotency_in_progress", detail)
                    .retry_after(1))
            }
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut guards = self.owner.guards.lock();
        // Only the map's own reference is left: nobody waits.
        if guards.get(&self.name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            guards.remove(&self.name);
        }
    }
}
