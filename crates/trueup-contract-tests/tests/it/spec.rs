//! Reads a vendor's specification and checks JSON against one of its definitions.

use std::path::PathBuf;

use jsonschema::Draft;
use serde_json::{Map, Value, json};

/// Returns where a specification lies, or says that the test is skipped.
///
/// # Panics
/// Where it is missing and `TRUEUP_REQUIRE_SPECS` is set to anything but the empty text.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/specs");
    let needed = std::env::var_os("TRUEUP_REQUIRE_SPECS").is_some_and(|text| !text.is_empty());
    found(PathBuf::from(root).join(name), if needed { Missing::Fails } else { Missing::Skips })
}

/// What becomes of a test whose specification is missing.
#[derive(Clone, Copy)]
enum Missing {
    Fails,
    Skips,
}

fn found(path: PathBuf, missing: Missing) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let words = format!("no specification at {}", path.display());
    match missing {
        Missing::Fails => panic!("{words}"),
        Missing::Skips => eprintln!("SKIPPED: {words}"),
    }
    None
}

#[test]
fn a_missing_specification_skips_a_test() {
    assert_eq!(found("no/such.json".into(), Missing::Skips), None);
}

#[test]
#[should_panic(expected = "no specification at no/such.json")]
fn a_missing_specification_fails_where_all_are_required() {
    found("no/such.json".into(), Missing::Fails);
}

/// A Swagger, OpenAPI or JSON Schema file.
pub(crate) struct Spec {
    root: Map<String, Value>,
    prefix: &'static str,
}

impl Spec {
    /// Reads a specification; nothing when it is not there.
    ///
    /// Objects are closed: a field that the vendor does not name is an error.
    pub(crate) fn load(name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path(name)?).unwrap();
        let mut root: Map<String, Value> = serde_json::from_str(&text).unwrap();
        root.remove("paths");
        let prefix = if root.contains_key("components") {
            "#/components/schemas/"
        } else {
            "#/definitions/"
        };
        root.values_mut().for_each(close);
        Some(Self { root, prefix })
    }

    /// Reads a JSON Schema as it is: its alternatives do not bear being closed.
    pub(crate) fn load_schema(name: &str) -> Option<Self> {
        let text = std::fs::read_to_string(path(name)?).unwrap();
        Some(Self { root: serde_json::from_str(&text).unwrap(), prefix: "#/definitions/" })
    }

    /// Asserts that a body is what a definition says.
    pub(crate) fn check(&self, definition: &str, body: &Value) {
        let mut schema = self.root.clone();
        schema.insert("$ref".into(), json!(format!("{}{definition}", self.prefix)));
        check(definition, Draft::Draft201909, &Value::Object(schema), body);
    }

    /// Asserts that a body is what the file as a whole says.
    pub(crate) fn check_whole(&self, body: &Value) {
        check("the schema", Draft::Draft7, &Value::Object(self.root.clone()), body);
    }
}

/// Draft 7 ignores what stands beside a `$ref`; definitions need 2019-09, files say draft 7.
fn check(name: &str, draft: Draft, schema: &Value, body: &Value) {
    let validator = jsonschema::options()
        .with_draft(draft)
        .should_validate_formats(true)
        .build(schema)
        .unwrap();
    let errors: Vec<String> = validator
        .iter_errors(body)
        .map(|error| format!("{} at {:?}", error, error.instance_path().to_string()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{body:#}");
}

/// Forbids unknown fields of every object that names its fields.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let named = fields.get("properties").is_some_and(Value::is_object);
            if named && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
