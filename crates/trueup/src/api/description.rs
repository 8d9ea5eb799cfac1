//! The OpenAPI 3.1 document: what the routes say of themselves, and what holds for all of them.

use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use crate::api::problem::{FieldError, ProblemBody, ShortageView};

const ABOUT: &str = "One true number per SKU, and every channel shows it.\n\n\
    Every call names its org in the header `orgid` and carries a bearer token or an API key. \
    Errors are RFC 9457 problems with a stable `code`. POST and PUT take an `Idempotency-Key`. \
    Times are RFC 3339 in UTC. Bodies are JSON whatever their content type says; unknown \
    fields and parameters are refused.";

/// Returns the document without paths.
pub(super) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Trueup")
        .description(Some(ABOUT))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    OpenApiBuilder::new().info(info).build()
}

/// Adds what holds for every operation, and returns the document as JSON.
pub(super) fn complete(mut document: OpenApi) -> String {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Delete, &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            name(operation);
            if path.starts_with("/sales-channel/") || path.ends_with("/auth-url") {
                authenticated(operation, &method);
            } else if path.starts_with("/upstream/") {
                problems(operation, &[400, 404, 413]);
            } else if path.starts_with("/connect/") {
                problems(operation, &[400, 500, 503]);
            }
        }
    }
    let components = document.components.get_or_insert_with(Default::default);
    for (name, schema) in [
        ("Problem", ProblemBody::schema()),
        (&*FieldError::name(), FieldError::schema()),
        (&*ShortageView::name(), ShortageView::schema()),
    ] {
        components.schemas.insert(name.to_owned(), schema);
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build();
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    let key = ApiKey::Header(ApiKeyValue::new("x-api-key"));
    components.add_security_scheme("apiKey", SecurityScheme::ApiKey(key));
    let mut document = serde_json::to_value(&document).expect("the description is always JSON");
    // The vendor's settings stand beside the common ones; which are legal depends on the kind.
    document["components"]["schemas"]["EnableBody"]["additionalProperties"] = true.into();
    document.to_string()
}

/// Names an operation after its tag and its handler, so that no two are called the same.
fn name(operation: &mut Operation) {
    let tag = operation.tags.iter().flatten().next().map_or("", String::as_str);
    if let Some(handler) = &operation.operation_id {
        operation.operation_id = Some(format!("{}_{handler}", tag.replace(' ', "_")));
    }
}

fn authenticated(operation: &mut Operation, method: &HttpMethod) {
    let none: [&str; 0] = [];
    operation.security = Some(vec![
        SecurityRequirement::new("bearer", none),
        SecurityRequirement::new("apiKey", none),
    ]);
    header(operation, "orgid", Required::True, "The org; one that the credential is good for.");
    if matches!(method, HttpMethod::Post | HttpMethod::Put) {
        let words = "1 to 255 visible ASCII characters: the same key and request get the first \
            answer again, the same key with another request gets 422.";
        header(operation, "Idempotency-Key", Required::False, words);
        problems(operation, &[408, 409, 413, 422]);
    }
    problems(operation, &[400, 401, 403, 500, 503]);
}

fn header(operation: &mut Operation, name: &str, required: Required, words: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(required)
        .description(Some(words))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_with(Vec::new).push(parameter.into());
}

/// Documents problems, where the operation has not said more about them itself.
fn problems(operation: &mut Operation, statuses: &[u16]) {
    for status in statuses {
        let words = match status {
            400 => "The request is malformed: the code and the errors say where",
            401 => "No credential, or one that does not hold",
            403 => {
                "The credential is not good for this org (`org_forbidden`) or lacks the \
                scope (`scope_missing`)"
            }
            404 => "There is no such thing",
            408 => "The body did not arrive in time",
            409 => "The state does not allow it; nothing was changed",
            413 => "The body is larger than 10 MiB",
            422 => "The Idempotency-Key was used with another request",
            500 => "Something failed here",
            503 => "Nothing was done: overloaded, stopping, or the disk refuses; see Retry-After",
            _ => "A problem",
        };
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let described = operation.responses.responses.entry(status.to_string());
        let response = described.or_insert_with(|| {
            let content = content.clone();
            RefOr::T(
                ResponseBuilder::new()
                    .description(words)
                    .content("application/problem+json", content)
                    .build(),
            )
        });
        if let RefOr::T(response) = response
            && response.content.is_empty()
        {
            response.content.insert("application/problem+json".to_owned(), content.into());
        }
    }
}
