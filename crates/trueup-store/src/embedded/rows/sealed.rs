//! Everything that is sealed, wherever it stands.

use rusqlite::{Connection, params};
use trueup_core::Org;

use super::columns::Columns;
use super::{Result, all as all_rows, execute};
use crate::encoding::columns::ReadColumns;
use crate::{SealedPlace, SealedText};

/// Lists every sealed text of every org, for a change of keys. An empty text holds nothing.
pub(crate) fn all(conn: &Connection) -> Result<Vec<SealedText>> {
    const CONNECTIONS: &str = "
        SELECT org, id, sealed_credentials
        FROM connection
        WHERE length(sealed_credentials) > 0
        ORDER BY org, id";
    const SUBSCRIPTIONS: &str = "
        SELECT org, id, sealed_secret
        FROM subscription
        WHERE length(sealed_secret) > 0
        ORDER BY org, id";
    let connection = |columns: &mut Columns<'_, '_>| {
        let (org, id) = (columns.name::<Org>()?, columns.name()?);
        Ok(SealedText { org, place: SealedPlace::Connection(id), text: columns.take()? })
    };
    let subscription = |columns: &mut Columns<'_, '_>| {
        let (org, id) = (columns.name::<Org>()?, columns.take()?);
        Ok(SealedText { org, place: SealedPlace::Subscription(id), text: columns.take()? })
    };
    let mut texts = all_rows(conn, CONNECTIONS, [], connection)?;
    texts.extend(all_rows(conn, SUBSCRIPTIONS, [], subscription)?);
    Ok(texts)
}

/// Puts a text in the place of a sealed one, where that still stands there; returns whether.
pub(crate) fn replace(conn: &Connection, sealed: &SealedText, to: &[u8]) -> Result<bool> {
    const CONNECTION: &str = "
        UPDATE connection
        SET sealed_credentials = ?
        WHERE org = ?
          AND id = ?
          AND sealed_credentials = ?";
    const SUBSCRIPTION: &str = "
        UPDATE subscription
        SET sealed_secret = ?
        WHERE org = ?
          AND id = ?
          AND sealed_secret = ?";
    let (sql, id) = match &sealed.place {
        SealedPlace::Connection(id) => (CONNECTION, id.as_str()),
        SealedPlace::Subscription(id) => (SUBSCRIPTION, id.as_str()),
    };
    Ok(execute(conn, sql, params![to, sealed.org.as_str(), id, sealed.text])? > 0)
}
