//! Which node works for which orgs: what has to be done once is done by one of them.
//!
//! Orgs are dealt out in shards, and each shard is leased to one node at a time. Every lease has an
//! epoch that grows whenever it is taken anew, so that what an earlier holder still does is known
//! for what it is.

use std::collections::BTreeMap;

use trueup_core::{Org, Timestamp};
use uuid::Uuid;

use crate::postgres::shard;

/// A part of the orgs; all that is of one org is in one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(pub(crate) i16);

impl Shard {
    /// Returns the shard that an org is in.
    #[must_use]
    pub fn of(org: &Org) -> Self {
        Self(shard::shard_of(org))
    }

    /// Returns every shard.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..shard::SHARDS).map(Self)
    }

    /// Returns the shard of a number, where there is one.
    #[must_use]
    pub fn numbered(number: u16) -> Option<Self> {
        Self::all().find(|shard| shard.number() == number)
    }

    /// Returns its number, from 0.
    #[must_use]
    pub fn number(self) -> u16 {
        // Never negative: it is made from a range or a remainder.
        self.0.unsigned_abs()
    }
}

/// How a node holds a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Grows whenever the shard is taken anew, by whomever.
    pub epoch: i64,
    /// Whether another node is to have it: its work is to end, and then it is handed over.
    pub is_leaving: bool,
}

/// The shards that a node works for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// By shard.
    pub shards: BTreeMap<Shard, Holding>,
}

impl Ownership {
    /// Returns that of a node that is the only one.
    #[must_use]
    pub fn of_everything() -> Self {
        let holding = Holding { epoch: 1, is_leaving: false };
        Self { shards: Shard::all().map(|shard| (shard, holding)).collect() }
    }

    /// Returns how the shard of an org is held, where it is.
    #[must_use]
    pub fn of(&self, org: &Org) -> Option<Holding> {
        self.shards.get(&Shard::of(org)).copied()
    }
}

/// How a node introduces itself to the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeInfo {
    /// What people call it.
    pub name: String,
    /// Where the other nodes reach its API.
    pub url: String,
    /// The version of its program.
    pub version: String,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id, new with every start.
    pub id: Uuid,
    /// What it says of itself.
    pub info: NodeInfo,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last renewed its leases.
    pub seen_at: Timestamp,
}

/// Who holds a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: Shard,
    /// The node; `None` = nobody.
    pub node: Option<Uuid>,
    /// How often it was taken.
    pub epoch: i64,
    /// Until when it is the node's unless it is renewed; `None` = for good.
    pub until: Option<Timestamp>,
}

/// All nodes of a store, and who holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The node that says this; `None` where it takes no part.
    pub node: Option<Uuid>,
    /// The kind of store: `embedded` or `postgres`.
    pub store: &'static str,
    /// When it stood like this, by the store's clock.
    pub at: Timestamp,
    /// By when they started.
    pub nodes: Vec<Node>,
    /// By shard.
    pub leases: Vec<Lease>,
}

impl Cluster {
    /// Returns the node that holds a shard, where one does.
    #[must_use]
    pub fn holder(&self, shard: Shard) -> Option<&Node> {
        let lease = self.leases.iter().find(|lease| lease.shard == shard)?;
        let holder = lease.node.filter(|_| lease.until.is_none_or(|until| until > self.at))?;
        self.nodes.iter().find(|node| node.id == holder)
    }
}
