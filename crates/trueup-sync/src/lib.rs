//! Push, pull, inbox and schedules: state looked at and made true, again and again.

pub mod engine;

pub use engine::*;
