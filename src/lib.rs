//! clipmill

pub mod batch;
pub mod error;
pub mod images;
pub mod model;
pub mod spec;
pub mod text;
