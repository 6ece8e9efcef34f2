//! Fetches images by URL, from places that a table of strangers may name and no others.
//!
//! ```text
//! URL -> rules (scheme, user, host) -> client (address, resolved once) -> web | store -> bytes
//!        `--- again for each redirect ---'                      `- fetch: lanes, memory, retries
//! ```
//!
//! Two kinds of failure: one is the row's, the other may pass and is tried again (`fetch`). A host
//! that gives nobody an answer ends the run instead (`outage`). Nothing is decoded here, and no
//! body is unpacked: what a server compressed arrives compressed.

mod address;
mod client;
mod fetch;
mod outage;
mod rules;
mod store;
mod web;

use std::sync::Arc;
use std::time::Duration;

pub use fetch::{Demand, FETCHED_BYTES, Fetched, Fetcher};
pub use outage::Outage;

use crate::error::RowError;

/// Why one try gave no bytes.
#[derive(Debug)]
enum Failure {
    /// It is this row's image, and another try would end the same.
    Row(RowError),
    /// It may pass.
    Passing { message: String, retry_after: Option<Duration> },
    /// The process has no more files or memory: every other try would fail as well.
    Machine { errno: i32 },
}

/// Why there are no bytes in the end.
#[derive(Debug, Clone)]
pub enum Failed {
    Row(RowError),
    /// The host has stopped answering: this says nothing of the row.
    Outage(Arc<Outage>),
    /// The system refused what a request needs.
    Machine {
        errno: i32,
    },
}
