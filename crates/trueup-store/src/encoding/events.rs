//! What subscribers are told of the facts of the ledger: events and their bodies.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trueup_core::{Event, Movement, OrderId, ReservationId, ReservationStatus, Sku, Timestamp};

/// One thing to tell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    /// The event, such as `inventory.updated`.
    pub(crate) event: &'static str,
    /// Its body.
    pub(crate) body: Value,
    /// When it happened.
    pub(crate) at: Timestamp,
}

/// Returns what is told of facts: a SKU's last state once, however often it moved. `order_of` finds
/// the order of a reservation.
///
/// # Errors
/// Those of `order_of`.
pub(crate) fn told<E>(
    events: &[Event],
    mut order_of: impl FnMut(ReservationId) -> Result<Option<OrderId>, E>,
) -> Result<Vec<Told>, E> {
    let mut updated: BTreeMap<&Sku, &Movement> = BTreeMap::new();
    let mut all = Vec::new();
    for event in events {
        if let Event::Moved(movement) = event {
            updated.insert(&movement.sku, movement);
        }
        if let Event::Ended { id, status: ReservationStatus::Expired, at } = event {
            let order = order_of(*id)?;
            let body = json!({
                "reservationId": id.to_string(),
                "orderId": order.as_ref().map(OrderId::as_str),
            });
            all.push(Told { event: "reservation.expired", body, at: *at });
        }
        all.extend(outgoing(event));
    }
    all.extend(updated.into_values().map(of_movement));
    Ok(all)
}

fn of_movement(movement: &Movement) -> Told {
    let body = json!({
        "sku": movement.sku.as_str(),
        "quantity": movement.quantity_after.get(),
        "reserved": movement.reserved_after.get(),
        "version": movement.seq,
        "kind": movement.kind.as_str(),
        "delta": movement.delta.get(),
        "reservedDelta": movement.reserved_delta.get(),
        "reason": movement.reason.as_deref(),
    });
    Told { event: "inventory.updated", body, at: movement.at }
}

fn outgoing(event: &Event) -> Option<Told> {
    match event {
        Event::LowStock { sku, quantity, threshold, at } => {
            let body = json!({
                "sku": sku.as_str(),
                "quantity": quantity.get(),
                "lowStockThreshold": threshold.get(),
            });
            Some(Told { event: "inventory.low_stock", body, at: *at })
        }
        Event::Oversold { sku, by, at } => {
            let body = json!({ "sku": sku.as_str(), "oversoldBy": by.get() });
            Some(Told { event: "inventory.oversold", body, at: *at })
        }
        Event::Ended { .. }
        | Event::Moved(_)
        | Event::BundleDefined { .. }
        | Event::BundleTouched { .. }
        | Event::PublishAsked { .. }
        | Event::Held(_)
        | Event::Extended { .. }
        | Event::Listing(_)
        | Event::LineBooked { .. }
        | Event::ConflictFlagged(_)
        | Event::ConflictClosed { .. } => None,
    }
}
