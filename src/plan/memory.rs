//! How much memory a plan may take, part by part: set by its settings, never by the data.
//!
//! An estimate for people who size machines, from the shapes; nothing is measured here.

use serde::Serialize;

use crate::images::DECODER_BYTES_A_PIXEL;
use crate::model::ModelFiles;
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

/// What images may take that are decoded at once, where the pipeline does not say: enough for
/// photos of 9 megapixels on every thread.
const IMAGE_MEMORY_A_THREAD: u64 = 128 << 20;

/// The budget of all images that are decoded at once, in bytes.
pub fn image_memory(spec: &PipelineSpec, threads: usize) -> u64 {
    let given = spec.run.image_memory.map(u64::from);
    given.unwrap_or(IMAGE_MEMORY_A_THREAD.saturating_mul(threads as u64))
}

/// Bytes by what holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The model's weights, on each device, in the precision that runs.
    pub weights: u64,
    /// Preprocessed images that wait or are being encoded.
    pub pixels: u64,
    /// The most that decoding can take: the budget, or one image of `max_pixels` if that is more;
    /// and the file that each thread reads.
    pub decoding: u64,
    /// Column pages of the row group that is being written, and of the one being compressed.
    pub writing: u64,
}

impl Memory {
    /// The estimate for a batch size and a number of threads.
    pub fn of(
        spec: &PipelineSpec,
        model: &ModelFiles,
        (batch_size, threads): (usize, usize),
        placements: &[Placement],
    ) -> Self {
        let side = model.image_size() as u64;
        let pixels =
            (side * side * 3).saturating_mul(batches_in_flight(placements) * batch_size as u64);
        let one = spec.preprocess.max_pixels.saturating_mul(DECODER_BYTES_A_PIXEL);
        let files = spec.preprocess.max_bytes.saturating_mul(threads as u64);
        Self {
            // Read from the file, converted and laid out one tensor at a time.
            weights: model.n_parameters() * placements[0].kind.elt_size_in_bytes() as u64,
            pixels,
            decoding: image_memory(spec, threads).max(one).saturating_add(files),
            writing: 2 * ROW_GROUP_BYTES as u64,
        }
    }
}
