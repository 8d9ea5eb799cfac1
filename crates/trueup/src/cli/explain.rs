//! `trueup explain`: why a channel shows what it shows, or should have shown at an instant.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use serde_json::Value;
use trueup_core::{ChannelId, Org, Sku};

use super::say::data;
use super::token::{TokenArgs, token};
use crate::auth::Scope;

/// Says why channels show what they show of a SKU: asks a running server, with a token signed with
/// `TRUEUP_JWT_SECRET`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The SKU.
    pub sku: Sku,
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:4620")]
    pub url: String,
    /// The org.
    #[arg(long)]
    pub org: Org,
    /// Only on this channel.
    #[arg(long)]
    pub channel: Option<ChannelId>,
    /// What it should have shown at this instant, such as 2026-04-25T10:00:00Z.
    #[arg(long)]
    pub at: Option<String>,
    /// Answer with JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why nothing is explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The server could not be asked.
    #[error("ask the server: {0}")]
    Http(#[from] reqwest::Error),
    /// The server refused.
    #[error("the server does not explain it ({status}): {words}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words.
        words: String,
    },
}

/// For how many seconds the token is good.
const TOKEN_SECONDS: u32 = 60;

/// Prints the explanation to stdout.
///
/// # Errors
/// When the token cannot be made, or the server cannot be reached or refuses.
pub async fn run(args: ExplainArgs) -> Result<(), Box<dyn std::error::Error>> {
    let token = token(&TokenArgs {
        orgs: vec![args.org.clone()],
        scope: Scope::Read.as_str().to_owned(),
        subject: "cli".to_owned(),
        ttl_seconds: TOKEN_SECONDS,
    })?;
    let found = ask(&args, &token).await?;
    if args.json {
        return Ok(data(serde_json::to_string_pretty(&found)?)?);
    }
    for line in words(&found) {
        data(line)?;
    }
    Ok(())
}

async fn ask(args: &ExplainArgs, token: &str) -> Result<Value, ExplainError> {
    let sku = utf8_percent_encode(args.sku.as_str(), NON_ALPHANUMERIC);
    let server = args.url.trim_end_matches('/');
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(channel) = &args.channel {
        query.append_pair("channel", channel.as_str());
    }
    if let Some(at) = &args.at {
        query.append_pair("at", at);
    }
    let url = format!("{server}/sales-channel/inventory/{sku}/explain?{}", query.finish());
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.get(url).bearer_auth(token).header("orgid", args.org.as_str());
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    let body: Value = serde_json::from_str(&text).unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let words = body["detail"].as_str().map_or(text, str::to_owned);
    Err(ExplainError::Refused { status, words })
}

/// Returns the explanation in lines for people.
fn words(found: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let at = found["at"].as_str().map_or_else(String::new, |at| format!(" at {at}"));
    let mut lines = vec![format!("{}{at}: {} on hand", text(&found["sku"]), found["master"])];
    for (name, what) in [("paused", "the SKU is paused"), ("allPaused", "everything is paused")] {
        if let Some(by) = found[name]["by"].as_str() {
            lines.push(format!("{what} by {by} since {}", text(&found[name]["since"])));
        }
    }
    let listings = found["listings"].as_array().map(Vec::as_slice).unwrap_or_default();
    if listings.is_empty() {
        lines.push("no listing carries it".to_owned());
    }
    for listing in listings {
        lines.push(String::new());
        lines.push(format!("{}: {}", text(&listing["channelId"]), text(&listing["status"])));
        if found["at"].is_null() {
            lines.push(format!("  shows         {}", text(&listing["quantity"])));
        }
        lines.push(format!("  should show   {}", listing["expected"]));
        lines.push(format!("  because       {}", formula(&listing["terms"])));
        if let Some(told) = listing["acknowledgedAt"].as_str() {
            lines.push(format!("  told          {} at {told}", text(&listing["base"])));
        }
        if let Some(read) = listing["observed"]["at"].as_str() {
            lines.push(format!("  read          {} at {read}", listing["observed"]["quantity"]));
        }
        if let Some(sent) = listing["inFlight"]["at"].as_str() {
            lines.push(format!("  under way     {} since {sent}", listing["inFlight"]["quantity"]));
        }
        if let Some(why) = listing["error"]["detail"].as_str() {
            lines.push(format!("  error         {why}"));
        }
        for line in listing["movementsSince"].as_array().into_iter().flatten() {
            lines.push(format!(
                "  {} {} {} {:+} on hand, {:+} reserved, {} after{}",
                text(&line["at"]),
                line["seq"],
                text(&line["kind"]),
                line["delta"].as_i64().unwrap_or_default(),
                line["reservedDelta"].as_i64().unwrap_or_default(),
                line["quantityAfter"],
                line["reason"].as_str().map_or_else(String::new, |why| format!(": {why}")),
            ));
        }
    }
    lines
}

/// Returns the terms of a number that do anything, in their order.
fn formula(terms: &Value) -> String {
    let number = |name: &str| terms[name].as_i64().unwrap_or_default();
    let mut text = format!("{} on hand", number("onHand"));
    for (name, words) in
        [("reserved", "reserved"), ("safetyStock", "safety stock"), ("buffer", "kept off it")]
    {
        if number(name) != 0 {
            text.push_str(&format!(" - {} {words}", number(name)));
        }
    }
    if number("percent") != 100 {
        text.push_str(&format!(", {} % of it", number("percent")));
    }
    if number("unitsPerListing") > 1 {
        text.push_str(&format!(", in listings of {}", number("unitsPerListing")));
    }
    if let Some(max) = terms["maxQuantity"].as_i64() {
        text.push_str(&format!(", at most {max}"));
    }
    if number("zeroBelow") > 0 {
        text.push_str(&format!(", none below {}", number("zeroBelow")));
    }
    format!("{text} = {}", number("published"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_is_told_in_lines() {
        let terms = json!({
            "onHand": 50, "reserved": 6, "safetyStock": 0, "buffer": 4, "percent": 50,
            "unitsPerListing": 6, "maxQuantity": 3, "zeroBelow": 2, "published": 3,
        });
        let line = json!({
            "at": "2026-04-25T10:00:00Z", "seq": 9, "kind": "count", "delta": -2,
            "reservedDelta": 0, "quantityAfter": 50, "reason": "shelf",
        });
        let found = json!({ "sku": "A", "master": 50, "paused": null, "allPaused": null,
            "listings": [{
                "channelId": "shopify", "status": "pending", "quantity": 4, "expected": 3,
                "terms": terms, "base": 4, "acknowledgedAt": "2026-04-25T09:00:00Z",
                "observed": null, "inFlight": null, "movementsSince": [line],
            }],
        });
        let told = [
            "A: 50 on hand",
            "",
            "shopify: pending",
            "  shows         4",
            "  should show   3",
            "  because       50 on hand - 6 reserved - 4 kept off it, 50 % of it, in listings of \
                6, at most 3, none below 2 = 3",
            "  told          4 at 2026-04-25T09:00:00Z",
            "  2026-04-25T10:00:00Z 9 count -2 on hand, +0 reserved, 50 after: shelf",
        ];
        assert_eq!(words(&found), told);
        let then = json!({ "sku": "A", "at": "2026-04-25T10:00:00Z", "master": 1, "listings": [] });
        let told = ["A at 2026-04-25T10:00:00Z: 1 on hand", "no listing carries it"];
        assert_eq!(words(&then), told);
    }
}
