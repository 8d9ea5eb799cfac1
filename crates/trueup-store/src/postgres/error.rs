//! What can go wrong with the database, and what is to be done about it.

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use crate::encoding::Corrupt;
use crate::port::StoreError;

/// Why rows could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PgError {
    /// The database refused, or is gone.
    #[error("{}", words(.0))]
    Sql(#[from] tokio_postgres::Error),
    /// There is no connection to be had.
    #[error("no connection to the database: {0}")]
    Pool(String),
    /// A column holds what its type does not allow.
    #[error("the rows make no sense: {0}")]
    Corrupt(String),
    /// Somebody else was faster: the same again, on what is there now.
    #[error("others are changing the same rows")]
    Again,
    /// It is to be refused with this.
    #[error(transparent)]
    Refused(#[from] StoreError),
}

/// What the functions of this store return.
pub(super) type Result<T> = std::result::Result<T, PgError>;

/// What is to be done after an error in a transaction that has not been committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cure {
    /// The same again: somebody else was in the way.
    Again,
    /// The same again on another connection: this one is gone.
    Reconnect,
    /// Nothing: the database takes no writes now.
    NoWrites,
    /// Nothing: it would fail again.
    None,
}

impl From<Corrupt> for PgError {
    fn from(Corrupt(why): Corrupt) -> Self {
        Self::Corrupt(why)
    }
}

impl From<PoolError> for PgError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Self::Pool(words(&error)),
            // All of them are at work: the database is well.
            PoolError::Timeout(TimeoutType::Wait) => Self::Refused(StoreError::Overloaded),
            PoolError::Timeout(_)
            | PoolError::Closed
            | PoolError::NoRuntimeSpecified
            | PoolError::PostCreateHook(_) => Self::Pool(error.to_string()),
        }
    }
}

impl PgError {
    /// Returns what is to be done about it.
    pub(super) fn cure(&self) -> Cure {
        match self {
            Self::Sql(error) => cure_of(error),
            Self::Pool(_) => Cure::Reconnect,
            Self::Again => Cure::Again,
            Self::Corrupt(_) | Self::Refused(_) => Cure::None,
        }
    }

    /// Returns whether what was to be written or read is to blame, so that others fare better
    /// without it.
    pub(super) fn is_of_data(&self) -> bool {
        match self {
            Self::Sql(error) => error.code().is_some_and(|state| {
                ["22", "23"].iter().any(|class| state.code().starts_with(class))
            }),
            Self::Corrupt(_) => true,
            Self::Pool(_) | Self::Again | Self::Refused(_) => false,
        }
    }

    /// Returns it as the port says it.
    pub(super) fn refusal(self) -> StoreError {
        if let Self::Refused(refusal) = self {
            return refusal;
        }
        match self.cure() {
            Cure::Again => StoreError::Overloaded,
            Cure::Reconnect | Cure::NoWrites => StoreError::ReadOnly(self.to_string()),
            Cure::None => StoreError::Failed(self.to_string()),
        }
    }
}

fn cure_of(error: &tokio_postgres::Error) -> Cure {
    let Some(state) = error.code() else {
        // What the database did not say: the connection, or what was put into a statement.
        let is_ours = std::error::Error::source(error)
            .is_some_and(|source| source.is::<tokio_postgres::types::WasNull>());
        return if is_ours { Cure::None } else { cure_of_broken(error) };
    };
    const OTHERS: [&SqlState; 4] = [
        &SqlState::T_R_SERIALIZATION_FAILURE,
        &SqlState::T_R_DEADLOCK_DETECTED,
        &SqlState::LOCK_NOT_AVAILABLE,
        &SqlState::UNIQUE_VIOLATION,
    ];
    const GONE: [&SqlState; 4] = [
        &SqlState::ADMIN_SHUTDOWN,
        &SqlState::CRASH_SHUTDOWN,
        &SqlState::CANNOT_CONNECT_NOW,
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
    ];
    if OTHERS.contains(&state) {
        return Cure::Again;
    }
    if GONE.contains(&state) || state.code().starts_with("08") {
        return Cure::Reconnect;
    }
    // Insufficient resources, system errors, a standby.
    let takes_none = ["53", "58", "XX"].iter().any(|class| state.code().starts_with(class))
        || *state == SqlState::READ_ONLY_SQL_TRANSACTION;
    if takes_none { Cure::NoWrites } else { Cure::None }
}

fn cure_of_broken(error: &tokio_postgres::Error) -> Cure {
    let is_io =
        std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
    if error.is_closed() || is_io { Cure::Reconnect } else { Cure::None }
}

/// Returns what the database says of an error, with its code; never a value of a row.
fn words(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(said) => format!("{} ({})", said.message(), said.code().code()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
