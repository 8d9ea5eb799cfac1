//! The nodes of the cluster, and which of them works for which shard.

use axum::extract::State;
use serde::Serialize;
use trueup_store::{Lease, Node};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::api::extract::{Admin, Caller};
use crate::api::reply::Reply;
use crate::api::time::Time;
use crate::api::{Answered, App, AppState};

pub(super) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(cluster))
}

/// All nodes of the store, and who works for what.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ClusterView {
    /// The node that answers; null where it takes no part.
    node_id: Option<String>,
    /// `embedded` or `postgres`.
    store: &'static str,
    /// By when they started.
    nodes: Vec<NodeView>,
    /// By number.
    shards: Vec<ShardView>,
}

/// A node.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    /// New with every start.
    id: String,
    /// What people call it.
    name: String,
    /// Where the other nodes reach it.
    url: String,
    /// The version of its program.
    version: String,
    started_at: Time,
    /// When it last renewed its leases.
    seen_at: Time,
    /// How many shards it works for.
    shards: usize,
}

/// Who works for a shard.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ShardView {
    /// Its number.
    shard: u16,
    /// The node's id; null = nobody.
    node: Option<String>,
    /// How often it was taken.
    epoch: i64,
    /// Until when it is the node's unless it is renewed; null = for good.
    until: Option<Time>,
}

impl From<&Lease> for ShardView {
    fn from(lease: &Lease) -> Self {
        Self {
            shard: lease.shard.number(),
            node: lease.node.map(|id| id.to_string()),
            epoch: lease.epoch,
            until: lease.until.map(Time),
        }
    }
}

fn view(app: &App, node: &Node, leases: &[Lease], is_own: bool) -> NodeView {
    // The embedded store does not know what its only node is called.
    let info = if is_own { &app.options.node } else { &node.info };
    NodeView {
        id: node.id.to_string(),
        name: info.name.clone(),
        url: info.url.clone(),
        version: info.version.clone(),
        started_at: Time(node.started_at),
        seen_at: Time(node.seen_at),
        shards: leases.iter().filter(|lease| lease.node == Some(node.id)).count(),
    }
}

/// Returns the nodes that run on the store, and which of them works for which shard.
#[utoipa::path(get, path = "/sales-channel/cluster", tag = "server",
    responses((status = 200, description = "The nodes and the shards", body = ClusterView)))]
async fn cluster(State(app): State<AppState>, _caller: Caller<Admin>) -> Answered {
    let found = app.store.cluster().await?;
    let of = |node: &Node| view(&app, node, &found.leases, found.node == Some(node.id));
    Ok(Reply::ok(&ClusterView {
        node_id: found.node.map(|id| id.to_string()),
        store: found.store,
        nodes: found.nodes.iter().map(of).collect(),
        shards: found.leases.iter().map(ShardView::from).collect(),
    }))
}
