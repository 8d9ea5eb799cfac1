//! Items of reservations as JSON: `[[sku, location or null, units], …]`.

use smallvec::SmallVec;
use trueup_core::{Item, Location};

use super::{Result, Text, borrow_json, json, parse_name, parse_quantity};

/// Returns items as they are kept.
pub(crate) fn write(items: &[Item]) -> Result<String> {
    let items: SmallVec<[_; 4]> = items
        .iter()
        .map(|i| (i.sku.as_str(), i.location.as_ref().map(Location::as_str), i.quantity.get()))
        .collect();
    json(&items.as_slice())
}

/// Reads items as they are kept.
pub(crate) fn read(text: &str) -> Result<SmallVec<[Item; 1]>> {
    let item = |(sku, location, units): (Text<'_>, Option<Text<'_>>, u64)| {
        Ok(Item {
            sku: parse_name(&sku.0)?,
            location: location.map(|location| parse_name(&location.0)).transpose()?,
            quantity: parse_quantity(units)?,
        })
    };
    let items: Vec<(Text<'_>, Option<Text<'_>>, u64)> = borrow_json(text)?;
    items.into_iter().map(item).collect()
}
