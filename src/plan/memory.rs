//! How much memory a plan may take, part by part: set by its settings, never by the data.
//!
//! An estimate for people who size machines, from the shapes; nothing is measured here.

use serde::Serialize;

use super::models::Models;
use crate::images::{DECODER_BYTES_A_PIXEL, FETCHED_BYTES, Preprocess};
use crate::model::device::Placement;
use crate::run::QUEUE;
use crate::sink::ROW_GROUP_BYTES;
use crate::spec::{ImageSpec, PipelineSpec, SourceSpec};
use crate::store::{CACHE_BYTES, is_url};

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

fn is_far(source: &SourceSpec) -> bool {
    matches!(source, SourceSpec::Parquet(source) if source.path.0.iter().any(|path| is_url(path)))
}

/// Bytes by what holds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// The models' weights, on each device, in the precision that runs.
    pub weights: u64,
    /// Preprocessed images that wait or are being encoded.
    pub pixels: u64,
    /// The most that decoding can take: the budget, or one image of `max_pixels` if that is more;
    /// and the file that each thread reads; what was fetched and waits for it.
    pub decoding: u64,
    /// Blocks of the object that is read, where rows come from a store.
    pub reading: u64,
    /// Column pages of the row group that is being written, and of the one being compressed.
    pub writing: u64,
}

impl Memory {
    /// The estimate for a batch size and a number of threads.
    pub fn of(spec: &PipelineSpec, models: &Models, (batch_size, threads): (usize, usize)) -> Self {
        let in_flight = batches_in_flight(&models.all[0].placements) * batch_size as u64;
        let row: usize = models.preprocess.iter().map(Preprocess::n_bytes).sum();
        let weights = models.all.iter().map(|model| {
            model.files.n_parameters() * model.placements[0].kind.elt_size_in_bytes() as u64
        });
        let one = spec.preprocess.max_pixels.saturating_mul(DECODER_BYTES_A_PIXEL);
        let files = spec.preprocess.max_bytes.saturating_mul(threads as u64);
        let fetched = if matches!(spec.image, Some(ImageSpec::Url(_))) { FETCHED_BYTES } else { 0 };
        Self {
            // Read from the file, converted and laid out one tensor at a time.
            weights: weights.sum(),
            pixels: (row as u64).saturating_mul(in_flight),
            decoding: image_memory(spec, threads)
                .max(one)
                .saturating_add(files.saturating_add(fetched)),
            reading: if is_far(&spec.source) { CACHE_BYTES } else { 0 },
            writing: 2 * ROW_GROUP_BYTES as u64,
        }
    }
}
