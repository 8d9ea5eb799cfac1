//! `trueup bench` as a user runs it, on a small scale: its figures say nothing here, but every
//! answer is counted, and what it starts ends with it.

use serde_json::Value;

use crate::process::run;

/// Runs a benchmark and returns its JSON; it must hold that every answer was as wanted.
fn bench(args: &[&str]) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let under = dir.path().to_str().unwrap();
    let args = [&["bench"], args, &["--json", "--dir", under]].concat();
    let output = run(&args);
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(output.status.success(), "{args:?}: {said} {}", String::from_utf8_lossy(&told));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{args:?} left {left:?}");
    serde_json::from_str(&said).unwrap()
}

fn row<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut rows = report["rows"].as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn every_answer_of_the_blend_is_as_wanted_with_and_without_keys() {
    for keys in [&[][..], &["--idempotency-keys"][..]] {
        let small = ["--only", "mixed", "--seconds", "1", "--skus", "50", "--connections", "4"];
        let report = bench(&[&small, keys].concat());
        let statuses = row(&report, "mixed")["statuses"].as_object().unwrap();
        assert_eq!(statuses.keys().collect::<Vec<_>>(), ["200", "201"], "{report}");
        assert_eq!(row(&report, "empty endpoint")["refused"], 0);
    }
}

#[test]
fn each_number_of_connections_has_a_floor_of_its_own() {
    let report = bench(&[
        "--only",
        "reserve-spread,reserve-commit,reserve-batch",
        "--seconds",
        "1",
        "--skus",
        "50",
        "--connections",
        "3,1,3",
    ]);
    let rows = report["rows"].as_array().unwrap();
    let told = |row: &Value| {
        let beside = ["toWideFloor", "toSpread"].map(|field| row[field].is_number());
        format!("{} {} {beside:?}", row["name"].as_str().unwrap(), row["connections"])
    };
    let expected = [
        "empty endpoint 1 [false, false]",
        "empty endpoint 3 [false, false]",
        "empty endpoint 16 [false, false]",
        "empty endpoint 64 [false, false]",
        "reserve-spread 1 [false, false]",
        "reserve-commit 1 [false, true]",
        "reserve-spread 3 [false, false]",
        "reserve-commit 3 [false, true]",
        "reserve-batch 16 [true, false]",
    ];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected, "{report}");
    for row in rows {
        for field in ["perSecond", "p50Ms", "p99Ms", "toFloor", "p99ToFloor"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} of {row}");
        }
    }
}
