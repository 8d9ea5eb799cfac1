//! The names of things: newtypes parsed once, at the border.
//!
//! A value of one of these types has passed its check; nothing behind the border checks again.

use std::fmt;
use std::sync::Arc;

/// The longest SKU, in bytes of UTF-8.
pub const SKU_BYTES_MAX: usize = 255;
/// The longest org, channel, location or order id, in bytes of UTF-8.
pub const NAME_BYTES_MAX: usize = 255;

/// Why a text is not the name it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than its limit.
    #[error("must be at most {max} bytes")]
    TooLong {
        /// The limit, in bytes.
        max: usize,
    },
    /// The text holds a control character or one that this kind of name does not allow.
    #[error("must not contain the character {0:?}")]
    Illegal(char),
}

fn check_text(text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { max });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(NameError::Illegal(c)),
        None => Ok(()),
    }
}

fn check_slug(text: &str) -> Result<(), NameError> {
    check_text(text, NAME_BYTES_MAX)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@');
    match text.chars().find(|c| !legal(*c)) {
        Some(c) => Err(NameError::Illegal(c)),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text.
            ///
            /// # Errors
            /// [`NameError`] says what is wrong with it.
            pub fn new(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// A tenant: one merchant's ledger, channels and keys.
    Org,
    check_slug
);
name!(
    /// A merchant's key of a sellable variant: 1 to 255 bytes, no control characters, compared
    /// byte by byte (case counts).
    Sku,
    |text| check_text(text, SKU_BYTES_MAX)
);
name!(
    /// A place where stock stands; [`Location::main`] by default.
    Location,
    |text| check_text(text, NAME_BYTES_MAX)
);
name!(
    /// A connected account of a channel, such as `shopify-eu`.
    ChannelId,
    check_slug
);
name!(
    /// The checkout's own key of an order.
    OrderId,
    |text| check_text(text, NAME_BYTES_MAX)
);
name!(
    /// The stable key of a listing on its channel, such as a Shopify inventory item at a
    /// location. Two mappings of one channel never share one.
    ListingKey,
    |text| check_text(text, 512)
);

/// The location that stock stands at when nothing else is said.
pub const MAIN_LOCATION: &str = "main";
/// The location of units that came back and are not for sale until somebody has looked at them.
pub const QUARANTINE_LOCATION: &str = "quarantine";
/// What the location of a channel-fulfilled listing starts with; the channel's id follows.
pub const CHANNEL_LOCATION_PREFIX: &str = "channel:";

impl Location {
    /// Returns the default location, `main`.
    #[must_use]
    pub fn main() -> Self {
        Self(Arc::from(MAIN_LOCATION))
    }

    /// Returns the location of units that came back and wait to be looked at, `quarantine`.
    #[must_use]
    pub fn quarantine() -> Self {
        Self(Arc::from(QUARANTINE_LOCATION))
    }

    /// Returns whether what stands here waits to be looked at: it is on hand and held.
    #[must_use]
    pub fn is_quarantine(&self) -> bool {
        &*self.0 == QUARANTINE_LOCATION
    }

    /// Returns the location that holds what a channel itself stores and ships (Amazon FBA).
    #[must_use]
    pub fn of_channel(channel: &ChannelId) -> Self {
        Self(Arc::from(format!("{CHANNEL_LOCATION_PREFIX}{channel}")))
    }

    /// Returns whether a channel, not the merchant, ships what stands here.
    #[must_use]
    pub fn is_channel_fulfilled(&self) -> bool {
        self.0.starts_with(CHANNEL_LOCATION_PREFIX)
    }
}

/// The id of a reservation: 128 random or time-ordered bits made at the edge.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ReservationId(pub u128);

impl fmt::Display for ReservationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:032x}", Self::PREFIX, self.0)
    }
}

impl ReservationId {
    /// What its text begins with.
    pub const PREFIX: &str = "rsv_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sku_is_1_to_255_bytes_without_control_characters() {
        assert_eq!(Sku::new(""), Err(NameError::Empty));
        assert_eq!(Sku::new(&"é".repeat(128)), Err(NameError::TooLong { max: 255 }));
        assert_eq!(Sku::new("A\nB"), Err(NameError::Illegal('\n')));
        assert_eq!(Sku::new("A\u{7f}"), Err(NameError::Illegal('\u{7f}')));
        assert!(Sku::new("Größe 42/rot & 10%").is_ok());
        assert_ne!(Sku::new("a").unwrap(), Sku::new("A").unwrap());
    }

    #[test]
    fn an_org_is_a_slug() {
        assert_eq!(Org::new("a/b"), Err(NameError::Illegal('/')));
        assert!(Org::new("acme-eu_1.x").is_ok());
    }
}
