//! Publishing rules and limits as JSON in a column, and the rules in force of a mapping over a
//! connection.

use serde::{Deserialize, Serialize};
use trueup_core::{Location, Quantity, Rules};

use super::{Corrupt, Result, borrow_json, json, parse_name, parse_quantity};
use crate::{BlastRadius, RuleSettings};

/// [`RuleSettings`] as a column keeps them; what is not set is not written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RulesColumn {
    #[serde(skip_serializing_if = "Option::is_none")]
    buffer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_quantity: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_below: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    units_per_listing: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locations: Option<Vec<String>>,
}

impl From<&RuleSettings> for RulesColumn {
    fn from(settings: &RuleSettings) -> Self {
        let names = |places: &Vec<Location>| places.iter().map(Location::to_string).collect();
        Self {
            buffer: settings.buffer.map(Quantity::get),
            percent: settings.percent,
            max_quantity: settings.max_quantity.map(Quantity::get),
            zero_below: settings.zero_below.map(Quantity::get),
            units_per_listing: settings.units_per_listing.map(Quantity::get),
            locations: settings.locations.as_ref().map(names),
        }
    }
}

impl TryFrom<RulesColumn> for RuleSettings {
    type Error = Corrupt;

    fn try_from(column: RulesColumn) -> Result<Self> {
        let quantity = |units: Option<u64>| units.map(parse_quantity).transpose();
        let places = |names: Vec<String>| names.iter().map(|name| parse_name(name)).collect();
        Ok(Self {
            buffer: quantity(column.buffer)?,
            percent: column.percent,
            max_quantity: quantity(column.max_quantity)?,
            zero_below: quantity(column.zero_below)?,
            units_per_listing: quantity(column.units_per_listing)?,
            locations: column.locations.map(places).transpose()?,
        })
    }
}

/// Returns rules as they are kept.
pub(crate) fn write(settings: &RuleSettings) -> Result<String> {
    json(&RulesColumn::from(settings))
}

/// Reads rules as they are kept.
pub(crate) fn read(text: &str) -> Result<RuleSettings> {
    borrow_json::<RulesColumn>(text)?.try_into()
}

/// Returns the rules in force: the mapping's over the connection's over the defaults.
///
/// Units per listing and locations are a mapping's alone: they say what the listing is made of.
#[must_use]
pub fn in_force(mapping: &RuleSettings, connection: &RuleSettings) -> Rules {
    let default = Rules::default();
    Rules {
        locations: mapping.locations.clone(),
        buffer: mapping.buffer.or(connection.buffer).unwrap_or(default.buffer),
        percent: mapping.percent.or(connection.percent).unwrap_or(default.percent),
        units_per_listing: mapping.units_per_listing.unwrap_or(default.units_per_listing),
        max_quantity: mapping.max_quantity.or(connection.max_quantity),
        zero_below: mapping.zero_below.or(connection.zero_below).unwrap_or(default.zero_below),
    }
}

/// [`BlastRadius`] as a column keeps it; what is not set is not written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct BlastColumn {
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zero_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change_number: Option<u64>,
}

/// Returns limits as they are kept.
pub(crate) fn write_blast_radius(limits: BlastRadius) -> Result<String> {
    let BlastRadius { zero_percent, zero_number, change_percent, change_number } = limits;
    json(&BlastColumn { zero_percent, zero_number, change_percent, change_number })
}

/// Reads limits as they are kept.
pub(crate) fn read_blast_radius(text: &str) -> Result<BlastRadius> {
    let column: BlastColumn = borrow_json(text)?;
    let BlastColumn { zero_percent, zero_number, change_percent, change_number } = column;
    Ok(BlastRadius { zero_percent, zero_number, change_percent, change_number })
}
