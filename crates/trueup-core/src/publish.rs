//! What a channel is told: the publishing formula.

use crate::{Location, Quantity, SkuState};

/// How the published number is made from the available one.
///
/// The terms apply in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The locations that feed the listing; `None` = all that the merchant ships from.
    pub locations: Option<Vec<Location>>,
    /// Units kept off the channel.
    pub buffer: Quantity,
    /// The share offered, 0 to 100.
    pub percent: u8,
    /// Units of the SKU in one unit of the listing, at least 1.
    pub units_per_listing: Quantity,
    /// The most that is shown.
    pub max_quantity: Option<Quantity>,
    /// Below this, zero is shown.
    pub zero_below: Quantity,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            locations: None,
            buffer: Quantity::ZERO,
            percent: 100,
            units_per_listing: Quantity::ONE,
            max_quantity: None,
            zero_below: Quantity::ZERO,
        }
    }
}

/// Every term of a published number, for those who ask why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Units on hand that feed the listing (for a bundle: whole bundles).
    pub on_hand: i64,
    /// Units held (for a bundle: 0, holds are on its parts).
    pub reserved: u64,
    /// The SKU's safety stock.
    pub safety_stock: u64,
    /// `max(0, on_hand − reserved − safety_stock)`, or the bundle's minimum over parts.
    pub available: u64,
    /// After the buffer.
    pub after_buffer: u64,
    /// After the percentage, floored.
    pub after_percent: u64,
    /// In units of the listing, floored.
    pub after_units: u64,
    /// After the maximum.
    pub after_max: u64,
    /// What the channel should be told.
    pub published: u64,
}

/// The stock that a listing draws on.
#[derive(Debug, Clone, Copy)]
pub enum Stock<'a> {
    /// A SKU with stock of its own.
    Single(&'a SkuState),
    /// A bundle with its parts, in the order of its definition; `None` = the part is unknown.
    Bundle(&'a SkuState, &'a [Option<&'a SkuState>]),
}

impl Rules {
    /// Returns whether stock at a location feeds the listing.
    #[must_use]
    pub fn feeds(&self, location: &Location) -> bool {
        match &self.locations {
            Some(locations) => locations.contains(location),
            None => !location.is_channel_fulfilled() && !location.is_quarantine(),
        }
    }

    /// Computes the published number with every term on the way.
    #[must_use]
    pub fn publish(&self, stock: Stock<'_>) -> Terms {
        let (on_hand, reserved, safety_stock, available) = match stock {
            Stock::Single(state) => {
                let totals = state.totals_where(|location| self.feeds(location));
                let available = totals.free(state.safety_stock).floored();
                let (on_hand, reserved) = (totals.on_hand.get(), totals.reserved.get());
                (on_hand, reserved, state.safety_stock.get(), available.get())
            }
            Stock::Bundle(bundle, parts) => {
                let of_part = |state: &SkuState| {
                    state.totals_where(|location| self.feeds(location)).free(state.safety_stock)
                };
                let whole = whole_bundles(bundle, parts, of_part).get();
                let available = whole.saturating_sub(bundle.safety_stock.get());
                (whole.cast_signed(), 0, bundle.safety_stock.get(), available)
            }
        };
        let after_buffer = available.saturating_sub(self.buffer.get());
        let after_percent = share(after_buffer, self.percent);
        let after_units = after_percent / self.units_per_listing.get().max(1);
        let after_max = self.max_quantity.map_or(after_units, |max| after_units.min(max.get()));
        let published = if after_max < self.zero_below.get() { 0 } else { after_max };
        Terms {
            on_hand,
            reserved,
            safety_stock,
            available,
            after_buffer,
            after_percent,
            after_units,
            after_max,
            published,
        }
    }
}

/// Returns how many whole bundles the parts make, by a count of each part's units.
#[must_use]
pub fn whole_bundles(
    bundle: &SkuState,
    parts: &[Option<&SkuState>],
    units: impl Fn(&SkuState) -> crate::Delta,
) -> Quantity {
    let of_part = |(part, state): (&crate::Part, &Option<&SkuState>)| {
        let free = state.map_or(0, |state| units(state).floored().get());
        free / part.quantity.get().max(1)
    };
    let least = bundle.parts.iter().zip(parts).map(of_part).min();
    least.and_then(Quantity::new).unwrap_or(Quantity::ZERO)
}

/// Returns `units × percent ÷ 100`, floored, without overflow.
fn share(units: u64, percent: u8) -> u64 {
    let percent = u64::from(percent.min(100));
    units / 100 * percent + units % 100 * percent / 100
}
