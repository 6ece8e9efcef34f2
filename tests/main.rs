//! All tests of the program and of the crate's public interface, a module for each capability.
//!
//! One binary: each one links LibTorch, polars and the crate anew, and takes a hundred megabytes.
//! `tests/README.md` says what each module holds against whose work. Not here: unit tests, which
//! stand beside what they test, and `bench/`.

mod architecture;
mod captions;
mod cluster;
mod common;
mod dedup;
mod devices;
mod exchange;
mod failures;
mod faults;
mod filter;
mod fuzz;
mod hashes;
mod heads;
mod hub;
mod incremental;
mod label;
mod open_clip;
mod pipelines;
mod pixels;
mod production;
mod report;
mod resume;
mod run;
mod schedulers;
mod search;
mod several;
mod siglip;
mod sources;
mod stages;
mod stores;
mod tokens;
mod towers;
mod urls;
mod weights;
mod worker;
