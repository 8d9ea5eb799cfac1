//! Words of the ledger as the numbers that stand for them in its rows.

use trueup_core::{MovementKind, ReservationStatus, Source};

use super::{Corrupt, Result};

// The numbers below are part of the stores' formats: never renumber, only add.

const KINDS: [(MovementKind, u8); 11] = [
    (MovementKind::Count, 1),
    (MovementKind::Adjust, 2),
    (MovementKind::Reserve, 3),
    (MovementKind::Release, 4),
    (MovementKind::Commit, 5),
    (MovementKind::Expire, 6),
    (MovementKind::ChannelSale, 7),
    (MovementKind::ChannelReturn, 8),
    (MovementKind::ChannelAdopted, 9),
    (MovementKind::Settings, 10),
    (MovementKind::Bundle, 11),
];

const SOURCES: [(Source, u8); 6] = [
    (Source::Api, 1),
    (Source::Import, 2),
    (Source::Expiry, 3),
    (Source::Channel, 4),
    (Source::Pull, 5),
    (Source::Replay, 6),
];

const STATUSES: [(ReservationStatus, u8); 4] = [
    (ReservationStatus::Active, 1),
    (ReservationStatus::Released, 2),
    (ReservationStatus::Committed, 3),
    (ReservationStatus::Expired, 4),
];

fn code_in<T: PartialEq>(table: &[(T, u8)], value: &T) -> u8 {
    table.iter().find(|(known, _)| known == value).map_or(0, |(_, code)| *code)
}

fn value_in<T: Copy>(table: &[(T, u8)], code: u8) -> Result<T> {
    let found = table.iter().find(|(_, known)| *known == code);
    found.map(|(value, _)| *value).ok_or_else(|| Corrupt(format!("unknown code {code}")))
}

/// Returns the number of a kind.
pub(crate) fn kind_code(kind: MovementKind) -> u8 {
    code_in(&KINDS, &kind)
}

/// Returns the kind of a number.
pub(crate) fn kind_of(code: u8) -> Result<MovementKind> {
    value_in(&KINDS, code)
}

/// Returns the number of a source.
pub(crate) fn source_code(source: Source) -> u8 {
    code_in(&SOURCES, &source)
}

/// Returns the source of a number.
pub(crate) fn source_of(code: u8) -> Result<Source> {
    value_in(&SOURCES, code)
}

/// Returns the number of a status.
pub(crate) fn status_code(status: ReservationStatus) -> u8 {
    code_in(&STATUSES, &status)
}

/// Returns the status of a number.
pub(crate) fn status_of(code: u8) -> Result<ReservationStatus> {
    value_in(&STATUSES, code)
}
