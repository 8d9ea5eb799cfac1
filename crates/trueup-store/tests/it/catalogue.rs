//! Channels' catalogues as they were last read.

use std::collections::BTreeMap;

use trueup_core::Sku;
use trueup_store::{
    CatalogueFilter, CatalogueQuery, ChannelListing, ChannelListingView, Match, MatchNote, Page,
    SUGGESTIONS_MAX,
};

use crate::making::{Here, at, channel, key, mapping, org, other, sku};

pub(crate) fn seen(name: &str, of: Option<&str>, found: Match, run: &str) -> ChannelListing {
    ChannelListing {
        name: name.to_owned(),
        key: (found != Match::Incomplete).then(|| key(name)),
        sku: of.map(str::to_owned),
        essence: of.filter(|_| found == Match::UnknownSku).map(str::to_lowercase),
        title: Some(format!("Title 50% {name}")),
        fields: BTreeMap::from([("id".to_owned(), name.to_owned())]),
        quantity: Some(-1),
        channel_fulfilled: false,
        found,
        suggestions: Vec::new(),
        was_mapped: false,
        run: run.to_owned(),
        seen_at: at(7),
    }
}

fn names_of(page: &Page<ChannelListingView>) -> Vec<&str> {
    page.items.iter().map(|view| view.listing.name.as_str()).collect()
}

async fn query(here: &Here, query: CatalogueQuery) -> Page<ChannelListingView> {
    let query = CatalogueQuery { limit: query.limit.max(1), ..query };
    here.channel_listings(&org(), &channel("shop"), query).await.unwrap()
}

async fn put(here: &Here, rows: &[ChannelListing]) {
    here.put_channel_listings(&org(), &channel("shop"), rows.to_vec()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_kept_by_name_filtered_and_paged_with_the_mappings_of_now() {
    let here = Here::new().await;
    let rows = [
        ChannelListing {
            suggestions: vec![sku("b, \"x\""), sku("a")],
            quantity: None,
            channel_fulfilled: true,
            was_mapped: true,
            ..seen("1", Some("A"), Match::Matched, "r1")
        },
        seen("2", Some("b"), Match::UnknownSku, "r1"),
        ChannelListing { title: None, ..seen("3", None, Match::NoSku, "r1") },
        seen("4", Some("C"), Match::Incomplete, "r1"),
        seen("5", Some("A"), Match::Matched, "r1"),
    ];
    put(&here, &rows).await;
    let theirs = rows[..1].to_vec();
    here.put_channel_listings(&other(), &channel("shop"), theirs).await.unwrap();
    here.put(&org(), &[mapping("shop", "1", "A"), mapping("shop", "3", "X")]).await;
    let all = CatalogueQuery { limit: 9, ..CatalogueQuery::default() };
    let found = query(&here, all.clone()).await;
    let listings: Vec<&ChannelListing> = found.items.iter().map(|view| &view.listing).collect();
    assert_eq!(listings, rows.iter().collect::<Vec<_>>());
    assert_eq!(found.items[0].mapping, Some(mapping("shop", "1", "A")));
    assert_eq!(found.items[1].mapping, None);
    let table: [(CatalogueFilter, &[&str]); 5] = [
        (CatalogueFilter::Mapped, &["1", "3"]),
        (CatalogueFilter::Unmapped, &["2", "4", "5"]),
        (CatalogueFilter::Is(Match::Matched), &["5"]),
        (CatalogueFilter::Is(Match::NoSku), &[]),
        (CatalogueFilter::Is(Match::Incomplete), &["4"]),
    ];
    for (filter, expected) in table {
        let by = CatalogueQuery { filter: Some(filter), ..all.clone() };
        assert_eq!(names_of(&query(&here, by).await), expected, "{filter:?}");
    }
    let page = CatalogueQuery { limit: 2, after: Some("1".to_owned()), ..all.clone() };
    let paged = query(&here, page).await;
    assert_eq!((names_of(&paged), paged.more), (vec!["2", "3"], true));
    let run = CatalogueQuery { run: Some("r0".to_owned()), ..all };
    assert_eq!(names_of(&query(&here, run).await), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_sku_is_paged_by_the_bytes_of_sku_and_name() {
    let here = Here::new().await;
    let rows = [
        seen("1", Some("A"), Match::Matched, "r1"),
        seen("2", Some("b"), Match::UnknownSku, "r1"),
        seen("3", None, Match::NoSku, "r1"),
        seen("4", Some("C"), Match::Incomplete, "r1"),
        seen("5", Some("A"), Match::Matched, "r1"),
        seen("6", Some("A-1"), Match::Matched, "r1"),
        seen("7", Some("é"), Match::Matched, "r1"),
        seen("8", Some("A"), Match::Matched, "r0"),
    ];
    put(&here, &rows).await;
    let (org, shop) = (org(), channel("shop"));
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = here.channel_listings_by_sku(&org, &shop, "r1", after, 2).await.unwrap();
        found.extend(names_of(&page).into_iter().map(str::to_owned));
        let last = page.items.last().map(|view| &view.listing);
        after = last.map(|row| (row.sku.clone().unwrap(), row.name.clone()));
        if !page.more {
            break;
        }
    }
    assert_eq!(found, ["1", "5", "6", "4", "2", "7"]);
}

/// Only ASCII letters are the same in both cases, and what is looked for is no pattern.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_searched_without_regard_to_ascii_case() {
    let here = Here::new().await;
    let titled = |name: &str, of: Option<&str>, title: Option<&str>| ChannelListing {
        title: title.map(str::to_owned),
        ..seen(name, of, Match::Matched, "r")
    };
    put(
        &here,
        &[
            titled("n1", Some("ÄPFEL"), None),
            titled("n2", None, Some("50% off_now\\")),
            titled("N3", Some("äpfel"), Some("Straße")),
        ],
    )
    .await;
    let table: [(&str, &[&str]); 10] = [
        ("n", &["N3", "n1", "n2"]),
        ("pFe", &["N3", "n1"]),
        ("Ä", &["n1"]),
        ("ä", &["N3"]),
        ("STRASSE", &[]),
        ("straße", &["N3"]),
        ("0% O", &["n2"]),
        ("5%o", &[]),
        ("F_N", &["n2"]),
        ("w\\", &["n2"]),
    ];
    for (text, expected) in table {
        let search =
            CatalogueQuery { search: Some(text.to_owned()), limit: 9, ..CatalogueQuery::default() };
        assert_eq!(names_of(&query(&here, search).await), expected, "{text:?}");
    }
    let nul = CatalogueQuery { search: Some("\0".to_owned()), ..CatalogueQuery::default() };
    query(&here, nul).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_again_takes_the_place_of_what_was_known() {
    let here = Here::new().await;
    let first = ChannelListing {
        suggestions: vec![sku("A")],
        ..seen("1", Some("a"), Match::NearMiss, "r1")
    };
    let second = ChannelListing { title: None, ..seen("1", None, Match::NoSku, "r2") };
    put(&here, std::slice::from_ref(&first)).await;
    // Twice in one page of a vendor's: the last one counts.
    put(&here, &[first, second.clone()]).await;
    let all = CatalogueQuery { limit: 9, ..CatalogueQuery::default() };
    let found = query(&here, all).await;
    assert_eq!(found.items.iter().map(|view| &view.listing).collect::<Vec<_>>(), [&second]);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_are_matched_counted_and_forgotten_when_a_later_run_does_not_see_them() {
    let here = Here::new().await;
    let shop = channel("shop");
    put(
        &here,
        &[
            seen("1", Some("A"), Match::Matched, "r1"),
            seen("2", Some("b"), Match::UnknownSku, "r1"),
            seen("3", Some("b"), Match::UnknownSku, "r0"),
        ],
    )
    .await;
    let note = |name: &str, found| MatchNote { name: name.to_owned(), found, was_mapped: true };
    let notes =
        vec![note("1", Match::NoSku), note("gone", Match::NoSku), note("1", Match::Duplicate)];
    here.note_matches(&org(), &shop, notes).await.unwrap();
    let one = vec![("b".to_owned(), sku("B9"))];
    here.suggest(&org(), &shop, "r1", one).await.unwrap();
    let many: Vec<(String, Sku)> =
        (0..9).map(|n| ("b".to_owned(), sku(&format!("B{}", 8 - n)))).collect();
    here.suggest(&org(), &shop, "r1", many).await.unwrap();
    here.suggest(&org(), &shop, "r1", vec![("a".to_owned(), sku("A"))]).await.unwrap();
    let all = || CatalogueQuery { limit: 9, ..CatalogueQuery::default() };
    let found = query(&here, all()).await.items;
    let of_one = &found[0].listing;
    assert_eq!((of_one.found, of_one.was_mapped), (Match::Duplicate, true));
    let of_two = &found[1].listing;
    assert_eq!(of_two.found, Match::NearMiss);
    assert_eq!(of_two.suggestions, ["B9", "B8", "B7", "B6", "B5"].map(sku));
    assert_eq!(of_two.suggestions.len(), SUGGESTIONS_MAX);
    assert_eq!(found[2].listing.found, Match::UnknownSku, "of another run");
    let count = |words: [(&str, u64); 2]| -> BTreeMap<String, u64> {
        words.map(|(word, n)| (word.to_owned(), n)).into()
    };
    let counts = here.catalogue_counts(&org(), &shop, "r1").await.unwrap();
    assert_eq!(counts, count([("duplicate", 1), ("near_miss", 1)]));
    here.put(&org(), &[mapping("shop", "1", "A")]).await;
    let counts = here.catalogue_counts(&org(), &shop, "r1").await.unwrap();
    assert_eq!(counts, count([("already_mapped", 1), ("near_miss", 1)]));
    for (most, gone) in [(0, 0), (9, 1), (9, 0)] {
        let forgotten = here.forget_channel_listings(&org(), &shop, "r1", most).await.unwrap();
        assert_eq!(forgotten, gone);
    }
    assert_eq!(query(&here, all()).await.items.len(), 2);
}

/// What one seller wrote must not keep the rest of a catalogue from being read.
#[tokio::test(flavor = "multi_thread")]
async fn texts_of_any_length_are_kept() {
    let here = Here::new().await;
    // No run of it is like another, so that it cannot be kept in less.
    let long: String =
        (0..3_000).map(|n: u32| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    let long = ChannelListing {
        title: Some(long.clone()),
        ..seen("1", Some(&long), Match::UnknownSku, "r")
    };
    let short = seen("2", Some("b"), Match::UnknownSku, "r");
    put(&here, &[long.clone(), short.clone()]).await;
    here.suggest(&org(), &channel("shop"), "r", vec![("b".to_owned(), sku("B"))]).await.unwrap();
    let found = query(&here, CatalogueQuery { limit: 9, ..CatalogueQuery::default() }).await;
    assert_eq!(found.items[0].listing, long);
    assert_eq!(found.items[1].listing.suggestions, [sku("B")]);
    let (org, shop) = (org(), channel("shop"));
    let by_sku = here.channel_listings_by_sku(&org, &shop, "r", None, 9).await.unwrap();
    assert!(by_sku.items.iter().any(|view| view.listing.name == short.name));
}
