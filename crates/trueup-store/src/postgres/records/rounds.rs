//! Work on many rows with statements over arrays, in which each row may stand once.

use std::collections::HashMap;
use std::hash::Hash;

/// Splits items into rounds: in each a key stands once at most, and the items of one key are in the
/// order in which they came.
pub(super) fn rounds<T, K: Eq + Hash>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<Vec<T>> {
    let mut rounds: Vec<Vec<T>> = Vec::new();
    let mut seen: HashMap<K, usize> = HashMap::new();
    for item in items {
        let number = seen.entry(key(&item)).or_default();
        if *number == rounds.len() {
            rounds.push(Vec::new());
        }
        rounds[*number].push(item);
        *number += 1;
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_in_a_round_and_in_its_order() {
        let items = ["a1", "b1", "a2", "c1", "a3", "b2"];
        let found = rounds(items, |item| item.chars().next());
        assert_eq!(found, [vec!["a1", "b1", "c1"], vec!["a2", "b2"], vec!["a3"]]);
        assert_eq!(rounds([""; 0], |item| *item), [[""; 0]; 0]);
    }
}
