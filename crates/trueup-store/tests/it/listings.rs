//! Mappings, and what is known of their listings.

use std::collections::{BTreeMap, BTreeSet};

use trueup_core::{Delta, ListingState, Location, Observed, PushResult, Rules, Sent, Strategy};
use trueup_store::{
    AttemptNote, FieldsNote, ListingQuery, Mapping, Parked, RevisionsNote, RuleSettings,
};

use crate::making::{
    Here, at, channel, connection, full_connection, key, mapping, names, org, other, push, sku,
    units,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_comes_back_as_it_was_put() {
    let here = Here::new().await;
    let full = Mapping {
        fields: BTreeMap::from([("b\0".to_owned(), "\"é\0\"".to_owned())]),
        strategy: Some(Strategy::Manual),
        rules: RuleSettings {
            buffer: units(1),
            percent: Some(0),
            max_quantity: units(trueup_core::QUANTITY_MAX),
            zero_below: units(2),
            units_per_listing: units(6),
            locations: Some(vec![Location::new("Größe 1").unwrap(), Location::main()]),
        },
        channel_fulfilled: true,
        enabled: false,
        ..mapping("a", "1", "A")
    };
    for row in [mapping("a", "1", "A"), full, mapping("a", "1", "A")] {
        here.put(&org(), std::slice::from_ref(&row)).await;
        let found = here.listing("a", "1").await.unwrap();
        assert_eq!(found.mapping, row);
        assert_eq!((found.sku, found.attempts, found.parked, found.scope), (None, 0, None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mapping_beats_the_connection_beats_the_default() {
    let here = Here::new().await;
    here.put(&org(), &[mapping("a", "1", "A")]).await;
    let state = async || here.listing("a", "1").await.unwrap().state;
    let bare = state().await;
    assert_eq!(bare.rules, Rules::default());
    assert_eq!((bare.strategy, &bare.home), (Strategy::MasterWins, &Location::main()));

    here.put_connection(&org(), full_connection("a")).await.unwrap();
    here.put_connection(&other(), connection("a")).await.unwrap();
    let of_channel = state().await;
    assert_eq!(of_channel.strategy, Strategy::LowerWins);
    assert_eq!((of_channel.rules.buffer.get(), of_channel.rules.percent), (2, 90));
    assert_eq!(of_channel.rules.max_quantity, units(50));
    assert_eq!(of_channel.rules.zero_below.get(), 3);

    let own = RuleSettings {
        buffer: units(0),
        units_per_listing: units(6),
        locations: Some(vec![Location::new("north").unwrap(), Location::main()]),
        ..RuleSettings::default()
    };
    let own = Mapping { strategy: Some(Strategy::Manual), rules: own, ..mapping("a", "1", "A") };
    here.put(&org(), std::slice::from_ref(&own)).await;
    let merged = state().await;
    assert_eq!(merged.strategy, Strategy::Manual);
    assert_eq!((merged.rules.buffer.get(), merged.rules.percent), (0, 90));
    assert_eq!(merged.rules.units_per_listing.get(), 6);
    assert_eq!(merged.rules.locations, own.rules.locations);
    assert_eq!(merged.home.as_str(), "north");

    here.put(&org(), &[Mapping { channel_fulfilled: true, ..own }]).await;
    assert_eq!(state().await.home, Location::of_channel(&channel("a")));
}

/// Returns a listing that has been told 5, was read as 4 since, and has another push under way.
async fn known(here: &Here) -> ListingState {
    here.put_sku(&org(), "A", 5).await;
    here.put_sku(&org(), "B", 7).await;
    let manual = Mapping { strategy: Some(Strategy::Manual), ..mapping("a", "1", "A") };
    here.put(&org(), &[manual]).await;
    here.mark("a", push("1", 5, 1)).await;
    here.settle("a", push("1", 5, 1), PushResult::Applied).await;
    here.mark("a", push("1", 5, 1)).await;
    here.settle("a", push("1", 5, 1), PushResult::NotApplied).await;
    here.read("a", "1", 4).await;
    here.mark("a", push("1", 5, 1)).await;
    let state = here.listing("a", "1").await.unwrap().state;
    assert_eq!((state.base, state.acked_version, state.epoch), (Some(5), 1, 1));
    assert!(state.in_conflict && state.base_at.is_some() && state.acked_at.is_some());
    assert!(matches!(state.in_flight, Some(Sent { quantity: 5, version: 1, .. })));
    assert!(matches!(state.observed, Some(Observed { quantity: 4, .. })));
    state
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_stays_with_the_sku_and_is_forgotten_with_another() {
    let here = Here::new().await;
    let known = known(&here).await;
    let state = async || here.listing("a", "1").await.unwrap().state;
    let off =
        Mapping { strategy: Some(Strategy::Manual), enabled: false, ..mapping("a", "1", "A") };
    here.put(&org(), std::slice::from_ref(&off)).await;
    assert_eq!(state().await, known);

    here.put(&org(), &[Mapping { sku: sku("B"), ..off }]).await;
    let fresh = ListingState {
        sku: sku("B"),
        base: None,
        base_at: None,
        in_flight: None,
        acked_version: 0,
        acked_at: None,
        observed: None,
        provisional: Delta::ZERO,
        epoch: 2,
        in_conflict: false,
        ..known
    };
    assert_eq!(state().await, fresh);
    let counts = here.channel_counts(&org(), &channel("a")).await.unwrap();
    assert_eq!(counts.conflicts, 0, "nobody could resolve it any more");
}

/// Written one after the other, as they come: the last one stays, and what each forgets is
/// forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_listing_may_come_twice_in_one_call() {
    let here = Here::new().await;
    let there_and_back = [
        mapping("a", "1", "A"),
        mapping("a", "2", "C"),
        mapping("a", "1", "B"),
        mapping("a", "1", "A"),
    ];
    here.put(&org(), &there_and_back).await;
    let found = here.all_listings(&org()).await;
    assert_eq!(names(&found), ["a/1", "a/2"]);
    assert_eq!((found[0].state.epoch, found[1].state.epoch), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_that_is_gone_is_settled_by_nobody() {
    let here = Here::new().await;
    here.put_sku(&org(), "A", 5).await;
    let mappings = [mapping("a", "1", "A"), mapping("a", "2", "A"), mapping("a", "3", "B")];
    here.put(&org(), &mappings).await;
    here.put(&org(), &[mapping("b", "1", "A")]).await;
    here.put(&other(), &[mapping("a", "1", "A")]).await;
    let but = |keys: &[&str]| keys.iter().map(|of| key(of)).collect::<BTreeSet<_>>();
    for (stay, gone) in [(&["2", "9"] as &[&str], 1), (&[], 1), (&[], 0)] {
        let (a, but) = (channel("a"), but(stay));
        assert_eq!(here.delete_mappings(&org(), &a, &sku("A"), but).await.unwrap(), gone);
    }
    here.mark("a", push("1", 5, 1)).await;
    here.settle("a", push("1", 5, 1), PushResult::Applied).await;
    here.check_listings(&ListingQuery::default(), &["b/1", "a/3"]).await;
    let theirs = here.all_listings(&other()).await;
    assert_eq!((theirs.len(), theirs[0].state.base), (1, None), "another org's mapping stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_are_counted_by_the_vendors_day() {
    let here = Here::new().await;
    here.put(&org(), &[mapping("a", "1", "A"), mapping("a", "2", "B")]).await;
    here.put(&other(), &[mapping("a", "1", "A")]).await;
    let note = async |keys: &[&str], now: i64, day: i64| {
        let keys = keys.iter().map(|of| key(of)).collect();
        let note = RevisionsNote { keys, at: at(now), day_began: at(day) };
        here.note_revisions(&org(), &channel("a"), note).await.unwrap();
    };
    let read = async || {
        let found = here.all_listings(&org()).await;
        found.into_iter().map(|row| row.revised.map(|r| (r.count, r.at))).collect::<Vec<_>>()
    };
    assert_eq!(read().await, [None, None]);
    note(&["1", "2", "gone"], 100, 100).await;
    note(&["1"], 199, 100).await;
    assert_eq!(read().await, [Some((2, at(199))), Some((1, at(100)))]);
    note(&["1"], 200, 200).await;
    assert_eq!(read().await, [Some((1, at(200))), Some((1, at(100)))], "a new day");
    assert_eq!(here.all_listings(&other()).await[0].revised, None, "of another org");
    here.put(&org(), &[Mapping { fields: BTreeMap::new(), ..mapping("a", "1", "Z") }]).await;
    let kept = read().await;
    assert!(kept.contains(&Some((1, at(200)))), "the vendor counts listings, not ours: {kept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_are_noted_beside_those_that_are_there() {
    let here = Here::new().await;
    here.put(&org(), &[mapping("a", "1", "A")]).await;
    here.put(&other(), &[mapping("a", "1", "A")]).await;
    let note = |of: &str, name: &str, value: Option<&str>| FieldsNote {
        key: key(of),
        fields: BTreeMap::from([(name.to_owned(), value.map(str::to_owned))]),
    };
    let fields = async || here.listing("a", "1").await.unwrap().mapping.fields;
    let before = fields().await;
    let notes = vec![
        note("1", "offerId", Some("36\0")),
        note("gone", "offerId", Some("37")),
        note("1", "other", Some("x")),
    ];
    here.note_fields(&org(), &channel("a"), notes).await.unwrap();
    let mut wanted = before.clone();
    wanted.insert("offerId".to_owned(), "36\0".to_owned());
    wanted.insert("other".to_owned(), "x".to_owned());
    assert_eq!(fields().await, wanted);
    assert_eq!(here.all_listings(&other()).await[0].mapping.fields, before, "another org's stays");
    let notes = ["offerId", "other", "never"].map(|name| note("1", name, None));
    here.note_fields(&org(), &channel("a"), notes.into()).await.unwrap();
    assert_eq!(fields().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_are_noted_until_the_mapping_changes() {
    let here = Here::new().await;
    here.put(&org(), &[mapping("a", "1", "A")]).await;
    here.put(&other(), &[mapping("a", "1", "A")]).await;
    let parked = Parked { code: "not_stocked".to_owned(), detail: "says so".to_owned(), at: at(5) };
    let note = |of: &str, attempts, parked| AttemptNote { key: key(of), attempts, parked };
    let read = async || {
        let row = here.listing("a", "1").await.unwrap();
        (row.attempts, row.parked)
    };
    let on_a = async |notes: Vec<AttemptNote>| {
        here.note_attempts(&org(), &channel("a"), notes).await.unwrap();
    };
    // The last note of a listing counts.
    on_a(vec![note("1", 9, None), note("gone", 1, None), note("1", 3, Some(parked.clone()))]).await;
    assert_eq!(read().await, (3, Some(parked.clone())));
    let theirs = &here.all_listings(&other()).await[0];
    assert_eq!((theirs.attempts, &theirs.parked), (0, &None));

    here.put(&org(), &[mapping("a", "1", "A")]).await;
    assert_eq!(read().await, (3, Some(parked)), "an unchanged mapping stays parked");
    here.put(&org(), &[Mapping { fields: BTreeMap::new(), ..mapping("a", "1", "A") }]).await;
    assert_eq!(read().await, (0, None), "a changed one is tried again");
    let changed = [
        Mapping { strategy: Some(Strategy::Manual), ..mapping("a", "1", "A") },
        mapping("a", "1", "A"),
        Mapping { enabled: false, ..mapping("a", "1", "A") },
        Mapping { channel_fulfilled: true, ..mapping("a", "1", "A") },
        Mapping {
            rules: RuleSettings { percent: Some(1), ..RuleSettings::default() },
            ..mapping("a", "1", "A")
        },
    ];
    for mapping in changed {
        on_a(vec![note("1", u32::MAX, None)]).await;
        assert_eq!(read().await, (u32::MAX, None));
        here.put(&org(), std::slice::from_ref(&mapping)).await;
        assert_eq!(read().await, (0, None), "{mapping:?}");
    }
    let nul = Parked { code: "x".to_owned(), detail: "a\0b".to_owned(), at: at(5) };
    on_a(vec![note("1", 1, Some(nul))]).await;
    assert!(read().await.1.is_some_and(|parked| parked.detail.starts_with('a')));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_filtered() {
    let here = Here::new().await;
    let mappings = [
        mapping("b", "1", "A"),
        mapping("a", "1", "A"),
        mapping("a", "3", "A'\"[1]"),
        mapping("a", "2", "B"),
    ];
    here.put(&org(), &mappings).await;
    here.put(&other(), &[mapping("a", "1", "A"), mapping("a", "9", "Z")]).await;
    let all = ListingQuery::default();
    let on_a = ListingQuery { channel: Some(channel("a")), ..all.clone() };
    let of = |skus: &[&str]| ListingQuery {
        skus: Some(skus.iter().map(|name| sku(name)).collect()),
        ..all.clone()
    };
    let with = |keys: &[&str]| ListingQuery {
        keys: Some(keys.iter().map(|name| key(name)).collect()),
        ..all.clone()
    };
    let after = |of: &str, listing: &str| ListingQuery {
        after: Some((sku(of), key(listing))),
        ..all.clone()
    };
    let table: [(ListingQuery, &[&str]); 14] = [
        (all.clone(), &["a/1", "b/1", "a/3", "a/2"]),
        (on_a.clone(), &["a/1", "a/3", "a/2"]),
        (with(&["1"]), &["a/1", "b/1"]),
        (with(&["2", "gone", "1", "1"]), &["a/1", "b/1", "a/2"]),
        (ListingQuery { channel: Some(channel("a")), ..with(&["1"]) }, &["a/1"]),
        (with(&["9"]), &[]),
        (with(&[]), &[]),
        (of(&[]), &[]),
        (of(&["Z"]), &[]),
        (of(&["B", "A'\"[1]", "B"]), &["a/3", "a/2"]),
        (ListingQuery { skus: of(&["A"]).skus, ..with(&["1", "2"]) }, &["a/1", "b/1"]),
        (after("A", "1"), &["a/3", "a/2"]),
        (after("B", "2"), &[]),
        (ListingQuery { channel: Some(channel("a")), ..after("A", "0") }, &["a/1", "a/3", "a/2"]),
    ];
    for (query, expected) in table {
        here.check_listings(&query, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_in_the_order_of_the_bytes_of_sku_and_key() {
    let here = Here::new().await;
    let skus = ["A", "A 1", "A-1", "A1", "B", "_", "a", "a-b", "aB", "Ä", "ä", "\u{1f980}"];
    let mappings: Vec<Mapping> =
        skus.iter().rev().zip(0..).map(|(of, n)| mapping("a", &format!("k{n:02}"), of)).collect();
    here.put(&org(), &mappings).await;
    let keys = ["-", "0", "K", "k", "k-", "k0", "é"];
    let of_one: Vec<Mapping> = keys.iter().rev().map(|key| mapping("a", key, "zz")).collect();
    here.put(&org(), &of_one).await;
    let found = here.all_listings(&org()).await;
    let order: Vec<&str> = found.iter().map(|row| row.mapping.sku.as_str()).collect();
    let mut expected: Vec<&str> = skus.into_iter().chain(["zz"; 7]).collect();
    expected.sort_unstable();
    assert_eq!(order, expected);
    let of_zz = ListingQuery { skus: Some(vec![sku("zz")]), ..ListingQuery::default() };
    here.check_listings(&of_zz, &keys.map(|key| format!("a/{key}")).each_ref().map(|s| s.as_str()))
        .await;
    let scopes = here.listing_scopes(&org(), &channel("a"), Some(key("k")), 100).await.unwrap();
    let listed: Vec<&str> = scopes.items.iter().map(|of| of.key.as_str()).collect();
    let mut after: Vec<&str> = found.iter().map(|row| row.mapping.key.as_str()).collect();
    after.retain(|key| *key > "k");
    after.sort_unstable();
    assert_eq!(listed, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_dirty_by_version_or_by_force() {
    let here = Here::new().await;
    let shown = ["acked", "behind", "forced", "unpublished"];
    for name in shown {
        here.put_sku(&org(), name, 5).await;
        here.put(&org(), &[mapping("a", name, name)]).await;
        here.settle("a", push(name, 5, 1), PushResult::Applied).await;
    }
    here.put(&org(), &[mapping("a", "unknown", "U")]).await;
    here.put_sku(&other(), "U", 9).await;
    let dirty = ListingQuery { dirty: true, ..ListingQuery::default() };
    here.check_listings(&dirty, &[]).await;
    assert_eq!(here.pending(&org(), "a").await, 0);

    here.put_sku(&org(), "behind", 6).await;
    here.read("a", "forced", 4).await;
    here.put_sku_silently(&org(), "unpublished", 4).await;
    here.check_listings(&dirty, &["a/behind", "a/forced"]).await;
    let of_behind = ListingQuery { skus: Some(vec![sku("behind"), sku("acked")]), ..dirty.clone() };
    here.check_listings(&of_behind, &["a/behind"]).await;
    let on_b = ListingQuery { channel: Some(channel("b")), ..dirty };
    here.check_listings(&on_b, &[]).await;
    assert_eq!(here.pending(&org(), "a").await, 2);
    assert_eq!((here.pending(&org(), "b").await, here.pending(&other(), "a").await), (0, 0));
    let view = here.listing("a", "unpublished").await.unwrap();
    let sku = view.sku.as_ref().expect("it is in the ledger");
    assert_eq!((sku.state.version, sku.state.publish_version, view.is_dirty()), (2, 1, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_is_suspicious_for_each_reason() {
    let here = Here::new().await;
    let names = ["agreed", "behind", "conflict", "first", "flying", "forced", "parked", "unread"];
    for name in names {
        here.put_sku(&org(), name, 5).await;
        let strategy = Some(Strategy::Manual).filter(|_| name == "conflict");
        here.put(&org(), &[Mapping { strategy, ..mapping("a", name, name) }]).await;
        here.settle("a", push(name, 5, 1), PushResult::Applied).await;
    }
    // Told by no push, of a SKU that is not in the ledger: nothing is known of it.
    here.put(&org(), &[mapping("a", "quiet", "quiet"), mapping("a", "shown", "shown")]).await;
    here.read("a", "agreed", 5).await;
    here.put_sku_silently(&org(), "behind", 6).await;
    here.read("a", "conflict", 4).await;
    here.mark("a", push("flying", 5, 1)).await;
    here.read("a", "forced", 4).await;
    let parked = Some(Parked { code: "x".to_owned(), detail: String::new(), at: at(1) });
    let note = AttemptNote { key: key("parked"), attempts: 1, parked };
    here.note_attempts(&org(), &channel("a"), vec![note]).await.unwrap();

    let suspicious = ListingQuery { suspicious: true, ..ListingQuery::default() };
    let expected = ["a/behind", "a/conflict", "a/flying", "a/forced", "a/parked"];
    here.check_listings(&suspicious, &expected).await;
}

/// Those that are told nothing meanwhile: disabled, the channel's own, in conflict, parked.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_nothing_is_not_pending() {
    let here = Here::new().await;
    let names = ["flying", "accepted", "conflict", "disabled", "own", "parked", "refused", "tried"];
    for name in names {
        here.put_sku(&org(), name, 5).await;
        let mapping = Mapping {
            enabled: name != "disabled",
            channel_fulfilled: name == "own",
            strategy: Some(Strategy::Manual),
            ..mapping("a", name, name)
        };
        here.put(&org(), &[mapping]).await;
    }
    for name in ["flying", "accepted", "conflict"] {
        here.mark("a", push(name, 5, 1)).await;
        here.settle("a", push(name, 5, 1), PushResult::Applied).await;
    }
    here.mark("a", push("flying", 5, 1)).await;
    here.read("a", "conflict", 4).await;
    let parked = |code: &str, at| Parked { code: code.to_owned(), detail: String::new(), at };
    let updated_at = here.listing("a", "tried").await.unwrap().sku.unwrap().state.updated_at;
    let refused_at = here.listing("a", "refused").await.unwrap().sku.unwrap().state.updated_at;
    let note =
        |name: &str, parked| AttemptNote { key: key(name), attempts: 1, parked: Some(parked) };
    let notes = vec![
        note("parked", parked("not_pushable", at(5))),
        note("refused", parked("invalid_value", refused_at)),
        note("tried", parked("invalid_value", at(updated_at.micros() - 1))),
    ];
    here.note_attempts(&org(), &channel("a"), notes).await.unwrap();
    // The one in flight, and the one whose value has changed since it was refused.
    assert_eq!(here.pending(&org(), "a").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listings_lose_none_and_repeat_none() {
    let here = Here::new().await;
    let mappings: Vec<Mapping> = [
        ("a", "1", "A"),
        ("b", "1", "A"),
        ("c", "1", "A"),
        ("a", "2", "A"),
        ("a", "0", "B"),
        ("a", "3", "C"),
        ("b", "3", "C"),
    ]
    .into_iter()
    .map(|(on, listing, of)| mapping(on, listing, of))
    .collect();
    here.put(&org(), &mappings).await;
    here.put(&other(), &mappings).await;
    for limit in 1..=8 {
        let mut query = ListingQuery { limit, ..ListingQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = here.listings(&org(), query.clone()).await.unwrap();
            // Three channels share one SKU and key: only then may a page be longer.
            assert!(page.items.len() <= limit.max(3), "a page of {limit}");
            found.extend(names(&page.items));
            let last = page.items.last().map(|row| &row.mapping);
            query.after = last.map(|last| (last.sku.clone(), last.key.clone()));
            if !page.more {
                break;
            }
        }
        let expected = ["a/1", "b/1", "c/1", "a/2", "a/0", "a/3", "b/3"];
        assert_eq!(found, expected, "pages of {limit}");
    }
}
