//! Listings that show one number: which of them is told it.
//!
//! The one that leads stays until it goes, or until it may not be told and another one may. A pure
//! decision over what a store has read; what is known of the number goes from one to the next in
//! the transaction that changes them.

use trueup_core::{ChannelId, ListingKey, Sku};

/// The rank of a listing that is about to go, behind every one that stays.
const GONE: u8 = 3;

/// A listing of a scope.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) scope: String,
    pub(crate) channel: ChannelId,
    pub(crate) key: ListingKey,
    pub(crate) sku: Sku,
    pub(crate) follows: bool,
    /// 0 where it may be told by itself, 1 where it may be told when asked, 2 where it may not.
    pub(crate) rank: u8,
}

/// One listing is told the number from now on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakeOver<'a> {
    /// In place of this one, where one was.
    pub(crate) from: Option<&'a Member>,
    /// It.
    pub(crate) to: &'a Member,
}

/// Settles who leads, as if some listings were gone. Members are sorted by scope, and those of one
/// scope by when they were mapped.
pub(crate) fn elect<'a>(
    members: &'a [Member],
    goes: impl Fn(&Member) -> bool,
) -> Vec<TakeOver<'a>> {
    let rank = |member: &&Member| (if goes(member) { GONE } else { member.rank }, member.follows);
    let take_over = |scope: &'a [Member]| {
        let to = scope.iter().min_by_key(rank).filter(|best| best.follows && !goes(best))?;
        let from = scope.iter().find(|member| !member.follows);
        Some(TakeOver { from, to })
    };
    members.chunk_by(|one, next| one.scope == next.scope).filter_map(take_over).collect()
}
