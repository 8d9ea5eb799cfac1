//! What a listing should be told, and in which order: pure functions over a listing's view.

use sha2::{Digest, Sha256};
use trueup_channels::Capabilities;
use trueup_core::{ChannelId, ListingPush, Location, Quantity, Terms, Timestamp};
use trueup_store::{ListingView, Parked};

/// The order in which listings are sent: what could be oversold goes first (I7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Nothing is left to sell.
    Zero,
    /// The channel shows more than it should.
    Decrease,
    /// The channel shows less than it should, or it is not known what it shows.
    Increase,
}

impl Lane {
    /// Every lane, in order.
    pub(crate) const ALL: [Self; 3] = [Self::Zero, Self::Decrease, Self::Increase];

    /// Returns its place in the order.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Zero => 0,
            Self::Decrease => 1,
            Self::Increase => 2,
        }
    }
}

/// A listing's place in the order of pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) lane: Lane,
    /// How far it is from zero: what it shows or what it should, whichever is less.
    pub(crate) distance: u64,
    /// Whether it is so near that it never goes the bulk way.
    pub(crate) is_near: bool,
}

impl Turn {
    /// The place of a listing of which no more is known: ahead of others of its lane.
    pub(crate) fn first_of(lane: Lane) -> Self {
        Self { lane, distance: 0, is_near: false }
    }

    /// The place of a listing that needs no sending: behind others of its lane.
    pub(crate) fn last_of(lane: Lane) -> Self {
        Self { lane, distance: u64::MAX, is_near: false }
    }
}

/// Why a listing is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skip {
    /// The SKU is not in the ledger.
    UnknownSku,
    /// The mapping is switched off.
    Disabled,
    /// The channel itself ships it.
    ChannelFulfilled,
    /// Another listing shows the same number and is the one that is told it.
    Shared,
    /// An operator decides first.
    Conflict,
    /// An operator paused the SKU, or everything.
    Paused,
    /// It was refused for good.
    Parked,
    /// Nothing is owed.
    NotOwed,
    /// The connection only computes.
    DryRun,
    /// A raise waits until the channel's orders have been heard.
    WaitsForOrders,
    /// The vendor's day has few revisions of this listing left, or few calls.
    Postponed,
    /// It is in a bulk batch that the vendor has not processed yet.
    InFeed,
}

impl Skip {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSku => "sku_not_found",
            Self::Disabled => "disabled",
            Self::ChannelFulfilled => "channel_fulfilled",
            Self::Shared => "shared",
            Self::Conflict => "conflict",
            Self::Paused => "paused",
            Self::Parked => "parked",
            Self::NotOwed => "not_owed",
            Self::DryRun => "dry_run",
            Self::WaitsForOrders => "waits_for_orders",
            Self::Postponed => "postponed",
            Self::InFeed => "in_feed",
        }
    }
}

/// Who wants the push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// The listing itself owes it.
    Owed,
    /// Somebody wants the channel to show it: sent unless it is shown or on its way already;
    /// parked listings are tried again.
    Due,
    /// Somebody asked for it, owed or not; parked listings are tried again.
    Asked,
    /// Somebody asked for this number.
    Exactly(Quantity),
    /// Somebody wants it to show this number again, or as much of it as there is.
    AtMost(Quantity),
}

/// What to do about one listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nothing.
    Skip(Skip),
    /// Note that the channel shows the number of the newest version already.
    Shown(ListingPush),
    /// Note that the number of the newest version is on its way already.
    OnItsWay(ListingPush),
    /// Read first: an unclear push of another number may have been applied.
    ReadFirst,
    /// Send.
    Send(Sending),
}

/// A push to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sending {
    /// What to send and from which version.
    pub(crate) push: ListingPush,
    /// The same number, unsigned.
    pub(crate) quantity: u64,
    /// What the channel is believed to show now.
    pub(crate) expected_before: Option<i64>,
    /// Its place in the order.
    pub(crate) turn: Turn,
}

/// Returns every term of what a listing should show; `None` where the SKU is not in the ledger.
pub(crate) fn terms(view: &ListingView) -> Option<Terms> {
    Some(view.sku.as_ref()?.publish(&view.state.rules))
}

/// Returns what a listing should show, as far as its channel can show it.
pub(crate) fn expected(view: &ListingView, quantity_max: u64) -> Option<i64> {
    if view.mapping.channel_fulfilled {
        // What the channel ships itself stands in a place of its own, as it was last read.
        let place = Location::of_channel(&view.mapping.channel);
        let level = view.sku.as_ref()?.state.level(&place);
        return Some(level.map_or(0, |level| level.on_hand.get()));
    }
    let published = terms(view)?.published.min(quantity_max);
    Some(i64::try_from(published).unwrap_or(i64::MAX))
}

/// Returns how many units of a listing there are to sell, whatever is kept off its channel.
pub(crate) fn available(view: &ListingView) -> u64 {
    let per_listing = view.state.rules.units_per_listing.get().max(1);
    terms(view).map_or(0, |terms| terms.available / per_listing)
}

/// Returns on hand of a listing's SKU; for a bundle, whole bundles.
pub(crate) fn master(view: &ListingView) -> i64 {
    let Some(answer) = &view.sku else { return 0 };
    if !answer.state.is_bundle() {
        return answer.state.totals().on_hand.get();
    }
    let parts: Vec<_> = answer.parts.iter().map(Option::as_ref).collect();
    let units = |part: &trueup_core::SkuState| part.totals().on_hand;
    trueup_core::publish::whole_bundles(&answer.state, &parts, units).delta().get()
}

/// Returns why a listing cannot be told anything, whoever asks.
pub(crate) fn barred(view: &ListingView) -> Option<Skip> {
    if view.sku.is_none() {
        Some(Skip::UnknownSku)
    } else if !view.mapping.enabled {
        Some(Skip::Disabled)
    } else if view.mapping.channel_fulfilled {
        Some(Skip::ChannelFulfilled)
    } else if view.state.follows {
        Some(Skip::Shared)
    } else if view.state.in_conflict {
        Some(Skip::Conflict)
    } else if view.paused {
        Some(Skip::Paused)
    } else {
        None
    }
}

/// Returns whether a parked listing may be tried again by itself: its value was refused, and
/// the value has changed since.
pub(crate) fn is_parked(view: &ListingView) -> bool {
    let Some(parked) = &view.parked else { return false };
    let changed = view.sku.as_ref().is_some_and(|sku| sku.state.updated_at > parked.at);
    !(parked.code == "invalid_value" && changed)
}

/// Returns whether the push in flight was taken by the channel, so that only a reading is
/// missing; otherwise its outcome is unclear.
pub(crate) fn is_accepted(view: &ListingView) -> bool {
    let (Some(sent), Some(acked_at)) = (view.state.in_flight, view.state.acked_at) else {
        return false;
    };
    acked_at >= sent.at && !view.state.forced
}

/// Returns whether a notice shows what the channel was last told, so that it is no news.
pub(crate) fn is_echo(view: &ListingView, shows: Option<i64>) -> bool {
    let state = &view.state;
    let told = state.in_flight.map_or(state.base, |sent| Some(sent.quantity));
    shows.is_some() && shows == told && !state.in_conflict && !view.mapping.channel_fulfilled
}

/// Decides what to do about one listing.
pub(crate) fn plan(view: &ListingView, wish: Wish, capabilities: &Capabilities) -> Plan {
    if let Some(skip) = barred(view) {
        return Plan::Skip(skip);
    }
    if wish == Wish::Owed && is_parked(view) {
        return Plan::Skip(Skip::Parked);
    }
    let Some(computed) = expected(view, capabilities.quantity_max) else {
        return Plan::Skip(Skip::UnknownSku);
    };
    let units =
        |units: u64| i64::try_from(units.min(capabilities.quantity_max)).unwrap_or(i64::MAX);
    let number = match wish {
        Wish::Owed | Wish::Due | Wish::Asked => computed,
        Wish::Exactly(quantity) => units(quantity.get()),
        Wish::AtMost(quantity) => units(quantity.get().min(available(view))),
    };
    let state = &view.state;
    let version = view.sku.as_ref().map_or(0, |sku| sku.state.version);
    let push =
        ListingPush { key: state.key.clone(), quantity: number, version, epoch: state.epoch };
    let owed = view.is_dirty() || (wish != Wish::Owed);
    let unless_shown = matches!(wish, Wish::Owed | Wish::Due | Wish::AtMost(_));
    match state.in_flight {
        // Who asks for a push may know better what the channel shows.
        None if unless_shown && state.base == Some(number) && state.is_base_sure() => {
            return Plan::Shown(push);
        }
        None if !owed => return Plan::Skip(Skip::NotOwed),
        None => {}
        Some(sent) if unless_shown && is_accepted(view) && sent.quantity == number => {
            return Plan::OnItsWay(push);
        }
        Some(_) if !owed && is_accepted(view) => return Plan::Skip(Skip::NotOwed),
        // The same request again meets the same token; a different one is sent only when it is
        // clear what the channel shows, where the channel compares. Without a base, what is
        // compared with would be another, and so would be the request.
        Some(sent)
            if capabilities.compare_and_set
                && (sent.quantity != number || sent.version != version || state.base.is_none()) =>
        {
            return Plan::ReadFirst;
        }
        Some(_) => {}
    }
    let shown = match (state.base, state.in_flight) {
        (Some(base), Some(sent)) => Some(base.max(sent.quantity)),
        (Some(base), None) => Some(base),
        (None, _) => None,
    };
    // It may show more than that.
    let shown = if state.is_base_sure() { shown } else { Some(i64::MAX) };
    Plan::Send(Sending {
        quantity: u64::try_from(number).unwrap_or(0),
        push,
        expected_before: state.base,
        turn: turn(number, shown, capabilities.bulk_above),
    })
}

fn turn(number: i64, shown: Option<i64>, bulk_above: u64) -> Turn {
    let units = |number: i64| u64::try_from(number).unwrap_or(0);
    let distance = units(shown.map_or(number, |shown| shown.min(number)));
    Turn { lane: lane(number, shown), distance, is_near: units(number) <= bulk_above }
}

fn lane(number: i64, shown: Option<i64>) -> Lane {
    match shown {
        _ if number == 0 => Lane::Zero,
        Some(shown) if number < shown => Lane::Decrease,
        Some(_) | None => Lane::Increase,
    }
}

/// Returns whether a raise is safe: the channel's orders were heard after it was wanted, and
/// lately. Otherwise units that it has sold meanwhile would be put up for sale again.
pub(crate) fn may_raise(
    wanted_at: Timestamp,
    heard_at: Option<Timestamp>,
    now: Timestamp,
    fresh_ms_max: i64,
) -> bool {
    heard_at
        .is_some_and(|heard_at| heard_at >= wanted_at && now < heard_at.plus_millis(fresh_ms_max))
}

/// Makes the idempotency token of a batch (I8): of the channel and of each listing's key,
/// version, count of refusals and last acknowledgement, never of a quantity.
///
/// The last acknowledgement keeps two pushes of one version apart when settings changed the
/// number in between; after an unclear outcome all of these stand still, and so does the token.
pub(crate) fn token(channel: &ChannelId, run: Option<&str>, items: &[TokenPart<'_>]) -> String {
    let mut hash = Sha256::new();
    let mut text = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    text(channel.as_str().as_bytes());
    text(run.unwrap_or("").as_bytes());
    for item in items {
        text(item.key.as_bytes());
        text(&item.version.to_be_bytes());
        text(&item.epoch.to_be_bytes());
        text(&item.acked_at.map_or(0, Timestamp::micros).to_be_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// What a token is made of, for one listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenPart<'a> {
    pub(crate) key: &'a str,
    pub(crate) version: u64,
    pub(crate) epoch: u32,
    pub(crate) acked_at: Option<Timestamp>,
}

/// Makes the note that a listing is parked.
pub(crate) fn parked(error: &trueup_channels::ChannelError, at: Timestamp) -> Parked {
    Parked { code: error_code(error.kind).to_owned(), detail: error.detail.clone(), at }
}

/// Returns the stable word of a channel's error.
pub(crate) fn error_code(kind: trueup_channels::ChannelErrorKind) -> &'static str {
    use trueup_channels::ChannelErrorKind as Kind;
    match kind {
        Kind::Transient => "transient",
        Kind::Throttled => "throttled",
        Kind::Auth => "auth",
        Kind::Forbidden => "forbidden",
        Kind::AccountBlocked => "account_blocked",
        Kind::ListingNotFound => "listing_not_found",
        Kind::NotPushable => "not_pushable",
        Kind::InvalidValue => "invalid_value",
        Kind::Stale => "stale",
        Kind::UnknownOutcome => "unknown_outcome",
        Kind::Protocol => "protocol",
        Kind::Config => "config",
        Kind::Bug => "bug",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(version: u64, epoch: u32) -> TokenPart<'static> {
        TokenPart { key: "K", version, epoch, acked_at: None }
    }

    #[test]
    fn a_token_is_shaped_like_a_uuid_and_knows_no_quantity() {
        let channel = ChannelId::new("shopify").unwrap();
        let of = |run, items: &[TokenPart<'_>]| token(&channel, run, items);
        let one = of(None, &[part(7, 0)]);
        assert_eq!(one.len(), 36);
        assert!(uuid::Uuid::parse_str(&one).is_ok());
        assert_eq!(one, of(None, &[part(7, 0)]));
        assert_ne!(one, of(None, &[part(8, 0)]));
        assert_ne!(one, of(None, &[part(7, 1)]));
        assert_ne!(one, of(Some("run"), &[part(7, 0)]));
        let acked_at = Some(Timestamp::from_micros(5));
        assert_ne!(one, of(None, &[TokenPart { acked_at, ..part(7, 0) }]));
        let two = [part(7, 0), TokenPart { key: "L", ..part(7, 0) }];
        assert_ne!(of(None, &two), of(None, &[two[1], two[0]]));
    }

    #[test]
    fn zeroes_go_before_decreases_before_increases() {
        let table = [
            (0, Some(5), Lane::Zero),
            (0, None, Lane::Zero),
            (3, Some(5), Lane::Decrease),
            (7, Some(5), Lane::Increase),
            (7, None, Lane::Increase),
        ];
        for (number, shown, expected) in table {
            assert_eq!(lane(number, shown), expected, "{number} over {shown:?}");
        }
        assert!(Lane::Zero < Lane::Decrease && Lane::Decrease < Lane::Increase);
    }

    #[test]
    fn a_place_tells_how_far_from_zero_a_listing_is() {
        let table = [
            (0, Some(50), (0, true)),
            (3, Some(50), (3, true)),
            (40, Some(50), (40, false)),
            (40, Some(0), (0, false)),
            (40, Some(-2), (0, false)),
            (40, None, (40, false)),
            (40, Some(i64::MAX), (40, false)),
        ];
        for (number, shown, expected) in table {
            let Turn { distance, is_near, .. } = turn(number, shown, 5);
            assert_eq!((distance, is_near), expected, "{number} over {shown:?}");
        }
    }

    #[test]
    fn a_raise_waits_for_orders_newer_than_its_wish() {
        let at = Timestamp::from_micros;
        let (second, now) = (1_000_000, 100_000_000);
        let may =
            |wanted: i64, heard: Option<i64>| may_raise(at(wanted), heard.map(at), at(now), 30_000);
        assert!(!may(now, None));
        assert!(may(now - second, Some(now - second)));
        assert!(!may(now - second, Some(now - 2 * second)));
        assert!(!may(now - 60 * second, Some(now - 31 * second)));
    }
}
