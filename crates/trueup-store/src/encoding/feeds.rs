//! Items of bulk batches as JSON: `[[sku, listing key, quantity, version, epoch, earlier], …]`,
//! in the order in which they were sent.

use serde::{Deserialize, Serialize};

use super::{Result, borrow_json, json, parse_name};
use crate::FeedItem;

#[derive(Serialize, Deserialize)]
struct Item(String, String, i64, u64, u32, Option<i64>);

/// Returns items as they are kept.
pub(crate) fn write(items: &[FeedItem]) -> Result<String> {
    let item = |item: &FeedItem| {
        let (sku, key) = (item.sku.as_str().to_owned(), item.key.as_str().to_owned());
        Item(sku, key, item.quantity, item.version, item.epoch, item.earlier)
    };
    json(&items.iter().map(item).collect::<Vec<_>>())
}

/// Reads items as they are kept.
pub(crate) fn read(text: &str) -> Result<Vec<FeedItem>> {
    let item = |Item(sku, key, quantity, version, epoch, earlier)| {
        let (sku, key) = (parse_name(&sku)?, parse_name(&key)?);
        Ok(FeedItem { sku, key, quantity, version, epoch, earlier })
    };
    borrow_json::<Vec<Item>>(text)?.into_iter().map(item).collect()
}
