//! The program as a user runs it: a child process, spoken to over HTTP.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use trueup_test_store::TestStore;

pub(crate) const SECRET: &str = "a secret of the tests that is long enough";
/// The key of secrets, where one must be given.
pub(crate) const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const START_MAX: Duration = Duration::from_secs(30);

/// A server as a child process; killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts `trueup serve` on a free port and waits until it listens.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(&["--data-dir", data_dir.to_str().unwrap()], &[])
    }

    /// Starts it on a store of the kind that is being tested.
    pub(crate) fn start_at(store: &TestStore) -> Self {
        let place = place(store);
        Self::start_with(&place.each_ref().map(String::as_str), &[("TRUEUP_SECRET_KEY", KEY)])
    }

    /// Starts it with arguments and variables of the environment.
    pub(crate) fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trueup"))
            .args(["serve", "--listen", "127.0.0.1:0", "--allow-private-endpoints"])
            .args(arguments)
            .env("TRUEUP_JWT_SECRET", SECRET)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let url = listening(&mut child);
        Self { child, url }
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends it a signal, where it is still there.
    pub(crate) fn signal(&self, name: &str) {
        let (signal, pid) = (format!("-{name}"), self.child.id().to_string());
        assert!(Command::new("kill").args([&signal, &pid]).status().unwrap().success());
    }

    /// Returns whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end and returns whether it was in order.
    pub(crate) fn wait(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// Asks it to stop and returns whether it did so in order.
    pub(crate) fn terminate(self) -> bool {
        self.signal("TERM");
        self.wait()
    }
}

/// Reads the address that a child says it listens on; the rest of its talk is let go.
fn listening(child: &mut Child) -> String {
    let talk = BufReader::new(child.stderr.take().unwrap());
    let (found, url) = mpsc::channel();
    std::thread::spawn(move || {
        for line in talk.lines().map_while(Result::ok) {
            if let Some((_, url)) = line.split_once("listening on ") {
                drop(found.send(url.trim().to_owned()));
            }
        }
    });
    url.recv_timeout(START_MAX).expect("the program says where it listens")
}

/// Says in arguments where a store is.
pub(crate) fn place(store: &TestStore) -> [String; 2] {
    match store.dir() {
        Some(dir) => ["--data-dir".to_owned(), dir.to_str().unwrap().to_owned()],
        None => ["--store".to_owned(), store.url().unwrap()],
    }
}

/// Runs a command of the program to its end.
pub(crate) fn run(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_trueup"))
        .args(args)
        .env("TRUEUP_JWT_SECRET", SECRET)
        .output()
        .unwrap()
}

pub(crate) fn token(org: &str) -> String {
    let made = run(&["token", "--org", org]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// A client of one org.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Client {
    pub(crate) fn new(url: &str, token: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { http, url: url.to_owned(), token: token.to_owned() }
    }

    /// Calls a route under `/sales-channel`; `None` when no answer came.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        self.call_as(None, method, path, body).await
    }

    /// Calls a route under an idempotency key.
    pub(crate) async fn call_as(
        &self,
        key: Option<&str>,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self
            .http
            .request(method, format!("{}/sales-channel{path}", self.url))
            .bearer_auth(&self.token)
            .header("orgid", "acme");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// Returns whether the server says that it acknowledges changes.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    pub(crate) async fn must(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method, path, body).await.expect("an answer");
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}
