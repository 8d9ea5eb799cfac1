//! Reading all listings although a search gives no more than its first thousand: by windows of
//! the time in which listings were made. A window that holds too many is halved, the next one
//! may be twice as long.
//!
//! Where a sweep stands is written into its cursor, in whole seconds: nothing is kept here.
//! <https://github.com/amzn/selling-partner-api-models/issues/4544>

use trueup_core::Timestamp;

use super::wire::CataloguePage;
use crate::port::{CatalogueEntry, ChannelError, ChannelErrorKind, Page};

/// A search that finds so many listings or more shows the first ones only.
const RESULTS_MAX: u64 = 1_000;
/// How often one page may narrow its window: from 32 years to a second is 30 times.
pub(super) const HALVINGS_MAX: usize = 32;
/// No listing is older: 1 January 1995, in seconds since 1970.
const OLDEST: i64 = 788_918_400;
/// How far the vendor's clock may be ahead of ours.
const AHEAD_SECONDS: i64 = 3_600;
const MICROS: i64 = 1_000_000;
const PREFIX: &str = "made:";

/// Listings made from one second up to another, which is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    from: i64,
    to: i64,
    /// Where the sweep ends.
    end: i64,
}

impl Window {
    /// Returns the first and the last instant of it. Whole seconds begin windows and none ends
    /// one, so that it does not matter whether Amazon counts the ends in.
    pub(super) fn made(self) -> (Timestamp, Timestamp) {
        let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(MICROS));
        (at(self.from), at(self.to).plus_millis(-1))
    }

    fn halved(self) -> Option<Self> {
        let length = (self.to - self.from) / 2;
        (length > 0).then_some(Self { to: self.from + length, ..self })
    }

    fn next(self) -> Option<Self> {
        let length = (self.to - self.from).saturating_mul(2);
        let to = self.to.saturating_add(length).min(self.end);
        (self.to < self.end).then_some(Self { from: self.to, to, ..self })
    }
}

/// Where a sweep stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sweep {
    /// `None` = all listings at once, which does for most sellers.
    pub(super) window: Option<Window>,
    /// Amazon's token of the page; `None` = the first one.
    pub(super) page: Option<String>,
}

impl Sweep {
    pub(super) fn read(cursor: Option<&str>) -> Result<Self, ChannelError> {
        let Some(text) = cursor else { return Ok(Self { window: None, page: None }) };
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Ok(Self { window: None, page: Some(text.to_owned()) });
        };
        let broken = || ChannelError::new(ChannelErrorKind::Bug, "a cursor that we did not make");
        let mut parts = rest.splitn(4, ':');
        let mut second = || parts.next()?.parse::<i64>().ok();
        let window = (|| Some(Window { from: second()?, to: second()?, end: second()? }))();
        let window = window.filter(|window| window.from < window.to).ok_or_else(broken)?;
        let page = parts.next().filter(|page| !page.is_empty()).map(str::to_owned);
        Ok(Self { window: Some(window), page })
    }

    fn cursor(&self) -> Option<String> {
        let page = self.page.as_deref();
        match self.window {
            None => page.map(str::to_owned),
            Some(Window { from, to, end }) => {
                Some(format!("{PREFIX}{from}:{to}:{end}:{}", page.unwrap_or_default()))
            }
        }
    }

    /// Returns the sweep by a shorter window, where this one finds too many and can be cut.
    pub(super) fn narrower(&self, results: u64, now: Timestamp) -> Option<Self> {
        if results < RESULTS_MAX {
            return None;
        }
        let window = match self.window {
            Some(window) => window.halved()?,
            None => {
                // Amazon's clock may be ahead of ours.
                let end = now.micros() / MICROS + AHEAD_SECONDS;
                Window { from: OLDEST, to: end, end }
            }
        };
        Some(Self { window: Some(window), page: None })
    }

    /// Returns the page with the cursor of what comes after it. A token that leads to itself
    /// ends the window, or the sweep.
    pub(super) fn turn(self, page: CataloguePage) -> Page<CatalogueEntry> {
        let next = page.next.filter(|next| self.page.as_ref() != Some(next));
        let after = match (next, self.window) {
            (Some(next), window) => Some(Self { window, page: Some(next) }),
            (None, Some(window)) => {
                window.next().map(|window| Self { window: Some(window), page: None })
            }
            (None, None) => None,
        };
        Page { items: page.items, next: after.and_then(|after| after.cursor()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(results: u64, next: Option<&str>) -> CataloguePage {
        CataloguePage { items: Vec::new(), next: next.map(str::to_owned), results }
    }

    #[test]
    fn a_sweep_survives_its_cursor() {
        for cursor in ["t/2", "made:1:9:20:", "made:1:9:20:a:b"] {
            assert_eq!(Sweep::read(Some(cursor)).unwrap().cursor().as_deref(), Some(cursor));
        }
        assert_eq!(Sweep::read(None).unwrap().cursor(), None);
        for broken in ["made:", "made:1:1:2:", "made:x:2:3:"] {
            assert!(Sweep::read(Some(broken)).is_err(), "{broken}");
        }
    }

    #[test]
    fn windows_are_halved_and_leave_no_gap() {
        let now = Timestamp::from_micros((OLDEST + 8 - AHEAD_SECONDS) * MICROS);
        let all = Sweep::read(None).unwrap();
        assert_eq!(all.narrower(999, now), None);
        let whole = all.narrower(1_000, now).unwrap();
        let first = whole.narrower(5_000, now).unwrap().narrower(1_000, now).unwrap();
        let of = |sweep: &Sweep| sweep.window.map(|w| (w.from - OLDEST, w.to - OLDEST)).unwrap();
        assert_eq!((of(&whole), of(&first)), ((0, 8), (0, 2)));
        let mut seen = vec![of(&first)];
        let mut cursor = first.turn(page(3, None)).next;
        while let Some(text) = cursor {
            let sweep = Sweep::read(Some(&text)).unwrap();
            seen.push(of(&sweep));
            cursor = sweep.turn(page(3, None)).next;
        }
        assert_eq!(seen, [(0, 2), (2, 6), (6, 8)]);
        let second = Window { from: 5, to: 6, end: 6 };
        let single = Sweep { window: Some(second), page: None };
        assert_eq!(single.narrower(1_000, now), None, "a second is not cut");
    }
}
