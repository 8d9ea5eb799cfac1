//! Runs the checked documents against the simulator and compares each answer with the SDL types.

use apollo_compiler::ast::Type;
use apollo_compiler::executable::{Selection, SelectionSet};
use apollo_compiler::schema::ExtendedType;
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema};
use serde_json::{Value, json};
use trueup_testkit::shopify::{ACCESS_TOKEN, Simulator};
use trueup_testkit::{SeedItem, Shop, SimServer};

use crate::{client, send, served, spec};

struct Admin {
    schema: Valid<Schema>,
    sim: Simulator,
    server: SimServer,
}

async fn admin() -> Option<Admin> {
    let text = std::fs::read_to_string(spec::path("shopify_admin_2026-07.graphql")?).unwrap();
    let schema = Schema::parse(text, "shopify.graphql").unwrap_or_else(|bad| bad.partial);
    let schema = Valid::assume_valid(schema);
    let sim = Simulator::default();
    sim.seed((0..300).map(|n| SeedItem::new(format!("S{n:03}"), n)).collect()).unwrap();
    let server = served(sim.clone()).await;
    Some(Admin { schema, sim, server })
}

impl Admin {
    /// Sends one of the documents and checks its answer; returns the data.
    async fn run(&self, name: &str, variables: Value) -> Value {
        let path = spec::path(&format!("shopify_operations/{name}.graphql")).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let document =
            ExecutableDocument::parse_and_validate(&self.schema, &text, "document.graphql");
        let document = document.unwrap_or_else(|bad| panic!("{name}: {}", bad.errors));
        let url = format!("{}/admin/api/2026-07/graphql.json", self.server.url);
        let request = client().post(url).header("X-Shopify-Access-Token", ACCESS_TOKEN);
        let body = json!({"query": text, "variables": variables});
        let (status, answer) = send(request.json(&body)).await;
        assert_eq!((status, &answer["errors"]), (200, &Value::Null), "{name}");
        let operation = document.operations.get(None).unwrap();
        self.check_object(&document, &operation.selection_set, &answer["data"], name);
        answer["data"].clone()
    }

    fn check_object(
        &self,
        document: &ExecutableDocument,
        wanted: &SelectionSet,
        object: &Value,
        at: &str,
    ) {
        let object = object.as_object().unwrap_or_else(|| panic!("{at}: not an object: {object}"));
        for selection in &wanted.selections {
            match selection {
                Selection::Field(field) => {
                    let key = field.response_key().as_str();
                    let at = format!("{at}.{key}");
                    let value = object.get(key).unwrap_or_else(|| panic!("{at}: missing"));
                    self.check(document, field.ty(), &field.selection_set, value, &at);
                }
                Selection::InlineFragment(inline) => {
                    self.check_object(document, &inline.selection_set, &json!(object), at);
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = spread.fragment_def(document).unwrap();
                    self.check_object(document, &fragment.selection_set, &json!(object), at);
                }
            }
        }
    }

    fn check(
        &self,
        document: &ExecutableDocument,
        wanted: &Type,
        below: &SelectionSet,
        value: &Value,
        at: &str,
    ) {
        if value.is_null() {
            // `nodes: [Node]!` may hold nulls; anything non-null may not.
            assert!(!wanted.is_non_null(), "{at}: null where {wanted} is promised");
            return;
        }
        if wanted.is_list() {
            let items = value.as_array().unwrap_or_else(|| panic!("{at}: not a list: {value}"));
            for item in items {
                self.check(document, wanted.item_type(), below, item, at);
            }
            return;
        }
        let name = wanted.inner_named_type().as_str();
        let fits = match name {
            "Int" => value.as_i64().is_some_and(|number| i32::try_from(number).is_ok()),
            "Boolean" => value.is_boolean(),
            "ID" | "String" | "DateTime" | "URL" => value.is_string(),
            "UnsignedInt64" => value.as_str().is_some_and(|text| text.parse::<u64>().is_ok()),
            _ => match self.schema.types.get(name) {
                Some(ExtendedType::Enum(known)) => {
                    value.as_str().is_some_and(|text| known.values.contains_key(text))
                }
                Some(_) => {
                    self.check_object(document, below, value, at);
                    true
                }
                None => panic!("{at}: unknown type {name}"),
            },
        };
        assert!(fits, "{at}: {value} is not a {wanted}");
    }
}

#[tokio::test]
async fn reads_are_as_specified() {
    let Some(admin) = admin().await else { return };
    let listing = admin.sim.listing("S007").unwrap();
    let (item, location) = (&listing["inventoryItemId"], &listing["locationId"]);
    admin.sim.sell("S007", 1).unwrap();
    let order = admin.sim.sell("S009", 2).unwrap();
    admin.sim.cancel(&order.order_id).unwrap();
    admin.run("locations", json!({})).await;
    let ids = [item, &json!("gid://shopify/InventoryItem/1")];
    let found = admin.run("levels_by_nodes", json!({"ids": ids, "location": location})).await;
    assert_eq!(found["nodes"][1], Value::Null);
    let page = admin.run("levels_page", json!({"location": location})).await;
    assert_eq!(page["location"]["inventoryLevels"]["nodes"].as_array().unwrap().len(), 250);
    let after = &page["location"]["inventoryLevels"]["pageInfo"]["endCursor"];
    let page = admin.run("levels_page", json!({"location": location, "after": after})).await;
    assert_eq!(page["location"]["inventoryLevels"]["nodes"].as_array().unwrap().len(), 50);
    let found = admin.run("variants_page", json!({"query": "sku:S007"})).await;
    assert_eq!(found["productVariants"]["nodes"].as_array().unwrap().len(), 1);
    let query = json!({"query": "updated_at:>=2020-01-01T00:00:00Z"});
    let found = admin.run("orders_since", query).await;
    assert_eq!(found["orders"]["nodes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn writes_are_as_specified() {
    let Some(admin) = admin().await else { return };
    let listing = admin.sim.listing("S007").unwrap();
    let set = |quantity: i64, from: i64| {
        json!({"name": "available", "reason": "correction", "quantities": [{
            "inventoryItemId": listing["inventoryItemId"], "locationId": listing["locationId"],
            "quantity": quantity, "changeFromQuantity": from,
        }]})
    };
    for (key, input, code) in [
        ("good", set(9, 7), Value::Null),
        ("stale", set(3, 7), json!("CHANGE_FROM_QUANTITY_STALE")),
        ("same", set(9, 9), Value::Null),
        ("good", set(8, 9), json!("IDEMPOTENCY_KEY_PARAMETER_MISMATCH")),
    ] {
        let data = admin.run("set_quantities", json!({"input": input, "key": key})).await;
        assert_eq!(data["inventorySetQuantities"]["userErrors"][0]["code"], code);
    }
    let adjust = json!({"name": "available", "reason": "restock", "changes": [{
        "inventoryItemId": listing["inventoryItemId"], "locationId": listing["locationId"],
        "delta": -2, "changeFromQuantity": 9,
    }]});
    admin.run("adjust_quantities", json!({"input": adjust, "key": "adjust"})).await;
    assert_eq!(admin.sim.quantity("S007"), Some(7));
    let sub = json!({"uri": "http://127.0.0.1:9/hook", "format": "JSON"});
    admin.run("webhook_create", json!({"topic": "ORDERS_CREATE", "sub": sub})).await;
}
