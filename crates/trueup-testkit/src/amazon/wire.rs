//! Amazon's JSON: what is read from patches and feeds, and how listings and orders are written.
//!
//! Sources: amzn/selling-partner-api-models, `listingsItems_2021-08-01`, `orders_2026-01-01`,
//! `fbaInventory`, and the listings-feed and notification schemas.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::state::{Change, Feed, Listing};
use super::{MARKETPLACE_ID, SELLER_ID};
use crate::shop::{FulfilledBy, OrderStatus, SimOrder};
use crate::time::{millis_text, plus_ms};

const AVAILABILITY: &str = "/attributes/fulfillment_availability";

/// A problem with a submission.
#[derive(Clone, Debug)]
pub(crate) struct Issue {
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) attribute: Option<&'static str>,
}

impl Issue {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), attribute: None }
    }

    fn availability(message: impl Into<String>) -> Self {
        Self { code: "90244", message: message.into(), attribute: Some("fulfillment_availability") }
    }

    pub(crate) fn json(&self) -> Value {
        let attributes: Vec<_> = self.attribute.into_iter().collect();
        json!({
            "code": self.code, "message": self.message, "severity": "ERROR",
            "attributeNames": attributes, "categories": ["INVALID_ATTRIBUTE"],
        })
    }
}

/// What is wrong with a patch document: the request itself, or what it says of the listing.
pub(crate) enum BadPatch {
    Request(String),
    Listing(Issue),
}

/// Reads the changes of a patch document; other attributes than availability are ignored.
pub(crate) fn changes(body: &Value) -> Result<Vec<Change>, BadPatch> {
    if body.get("productType").and_then(Value::as_str).is_none() {
        return Err(BadPatch::Request("productType is required".into()));
    }
    let patches = body.get("patches").and_then(Value::as_array).filter(|list| !list.is_empty());
    let patches = patches.ok_or_else(|| BadPatch::Request("patches is required".into()))?;
    let mut found = Vec::new();
    for patch in patches {
        found.extend(change(patch)?);
    }
    Ok(found)
}

fn change(patch: &Value) -> Result<Option<Change>, BadPatch> {
    let op = patch.get("op").and_then(Value::as_str).unwrap_or_default();
    if !["add", "replace", "merge", "delete"].contains(&op) {
        return Err(BadPatch::Request(format!("Invalid patch operation: '{op}'")));
    }
    match patch.get("path").and_then(Value::as_str) {
        None => return Err(BadPatch::Request("path is required".into())),
        Some(AVAILABILITY) => {}
        Some(path) if path.starts_with("/attributes/") => return Ok(None),
        Some(path) => return Err(BadPatch::Request(format!("Invalid path: '{path}'"))),
    }
    if op == "delete" {
        return Ok(Some(Change::Delete));
    }
    let values = patch.get("value").and_then(Value::as_array).filter(|list| !list.is_empty());
    let Some(values) = values else {
        let words = "'fulfillment_availability' is required but not supplied.";
        return Err(BadPatch::Listing(Issue::availability(words)));
    };
    let mut merchant = None;
    for value in values {
        let code = value.get("fulfillment_channel_code").and_then(Value::as_str);
        match code {
            Some("DEFAULT") => merchant = Some(value),
            Some(_) if value.get("quantity").is_some() => {
                let words = "quantity can not be set for an Amazon fulfillment channel";
                return Err(BadPatch::Listing(Issue::availability(words)));
            }
            Some(_) => {}
            None => {
                let words = "'fulfillment_channel_code' is required but not supplied.";
                return Err(BadPatch::Listing(Issue::availability(words)));
            }
        }
    }
    let Some(value) = merchant else { return Ok(None) };
    let quantity = match value.get("quantity") {
        None => None,
        Some(number) => Some(number.as_i64().filter(|number| *number >= 0).ok_or_else(|| {
            let words = format!("'{number}' is not a valid quantity: an integer of 0 or more");
            BadPatch::Listing(Issue::availability(words))
        })?),
    };
    let days = value.get("lead_time_to_ship_max_days").and_then(Value::as_u64);
    let lead_time_days = days.and_then(|days| u32::try_from(days).ok());
    Ok(Some(if op == "replace" {
        Change::Replace { quantity, lead_time_days }
    } else {
        Change::Merge { quantity, lead_time_days }
    }))
}

/// Returns a listing with the data sets that were asked for.
pub(crate) fn item(sku: &str, listing: &Listing, included: &[String]) -> Value {
    let mut item = json!({"sku": sku});
    let wanted = |name: &str| included.iter().any(|included| included == name);
    if included.is_empty() || wanted("summaries") {
        let mut status = vec!["DISCOVERABLE"];
        if listing.shown() > 0 {
            status.insert(0, "BUYABLE");
        }
        item["summaries"] = json!([{
            "marketplaceId": MARKETPLACE_ID, "asin": listing.asin(), "productType": "PRODUCT",
            "conditionType": "new_new",
            "status": status,
            "itemName": sku,
            "createdDate": millis_text(listing.created_at),
            "lastUpdatedDate": millis_text(listing.updated_at),
        }]);
    }
    if wanted("attributes") {
        let mut availability =
            json!({"fulfillment_channel_code": "DEFAULT", "marketplace_id": MARKETPLACE_ID});
        if let Some(quantity) = listing.merchant {
            availability["quantity"] = quantity.into();
        }
        if let Some(days) = listing.lead_time_days {
            availability["lead_time_to_ship_max_days"] = days.into();
        }
        item["attributes"] = json!({"fulfillment_availability": [availability]});
    }
    if wanted("issues") {
        item["issues"] = json!([]);
    }
    if wanted("offers") {
        item["offers"] = json!([{
            "marketplaceId": MARKETPLACE_ID, "offerType": "B2C",
            "price": {"currencyCode": "USD", "amount": "10.00"},
        }]);
    }
    if wanted("fulfillmentAvailability") {
        item["fulfillmentAvailability"] = listing.availability();
    }
    if wanted("productTypes") {
        item["productTypes"] = json!([{"marketplaceId": MARKETPLACE_ID, "productType": "PRODUCT"}]);
    }
    item
}

/// Returns an FBA summary.
pub(crate) fn summary(sku: &str, listing: &Listing, details: bool) -> Value {
    let mut summary = json!({
        "asin": listing.asin(), "fnSku": fnsku(listing), "sellerSku": sku,
        "condition": "NewItem", "lastUpdatedTime": millis_text(listing.updated_at),
        "productName": sku, "totalQuantity": listing.warehouse, "stores": [],
    });
    if details {
        summary["inventoryDetails"] = json!({
            "fulfillableQuantity": listing.warehouse, "inboundWorkingQuantity": 0,
            "inboundShippedQuantity": 0, "inboundReceivingQuantity": 0,
            "reservedQuantity": {
                "totalReservedQuantity": 0, "pendingCustomerOrderQuantity": 0,
                "pendingTransshipmentQuantity": 0, "fcProcessingQuantity": 0,
            },
        });
    }
    summary
}

/// Where an order stands at an instant: it is pending for a while first.
pub(crate) fn order_state(order: &SimOrder, pending_ms: u64, now: Timestamp) -> &'static str {
    match order.status {
        OrderStatus::Cancelled => "CANCELLED",
        OrderStatus::Shipped => "SHIPPED",
        OrderStatus::Open if now < plus_ms(order.created_at, pending_ms) => "PENDING",
        OrderStatus::Open => "UNSHIPPED",
    }
}

/// Returns an order of the 2026-01-01 API.
pub(crate) fn order(
    order: &SimOrder,
    by: FulfilledBy,
    state: &str,
    updated_at: Timestamp,
    included: &[String],
) -> Value {
    let includes = |name: &str| included.iter().any(|known| known == name);
    let (fulfillment, cancellation) = (includes("FULFILLMENT"), includes("CANCELLATION"));
    let shipped = if state == "SHIPPED" { order.quantity } else { 0 };
    let open = if state == "CANCELLED" { 0 } else { order.quantity - shipped };
    let mut line = json!({
        "orderItemId": order.line_id, "quantityOrdered": order.quantity,
        "product": {"asin": order.listing_id, "title": order.sku, "sellerSku": order.sku},
    });
    let mut body = json!({
        "orderId": order.order_id,
        "createdTime": millis_text(order.created_at),
        "lastUpdatedTime": millis_text(updated_at),
        "programs": [],
        "salesChannel": {
            "channelName": "AMAZON",
            "marketplaceId": MARKETPLACE_ID,
            "marketplaceName": "Amazon.com",
        },
    });
    if fulfillment {
        line["fulfillment"] = json!({"quantityFulfilled": shipped, "quantityUnfulfilled": open});
        let fulfilled_by = match by {
            FulfilledBy::Merchant => "MERCHANT",
            FulfilledBy::Channel => "AMAZON",
        };
        body["fulfillment"] = json!({"fulfillmentStatus": state, "fulfilledBy": fulfilled_by});
    }
    if state == "CANCELLED" && cancellation {
        line["cancellation"] =
            json!({"cancellationExecution": {"cancelledBy": "BUYER", "cancelReason": "OTHER"}});
    }
    body["orderItems"] = json!([line]);
    body
}

/// Returns an `ORDER_CHANGE` notification.
pub(crate) fn order_change(
    order: &SimOrder,
    by: FulfilledBy,
    status: &str,
    at: Timestamp,
) -> Value {
    let left = if status == "Canceled" { 0 } else { order.quantity };
    let mut line = json!({
        "OrderItemId": order.line_id, "SellerSKU": order.sku, "SupplySourceId": null,
        "Quantity": order.quantity, "QuantityShipped": 0, "IsBuyerRequestedCancel": false,
    });
    if status == "Unshipped" {
        line["OrderItemStatus"] = "Unshipped".into();
    }
    let payload = json!({"OrderChangeNotification": {
        "NotificationLevel": "OrderLevel",
        "SellerId": SELLER_ID,
        "AmazonOrderId": order.order_id,
        "OrderChangeType": "OrderStatusChange",
        "OrderChangeTrigger": {
            "TimeOfOrderChange": millis_text(at),
            "ChangeReason": if status == "Canceled" { "Buyer Requested Cancel" } else { "" },
        },
        "Summary": {
            "MarketplaceId": MARKETPLACE_ID,
            "OrderStatus": status,
            "PurchaseDate": millis_text(order.created_at),
            "DestinationPostalCode": null,
            "FulfillmentType": match by {
                FulfilledBy::Merchant => "MFN",
                FulfilledBy::Channel => "AFN",
            },
            "OrderType": "StandardOrder",
            "NumberOfItemsShipped": 0,
            "NumberOfItemsUnshipped": left,
            "OrderItems": [line],
        },
    }});
    notification("ORDER_CHANGE", &payload, at)
}

/// Returns a `LISTINGS_ITEM_MFN_QUANTITY_CHANGE` notification.
pub(crate) fn quantity_change(sku: &str, quantity: i64, at: Timestamp) -> Value {
    let payload = json!({
        "SellerId": SELLER_ID,
        "FulfillmentChannelCode": "DEFAULT",
        "Sku": sku,
        "Quantity": quantity,
    });
    notification("LISTINGS_ITEM_MFN_QUANTITY_CHANGE", &payload, at)
}

/// Returns an `FBA_INVENTORY_AVAILABILITY_CHANGES` notification.
pub(crate) fn fba_change(sku: &str, listing: &Listing, at: Timestamp) -> Value {
    let payload = json!({
        "SellerId": SELLER_ID, "FNSKU": fnsku(listing), "ASIN": listing.asin(), "SKU": sku,
        "FulfillmentInventoryByMarketplace": [{
            "MarketplaceId": MARKETPLACE_ID, "ItemName": sku, "Stores": [],
            "FulfillmentInventory": {
                "InboundQuantityBreakdown": {"Working": 0, "Shipped": 0, "Receiving": 0},
                "Fulfillable": listing.warehouse, "Unfulfillable": 0, "Researching": 0,
                "ReservedQuantityBreakdown": {
                    "WarehouseProcessing": 0, "WarehouseTransfer": 0, "PendingCustomerOrder": 0,
                },
                "FutureSupplyBuyable": 0, "PendingCustomerOrderInTransit": 0,
            },
        }],
    });
    notification("FBA_INVENTORY_AVAILABILITY_CHANGES", &payload, at)
}

/// Returns a `FEED_PROCESSING_FINISHED` notification.
pub(crate) fn feed_ended(id: u64, feed: &Feed) -> Value {
    let mut ended = json!({
        "sellerId": SELLER_ID, "accountId": format!("amzn1.merchant.o.{SELLER_ID}"),
        "feedId": id.to_string(), "feedType": feed.feed_type,
        "processingStatus": if feed.fatal { "FATAL" } else { "DONE" },
    });
    if let Some(result) = &feed.result {
        ended["resultFeedDocumentId"] = result.as_str().into();
    }
    let at = millis_text(feed.ends_at);
    json!({
        "notificationVersion": "2020-09-04",
        "notificationType": "FEED_PROCESSING_FINISHED",
        "payloadVersion": "2020-09-04",
        "eventTime": at,
        "payload": {"feedProcessingFinishedNotification": ended},
        "notificationMetadata": {
            "applicationId": "amzn1.sellerapps.app.sim",
            "subscriptionId": "subscription-sim",
            "publishTime": at,
            "notificationId": Uuid::new_v4().to_string(),
        },
    })
}

fn fnsku(listing: &Listing) -> String {
    format!("X00{:07}", listing.number)
}

fn notification(kind: &str, payload: &Value, at: Timestamp) -> Value {
    json!({
        "NotificationVersion": "1.0",
        "NotificationType": kind,
        "PayloadVersion": "1.0",
        "EventTime": millis_text(at),
        "Payload": payload,
        "NotificationMetadata": {
            "ApplicationId": "amzn1.sellerapps.app.sim",
            "SubscriptionId": "subscription-sim",
            "PublishTime": millis_text(at),
            "NotificationId": Uuid::new_v4().to_string(),
        },
    })
}
