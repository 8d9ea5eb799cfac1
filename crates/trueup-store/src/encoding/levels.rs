//! Levels of SKUs as JSON: `[[location, on hand, reserved], …]`.

use smallvec::SmallVec;
use trueup_core::{Level, Location};

use super::{Result, Text, borrow_json, json, parse_delta, parse_quantity};

/// Returns levels as they are kept.
pub(crate) fn write(levels: &[Level]) -> Result<String> {
    let levels: SmallVec<[_; 4]> = levels
        .iter()
        .map(|level| (level.location.as_str(), level.on_hand.get(), level.reserved.get()))
        .collect();
    json(&levels.as_slice())
}

/// Reads levels as they are kept; `location` makes a location of its name.
pub(crate) fn read(
    text: &str,
    mut location: impl FnMut(&str) -> Result<Location>,
) -> Result<SmallVec<[Level; 1]>> {
    let level = |(name, on_hand, reserved): (Text<'_>, i64, u64)| {
        Ok(Level {
            location: location(&name.0)?,
            on_hand: parse_delta(on_hand)?,
            reserved: parse_quantity(reserved)?,
        })
    };
    let levels: Vec<(Text<'_>, i64, u64)> = borrow_json(text)?;
    levels.into_iter().map(level).collect()
}
