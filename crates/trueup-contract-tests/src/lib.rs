//! Nothing but tests: see `tests/it`.
//!
//! The specifications are read from `../shared/specs` beside the repository. Where they are
//! missing, every test says `SKIPPED` and passes, or fails where `TRUEUP_REQUIRE_SPECS` is set.
