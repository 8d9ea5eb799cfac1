//! Commands on a store of the kind that is being tested, without a server.

use std::process::Output;

use trueup_test_store::TestStore;

use crate::process::{place, run};

fn said(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{out}{err}")
}

#[tokio::test]
async fn stock_is_imported_exported_and_verified() {
    let store = TestStore::new().await;
    let [flag, place] = &place(&store);
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("stock.csv");
    std::fs::write(&file, "sku,quantity,location\nB,7,main\nA,5,main\nA,2,north\n").unwrap();
    let file = file.to_str().unwrap();
    // Twice: what is counted is set, not added.
    for _ in 0..2 {
        let imported = run(&["import", file, flag, place, "--org", "acme"]);
        assert!(imported.status.success(), "{}", said(&imported));
    }
    let exported = run(&["export", flag, place, "--org", "acme"]);
    assert!(exported.status.success(), "{}", said(&exported));
    let text = String::from_utf8(exported.stdout).unwrap();
    let columns = |line| str::split(line, ',').take(3).collect();
    let lines: Vec<Vec<&str>> = text.lines().map(columns).collect();
    let expected: [Vec<&str>; 4] = [
        vec!["sku", "quantity", "location"],
        vec!["A", "5", "main"],
        vec!["A", "2", "north"],
        vec!["B", "7", "main"],
    ];
    assert_eq!(lines, expected);
    let verified = run(&["verify", flag, place, "--org", "acme", "--json"]);
    let answer: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((answer["clean"].as_bool(), answer["skus"].as_u64()), (Some(true), Some(2)));
}

#[tokio::test]
async fn a_place_is_named_once_and_a_password_is_told_to_nobody() {
    let url = "postgres://u:hunter2@nowhere.invalid:x/d";
    for (args, words) in [
        (&["verify", "--org", "acme"] as &[&str], "TRUEUP_STORE"),
        (&["verify", "--org", "acme", "--store", url], "URL"),
        (&["verify", "--org", "acme", "--store", url, "--data-dir", "x"], "cannot be used"),
        (&["serve", "--store", url], "URL"),
    ] {
        let refused = run(args);
        let said = said(&refused);
        assert!(!refused.status.success() && said.contains(words), "{args:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// A key that one node made would open nothing on the next.
#[tokio::test]
async fn a_server_on_a_database_needs_a_key_to_be_configured() {
    let store = TestStore::new().await;
    let Some(url) = store.url() else { return };
    let refused = run(&["serve", "--listen", "127.0.0.1:0", "--store", &url]);
    let said = said(&refused);
    assert!(!refused.status.success() && said.contains("TRUEUP_SECRET_KEY"), "{said}");
}
