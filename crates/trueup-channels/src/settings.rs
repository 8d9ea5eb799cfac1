//! Reading a connection's settings: every wrong or missing one is collected, none stops the next.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::port::{Secret, SettingError, Settings};

/// The longest setting or listing field, in bytes.
const SETTING_BYTES_MAX: usize = 4_096;
/// The most entries in a list of settings.
const SETTING_ENTRIES_MAX: usize = 50;

/// Reads settings one by one and keeps what is wrong with them.
pub(crate) struct Reader<'a> {
    settings: &'a Settings,
    errors: Vec<SettingError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(settings: &'a Settings) -> Self {
        Self { settings, errors: Vec::new() }
    }

    /// Notes that a setting is wrong.
    pub(crate) fn fail(&mut self, setting: &str, detail: impl Into<String>) {
        self.errors.push(SettingError { setting: setting.to_owned(), detail: detail.into() });
    }

    /// Returns a text setting; numbers are taken as their digits, since ids often are both.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = match self.settings.fields.get(name)? {
            Value::Null => return None,
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
                self.fail(name, "must be a text");
                return None;
            }
        };
        self.checked(name, text)
    }

    /// Returns a text setting that must be there.
    pub(crate) fn required_text(&mut self, name: &str) -> String {
        let known = self.errors.len();
        let text = self.text(name);
        if text.is_none() && self.errors.len() == known {
            self.fail(name, "is required");
        }
        text.unwrap_or_default()
    }

    /// Returns whether a setting is switched on; absent is off.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        match self.settings.fields.get(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(on)) => *on,
            Some(_) => {
                self.fail(name, "must be true or false");
                false
            }
        }
    }

    /// Returns a list of texts that must have an entry; a single text is a list of one.
    pub(crate) fn required_texts(&mut self, name: &str) -> Vec<String> {
        let entries: Vec<Value> = match self.settings.fields.get(name) {
            Some(Value::Array(entries)) => entries.clone(),
            Some(text @ Value::String(_)) => vec![text.clone()],
            Some(_) | None => Vec::new(),
        };
        let texts: Vec<String> = entries
            .iter()
            .filter_map(Value::as_str)
            .map(str::trim)
            .filter(|text| !text.is_empty() && text.len() <= SETTING_BYTES_MAX)
            .map(str::to_owned)
            .collect();
        if texts.is_empty() || texts.len() != entries.len() {
            self.fail(name, "must be a list of texts with at least one entry");
        } else if texts.len() > SETTING_ENTRIES_MAX {
            self.fail(name, format!("must have at most {SETTING_ENTRIES_MAX} entries"));
        }
        texts
    }

    /// Returns a credential.
    pub(crate) fn secret(&mut self, name: &str) -> Option<Secret> {
        let secret = self.settings.credentials.get(name)?;
        let text = secret.expose();
        if text.is_empty() {
            return None;
        }
        // It goes into headers, forms and MACs: control characters are a pasting mistake.
        if text.len() > SETTING_BYTES_MAX || text.chars().any(char::is_control) {
            self.fail(&format!("credentials.{name}"), "is too long or has control characters");
            return None;
        }
        Some(secret.clone())
    }

    /// Returns a credential that must be there.
    pub(crate) fn required_secret(&mut self, name: &str) -> Secret {
        let known = self.errors.len();
        let secret = self.secret(name);
        if secret.is_none() && self.errors.len() == known {
            self.fail(&format!("credentials.{name}"), "is required");
        }
        secret.unwrap_or_default()
    }

    /// Returns the value when nothing was wrong.
    pub(crate) fn finish<T>(self, value: T) -> Result<T, Vec<SettingError>> {
        if self.errors.is_empty() { Ok(value) } else { Err(self.errors) }
    }

    fn checked(&mut self, name: &str, text: String) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        if text.len() > SETTING_BYTES_MAX || text.chars().any(char::is_control) {
            self.fail(name, "is too long or has control characters");
            return None;
        }
        Some(text)
    }
}

/// Trims a mapping's listing fields, drops empty ones and names those that the kind has not.
pub(crate) fn listing_fields(
    fields: BTreeMap<String, String>,
    known: &[&str],
    errors: &mut Vec<SettingError>,
) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for (name, text) in fields {
        let trimmed = text.trim();
        if !known.contains(&name.as_str()) {
            let detail = format!("is not a field of this kind: {}", known.join(", "));
            errors.push(SettingError { setting: name, detail });
        } else if trimmed.len() > SETTING_BYTES_MAX || trimmed.chars().any(char::is_control) {
            let detail = "is too long or has control characters".to_owned();
            errors.push(SettingError { setting: name, detail });
        } else if !trimmed.is_empty() {
            kept.insert(name, trimmed.to_owned());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use trueup_core::ListingKey;

    use super::*;

    fn settings(fields: Value, refresh_token: &str) -> Settings {
        let token = ("refreshToken".to_owned(), Secret::new(refresh_token));
        let fields = serde_json::from_value(fields).unwrap();
        Settings { fields, credentials: BTreeMap::from([token]) }
    }

    #[test]
    fn one_number_of_an_account_has_one_scope_and_no_secret() {
        let scope = |kind: &str, fields: Value, token: &str, key: &str| {
            let kind = crate::kind(kind).unwrap();
            let scope = kind.scope(&settings(fields, token), &ListingKey::new(key).unwrap());
            assert!(!scope.clone().unwrap_or_default().contains(token), "{scope:?}");
            scope
        };
        let shop = |shop: &str, key: &str| scope("shopify", json!({ "shop": shop }), "t0", key);
        assert_eq!(shop("Acme", "1@2"), shop("https://acme.myshopify.com/", "1@2"));
        assert_ne!(shop("acme", "1@2"), shop("acme", "1@3"));
        assert_ne!(shop("acme", "1@2"), shop("other", "1@2"));
        assert_eq!(shop("no shop", "1@2"), None);
        let amazon = |region: &str, seller: &str, places: &[&str]| {
            let fields = json!({"region": region, "sellerId": seller, "marketplaceIds": places});
            scope("amazon", fields, "t0", "SKU")
        };
        assert_eq!(amazon("EU", "S", &["A1"]), amazon("eu", "S", &["A2", "A3"]));
        assert_ne!(amazon("eu", "S", &["A1"]), amazon("na", "S", &["A1"]));
        assert_ne!(amazon("eu", "S", &["A1"]), amazon("eu", "T", &["A1"]));
        let ebay = |token: &str, marketplace: &str, key: &str| {
            scope("ebay", json!({ "marketplaceId": marketplace }), token, key)
        };
        assert_eq!(ebay("token-1", "EBAY_US", "sku:A"), ebay("token-1", "EBAY_US", "sku:A"));
        // The offers on all marketplaces are told with their item; a Trading listing is one.
        assert_eq!(ebay("token-1", "EBAY_US", "sku:A"), ebay("token-1", "EBAY_DE", "sku:A"));
        assert_ne!(ebay("token-1", "EBAY_US", "sku:A"), ebay("token-1", "EBAY_US", "sku:B"));
        assert_eq!(ebay("token-1", "EBAY_US", "item:1"), ebay("token-1", "EBAY_DE", "item:1"));
        assert_ne!(ebay("token-1", "EBAY_US", "sku:A"), ebay("token-2", "EBAY_US", "sku:A"));
    }

    #[test]
    fn every_wrong_setting_is_named_at_once() {
        let settings = Settings {
            fields: BTreeMap::from([("list".to_owned(), Value::from(vec!["a", ""]))]),
            credentials: BTreeMap::from([("key".to_owned(), Secret::new("a\nb"))]),
        };
        let mut reader = Reader::new(&settings);
        reader.required_text("name");
        reader.required_texts("list");
        reader.required_secret("key");
        reader.required_secret("other");
        let named: Vec<String> =
            reader.finish(()).unwrap_err().into_iter().map(|error| error.setting).collect();
        assert_eq!(named, ["name", "list", "credentials.key", "credentials.other"]);
    }
}
