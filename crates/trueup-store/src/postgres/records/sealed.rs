//! Everything that is sealed, wherever it stands.

use trueup_core::Org;

use crate::encoding::columns::ReadColumns;
use crate::postgres::error::Result;
use crate::postgres::shard::{self, shard_of};
use crate::postgres::sql::{Columns, Conn, Param, Plain, all as all_rows, execute};
use crate::{SealedPlace, SealedText};

/// Lists every sealed text of every org, for a change of keys. An empty text holds nothing.
pub(in crate::postgres) async fn all(conn: &Conn) -> Result<Vec<SealedText>> {
    const CONNECTIONS: &str = "
        SELECT org, id, sealed_credentials
        FROM connection
        WHERE shard = ANY($1)
          AND octet_length(sealed_credentials) > 0
        ORDER BY org, id";
    const SUBSCRIPTIONS: &str = "
        SELECT org, id, sealed_secret
        FROM subscription
        WHERE shard = ANY($1)
          AND octet_length(sealed_secret) > 0
        ORDER BY org, id";
    let connection = |columns: &mut Columns<'_>| {
        let (org, id) = (columns.name::<Org>()?, columns.name()?);
        Ok(SealedText { org, place: SealedPlace::Connection(id), text: columns.take()? })
    };
    let subscription = |columns: &mut Columns<'_>| {
        let (org, id) = (columns.name::<Org>()?, columns.take()?);
        Ok(SealedText { org, place: SealedPlace::Subscription(id), text: columns.take()? })
    };
    let shards = shard::all();
    let mut texts = all_rows(conn, CONNECTIONS, &[&shards], connection).await?;
    texts.extend(all_rows(conn, SUBSCRIPTIONS, &[&shards], subscription).await?);
    Ok(texts)
}

/// Puts a text in the place of a sealed one, where that still stands there; returns whether.
pub(in crate::postgres) async fn replace(
    conn: &Conn,
    sealed: &SealedText,
    to: &[u8],
) -> Result<bool> {
    const CONNECTION: &str = "
        UPDATE connection
        SET sealed_credentials = $5
        WHERE shard = $1
          AND org = $2
          AND id = $3
          AND sealed_credentials = $4";
    const SUBSCRIPTION: &str = "
        UPDATE subscription
        SET sealed_secret = $5
        WHERE shard = $1
          AND org = $2
          AND id = $3
          AND sealed_secret = $4";
    let (sql, id) = match &sealed.place {
        SealedPlace::Connection(id) => (CONNECTION, id.as_str()),
        SealedPlace::Subscription(id) => (SUBSCRIPTION, id.as_str()),
    };
    let params: [Param<'_>; 5] =
        [&shard_of(&sealed.org), &sealed.org.as_str(), &Plain(id), &sealed.text.as_slice(), &to];
    Ok(execute(conn, sql, &params).await? > 0)
}
