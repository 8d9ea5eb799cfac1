//! Rate budgets: one bucket of units per name, learned from what vendors document and tell.
//!
//! Pure but for the instants it is given: it says how long to wait, the caller waits.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use trueup_channels::RateHint;

/// How much of a quota is kept for zeroes and decreases, in percent.
pub(crate) const QUOTA_KEPT_PERCENT: u64 = 10;

/// The longest pause that a vendor's `Retry-After` can make.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// How long a bucket rests after a refusal that named no time.
const PAUSE_DEFAULT: Duration = Duration::from_secs(1);
/// The most a bucket that names no burst saves up, in seconds of its rate.
const BURST_SECONDS: f64 = 1.0;

/// The budgets of one connection.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    buckets: BTreeMap<&'static str, Bucket>,
}

#[derive(Debug, Clone)]
struct Bucket {
    /// `None` = no limit is known.
    rate: Option<Rate>,
    /// Nothing is sent before this.
    resting_until: Option<Instant>,
    /// `None` = no quota is known.
    quota: Option<Allowance>,
}

/// What is left of a quota of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Calls in one window.
    pub(crate) limit: u64,
    /// Calls left in this one.
    pub(crate) remaining: u64,
    /// When this one ends.
    pub(crate) resets_at: Instant,
    /// How long a window is.
    pub(crate) window: Duration,
}

impl Allowance {
    /// Begins a new window where one has ended.
    fn renew(&mut self, now: Instant) {
        if now < self.resets_at {
            return;
        }
        self.remaining = self.limit;
        let window = self.window.max(Duration::from_secs(1));
        // Windows that passed unused are passed over; each is as good as the last.
        let ended = now.duration_since(self.resets_at).as_nanos() / window.as_nanos();
        let passed = u32::try_from(ended).unwrap_or(u32::MAX).saturating_add(1);
        self.resets_at += window.saturating_mul(passed);
    }

    /// Returns how many calls a request must leave.
    fn kept(&self, urgent: bool) -> u64 {
        if urgent { 0 } else { (self.limit.saturating_mul(QUOTA_KEPT_PERCENT)).div_ceil(100) }
    }
}

/// Why a request may not go out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The rate is used up: ask again after this.
    Rate(Duration),
    /// The quota is used up, or but for what is kept for urgent requests: until its window ends.
    Quota(Duration),
}

/// What is known of a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// Units per second and units left now.
    pub(crate) rate: Option<(f64, f64)>,
    /// The quota.
    pub(crate) quota: Option<Allowance>,
}

#[derive(Debug, Clone, Copy)]
struct Rate {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    fn refill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + seconds * self.per_second).min(self.burst);
        self.at = now;
    }
}

impl Bucket {
    fn take_rate(&mut self, cost: u32, now: Instant) -> Result<(), Duration> {
        if let Some(until) = self.resting_until {
            let rest = until.saturating_duration_since(now);
            if !rest.is_zero() {
                return Err(rest);
            }
            self.resting_until = None;
        }
        let Some(rate) = &mut self.rate else { return Ok(()) };
        rate.refill(now);
        // What costs more than can ever be saved up waits for a full bucket.
        let cost = f64::from(cost).min(rate.burst);
        if rate.left >= cost {
            rate.left -= cost;
            return Ok(());
        }
        let seconds = (cost - rate.left) / rate.per_second;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(PAUSE_MAX);
        Err(wait.clamp(Duration::from_millis(1), PAUSE_MAX))
    }
}

impl Throttle {
    /// Starts with what the vendor documents.
    pub(crate) fn new(budgets: &[(&'static str, RateHint)], now: Instant) -> Self {
        let mut throttle = Self::default();
        for (name, hint) in budgets {
            throttle.learn(name, *hint, now);
        }
        throttle
    }

    /// Takes so much of a budget and one call of the quota, or says how long to wait before
    /// asking again.
    pub(crate) fn take(
        &mut self,
        bucket: &'static str,
        cost: u32,
        urgent: bool,
        now: Instant,
    ) -> Result<(), Hold> {
        let bucket = self.bucket(bucket);
        if let Some(quota) = &mut bucket.quota {
            quota.renew(now);
            if quota.remaining <= quota.kept(urgent) {
                return Err(Hold::Quota(quota.resets_at.saturating_duration_since(now)));
            }
        }
        bucket.take_rate(cost, now).map_err(Hold::Rate)?;
        if let Some(quota) = &mut bucket.quota {
            quota.remaining -= 1;
        }
        Ok(())
    }

    /// Returns whether a budget has room for one request; nothing is taken of it.
    pub(crate) fn has_room(&self, bucket: &'static str, now: Instant) -> bool {
        self.buckets.get(bucket).is_none_or(|bucket| bucket.clone().take_rate(1, now).is_ok())
    }

    /// Notes what the vendor told of a quota.
    pub(crate) fn allow(&mut self, bucket: &'static str, quota: Allowance) {
        self.bucket(bucket).quota = Some(quota);
    }

    /// Notes what the vendor told of a budget.
    pub(crate) fn learn(&mut self, bucket: &'static str, hint: RateHint, now: Instant) {
        let usable = hint.per_second.is_finite() && hint.per_second > 0.0;
        if !usable {
            return;
        }
        let bucket = self.bucket(bucket);
        let known = bucket.rate.map(|rate| rate.burst);
        let told = hint.burst.filter(|burst| burst.is_finite() && *burst >= 1.0);
        let saved = (hint.per_second * BURST_SECONDS).max(1.0);
        let burst = told.or(known).unwrap_or(saved);
        let mut rate = bucket.rate.unwrap_or(Rate {
            per_second: hint.per_second,
            burst,
            left: burst,
            at: now,
        });
        rate.refill(now);
        rate.per_second = hint.per_second;
        rate.burst = burst;
        rate.left = hint.remaining.filter(|left| left.is_finite()).unwrap_or(rate.left);
        rate.left = rate.left.min(burst);
        bucket.rate = Some(rate);
    }

    /// Lets a bucket rest, because the vendor said that it was too much.
    pub(crate) fn rest(
        &mut self,
        bucket: &'static str,
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let rest = retry_after.unwrap_or(PAUSE_DEFAULT).min(PAUSE_MAX);
        let bucket = self.bucket(bucket);
        let until = now + rest;
        bucket.resting_until = Some(bucket.resting_until.map_or(until, |known| known.max(until)));
        if let Some(rate) = &mut bucket.rate {
            rate.refill(now);
            rate.left = rate.left.min(0.0);
        }
    }

    /// Returns what is known of each bucket.
    pub(crate) fn figures(&self, now: Instant) -> BTreeMap<String, Figure> {
        let figures = self.buckets.iter().filter_map(|(name, bucket)| {
            let rate = bucket.rate.map(|mut rate| {
                rate.refill(now);
                (rate.per_second, rate.left)
            });
            let quota = bucket.quota.map(|mut quota| {
                quota.renew(now);
                quota
            });
            let figure = Figure { rate, quota };
            (rate.is_some() || quota.is_some()).then(|| ((*name).to_owned(), figure))
        });
        figures.collect()
    }

    fn bucket(&mut self, name: &'static str) -> &mut Bucket {
        self.buckets.entry(name).or_insert(Bucket { rate: None, resting_until: None, quota: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(per_second: f64, burst: f64) -> RateHint {
        RateHint { per_second, burst: Some(burst), remaining: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&[("patch", hint(5.0, 2.0))], start);
        assert_eq!(throttle.take("patch", 1, false, start), Ok(()));
        assert_eq!(throttle.take("patch", 1, false, start), Ok(()));
        assert_eq!(
            throttle.take("patch", 1, false, start),
            Err(Hold::Rate(Duration::from_millis(200)))
        );
        let later = start + Duration::from_millis(200);
        assert_eq!(throttle.take("patch", 1, false, later), Ok(()));
        assert_eq!(throttle.take("free", 1_000, false, start), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cost_above_the_burst_is_let_through_by_a_full_bucket() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&[("graphql", hint(100.0, 50.0))], start);
        assert_eq!(throttle.take("graphql", 80, false, start), Ok(()));
        assert_eq!(
            throttle.take("graphql", 80, false, start),
            Err(Hold::Rate(Duration::from_millis(500)))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_vendor_tells_beats_what_it_documents() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&[("graphql", hint(100.0, 2_000.0))], start);
        let told = RateHint { per_second: 50.0, burst: Some(1_000.0), remaining: Some(10.0) };
        throttle.learn("graphql", told, start);
        assert_eq!(
            throttle.take("graphql", 60, false, start),
            Err(Hold::Rate(Duration::from_secs(1)))
        );
        assert_eq!(throttle.figures(start)["graphql"].rate, Some((50.0, 10.0)));
        throttle.learn("graphql", hint(f64::NAN, 1.0), start);
        assert_eq!(throttle.figures(start)["graphql"].rate, Some((50.0, 10.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_lets_the_bucket_rest() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        throttle.rest("orders", Some(Duration::from_secs(3)), start);
        assert_eq!(
            throttle.take("orders", 1, false, start),
            Err(Hold::Rate(Duration::from_secs(3)))
        );
        assert_eq!(throttle.take("orders", 1, false, start + Duration::from_secs(3)), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_tenth_of_a_quota_is_kept_for_what_is_urgent() {
        let start = Instant::now();
        let (window, left) = (Duration::from_secs(86_400), Duration::from_secs(600));
        let resets_at = start + left;
        let mut throttle = Throttle::default();
        throttle.allow("inventory", Allowance { limit: 50, remaining: 7, resets_at, window });
        let mut take = |urgent, now| throttle.take("inventory", 1, urgent, now);
        assert_eq!([take(false, start), take(false, start)], [Ok(()), Ok(())]);
        assert_eq!(take(false, start), Err(Hold::Quota(left)), "five are kept");
        for _ in 0..5 {
            assert_eq!(take(true, start), Ok(()));
        }
        assert_eq!(take(true, start), Err(Hold::Quota(left)), "none is left");
        let figure = throttle.figures(start)["inventory"];
        assert_eq!(figure.quota.map(|quota| (quota.limit, quota.remaining)), Some((50, 0)));
        // Three windows later there is a whole one.
        let later = resets_at + window * 2;
        assert_eq!(throttle.take("inventory", 1, false, later), Ok(()));
        let quota = throttle.figures(later)["inventory"].quota.unwrap();
        assert_eq!((quota.remaining, quota.resets_at), (49, later + window));
        // What waits for the rate takes nothing of the quota.
        throttle.learn("inventory", hint(1.0, 1.0), later);
        assert_eq!(throttle.take("inventory", 1, false, later), Ok(()));
        assert!(matches!(throttle.take("inventory", 1, false, later), Err(Hold::Rate(_))));
        assert_eq!(throttle.figures(later)["inventory"].quota.unwrap().remaining, 48);
    }

    #[tokio::test(start_paused = true)]
    async fn ebays_short_term_limits_hold_in_every_window() {
        let start = Instant::now();
        let budgets = trueup_channels::kind("ebay").unwrap().budgets();
        let window = Duration::from_secs(15);
        for (bucket, calls_max) in [("trading", 6_000), ("trading.list", 300)] {
            let mut throttle = Throttle::new(budgets, start);
            let mut now = start;
            let mut sent: std::collections::VecDeque<Instant> = [].into();
            // As fast as it goes for a minute, after a rest, and after a rest in between.
            for _ in 0..60_000 {
                match throttle.take(bucket, 1, false, now) {
                    Ok(()) => sent.push_back(now),
                    Err(Hold::Rate(wait)) => now += wait,
                    Err(Hold::Quota(_)) => unreachable!("there is no quota"),
                }
                if sent.len() % 1_000 == 999 {
                    now += Duration::from_secs(2);
                }
                while sent.front().is_some_and(|first| now.duration_since(*first) >= window) {
                    sent.pop_front();
                }
                assert!(sent.len() <= calls_max, "{bucket}: {} calls in 15 s", sent.len());
            }
        }
    }
}
