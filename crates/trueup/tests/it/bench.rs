//! `trueup bench` as a user runs it, on a small scale: its figures say nothing here, but every
//! answer is counted, and what it starts ends with it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::run;

/// How long something may take to come, which is looked for so often.
const LOOKS_MAX: u32 = 600;
const LOOK: Duration = Duration::from_millis(100);

/// Runs a benchmark and returns its JSON; it must hold that every answer was as wanted.
fn bench(args: &[&str]) -> Value {
    let dir = open_dir();
    let under = dir.path().to_str().unwrap();
    let args = [&["bench"], args, &["--json", "--dir", under]].concat();
    let output = run(&args);
    let (said, told) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
    assert!(output.status.success(), "{args:?}: {said} {}", String::from_utf8_lossy(&told));
    assert_eq!(entries(dir.path()), [""; 0], "{args:?} left something");
    serde_json::from_str(&said).unwrap()
}

/// Makes a directory that every user may pass: PostgreSQL does not run as root.
fn open_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

/// Returns whether PostgreSQL's programs are on this machine; says so where they are not.
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn has_postgres() -> bool {
    let told = Command::new("pg_config").arg("--bindir").output();
    let told = told.ok().map(|told| String::from_utf8(told.stdout).unwrap());
    let mut places: Vec<PathBuf> = told.map(|told| told.trim().into()).into_iter().collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    places.extend(versions.map(|version| version.unwrap().path().join("bin")));
    let found = places.iter().any(|place| place.join("initdb").is_file());
    if !found {
        println!("SKIPPED: PostgreSQL is not on this machine");
    }
    found
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

#[test]
fn a_report_is_drawn_into_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bench.svg");
    let path = file.to_str().unwrap();
    let small = ["--only", "read", "--seconds", "1", "--skus", "50", "--connections", "2,4"];
    bench(&[&small[..], &["--plot", path]].concat());
    let svg = std::fs::read_to_string(file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    assert!(svg.contains(">read, 2<") && svg.contains(">read, 4<"), "{svg}");
}

#[test]
fn growth_is_measured_through_a_crash_and_an_end_in_order() {
    let report = bench(&[
        "growth",
        "--skus",
        "100,2000",
        "--lines",
        "0,20500",
        "--reservations",
        "0,3",
        "--connections",
        "4",
        "--seconds",
        "1",
    ]);
    let rows = report["rows"].as_array().unwrap();
    let told = |row: &Value| format!("{} {}", row["growing"].as_str().unwrap(), row["count"]);
    let told: Vec<String> = rows.iter().map(told).collect();
    let expected = [
        "skus 100",
        "skus 2000",
        "lines 0",
        "lines 20500",
        "reservations 0",
        "reservations 3000",
        "pairs 0",
    ];
    assert_eq!(told[..7], expected, "{report}");
    assert!(rows[7]["count"].as_u64().unwrap() > 0, "{report}");
    for row in rows {
        for field in ["perSecond", "toFloor", "costToFirst", "startSeconds", "memoryMib"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} of {row}");
        }
    }
    for each in report["each"].as_array().unwrap() {
        assert!(each["fileBytes"].as_f64().unwrap() > 0.0, "{each}");
    }
    assert_eq!(report["each"].as_array().unwrap().len(), 4, "{report}");
}

#[test]
fn more_than_can_be_done_is_asked_at_a_steady_rate() {
    let small = ["overload", "--times", "0.2,3", "--connections", "32", "--seconds", "1"];
    let report = bench(&small);
    assert_eq!(report["capacityConnections"], 32, "{report}");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{report}");
    for row in rows {
        let statuses = row["statuses"].as_object().unwrap();
        assert_eq!(statuses.keys().collect::<Vec<_>>(), ["201"], "so few are never refused: {row}");
        for field in ["sentPerSecond", "perSecond", "latestMs", "boundMs", "floorPerSecond"] {
            assert!(row[field].as_f64().unwrap() > 0.0, "{field} of {row}");
        }
    }
}

#[test]
fn postgres_stands_beside_each_reservation() {
    if !has_postgres() {
        return;
    }
    let report = bench(&[
        "--vs",
        "postgres",
        "--only",
        "reserve-spread,reserve-hot,read",
        "--seconds",
        "1",
        "--skus",
        "50",
        "--connections",
        "2",
    ]);
    let postgres = report["postgres"].as_array().unwrap();
    let told = |row: &Value| format!("{} {}", row["load"], row["form"]).replace('"', "");
    let expected = [
        "reserve-spread transaction",
        "reserve-spread statement",
        "reserve-hot transaction",
        "reserve-hot statement",
    ];
    assert_eq!(postgres.iter().map(told).collect::<Vec<_>>(), expected, "{report}");
    assert!(postgres.iter().all(|row| row["perSecond"].as_f64().unwrap() > 0.0), "{report}");
    assert!(row(&report, "reserve-hot")["toPostgres"].as_f64().unwrap() > 0.0, "{report}");
    assert!(row(&report, "read")["toPostgres"].is_null(), "{report}");
}

#[test]
fn servers_on_one_database_are_measured_beside_one_alone() {
    if !has_postgres() {
        return;
    }
    let report = bench(&[
        "--store",
        "postgres",
        "--nodes",
        "2",
        "--vs",
        "postgres",
        "--only",
        "reserve-spread,reserve-hot",
        "--seconds",
        "1",
        "--skus",
        "50",
        "--connections",
        "4",
    ]);
    let rows = report["rows"].as_array().unwrap();
    let told = |row: &Value| {
        let beside = ["toOneNode", "toTransaction"].map(|field| row[field].is_number());
        format!("{} {} {beside:?}", row["name"].as_str().unwrap(), row["nodes"])
    };
    let expected = [
        "empty endpoint 1 [false, false]",
        "reserve-spread 1 [false, true]",
        "reserve-spread 2 [true, false]",
        "reserve-hot 1 [false, true]",
        "reserve-hot 2 [true, false]",
    ];
    assert_eq!(rows.iter().map(told).collect::<Vec<_>>(), expected, "{report}");
    assert_eq!(report["setting"]["store"], "postgres");
}

#[test]
fn who_wants_several_servers_on_one_directory_is_told_what_helps() {
    let output = run(&["bench", "--nodes", "2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("hint: add --store postgres"), "{said}");
}

#[test]
fn who_lacks_postgres_is_told_what_helps() {
    let output = run(&["bench", "--vs", "postgres", "--postgres-bin", "/nowhere"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("there is no initdb\nhint: install PostgreSQL's server"), "{said}");
}

/// Waits until a file is there whose path ends so, and returns its text.
async fn appears(dir: &Path, end: &str) -> String {
    for _ in 0..LOOKS_MAX {
        for entry in entries(dir) {
            match std::fs::read_to_string(Path::new(&entry).join(end)) {
                Ok(text) if !text.is_empty() => return text,
                Ok(_) | Err(_) => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    panic!("no {end} appeared in {}", dir.display());
}

#[tokio::test]
async fn who_interrupts_a_benchmark_leaves_nothing_running() {
    if !has_postgres() {
        return;
    }
    let dir = open_dir();
    let mut child = Command::new(env!("CARGO_BIN_EXE_trueup"))
        .args(["bench", "--vs", "postgres", "--seconds", "60", "--skus", "50", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let postmaster = appears(dir.path(), "data/postmaster.pid").await;
    appears(dir.path(), "data/secret.key").await;
    let ended = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(ended.success());
    assert!(!child.wait().unwrap().success());
    assert_eq!(entries(dir.path()), [""; 0], "something is left");
    let pid = postmaster.lines().next().unwrap();
    // One that has ended and was not asked after has no command line.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    assert!(command.is_empty(), "{pid} runs: {}", String::from_utf8_lossy(&command));
}
