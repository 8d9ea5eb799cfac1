//! A column's value on its way from one store to the other: the few kinds that columns have, read
//! from SQLite as its columns say it and kept as PostgreSQL keeps it.

use std::error::Error;

use rusqlite::types::ValueRef;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::encoding::{Corrupt, Result, parse_json};
use crate::postgres::kept_text;

/// What a column of the target holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `SMALLINT`.
    Small,
    /// `BIGINT`.
    Int,
    /// `BOOLEAN`; 0 or 1 in the source.
    Flag,
    /// `TEXT`.
    Text,
    /// `BYTEA`.
    Bytes,
    /// `TEXT[]`; a JSON array in the source.
    Texts,
}

impl Kind {
    /// Returns the type of the target's column.
    pub(crate) fn column_type(self) -> Type {
        match self {
            Self::Small => Type::INT2,
            Self::Int => Type::INT8,
            Self::Flag => Type::BOOL,
            Self::Text => Type::TEXT,
            Self::Bytes => Type::BYTEA,
            Self::Texts => Type::TEXT_ARRAY,
        }
    }
}

/// The value of a column, as the target keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Value {
    /// There is none.
    Null,
    /// A number.
    Int(i64),
    /// Yes or no.
    Flag(bool),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// Reads a column of the source.
    ///
    /// # Errors
    /// When it is not of its kind.
    pub(crate) fn of_source(kind: Kind, found: ValueRef<'_>) -> Result<Self> {
        let wrong = || Corrupt(format!("a column of type {} for {kind:?}", found.data_type()));
        let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) => Ok(kept_text(text).into_owned()),
            Err(_) => Err(Corrupt("a text that is not UTF-8".to_owned())),
        };
        match (kind, found) {
            (_, ValueRef::Null) => Ok(Self::Null),
            (Kind::Small | Kind::Int, ValueRef::Integer(number)) => Ok(Self::Int(number)),
            (Kind::Flag, ValueRef::Integer(flag)) => Ok(Self::Flag(flag != 0)),
            (Kind::Text, ValueRef::Text(bytes)) => text(bytes).map(Self::Text),
            (Kind::Bytes, ValueRef::Blob(bytes)) => Ok(Self::Bytes(bytes.to_vec())),
            (Kind::Texts, ValueRef::Text(bytes)) => {
                let texts: Vec<String> = parse_json(&text(bytes)?)?;
                let kept = texts.iter().map(|text| kept_text(text).into_owned());
                Ok(Self::Texts(kept.collect()))
            }
            _ => Err(wrong()),
        }
    }

    /// Reads a column of the target.
    ///
    /// # Errors
    /// When it is not of its kind.
    pub(crate) fn of_target(
        kind: Kind,
        row: &Row,
        at: usize,
    ) -> std::result::Result<Self, tokio_postgres::Error> {
        let value = match kind {
            Kind::Small => row.try_get::<_, Option<i16>>(at)?.map(|small| Self::Int(small.into())),
            Kind::Int => row.try_get::<_, Option<i64>>(at)?.map(Self::Int),
            Kind::Flag => row.try_get::<_, Option<bool>>(at)?.map(Self::Flag),
            Kind::Text => row.try_get::<_, Option<String>>(at)?.map(Self::Text),
            Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at)?.map(Self::Bytes),
            Kind::Texts => row.try_get::<_, Option<Vec<String>>>(at)?.map(Self::Texts),
        };
        Ok(value.unwrap_or(Self::Null))
    }

    /// Returns roughly how much memory it takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let more = match self {
            Self::Null | Self::Int(_) | Self::Flag(_) => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Texts(texts) => texts.iter().map(String::len).sum(),
        };
        size_of::<Self>() + more
    }

    /// Returns it as words for people, who look for a row.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Int(number) => number.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Bytes(bytes) => {
                bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
            }
            Self::Texts(texts) => format!("{texts:?}"),
        }
    }
}

impl rusqlite::ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        let value = match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Flag(flag) => ValueRef::Integer((*flag).into()),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            // No key is a list.
            Self::Texts(_) => return Err(rusqlite::Error::InvalidQuery),
        };
        Ok(rusqlite::types::ToSqlOutput::Borrowed(value))
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) if *ty == Type::INT2 => i16::try_from(*number)?.to_sql(ty, out),
            Self::Int(number) => number.to_sql(ty, out),
            Self::Flag(flag) => flag.to_sql(ty, out),
            Self::Text(text) => text.to_sql(ty, out),
            Self::Bytes(bytes) => bytes.to_sql(ty, out),
            Self::Texts(texts) => texts.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Kind::Small, Kind::Int, Kind::Flag, Kind::Text, Kind::Bytes, Kind::Texts]
            .iter()
            .any(|kind| kind.column_type() == *ty)
    }

    to_sql_checked!();
}
