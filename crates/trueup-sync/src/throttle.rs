//! Rate budgets: one bucket of units per name, learned from what vendors document and tell.
//!
//! Pure but for the instants it is given: it says how long to wait, the caller waits.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use trueup_channels::RateHint;

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

impl Throttle {
    /// Starts with what the vendor documents.
    pub(crate) fn new(budgets: &[(&'static str, RateHint)], now: Instant) -> Self {
        let mut throttle = Self::default();
        for (name, hint) in budgets {
            throttle.learn(name, *hint, now);
        }
        throttle
    }

    /// Takes so much of a budget, or says how long to wait before asking again.
    pub(crate) fn take(
        &mut self,
        bucket: &'static str,
        cost: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let bucket = self.bucket(bucket);
        if let Some(until) = bucket.resting_until {
            let rest = until.saturating_duration_since(now);
            if !rest.is_zero() {
                return Err(rest);
            }
            bucket.resting_until = None;
        }
        let Some(rate) = &mut bucket.rate else { return Ok(()) };
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

    /// Returns the budgets by name: units per second, and units left now.
    pub(crate) fn figures(&self, now: Instant) -> BTreeMap<String, (f64, Option<f64>)> {
        let figures = self.buckets.iter().filter_map(|(name, bucket)| {
            let mut rate = bucket.rate?;
            rate.refill(now);
            Some(((*name).to_owned(), (rate.per_second, Some(rate.left))))
        });
        figures.collect()
    }

    fn bucket(&mut self, name: &'static str) -> &mut Bucket {
        self.buckets.entry(name).or_insert(Bucket { rate: None, resting_until: None })
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
        assert_eq!(throttle.take("patch", 1, start), Ok(()));
        assert_eq!(throttle.take("patch", 1, start), Ok(()));
        assert_eq!(throttle.take("patch", 1, start), Err(Duration::from_millis(200)));
        let later = start + Duration::from_millis(200);
        assert_eq!(throttle.take("patch", 1, later), Ok(()));
        assert_eq!(throttle.take("free", 1_000, start), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cost_above_the_burst_is_let_through_by_a_full_bucket() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&[("graphql", hint(100.0, 50.0))], start);
        assert_eq!(throttle.take("graphql", 80, start), Ok(()));
        assert_eq!(throttle.take("graphql", 80, start), Err(Duration::from_millis(500)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_vendor_tells_beats_what_it_documents() {
        let start = Instant::now();
        let mut throttle = Throttle::new(&[("graphql", hint(100.0, 2_000.0))], start);
        let told = RateHint { per_second: 50.0, burst: Some(1_000.0), remaining: Some(10.0) };
        throttle.learn("graphql", told, start);
        assert_eq!(throttle.take("graphql", 60, start), Err(Duration::from_secs(1)));
        assert_eq!(throttle.figures(start)["graphql"], (50.0, Some(10.0)));
        throttle.learn("graphql", hint(f64::NAN, 1.0), start);
        assert_eq!(throttle.figures(start)["graphql"].0.to_bits(), 50.0_f64.to_bits());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_lets_the_bucket_rest() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        throttle.rest("orders", Some(Duration::from_secs(3)), start);
        assert_eq!(throttle.take("orders", 1, start), Err(Duration::from_secs(3)));
        assert_eq!(throttle.take("orders", 1, start + Duration::from_secs(3)), Ok(()));
    }
}
