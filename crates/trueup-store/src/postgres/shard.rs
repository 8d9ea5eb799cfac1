//! Which part of the tables an org's rows are in.
//!
//! A shard is the first column of every key, so that one org's rows lie together and shards can
//! be worked on, and one day kept, apart from one another. How many there are and how they are
//! reckoned is part of the schema.

use trueup_core::Org;

/// How many shards there are.
pub(crate) const SHARDS: i16 = 64;

/// Returns the shard of an org.
pub(crate) fn shard_of(org: &Org) -> i16 {
    shard_of_text(org.as_str())
}

/// Returns the shard of what is looked up before the org is known, by its own key.
pub(super) fn shard_of_text(key: &str) -> i16 {
    shard_of_bytes(key.as_bytes())
}

/// Returns the shard of what is looked up before the org is known, by its own key.
pub(super) fn shard_of_bytes(key: &[u8]) -> i16 {
    let hash = blake3::hash(key);
    let [low, high, ..] = *hash.as_bytes();
    // A remainder of a number that is never negative, below SHARDS.
    i16::from_le_bytes([low, high & 0x7f]) % SHARDS
}

/// Returns every shard, for the few statements that look over all orgs.
pub(super) fn all() -> Vec<i16> {
    (0..SHARDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_what_they_have_always_been() {
        let shard = |org: &str| shard_of(&Org::new(org).unwrap());
        assert_eq!([shard("acme"), shard("umbrella"), shard("a")], [59, 31, 23]);
        assert!((0..1_000).all(|n| (0..SHARDS).contains(&shard(&format!("org-{n}")))));
    }
}
