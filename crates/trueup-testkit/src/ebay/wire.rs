//! eBay's JSON: errors, inventory items, offers, orders and the bulk update.
//!
//! Sources: eBay Sell Inventory API 1.18.4, Fulfillment API 1.20.7, their error lists.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::state::{Item, Money, ORDER_CENTS, State};
use crate::faults::FaultDial;
use crate::shop::{OrderStatus, SimOrder};
use crate::time::millis_text;

/// The most inventory items in one bulk call.
pub const BULK_MAX: usize = 25;

/// Returns one error of eBay's error list.
pub(crate) fn error(id: u32, message: &str) -> Value {
    let system = matches!(id, 25_001 | 25_025);
    json!({
        "errorId": id,
        "domain": "API_INVENTORY",
        "category": if system { "APPLICATION" } else { "REQUEST" },
        "message": message,
        "longMessage": message,
        "parameters": [],
    })
}

/// A refusal of one item: the HTTP-like status and eBay's error.
struct Refused(u16, u32, &'static str);

/// Carries out `bulkUpdatePriceQuantity`; returns the answers and whether all succeeded.
pub(crate) fn bulk_update(
    state: &mut State,
    faults: &FaultDial,
    requests: &[Value],
    revisions_max: u32,
    now: Timestamp,
) -> (Vec<Value>, bool) {
    let mut answers = Vec::new();
    let mut all_good = true;
    let lies = faults.lies();
    for request in requests {
        let sku = request.get("sku").and_then(Value::as_str).unwrap_or_default();
        let offers = request.get("offers").and_then(Value::as_array);
        let offers: &[Value] = offers.map_or(&[], Vec::as_slice);
        let result = if lies {
            Ok(())
        } else {
            update(state, faults, sku, request, offers, revisions_max, now)
        };
        all_good &= result.is_ok();
        match &result {
            Ok(()) => state.counters.writes += 1,
            Err(_) => state.counters.writes_refused += 1,
        }
        let (status, errors) = match result {
            Ok(()) => (200, json!([])),
            Err(Refused(status, id, message)) => (status, json!([error(id, message)])),
        };
        let mut answer =
            json!({"sku": sku, "statusCode": status, "errors": errors, "warnings": []});
        if offers.is_empty() {
            answers.push(answer);
        } else {
            for offer in offers {
                answer["offerId"] = offer.get("offerId").cloned().unwrap_or_default();
                answers.push(answer.clone());
            }
        }
    }
    (answers, all_good)
}

fn update(
    state: &mut State,
    faults: &FaultDial,
    sku: &str,
    request: &Value,
    offers: &[Value],
    revisions_max: u32,
    now: Timestamp,
) -> Result<(), Refused> {
    let State { items, revisions, .. } = state;
    let Some(item) = items.get_mut(sku).filter(|item| !item.legacy) else {
        return Err(Refused(404, 25_702, "The SKU could not be found or is not available."));
    };
    if faults.poisons(sku) {
        return Err(Refused(400, 25_709, "Invalid value for the listing."));
    }
    if faults.busy() {
        let words = "A system error has occurred. Concurrent access of the same inventory.";
        return Err(Refused(500, 25_025, words));
    }
    let total = quantity(request.pointer("/shipToLocationAvailability/quantity"))?;
    let (mut offered, mut elsewhere) = (None, None);
    for offer in offers {
        let id = offer.get("offerId").and_then(Value::as_str);
        let told = quantity(offer.get("availableQuantity"))?;
        if id == Some(item.offer_id().as_str()) {
            offered = told.or(offered);
        } else if id.is_some() && id == item.other_offer_id().as_deref() {
            elsewhere = told.or(elsewhere);
        } else {
            return Err(Refused(404, 25_713, "This Offer is not available."));
        }
    }
    if total.or(offered).or(elsewhere).is_none() && offers.iter().all(|o| o.get("price").is_none())
    {
        return Err(Refused(400, 25_709, "Invalid value for quantity: nothing is given."));
    }
    if !revisions.revise(item.listing, now, revisions_max) {
        // eBay publishes neither id nor words for it.
        let words = "Cannot revise listing. The listing was revised too often today.";
        return Err(Refused(400, 25_019, words));
    }
    item.total = total.unwrap_or(item.total);
    item.offered = offered.or(item.offered);
    if let (Some(other), Some(told)) = (&mut item.elsewhere, elsewhere) {
        other.offered = told;
    }
    Ok(())
}

fn quantity(value: Option<&Value>) -> Result<Option<i64>, Refused> {
    let bad = Refused(400, 25_709, "Invalid value for quantity.");
    match value {
        None => Ok(None),
        Some(value) => match value.as_i64().filter(|number| *number >= 0) {
            Some(number) => Ok(Some(number)),
            None => Err(bad),
        },
    }
}

/// Returns an inventory item.
pub(crate) fn item(sku: &str, item: &Item) -> Value {
    json!({
        "sku": sku,
        "locale": "en_US",
        "condition": "NEW",
        "product": {"title": sku, "imageUrls": []},
        "availability": {"shipToLocationAvailability": {
            "quantity": item.total,
            "allocationByFormat": {"auction": 0, "fixedPrice": item.total},
        }},
    })
}

/// Returns the published offers of an inventory item, one on each marketplace.
pub(crate) fn offers(sku: &str, item: &Item) -> Vec<Value> {
    let mut offers = vec![offer(sku, item)];
    if let (Some(other), Some(id)) = (&item.elsewhere, item.other_offer_id()) {
        let mut there = offer(sku, item);
        there["offerId"] = id.into();
        there["marketplaceId"] = other.marketplace_id.as_str().into();
        there["availableQuantity"] = other.offered.into();
        offers.push(there);
    }
    offers
}

fn offer(sku: &str, item: &Item) -> Value {
    json!({
        "offerId": item.offer_id(),
        "sku": sku,
        "marketplaceId": "EBAY_US",
        "format": "FIXED_PRICE",
        "availableQuantity": item.shown(),
        "pricingSummary": {"price": {"value": "10.00", "currency": "USD"}},
        "listingDuration": "GTC",
        "status": "PUBLISHED",
        "listing": {
            "listingId": item.listing_id(),
            "listingStatus": if item.shown() > 0 { "ACTIVE" } else { "OUT_OF_STOCK" },
            "listingOnHold": false,
            "soldQuantity": item.sold,
        },
    })
}

/// Returns an order of the Fulfillment API.
pub(crate) fn order(order: &SimOrder, money: &Money) -> Value {
    let cancelled = order.status == OrderStatus::Cancelled;
    let shipped = if order.status == OrderStatus::Shipped { "FULFILLED" } else { "NOT_STARTED" };
    let total = amount(ORDER_CENTS);
    let paid = if money.unpaid { "PENDING" } else { "PAID" };
    let payment = match money.refunded() {
        _ if money.unpaid => "PENDING",
        _ if cancelled => "FULLY_REFUNDED",
        0 => "PAID",
        cents if cents < ORDER_CENTS => "PARTIALLY_REFUNDED",
        _ => "FULLY_REFUNDED",
    };
    let refund = |(at, (cents, date)): (usize, &(i64, Timestamp))| {
        json!({
            "refundId": format!("5{:09}{at}", order.number),
            "refundDate": millis_text(*date),
            "amount": amount(*cents),
        })
    };
    let refunds: Vec<Value> = money.refunds.iter().enumerate().map(refund).collect();
    let issued = refunds.iter().cloned().map(|mut refund| {
        refund["refundStatus"] = json!("REFUNDED");
        refund
    });
    json!({
        "orderId": order.order_id,
        "creationDate": millis_text(order.created_at),
        "lastModifiedDate": millis_text(order.updated_at),
        "orderFulfillmentStatus": shipped,
        "orderPaymentStatus": payment,
        "sellerId": "sim-seller",
        "buyer": {"username": "sim-buyer"},
        "cancelStatus": {
            "cancelState": if cancelled { "CANCELED" } else { "NONE_REQUESTED" },
            "cancelRequests": [],
        },
        "pricingSummary": {"total": total},
        "paymentSummary": {
            "payments": [{"paymentMethod": "EBAY", "paymentStatus": paid, "amount": total}],
            "refunds": issued.collect::<Vec<_>>(),
        },
        "lineItems": [{
            "lineItemId": order.line_id,
            "legacyItemId": order.listing_id,
            "sku": order.sku,
            "title": order.sku,
            "quantity": order.quantity,
            "soldFormat": "FIXED_PRICE",
            "listingMarketplaceId": "EBAY_US",
            "purchaseMarketplaceId": "EBAY_US",
            "lineItemFulfillmentStatus": shipped,
            "lineItemCost": total,
            "total": total,
            "refunds": refunds,
        }],
    })
}

fn amount(cents: i64) -> Value {
    json!({"value": format!("{}.{:02}", cents / 100, cents % 100), "currency": "USD"})
}
