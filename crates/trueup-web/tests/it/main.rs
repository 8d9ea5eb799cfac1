//! The dashboard over an API that is only made of answers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod api;
mod pages;
