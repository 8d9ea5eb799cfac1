//! What the merchant set of a listing, and the settings in force that follow from it.

use trueup_core::{ChannelId, ListingKey, Location, Rules, Sku, Strategy};

use super::rules::in_force;
use crate::RuleSettings;

/// What the merchant set, of the listing and of its connection.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) channel: ChannelId,
    pub(crate) key: ListingKey,
    pub(crate) sku: Sku,
    pub(crate) channel_fulfilled: bool,
    pub(crate) follows: bool,
    pub(crate) strategy: Option<Strategy>,
    pub(crate) rules: RuleSettings,
    pub(crate) channel_strategy: Option<Strategy>,
    pub(crate) channel_rules: RuleSettings,
}

impl Settings {
    /// Returns where adopted differences are booked.
    pub(crate) fn home(&self) -> Location {
        if self.channel_fulfilled {
            return Location::of_channel(&self.channel);
        }
        let fed_by = self.rules.locations.as_deref().unwrap_or_default();
        fed_by.first().cloned().unwrap_or_else(Location::main)
    }

    /// Returns how differences are settled.
    pub(crate) fn strategy(&self) -> Strategy {
        self.strategy.or(self.channel_strategy).unwrap_or_default()
    }

    /// Returns the publishing rules in force.
    pub(crate) fn rules(&self) -> Rules {
        in_force(&self.rules, &self.channel_rules)
    }
}
