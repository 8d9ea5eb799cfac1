//! What an operation costs, close to what was recorded of the live API.
//!
//! Source: shopify.dev `graphql-admin/rate-limits`: scalars are free, an object is a point, a
//! connection is sized by `first` and grows less than its size, a mutation is 10. The exact
//! growth is not documented; the numbers below give what was recorded: 13 for a connection of 250
//! with an object in each, 97 with a list in each, 310 at most with a list within a list.

use serde_json::{Map, Value};

use super::graphql::{Document, Field, Kind, Operation, Selection};

/// The most that one query may cost, whatever is in the bucket.
pub(super) const COST_MAX: i64 = 1_000;
/// What a set of quantities costs that asks for its adjustment group, in points (recorded: 10 to
/// 13): the mutation, its payload and the group.
pub const SET_COST: i64 = 12;
/// What a mutation costs by itself.
const MUTATION: f64 = 10.0;
/// A connection of n counts as n to this power: 250 count as 6.5.
const GROWTH: f64 = 0.339;
/// What a list counts whose length is not asked for.
const PLAIN_LIST: f64 = 13.0;
/// How deep selections are followed.
const DEPTH_MAX: usize = 16;
/// The lists whose length is not asked for.
const PLAIN_LISTS: [&str; 4] = ["quantities", "changes", "refunds", "accessScopes"];
/// What only wraps what it holds, or is free in every answer.
const FREE: [&str; 5] = ["nodes", "edges", "node", "pageInfo", "userErrors"];

/// Returns what an operation is asked to cost at most.
pub(super) fn requested(
    operation: &Operation,
    document: &Document,
    variables: &Map<String, Value>,
) -> i64 {
    let count = Count { document, variables };
    let selected: f64 =
        operation.selections.iter().map(|selection| count.selection(selection, 0)).sum();
    let cost = match operation.kind {
        Kind::Query => selected,
        // What a write answers is a few objects, whatever it names.
        Kind::Mutation => MUTATION + selected.min(3.0),
    };
    // A few hundred points: exact as they are.
    format!("{:.0}", cost.max(1.0)).parse().unwrap_or(COST_MAX)
}

struct Count<'a> {
    document: &'a Document,
    variables: &'a Map<String, Value>,
}

impl Count<'_> {
    fn selection(&self, selection: &Selection, depth: usize) -> f64 {
        match selection {
            Selection::Field(field) => self.field(field, depth),
            Selection::Inline(_, below) => self.all(below, depth),
            Selection::Spread(name) => {
                self.document.fragments.get(name).map_or(0.0, |below| self.all(below, depth))
            }
        }
    }

    fn all(&self, selections: &[Selection], depth: usize) -> f64 {
        if depth > DEPTH_MAX {
            return 0.0;
        }
        selections.iter().map(|selection| self.selection(selection, depth + 1)).sum()
    }

    fn field(&self, field: &Field, depth: usize) -> f64 {
        let name = field.name.as_str();
        let size = self.size(field);
        if field.selections.is_empty() {
            return 0.0;
        }
        let below = self.all(&field.selections, depth);
        if PLAIN_LISTS.contains(&name) {
            PLAIN_LIST
        } else if let Some(size) = size {
            size.powf(GROWTH) * (1.0 + below)
        } else if FREE.contains(&name) {
            below
        } else {
            1.0 + below
        }
    }

    /// Returns how many objects a field is asked for: by `first`, `last`, or a list of ids.
    fn size(&self, field: &Field) -> Option<f64> {
        let argument = |wanted: &str| {
            let (_, input) = field.arguments.iter().find(|(name, _)| name == wanted)?;
            input.value(self.variables)
        };
        let number = argument("first").or_else(|| argument("last")).and_then(|n| n.as_u64());
        let ids = argument("ids").and_then(|ids| ids.as_array().map(Vec::len));
        let size = number.or_else(|| u64::try_from(ids?).ok())?;
        u32::try_from(size).ok().map(f64::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::graphql::parse;
    use super::*;

    #[test]
    fn costs_are_close_to_what_was_recorded() {
        let ids = |count: usize| json!({"ids": vec!["gid://shopify/InventoryItem/1"; count]});
        let levels = "query($ids: [ID!]!) { nodes(ids: $ids) { ... on InventoryItem { id
            inventoryLevel(locationId: 1) { quantities(names: []) { name } } } } }";
        let table = [
            ("{ productVariants(first: 250) { nodes { id inventoryItem { id } } } }", json!({}), 13),
            (levels, ids(250), 97),
            (levels, ids(1), 15),
            (
                "{ productVariants(first: 250) { pageInfo { hasNextPage } nodes { inventoryItem { id
                 inventoryLevels(first: 10) { nodes { location { id } quantities { name } } } } } } }",
                json!({}),
                226,
            ),
            (
                "mutation { inventorySetQuantities(input: 1) { inventoryAdjustmentGroup { id }
                 userErrors { code } } }",
                json!({}),
                SET_COST,
            ),
        ];
        for (text, variables, expected) in table {
            let document = parse(text).unwrap();
            let variables = variables.as_object().unwrap();
            let cost = requested(&document.operations[0], &document, variables);
            assert_eq!(cost, expected, "{text}");
        }
    }
}
