//! What can be said of a table that has been scored: summaries, quantiles, tables for people.
//!
//! It reads Parquet and computes; it starts no model and writes no parts but through `table`.

pub mod dots;
pub mod inspect;
pub mod label;
pub mod search;
pub mod summary;
