//! Counts from a CSV file: looked at first, booked then; lines that were refused come back to be
//! put right.

use std::collections::BTreeMap;

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use csv::{ByteRecord, ReaderBuilder};
use http::{HeaderValue, Method, header};
use serde::Deserialize;

use crate::Shared;
use crate::api::{Impact, Path, Trouble, Wish};
use crate::assets;
use crate::forms::Posted;
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// The column that says why a line was refused, in a file of refused lines.
const WHY: &str = "refused_because";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/import", get(ask).post(take))
}

/// What came of an import, or would.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    lines: u64,
    updated: u64,
    failed: u64,
    dry_run: bool,
    #[serde(default)]
    errors: Vec<Wrong>,
    #[serde(default)]
    changes: Vec<Change>,
    /// What channels would be told, by channel.
    #[serde(default)]
    impact: BTreeMap<String, Impact>,
    #[serde(default)]
    ignored_columns: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Wrong {
    line: u64,
    detail: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    line: u64,
    sku: String,
    location_id: String,
    from: Option<i64>,
    to: i64,
}

#[derive(Template)]
#[template(path = "import.html")]
struct Page {
    frame: Frame,
    text: String,
    report: Option<Report>,
}

async fn ask(session: Session) -> Response {
    let frame = Frame::new(&session, "/import", "Import counts");
    shown(&Page { frame, text: String::new(), report: None })
}

async fn take(State(house): State<Shared>, posted: Posted) -> Response {
    // A file that was chosen stands over what was typed.
    let text = if posted.has("file") { posted.all("file") } else { posted.all("text") };
    let text = text.collect::<String>();
    let wish = posted.text("do");
    let report = match import(&house, &posted, &text, wish == "book").await {
        Ok(report) => report,
        Err(trouble) => return refused(&posted.session, "/import", trouble),
    };
    let left = if wish == "look" { text } else { rejected(&text, &report.errors) };
    if wish == "rejected" {
        return download(left);
    }
    let is_all_booked = wish == "book" && report.failed == 0;
    let frame = Frame::new(&posted.session, "/import", "Import counts");
    let frame = frame.after(is_all_booked.then_some("imported"));
    shown(&Page { frame, text: left, report: Some(report) })
}

async fn import(
    house: &Shared,
    posted: &Posted,
    text: &str,
    is_booked: bool,
) -> Result<Report, Trouble> {
    let flag = |is_set: bool| if is_set { "true" } else { "" };
    let path = Path::new(&["inventory", "import"])
        .with("dryRun", flag(!is_booked))
        .with("atomic", flag(posted.has("atomic")))
        .with("syncToChannels", flag(posted.has("publish")))
        .with("confirm", flag(posted.has("confirm")));
    let body = Bytes::copy_from_slice(text.as_bytes());
    posted.wish(house, Wish { method: Method::POST, path, body, version: None }).await
}

/// Returns the header and the lines that were refused, each with its reason in a last column;
/// empty where none was. A reason from an earlier time is replaced.
fn rejected(text: &str, errors: &[Wrong]) -> String {
    if errors.is_empty() {
        return String::new();
    }
    let why: BTreeMap<u64, &str> =
        errors.iter().map(|wrong| (wrong.line, wrong.detail.as_str())).collect();
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    let mut record = ByteRecord::new();
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    // Where the header ends, and where it says why.
    let mut header: Option<(usize, Option<usize>)> = None;
    while matches!(reader.read_byte_record(&mut record), Ok(true)) {
        let line = record.position().map_or(0, |position| lines.at(position.byte()));
        let (width, told, reason) = match (header, why.get(&line)) {
            (None, _) => {
                let told = record.iter().position(|name| name == WHY.as_bytes());
                header = Some((record.len(), told));
                (record.len(), told, WHY)
            }
            (Some((width, told)), Some(reason)) => (width, told, *reason),
            (Some(_), None) => continue,
        };
        let cells = (0..record.len().max(width)).filter(|at| Some(*at) != told);
        let cells = cells.map(|at| record.get(at).unwrap_or_default());
        if writer.write_record(cells.chain([reason.as_bytes()])).is_err() {
            break;
        }
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Counts lines as the API does: by line breaks, empty lines too.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// Returns the number of the line that a record at this byte begins in; records come in order.
    fn at(&mut self, byte: u64) -> u64 {
        let mut to = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        // The position is before the end of the line above and before empty lines.
        while matches!(self.text.get(to), Some(b'\r' | b'\n')) {
            to += 1;
        }
        let passed = self.text.get(self.at..to).unwrap_or_default();
        let breaks = passed.iter().filter(|byte| **byte == b'\n').count();
        self.line += u64::try_from(breaks).unwrap_or_default();
        self.at = to.max(self.at);
        self.line
    }
}

fn download(text: String) -> Response {
    let mut headers = assets::headers("text/csv; charset=utf-8", "no-store");
    let name = HeaderValue::from_static("attachment; filename=\"rejected.csv\"");
    headers.insert(header::CONTENT_DISPOSITION, name);
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_lines_come_back_with_their_reason() {
        let wrong = |line, detail: &str| Wrong { line, detail: detail.to_owned() };
        let text = "sku,quantity\r\nA,1\r\n\r\n\"B\nb\",x\r\nC,2\nD,-1\n";
        let left = rejected(text, &[wrong(4, "no number"), wrong(7, "below, zero")]);
        let expected = "sku,quantity,refused_because\n\"B\nb\",x,no number\nD,-1,\"below, zero\"\n";
        assert_eq!(left, expected);
        let again = rejected(expected, &[wrong(4, "still")]);
        assert_eq!(again, "sku,quantity,refused_because\nD,-1,still\n");
        assert_eq!(rejected(text, &[]), "");
    }
}
