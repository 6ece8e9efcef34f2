//! The third stage: pixels and token ids become unit-length embeddings, on the device.
//!
//! It runs the towers that the columns need and takes out what is not finite. A device that works
//! behind its back has a batch in flight from `submit` to `InFlight::finish`. It does not know
//! which models it runs.

use crate::batch::{Embeddings, Encoded, EncodedBatch, Logit, PreparedBatch};
use crate::error::{Error, RowError, RowStatus};
use crate::model::pending::Pending;
use crate::model::{DualEncoder, Towers};

/// What one model of a run is given, and what of it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inputs {
    pub towers: Towers,
    /// Which of a batch's pixels.
    pub pixels: usize,
    /// Which of a batch's tokenized captions.
    pub captions: usize,
}

/// A batch that the device has been given.
pub struct InFlight {
    /// Without embeddings, but for those that the table brought.
    encoded: EncodedBatch,
    models: Vec<Work>,
}

/// What one model has been given of it.
#[derive(Default)]
struct Work {
    image: Option<Pending>,
    text: Option<Pending>,
    states: Option<Pending>,
}

/// Gives the device a batch: each of `models` what `inputs`, at its place, says. Without models
/// there is nothing to give.
pub fn submit(
    models: &[Box<dyn DualEncoder>],
    inputs: &[Inputs],
    batch: PreparedBatch,
) -> Result<InFlight, Error> {
    let work = models.iter().zip(inputs).map(|(model, inputs)| {
        let mut work = Work::default();
        let pixels = batch.pixels.get(inputs.pixels).filter(|pixels| !pixels.rows.is_empty());
        if let Some(pixels) = pixels.filter(|_| inputs.towers.image) {
            work.image = Some(model.submit_image(pixels)?);
        }
        let read = batch.captions.get(inputs.captions);
        let read = read.filter(|read| !read.captions.rows.is_empty());
        if let Some(read) = read.filter(|_| inputs.towers.text) {
            work.text = Some(model.submit_text(&read.captions)?);
        }
        if let Some(read) = read.filter(|_| inputs.towers.states) {
            work.states = Some(model.submit_text_states(&read.padded)?);
        }
        Ok(work)
    });
    let work = work.collect::<Result<_, Error>>()?;
    let mut encoded = vec![Encoded::default(); inputs.len().max(1)];
    encoded[0].image = batch.stored;
    for (encoded, model) in encoded.iter_mut().zip(models) {
        let (scale, bias) = (model.logit_scale(), model.logit_bias().unwrap_or(0.0));
        encoded.logit = Logit { scale, bias };
    }
    let encoded = EncodedBatch {
        position: batch.position,
        rows: batch.rows,
        listed: batch.listed,
        models: encoded,
        image_info: batch.image_info,
        image_content: batch.image_content,
        caption_info: batch.captions.into_iter().map(|read| read.info).collect(),
        image_errors: batch.image_errors,
        caption_errors: batch.caption_errors,
    };
    Ok(InFlight { encoded, models: work })
}

impl Work {
    fn is_ready(&self) -> bool {
        [&self.image, &self.text, &self.states].into_iter().flatten().all(Pending::is_ready)
    }
}

impl InFlight {
    /// Whether `finish` returns at once.
    pub fn is_ready(&self) -> bool {
        self.models.iter().all(Work::is_ready)
    }

    /// The batch with its embeddings, as soon as they are there.
    pub fn finish(self) -> Result<EncodedBatch, Error> {
        let mut batch = self.encoded;
        let (images, captions) = (&mut batch.image_errors, &mut batch.caption_errors);
        for (encoded, work) in batch.models.iter_mut().zip(self.models) {
            if let Some(image) = work.image {
                encoded.image = reject_non_finite(image.wait()?, images, "image");
            }
            if let Some(text) = work.text {
                encoded.text = reject_non_finite(text.wait()?, captions, "text");
            }
            if let Some(states) = work.states {
                encoded.text_states = reject_non_finite(states.wait()?, captions, "text");
            }
        }
        Ok(batch)
    }
}

/// Takes out embeddings with a NaN or an infinity and gives their rows an error.
fn reject_non_finite(
    embeddings: Embeddings,
    errors: &mut [Option<RowError>],
    tower: &str,
) -> Embeddings {
    if embeddings.data.iter().all(|value| value.is_finite()) {
        return embeddings;
    }
    let mut kept = Embeddings { dim: embeddings.dim, ..Embeddings::default() };
    for (slot, row) in embeddings.rows.iter().enumerate() {
        let embedding = embeddings.slot(slot);
        if embedding.iter().all(|value| value.is_finite()) {
            kept.data.extend_from_slice(embedding);
            kept.rows.push(*row);
        } else {
            let message = format!("the {tower} tower gave an embedding that is not finite");
            errors[*row as usize] = Some(RowError::new(RowStatus::NonFinite, message));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_not_finite_lose_their_slot_and_get_a_status() {
        let embeddings = Embeddings {
            data: vec![1.0, 0.0, f32::NAN, 0.0, 0.0, 1.0],
            dim: 2,
            rows: vec![0, 2, 3],
        };
        let mut errors = vec![None; 4];
        let kept = reject_non_finite(embeddings, &mut errors, "image");
        assert_eq!(kept.rows, [0, 3]);
        assert_eq!(kept.data, [1.0, 0.0, 0.0, 1.0]);
        let statuses: Vec<_> = errors.iter().flatten().map(|error| error.status).collect();
        assert_eq!(statuses, [RowStatus::NonFinite]);
        assert!(errors[2].is_some());
    }
}
