//! What both stores keep in a column in the same way: enumerations as words and numbers, and what
//! is never searched as JSON.
//!
//! Records are read the same way in both ([`records`]), from rows that each store has its own
//! columns of ([`columns`]); how they are written is each store's own. What is written here is part
//! of the stores' formats: a change is a migration of both.

pub(crate) mod codec;
pub(crate) mod columns;
pub(crate) mod conflicts;
pub(crate) mod events;
pub(crate) mod feeds;
pub(crate) mod holds;
pub(crate) mod items;
pub(crate) mod levels;
pub(crate) mod listings;
pub(crate) mod parts;
pub(crate) mod records;
pub(crate) mod rules;
pub(crate) mod words;

use std::borrow::Cow;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use trueup_core::{Delta, NameError, Quantity, Sku};

use crate::UnmappedLine;

/// A column holds what its type does not allow, or a value does not fit its column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the rows make no sense: {0}")]
pub(crate) struct Corrupt(pub(crate) String);

/// What the functions of this folder return.
pub(crate) type Result<T> = std::result::Result<T, Corrupt>;

/// A text in JSON, borrowed where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// Returns a value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Corrupt(format!("write JSON: {error}")))
}

/// Returns a value that was kept as JSON.
pub(crate) fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    borrow_json(text)
}

/// Returns a value that was kept as JSON and borrows from it.
pub(crate) fn borrow_json<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Corrupt(format!("read JSON: {error}")))
}

/// Returns a name that was kept as text.
pub(crate) fn parse_name<T: FromStr<Err = NameError>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| Corrupt(format!("the name {text:?} {error}")))
}

/// Returns SKUs that were kept as a JSON array.
pub(crate) fn parse_skus(text: &str) -> Result<Vec<Sku>> {
    borrow_json::<Vec<Text<'_>>>(text)?.iter().map(|name| parse_name(&name.0)).collect()
}

/// Returns a quantity that was kept as a number.
pub(crate) fn parse_quantity(units: u64) -> Result<Quantity> {
    Quantity::new(units).ok_or_else(|| Corrupt(format!("{units} is not a quantity")))
}

/// Returns a signed number of units that was kept as a number.
pub(crate) fn parse_delta(units: i64) -> Result<Delta> {
    Delta::new(units).ok_or_else(|| Corrupt(format!("{units} is not a number of units")))
}

/// Returns a count that was kept as a signed number.
pub(crate) fn parse_count(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| Corrupt(format!("the count {number} is negative")))
}

/// Returns a counter as SQL keeps it.
pub(crate) fn stored(count: u64) -> Result<i64> {
    i64::try_from(count).map_err(|_| Corrupt(format!("the number {count} is too large to keep")))
}

/// Returns a limit as SQL counts.
pub(crate) fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Returns a pattern of `LIKE … ESCAPE '\'` for texts that contain this one.
pub(crate) fn containing(search: &str) -> String {
    let escaped = search.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    format!("%{escaped}%")
}

/// Returns the units cancelled of a line as SQL keeps them: the line as a whole is told as the
/// largest number there is.
pub(crate) fn stored_cancelled(line: &UnmappedLine) -> i64 {
    line.cancelled.min(i64::MAX.unsigned_abs()).cast_signed()
}
