//! Units of stock, and checked arithmetic over them.

use std::fmt;

/// The largest quantity: 2^53 − 1, the largest integer that every JSON reader keeps exactly.
pub const QUANTITY_MAX: u64 = (1 << 53) - 1;

/// A whole number of units, 0 to [`QUANTITY_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Quantity(u64);

/// A signed number of units: a change, or a level that may be below zero.
///
/// A level falls below zero when more was committed than a later count found: that many units
/// are owed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Delta(i64);

/// A sum left the range of −[`QUANTITY_MAX`] to [`QUANTITY_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the quantity would pass 2^53 − 1")]
pub struct OutOfRange;

impl Quantity {
    /// No units.
    pub const ZERO: Self = Self(0);
    /// One unit.
    pub const ONE: Self = Self(1);
    /// The most units there can be.
    pub const MAX: Self = Self(QUANTITY_MAX);

    /// Returns the quantity, unless it is above [`QUANTITY_MAX`].
    #[must_use]
    pub const fn new(units: u64) -> Option<Self> {
        if units <= QUANTITY_MAX { Some(Self(units)) } else { None }
    }

    /// Returns the units.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Returns the units as a signed number.
    #[must_use]
    pub const fn delta(self) -> Delta {
        Delta(self.0.cast_signed())
    }

    /// Returns the sum.
    ///
    /// # Errors
    /// [`OutOfRange`] above [`QUANTITY_MAX`].
    pub fn plus(self, other: Self) -> Result<Self, OutOfRange> {
        Self::new(self.0 + other.0).ok_or(OutOfRange)
    }

    /// Returns the product.
    ///
    /// # Errors
    /// [`OutOfRange`] above [`QUANTITY_MAX`].
    pub fn times(self, factor: Self) -> Result<Self, OutOfRange> {
        self.0.checked_mul(factor.0).and_then(Self::new).ok_or(OutOfRange)
    }

    /// Returns the difference, or zero where it would be below.
    #[must_use]
    pub const fn saturating_minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// Returns the change, unless its size is above [`QUANTITY_MAX`].
    #[must_use]
    pub const fn new(units: i64) -> Option<Self> {
        if units.unsigned_abs() <= QUANTITY_MAX { Some(Self(units)) } else { None }
    }

    /// Returns the units.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Returns the sum.
    ///
    /// # Errors
    /// [`OutOfRange`] when its size passes [`QUANTITY_MAX`].
    pub fn plus(self, other: Self) -> Result<Self, OutOfRange> {
        Self::new(self.0 + other.0).ok_or(OutOfRange)
    }

    /// Returns the difference.
    ///
    /// # Errors
    /// [`OutOfRange`] when its size passes [`QUANTITY_MAX`].
    pub fn minus(self, other: Self) -> Result<Self, OutOfRange> {
        Self::new(self.0 - other.0).ok_or(OutOfRange)
    }

    /// Returns the same size with the other sign.
    #[must_use]
    pub const fn negated(self) -> Self {
        Self(-self.0)
    }

    /// Returns the units as a quantity, zero where they are below zero.
    #[must_use]
    pub const fn floored(self) -> Quantity {
        if self.0 < 0 { Quantity::ZERO } else { Quantity(self.0.cast_unsigned()) }
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+}", self.0)
    }
}

impl fmt::Display for Delta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
