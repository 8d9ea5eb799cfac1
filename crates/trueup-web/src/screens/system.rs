//! The server: whether it acknowledges changes, its figures, and the nodes of its store.

use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;

use crate::Shared;
use crate::api::{Path, Trouble};
use crate::page::{Frame, filters, refused, shown};
use crate::session::Session;

/// The figures that are shown, of those that the server has.
const FIGURES: [(&str, &str); 8] = [
    ("trueup_store_skus", "SKUs"),
    ("trueup_store_active_reservations", "Active reservations"),
    ("trueup_store_commands_total", "Commands decided"),
    ("trueup_store_commits_total", "Commits"),
    ("trueup_store_queued_commands", "Commands waiting"),
    ("trueup_store_behind_rows", "Rows behind"),
    ("trueup_lease_lost_total", "Leases lost"),
    ("trueup_fenced_total", "Writes fenced"),
];

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/system", get(show))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: String,
    detail: Option<String>,
    version: String,
    started_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    node_id: Option<String>,
    store: String,
    nodes: Vec<Node>,
    shards: Vec<Shard>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    id: String,
    name: String,
    url: String,
    version: String,
    started_at: String,
    seen_at: String,
    shards: u64,
}

#[derive(Debug, Deserialize)]
struct Shard {
    node: Option<String>,
}

impl Cluster {
    fn is_own(&self, node: &Node) -> bool {
        self.node_id.as_ref() == Some(&node.id)
    }

    /// Returns how many shards nobody works for.
    fn unheld(&self) -> usize {
        self.shards.iter().filter(|shard| shard.node.is_none()).count()
    }
}

#[derive(Template)]
#[template(path = "system.html")]
struct Page {
    frame: Frame,
    health: Health,
    figures: Vec<(&'static str, String)>,
    /// `None` where the credential may not see it.
    cluster: Option<Cluster>,
}

async fn show(State(house): State<Shared>, session: Session) -> Response {
    match look(&house, &session).await {
        Ok(page) => shown(&page),
        Err(trouble) => refused(&session, "/", trouble),
    }
}

async fn look(house: &Shared, session: &Session) -> Result<Page, Trouble> {
    let cluster = async {
        let found = house.api.get::<Cluster>(session, Path::new(&["cluster"])).await;
        Trouble::unless_forbidden(found)
    };
    let (health, figures, cluster) = futures::try_join!(
        house.api.get_anyway::<Health>(session, Path::of_server(&["readyz"])),
        house.api.text(session, Path::of_server(&["metrics"])),
        cluster,
    )?;
    let figures = figures_of(&String::from_utf8_lossy(&figures));
    Ok(Page { frame: Frame::new(session, "/system", "System"), health, figures, cluster })
}

/// Picks the figures that are shown out of Prometheus' text.
fn figures_of(text: &str) -> Vec<(&'static str, String)> {
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    FIGURES.iter().filter_map(|(name, words)| Some((*words, value(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::figures_of;

    #[test]
    fn figures_are_picked_by_their_whole_name() {
        let text =
            "# HELP trueup_store_skus SKUs.\ntrueup_store_skus_more 1\ntrueup_store_skus 7\n";
        assert_eq!(figures_of(text), [("SKUs", "7".to_owned())]);
    }
}
