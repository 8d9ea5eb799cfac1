//! Reads columns as the types of the core.
//!
//! Columns are taken in the order in which the statement selects them, so a reader is a struct
//! literal whose fields stand in that order. `check` notices one too many or too few.

use std::str::FromStr;

use rusqlite::Row;
use rusqlite::types::FromSql;
use serde::de::DeserializeOwned;
use trueup_core::{Delta, NameError, Timestamp};

use super::{Result, RowsError};
use crate::RuleSettings;
use crate::encoding::words::{Word, parse_word};
use crate::encoding::{self, parse_count, parse_delta, parse_json, parse_name, rules};

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
        Ok(parse_name(self.text()?)?)
    }

    /// Takes a name that may be absent.
    pub(super) fn optional_name<T: FromStr<Err = NameError>>(&mut self) -> Result<Option<T>> {
        Ok(self.optional_text()?.map(parse_name).transpose()?)
    }

    /// Takes an enumeration's word.
    pub(super) fn word<T: Word>(&mut self) -> Result<T> {
        Ok(parse_word(self.text()?)?)
    }

    /// Takes an enumeration's word that may be absent.
    pub(super) fn optional_word<T: Word>(&mut self) -> Result<Option<T>> {
        Ok(self.optional_text()?.map(parse_word).transpose()?)
    }

    /// Takes JSON.
    pub(super) fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        Ok(parse_json(self.text()?)?)
    }

    /// Takes JSON that may be absent.
    pub(super) fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        Ok(self.optional_text()?.map(parse_json).transpose()?)
    }

    /// Takes what is kept by a function of [`crate::encoding`].
    pub(super) fn kept<T>(&mut self, read: impl FnOnce(&str) -> encoding::Result<T>) -> Result<T> {
        Ok(read(self.text()?)?)
    }

    /// Takes publishing rules.
    pub(super) fn rules(&mut self) -> Result<RuleSettings> {
        self.kept(rules::read)
    }

    /// Takes publishing rules that may be absent.
    pub(super) fn optional_rules(&mut self) -> Result<Option<RuleSettings>> {
        Ok(self.optional_text()?.map(rules::read).transpose()?)
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
        Ok(parse_count(self.take()?)?)
    }

    /// Takes a number that is never below zero and may be absent.
    pub(super) fn optional_count(&mut self) -> Result<Option<u64>> {
        Ok(self.take::<Option<i64>>()?.map(parse_count).transpose()?)
    }

    /// Takes a signed number of units.
    pub(super) fn delta(&mut self) -> Result<Delta> {
        Ok(parse_delta(self.take()?)?)
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
