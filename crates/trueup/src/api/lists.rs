//! Query parameters, and lists by cursor.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::request::Parts;
use serde::Serialize;
use sha2::{Digest, Sha256};
use trueup_core::{ChannelId, NameError, Sku, Timestamp};
use utoipa::{IntoParams, ToSchema};

use crate::api::problem::Problem;

/// Items on a page when nothing is said.
pub const LIMIT_DEFAULT: usize = 50;
/// The most items on a page.
pub const LIMIT_MAX: usize = 1_000;
/// The most parameters that are read.
const PARAMETERS_MAX: usize = 50;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listed<T> {
    /// What is on the page.
    pub items: Vec<T>,
    /// Where the next page begins; null at the end.
    pub next_cursor: Option<String>,
}

/// The parameters of every list, for the API description.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes parameters that `Params` reads")]
pub struct PageParams {
    /// Items on a page, at most 1000.
    #[param(minimum = 1, maximum = 1000, default = 50, required = false)]
    limit: u32,
    /// The `nextCursor` of the page before.
    #[param(required = false)]
    cursor: String,
}

/// The query parameters of a request; each is taken once, and what is left is refused.
pub struct Params {
    left: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts.uri.query().unwrap_or_default())
    }
}

/// Refuses every query parameter.
pub struct NoParams;

impl<S: Send + Sync> FromRequestParts<S> for NoParams {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(query) => Params::of(query)?.finish().map(|()| Self),
        }
    }
}

impl Params {
    fn of(query: &str) -> Result<Self, Problem> {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let left: Vec<(String, String)> =
            pairs.take(PARAMETERS_MAX + 1).map(|(k, v)| (k.into_owned(), v.into_owned())).collect();
        if left.len() > PARAMETERS_MAX {
            return Err(Problem::bad("unknown_parameter", "there are too many parameters"));
        }
        Ok(Self { left })
    }

    /// Takes a parameter's text; an empty one is as good as none.
    ///
    /// # Errors
    /// 400 when it is given twice.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(at) = self.left.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        let (_, text) = self.left.remove(at);
        if self.left.iter().any(|(known, _)| known == name) {
            return Err(wrong(name, "duplicate_parameter", "is given twice"));
        }
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Takes a parameter that `read` understands.
    ///
    /// # Errors
    /// 400 `invalid_parameter` with the rule.
    pub fn read<T>(
        &mut self,
        name: &str,
        rule: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| wrong(name, "invalid_parameter", rule))
    }

    /// Takes `true` or `false`.
    ///
    /// # Errors
    /// As [`Params::read`].
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        self.read(name, "must be true or false", |text| text.parse().ok())
    }

    /// Takes an instant.
    ///
    /// # Errors
    /// As [`Params::read`], with the code `invalid_time`.
    pub fn time(&mut self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        // A plus sign that was not encoded arrives as a space.
        let parsed = super::time::parse(&text.replace(' ', "+"));
        let rule = "must be an RFC 3339 time such as 2026-04-25T10:00:00Z";
        parsed.map(Some).ok_or_else(|| wrong(name, "invalid_time", rule))
    }

    /// Takes a SKU.
    ///
    /// # Errors
    /// 400 `invalid_sku`.
    pub fn sku(&mut self, name: &str) -> Result<Option<Sku>, Problem> {
        self.named(name, "invalid_sku", Sku::new)
    }

    /// Takes a channel's id.
    ///
    /// # Errors
    /// 400 `invalid_channel_id`.
    pub fn channel(&mut self, name: &str) -> Result<Option<ChannelId>, Problem> {
        self.named(name, "invalid_channel_id", ChannelId::new)
    }

    /// Takes a name.
    ///
    /// # Errors
    /// 400 with the code.
    pub fn named<T>(
        &mut self,
        name: &str,
        code: &'static str,
        parse: impl FnOnce(&str) -> Result<T, NameError>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|error| wrong(name, code, &error.to_string()))
    }

    /// Takes the size of a page.
    ///
    /// # Errors
    /// 400 `invalid_limit`.
    pub fn limit(&mut self) -> Result<usize, Problem> {
        let Some(text) = self.text("limit")? else { return Ok(LIMIT_DEFAULT) };
        let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| {
            wrong("limit", "invalid_limit", &format!("must be from 1 to {LIMIT_MAX}"))
        })
    }

    /// Takes the cursor of a list, as what it was made from.
    ///
    /// # Errors
    /// 400 `invalid_cursor`.
    pub fn cursor<T>(
        &mut self,
        list: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.text("cursor")? else { return Ok(None) };
        let position = open_cursor(list, &text).and_then(|position| parse(&position));
        position
            .map(Some)
            .ok_or_else(|| wrong("cursor", "invalid_cursor", "is not a nextCursor of this list"))
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// 400 `unknown_parameter` naming the first.
    pub fn finish(self) -> Result<(), Problem> {
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(wrong(name, "unknown_parameter", "is not a parameter here")),
        }
    }
}

fn wrong(name: &str, code: &'static str, rule: &str) -> Problem {
    Problem::field(format!("?{name}"), Cow::Borrowed(code), rule)
}

/// The version of the cursors' form, in front of each.
const CURSOR_VERSION: u8 = 1;
/// How many bytes of the checksum are kept.
const CURSOR_SUM_BYTES: usize = 8;

/// Makes the cursor of a page that ended at a position.
#[must_use]
pub fn seal_cursor(list: &str, position: &str) -> String {
    let mut bytes = vec![CURSOR_VERSION];
    bytes.extend_from_slice(&cursor_sum(list, position));
    bytes.extend_from_slice(position.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn open_cursor(list: &str, cursor: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let rest = bytes.strip_prefix(&[CURSOR_VERSION])?;
    let (sum, position) = rest.split_at_checked(CURSOR_SUM_BYTES)?;
    let position = std::str::from_utf8(position).ok()?;
    (sum == cursor_sum(list, position)).then(|| position.to_owned())
}

/// Ties a cursor to its list, so that one of another list is refused and not misread.
fn cursor_sum(list: &str, position: &str) -> [u8; CURSOR_SUM_BYTES] {
    let sum = Sha256::new().chain_update(list).chain_update(b"\n").chain_update(position);
    let mut kept = [0; CURSOR_SUM_BYTES];
    kept.copy_from_slice(&sum.finalize()[..CURSOR_SUM_BYTES]);
    kept
}

impl<T> Listed<T> {
    /// Makes a page; `position` says where an item stands, for the cursor.
    pub fn page<R>(
        list: &str,
        page: trueup_store::Page<R>,
        position: impl Fn(&R) -> String,
        view: impl Fn(R) -> T,
    ) -> Self {
        let last = if page.more { page.items.last() } else { None };
        let next_cursor = last.map(|last| seal_cursor(list, &position(last)));
        Self { items: page.items.into_iter().map(view).collect(), next_cursor }
    }

    /// Makes a page of a list that is at hand as a whole: so many of its items, from a place on.
    pub fn slice<R>(
        list: &str,
        all: Vec<R>,
        from: usize,
        limit: usize,
        view: impl Fn(R) -> T,
    ) -> Self {
        let to = from.saturating_add(limit);
        let next_cursor = (to < all.len()).then(|| seal_cursor(list, &to.to_string()));
        Self { items: all.into_iter().skip(from).take(limit).map(view).collect(), next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_belongs_to_its_list() {
        let cursor = seal_cursor("skus", "A/ß");
        assert_eq!(open_cursor("skus", &cursor).as_deref(), Some("A/ß"));
        assert_eq!(open_cursor("runs", &cursor), None);
        for bad in ["", "AA", "%%%", "bm9uc2Vuc2U", &cursor[1..], &cursor[..cursor.len() - 2]] {
            assert_eq!(open_cursor("skus", bad), None, "{bad}");
        }
    }
}
