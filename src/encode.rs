//! The third stage: pixels and token ids become unit-length embeddings, on the device.
//!
//! It runs the towers that the columns need and takes out what is not finite. A device that works
//! behind its back has a batch in flight from `submit` to `InFlight::finish`. It does not know
//! which model it runs.

use crate::batch::{Embeddings, EncodedBatch, PreparedBatch};
use crate::error::{Error, RowError, RowStatus};
use crate::model::pending::Pending;
use crate::model::{DualEncoder, Towers};

/// A batch that the device has been given.
pub struct InFlight {
    /// Without embeddings.
    encoded: EncodedBatch,
    image: Option<Pending>,
    text: Option<Pending>,
    states: Option<Pending>,
}

/// Gives the device a batch, for the towers that are needed. Without a model there is nothing to
/// give.
pub fn submit(
    model: Option<&dyn DualEncoder>,
    towers: Towers,
    batch: PreparedBatch,
) -> Result<InFlight, Error> {
    let (mut image, mut text, mut states) = (None, None, None);
    if let Some(model) = model {
        if towers.image && !batch.pixels.rows.is_empty() {
            image = Some(model.submit_image(&batch.pixels)?);
        }
        if towers.text && !batch.captions.rows.is_empty() {
            text = Some(model.submit_text(&batch.captions)?);
        }
        if towers.states && !batch.padded.rows.is_empty() {
            states = Some(model.submit_text_states(&batch.padded)?);
        }
    }
    let encoded = EncodedBatch {
        position: batch.position,
        rows: batch.rows,
        image_embeddings: batch.stored,
        text_embeddings: Embeddings::default(),
        text_states: Embeddings::default(),
        image_info: batch.image_info,
        image_content: batch.image_content,
        caption_info: batch.caption_info,
        image_errors: batch.image_errors,
        caption_errors: batch.caption_errors,
    };
    Ok(InFlight { encoded, image, text, states })
}

impl InFlight {
    /// Whether `finish` returns at once.
    pub fn is_ready(&self) -> bool {
        [&self.image, &self.text, &self.states].into_iter().flatten().all(Pending::is_ready)
    }

    /// The batch with its embeddings, as soon as they are there.
    pub fn finish(self) -> Result<EncodedBatch, Error> {
        let mut encoded = self.encoded;
        if let Some(image) = self.image {
            encoded.image_embeddings =
                reject_non_finite(image.wait()?, &mut encoded.image_errors, "image");
        }
        if let Some(text) = self.text {
            encoded.text_embeddings =
                reject_non_finite(text.wait()?, &mut encoded.caption_errors, "text");
        }
        if let Some(states) = self.states {
            encoded.text_states =
                reject_non_finite(states.wait()?, &mut encoded.caption_errors, "text");
        }
        Ok(encoded)
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
