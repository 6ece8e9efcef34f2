//! How much memory a plan may take, part by part: set by its settings, never by the data.
//!
//! An estimate for people who size machines, from the shapes; nothing is measured here.

use serde::Serialize;

use crate::model::clip::ClipFiles;
use crate::model::device::Placement;
use crate::spec::PipelineSpec;

/// Batches that exist at once: one in each of four stages, and `QUEUE` in each of two channels
/// that carry pixels.
const BATCHES_IN_FLIGHT: usize = 2 + 2 + 2;

/// Bytes by what holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights, on the device, in the precision that runs.
    pub weights: u64,
    /// Preprocessed images that wait or are being encoded.
    pub pixels: u64,
    /// The most that decoding can take: every thread at an image of `max_pixels`.
    pub decoding: u64,
    /// Column pages of the row group that is being written.
    pub writing: u64,
}

impl Memory {
    /// The estimate for a batch size and a number of threads.
    pub fn of(
        spec: &PipelineSpec,
        model: &ClipFiles,
        (batch_size, threads): (usize, usize),
        placement: Placement,
    ) -> Self {
        let side = model.image_size() as u64;
        let pixels = BATCHES_IN_FLIGHT as u64 * batch_size as u64 * side * side * 3;
        Self {
            weights: model.n_parameters() * placement.kind.elt_size_in_bytes() as u64,
            pixels,
            decoding: threads as u64 * (spec.preprocess.max_pixels * 4 + spec.preprocess.max_bytes),
            writing: (2 * 64) << 20,
        }
    }
}
