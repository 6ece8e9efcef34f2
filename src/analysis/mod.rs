//! What can be said of a table that has been scored: summaries, quantiles, tables for people.
//!
//! It reads Parquet and computes; it starts no model. Where products of many vectors are needed,
//! they are LibTorch's.

mod bins;
pub mod cluster;
pub mod dedup;
pub mod dots;
pub mod export;
pub mod filter;
pub mod inspect;
pub mod label;
mod lowest;
mod random;
mod reasons;
pub mod report;
pub mod search;
mod strings;
pub mod summary;
mod unit;

pub use reasons::Reasons;
