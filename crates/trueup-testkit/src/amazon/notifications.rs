//! The Notifications API v1: destinations of the application, subscriptions of the seller.
//!
//! Source: amzn/selling-partner-api-models, `notifications.json`.

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State as Handle};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Simulator;
use super::http::{Operation, Wrong, bad, error, not_found, query_of, serve};
use crate::edge::{json as answer, value};
use crate::outbox::check_url;

/// What is sent to queues only.
pub(super) const QUEUE_TYPES: [&str; 3] =
    ["ORDER_CHANGE", "FBA_INVENTORY_AVAILABILITY_CHANGES", "FEED_PROCESSING_FINISHED"];
/// What is sent to event buses only.
const BUS_TYPES: [&str; 1] = ["LISTINGS_ITEM_MFN_QUANTITY_CHANGE"];
/// The most destinations.
const DESTINATIONS_MAX: usize = 100;
/// The longest name of a destination.
const NAME_CHARS_MAX: usize = 256;

/// A destination.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    id: String,
    name: String,
    resource: Value,
}

impl Destination {
    fn json(&self) -> Value {
        json!({"destinationId": self.id, "name": self.name, "resource": self.resource})
    }

    fn arn(&self) -> Option<&str> {
        self.resource.pointer("/sqs/arn").and_then(Value::as_str)
    }
}

/// A subscription to a type.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    id: String,
    destination_id: String,
}

impl Subscription {
    fn json(&self) -> Value {
        json!({
            "subscriptionId": self.id, "destinationId": self.destination_id,
            "payloadVersion": "1.0",
        })
    }
}

impl Simulator {
    /// Returns the address of the seller's queue where a type is subscribed to be sent there.
    pub(super) fn queue_for(&self, kind: &str) -> Option<String> {
        let url = self.0.settings.queue_url.clone().filter(|url| check_url(url).is_ok())?;
        let state = self.0.state.lock();
        let subscription = state.subscriptions.get(kind)?;
        let destination =
            state.destinations.iter().find(|known| known.id == subscription.destination_id)?;
        is_arn_of(destination.arn()?, &url).then_some(url)
    }

    /// Returns the types that are subscribed.
    #[must_use]
    pub fn subscribed(&self) -> Vec<String> {
        self.0.state.lock().subscriptions.keys().cloned().collect()
    }
}

/// Returns whether `arn:aws:sqs:<region>:<account>:<name>` names the queue of this URL.
fn is_arn_of(arn: &str, url: &str) -> bool {
    let mut of_arn = arn.rsplit(':');
    let mut of_url = url.rsplit('/');
    let (name, account) = (of_arn.next(), of_arn.next());
    name.is_some() && name == of_url.next() && account == of_url.next()
}

/// `GET /notifications/v1/destinations`.
pub(super) async fn get_destinations(
    Handle(sim): Handle<Simulator>,
    headers: HeaderMap,
) -> Response {
    serve(&sim, &headers, Operation::GetDestinations, || {
        let state = sim.0.state.lock();
        let list: Vec<Value> = state.destinations.iter().map(Destination::json).collect();
        Ok(answer(StatusCode::OK, &json!({"payload": list})))
    })
}

/// `POST /notifications/v1/destinations`.
pub(super) async fn create_destination(
    Handle(sim): Handle<Simulator>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    serve(&sim, &headers, Operation::CreateDestination, || {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
            return Err(bad("'name' must have 1 to 256 characters"));
        }
        let resource = resource_of(&body)?;
        let mut state = sim.0.state.lock();
        if state.destinations.len() >= DESTINATIONS_MAX {
            return Err(bad("too many destinations"));
        }
        if state.destinations.iter().any(|known| known.resource == resource) {
            let words = "The destination exists already";
            return Err(Box::new(error(StatusCode::CONFLICT, "Conflict", words)));
        }
        let id = Uuid::new_v4().to_string();
        let destination = Destination { id, name: name.to_owned(), resource };
        let body = json!({"payload": destination.json()});
        state.destinations.push(destination);
        Ok(answer(StatusCode::OK, &body))
    })
}

fn resource_of(body: &Value) -> Result<Value, Wrong> {
    let specification = body.get("resourceSpecification").cloned().unwrap_or_default();
    let text = |path: &str| specification.pointer(path).and_then(Value::as_str);
    if let Some(arn) = text("/sqs/arn") {
        let parts: Vec<&str> = arn.split(':').collect();
        let [_, _, _, region, account, name] = parts.as_slice() else {
            return Err(bad("'arn' is not the ARN of a queue"));
        };
        let is_whole = ![region, account, name].iter().any(|part| part.is_empty());
        if !arn.starts_with("arn:aws:sqs:") || !is_whole || name.ends_with(".fifo") {
            return Err(bad("'arn' is not the ARN of a standard queue"));
        }
        return Ok(json!({"sqs": {"arn": arn}}));
    }
    match (text("/eventBridge/accountId"), text("/eventBridge/region")) {
        (Some(account), Some(region)) => Ok(json!({"eventBridge": {
            "name": format!("aws.partner/sellingpartnerapi.amazon.com/{account}/sim"),
            "region": region, "accountId": account,
        }})),
        _ => Err(bad("'resourceSpecification' must hold 'sqs' or 'eventBridge'")),
    }
}

/// `GET /notifications/v1/subscriptions/{notificationType}`.
pub(super) async fn get_subscription(
    Handle(sim): Handle<Simulator>,
    Path(kind): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let query = query_of(query);
    serve(&sim, &headers, Operation::GetSubscription, || {
        let version = value(&query, "payloadVersion");
        let state = sim.0.state.lock();
        let known = state.subscriptions.get(&kind).filter(|_| version.is_none_or(|v| v == "1.0"));
        let known = known.ok_or_else(|| not_found("The subscription does not exist"))?;
        Ok(answer(StatusCode::OK, &json!({"payload": known.json()})))
    })
}

/// `POST /notifications/v1/subscriptions/{notificationType}`.
pub(super) async fn create_subscription(
    Handle(sim): Handle<Simulator>,
    Path(kind): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    serve(&sim, &headers, Operation::CreateSubscription, || {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |name: &str| body.get(name).and_then(Value::as_str);
        if text("payloadVersion") != Some("1.0") {
            return Err(bad("'payloadVersion' must be 1.0 here"));
        }
        let mut state = sim.0.state.lock();
        let id = text("destinationId").unwrap_or_default().to_owned();
        let destination = state.destinations.iter().find(|known| known.id == id);
        let destination = destination.ok_or_else(|| not_found("The destination does not exist"))?;
        let types: &[&str] = if destination.arn().is_some() { &QUEUE_TYPES } else { &BUS_TYPES };
        if !types.contains(&kind.as_str()) {
            return Err(bad("the notification type does not go to such a destination"));
        }
        if state.subscriptions.contains_key(&kind) {
            let words = "A subscription for this notification type exists already";
            return Err(Box::new(error(StatusCode::CONFLICT, "Conflict", words)));
        }
        let made = Subscription { id: Uuid::new_v4().to_string(), destination_id: id };
        let body = json!({"payload": made.json()});
        state.subscriptions.insert(kind, made);
        Ok(answer(StatusCode::OK, &body))
    })
}
