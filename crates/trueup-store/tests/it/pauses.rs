//! What an operator has paused.

use trueup_core::Sku;
use trueup_store::{ListingQuery, Pause};

use crate::making::{Here, at, channel, connection, mapping, org, other, sku};

pub(crate) fn pause(of: Option<Sku>) -> Pause {
    Pause { sku: of, at: at(3), actor: "ann".to_owned(), note: Some("why \0 é".to_owned()) }
}

#[tokio::test]
async fn a_pause_comes_back_is_replaced_and_ended_and_stays_in_its_org() {
    let here = Here::new().await;
    for of in [None, Some(sku("A"))] {
        let first = Pause { note: None, ..pause(of.clone()) };
        let again = Pause { at: at(9), actor: "bob".to_owned(), ..first.clone() };
        for row in [first, again] {
            here.put_pause(&org(), row.clone()).await.unwrap();
            assert_eq!(here.pause(&org(), of.as_ref()).await.unwrap(), Some(row));
        }
        assert_eq!(here.pause(&other(), of.as_ref()).await.unwrap(), None);
        assert!(!here.delete_pause(&other(), of.as_ref()).await.unwrap());
        assert!(here.delete_pause(&org(), of.as_ref()).await.unwrap());
        assert!(!here.delete_pause(&org(), of.as_ref()).await.unwrap());
        assert_eq!(here.pause(&org(), of.as_ref()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn paused_skus_are_listed_by_their_bytes_without_the_org() {
    let here = Here::new().await;
    let names = ["B", "a", "b", "é"];
    for name in names.iter().rev() {
        here.put_pause(&org(), pause(Some(sku(name)))).await.unwrap();
    }
    here.put_pause(&org(), pause(None)).await.unwrap();
    let all = here.pauses(&org(), None, 9).await.unwrap();
    let listed: Vec<&str> =
        all.items.iter().filter_map(|p| Some(p.sku.as_ref()?.as_str())).collect();
    assert_eq!((listed.as_slice(), all.more), (names.as_slice(), false));
    let page = here.pauses(&org(), Some(&sku("B")), 2).await.unwrap();
    let listed: Vec<&str> =
        page.items.iter().filter_map(|p| Some(p.sku.as_ref()?.as_str())).collect();
    assert_eq!((listed.as_slice(), page.more), (["a", "b"].as_slice(), true));
}

#[tokio::test]
async fn listings_of_what_is_paused_say_so_and_are_not_pending() {
    let here = Here::new().await;
    for name in ["A", "B"] {
        here.put_sku(&org(), name, 5).await;
    }
    here.put_connection(&org(), connection("a")).await.unwrap();
    here.put(&org(), &[mapping("a", "1", "A"), mapping("a", "2", "B")]).await;
    let look = async || {
        let all = ListingQuery { limit: 9, ..ListingQuery::default() };
        let found = here.listings(&org(), all).await.unwrap().items;
        let paused: Vec<bool> = found.iter().map(|view| view.paused).collect();
        (paused, here.channel_counts(&org(), &channel("a")).await.unwrap().pending)
    };
    assert_eq!(look().await, (vec![false, false], 2));
    here.put_pause(&other(), pause(None)).await.unwrap();
    here.put_pause(&org(), pause(Some(sku("B")))).await.unwrap();
    assert_eq!(look().await, (vec![false, true], 1));
    here.put_pause(&org(), pause(None)).await.unwrap();
    assert_eq!(look().await, (vec![true, true], 0));
    here.delete_pause(&org(), Some(&sku("B"))).await.unwrap();
    here.delete_pause(&org(), None).await.unwrap();
    assert_eq!(look().await, (vec![false, false], 2));
}
