//! Holds of reservations and of order lines, as JSON: `[[sku, location, units], …]`.
//!
//! One form for both, because `verify` adds them up in one statement.

use smallvec::SmallVec;
use trueup_core::Hold;

use super::{Result, Text, borrow_json, json, parse_name, parse_quantity};

/// Returns holds as they are kept.
pub(crate) fn write(holds: &[Hold]) -> Result<String> {
    let holds: SmallVec<[_; 4]> = holds
        .iter()
        .map(|hold| (hold.sku.as_str(), hold.location.as_str(), hold.quantity.get()))
        .collect();
    json(&holds.as_slice())
}

/// Reads holds as they are kept.
pub(crate) fn read(text: &str) -> Result<SmallVec<[Hold; 1]>> {
    let hold = |(sku, location, units): (Text<'_>, Text<'_>, u64)| {
        Ok(Hold {
            sku: parse_name(&sku.0)?,
            location: parse_name(&location.0)?,
            quantity: parse_quantity(units)?,
        })
    };
    let holds: Vec<(Text<'_>, Text<'_>, u64)> = borrow_json(text)?;
    holds.into_iter().map(hold).collect()
}
