//! The operators' dashboard: pages made on the server, out of what the public API says.
//!
//! It is a client of the API and nothing else: it asks the API's own router, in this process,
//! with the credential of whoever is signed in. So it shows what that credential may see, does
//! what it may do, and there is nothing here that an engineer could not do with curl.
//!
//! Every page can be read and every form be sent without JavaScript; the one script keeps numbers
//! fresh and saves keystrokes. Nothing is loaded from elsewhere.

mod api;
mod assets;
mod forms;
mod links;
mod page;
mod screens;
mod session;
mod spark;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;

use api::Api;
use forms::FORM_BYTES_MAX;
use links::Links;
use session::Seal;

pub use session::KEY_BYTES;

/// What the dashboard is made from.
pub struct Options {
    /// The public API.
    pub api: Router,
    /// What sessions are sealed with; the same on every node.
    pub key: [u8; KEY_BYTES],
    /// Whether it is reached by HTTPS only, so that cookies may say so.
    pub is_secure: bool,
}

struct House {
    api: Api,
    seal: Seal,
    links: Links,
    is_secure: bool,
}

type Shared = Arc<House>;

/// Returns the dashboard's routes.
pub fn routes(options: Options) -> Router {
    let Options { api, key, is_secure } = options;
    let (api, seal) = (Api::new(api), Seal::new(&key));
    let house = Arc::new(House { api, seal, links: Links::default(), is_secure });
    let screens = screens::routes().layer(DefaultBodyLimit::max(FORM_BYTES_MAX));
    assets::routes().merge(screens.with_state(house))
}
