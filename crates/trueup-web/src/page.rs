//! What all pages have in common: the frame, what went well, what went wrong.

use askama::Template;
use axum::response::{IntoResponse, Redirect, Response};
use http::StatusCode;

use crate::api::Trouble;
use crate::assets;
use crate::session::{Session, sign_in};

/// The screens of the navigation: path and name.
const SCREENS: [(&str, &str); 11] = [
    ("/", "Overview"),
    ("/stock", "Stock"),
    ("/low-stock", "Low stock"),
    ("/reservations", "Reservations"),
    ("/drift", "Drift"),
    ("/conflicts", "Conflicts"),
    ("/activity", "Activity"),
    ("/channels", "Channels"),
    ("/import", "Import"),
    ("/access", "Webhooks, keys"),
    ("/system", "System"),
];

/// The frame around a page.
pub(crate) struct Frame {
    pub(crate) title: String,
    /// The path of the screen that it belongs to.
    here: &'static str,
    pub(crate) org: String,
    /// What forms carry.
    pub(crate) form: String,
    /// What has just been done.
    pub(crate) done: Option<&'static str>,
}

impl Frame {
    pub(crate) fn new(session: &Session, here: &'static str, title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            here,
            org: session.org.clone(),
            form: session.mark(),
            done: None,
        }
    }

    /// Adds what has been done just before, by its word in the address.
    pub(crate) fn after(mut self, word: Option<&str>) -> Self {
        self.done = word
            .and_then(|word| DONE.iter().find(|(known, _)| *known == word).map(|(_, text)| *text));
        self
    }

    /// Returns the screens: path, name, and whether it is this one.
    pub(crate) fn screens(&self) -> impl Iterator<Item = (&'static str, &'static str, bool)> {
        SCREENS.iter().map(|(path, name)| (*path, *name, *path == self.here))
    }
}

/// What can have been done: a word for addresses, and a sentence for people.
const DONE: [(&str, &str); 23] = [
    ("counted", "The count is booked."),
    ("adjusted", "The change is booked."),
    ("set", "The settings are kept."),
    ("bulk", "The counts are booked."),
    ("released", "The stock is free again."),
    ("extended", "It holds for another 15 minutes from now."),
    ("resolved", "What was chosen is resolved."),
    ("stopped", "It is paused: nothing of it is sent, work is kept."),
    ("goes-on", "It goes on: what is owed is sent now."),
    ("reopened", "It waits for a decision again; master is put back as far as it was not sold."),
    ("paused", "The channel is paused: nothing is sent, work is kept."),
    ("resumed", "The channel goes on."),
    ("confirmed", "It is done as it was confirmed."),
    ("cancelled", "It is given up: nothing of it was done."),
    ("undone", "What was shown before is shown again, as far as there is so much."),
    ("limited", "The limits are kept."),
    ("connected", "The channel is connected, and its settings are kept."),
    ("mapped", "The listing is mapped."),
    ("unmapped", "The SKU is not mapped here any more."),
    ("imported", "The file is booked."),
    ("replayed", "The delivery is sent again."),
    ("revoked", "The key is revoked."),
    ("unsubscribed", "The subscription is gone."),
];

/// Goes on to a page that says what has been done.
pub(crate) fn done(path: &str, word: &'static str) -> Response {
    debug_assert!(DONE.iter().any(|(known, _)| *known == word), "{word} has no sentence");
    let sign = if path.contains('?') { '&' } else { '?' };
    Redirect::to(&format!("{path}{sign}done={word}")).into_response()
}

/// Makes the answer of a page.
pub(crate) fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let headers = assets::headers("text/html; charset=utf-8", "no-store");
            (status, headers, text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Makes the answer of a page that shows what it was asked for.
pub(crate) fn shown(page: &impl Template) -> Response {
    html(StatusCode::OK, page)
}

#[derive(Template)]
#[template(path = "trouble.html")]
struct TroublePage {
    frame: Frame,
    trouble: Trouble,
    back: String,
}

/// Makes the page of what the API refused, with the way back.
pub(crate) fn refused(session: &Session, back: &str, trouble: Trouble) -> Response {
    if trouble.is_signed_out() {
        return sign_in(back);
    }
    let status = trouble.status;
    let title = if status == StatusCode::NOT_FOUND { "Not there" } else { "That did not work" };
    let frame = Frame::new(session, "", title);
    html(status, &TroublePage { frame, trouble, back: back.to_owned() })
}

/// What templates write differently.
#[expect(unreachable_pub, reason = "the macro for filters makes it so")]
pub(crate) mod filters {
    use askama::Values;

    /// Shortens an instant of the API to seconds, for people.
    #[askama::filter_fn]
    pub(crate) fn short(instant: &str, _: &dyn Values) -> askama::Result<String> {
        let whole = instant.split_once('.').map_or(instant, |(whole, _)| whole);
        Ok(whole.trim_end_matches('Z').replace('T', " "))
    }

    /// Percent-encodes a segment of a path.
    #[askama::filter_fn]
    pub(crate) fn segment(text: &str, _: &dyn Values) -> askama::Result<String> {
        Ok(crate::api::encoded(text))
    }

    /// Writes a word of the API, such as `master_wins`, with spaces.
    #[askama::filter_fn]
    pub(crate) fn words(word: &str, _: &dyn Values) -> askama::Result<String> {
        Ok(word.replace('_', " "))
    }

    /// Writes a change with its sign.
    #[askama::filter_fn]
    pub(crate) fn signed(units: &i64, _: &dyn Values) -> askama::Result<String> {
        Ok(match *units {
            0 => "0".to_owned(),
            units if units > 0 => format!("+{units}"),
            // A minus is as wide as a plus.
            units => format!("−{}", units.unsigned_abs()),
        })
    }
}
