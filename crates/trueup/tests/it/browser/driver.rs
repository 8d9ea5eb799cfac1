//! Chromium, driven by the WebDriver protocol through Debian's `chromedriver`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";
/// Where it is set, a test that lacks the browser fails.
const REQUIRED: &str = "TRUEUP_REQUIRE_CHROMIUM";
/// How often a page is asked whether it is as it should be, and in which pauses.
const LOOKS_MAX: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);
/// The key under which WebDriver names elements.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Says loudly that something is not tested here, past what holds back the words of tests that
/// pass; or fails where it must be tested.
pub(super) fn skip(what: &str) {
    assert!(std::env::var_os(REQUIRED).is_none(), "{what}, and {REQUIRED} is set");
    drop(writeln!(std::io::stderr(), "SKIPPED: {what}"));
}

/// A browser with a profile of its own; closed when it is dropped.
pub(super) struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser ends when the pipe to its driver does.
        let pid = self.driver.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        drop(self.driver.wait());
    }
}

impl Browser {
    /// Starts a browser; `None` where there is none and none is required.
    pub(super) async fn start() -> Option<Self> {
        if !Path::new(CHROMIUM).exists() || !Path::new(DRIVER).exists() {
            skip("there is no chromium or no chromium-driver");
            return None;
        }
        let (driver, port) = spawn();
        let profile = tempfile::tempdir().unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let session = format!("http://127.0.0.1:{port}/session");
        let mut browser = Self { driver, http, session, _profile: profile };
        let wanted = wanted(browser._profile.path());
        let made = browser.call("POST", "", wanted).await.expect("a session");
        let id = made["sessionId"].as_str().expect("a session's id");
        browser.session = format!("{}/{id}", browser.session);
        Some(browser)
    }

    /// Sends a command; an error of WebDriver's is returned by its words.
    async fn call(&self, method: &str, path: &str, body: Value) -> Result<Value, String> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.session));
        if method == reqwest::Method::POST {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let is_success = answer.status().is_success();
        let mut answer: Value = answer.json().await.unwrap();
        let value = answer["value"].take();
        if is_success { Ok(value) } else { Err(value["message"].to_string()) }
    }

    pub(super) async fn open(&self, url: &str) {
        self.call("POST", "/url", json!({ "url": url })).await.unwrap();
    }

    /// Runs a function's body in the page and returns what it returns.
    pub(super) async fn run(&self, script: &str, arguments: &[Value]) -> Value {
        let body = json!({ "script": script, "args": arguments });
        self.call("POST", "/execute/sync", body)
            .await
            .unwrap_or_else(|why| panic!("{script}: {why}"))
    }

    /// Runs a function's body that calls the last of its arguments with its result.
    pub(super) async fn run_async(&self, script: &str) -> Value {
        let body = json!({ "script": script, "args": [] });
        self.call("POST", "/execute/async", body).await.unwrap_or_else(|why| panic!("{why}"))
    }

    async fn element(&self, css: &str) -> Result<String, String> {
        let body = json!({ "using": "css selector", "value": css });
        let found = self.call("POST", "/element", body).await?;
        Ok(found[ELEMENT].as_str().expect("an element").to_owned())
    }

    /// Clicks on an element, as soon as it is there.
    pub(super) async fn click(&self, css: &str) {
        self.with(css, "click", &json!({})).await;
    }

    /// Types into a field, in place of what stood there.
    pub(super) async fn fill(&self, css: &str, text: &str) {
        self.with(css, "clear", &json!({})).await;
        self.type_into(css, text).await;
    }

    /// Types into a field, or chooses a file.
    pub(super) async fn type_into(&self, css: &str, text: &str) {
        self.with(css, "value", &json!({ "text": text })).await;
    }

    /// Does something with an element; again where the page has replaced it in between.
    async fn with(&self, css: &str, verb: &str, body: &Value) {
        let mut why = String::new();
        for _ in 0..LOOKS_MAX {
            let done = match self.element(css).await {
                Ok(id) => self.call("POST", &format!("/element/{id}/{verb}"), body.clone()).await,
                Err(why) => Err(why),
            };
            match done {
                Ok(_) => return,
                Err(words) => why = words,
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("{verb} {css}: {why}");
    }

    /// Returns the text of an element; empty where there is none.
    pub(super) async fn text(&self, css: &str) -> String {
        let script = "return document.querySelector(arguments[0])?.innerText ?? ''";
        self.run(script, &[json!(css)]).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page's text has a word.
    pub(super) async fn sees(&self, word: &str) {
        let script = "return document.body.innerText.includes(arguments[0])";
        self.until(word, script, &[json!(word)]).await;
    }

    /// Waits until a script returns something that is true.
    pub(super) async fn until(&self, what: &str, script: &str, arguments: &[Value]) {
        for _ in 0..LOOKS_MAX {
            let body = json!({ "script": script, "args": arguments });
            // A page that is being left answers with an error.
            if self.call("POST", "/execute/sync", body).await == Ok(json!(true)) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("never seen: {what}; the page says: {}", self.text("body").await);
    }

    /// Sends a command of Chromium's own protocol.
    pub(super) async fn chromium(&self, command: &str, parameters: Value) {
        let body = json!({ "cmd": command, "params": parameters });
        self.call("POST", "/goog/cdp/execute", body).await.unwrap();
    }

    pub(super) async fn cookies(&self) -> Value {
        self.call("GET", "/cookie", Value::Null).await.unwrap()
    }

    pub(super) async fn accept_alert(&self) {
        self.call("POST", "/alert/accept", json!({})).await.unwrap();
    }

    /// Returns the console's errors since the last time.
    pub(super) async fn errors(&self) -> Vec<String> {
        let entries = self.log("browser").await;
        let is_error = |entry: &&Value| entry["level"] == "SEVERE";
        entries.iter().filter(is_error).map(|entry| entry["message"].to_string()).collect()
    }

    /// Returns the addresses that pages have asked for since the last time; not those of what the
    /// browser shows by itself before the first page.
    pub(super) async fn requests(&self) -> Vec<String> {
        let entries = self.log("performance").await;
        let events = entries.iter().filter_map(|entry| entry["message"].as_str());
        let events = events.filter_map(|text| serde_json::from_str::<Value>(text).ok());
        let events = events.map(|mut event| event["message"].take());
        let sent = events.filter(|event| event["method"] == "Network.requestWillBeSent");
        let sent = sent.map(|mut event| event["params"].take());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        sent.filter(|sent| text(&sent["documentURL"]).starts_with("http"))
            .map(|sent| text(&sent["request"]["url"]))
            .collect()
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let entries = self.call("POST", "/se/log", json!({ "type": kind })).await.unwrap();
        entries.as_array().cloned().unwrap_or_default()
    }
}

/// Starts the driver on a free port, which it tells.
fn spawn() -> (Child, u16) {
    let mut driver = Command::new(DRIVER)
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut talk = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = talk.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    });
    // What it says later is read, so that it never waits for a reader.
    std::thread::spawn(move || talk.map_while(Result::ok).for_each(drop));
    (driver, port.expect("the driver's port"))
}

fn wanted(profile: &Path) -> Value {
    let profile = format!("--user-data-dir={}", profile.display());
    json!({ "capabilities": { "alwaysMatch": {
        "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        "goog:chromeOptions": { "binary": CHROMIUM, "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--disable-dev-shm-usage", "--remote-debugging-pipe", "--window-size=1200,900",
            // Nothing outside has an address.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", profile,
        ] },
    } } })
}
