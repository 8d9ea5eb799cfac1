//! Single requests to the server under test, outside of the loads.

use serde_json::{Value, json};
use tokio::time::timeout;

use super::client::{Connection, WireError};
use super::load::Target;
use super::{BenchError, HOT_SKU, ORG, REQUEST_WAIT_MAX, STOCK, excerpt, sku_name, usize_of};

/// The most SKUs in one request that creates them.
const CHUNK_SKUS: u32 = 10_000;

impl Target {
    pub(super) async fn connect(&self, what: &'static str) -> Result<Connection, BenchError> {
        let failed = |source| BenchError::Request { what, source };
        Connection::open(self.addr).await.map_err(failed)
    }

    /// Sends one request to the server and returns the body of its 200.
    pub(super) async fn text(
        &self,
        connection: &mut Connection,
        what: &'static str,
        (method, path): (&str, &str),
        body: &str,
    ) -> Result<String, BenchError> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\norgid: {ORG}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.addr,
            self.token,
            body.len(),
        );
        let failed = |source| BenchError::Request { what, source };
        let answer = timeout(REQUEST_WAIT_MAX, connection.exchange(request.as_bytes()));
        let late = |_| failed(WireError::Malformed("it did not come in time"));
        let answer = answer.await.map_err(late)?.map_err(failed)?;
        let text = String::from_utf8_lossy(answer.body).into_owned();
        match answer.status {
            200 => Ok(text),
            status => Err(BenchError::Refused { what, status, said: excerpt(&text) }),
        }
    }

    /// Sends one request to the server and returns the JSON of its 200.
    pub(super) async fn json(
        &self,
        connection: &mut Connection,
        what: &'static str,
        route: (&str, &str),
        body: &str,
    ) -> Result<Value, BenchError> {
        let text = self.text(connection, what, route, body).await?;
        let said = |_| BenchError::Refused { what, status: 200, said: excerpt(&text) };
        serde_json::from_str(&text).map_err(said)
    }

    /// Counts SKUs from one number up to another, which makes those that are new.
    pub(super) async fn count_skus(
        &self,
        from: u32,
        to: u32,
        quantity: u64,
    ) -> Result<(), BenchError> {
        let mut connection = self.connect("connect to the server").await?;
        for first in (from..to).step_by(usize_of(CHUNK_SKUS)) {
            let end = to.min(first.saturating_add(CHUNK_SKUS));
            let names: Vec<String> = (first..end).map(sku_name).collect();
            self.count(&mut connection, &names, quantity).await?;
        }
        Ok(())
    }

    /// Makes the SKU that everybody wants.
    pub(super) async fn create_hot(&self) -> Result<(), BenchError> {
        let mut connection = self.connect("connect to the server").await?;
        self.count(&mut connection, &[HOT_SKU.to_owned()], STOCK).await
    }

    async fn count(
        &self,
        connection: &mut Connection,
        names: &[String],
        quantity: u64,
    ) -> Result<(), BenchError> {
        let what = "count SKUs";
        let items: Vec<Value> =
            names.iter().map(|name| json!({"sku": name, "quantity": quantity})).collect();
        let body = json!({ "items": items }).to_string();
        let route = ("PUT", "/sales-channel/inventory/bulk/update");
        let answer = self.json(connection, what, route, &body).await?;
        if answer["failed"] == json!(0) && answer["updated"] == json!(names.len()) {
            return Ok(());
        }
        Err(BenchError::Refused { what, status: 200, said: excerpt(&answer.to_string()) })
    }

    /// Returns what is wrong when the hot SKU does not hold exactly what was acknowledged.
    pub(super) async fn check_hot(&self, accepted: u64) -> Result<Option<String>, BenchError> {
        let what = "read the hot SKU";
        let mut connection = self.connect(what).await?;
        let path = format!("/sales-channel/inventory/{HOT_SKU}");
        let answer = self.json(&mut connection, what, ("GET", &path), "").await?;
        let holds = answer["reserved"] == json!(accepted) && answer["quantity"] == json!(STOCK);
        let words = || {
            let (reserved, quantity) = (&answer["reserved"], &answer["quantity"]);
            format!(
                "{HOT_SKU} holds {reserved} of {quantity}, acknowledged were {accepted} of {STOCK}"
            )
        };
        Ok((!holds).then(words))
    }
}
