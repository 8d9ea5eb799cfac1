//! Names of credentials that more than one kind has, and that change while a connection works.
//!
//! They stand with the connection's other credentials, encrypted, and are read through
//! [`crate::Caller::credential`], which knows the newest.

use trueup_core::Timestamp;

use crate::exchange::parse_time;
use crate::port::Secret;

/// What new access tokens are asked for with.
pub const REFRESH_TOKEN: &str = "refreshToken";
/// When the refresh token ends, in RFC 3339, where the vendor said so.
pub const REFRESH_TOKEN_ENDS: &str = "refreshTokenExpiresAt";
/// What requests are unlocked with, where it outlives the process.
pub const ACCESS_TOKEN: &str = "accessToken";
/// When the kept access token ends, in RFC 3339.
pub const ACCESS_TOKEN_ENDS: &str = "accessTokenExpiresAt";

/// Reads the instant of [`REFRESH_TOKEN_ENDS`] or [`ACCESS_TOKEN_ENDS`].
#[must_use]
pub fn instant_of(ends: &Secret) -> Option<Timestamp> {
    parse_time(ends.expose())
}
