//! Instants as RFC 3339 texts in UTC, ending in `Z`.

use serde::{Serialize, Serializer};
use trueup_core::Timestamp;

use crate::api::problem::Problem;

/// An instant on its way out: `2026-04-25T10:00:00Z`, with micros where there are some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Instants beyond jiff's years (`Timestamp::MAX`) show as the last one it can write.
        let instant = jiff::Timestamp::from_microsecond(self.0.micros());
        let instant = instant.unwrap_or(jiff::Timestamp::MAX);
        if self.0.micros().rem_euclid(1_000_000) == 0 {
            write!(f, "{instant:.0}")
        } else {
            write!(f, "{instant:.6}")
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl utoipa::PartialSchema for Time {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .examples([serde_json::json!("2026-04-25T10:00:00Z")])
            .into()
    }
}

impl utoipa::ToSchema for Time {
    fn name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
}

/// The time between two instants, the first before the second.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The first.
    pub from: Timestamp,
    /// The second.
    pub to: Timestamp,
}

impl Window {
    /// Makes one that begins so many milliseconds before its end where nothing else is said.
    ///
    /// # Errors
    /// `invalid_window`, naming the field of the first instant.
    pub fn new(
        field: &str,
        from: Option<Timestamp>,
        to: Timestamp,
        default_ms: i64,
    ) -> Result<Self, Problem> {
        let from = from.unwrap_or_else(|| to.plus_millis(-default_ms));
        if from >= to {
            return Err(Problem::field(field, "invalid_window", "must be before \"to\""));
        }
        Ok(Self { from, to })
    }
}

/// Reads an RFC 3339 text with any offset.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp::from_micros(instant.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc_with_micros_only_when_there_are_some() {
        let at = |micros| Time(Timestamp::from_micros(micros)).to_string();
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(1_500_000), "1970-01-01T00:00:01.500000Z");
        assert_eq!(at(-1_000_000), "1969-12-31T23:59:59Z");
        assert!(at(i64::MAX).ends_with('Z'));
    }

    #[test]
    fn instants_are_read_with_any_offset() {
        assert_eq!(parse("1970-01-01T01:00:00+01:00"), Some(Timestamp::EPOCH));
        assert_eq!(parse("1970-01-01T00:00:00.000001Z"), Some(Timestamp::from_micros(1)));
        for bad in ["", "now", "2026-04-25", "2026-13-01T00:00:00Z", "2026-04-25T10:00:00"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
