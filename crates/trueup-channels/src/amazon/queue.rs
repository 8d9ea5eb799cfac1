//! The seller's own SQS queue, which Amazon's notifications go to: its JSON protocol, signed
//! with AWS Signature Version 4.
//!
//! <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html>,
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use trueup_core::Timestamp;

use super::config::{AwsKeys, QueueAddress};
use super::{error, webhook};
use crate::exchange::{Outgoing, parse_json};
use crate::port::{Caller, ChannelError, ChannelErrorKind, Queue, QueuedNotice, Request, Response};

const BUCKET: &str = "queue";
/// The most messages of one ReceiveMessage or DeleteMessageBatch.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html>
pub(super) const MESSAGES_MAX: usize = 10;
/// The longest `WaitTimeSeconds`; only a wait above 0 asks all servers of a queue.
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>
const WAIT_SECONDS_MAX: u64 = 20;
/// `VisibilityTimeout`: how long a message that was received and not deleted stays hidden.
const VISIBILITY_SECONDS: u64 = 60;
const CONTENT_TYPE: &str = "application/x-amz-json-1.0";
const RECEIVE: &str = "AmazonSQS.ReceiveMessage";
const DELETE: &str = "AmazonSQS.DeleteMessageBatch";

/// What the port is told of the queue.
pub(super) const QUEUE: Queue = Queue {
    wait_ms_max: WAIT_SECONDS_MAX * 1_000,
    notices_max: MESSAGES_MAX,
    hidden_ms: VISIBILITY_SECONDS * 1_000,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ReceiveMessage<'a> {
    queue_url: &'a str,
    max_number_of_messages: usize,
    wait_time_seconds: u64,
    visibility_timeout: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteMessageBatch<'a> {
    queue_url: &'a str,
    entries: Vec<DeleteEntry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteEntry<'a> {
    id: String,
    receipt_handle: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Messages {
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    message_id: String,
    receipt_handle: String,
    body: String,
}

/// Takes messages from the queue; see [`crate::port::Channel::receive`].
pub(super) async fn receive(
    queue: &QueueAddress,
    caller: &dyn Caller,
    wait_ms: u64,
) -> Result<Vec<QueuedNotice>, ChannelError> {
    let request = build_receive(queue, wait_ms.div_ceil(1_000).min(WAIT_SECONDS_MAX));
    let messages = parse_messages(&call(queue, caller, RECEIVE, request).await?.body)?;
    Ok(messages.into_iter().map(notice).collect())
}

/// Deletes messages from the queue; see [`crate::port::Channel::delete`].
pub(super) async fn delete(
    queue: &QueueAddress,
    caller: &dyn Caller,
    receipts: &[String],
) -> Result<(), ChannelError> {
    let mut left = 0;
    for receipts in receipts.chunks(MESSAGES_MAX) {
        let response = call(queue, caller, DELETE, build_delete(queue, receipts)).await?;
        left += parse_deleted(&response.body)?;
    }
    if left == 0 {
        return Ok(());
    }
    let detail = format!("{left} messages of the queue could not be deleted");
    Err(ChannelError::new(ChannelErrorKind::Transient, detail))
}

/// Checks that the queue lets us in, hiding no message from the one who works on it.
pub(super) async fn check(queue: &QueueAddress, caller: &dyn Caller) -> Result<(), ChannelError> {
    let look = ReceiveMessage {
        queue_url: &queue.url,
        max_number_of_messages: 1,
        wait_time_seconds: 0,
        visibility_timeout: 0,
    };
    let response = call(queue, caller, RECEIVE, outgoing(queue).json(&look)).await?;
    parse_messages(&response.body).map(|_| ())
}

async fn call(
    queue: &QueueAddress,
    caller: &dyn Caller,
    target: &'static str,
    request: Outgoing,
) -> Result<Response, ChannelError> {
    let request = request.header("content-type", CONTENT_TYPE).header("x-amz-target", target);
    let signed = signed(request.build(), &queue.keys, &queue.region, "sqs", caller.now())?;
    let response = caller.call(signed).await?;
    if response.status.is_success() {
        return Ok(response);
    }
    Err(error::classify_queue(&response))
}

fn outgoing(queue: &QueueAddress) -> Outgoing {
    Outgoing::new(BUCKET, Method::POST, queue.endpoint.clone()).own_address()
}

fn build_receive(queue: &QueueAddress, wait_seconds: u64) -> Outgoing {
    outgoing(queue).held_back(wait_seconds * 1_000).json(&ReceiveMessage {
        queue_url: &queue.url,
        max_number_of_messages: MESSAGES_MAX,
        wait_time_seconds: wait_seconds,
        visibility_timeout: VISIBILITY_SECONDS,
    })
}

fn build_delete(queue: &QueueAddress, receipts: &[String]) -> Outgoing {
    let numbered = receipts.iter().enumerate();
    let entries =
        numbered.map(|(at, receipt_handle)| DeleteEntry { id: at.to_string(), receipt_handle });
    let body = DeleteMessageBatch { queue_url: &queue.url, entries: entries.collect() };
    outgoing(queue).json(&body)
}

fn parse_messages(body: &[u8]) -> Result<Vec<Message>, ChannelError> {
    Ok(parse_json::<Messages>("ReceiveMessage", body)?.messages)
}

/// Returns how many entries failed.
fn parse_deleted(body: &[u8]) -> Result<usize, ChannelError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Deleted {
        #[serde(default)]
        failed: Vec<serde::de::IgnoredAny>,
    }
    Ok(parse_json::<Deleted>("DeleteMessageBatch", body)?.failed.len())
}

/// Reads the envelope of a message; one that is not Amazon's keeps the queue's own id and is
/// refused when it is worked on.
fn notice(message: Message) -> QueuedNotice {
    let Message { message_id, receipt_handle, body } = message;
    let (delivery_id, topic) = match webhook::envelope(body.as_bytes()) {
        Some((id, topic)) => (id.unwrap_or(message_id), topic),
        None => (message_id, webhook::UNREADABLE.to_owned()),
    };
    QueuedNotice { receipt: receipt_handle, delivery_id, topic, body: Bytes::from(body) }
}

/// Signs a request with AWS Signature Version 4: its method, address, headers and body.
fn signed(
    mut request: Request,
    keys: &AwsKeys,
    region: &str,
    service: &str,
    at: Timestamp,
) -> Result<Request, ChannelError> {
    let failed = |why: &str| {
        let detail = format!("the request to the queue could not be signed: {why}");
        ChannelError::new(ChannelErrorKind::Config, detail)
    };
    let session = keys.session_token.as_ref().map(|token| token.expose().to_owned());
    let credentials = Credentials::new(
        keys.access_key_id.expose(),
        keys.secret_access_key.expose(),
        session,
        None,
        "trueup",
    );
    let identity = credentials.into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(service)
        .time(instant(at))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| failed(&error.to_string()))?
        .into();
    let mut headers = Vec::with_capacity(request.headers.len());
    for (name, value) in &request.headers {
        headers.push((name.as_str(), value.to_str().map_err(|_| failed("a header is no text"))?));
    }
    let method = request.method.clone();
    let body = request.body.clone();
    let signable = SignableRequest::new(
        method.as_str(),
        request.url.as_str(),
        headers.into_iter(),
        SignableBody::Bytes(&body),
    );
    let signable = signable.map_err(|error| failed(&error.to_string()))?;
    let output = sign(signable, &params).map_err(|error| failed(&error.to_string()))?;
    let (added, _) = output.into_parts().0.into_parts();
    for header in added {
        let mut value = http::HeaderValue::from_str(header.value())
            .map_err(|_| failed("a credential has illegal characters"))?;
        value.set_sensitive(header.name() != "x-amz-date");
        request.headers.insert(http::HeaderName::from_static(header.name()), value);
    }
    Ok(request)
}

fn instant(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(at.micros()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::parse_time;
    use crate::port::Secret;

    fn keys(session: Option<&str>) -> AwsKeys {
        AwsKeys {
            access_key_id: Secret::new("AKIDEXAMPLE"),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: session.map(Secret::new),
        }
    }

    /// Signs as AWS's published suite has it: `us-east-1`, `service`, 30 August 2015.
    /// <https://github.com/awslabs/aws-c-auth/tree/main/tests/aws-signing-test-suite/v4>
    fn authorization(method: Method, headers: &[(&'static str, &'static str)]) -> String {
        let url = "https://example.amazonaws.com/".to_owned();
        let mut request = Outgoing::new(BUCKET, method, url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let at = parse_time("2015-08-30T12:36:00Z").unwrap();
        let request = signed(request.build(), &keys(None), "us-east-1", "service", at).unwrap();
        assert_eq!(request.headers["x-amz-date"], "20150830T123600Z");
        assert!(request.headers["authorization"].is_sensitive());
        request.headers["authorization"].to_str().unwrap().to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_published_suite() {
        let scope = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/\
                     aws4_request, SignedHeaders";
        let post_vanilla = "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b";
        assert_eq!(
            authorization(Method::POST, &[]),
            format!("{scope}=host;x-amz-date, Signature={post_vanilla}")
        );
        let get_vanilla = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        assert_eq!(
            authorization(Method::GET, &[]),
            format!("{scope}=host;x-amz-date, Signature={get_vanilla}")
        );
        let key_sort = "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c";
        assert_eq!(
            authorization(Method::POST, &[("my-header1", "value1")]),
            format!("{scope}=host;my-header1;x-amz-date, Signature={key_sort}")
        );
    }

    #[test]
    fn the_body_and_a_session_token_are_signed() {
        let at = parse_time("2015-08-30T12:36:00Z").unwrap();
        let url = "https://sqs.us-east-1.amazonaws.com/".to_owned();
        let request = |body: &'static str| {
            Outgoing::new(BUCKET, Method::POST, url.clone()).body(CONTENT_TYPE, body).build()
        };
        let signature = |body, session| {
            let signed = signed(request(body), &keys(session), "us-east-1", "sqs", at).unwrap();
            let shown = format!("{signed:?}");
            assert!(!shown.contains("AKIDEXAMPLE") && !shown.contains("temporary"), "{shown}");
            signed.headers["authorization"].to_str().unwrap().to_owned()
        };
        let plain = signature("{}", None);
        assert_ne!(plain, signature("{ }", None));
        assert!(signature("{}", Some("temporary")).contains("x-amz-security-token"));
    }

    #[test]
    fn a_message_that_is_not_amazons_keeps_the_queues_id() {
        let read = |body: &str| {
            let messages = serde_json::json!({"Messages": [
                {"MessageId": "m-1", "ReceiptHandle": "r-1", "MD5OfBody": "x", "Body": body},
            ]});
            let messages = parse_messages(messages.to_string().as_bytes()).unwrap();
            let notice = messages.into_iter().map(notice).next().unwrap();
            (notice.delivery_id, notice.topic)
        };
        let of = |id: &str, topic: &str| (id.to_owned(), topic.to_owned());
        let known = r#"{"NotificationType": "ORDER_CHANGE", "Payload": {},
                        "NotificationMetadata": {"NotificationId": "n-1"}}"#;
        assert_eq!(read(known), of("n-1", "ORDER_CHANGE"));
        let nameless = r#"{"notificationType": "X", "payload": {}}"#;
        assert_eq!(read(nameless), of("m-1", "X"));
        assert_eq!(read("hello"), of("m-1", webhook::UNREADABLE));
        assert_eq!(parse_messages(b"{}").map(|messages| messages.len()), Ok(0));
    }
}
