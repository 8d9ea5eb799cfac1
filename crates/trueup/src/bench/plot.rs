//! `--plot`: the report as one SVG file that needs nothing else to be looked at.
//!
//! Three kinds of panels: how much of the empty endpoint's rate each load reaches, how it stands
//! to PostgreSQL where that was measured, and latencies by connections. Both axes of the latter
//! are logarithmic. Colours follow the viewer's light or dark scheme.

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

use super::load::Load;
use super::report::{Report, Row};

/// The drawing's width, and what is left free around its parts.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Where bars begin and how long the longest may be.
const BAR_LEFT: f64 = 190.0;
const BAR_LENGTH_MAX: f64 = 620.0;
const BAR_STEP: f64 = 26.0;
const BAR_HEIGHT: f64 = 16.0;
/// Panels of latencies: two beside each other.
const PANEL_COLUMNS: usize = 2;
const PANEL_HEIGHT: f64 = 220.0;
const PANEL_GAP: f64 = 56.0;
/// How far labels stand from what they label.
const LABEL_GAP: f64 = 6.0;

/// Without variables, and apart from [`DARK`]: not every viewer knows them or media queries.
const STYLE: &str = "
text { fill: #1b1f24; font: 13px system-ui, sans-serif; }
.title { font-size: 18px; font-weight: 600; }
.head { font-size: 15px; font-weight: 600; }
.soft { fill: #59636e; font-size: 12px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.paper { fill: #ffffff; }
.grid { stroke: #d1d9e0; stroke-width: 1; }
.one { fill: #0b6bcb; stroke: #0b6bcb; }
.two { fill: #b3470e; stroke: #b3470e; }
.floor { fill: #8a949e; stroke: #8a949e; }
.curve { fill: none; stroke-width: 2; }
.dashed { stroke-dasharray: 6 4; }
";

const DARK: &str = "
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .soft { fill: #9aa5b1; }
  .paper { fill: #0f1419; }
  .grid { stroke: #353d46; }
  .one { fill: #58a6ff; stroke: #58a6ff; }
  .two { fill: #ff9d5c; stroke: #ff9d5c; }
  .floor { fill: #7d8792; stroke: #7d8792; }
  .curve { fill: none; }
}
";

/// A drawing that grows downwards.
struct Drawing {
    body: String,
    /// Where the next part begins.
    top: f64,
}

const WRITES: &str = "a String takes every text";

impl Drawing {
    fn put(&mut self, part: impl Display) {
        writeln!(self.body, "{part}").expect(WRITES);
    }

    fn text(&mut self, (x, y): (f64, f64), class: &str, words: &str) {
        let words = escaped(words);
        self.put(format_args!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{words}</text>"#));
    }

    fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.put(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    fn head(&mut self, words: &str, explained: &str) {
        self.top += 30.0;
        self.text((MARGIN, self.top), "head", words);
        self.top += 18.0;
        self.text((MARGIN, self.top), "soft", explained);
        self.top += 14.0;
    }

    /// Draws a bar for each ratio, with lines at whole tenths or ones.
    fn bars(&mut self, bars: &[(String, f64)]) {
        let most = bars.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max);
        let length = |ratio: f64| BAR_LENGTH_MAX * ratio / most;
        let height = BAR_STEP * count(bars.len());
        let one = BAR_LEFT + length(1.0);
        for (name, ratio) in bars {
            let (y, width) = (self.top, length(*ratio));
            let base = y + BAR_HEIGHT - 3.0;
            self.text((BAR_LEFT - LABEL_GAP, base), "end", name);
            self.put(format_args!(
                r#"<rect x="{BAR_LEFT:.1}" y="{y:.1}" width="{width:.1}" height="{BAR_HEIGHT:.1}" class="one"/>"#
            ));
            let label = BAR_LEFT + width + LABEL_GAP;
            self.text((label, base), "", &format!("{ratio:.2}"));
            self.top += BAR_STEP;
        }
        let bottom = self.top;
        self.line((one, bottom - height - 4.0), (one, bottom - 4.0), "floor dashed");
        self.text((one, bottom + 8.0), "soft middle", "1.00");
        self.top = bottom + 16.0;
    }
}

/// Renders a report.
pub(super) fn render(report: &Report) -> String {
    let mut drawing = Drawing { body: String::new(), top: 40.0 };
    drawing.text((MARGIN, drawing.top), "title", "Trueup's benchmark");
    drawing.top += 20.0;
    drawing.text((MARGIN, drawing.top), "soft", &report.setting.to_string());
    drawing.top += 16.0;
    ratios(&mut drawing, report);
    latencies(&mut drawing, report);
    finish(&drawing)
}

fn finish(drawing: &Drawing) -> String {
    let (height, body) = (drawing.top + MARGIN, &drawing.body);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0} {height:.0}" width="{WIDTH:.0}" height="{height:.0}" role="img" aria-label="Trueup's benchmark">
<style>{STYLE}</style>
<style>{DARK}</style>
<rect width="100%" height="100%" class="paper"/>
{body}</svg>
"#
    )
}

fn ratios(drawing: &mut Drawing, report: &Report) {
    let loads = || report.rows.iter().filter(|row| row.name != Load::Floor.name());
    let named = |row: &Row| format!("{}, {}", row.name, row.connections);
    let to_floor: Vec<(String, f64)> = loads().map(|row| (named(row), row.to_floor)).collect();
    drawing.head(
        "Rate beside the empty endpoint",
        "units per second ÷ requests per second of an empty endpoint over as many connections, \
         which stand after the name",
    );
    drawing.bars(&to_floor);
    let to_postgres: Vec<(String, f64)> =
        loads().filter_map(|row| Some((named(row), row.to_postgres?))).collect();
    if !to_postgres.is_empty() {
        drawing.head(
            "Rate beside PostgreSQL",
            "÷ transactions per second of PostgreSQL, asked by pgbench with as many callers, in \
             the better of its forms",
        );
        drawing.bars(&to_postgres);
    }
}

fn latencies(drawing: &mut Drawing, report: &Report) {
    let rows: Vec<&Row> = report.rows.iter().filter(|row| is_comparable(row)).collect();
    let names: Vec<&str> = Load::ALL.iter().map(|load| load.name()).collect();
    let names = names.into_iter().filter(|name| rows.iter().any(|row| row.name == *name));
    let axes = Axes::of(&rows);
    drawing.head(
        "Latency by connections, in milliseconds",
        "solid: the median; dashed: the 99th percentile; grey: the 99th percentiles of the empty \
         endpoint and of the disk's sync, added",
    );
    let top = drawing.top;
    let mut lines = 0;
    for (index, name) in names.enumerate() {
        let (row, column) = (index / PANEL_COLUMNS, index % PANEL_COLUMNS);
        let panel = axes.panel(top, row, column);
        panel.frame(drawing, name, &axes);
        let all: Vec<&Row> = rows.iter().copied().filter(|row| row.name == name).collect();
        let floor = |row: &Row| row.figures.p99_ms / row.p99_to_floor;
        panel.curve(
            drawing,
            &axes,
            "floor dashed",
            all.iter().map(|row| (row.connections, floor(row))),
        );
        panel.curve(
            drawing,
            &axes,
            "two dashed",
            all.iter().map(|row| (row.connections, row.figures.p99_ms)),
        );
        panel.curve(
            drawing,
            &axes,
            "one",
            all.iter().map(|row| (row.connections, row.figures.p50_ms)),
        );
        lines = row + 1;
    }
    drawing.top = top + count(lines) * (PANEL_HEIGHT + PANEL_GAP);
}

/// Returns whether a line's latencies are of single requests over connections that were chosen.
fn is_comparable(row: &Row) -> bool {
    row.name != Load::Floor.name() && row.name != Load::ReserveBatch.name()
}

/// What all panels share, so that they can be compared by eye.
struct Axes {
    /// Powers of ten of milliseconds: the least and the most.
    decades: (i32, i32),
    connections: BTreeSet<u32>,
}

impl Axes {
    fn of(rows: &[&Row]) -> Self {
        let times = rows.iter().flat_map(|row| {
            let Row { figures, p99_to_floor, .. } = row;
            [figures.p50_ms, figures.p99_ms, figures.p99_ms / p99_to_floor]
        });
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for time in times.filter(|time| time.is_finite() && *time > 0.0) {
            (least, most) = (least.min(time), most.max(time));
        }
        let decades =
            if most > 0.0 { (decade_below(least), decade_below(most) + 1) } else { (-1, 1) };
        Self { decades, connections: rows.iter().map(|row| row.connections).collect() }
    }

    fn panel(&self, top: f64, row: usize, column: usize) -> Panel {
        let gap = 2.0 * PANEL_GAP;
        let width = (WIDTH - 2.0 * MARGIN - gap) / count(PANEL_COLUMNS);
        let left = MARGIN + PANEL_GAP + count(column) * (width + PANEL_GAP);
        let top = top + PANEL_GAP / 2.0 + count(row) * (PANEL_HEIGHT + PANEL_GAP);
        Panel { left, top, width }
    }

    /// Returns how far along a number of connections stands, from 0 to 1.
    fn along(&self, connections: u32) -> f64 {
        let log = |connections: Option<&u32>| f64::from(*connections.unwrap_or(&1)).log2();
        let (least, most) = (log(self.connections.first()), log(self.connections.last()));
        if most > least { (log(Some(&connections)) - least) / (most - least) } else { 0.5 }
    }

    /// Returns how far up a time stands, from 0 to 1.
    fn up(&self, millis: f64) -> f64 {
        let (least, most) = (f64::from(self.decades.0), f64::from(self.decades.1));
        (millis.log10() - least) / (most - least)
    }
}

/// Returns the greatest power of ten that is not above a positive number.
fn decade_below(number: f64) -> i32 {
    (-9..9).rev().find(|power| 10_f64.powi(*power) <= number).unwrap_or(-9)
}

/// Where the latencies of one load are drawn.
struct Panel {
    left: f64,
    top: f64,
    width: f64,
}

impl Panel {
    fn at(&self, axes: &Axes, connections: u32, millis: f64) -> (f64, f64) {
        let x = self.left + self.width * axes.along(connections);
        (x, self.top + PANEL_HEIGHT * (1.0 - axes.up(millis)))
    }

    fn frame(&self, drawing: &mut Drawing, name: &str, axes: &Axes) {
        drawing.text((self.left, self.top - 8.0), "", name);
        for power in axes.decades.0..=axes.decades.1 {
            let millis = 10_f64.powi(power);
            let y = self.top + PANEL_HEIGHT * (1.0 - axes.up(millis));
            drawing.line((self.left, y), (self.left + self.width, y), "grid");
            drawing.text((self.left - LABEL_GAP, y + 4.0), "soft end", &millis.to_string());
        }
        let bottom = self.top + PANEL_HEIGHT;
        for connections in &axes.connections {
            let x = self.left + self.width * axes.along(*connections);
            drawing.line((x, bottom), (x, bottom + 4.0), "grid");
            drawing.text((x, bottom + 18.0), "soft middle", &connections.to_string());
        }
    }

    fn curve(
        &self,
        drawing: &mut Drawing,
        axes: &Axes,
        class: &str,
        points: impl Iterator<Item = (u32, f64)>,
    ) {
        let is_drawn = |(_, millis): &(u32, f64)| millis.is_finite() && *millis > 0.0;
        let points = points.filter(is_drawn);
        let points: Vec<_> = points.map(|(count, millis)| self.at(axes, count, millis)).collect();
        let words: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let words = words.join(" ");
        drawing.put(format_args!(r#"<polyline points="{words}" class="curve {class}"/>"#));
        for (x, y) in points {
            drawing.put(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" class="{class}"/>"#));
        }
    }
}

/// A small count as a float.
fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::report::{Figures, Setting};
    use super::*;

    fn row(name: &'static str, connections: u32, to_postgres: Option<f64>) -> Row {
        let figures = Figures { per_second: 1_000.0, p50_ms: 0.4, p99_ms: 4.0 };
        Row {
            name,
            unit: "requests",
            connections,
            nodes: 1,
            figures,
            to_floor: 0.5,
            to_wide_floor: None,
            to_spread: None,
            to_postgres,
            to_transaction: None,
            to_one_node: None,
            p99_to_floor: 2.0,
            statuses: BTreeMap::new(),
            refused: 0,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        let setting = Setting {
            skus: 10,
            rounds: 1,
            seconds: 1,
            cores: 2,
            idempotency_keys: false,
            optimized: true,
            store: "embedded",
            data_dir: "/tmp".to_owned(),
        };
        let disk_sync = Figures { per_second: 1.0, p50_ms: 1.0, p99_ms: 1.0 };
        Report { setting, disk_sync, rows, postgres: Vec::new(), failures: Vec::new() }
    }

    #[test]
    fn a_plot_names_every_load_and_no_address_outside() {
        let svg = render(&report(vec![
            row("empty endpoint", 1, None),
            row("reserve-hot", 1, Some(2.5)),
            row("reserve-hot", 64, Some(15.0)),
            row("read", 64, None),
        ]));
        for part in [">reserve-hot, 64<", ">0.50<", ">read, 64<", ">15.00<"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(svg.contains("prefers-color-scheme: dark"));
        assert_eq!(svg.matches("://").count(), 1, "the name of the format alone: {svg}");
        assert_eq!(svg.matches("class=\"curve floor dashed\"").count(), 2, "two panels: {svg}");
    }

    #[test]
    fn a_report_without_figures_is_drawn_without_nonsense() {
        let mut nothing = row("read", 8, None);
        nothing.figures = Figures { per_second: 0.0, p50_ms: 0.0, p99_ms: 0.0 };
        (nothing.to_floor, nothing.p99_to_floor) = (0.0, 0.0);
        for rows in [vec![], vec![nothing]] {
            let svg = render(&report(rows));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn words_do_not_end_what_they_stand_in() {
        assert_eq!(escaped("a<b>&c"), "a&lt;b&gt;&amp;c");
    }

    #[test]
    fn decades_are_whole_powers_of_ten() {
        for (number, expected) in [(0.04, -2), (0.1, -1), (1.0, 0), (9.9, 0), (387.0, 2)] {
            assert_eq!(decade_below(number), expected, "{number}");
        }
    }
}
