//! Reads columns as the types of the core.
//!
//! Columns are taken in the order in which the statement selects them, so a reader is a struct
//! literal whose fields stand in that order. `check` notices one too many or too few.

use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::FromSql;
use serde::de::DeserializeOwned;
use trueup_core::{Delta, NameError, Quantity, Timestamp};

use super::words::{Word, parse_word};
use super::{Result, RowsError};

/// A row and the column that is read next.
pub(super) struct Columns<'row, 'statement> {
    row: &'row Row<'statement>,
    next: usize,
}

impl<'row, 'statement> Columns<'row, 'statement> {
    /// Begins at a row's first column.
    pub(super) fn new(row: &'row Row<'statement>) -> Self {
        Self { row, next: 0 }
    }

    /// Checks that every column was taken, in debug builds.
    pub(super) fn check(&self) {
        debug_assert_eq!(self.next, self.row.as_ref().column_count(), "columns were left over");
    }

    /// Takes a column as it is.
    pub(super) fn take<T: FromSql>(&mut self) -> Result<T> {
        let at = self.next;
        self.next += 1;
        Ok(self.row.get(at)?)
    }

    /// Takes a name, such as a SKU.
    pub(super) fn name<T: FromStr<Err = NameError>>(&mut self) -> Result<T> {
        parse_name(self.text()?)
    }

    /// Takes a name that may be absent.
    pub(super) fn optional_name<T: FromStr<Err = NameError>>(&mut self) -> Result<Option<T>> {
        self.optional_text()?.map(parse_name).transpose()
    }

    /// Takes an enumeration's word.
    pub(super) fn word<T: Word>(&mut self) -> Result<T> {
        parse_word(self.text()?)
    }

    /// Takes an enumeration's word that may be absent.
    pub(super) fn optional_word<T: Word>(&mut self) -> Result<Option<T>> {
        self.optional_text()?.map(parse_word).transpose()
    }

    /// Takes JSON.
    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        parse_json(self.text()?)
    }

    /// Takes JSON that may be absent.
    pub(super) fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        self.optional_text()?.map(parse_json).transpose()
    }

    /// Takes an instant.
    pub(super) fn instant(&mut self) -> Result<Timestamp> {
        Ok(Timestamp::from_micros(self.take()?))
    }

    /// Takes an instant that may be absent.
    pub(super) fn optional_instant(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.take::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    /// Takes a number that is never below zero.
    pub(super) fn count(&mut self) -> Result<u64> {
        parse_count(self.take()?)
    }

    /// Takes a number that is never below zero and may be absent.
    pub(super) fn optional_count(&mut self) -> Result<Option<u64>> {
        self.take::<Option<i64>>()?.map(parse_count).transpose()
    }

    /// Takes a signed number of units.
    pub(super) fn delta(&mut self) -> Result<Delta> {
        let units = self.take()?;
        Delta::new(units)
            .ok_or_else(|| RowsError::Corrupt(format!("{units} is not a number of units")))
    }

    fn text(&mut self) -> Result<&'row str> {
        let absent = || RowsError::Corrupt("a column that is never null is".to_owned());
        self.optional_text()?.ok_or_else(absent)
    }

    fn optional_text(&mut self) -> Result<Option<&'row str>> {
        let row: &'row Row<'statement> = self.row;
        let value = row.get_ref(self.next)?;
        self.next += 1;
        value.as_str_or_null().map_err(|error| RowsError::Corrupt(format!("read text: {error}")))
    }
}

/// Returns a quantity that was kept as a number.
pub(super) fn parse_quantity(units: u64) -> Result<Quantity> {
    Quantity::new(units).ok_or_else(|| RowsError::Corrupt(format!("{units} is not a quantity")))
}

/// Returns a count that was kept as a signed number.
pub(super) fn parse_count(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| RowsError::Corrupt(format!("the count {number} is negative")))
}

/// Returns a name that was kept as text.
pub(super) fn parse_name<T: FromStr<Err = NameError>>(text: &str) -> Result<T> {
    text.parse().map_err(|error| RowsError::Corrupt(format!("the name {text:?} {error}")))
}

/// Returns a value that was kept as JSON and borrows from it.
pub(super) fn borrow_json<'a, T: serde::Deserialize<'a>>(text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| RowsError::Corrupt(format!("read JSON: {error}")))
}

/// Returns a value that was kept as JSON.
pub(super) fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| RowsError::Corrupt(format!("read JSON: {error}")))
}
