//! clipmill

pub mod analysis;
pub mod batch;
pub mod cli;
pub mod columns;
pub mod command;
pub mod encode;
pub mod error;
pub mod files;
pub mod images;
pub mod manifest;
pub mod model;
pub mod plan;
pub mod prepare;
pub mod progress;
pub mod report;
pub mod run;
pub mod score;
pub mod sink;
pub mod source;
pub mod spec;
pub mod text;
