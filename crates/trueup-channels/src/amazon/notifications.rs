//! The Notifications API v1: where Amazon sends which notifications.
//!
//! A destination belongs to the application, a subscription to the seller. What is there
//! already is left alone.
//! <https://developer-docs.amazon.com/sp-api/docs/notifications-api-v1-use-case-guide>

use http::Method;
use serde::{Deserialize, Serialize};

use super::auth::Grant;
use super::config::{EventBus, QueueAddress};
use super::{Seller, error, succeeded};
use crate::exchange::{Outgoing, clip, encode, parse_json};
use crate::port::{Caller, ChannelError, ChannelErrorKind, Response};

/// All operations of the API have the same usage plan.
pub(super) const BUCKET: &str = "notifications";
/// What Amazon sends to queues only, and to event buses only.
/// <https://developer-docs.amazon.com/sp-api/docs/notification-type-values>
const QUEUE_TYPES: [&str; 3] =
    ["ORDER_CHANGE", "FBA_INVENTORY_AVAILABILITY_CHANGES", "FEED_PROCESSING_FINISHED"];
const BUS_TYPES: [&str; 1] = ["LISTINGS_ITEM_MFN_QUANTITY_CHANGE"];
const PAYLOAD_VERSION: &str = "1.0";
/// What our destinations are called; `name` has at most 256 characters.
const NAME: &str = "trueup";

/// Where notifications go.
#[derive(Debug, Clone, Copy)]
enum Target<'a> {
    Queue(&'a QueueAddress),
    Bus(&'a EventBus),
}

impl Target<'_> {
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Queue(_) => &QUEUE_TYPES,
            Self::Bus(_) => &BUS_TYPES,
        }
    }

    fn is(self, resource: &Resource) -> bool {
        match self {
            Self::Queue(queue) => resource.sqs.as_ref().is_some_and(|sqs| sqs.arn == queue.arn),
            Self::Bus(bus) => resource.event_bridge.as_ref().is_some_and(|known| {
                known.account_id == bus.account_id && known.region == bus.region
            }),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateDestinationRequest<'a> {
    name: &'static str,
    resource_specification: ResourceSpecification<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum ResourceSpecification<'a> {
    Sqs {
        arn: &'a str,
    },
    #[serde(rename_all = "camelCase")]
    EventBridge {
        account_id: &'a str,
        region: &'a str,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreateSubscriptionRequest<'a> {
    payload_version: &'static str,
    destination_id: &'a str,
}

#[derive(Deserialize)]
struct Answer<T> {
    payload: Option<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destination {
    destination_id: String,
    resource: Resource,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    sqs: Option<SqsResource>,
    event_bridge: Option<EventBridgeResource>,
}

#[derive(Deserialize)]
struct SqsResource {
    arn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventBridgeResource {
    account_id: String,
    region: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    destination_id: String,
}

fn build_destination(target: Target<'_>) -> CreateDestinationRequest<'_> {
    let resource_specification = match target {
        Target::Queue(queue) => ResourceSpecification::Sqs { arn: &queue.arn },
        Target::Bus(bus) => {
            ResourceSpecification::EventBridge { account_id: &bus.account_id, region: &bus.region }
        }
    };
    CreateDestinationRequest { name: NAME, resource_specification }
}

fn parse_payload<T: for<'de> Deserialize<'de>>(what: &str, body: &[u8]) -> Result<T, ChannelError> {
    let answer: Answer<T> = parse_json(what, body)?;
    answer.payload.ok_or_else(|| {
        let detail = format!("the answer to {what} has no payload");
        ChannelError::new(ChannelErrorKind::Protocol, detail)
    })
}

/// See [`crate::port::Channel::subscribe`].
pub(super) async fn subscribe(
    seller: &Seller,
    caller: &dyn Caller,
) -> Result<Vec<String>, ChannelError> {
    let queue = seller.config.queue.as_ref().map(Target::Queue);
    let bus = seller.config.event_bus.as_ref().map(Target::Bus);
    let mut subscribed = Vec::new();
    let mut elsewhere = Vec::new();
    for target in queue.into_iter().chain(bus) {
        let destination = destination(seller, caller, target).await?;
        for kind in target.types() {
            let known = subscription(seller, caller, kind).await?;
            if known.as_ref().is_none_or(|known| *known == destination) {
                if known.is_none() {
                    create_subscription(seller, caller, kind, &destination).await?;
                }
                subscribed.push((*kind).to_owned());
            } else {
                elsewhere.push(*kind);
            }
        }
    }
    if elsewhere.is_empty() {
        return Ok(subscribed);
    }
    let detail =
        format!("notifications that go to another destination already: {}", elsewhere.join(", "));
    Err(ChannelError::new(ChannelErrorKind::Config, detail))
}

/// Returns the id of the destination of a target, which is made where there is none yet.
async fn destination(
    seller: &Seller,
    caller: &dyn Caller,
    target: Target<'_>,
) -> Result<String, ChannelError> {
    let url = format!("{}/notifications/v1/destinations", seller.config.host);
    let list = Outgoing::new(BUCKET, Method::GET, url.clone());
    let response = ask(seller, caller, Grant::Notifications, list).await?;
    let known: Vec<Destination> = parse_payload("getDestinations", &succeeded(response)?.body)?;
    let ours = known.into_iter().find(|known| target.is(&known.resource));
    if let Some(ours) = ours {
        return Ok(ours.destination_id);
    }
    let create = Outgoing::new(BUCKET, Method::POST, url).json(&build_destination(target)).once();
    let response = ask(seller, caller, Grant::Notifications, create).await?;
    let made: Destination = parse_payload("createDestination", &succeeded(response)?.body)?;
    Ok(made.destination_id)
}

/// Returns the destination of the seller's subscription to a type, where there is one.
async fn subscription(
    seller: &Seller,
    caller: &dyn Caller,
    kind: &str,
) -> Result<Option<String>, ChannelError> {
    let url = format!("{}?payloadVersion={PAYLOAD_VERSION}", subscription_url(seller, kind));
    let get = Outgoing::new(BUCKET, Method::GET, url);
    let response = ask(seller, caller, Grant::Seller, get).await?;
    if response.status == http::StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let known: Answer<Subscription> = parse_json("getSubscription", &succeeded(response)?.body)?;
    Ok(known.payload.map(|subscription| subscription.destination_id))
}

async fn create_subscription(
    seller: &Seller,
    caller: &dyn Caller,
    kind: &str,
    destination_id: &str,
) -> Result<(), ChannelError> {
    let body = CreateSubscriptionRequest { payload_version: PAYLOAD_VERSION, destination_id };
    let url = subscription_url(seller, kind);
    let create = Outgoing::new(BUCKET, Method::POST, url).json(&body).once();
    let response = ask(seller, caller, Grant::Seller, create).await?;
    if response.status.is_success() {
        return Ok(());
    }
    let error = error::classify(&response);
    let detail = format!("{kind} could not be subscribed: {}", clip(&error.detail));
    Err(ChannelError { detail, ..error })
}

fn subscription_url(seller: &Seller, kind: &str) -> String {
    format!("{}/notifications/v1/subscriptions/{}", seller.config.host, encode(kind))
}

async fn ask(
    seller: &Seller,
    caller: &dyn Caller,
    grant: Grant,
    request: Outgoing,
) -> Result<Response, ChannelError> {
    seller.send_as(grant, caller, BUCKET, request).await
}
