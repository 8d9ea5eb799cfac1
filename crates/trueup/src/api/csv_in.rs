//! CSV in: our own columns, or Shopify's inventory file.
//!
//! Every line is its own: wrong ones are reported by number and keep no good one from being
//! taken, unless all or nothing was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::StatusCode;
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::{Value, json};
use trueup_core::{
    Answer, ChannelId, Command, Location, NameError, Quantity, Rejection, SetOnHand, Sku,
    SkuSettings,
};
use trueup_store::{Outcome, Submission};
use trueup_sync::Impact;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::body::free_text;
use crate::api::extract::{Caller, Stock};
use crate::api::idempotency::Incoming;
use crate::api::impact::{ImpactView, Manner};
use crate::api::inventory::ITEMS_MAX;
use crate::api::lists::Params;
use crate::api::problem::Problem;
use crate::api::reply::Reply;
use crate::api::runs;
use crate::api::{Answered, App, AppState};

/// Items in one command of an import that is not all or nothing.
const CHUNK_ITEMS: usize = 1_000;
/// The most wrong lines, and the most changes of a dry run, that are told one by one.
pub(super) const ERRORS_MAX: usize = 1_000;
/// The most columns that are read.
const COLUMNS_MAX: usize = 500;

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(import))
}

// --- Tables -------------------------------------------------------------------------------

/// A CSV text with its header.
pub(super) struct Table {
    columns: Vec<String>,
    text: Bytes,
    reader: csv::Reader<std::io::Cursor<Bytes>>,
}

/// A line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineError {
    /// Its number in the file; the header is line 1.
    pub line: u64,
    /// For programs.
    pub code: String,
    /// For people.
    pub detail: String,
}

impl LineError {
    pub(super) fn new(line: u64, code: &str, detail: impl Into<String>) -> Self {
        Self { line, code: code.to_owned(), detail: detail.into() }
    }

    pub(super) fn of(line: u64, problem: &Problem) -> Self {
        Self::new(line, problem.code(), problem.detail())
    }
}

/// What the column of SKUs is called.
const SKU_COLUMNS: [&str; 2] = ["sku", "variantsku"];

/// A line's cells by column, trimmed but for the SKU.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) cells: Vec<(String, String)>,
}

impl Table {
    /// Reads the header. Comma, semicolon or tab; with or without a byte order mark.
    pub(super) fn read(body: &[u8]) -> Result<Self, Problem> {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let text = Bytes::copy_from_slice(body);
        let first = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let count = |delimiter: u8| first.iter().filter(|byte| **byte == delimiter).count();
        let most = [b',', b';', b'\t'].into_iter().rev().max_by_key(|d| count(*d));
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(most.unwrap_or(b','))
            .flexible(true)
            .from_reader(std::io::Cursor::new(text.clone()));
        let malformed = |error: csv::Error| {
            Problem::bad("malformed_csv", format!("the header cannot be read: {error}"))
        };
        let columns: Vec<String> =
            reader.headers().map_err(malformed)?.iter().map(|name| name.trim().into()).collect();
        if columns.iter().all(String::is_empty) {
            return Err(Problem::bad("malformed_csv", "the file is empty"));
        }
        if columns.len() > COLUMNS_MAX {
            let detail = format!("there are more than {COLUMNS_MAX} columns");
            return Err(Problem::bad("malformed_csv", detail));
        }
        Ok(Self { columns, text, reader })
    }

    /// Returns the lines; empty ones are left out.
    pub(super) fn lines(self) -> impl Iterator<Item = Result<Line, LineError>> {
        let columns = self.columns;
        let mut counter = LineCounter { text: self.text, at: 0, line: 1 };
        self.reader.into_records().filter_map(move |record| {
            let record = match record {
                Ok(record) => record,
                Err(error) => {
                    let line = error.position().map_or(0, |position| counter.line(position));
                    let detail = "the line is not CSV in UTF-8";
                    return Some(Err(LineError::new(line, "malformed_line", detail)));
                }
            };
            let number = record.position().map_or(0, |position| counter.line(position));
            if record.iter().all(|cell| cell.trim().is_empty()) {
                return None;
            }
            if record.len() > columns.len() {
                let detail = format!("has {} cells, the header {}", record.len(), columns.len());
                return Some(Err(LineError::new(number, "malformed_line", detail)));
            }
            let cells = columns.iter().zip(record.iter());
            // A SKU is compared exactly: a space at its end is a part of it.
            let cells = cells.map(|(name, cell)| {
                let is_sku = SKU_COLUMNS.contains(&fold(name).as_str());
                let cell = if is_sku { cell } else { cell.trim() };
                (name.clone(), cell.to_owned())
            });
            Some(Ok(Line { number, cells: cells.collect() }))
        })
    }
}

/// Counts lines: the reader's own count is off where lines are empty or end in `\r\n`.
struct LineCounter {
    text: Bytes,
    at: usize,
    line: u64,
}

impl LineCounter {
    /// Returns the number of the line that a record begins in; records come in order.
    fn line(&mut self, position: &csv::Position) -> u64 {
        let from = usize::try_from(position.byte()).unwrap_or(usize::MAX).min(self.text.len());
        // The position is before the end of the line above and before empty lines.
        let skipped = self.text[from..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let begin = from + skipped.count();
        let passed = self.text.get(self.at..begin).unwrap_or_default();
        let breaks = passed.iter().filter(|byte| **byte == b'\n').count();
        self.line += u64::try_from(breaks).unwrap_or(u64::MAX);
        self.at = begin.max(self.at);
        self.line
    }
}

/// Returns a column's name without case, spaces, `_` and `-`.
pub(super) fn fold(name: &str) -> String {
    let kept = name.chars().filter(|c| !matches!(c, ' ' | '_' | '-'));
    kept.flat_map(char::to_lowercase).collect()
}

// --- The inventory's columns --------------------------------------------------------------

/// Where an inventory file has what.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    sku: usize,
    /// The first that is not empty counts.
    quantity: Vec<usize>,
    location: Option<usize>,
    reason: Option<usize>,
    low_stock_threshold: Option<usize>,
    safety_stock: Option<usize>,
    backorder_limit: Option<usize>,
    /// Shopify's "available quantities" file: a column of quantities per location.
    by_location: Vec<(usize, String)>,
    ignored: Vec<String>,
}

/// Columns of Shopify's files that are not for us.
const SHOPIFY_BEFORE_LOCATIONS: &str = "coo";

impl Layout {
    fn of(columns: &[String]) -> Result<Self, Problem> {
        let folded: Vec<String> = columns.iter().map(|name| fold(name)).collect();
        let find = |names: &[&str]| {
            names.iter().find_map(|name| folded.iter().position(|known| known == name))
        };
        let all = |names: &[&str]| -> Vec<usize> {
            let at = |name: &&str| folded.iter().position(|known| known == name);
            names.iter().filter_map(at).collect()
        };
        let sku = find(&SKU_COLUMNS).ok_or_else(|| missing_column("sku"))?;
        let mut layout = Self {
            sku,
            // Shopify's file: an edited number goes before the exported one.
            quantity: all(&["quantity", "onhand(new)", "onhand", "onhand(current)"]),
            location: find(&["location", "locationid"]),
            reason: find(&["reason"]),
            low_stock_threshold: find(&["lowstockthreshold"]),
            safety_stock: find(&["safetystock"]),
            backorder_limit: find(&["backorderlimit"]),
            by_location: Vec::new(),
            ignored: Vec::new(),
        };
        let is_shopify = folded.iter().any(|name| name == "handle");
        if layout.quantity.is_empty() && is_shopify && layout.location.is_none() {
            let after = folded.iter().position(|name| name == SHOPIFY_BEFORE_LOCATIONS);
            let from = after.map_or(columns.len(), |at| at + 1);
            let named = columns.iter().enumerate().skip(from);
            layout.by_location = named.map(|(at, name)| (at, name.clone())).collect();
        } else if layout.quantity.is_empty() {
            layout.quantity = all(&["available", "available(noteditable)", "qty", "stock"]);
        }
        if layout.quantity.is_empty() && layout.by_location.is_empty() {
            return Err(missing_column("quantity"));
        }
        let ignored = (0..columns.len()).filter(|at| !layout.uses(*at));
        layout.ignored = ignored.filter_map(|at| columns.get(at).cloned()).collect();
        Ok(layout)
    }

    fn uses(&self, at: usize) -> bool {
        at == self.sku
            || self.quantity.contains(&at)
            || self.by_location.iter().any(|(by, _)| *by == at)
            || [
                self.location,
                self.reason,
                self.low_stock_threshold,
                self.safety_stock,
                self.backorder_limit,
            ]
            .contains(&Some(at))
    }

    /// Reads a line: usually one count, one per location in Shopify's older file.
    fn counts(&self, line: &Line) -> Result<Vec<SetOnHand>, LineError> {
        let cell = |at: usize| line.cells.get(at).map_or("", |(_, text)| text.as_str());
        let optional = |at: Option<usize>| at.map(cell).filter(|text| !text.is_empty());
        let refuse = |code, detail: String| Err(LineError::new(line.number, code, detail));
        let sku = match Sku::new(cell(self.sku)) {
            Ok(sku) => sku,
            Err(error) => return refuse("invalid_sku", format!("the SKU {error}")),
        };
        let reason = optional(self.reason);
        if let Some(Err(detail)) = reason.map(free_text) {
            return refuse("invalid_text", format!("the reason {detail}"));
        }
        let number = |at: Option<usize>| optional(at).map(|text| quantity(line, text)).transpose();
        let settings = SkuSettings {
            safety_stock: number(self.safety_stock)?,
            low_stock_threshold: number(self.low_stock_threshold)?.map(Some),
            backorder_limit: number(self.backorder_limit)?,
        };
        let count = |text: &str, location: Location| {
            Ok(SetOnHand {
                sku: sku.clone(),
                quantity: quantity(line, text)?,
                location,
                reason: reason.map(Arc::from),
                settings,
                counted_at: None,
                if_version: None,
                publish: false,
            })
        };
        if !self.by_location.is_empty() {
            let stocked = self.by_location.iter().filter(|(at, _)| is_stocked(cell(*at)));
            return stocked.map(|(at, name)| count(cell(*at), place(line, Some(name))?)).collect();
        }
        let given = self.quantity.iter().map(|at| cell(*at)).find(|text| !text.is_empty());
        match given {
            None => refuse("invalid_quantity", "the quantity is empty".to_owned()),
            Some(text) if !is_stocked(text) => Ok(Vec::new()),
            Some(text) => Ok(vec![count(text, place(line, optional(self.location))?)?]),
        }
    }
}

fn missing_column(name: &str) -> Problem {
    let detail = format!("there is no column {name:?}; expected at least sku,quantity");
    Problem::bad("missing_column", detail)
}

/// Shopify writes `not stocked` where a location does not carry a variant: never zero.
fn is_stocked(text: &str) -> bool {
    !text.is_empty() && !text.eq_ignore_ascii_case("not stocked")
}

fn place(line: &Line, name: Option<&str>) -> Result<Location, LineError> {
    let Some(name) = name else { return Ok(Location::main()) };
    Location::new(name).map_err(|error: NameError| {
        LineError::new(line.number, "invalid_location", format!("the location {error}"))
    })
}

fn quantity(line: &Line, text: &str) -> Result<Quantity, LineError> {
    // `42.0` is 42 here as in JSON.
    let whole = text.split_once('.').filter(|(_, rest)| rest.bytes().all(|b| b == b'0'));
    let digits = whole.map_or(text, |(whole, _)| whole);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = plain.then(|| digits.parse().ok()).flatten().and_then(Quantity::new);
    parsed.ok_or_else(|| {
        let detail = format!("{text:?} is not a whole number from 0 to 9007199254740991");
        LineError::new(line.number, "invalid_quantity", detail)
    })
}

/// What a file asks for, with the line of each count.
pub struct Read {
    /// The counts with their lines; each SKU and location once.
    pub counts: Vec<(u64, SetOnHand)>,
    /// The lines that are wrong.
    pub errors: Vec<LineError>,
    /// Columns that are not read.
    pub ignored: Vec<String>,
    /// Lines read, without the header.
    pub lines: u64,
}

/// Reads an inventory file: our columns or Shopify's.
///
/// # Errors
/// When the header is not one of an inventory; wrong lines are in [`Read::errors`].
pub fn read(body: &[u8]) -> Result<Read, Problem> {
    let table = Table::read(body)?;
    let layout = Layout::of(&table.columns)?;
    let (mut counts, mut errors, mut lines) = (Vec::new(), Vec::new(), 0);
    let mut seen: FxHashMap<(Sku, Location), u64> = FxHashMap::default();
    for line in table.lines() {
        lines += 1;
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        match layout.counts(&line) {
            Err(error) => errors.push(error),
            Ok(found) => {
                for count in found {
                    let name = (count.sku.clone(), count.location.clone());
                    if let Some(first) = seen.get(&name) {
                        let detail = format!("the same SKU and location stand in line {first}");
                        errors.push(LineError::new(line.number, "duplicate_line", detail));
                    } else {
                        seen.insert(name, line.number);
                        counts.push((line.number, count));
                    }
                }
            }
        }
    }
    Ok(Read { counts, errors, ignored: layout.ignored, lines })
}

// --- The import ---------------------------------------------------------------------------

/// What an import did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ImportView {
    /// Lines read, without the header.
    lines: u64,
    /// Counts that were taken (in a dry run: that would be).
    updated: usize,
    /// Counts and lines that were not.
    failed: usize,
    dry_run: bool,
    /// What is wrong, by line (the first 1000).
    errors: Vec<LineError>,
    /// What would change, in a dry run: `{line, sku, locationId, from, to}` (the first 1000).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Vec<Object>)]
    changes: Option<Vec<Value>>,
    /// What channels would be told, in a dry run with `syncToChannels`, by channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Option<Object>)]
    impact: Option<BTreeMap<String, ImpactView>>,
    /// Columns that were not read.
    ignored_columns: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = Option<Object>)]
    sync: Option<Value>,
}

/// Reads counts from CSV.
///
/// Columns `sku,quantity` and, if there, `location`, `reason`, `low_stock_threshold`,
/// `safety_stock`, `backorder_limit`; or Shopify's own inventory file. A count is taken at the
/// line's location, or at `main`. Wrong lines are reported by number; good ones are kept unless
/// `atomic=true`.
#[utoipa::path(post, path = "/sales-channel/inventory/import", tag = "inventory",
    params(("dryRun" = Option<bool>, Query, description = "Say what would change"),
        ("atomic" = Option<bool>, Query, description = "All lines or none; at most 10 000"),
        ("syncToChannels" = Option<bool>, Query, description = "Push to every channel now"),
        ("confirm" = Option<bool>, Query, description = "Do it although it changes much of what \
            a channel shows")),
    request_body(content = String, content_type = "text/csv",
        example = json!("sku,quantity\nSKU-100,42\n")),
    responses((status = 200, description = "What became of the lines", body = ImportView),
        (status = 400, description = "`missing_column`, `malformed_csv`; with `atomic` \
            `import_invalid` with the lines' `errors`"),
        (status = 409, description = "With `atomic`: what stood in the way; with \
            `syncToChannels`: `blast_radius` with the `impact`, nothing was changed")))]
async fn import(
    State(app): State<AppState>,
    caller: Caller<Stock>,
    mut query: Params,
    incoming: Incoming,
) -> Answered {
    let manner = Manner::take(&mut query)?;
    let atomic = query.flag("atomic")?.unwrap_or(false);
    let publish = query.flag("syncToChannels")?.unwrap_or(false);
    query.finish()?;
    let read = read(incoming.body())?;
    if atomic {
        check_atomic(&read)?;
    }
    let work = async {
        if manner.is_dry() {
            return preview(&app, &caller, read, publish).await;
        }
        if publish && manner == Manner::Guarded {
            app.engine
                .check_counts(&caller.org, read.counts.iter().map(|(_, count)| count))
                .await?;
        }
        take(&app, &caller, read, atomic, publish).await
    };
    incoming.once(&app, &caller, work).await
}

fn check_atomic(read: &Read) -> Result<(), Problem> {
    if read.counts.len() > ITEMS_MAX {
        let detail = format!("all or nothing takes at most {ITEMS_MAX} lines");
        return Err(Problem::bad("too_many_items", detail));
    }
    if read.errors.is_empty() {
        return Ok(());
    }
    let detail = format!("{} lines are wrong; nothing was changed", read.errors.len());
    let lines = json!(read.errors.iter().take(ERRORS_MAX).collect::<Vec<_>>());
    Err(Problem::bad("import_invalid", detail).with("errors", lines))
}

/// Says what would change, and where the channels are told, of what they show.
async fn preview(app: &App, caller: &Caller<Stock>, read: Read, publish: bool) -> Answered {
    let counts = read.counts.iter().map(|(_, count)| count);
    let impact = match publish {
        true => Some(app.engine.impact_of_counts(&caller.org, counts).await?),
        false => None,
    };
    let view = |(channel, impact): (ChannelId, Impact)| (channel.to_string(), impact.into());
    let impact = impact.map(|impacts| impacts.into_iter().map(view).collect());
    let mut changes = Vec::new();
    for (line, count) in &read.counts {
        if changes.len() >= ERRORS_MAX {
            break;
        }
        let found = app.store.sku(&caller.org, &count.sku).await?;
        let level = found.as_ref().and_then(|answer| answer.state.level(&count.location));
        let from = level.map(|level| level.on_hand.get());
        if from != Some(count.quantity.delta().get()) {
            changes.push(json!({
                "line": line,
                "sku": count.sku.as_str(),
                "locationId": count.location.as_str(),
                "from": from,
                "to": count.quantity.get(),
            }));
        }
    }
    Ok(Reply::ok(&ImportView {
        lines: read.lines,
        updated: read.counts.len(),
        failed: read.errors.len(),
        dry_run: true,
        errors: read.errors.into_iter().take(ERRORS_MAX).collect(),
        changes: Some(changes),
        impact,
        ignored_columns: read.ignored,
        sync: None,
    }))
}

async fn take(
    app: &App,
    caller: &Caller<Stock>,
    read: Read,
    atomic: bool,
    publish: bool,
) -> Answered {
    let chunk = if atomic { ITEMS_MAX } else { CHUNK_ITEMS };
    let (mut updated, mut errors) = (Vec::new(), read.errors);
    for counts in read.counts.chunks(chunk) {
        let items = counts.iter().map(|(_, count)| SetOnHand { publish, ..count.clone() });
        let command = Command::Bulk { items: items.collect(), atomic };
        let results = submit(app, caller, command).await?;
        for ((line, count), (_, result)) in counts.iter().zip(results) {
            match result {
                Ok(_) => updated.push(count.sku.clone()),
                Err(refused) => errors.push(LineError::of(*line, &Problem::from(refused))),
            }
        }
    }
    errors.sort_by_key(|error| error.line);
    let total = updated.len();
    let sync =
        if publish && !updated.is_empty() { push(app, caller, updated).await? } else { None };
    Ok(Reply::ok(&ImportView {
        lines: read.lines,
        updated: total,
        failed: errors.len(),
        dry_run: false,
        errors: errors.into_iter().take(ERRORS_MAX).collect(),
        changes: None,
        impact: None,
        ignored_columns: read.ignored,
        sync,
    }))
}

async fn submit(
    app: &App,
    caller: &Caller<Stock>,
    command: Command,
) -> Result<Vec<(Sku, Result<u64, Rejection>)>, Problem> {
    let submission = Submission {
        org: caller.org.clone(),
        command,
        actor: Arc::clone(&caller.actor),
        source: trueup_core::Source::Import,
        idempotency: None,
    };
    match app.store.submit(submission).await? {
        Outcome::Decided(Ok(Answer::Bulk(results))) => Ok(results),
        Outcome::Decided(Err(rejection)) => Err(rejection.into()),
        Outcome::Decided(Ok(_)) | Outcome::Recorded(..) | Outcome::Replayed(_) => {
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "a bug"))
        }
    }
}

async fn push(app: &App, caller: &Caller<Stock>, skus: Vec<Sku>) -> Result<Option<Value>, Problem> {
    let id = runs::new_fan_out_id(app);
    let scope = trueup_sync::PushScope::Changed(skus.into_iter().collect());
    runs::fan_out(app, &caller.org, &id, &scope, runs::Doing::Push).await?;
    Ok(Some(json!({ "runId": id })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(text: &str) -> Vec<String> {
        let read = read(text.as_bytes()).expect("a header");
        let count = |(line, count): &(u64, SetOnHand)| {
            format!("{line}: {}@{}={}", count.sku, count.location, count.quantity)
        };
        let error = |error: &LineError| format!("{}: {}", error.line, error.code);
        read.counts.iter().map(count).chain(read.errors.iter().map(error)).collect()
    }

    #[test]
    fn our_columns_are_read_in_any_order_and_case() {
        let text = "\u{feff}Quantity;SKU;Location\r\n42;A;\r\n1.0;\"B;2\";berlin\r\n";
        assert_eq!(counts(text), ["2: A@main=42", "3: B;2@berlin=1"]);
    }

    #[test]
    fn wrong_lines_are_told_by_number_and_good_ones_kept() {
        let text = "sku,quantity\nA,1\n,2\nB,-1\nC,1.5\nD,x\nA,3\nE,4,5\n\nF,6\nG\n";
        let expected = [
            "2: A@main=1",
            "10: F@main=6",
            "3: invalid_sku",
            "4: invalid_quantity",
            "5: invalid_quantity",
            "6: invalid_quantity",
            "7: duplicate_line",
            "8: malformed_line",
            "11: invalid_quantity",
        ];
        assert_eq!(counts(text), expected);
    }

    #[test]
    fn shopifys_files_are_read() {
        let all = "Handle,Title,Option1 Name,Option1 Value,SKU,HS Code,COO,Location,Bin name,\
            Incoming (not editable),Unavailable (not editable),Committed (not editable),\
            Available (not editable),On hand (current),On hand (new)\n\
            cup,Cup,Title,Default,CUP,,,Shop,,0,0,2,40,42,\n\
            box,Box,Title,Default,BOX,,,Shop,,0,0,0,7,7,9\n\
            bag,Bag,Title,Default,BAG,,,Shop,,0,0,0,not stocked,not stocked,\n";
        assert_eq!(counts(all), ["2: CUP@Shop=42", "3: BOX@Shop=9"]);
        let available = "Handle,Title,Option1 Name,Option1 Value,SKU,HS Code,COO,Shop,Depot\n\
            cup,Cup,Title,Default,CUP,,,40,not stocked\n\
            box,Box,Title,Default,BOX,,,7,3\n";
        assert_eq!(counts(available), ["2: CUP@Shop=40", "3: BOX@Shop=7", "3: BOX@Depot=3"]);
    }

    #[test]
    fn a_file_without_its_columns_is_refused() {
        for (text, code) in [
            ("", "malformed_csv"),
            ("\n\n", "malformed_csv"),
            ("name,quantity\n", "missing_column"),
            ("sku,price\n", "missing_column"),
        ] {
            let problem = read(text.as_bytes()).err().expect(text);
            assert_eq!(problem.code(), code, "{text:?}");
        }
    }
}
