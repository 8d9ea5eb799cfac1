//! What was asked for, as a run keeps it that is to be begun again: JSON of our own, read back by
//! nobody else.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trueup_core::{Quantity, Sku, Strategy};

use crate::engine::{PullRequest, PushScope, strategy_word};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Push(PushScope),
    Pull(PullRequest),
    Discover,
}

/// Writes down a push: of these SKUs, each with the number to be told where one was given, or of
/// all.
pub(crate) fn push(skus: Option<&BTreeMap<Sku, Option<Quantity>>>) -> Value {
    let item =
        |(sku, exact): (&Sku, &Option<Quantity>)| json!([sku.as_str(), exact.map(Quantity::get)]);
    let skus = skus.map(|skus| skus.iter().map(item).collect::<Vec<Value>>());
    json!({ "push": { "skus": skus } })
}

/// Writes down a pull.
pub(crate) fn pull(request: &PullRequest) -> Value {
    let skus = request.skus.as_ref();
    let skus = skus.map(|skus| skus.iter().map(Sku::as_str).collect::<Vec<&str>>());
    json!({ "pull": { "skus": skus, "strategy": request.strategy.map(strategy_word) } })
}

/// Writes down a discovery that maps.
pub(crate) fn discovery() -> Value {
    json!({ "discover": true })
}

/// Reads what was written down; `None` where it is nothing of the kind.
pub(crate) fn read(written: &Value) -> Option<Request> {
    if let Some(push) = written.get("push") {
        let skus = match push.get("skus")? {
            Value::Null => return Some(Request::Push(PushScope::All)),
            skus => skus.as_array()?,
        };
        let items: Option<Vec<_>> = skus.iter().map(read_item).collect();
        return Some(Request::Push(PushScope::Items(items?)));
    }
    if written.get("discover").is_some() {
        return Some(Request::Discover);
    }
    let pull = written.get("pull")?;
    let skus = match pull.get("skus")? {
        Value::Null => None,
        skus => Some(skus.as_array()?.iter().map(read_sku).collect::<Option<Vec<Sku>>>()?),
    };
    let strategy = match pull.get("strategy")? {
        Value::Null => None,
        word => Some(read_strategy(word.as_str()?)?),
    };
    Some(Request::Pull(PullRequest { skus, dry_run: false, strategy }))
}

fn read_item(item: &Value) -> Option<(Sku, Option<Quantity>)> {
    let exact = match item.get(1)? {
        Value::Null => None,
        units => Some(Quantity::new(units.as_u64()?)?),
    };
    Some((read_sku(item.get(0)?)?, exact))
}

fn read_sku(text: &Value) -> Option<Sku> {
    Sku::new(text.as_str()?).ok()
}

fn read_strategy(word: &str) -> Option<Strategy> {
    let all = [Strategy::MasterWins, Strategy::ChannelWins, Strategy::LowerWins, Strategy::Manual];
    all.into_iter().find(|strategy| strategy_word(*strategy) == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let sku = |text: &str| Sku::new(text).unwrap();
        let exact = BTreeMap::from([(sku("A"), Quantity::new(4)), (sku("ß"), None)]);
        let items = PushScope::Items(exact.clone().into_iter().collect());
        assert_eq!(read(&push(Some(&exact))), Some(Request::Push(items)));
        assert_eq!(read(&push(None)), Some(Request::Push(PushScope::All)));
        for skus in [None, Some(vec![sku("A"), sku("ß")])] {
            for strategy in [None, Some(Strategy::LowerWins)] {
                let asked = PullRequest { skus: skus.clone(), dry_run: false, strategy };
                assert_eq!(read(&pull(&asked)), Some(Request::Pull(asked)));
            }
        }
        assert_eq!(read(&discovery()), Some(Request::Discover));
        for nonsense in [json!({}), json!({ "push": {} }), json!({ "pull": { "skus": 3 } })] {
            assert_eq!(read(&nonsense), None, "{nonsense}");
        }
    }
}
