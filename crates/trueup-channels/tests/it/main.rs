//! The connectors against scripted answers, texts as the vendors document or were recorded.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(clippy::needless_pass_by_value, reason = "scripts read as `json(200, json!({…}))`")]
#![allow(clippy::type_complexity, reason = "tables")]

mod amazon;
mod ebay;
mod harness;
mod shopify;

#[test]
fn every_kind_is_found_by_its_name_and_names_its_settings() {
    let names: Vec<&str> = trueup_channels::kinds().iter().map(|kind| kind.name()).collect();
    assert_eq!(names, ["shopify", "amazon", "ebay"]);
    for kind in trueup_channels::kinds() {
        assert_eq!(trueup_channels::kind(kind.name()).map(|found| found.name()), Some(kind.name()));
        assert!(kind.setting_names().iter().any(|name| name.starts_with("credentials.")));
        assert!(kind.budgets().iter().all(|(_, hint)| hint.per_second > 0.0));
    }
    assert!(trueup_channels::kind("nope").is_none());
}
