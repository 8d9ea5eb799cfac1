//! Columns of a row, of either store, as the types of the core.
//!
//! Columns are taken in the order in which the statement selects them, so a reader is a struct
//! literal whose fields stand in that order.

use std::str::FromStr;

use serde::de::DeserializeOwned;
use trueup_core::{Delta, NameError, Timestamp};

use super::words::{Word, parse_word};
use super::{Corrupt, parse_count, parse_delta, parse_json, parse_name, rules};
use crate::{BlastRadius, RuleSettings};

/// A row and the column that is read next: what a database has, and what it stands for.
pub(crate) trait ReadColumns: Sized {
    /// What reading can fail with.
    type Error: From<Corrupt>;

    /// Takes a whole number, where there is one.
    fn integer(&mut self) -> Result<Option<i64>, Self::Error>;

    /// Takes a truth value, where there is one.
    fn flag(&mut self) -> Result<Option<bool>, Self::Error>;

    /// Takes a text, where there is one.
    fn text(&mut self) -> Result<Option<&str>, Self::Error>;

    /// Takes bytes, where there are some.
    fn bytes(&mut self) -> Result<Option<&[u8]>, Self::Error>;

    /// Takes a column as it is.
    fn value<T: Column>(&mut self) -> Result<T, Self::Error> {
        T::take(self)
    }

    /// Takes what is kept as text by a function of [`crate::encoding`].
    fn kept<T>(&mut self, read: impl FnOnce(&str) -> super::Result<T>) -> Result<T, Self::Error> {
        Ok(read(present(self.text()?)?)?)
    }

    /// Takes what is kept as text by a function of [`crate::encoding`] and may be absent.
    fn optional_kept<T>(
        &mut self,
        read: impl FnOnce(&str) -> super::Result<T>,
    ) -> Result<Option<T>, Self::Error> {
        Ok(self.text()?.map(read).transpose()?)
    }

    /// Takes a name, such as a SKU.
    fn name<T: FromStr<Err = NameError>>(&mut self) -> Result<T, Self::Error> {
        self.kept(parse_name)
    }

    /// Takes a name that may be absent.
    fn optional_name<T: FromStr<Err = NameError>>(&mut self) -> Result<Option<T>, Self::Error> {
        self.optional_kept(parse_name)
    }

    /// Takes an enumeration's word.
    fn word<T: Word>(&mut self) -> Result<T, Self::Error> {
        self.kept(parse_word)
    }

    /// Takes an enumeration's word that may be absent.
    fn optional_word<T: Word>(&mut self) -> Result<Option<T>, Self::Error> {
        self.optional_kept(parse_word)
    }

    /// Takes JSON that is kept as text.
    fn json<T: DeserializeOwned>(&mut self) -> Result<T, Self::Error> {
        self.kept(parse_json)
    }

    /// Takes JSON that is kept as text and may be absent.
    fn optional_json<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Self::Error> {
        self.optional_kept(parse_json)
    }

    /// Takes publishing rules.
    fn rules(&mut self) -> Result<RuleSettings, Self::Error> {
        self.kept(rules::read)
    }

    /// Takes what one act may change without being asked.
    fn blast_radius(&mut self) -> Result<BlastRadius, Self::Error> {
        self.kept(rules::read_blast_radius)
    }

    /// Takes publishing rules that may be absent.
    fn optional_rules(&mut self) -> Result<Option<RuleSettings>, Self::Error> {
        self.optional_kept(rules::read)
    }

    /// Takes an instant.
    fn instant(&mut self) -> Result<Timestamp, Self::Error> {
        Ok(Timestamp::from_micros(self.value()?))
    }

    /// Takes an instant that may be absent.
    fn optional_instant(&mut self) -> Result<Option<Timestamp>, Self::Error> {
        Ok(self.integer()?.map(Timestamp::from_micros))
    }

    /// Takes a number that is never below zero.
    fn count(&mut self) -> Result<u64, Self::Error> {
        Ok(parse_count(self.value()?)?)
    }

    /// Takes a number that is never below zero and may be absent.
    fn optional_count(&mut self) -> Result<Option<u64>, Self::Error> {
        Ok(self.integer()?.map(parse_count).transpose()?)
    }

    /// Takes a smaller number, such as a `u32` or a `u16`.
    fn small<T: TryFrom<i64>>(&mut self) -> Result<T, Self::Error> {
        Ok(smaller(self.value()?)?)
    }

    /// Takes a smaller number that may be absent.
    fn optional_small<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, Self::Error> {
        Ok(self.integer()?.map(smaller).transpose()?)
    }

    /// Takes a signed number of units.
    fn delta(&mut self) -> Result<Delta, Self::Error> {
        Ok(parse_delta(self.value()?)?)
    }

    /// Takes 32 bytes.
    fn digest(&mut self) -> Result<[u8; 32], Self::Error> {
        let bytes = present(self.bytes()?)?;
        let wrong = |_| Corrupt(format!("a digest of {} bytes", bytes.len()));
        Ok(bytes.try_into().map_err(wrong)?)
    }
}

/// A type that a column has as it is.
pub(crate) trait Column: Sized {
    /// Takes a column.
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error>;
}

impl Column for i64 {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        Ok(present(columns.integer()?)?)
    }
}

impl Column for Option<i64> {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        columns.integer()
    }
}

impl Column for bool {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        Ok(present(columns.flag()?)?)
    }
}

impl Column for Option<bool> {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        columns.flag()
    }
}

impl Column for String {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        Ok(present(columns.text()?)?.to_owned())
    }
}

impl Column for Option<String> {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        Ok(columns.text()?.map(str::to_owned))
    }
}

impl Column for Vec<u8> {
    fn take<C: ReadColumns>(columns: &mut C) -> Result<Self, C::Error> {
        Ok(present(columns.bytes()?)?.to_vec())
    }
}

fn present<T>(value: Option<T>) -> super::Result<T> {
    value.ok_or_else(|| Corrupt("a column that is never null is".to_owned()))
}

fn smaller<T: TryFrom<i64>>(number: i64) -> super::Result<T> {
    T::try_from(number).map_err(|_| Corrupt(format!("{number} is out of range")))
}
