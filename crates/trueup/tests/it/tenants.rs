//! Who may do what, and that nobody sees anything of another org: every operation of the
//! description, for every role, with objects of one's own and of somebody else's.
//!
//! An operation that has no row here fails the test, so a new route cannot be forgotten.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};
use trueup::api::openapi;
use trueup::auth::Scope;
use trueup_testkit::{AnySimulator, SeedItem, SimServer, shopify, spawn};

use super::api::{Api, Got};

/// What an operation asks for: any one of these scopes. Without any it is public.
type Need = &'static [Scope];

const READ: Need = &[Scope::Read];
const STOCK: Need = &[Scope::InventoryWrite];
const HOLD: Need = &[Scope::ReservationsWrite];
const ADMIN: Need = &[Scope::ChannelsAdmin];
const SYNC: Need = &[Scope::InventoryWrite, Scope::ChannelsAdmin];
const PUBLIC: Need = &[];

/// What stands in everything that the first org has.
const MARK: &str = "zebra";

/// Every operation with what it asks for and a body that it takes; `SKU` is the SKU of the path.
const ROWS: &[(&str, Need, &str)] = &[
    ("GET /connect/{vendor}/auth-url", ADMIN, ""),
    ("GET /connect/{vendor}/callback", PUBLIC, ""),
    ("GET /healthz", PUBLIC, ""),
    ("GET /metrics", PUBLIC, ""),
    ("GET /openapi.json", PUBLIC, ""),
    ("GET /readyz", PUBLIC, ""),
    ("GET /sales-channel/channels", READ, ""),
    ("GET /sales-channel/channels/{channelId}", READ, ""),
    ("DELETE /sales-channel/channels/{channelId}", ADMIN, ""),
    ("POST /sales-channel/channels/{channelId}/backtest", READ, "{}"),
    ("GET /sales-channel/channels/{channelId}/blast-radius", READ, ""),
    ("PUT /sales-channel/channels/{channelId}/blast-radius", ADMIN, r#"{"zeroPercent":50}"#),
    ("POST /sales-channel/channels/{channelId}/disable", ADMIN, ""),
    ("POST /sales-channel/channels/{channelId}/enable", ADMIN, r#"{"syncInventory":true}"#),
    ("GET /sales-channel/channels/{channelId}/listings", READ, ""),
    ("GET /sales-channel/channels/{channelId}/mappings", READ, ""),
    ("PUT /sales-channel/channels/{channelId}/mappings", ADMIN, r#"{"mappings":[]}"#),
    ("POST /sales-channel/channels/{channelId}/mappings/discover", ADMIN, "{}"),
    ("GET /sales-channel/channels/{channelId}/mappings/export", READ, ""),
    ("POST /sales-channel/channels/{channelId}/mappings/import", ADMIN, "sku\nA\n"),
    ("GET /sales-channel/channels/{channelId}/mappings/{sku}", READ, ""),
    ("PUT /sales-channel/channels/{channelId}/mappings/{sku}", ADMIN, r#"{"listing":{}}"#),
    ("DELETE /sales-channel/channels/{channelId}/mappings/{sku}", ADMIN, ""),
    ("GET /sales-channel/channels/{channelId}/orders", READ, ""),
    ("POST /sales-channel/channels/{channelId}/resume", ADMIN, ""),
    ("GET /sales-channel/channels/{channelId}/status", READ, ""),
    ("POST /sales-channel/channels/{channelId}/what-if", READ, r#"{"buffer":1}"#),
    ("GET /sales-channel/cluster", ADMIN, ""),
    ("GET /sales-channel/events", READ, ""),
    ("GET /sales-channel/inventory", READ, ""),
    ("GET /sales-channel/inventory/alerts/low-stock", READ, ""),
    ("PUT /sales-channel/inventory/bulk/update", STOCK, r#"{"items":[]}"#),
    ("GET /sales-channel/inventory/conflicts", READ, ""),
    (
        "POST /sales-channel/inventory/conflicts/{id}/resolve",
        ADMIN,
        r#"{"resolution":"use_master"}"#,
    ),
    ("POST /sales-channel/inventory/conflicts/{id}/undo", ADMIN, ""),
    ("GET /sales-channel/inventory/diff/skus", READ, ""),
    ("GET /sales-channel/inventory/drift", READ, ""),
    ("GET /sales-channel/inventory/export", READ, ""),
    ("POST /sales-channel/inventory/import", STOCK, "sku,quantity\n"),
    ("POST /sales-channel/inventory/pull/{channelId}", SYNC, "{}"),
    ("GET /sales-channel/inventory/reservation/{id}", READ, ""),
    ("POST /sales-channel/inventory/reservation/{id}/commit", HOLD, ""),
    ("POST /sales-channel/inventory/reservation/{id}/extend", HOLD, r#"{"ttlSeconds":60}"#),
    ("POST /sales-channel/inventory/reservation/{id}/release", HOLD, ""),
    ("GET /sales-channel/inventory/reservations", READ, ""),
    (
        "POST /sales-channel/inventory/reserve",
        HOLD,
        r#"{"orderId":"o","items":[{"sku":"SKU","quantity":1}]}"#,
    ),
    (
        "POST /sales-channel/inventory/reserve/batch",
        HOLD,
        r#"{"reservations":[{"orderId":"o","items":[{"sku":"SKU","quantity":1}]}]}"#,
    ),
    ("POST /sales-channel/inventory/sync", SYNC, "{}"),
    ("POST /sales-channel/inventory/sync/{channelId}", SYNC, "{}"),
    ("GET /sales-channel/inventory/{sku}", READ, ""),
    ("PUT /sales-channel/inventory/{sku}", STOCK, r#"{"quantity":1}"#),
    ("POST /sales-channel/inventory/{sku}/adjust", STOCK, r#"{"delta":-1}"#),
    (
        "PUT /sales-channel/inventory/{sku}/bundle",
        STOCK,
        r#"{"parts":[{"sku":"SKU","quantity":1}]}"#,
    ),
    ("GET /sales-channel/inventory/{sku}/channels", READ, ""),
    ("GET /sales-channel/inventory/{sku}/diff", READ, ""),
    ("GET /sales-channel/inventory/{sku}/explain", READ, ""),
    ("GET /sales-channel/inventory/{sku}/history", READ, ""),
    ("POST /sales-channel/inventory/{sku}/pause", ADMIN, ""),
    ("POST /sales-channel/inventory/{sku}/resume", ADMIN, ""),
    ("GET /sales-channel/keys", ADMIN, ""),
    ("POST /sales-channel/keys", ADMIN, r#"{"subject":"x","scopes":[]}"#),
    ("DELETE /sales-channel/keys/{id}", ADMIN, ""),
    ("GET /sales-channel/sync/history", READ, ""),
    ("POST /sales-channel/sync/pause", ADMIN, ""),
    ("GET /sales-channel/sync/paused", READ, ""),
    ("POST /sales-channel/sync/resume", ADMIN, ""),
    ("GET /sales-channel/sync/runs", READ, ""),
    ("GET /sales-channel/sync/runs/{id}", READ, ""),
    ("POST /sales-channel/sync/runs/{id}/cancel", ADMIN, ""),
    ("POST /sales-channel/sync/runs/{id}/confirm", ADMIN, ""),
    ("GET /sales-channel/sync/runs/{id}/items", READ, ""),
    ("POST /sales-channel/sync/runs/{id}/undo", ADMIN, ""),
    ("GET /sales-channel/webhooks", READ, ""),
    (
        "POST /sales-channel/webhooks",
        ADMIN,
        r#"{"url":"http://127.0.0.1:9/x","events":["inventory.updated"]}"#,
    ),
    ("GET /sales-channel/webhooks/{id}", READ, ""),
    (
        "PUT /sales-channel/webhooks/{id}",
        ADMIN,
        r#"{"url":"http://127.0.0.1:9/x","events":["inventory.updated"]}"#,
    ),
    ("DELETE /sales-channel/webhooks/{id}", ADMIN, ""),
    ("GET /sales-channel/webhooks/{id}/deliveries", READ, ""),
    ("POST /sales-channel/webhooks/{id}/deliveries/{deliveryId}/replay", ADMIN, ""),
    ("POST /sales-channel/webhooks/{id}/rotate-secret", ADMIN, ""),
    ("POST /upstream/inventory-check/{orgId}/{channelId}", PUBLIC, "{}"),
    ("POST /upstream/inventory-check/{orgId}/{channelId}/token", PUBLIC, ""),
    ("GET /upstream/webhooks/{orgId}/{channelId}", PUBLIC, ""),
    ("POST /upstream/webhooks/{orgId}/{channelId}", PUBLIC, "{}"),
];

/// An operation of the description.
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    need: Need,
    pub(super) body: &'static str,
}

impl Operation {
    /// Its answer never ends.
    pub(super) fn is_stream(&self) -> bool {
        self.path == "/sales-channel/events"
    }

    fn has_names(&self) -> bool {
        self.path.contains('{')
    }

    /// Which objects are named in its path, by these names.
    fn filled(&self, names: &Names) -> String {
        let mut path = self.path.clone();
        for (parameter, name) in names.of(&self.path) {
            path = path.replace(&format!("{{{parameter}}}"), &name);
        }
        path
    }

    fn body(&self, names: &Names) -> String {
        self.body.replace("SKU", &names.sku)
    }
}

/// Reads the description and the rows, which must be of the same operations.
pub(super) fn operations() -> Vec<Operation> {
    let mut rows: BTreeMap<&str, (Need, &'static str)> =
        ROWS.iter().map(|(name, need, body)| (*name, (*need, *body))).collect();
    assert_eq!(rows.len(), ROWS.len(), "a row is there twice");
    let document: Value = serde_json::from_str(&openapi()).unwrap();
    let mut operations = Vec::new();
    let mut missing = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, _) in item.as_object().unwrap().iter().filter(|(_, o)| o.is_object()) {
            let method = method.to_uppercase();
            let name = format!("{method} {path}");
            match rows.remove(name.as_str()) {
                Some((need, body)) => {
                    operations.push(Operation { method, path: path.clone(), need, body });
                }
                None => missing.push(name),
            }
        }
    }
    assert_eq!(missing, [""; 0], "operations without a row");
    assert!(rows.is_empty(), "rows without an operation: {rows:?}");
    operations
}

/// The names of objects in paths.
#[derive(Debug, Clone, Default)]
struct Names {
    org: String,
    sku: String,
    channel: String,
    reservation: String,
    key: String,
    webhook: String,
    delivery: String,
    run: String,
    conflict: String,
}

impl Names {
    /// Names that nothing anywhere has.
    fn of_nothing() -> Self {
        Self {
            org: "nobody".to_owned(),
            sku: "nothing-A".to_owned(),
            channel: "nothing-shop".to_owned(),
            reservation: "res_0123456789abcdef0123456789abcdef".to_owned(),
            key: "0123456789abcdef".to_owned(),
            webhook: "whk_0123456789abcdef".to_owned(),
            delivery: "msg_0123456789abcdef".to_owned(),
            run: "01a2255444e77c088e2d04daa18103f5".to_owned(),
            conflict: "999999".to_owned(),
        }
    }

    fn of(&self, path: &str) -> Vec<(&'static str, String)> {
        let id = match path
            .split('/')
            .find(|part| ["reservation", "keys", "webhooks", "runs", "conflicts"].contains(part))
        {
            Some("reservation") => &self.reservation,
            Some("keys") => &self.key,
            Some("webhooks") => &self.webhook,
            Some("runs") => &self.run,
            Some(_) | None => &self.conflict,
        };
        vec![
            ("sku", self.sku.clone()),
            ("channelId", self.channel.clone()),
            ("deliveryId", self.delivery.clone()),
            ("orgId", self.org.clone()),
            ("vendor", "shopify".to_owned()),
            ("id", id.clone()),
        ]
    }

    /// Puts the same words in place of these names in an answer.
    fn hidden(&self, text: &str) -> String {
        let all = [
            &self.sku,
            &self.channel,
            &self.reservation,
            &self.key,
            &self.webhook,
            &self.delivery,
            &self.run,
            &self.conflict,
        ];
        let mut text = text.to_owned();
        for name in all.into_iter().filter(|name| name.len() > 3) {
            text = text.replace(name.as_str(), "NAME");
        }
        text
    }
}

/// An org that has something of everything.
struct Rich {
    api: Api,
    names: Names,
    _shop: SimServer,
}

impl Rich {
    async fn new() -> Self {
        let api = Api::start_public("https://trueup.example").await;
        let simulator = AnySimulator::from(shopify::Simulator::new(shopify::Settings::default()));
        let sku = format!("{MARK}-A");
        simulator.seed(vec![SeedItem::new(&sku, 10)]).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let shop = spawn(simulator.clone(), any).await.unwrap();
        let post = async |path: &str, body: Value| -> Value {
            let got = api.call("POST", path, &body.to_string()).await;
            assert!(got.status.is_success(), "{path}: {}", got.text());
            serde_json::from_str(&got.text()).unwrap_or_default()
        };
        let hook = json!({
            "url": format!("http://127.0.0.1:9/{MARK}"), "events": ["inventory.updated"],
        });
        let hook = post("/webhooks", hook).await;
        let reason =
            json!({ "quantity": 10, "reason": format!("{MARK} count"), "lowStockThreshold": 20 });
        api.call("PUT", &format!("/inventory/{sku}"), &reason.to_string()).await.is(200);
        let channel = format!("{MARK}-shop");
        let mut config = simulator.channel_config(&shop.url);
        config["syncInventory"] = json!(true);
        config["kind"] = json!("shopify");
        config["conflictStrategy"] = json!("manual");
        post(&format!("/channels/{channel}/enable"), config).await;
        post(&format!("/channels/{channel}/mappings/discover"), json!({})).await;
        let run = post(&format!("/inventory/sync/{channel}"), json!({})).await;
        api.settle().await;
        api.advance(60);
        simulator.set_quantity(&sku, 3).unwrap();
        post(&format!("/inventory/pull/{channel}"), json!({})).await;
        api.settle().await;
        let held =
            json!({ "orderId": format!("{MARK}-order"), "items": [{ "sku": sku, "quantity": 1 }] });
        let held = post("/inventory/reserve", held).await;
        let key = json!({ "subject": format!("{MARK} robot"), "scopes": ["inventory:write"] });
        let key = post("/keys", key).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let first = async |path: &str, field: &str| {
            let list = api.get(path).await.is(200);
            match &list["items"][0][field] {
                Value::String(text) => text.clone(),
                Value::Null => panic!("{path} is empty: {list}"),
                other => other.to_string(),
            }
        };
        let webhook = text(&hook["id"]);
        let names = Names {
            org: "acme".to_owned(),
            sku,
            channel,
            reservation: text(&held["reservationId"]),
            key: text(&key["id"]),
            delivery: first(&format!("/webhooks/{webhook}/deliveries"), "id").await,
            webhook,
            run: text(&run["runId"]),
            conflict: first("/inventory/conflicts", "id").await,
        };
        Self { api, names, _shop: shop }
    }

    /// Returns everything that the org can read.
    async fn everything(&self, operations: &[Operation]) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let reads = operations.iter().filter(|o| {
            o.method == "GET" && o.path.starts_with("/sales-channel/") && !o.is_stream()
        });
        for operation in reads {
            let path = operation.filled(&self.names);
            let got = self.api.of("acme", &Scope::ALL, "GET", &path).await;
            assert_eq!(got.status.as_u16(), 200, "{path}: {}", got.text());
            found.insert(path, got.text());
        }
        found
    }
}

/// Asks as an org with scopes.
async fn ask(api: &Api, org: &str, scopes: &[Scope], what: &Operation, names: &Names) -> Got {
    let bearer = format!("Bearer {}", super::api::token_with(org, scopes));
    let headers = [("authorization", bearer.as_str()), ("orgid", org)];
    api.raw(&what.method, &what.filled(names), &headers, what.body(names)).await
}

/// What of an answer may depend on which object was asked for.
fn told(got: &Got, names: &Names) -> (u16, Vec<(String, String)>, String) {
    let skipped = ["x-request-id", "date", "content-length", "etag", "set-cookie", "location"];
    let headers = got.headers();
    let headers = headers.into_iter().filter(|(name, _)| !skipped.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name, names.hidden(&value))).collect();
    let mut body = names.hidden(&got.text());
    // Ids that are made for the answer.
    if let Ok(mut json) = serde_json::from_str::<Value>(&body) {
        for field in ["reservationId", "id", "key", "secret", "runId", "url"] {
            blank(&mut json, field);
        }
        body = json.to_string();
    }
    (got.status.as_u16(), headers, body)
}

fn blank(value: &mut Value, field: &str) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if name == field && member.is_string() {
                    *member = json!("MADE");
                }
                blank(member, field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| blank(item, field)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_operation_is_open_to_its_roles_and_closed_to_all_others() {
    let api = Api::start().await;
    let names = Names::of_nothing();
    let mut asked = 0;
    for operation in operations().iter().filter(|operation| !operation.need.is_empty()) {
        let Operation { method, path, need, .. } = operation;
        let filled = operation.filled(&names);
        api.raw(method, &filled, &[], "").await.is_problem(401, "token_missing");
        let bearer = format!("Bearer {}", super::api::token_with("robots", &Scope::ALL));
        let foreign = [("authorization", bearer.as_str()), ("orgid", "acme")];
        let got = api.raw(method, &filled, &foreign, operation.body(&names)).await;
        got.is_problem(403, "org_forbidden");
        for bits in 0..8_u8 {
            let mut scopes = Vec::new();
            for (bit, scope) in Scope::ALL.into_iter().skip(1).enumerate() {
                if bits >> bit & 1 == 1 {
                    scopes.push(scope);
                }
            }
            let may = need.iter().any(|need| *need == Scope::Read || scopes.contains(need));
            if may && operation.is_stream() {
                continue;
            }
            // The body is garbage, so that nothing is done by who may.
            let bearer = format!("Bearer {}", super::api::token_with("robots", &scopes));
            let headers = [("authorization", bearer.as_str()), ("orgid", "robots")];
            let got = api.raw(method, &filled, &headers, "garbage").await;
            let status = got.status.as_u16();
            assert_eq!(
                matches!(status, 401 | 403),
                !may,
                "{method} {path} with {scopes:?}: {}",
                got.text()
            );
            if !may {
                got.is_problem(403, "scope_missing");
            }
            assert!(status < 500, "{method} {path}: {}", got.text());
            asked += 1;
        }
    }
    assert!(asked > 8 * 60, "{asked}");
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_org_has_answers_as_if_it_did_not_exist() {
    let rich = Rich::new().await;
    let operations = operations();
    let before = rich.everything(&operations).await;
    let marked = before.values().filter(|text| text.contains(MARK)).count();
    assert!(marked > 20, "only {marked} answers are of something");
    let nothing = Names::of_nothing();
    for (number, operation) in operations.iter().enumerate() {
        let Operation { method, path, need, .. } = operation;
        if operation.is_stream() {
            continue;
        }
        if need.is_empty() {
            // Nobody has said who they are: what is there looks like what is not.
            if operation.path.contains("{orgId}") {
                let there = rich.api.raw(method, &operation.filled(&rich.names), &[], "{}").await;
                let absent = rich.api.raw(method, &operation.filled(&nothing), &[], "{}").await;
                assert!(!there.text().contains("zebra-A"), "{method} {path}");
                assert!(there.status.is_client_error() && absent.status.is_client_error());
            }
            continue;
        }
        // Each by an org of its own, so that none finds what another has made.
        let (one, other) = (format!("rival-{number}"), format!("other-{number}"));
        let there = ask(&rich.api, &one, &Scope::ALL, operation, &rich.names).await;
        let absent = ask(&rich.api, &other, &Scope::ALL, operation, &nothing).await;
        assert_eq!(told(&there, &rich.names), told(&absent, &nothing), "{method} {path}");
        let text = rich.names.hidden(&there.text());
        assert!(!text.contains(MARK), "{method} {path}: {text}");
        let is_made = matches!(path.as_str(), p if p.contains("/inventory/{sku}"));
        if operation.has_names() && !path.starts_with("/connect") && !is_made {
            assert!(there.status.is_client_error(), "{method} {path}: {}", there.text());
        }
    }
    let after = rich.everything(&operations).await;
    // Budgets and tries go on by themselves.
    let stays = |path: &&String| !path.ends_with("/status") && !path.ends_with("/deliveries");
    for path in before.keys().filter(stays) {
        assert_eq!(after[path], before[path], "{path} was changed");
    }
    rich.api.stop().await;
}
