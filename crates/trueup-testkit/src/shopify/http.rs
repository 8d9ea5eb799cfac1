//! Shopify over HTTP: the token endpoint and the GraphQL endpoint.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Handle};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Map, Value, json};

use super::cost;
use super::graphql::{self, Document, Field, Kind, Operation, Selection};
use super::reads::{Thing, View, Wrong};
use super::state::{Event, SUBSCRIPTIONS_MAX, Subscription, gid};
use super::writes::{self, Call, Refusal, Verb};
use super::{
    ACCESS_TOKEN, Books, CLIENT_ID, CLIENT_SECRET, REFRESH_TOKEN_SECONDS, REFRESHED_TOKEN_SECONDS,
    SHOP, Simulator, TOKEN_SECONDS, events, refresh_ends,
};
use crate::consent;
use crate::edge::{json as answer, pairs, value, wrote};
use crate::faults::Trouble;
use crate::outbox::check_url;
use crate::shop::Shop;

/// Returns the scope that a root field asks for.
fn scope_of(field: &str) -> Option<&'static str> {
    match field {
        "inventorySetQuantities" | "inventoryAdjustQuantities" | "inventoryActivate" => {
            Some("write_inventory")
        }
        "inventoryItem" | "inventoryItems" => Some("read_inventory"),
        "productVariants" => Some("read_products"),
        "location" | "locations" => Some("read_locations"),
        "orders" => Some("read_orders"),
        _ => None,
    }
}

pub(super) fn routes(sim: Simulator) -> Router {
    Router::new()
        .route("/admin/oauth/authorize", get(authorize))
        .route("/admin/oauth/access_token", post(token))
        .route("/admin/api/{version}/graphql.json", post(admin))
        .with_state(sim)
}

pub(super) fn trouble(sim: &Simulator, trouble: Trouble) -> Response {
    match trouble {
        Trouble::Throttled => throttled(sim, 10, 0),
        Trouble::ServerError => {
            answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({"errors": "Internal Server Error"}))
        }
        Trouble::Unauthorized => unauthorized(),
        Trouble::Unavailable => {
            answer(StatusCode::SERVICE_UNAVAILABLE, &json!({"errors": "Service Unavailable"}))
        }
    }
}

fn unauthorized() -> Response {
    let words = "[API] Invalid API key or access token (unrecognized login or wrong password)";
    answer(StatusCode::UNAUTHORIZED, &json!({"errors": words}))
}

/// `GET /admin/oauth/authorize`: the consent page, signed on the way back.
async fn authorize(Handle(sim): Handle<Simulator>, RawQuery(query): RawQuery) -> Response {
    let query = pairs(query.unwrap_or_default().as_bytes());
    let field = |name| value(&query, name).unwrap_or_default();
    if field("client_id") != CLIENT_ID || field("scope").is_empty() {
        return consent::refuse("client_id or scope is wrong");
    }
    let code = sim.engine().give_code(field("redirect_uri"));
    let timestamp = sim.engine().clock.now().as_second().to_string();
    let state = field("state");
    let signed = format!("code={code}&shop={SHOP}&state={state}&timestamp={timestamp}");
    let hmac = hex::encode(events::mac(CLIENT_SECRET, signed.as_bytes()));
    let back = [
        ("code", code.as_str()),
        ("hmac", &hmac),
        ("shop", SHOP),
        ("state", state),
        ("timestamp", &timestamp),
    ];
    consent::send_back(field("redirect_uri"), &back)
}

/// `POST /admin/oauth/access_token`: codes, the client-credentials grant and refreshes.
async fn token(Handle(sim): Handle<Simulator>, body: Bytes) -> Response {
    let fields = match serde_json::from_slice::<Map<String, Value>>(&body) {
        Ok(fields) => fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
            .collect(),
        Err(_) => pairs(&body),
    };
    let field = |name| value(&fields, name).unwrap_or_default();
    if field("client_id") != CLIENT_ID || field("client_secret") != CLIENT_SECRET {
        return refused("invalid_client", "client_id or client_secret is wrong");
    }
    if sim.0.books.lock().shop.is_uninstalled {
        return refused("application_cannot_be_found", "the app is not installed on this shop");
    }
    let engine = sim.engine();
    let scopes = sim.0.scopes.lock().join(",");
    match field("grant_type") {
        // The exchange of a code names no grant type.
        "" if !field("code").is_empty() => {
            if !engine.take_code(field("code"), None) {
                let words = "the authorization code was not found or was already used";
                return refused("invalid_request", words);
            }
            if field("expiring") != "1" {
                return refused("invalid_request", "public apps take expiring tokens");
            }
            // Expiring tokens that were granted before end with this.
            let now = engine.clock.now();
            let refresh = sim.0.refresh_tokens.lock().begin("shprt_", refresh_ends(now));
            expiring(&sim, &scopes, &refresh)
        }
        "client_credentials" => {
            let token = engine.issue_token("shpca_", TOKEN_SECONDS);
            answer(
                StatusCode::OK,
                &json!({"access_token": token, "scope": scopes, "expires_in": TOKEN_SECONDS}),
            )
        }
        "refresh_token" => {
            let now = engine.clock.now();
            let ends = refresh_ends(now);
            let given = field("refresh_token");
            let replaced = sim.0.refresh_tokens.lock().replace(given, "shprt_", now, ends);
            let Some(refresh) = replaced else {
                return refused("invalid_grant", "the refresh token is not known");
            };
            expiring(&sim, &scopes, &refresh)
        }
        _ => refused("unsupported_grant_type", "use client_credentials or refresh_token"),
    }
}

/// Issues an access token that expires, and answers with it and its refresh token.
fn expiring(sim: &Simulator, scopes: &str, refresh: &str) -> Response {
    let token = sim.engine().issue_token("shpat_", REFRESHED_TOKEN_SECONDS);
    answer(
        StatusCode::OK,
        &json!({
            "access_token": token, "scope": scopes, "expires_in": REFRESHED_TOKEN_SECONDS,
            "refresh_token": refresh, "refresh_token_expires_in": REFRESH_TOKEN_SECONDS,
        }),
    )
}

fn refused(code: &str, words: &str) -> Response {
    answer(StatusCode::BAD_REQUEST, &json!({"error": code, "error_description": words}))
}

/// `POST /admin/api/{version}/graphql.json`.
async fn admin(
    Handle(sim): Handle<Simulator>,
    Path(version): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let token = headers.get("x-shopify-access-token").and_then(|value| value.to_str().ok());
    let token = token.unwrap_or_default();
    let is_good = token == ACCESS_TOKEN || sim.engine().token_good(token);
    if !is_good || sim.0.books.lock().shop.is_uninstalled {
        return unauthorized();
    }
    sim.drop_unserved();
    let Ok(Value::Object(mut request)) = serde_json::from_slice(&body) else {
        return answer(StatusCode::BAD_REQUEST, &json!({"errors": "Invalid JSON"}));
    };
    let text = request.get("query").and_then(Value::as_str).unwrap_or_default();
    let document = match graphql::parse(text) {
        Ok(document) => document,
        Err(error) => return top_level(&[("undefined", error.to_string())]),
    };
    let name = request.get("operationName").and_then(Value::as_str);
    let Some(operation) = chosen(&document, name) else {
        return top_level(&[("missingOperation", "No operation named like that".into())]);
    };
    let given = match request.get_mut("variables").map(Value::take) {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(given)) => given,
        Some(_) => return top_level(&[("BAD_REQUEST", "variables must be an object".into())]),
    };
    match variables(operation, given) {
        Ok(variables) => run(&sim, &version, &document, operation, &variables),
        Err(words) => top_level(&[("INVALID_VARIABLE", words)]),
    }
}

fn chosen<'a>(document: &'a Document, name: Option<&str>) -> Option<&'a Operation> {
    match name {
        None => document.operations.first(),
        Some(_) => document.operations.iter().find(|known| known.name.as_deref() == name),
    }
}

/// Fills in defaults; refuses a missing required variable.
fn variables(
    operation: &Operation,
    given: Map<String, Value>,
) -> Result<Map<String, Value>, String> {
    let mut filled = given;
    for known in &operation.variables {
        let name = &known.name;
        if !filled.contains_key(name)
            && let Some(default) = known.default.as_ref().and_then(|input| input.value(&filled))
        {
            filled.insert(name.clone(), default);
        }
        if known.required && filled.get(name).is_none_or(Value::is_null) {
            return Err(format!("Variable ${name} was provided invalid value: not null"));
        }
    }
    Ok(filled)
}

fn top_level(errors: &[(&str, String)]) -> Response {
    let error = |(code, message): &(&str, String)| {
        let extensions = json!({"code": code});
        json!({"message": message, "extensions": extensions})
    };
    answer(StatusCode::OK, &json!({"errors": errors.iter().map(error).collect::<Vec<_>>()}))
}

/// Runs an operation if the bucket can pay for it.
fn run(
    sim: &Simulator,
    version: &str,
    document: &Document,
    operation: &Operation,
    variables: &Map<String, Value>,
) -> Response {
    let engine = sim.engine();
    let now = engine.clock.now();
    let mut guard = sim.0.books.lock();
    let books = &mut *guard;
    let cost = cost::requested(operation, document, variables);
    if cost > cost::COST_MAX {
        let words = format!("Query cost is {cost}, which exceeds the single query max cost limit");
        return top_level(&[("MAX_COST_EXCEEDED", words)]);
    }
    if !books.bucket.take(now, cost) {
        let left = books.bucket.level(now);
        drop(guard);
        return throttled(sim, cost, left);
    }
    sim.0.engine.spend(cost);
    let mut data = Map::new();
    let mut errors = Vec::new();
    let mut events = Vec::new();
    for field in fields(document, &operation.selections) {
        let mut context = Context { sim, version, document, variables, books: &mut *books };
        let result = match (operation.kind, scope_of(&field.name)) {
            (_, Some(scope)) if !sim.grants(scope) => {
                let name = &field.name;
                let message = format!(
                    "Access denied for {name} field. Required access: `{scope}` access scope."
                );
                Err(Wrong { code: "ACCESS_DENIED", message })
            }
            (Kind::Query, _) if field.name == "currentAppInstallation" => {
                let scopes = sim.0.scopes.lock().clone();
                let handles = scopes.iter().map(|scope| json!({"handle": scope}));
                let installation = json!({"accessScopes": handles.collect::<Vec<_>>()});
                context.view().project(&Thing::Plain(installation), &field.selections)
            }
            (Kind::Query, _) => context.view().root(field),
            (Kind::Mutation, _) => context.mutate(field, &mut events),
        };
        let value = result.unwrap_or_else(|wrong| {
            errors.push(json!({
                "message": wrong.message,
                "path": [field.key],
                "locations": [{"line": 1, "column": 1}],
                "extensions": {"code": wrong.code},
            }));
            Value::Null
        });
        data.insert(field.key.clone(), value);
    }
    let left = books.bucket.level(now);
    drop(guard);
    sim.tell(events);
    let mut body =
        json!({"data": data, "extensions": {"cost": cost_body(sim, cost, Some(cost), left)}});
    if !errors.is_empty() {
        body["errors"] = Value::Array(errors);
    }
    let answer = answer(StatusCode::OK, &body);
    if operation.kind == Kind::Mutation { wrote(answer) } else { answer }
}

/// Returns the root fields, through fragments one level deep.
fn fields<'a>(document: &'a Document, selections: &'a [Selection]) -> Vec<&'a Field> {
    let mut found = Vec::new();
    for selection in selections {
        match selection {
            Selection::Field(field) => found.push(field),
            Selection::Inline(_, below) => found.extend(below.iter().filter_map(as_field)),
            Selection::Spread(name) => {
                let below = document.fragments.get(name);
                found.extend(below.into_iter().flatten().filter_map(as_field));
            }
        }
    }
    found
}

fn as_field(selection: &Selection) -> Option<&Field> {
    match selection {
        Selection::Field(field) => Some(field),
        Selection::Inline(..) | Selection::Spread(_) => None,
    }
}

fn cost_body(sim: &Simulator, requested: i64, actual: Option<i64>, left: i64) -> Value {
    let rate = sim.0.settings.bucket.times(sim.0.engine.hurry());
    json!({
        "requestedQueryCost": requested,
        "actualQueryCost": actual,
        "throttleStatus": {
            "maximumAvailable": rate.burst,
            "currentlyAvailable": left,
            "restoreRate": rate.milli_per_second / 1_000,
        },
    })
}

fn throttled(sim: &Simulator, cost: i64, left: i64) -> Response {
    let body = json!({
        "errors": [{"message": "Throttled", "extensions": {
            "code": "THROTTLED", "documentation": "https://shopify.dev/api/usage/rate-limits",
        }}],
        "extensions": {"cost": cost_body(sim, cost, None, left)},
    });
    answer(StatusCode::OK, &body)
}

struct Context<'a> {
    sim: &'a Simulator,
    version: &'a str,
    document: &'a Document,
    variables: &'a Map<String, Value>,
    books: &'a mut Books,
}

impl Context<'_> {
    fn view(&self) -> View<'_> {
        View { shop: &self.books.shop, document: self.document, variables: self.variables }
    }

    fn mutate(&mut self, field: &Field, events: &mut Vec<Event>) -> Result<Value, Wrong> {
        let arguments = self.view().arguments(field);
        let payload = match field.name.as_str() {
            "inventorySetQuantities" => self.change(Verb::Set, field, &arguments, events)?,
            "inventoryAdjustQuantities" => self.change(Verb::Adjust, field, &arguments, events)?,
            "inventoryActivate" => {
                if self.version >= writes::STRICT_SINCE && self.key(field).is_none() {
                    return Err(Wrong { code: "BAD_REQUEST", message: writes::UNKEYED.to_owned() });
                }
                let now = self.sim.engine().clock.now();
                let done = writes::activate(&mut self.books.shop, &arguments, now);
                events.extend(done.events);
                done.payload
            }
            "webhookSubscriptionCreate" => self.subscribe(&arguments),
            "webhookSubscriptionDelete" => self.unsubscribe(&arguments),
            name => {
                let message = format!("Field '{name}' doesn't exist on type 'Mutation'");
                return Err(Wrong { code: "undefinedField", message });
            }
        };
        self.view().project(&Thing::Plain(payload), &field.selections)
    }

    fn change(
        &mut self,
        verb: Verb,
        field: &Field,
        arguments: &Map<String, Value>,
        events: &mut Vec<Event>,
    ) -> Result<Value, Wrong> {
        let key = self.key(field);
        let call = Call {
            verb,
            version: self.version,
            input: arguments.get("input").unwrap_or(&Value::Null),
            key: key.as_deref(),
            now: self.sim.engine().clock.now(),
        };
        let faults = &self.sim.engine().faults;
        let done = writes::change(&mut self.books.shop, faults, &call)
            .map_err(|Refusal { code, message }| Wrong { code, message })?;
        events.extend(done.events);
        Ok(done.payload)
    }

    /// Returns the key of the `@idempotent` directive.
    fn key(&self, field: &Field) -> Option<String> {
        let (_, arguments) = field.directives.iter().find(|(name, _)| name == "idempotent")?;
        let (_, input) = arguments.iter().find(|(name, _)| name == "key")?;
        input.value(self.variables)?.as_str().filter(|key| !key.is_empty()).map(str::to_owned)
    }

    fn unsubscribe(&mut self, arguments: &Map<String, Value>) -> Value {
        let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
        let known = &mut self.books.shop.subscriptions;
        match known.iter().position(|known| gid("WebhookSubscription", known.id) == id) {
            Some(at) => {
                known.remove(at);
                json!({"deletedWebhookSubscriptionId": id, "userErrors": []})
            }
            None => {
                let words = "Webhook subscription does not exist";
                let error = json!({"field": ["id"], "message": words});
                json!({"deletedWebhookSubscriptionId": null, "userErrors": [error]})
            }
        }
    }

    fn subscribe(&mut self, arguments: &Map<String, Value>) -> Value {
        let refuse = |field: &str, words: &str| {
            let error = json!({"field": ["webhookSubscription", field], "message": words});
            json!({"webhookSubscription": null, "userErrors": [error]})
        };
        let topic = arguments.get("topic").and_then(Value::as_str).unwrap_or_default();
        let wanted = arguments.get("webhookSubscription");
        let uri = wanted.and_then(|wanted| wanted.get("uri").or_else(|| wanted.get("callbackUrl")));
        let uri = uri.and_then(Value::as_str).unwrap_or_default();
        if let Err(error) = check_url(uri) {
            return refuse("uri", &format!("Address {error}"));
        }
        let known = &self.books.shop.subscriptions;
        if known.iter().any(|known| known.topic == topic && known.uri == uri) {
            return refuse("uri", "Address for this topic has already been taken");
        }
        if known.len() >= SUBSCRIPTIONS_MAX {
            return refuse("uri", "too many subscriptions");
        }
        let fields = wanted.and_then(|wanted| wanted.get("includeFields")?.as_array());
        let fields = fields.into_iter().flatten().filter_map(|field| field.as_str());
        let fields = fields.map(str::to_owned).collect();
        self.books.shop.subscribed += 1;
        let id = self.books.shop.subscribed;
        let made = Subscription { id, topic: topic.into(), uri: uri.into(), fields };
        self.books.shop.subscriptions.push(made);
        json!({
            "webhookSubscription": {
                "id": gid("WebhookSubscription", id), "topic": topic, "uri": uri, "format": "JSON",
            },
            "userErrors": [],
        })
    }
}
