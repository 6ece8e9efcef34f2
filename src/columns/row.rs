//! One row of an encoded batch: its image against its captions.

use crate::batch::{Embeddings, Encoded, EncodedBatch};
use crate::score;

/// A row as one model sees it, whose captions are told by their places among the batch's caption
/// columns.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    model: &'a Encoded,
    n_rows: usize,
    row: usize,
}

impl<'a> Row<'a> {
    /// The rows of a batch, by what a model made of it.
    pub fn all(batch: &'a EncodedBatch, model: usize) -> impl Iterator<Item = Self> {
        let (model, n_rows) = (&batch.models[model], batch.rows.num_rows());
        (0..n_rows).map(move |row| Self { model, n_rows, row })
    }

    fn image(self) -> Option<&'a [f32]> {
        self.model.image.get(self.row)
    }

    fn text(self, caption: usize) -> Option<&'a [f32]> {
        self.model.text.get(caption * self.n_rows + self.row)
    }

    /// Similarity of the image and a caption, where both have an embedding.
    pub fn cosine(self, caption: usize) -> Option<f32> {
        Some(score::cosine(self.image()?, self.text(caption)?))
    }

    /// The greatest similarity of a caption and one of `references`; those without an embedding
    /// do not count.
    pub fn nearest(self, caption: usize, references: &[usize]) -> Option<f32> {
        let text = self.text(caption)?;
        let cosines = references.iter().filter_map(|&other| self.text(other));
        cosines.map(|other| score::cosine(text, other)).max_by(f32::total_cmp)
    }

    /// The caption of these that fits the image best, the first of equals, and its similarity.
    pub fn best(self, captions: &[usize]) -> Option<(usize, f32)> {
        let mut best = None;
        for &caption in captions {
            let Some(cosine) = self.cosine(caption) else { continue };
            if best.is_none_or(|(_, most)| cosine > most) {
                best = Some((caption, cosine));
            }
        }
        best
    }

    /// The row's place in its batch.
    pub fn index(self) -> usize {
        self.row
    }
}

/// The embeddings of one caption column, by row.
pub fn of_caption(all: &Embeddings, caption: usize, n_rows: usize) -> Embeddings {
    let (start, end) = ((caption * n_rows) as u32, ((caption + 1) * n_rows) as u32);
    let first = all.rows.partition_point(|at| *at < start);
    let last = all.rows.partition_point(|at| *at < end);
    Embeddings {
        data: all.data[first * all.dim..last * all.dim].to_vec(),
        dim: all.dim,
        rows: all.rows[first..last].iter().map(|at| at - start).collect(),
    }
}
