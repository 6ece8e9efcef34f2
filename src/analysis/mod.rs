//! What can be said of a table that has been scored: summaries, quantiles, tables for people.
//!
//! It reads Parquet and computes; it starts no model and writes no parts.

pub mod filter;
pub mod inspect;
pub mod summary;
