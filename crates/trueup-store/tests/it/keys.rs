//! API keys, what is sealed, and recorded answers.

use trueup_core::Org;
use trueup_store::{ApiKey, Connection, RecordedAnswer, SealedPlace, StoreError, Subscription};

use crate::making::{Here, at, channel, connection, org, other};

pub(crate) fn key(id: &str) -> ApiKey {
    ApiKey {
        id: id.to_owned(),
        digest: [7; 32],
        subject: "till".to_owned(),
        scopes: vec!["inventory:read".to_owned()],
        created_at: at(1),
        revoked_at: None,
    }
}

#[tokio::test]
async fn a_key_is_found_by_its_id_and_belongs_to_one_org() {
    let here = Here::new().await;
    let revoked = ApiKey { revoked_at: Some(at(5)), digest: [8; 32], ..key("k1") };
    for row in [key("k2"), key("k1"), revoked.clone()] {
        here.put_api_key(&org(), row.clone()).await.unwrap();
        assert_eq!(here.api_key(&row.id).await.unwrap(), Some((org(), row)));
    }
    here.put_api_key(&other(), key("k3")).await.unwrap();
    assert_eq!(here.api_keys(&org()).await.unwrap(), [revoked.clone(), key("k2")]);
    assert_eq!(here.api_keys(&other()).await.unwrap(), [key("k3")]);
    for unknown in ["k9", "K1", "", "\0"] {
        assert_eq!(here.api_key(unknown).await.unwrap(), None, "{unknown:?}");
    }
    let stolen = here.put_api_key(&other(), key("k1")).await;
    assert!(matches!(stolen, Err(StoreError::Failed(_))), "{stolen:?}");
    assert_eq!(here.api_key("k1").await.unwrap(), Some((org(), revoked)));
}

#[tokio::test]
async fn what_is_sealed_is_found_in_every_org_and_replaced_only_as_it_was_seen() {
    let here = Here::new().await;
    let empty = Connection { sealed_credentials: Vec::new(), ..connection("b") };
    here.put_connection(&org(), connection("a")).await.unwrap();
    here.put_connection(&org(), empty.clone()).await.unwrap();
    here.put_connection(&other(), connection("a")).await.unwrap();
    let subscription = Subscription {
        id: "s".to_owned(),
        url: "https://example.com/hook".to_owned(),
        events: Vec::new(),
        sealed_secret: vec![1, 2],
        enabled: true,
        description: None,
        created_at: at(1),
    };
    here.put_subscription(&other(), subscription).await.unwrap();
    let found = here.sealed().await.unwrap();
    let places: Vec<(&Org, &SealedPlace)> = found.iter().map(|t| (&t.org, &t.place)).collect();
    let at_a = SealedPlace::Connection(channel("a"));
    let at_s = SealedPlace::Subscription("s".to_owned());
    assert_eq!(places, [(&org(), &at_a), (&other(), &at_a), (&other(), &at_s)]);
    for text in found {
        assert!(here.reseal(text.clone(), vec![7]).await.unwrap());
        assert!(!here.reseal(text, vec![8]).await.unwrap(), "it is another one now");
    }
    assert!(here.sealed().await.unwrap().iter().all(|now| now.text == [7]));
    assert_eq!(here.connection(&org(), &channel("b")).await.unwrap(), Some(empty));
}

/// A column that keeps sealed bytes is named so; each of them must be found by a change of keys.
#[tokio::test]
async fn no_sealed_column_is_left_out_of_a_change_of_keys() {
    const SQL: &str = "
        SELECT table_name || '.' || column_name
        FROM information_schema.columns
        WHERE table_schema = 'public'
          AND column_name LIKE '%sealed%'
        ORDER BY 1";
    let here = Here::new().await;
    if let Some(names) = here.query(SQL).await {
        assert_eq!(names, ["connection.sealed_credentials", "subscription.sealed_secret"]);
    }
}

pub(crate) fn answer(status: u16) -> RecordedAnswer {
    RecordedAnswer {
        status,
        headers: vec![("etag".to_owned(), "\"3\"".to_owned())],
        body: vec![b'{', 0, 0xff, b'}'],
    }
}

#[tokio::test]
async fn the_first_answer_of_a_key_stays_and_is_its_orgs() {
    let here = Here::new().await;
    let get = async |org: &Org, key: &str| here.recorded(org, key).await.unwrap();
    assert_eq!(get(&org(), "k").await, None);
    here.record(&org(), "k", [1; 32], answer(200)).await.unwrap();
    here.record(&org(), "k", [2; 32], answer(409)).await.unwrap();
    here.record(&other(), "k", [3; 32], answer(201)).await.unwrap();
    assert_eq!(get(&org(), "k").await, Some(([1; 32], answer(200))));
    assert_eq!(get(&other(), "k").await, Some(([3; 32], answer(201))));
    assert_eq!(get(&org(), "K").await, None);
}

#[tokio::test]
async fn answers_are_forgotten_after_a_day() {
    let here = Here::new().await;
    here.record(&org(), "old", [1; 32], answer(200)).await.unwrap();
    here.pass(24 * 3_600);
    here.record(&org(), "young", [1; 32], answer(200)).await.unwrap();
    assert!(here.recorded(&org(), "old").await.unwrap().is_some());
    here.pass(2 * 3_600 + 1);
    let mut tries = 0;
    while here.recorded(&org(), "old").await.unwrap().is_some() {
        tries += 1;
        assert!(tries < 500, "it is never forgotten");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(here.recorded(&org(), "young").await.unwrap().is_some());
}

/// Two nodes that record under one key at once give one answer from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_record_at_once_one_is_first() {
    let here = Here::new().await;
    let another = here.another().await;
    for round in 0..20 {
        let key = format!("k{round}");
        let org = org();
        let (one, two) = tokio::join!(
            here.record(&org, &key, [1; 32], answer(201)),
            another.record(&org, &key, [2; 32], answer(202)),
        );
        one.unwrap();
        two.unwrap();
        let kept = here.recorded(&org, &key).await.unwrap();
        assert_eq!(another.recorded(&org, &key).await.unwrap(), kept);
        let (fingerprint, kept) = kept.unwrap();
        assert_eq!(kept.status, 200 + u16::from(fingerprint[0]));
    }
}
