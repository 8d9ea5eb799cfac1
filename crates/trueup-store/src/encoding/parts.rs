//! Parts of bundles as JSON: `[[sku, units], …]`.

use trueup_core::Part;

use super::{Result, Text, borrow_json, json, parse_name, parse_quantity};

/// Returns parts as they are kept.
pub(crate) fn write(parts: &[Part]) -> Result<String> {
    let parts: Vec<_> = parts.iter().map(|part| (part.sku.as_str(), part.quantity.get())).collect();
    json(&parts)
}

/// Reads parts as they are kept.
pub(crate) fn read(text: &str) -> Result<Vec<Part>> {
    let part = |(sku, units): (Text<'_>, u64)| {
        Ok(Part { sku: parse_name(&sku.0)?, quantity: parse_quantity(units)? })
    };
    let parts: Vec<(Text<'_>, u64)> = borrow_json(text)?;
    parts.into_iter().map(part).collect()
}
