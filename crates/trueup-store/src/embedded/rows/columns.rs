//! Columns of SQLite's rows. `check` notices one too many or too few.

use rusqlite::Row;
use rusqlite::types::FromSql;

use super::{Result, RowsError};
use crate::encoding::columns::ReadColumns;

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
}

impl ReadColumns for Columns<'_, '_> {
    type Error = RowsError;

    fn integer(&mut self) -> Result<Option<i64>> {
        self.take()
    }

    fn flag(&mut self) -> Result<Option<bool>> {
        self.take()
    }

    fn text(&mut self) -> Result<Option<&str>> {
        let value = self.row.get_ref(self.next)?;
        self.next += 1;
        value.as_str_or_null().map_err(|error| RowsError::Corrupt(format!("read text: {error}")))
    }

    fn bytes(&mut self) -> Result<Option<&[u8]>> {
        let value = self.row.get_ref(self.next)?;
        self.next += 1;
        value.as_blob_or_null().map_err(|error| RowsError::Corrupt(format!("read bytes: {error}")))
    }
}
