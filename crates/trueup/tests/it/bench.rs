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
