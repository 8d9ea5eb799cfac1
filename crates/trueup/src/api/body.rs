//! Reading JSON bodies: strict about fields and numbers, precise about what is wrong.
//!
//! The quick way parses straight into the type. Only when that fails is the body read again
//! with its path tracked, to name the field by JSON pointer.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_path_to_error::Segment;
use trueup_core::{
    ChannelId, Delta, Location, NameError, OrderId, QUANTITY_MAX, Quantity, Sku, Timestamp,
};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

use crate::api::problem::Problem;

/// The most items in one request.
pub const ITEMS_MAX: usize = 10_000;
/// The longest free text, such as a reason, in bytes.
pub const TEXT_BYTES_MAX: usize = 1_000;

/// Wraps a code into the text of a serde error, so that it comes out on the other side.
fn coded<E: de::Error>(code: &'static str, detail: impl fmt::Display) -> E {
    E::custom(format_args!("\u{1f}{code}\u{1f}{detail}"))
}

/// A JSON object and nothing else: serde would also take an array for a struct.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
            type Value = Strict<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Strict<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Strict)
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}

/// A whole number of units, 0 to 2^53 − 1; `42.0` is 42.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Units(pub Quantity);

const UNITS_RULE: &str = "must be a whole number from 0 to 9007199254740991";

impl Units {
    /// Returns the quantity.
    #[must_use]
    pub fn get(self) -> Quantity {
        self.0
    }
}

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = deserializer.deserialize_any(WholeNumber(UNITS_RULE))?;
        let units = u64::try_from(whole).ok().and_then(Quantity::new);
        units.map(Self).ok_or_else(|| coded("invalid_quantity", UNITS_RULE))
    }
}

/// A whole change of units, below zero or above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change(pub Delta);

const CHANGE_RULE: &str = "must be a whole number from -9007199254740991 to 9007199254740991";

impl<'de> Deserialize<'de> for Change {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = deserializer.deserialize_any(WholeNumber(CHANGE_RULE))?;
        Delta::new(whole).map(Self).ok_or_else(|| coded("invalid_quantity", CHANGE_RULE))
    }
}

/// Takes any JSON number that is whole and within ±2^53, and names everything else.
struct WholeNumber(&'static str);

impl WholeNumber {
    fn refuse<E: de::Error>(&self) -> E {
        coded("invalid_quantity", self.0)
    }
}

impl<'de> Visitor<'de> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| self.refuse())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the value is whole and within ±2^53, where every f64 is an exact i64"
    )]
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        // 2^53; larger ones are refused as text either way.
        const LIMIT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() < LIMIT {
            Ok(value as i64)
        } else {
            Err(self.refuse())
        }
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<i64, E> {
        Err(self.refuse())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<i64, E> {
        Err(self.refuse())
    }

    fn visit_unit<E: de::Error>(self) -> Result<i64, E> {
        Err(self.refuse())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<i64, A::Error> {
        Err(self.refuse())
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<i64, A::Error> {
        Err(self.refuse())
    }
}

/// Tells an absent field from one that is null: `None`, `Some(None)`, `Some(Some(_))`.
pub fn nullable<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $code:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        <$inner>::new(text)
                            .map($name)
                            .map_err(|error: NameError| coded($code, error))
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.min_length(Some(1)).max_length(Some($max)).into()
            }
        }

        impl utoipa::ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

named!(
    /// A SKU in a body.
    SkuText, Sku, "invalid_sku", 255
);
named!(
    /// A location in a body.
    LocationText, Location, "invalid_location", 255
);
named!(
    /// An order's id in a body.
    OrderText, OrderId, "invalid_order_id", 255
);
named!(
    /// A channel's id in a body.
    ChannelText, ChannelId, "invalid_channel_id", 255
);

/// A free text, such as a reason: bounded, without control characters but line breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreeText(pub String);

impl<'de> Deserialize<'de> for FreeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        free_text(&text).map_err(|detail| coded("invalid_text", detail))?;
        Ok(Self(text))
    }
}

/// Checks a free text.
///
/// # Errors
/// What is wrong with it, for people.
pub fn free_text(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!("must be at most {TEXT_BYTES_MAX} bytes"));
    }
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t' | '\r')) {
        Some(c) => Err(format!("must not contain the character {c:?}")),
        None => Ok(()),
    }
}

/// An instant in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeText(pub Timestamp);

impl<'de> Deserialize<'de> for TimeText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let detail = "must be an RFC 3339 time such as 2026-04-25T10:00:00Z";
        crate::api::time::parse(&text).map(Self).ok_or_else(|| coded("invalid_time", detail))
    }
}

fn units_schema() -> ObjectBuilder {
    let number = ObjectBuilder::new().schema_type(Type::Integer);
    number.minimum(Some(0)).maximum(Some(QUANTITY_MAX)).examples([serde_json::json!(42)])
}

macro_rules! schema_of {
    ($name:ident, $schema:expr) => {
        impl utoipa::PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                $schema.into()
            }
        }
        impl utoipa::ToSchema for $name {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($name))
            }
        }
    };
}

schema_of!(Units, units_schema());
schema_of!(Change, ObjectBuilder::new().schema_type(Type::Integer));
schema_of!(
    FreeText,
    ObjectBuilder::new().schema_type(Type::String).max_length(Some(TEXT_BYTES_MAX))
);
schema_of!(
    TimeText,
    ObjectBuilder::new().schema_type(Type::String).format(Some(
        utoipa::openapi::schema::SchemaFormat::KnownFormat(
            utoipa::openapi::schema::KnownFormat::DateTime
        )
    ))
);

/// Parses a body that must be a JSON object.
///
/// # Errors
/// 400 that names the first thing that is wrong.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if let Ok(Strict(value)) = serde_json::from_slice::<Strict<T>>(body) {
        return Ok(value);
    }
    Err(explain::<Strict<T>>(body))
}

/// Parses a body that may be absent.
///
/// # Errors
/// As [`parse`].
pub fn parse_optional<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(body) }
}

/// Reads a JSON value that was parsed before, with pointers below `prefix`.
///
/// # Errors
/// As [`parse`].
pub fn from_value<T: DeserializeOwned>(
    prefix: &str,
    value: serde_json::Value,
) -> Result<T, Problem> {
    let read: Result<Strict<T>, _> = serde_path_to_error::deserialize(value);
    match read {
        Ok(Strict(value)) => Ok(value),
        Err(error) => {
            let pointer = format!("{prefix}{}", pointer(error.path()));
            Err(field_problem(pointer, &error.into_inner().to_string()))
        }
    }
}

/// Reads the body again, slowly, to say what is wrong with it.
fn explain<T: DeserializeOwned>(body: &[u8]) -> Problem {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Problem::bad("malformed_json", "the body is empty; it must be a JSON object");
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let (pointer, error) = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Ok(_) => match deserializer.end() {
            Ok(()) => return Problem::internal(),
            Err(error) => (String::new(), error),
        },
        Err(error) => (pointer(error.path()), error.into_inner()),
    };
    match error.classify() {
        serde_json::error::Category::Data => field_problem(pointer, &error.to_string()),
        serde_json::error::Category::Syntax
        | serde_json::error::Category::Eof
        | serde_json::error::Category::Io => {
            if is_number_of_a_kind(body, &error) {
                return field_problem(pointer, &coded_text("invalid_quantity", UNITS_RULE));
            }
            let detail = format!("the body is not valid JSON: {error}");
            Problem::bad("malformed_json", detail)
                .with("line", error.line())
                .with("column", error.column())
        }
    }
}

fn coded_text(code: &str, detail: &str) -> String {
    format!("\u{1f}{code}\u{1f}{detail}")
}

/// Returns whether JSON was broken by a number that is none, or none we can hold: `NaN`,
/// `Infinity`, `1e400`.
fn is_number_of_a_kind(body: &[u8], error: &serde_json::Error) -> bool {
    if error.to_string().starts_with("number out of range") {
        return true;
    }
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1));
    let Some(line) = line else { return false };
    let from = error.column().saturating_sub(2).min(line.len());
    let rest = line.get(from..).unwrap_or_default();
    let rest = rest.trim_ascii_start();
    let rest = rest.strip_prefix(b":").unwrap_or(rest).trim_ascii_start();
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    rest.starts_with(b"NaN") || rest.starts_with(b"Infinity") || rest.starts_with(b"nan")
}

/// Returns a path as a JSON pointer.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
            Segment::Map { key } => {
                pointer.push('/');
                pointer.push_str(&escape(key));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// Escapes a member's name for a JSON pointer.
#[must_use]
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Makes the problem out of serde's words about a field.
fn field_problem(pointer: String, words: &str) -> Problem {
    let words = without_position(words);
    if let Some(rest) = words.strip_prefix('\u{1f}')
        && let Some((code, detail)) = rest.split_once('\u{1f}')
    {
        return Problem::field(pointer, code.to_owned(), detail);
    }
    if let Some(rest) = words.strip_prefix("unknown field `") {
        // serde lists the known fields after the name, or says that there are none. The path
        // has the field in it already.
        let (name, known) = rest.split_once("`, ").unwrap_or((rest, ""));
        let detail = match known.strip_prefix("expected ") {
            Some(known) => format!("{name:?} is not a field here; expected {known}"),
            None => format!("{name:?} is not a field here"),
        };
        return Problem::field(pointer, "unknown_field", detail);
    }
    if let Some(name) = backticked(words, "missing field `") {
        let detail = format!("{name:?} is required");
        return Problem::field(format!("{pointer}/{}", escape(name)), "missing_field", detail);
    }
    if let Some(name) = backticked(words, "duplicate field `") {
        let detail = format!("{name:?} is given twice");
        return Problem::field(format!("{pointer}/{}", escape(name)), "duplicate_field", detail);
    }
    if words.starts_with("unknown variant") {
        return Problem::field(pointer, "invalid_value", words);
    }
    Problem::field(pointer, "invalid_type", words)
}

fn backticked<'a>(words: &'a str, before: &str) -> Option<&'a str> {
    words.strip_prefix(before)?.strip_suffix('`')
}

/// Drops ` at line 1 column 2` from the end.
fn without_position(words: &str) -> &str {
    match words.rfind(" at line ") {
        Some(at) if words[at..].contains(" column ") => &words[..at],
        Some(_) | None => words,
    }
}

/// Refuses an empty list and one that is too long.
///
/// # Errors
/// 400 `no_items` or `too_many_items`.
pub fn check_len(pointer: &str, len: usize, max: usize) -> Result<(), Problem> {
    if len == 0 {
        return Err(Problem::field(pointer, "no_items", "must have at least one item"));
    }
    if len > max {
        let detail = format!("must have at most {max} items");
        return Err(Problem::field(pointer, "too_many_items", detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Body {
        items: Vec<Strict<Item>>,
        sync_to_channels: Option<bool>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Item {
        sku: SkuText,
        quantity: Units,
    }

    fn refusal(body: &str) -> (String, String) {
        let problem = parse::<Body>(body.as_bytes()).expect_err("must be refused");
        let reply: serde_json::Value =
            serde_json::from_slice(problem.reply().body()).expect("JSON");
        let pointer = reply["errors"][0]["pointer"].as_str().unwrap_or("-").to_owned();
        (problem.code().to_owned(), pointer)
    }

    #[test]
    fn every_wrong_body_is_named() {
        let quantity = |text: &str| format!(r#"{{"items":[{{"sku":"A","quantity":{text}}}]}}"#);
        let at = "/items/0/quantity";
        for bad in [
            "1.5",
            "-1",
            r#""42""#,
            "null",
            "true",
            "[]",
            "[1]",
            "{}",
            "1e400",
            "-1e400",
            "NaN",
            "Infinity",
            "-Infinity",
            "9007199254740992",
            "9007199254740992.0",
            "1e16",
            "0.1",
            "18446744073709551616",
            r#"{"a":1}"#,
        ] {
            assert_eq!(refusal(&quantity(bad)), ("invalid_quantity".into(), at.into()), "{bad}");
        }
        for (body, code, pointer) in [
            ("", "malformed_json", "-"),
            ("{", "malformed_json", "-"),
            ("{\"items\":[]} x", "malformed_json", "-"),
            ("{'items':[]}", "malformed_json", "-"),
            ("[]", "invalid_type", ""),
            ("42", "invalid_type", ""),
            ("{}", "missing_field", "/items"),
            (r#"{"items":{}}"#, "invalid_type", "/items"),
            (r#"{"items":[["A",1]]}"#, "invalid_type", "/items/0"),
            (r#"{"items":[{"sku":"A"}]}"#, "missing_field", "/items/0/quantity"),
            (r#"{"items":[{"sku":"","quantity":1}]}"#, "invalid_sku", "/items/0/sku"),
            (r#"{"items":[{"sku":7,"quantity":1}]}"#, "invalid_type", "/items/0/sku"),
            (r#"{"items":[],"syncToChanels":true}"#, "unknown_field", "/syncToChanels"),
            (r#"{"items":[],"a/b~":true}"#, "unknown_field", "/a~1b~0"),
            (r#"{"items":[],"items":[]}"#, "duplicate_field", "/items"),
            (r#"{"items":[],"syncToChannels":"yes"}"#, "invalid_type", "/syncToChannels"),
            (r#"{"items":[],"syncToChannels":1}"#, "invalid_type", "/syncToChannels"),
        ] {
            assert_eq!(refusal(body), (code.into(), pointer.into()), "{body}");
        }
    }

    #[test]
    fn whole_numbers_are_taken_however_they_are_written() {
        for (text, units) in [
            ("42", 42),
            ("42.0", 42),
            ("4.2e1", 42),
            ("0", 0),
            ("-0", 0),
            ("-0.0", 0),
            ("9007199254740991", QUANTITY_MAX),
            ("9007199254740991.0", QUANTITY_MAX),
        ] {
            let body = format!(r#"{{"items":[{{"sku":"A","quantity":{text}}}]}}"#);
            let parsed = parse::<Body>(body.as_bytes()).expect(text);
            assert_eq!(parsed.items[0].0.quantity.0.get(), units, "{text}");
        }
    }

    #[test]
    fn a_deep_body_is_refused() {
        let deep = format!("{{\"a\":{}", "[".repeat(100_000));
        let problem = parse::<serde_json::Map<String, serde_json::Value>>(deep.as_bytes());
        assert_eq!(problem.expect_err("must be refused").code(), "malformed_json");
    }
}
