//! A market of simulated channels around a server, for `demo`, `replay` and `bench`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Map, Value, json};
use trueup_testkit::{
    AnySimulator, Chance, Faults, SeedItem, SimServer, amazon, ebay, shopify, spawn,
};

/// The most simulated channels.
pub const CHANNELS_MAX: usize = 3;
/// How often a discovery under way is asked for again.
const DISCOVERY_WAITS_MAX: usize = 60;
/// What signs the simulated channels' webhooks.
const WEBHOOK_SECRET: &str = "market-webhook-secret";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Why the market could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MarketError {
    /// A simulator could not listen.
    #[error("start a simulator: {0}")]
    Spawn(#[from] std::io::Error),
    /// A simulator refused.
    #[error("simulator: {0}")]
    Shop(String),
    /// The server could not be reached.
    #[error("call the server: {0}")]
    Http(#[from] reqwest::Error),
    /// The server refused.
    #[error("the server answered {status} to {what}: {body}")]
    Refused {
        /// What was asked.
        what: String,
        /// The status.
        status: u16,
        /// The answer.
        body: String,
    },
}

/// A client of the server's own API, as a merchant's engineer would write it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
    org: String,
}

impl Client {
    /// Makes a client for one org.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(url: &str, token: &str, org: &str) -> Result<Self, MarketError> {
        let http = reqwest::Client::builder().timeout(REQUEST_TIMEOUT).no_proxy().build()?;
        let own = |text: &str| text.to_owned();
        Ok(Self { http, url: own(url), token: own(token), org: own(org) })
    }

    /// Returns the server's URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Calls a route under `/sales-channel`; a refusal is an answer too.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value), MarketError> {
        let mut request = self
            .http
            .request(method, format!("{}/sales-channel{path}", self.url))
            .bearer_auth(&self.token)
            .header("orgid", &self.org);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await?;
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    /// Calls a route and takes only success.
    ///
    /// # Errors
    /// [`MarketError::Refused`] otherwise.
    pub async fn must(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, MarketError> {
        let what = format!("{method} {path}");
        let (status, answer) = self.call(method, path, body).await?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(MarketError::Refused { what, status, body: answer.to_string() })
    }
}

/// A simulated channel that listens on loopback.
pub struct Stall {
    /// The connection's id, which is the vendor's word.
    pub channel: &'static str,
    /// The shop.
    pub shop: AnySimulator,
    server: SimServer,
}

/// Simulated Shopify, Amazon and eBay, connected to a server.
pub struct Market {
    /// The channels.
    pub stalls: Vec<Stall>,
}

impl Market {
    /// Starts the first `count` channels with these listings, and connects them: enabled, mapped
    /// by discovery, their webhooks sent to the server. With a queue's URL, Amazon sends to that
    /// SQS queue what it sends to queues, and the server receives it from there.
    ///
    /// # Errors
    /// [`MarketError`] says what stands in the way.
    pub async fn open(
        client: &Client,
        count: usize,
        items: &[SeedItem],
        poll_minutes: u32,
        queue_url: Option<&str>,
    ) -> Result<Self, MarketError> {
        let shopify_settings = shopify::Settings {
            // Far above any plan, as for Amazon and eBay below, so that a recorded history can be
            // replayed fast.
            bucket: trueup_testkit::limits::Rate { milli_per_second: 2_000_000, burst: 20_000 },
            ..shopify::Settings::default()
        };
        let ebay_settings =
            ebay::Settings { revisions_max: 1_000_000, ..ebay::Settings::default() };
        let amazon_settings = amazon::Settings {
            rate_scale: 5_000,
            apply_ms: 300,
            queue_url: queue_url.map(str::to_owned),
            ..amazon::Settings::default()
        };
        let all: [AnySimulator; CHANNELS_MAX] = [
            shopify::Simulator::new(shopify_settings).into(),
            amazon::Simulator::new(amazon_settings).into(),
            ebay::Simulator::new(ebay_settings).into(),
        ];
        let mut stalls = Vec::new();
        for shop in all.into_iter().take(count) {
            let stall = Stall::open(shop, items.to_vec()).await?;
            stall.connect(client, poll_minutes).await?;
            stalls.push(stall);
        }
        Ok(Self { stalls })
    }

    /// Turns faults on: late, lost, repeated and reordered webhooks, throttling, errors, broken
    /// connections after the write was applied.
    pub fn trouble(&self, seed: u64) {
        for (stall, nth) in self.stalls.iter().zip(0_u64..) {
            stall.shop.set_faults(Faults {
                seed: Some(seed + nth),
                webhook_lag_ms: 50,
                webhook_lost: Chance::per_mille(20),
                webhook_duplicated: Chance::per_mille(50),
                webhook_reordered: Chance::per_mille(50),
                throttled: Chance::per_mille(20),
                server_error: Chance::per_mille(20),
                dropped_after: Chance::per_mille(10),
                busy: Chance::per_mille(5),
                ..Faults::default()
            });
        }
    }

    /// Turns faults off.
    pub fn calm(&self) {
        for stall in &self.stalls {
            stall.shop.set_faults(Faults::default());
        }
    }

    /// Stops every simulator.
    pub async fn close(self) {
        for stall in self.stalls {
            stall.close().await;
        }
    }
}

impl Stall {
    /// Starts a simulator with these listings.
    ///
    /// # Errors
    /// [`MarketError`] where it refuses them or cannot listen.
    pub async fn open(shop: AnySimulator, items: Vec<SeedItem>) -> Result<Self, MarketError> {
        shop.seed(items).map_err(|error| MarketError::Shop(error.to_string()))?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let server = spawn(shop.clone(), any).await?;
        Ok(Self { channel: shop.vendor().as_str(), shop, server })
    }

    /// Enables the channel with what the simulator asks for, and what `add` adds to it.
    ///
    /// # Errors
    /// What the server refuses.
    pub async fn enable(
        &self,
        client: &Client,
        add: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), MarketError> {
        let mut config = self.shop.channel_config(&self.server.url);
        if let Value::Object(config) = &mut config {
            config.insert("syncInventory".to_owned(), json!(true));
            add(config);
        }
        let enable = format!("/channels/{}/enable", self.channel);
        client.must(Method::POST, &enable, Some(&config)).await?;
        Ok(())
    }

    /// Stops the simulator.
    pub async fn close(self) {
        self.server.shutdown().await;
    }

    async fn connect(&self, client: &Client, poll_minutes: u32) -> Result<(), MarketError> {
        let Self { channel, shop, .. } = self;
        let add = |config: &mut Map<String, Value>| {
            config.insert("pollIntervalMinutes".to_owned(), json!(poll_minutes));
            let credentials = config.entry("credentials").or_insert_with(|| json!({}));
            if let (Value::Object(credentials), false) = (credentials, *channel == "ebay") {
                credentials.insert("webhookSecret".to_owned(), json!(WEBHOOK_SECRET));
            }
        };
        self.enable(client, add).await?;
        let discover = format!("/channels/{channel}/mappings/discover");
        // Asked for again while it is under way, the answer is of the same discovery.
        let body = json!({ "dryRun": false });
        for _ in 0..DISCOVERY_WAITS_MAX {
            let found = client.must(Method::POST, &discover, Some(&body)).await?;
            if found["status"] != "running" {
                break;
            }
        }
        let hook = format!("{}/upstream/webhooks/{}/{channel}", client.url, client.org);
        let set = shop.set_webhook(&hook, WEBHOOK_SECRET);
        set.map_err(|error| MarketError::Shop(error.to_string()))
    }
}
