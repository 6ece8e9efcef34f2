//! How much memory a plan may take, part by part: set by its settings, never by the data.
//!
//! An estimate for people who size machines, from the shapes; nothing is measured here.

use serde::Serialize;

use crate::model::clip::ClipFiles;
use crate::model::device::Placement;
use crate::run::QUEUE;
use crate::sink::ROW_GROUP_BYTES;
use crate::spec::PipelineSpec;

/// Batches with pixels that exist at once: one being prepared and those in the channel, and for
/// each device one being submitted; on CUDA, of each device one more on its way into pinned memory
/// and two there.
fn batches_in_flight(placements: &[Placement]) -> u64 {
    let a_device = if placements[0].device.is_cuda() { 4 } else { 1 };
    (1 + QUEUE + a_device * placements.len()) as u64
}

/// Bytes that a decoder may hold for a pixel: 16-bit RGBA as it is read, as 8 bits, and as RGB.
const DECODER_BYTES_A_PIXEL: u64 = 8 + 4 + 3;

/// Bytes by what holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights, on each device, in the precision that runs.
    pub weights: u64,
    /// Preprocessed images that wait or are being encoded.
    pub pixels: u64,
    /// The most that decoding can take: every thread at an image of `max_pixels`.
    pub decoding: u64,
    /// Column pages of the row group that is being written, and of the one being compressed.
    pub writing: u64,
}

impl Memory {
    /// The estimate for a batch size and a number of threads.
    pub fn of(
        spec: &PipelineSpec,
        model: &ClipFiles,
        (batch_size, threads): (usize, usize),
        placements: &[Placement],
    ) -> Self {
        let side = model.image_size() as u64;
        let pixels =
            (side * side * 3).saturating_mul(batches_in_flight(placements) * batch_size as u64);
        let one = spec.preprocess.max_pixels.saturating_mul(DECODER_BYTES_A_PIXEL);
        let one = one.saturating_add(spec.preprocess.max_bytes);
        Self {
            // Read from the file, converted and laid out one tensor at a time.
            weights: model.n_parameters() * placements[0].kind.elt_size_in_bytes() as u64,
            pixels,
            decoding: one.saturating_mul(threads as u64),
            writing: 2 * ROW_GROUP_BYTES as u64,
        }
    }
}
