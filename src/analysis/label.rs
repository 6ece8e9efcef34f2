//! Zero-shot classes: each row's embedding against one vector a class, as columns.
//!
//! A class's vector is the mean of its texts' embeddings (`class_vector`); a row's probabilities
//! are the softmax over all classes of the cosines times the model's scale. Texts are embedded by
//! the caller. Held are the classes and a batch of rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::array::{
    ArrayRef, Float32Array, Float32Builder, ListBuilder, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, FieldRef};
use rayon::prelude::*;

use super::Reasons;
use super::dots::{Rows, Vector, dots};
use crate::error::Error;
use crate::score::softmax;
use crate::table::{Table, Vectors};

/// Rows that are multiplied at once.
const BLOCK: usize = 64;

/// One class's vector: the mean of the unit embeddings of its texts, at unit length.
///
/// Source: OpenAI's CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb, `zeroshot_classifier`.
pub fn class_vector(texts: &[Vec<f32>]) -> Vec<f32> {
    let dim = texts.first().map_or(0, Vec::len);
    let mut sum = vec![0.0; dim];
    for text in texts {
        let length = text.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        for (sum, x) in sum.iter_mut().zip(text) {
            *sum += f64::from(*x) / length;
        }
    }
    let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
    sum.into_iter().map(|x| (x / length) as f32).collect()
}

/// The classes, and how rows are put into them.
pub struct Labeller {
    names: Vec<String>,
    classes: Rows,
    /// What cosines are multiplied by.
    scale: f32,
    /// Classes that are listed a row.
    top: usize,
    vector: Vector,
}

/// The columns that are added: the likeliest class and its probability, and where several are
/// listed both as lists, likeliest first.
pub fn fields(name: &str, several: bool) -> Vec<FieldRef> {
    let item = |kind| Arc::new(Field::new("item", kind, true));
    let field = |name: String, kind| Arc::new(Field::new(name, kind, true));
    let mut fields = vec![
        field(name.to_owned(), DataType::Utf8),
        field(format!("{name}_probability"), DataType::Float32),
    ];
    if several {
        fields.push(field(format!("{name}s"), DataType::List(item(DataType::Utf8))));
        let kind = DataType::List(item(DataType::Float32));
        fields.push(field(format!("{name}_probabilities"), kind));
    }
    fields
}

/// What was found, over all rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labelled {
    /// Rows by their first class.
    pub by_label: BTreeMap<String, u64>,
    /// Rows without a vector, by reason: the row's status where there is one.
    pub without: Reasons,
}

/// A row's classes, likeliest first.
type Best = Vec<(usize, f32)>;

impl Labeller {
    /// One vector a name.
    pub fn new(names: Vec<String>, classes: &[Vec<f32>], scale: f32, top: usize) -> Self {
        let dim = classes.first().map_or(0, Vec::len);
        let classes = Rows::of(classes.iter().map(Vec::as_slice), dim);
        let top = top.clamp(1, names.len().max(1));
        Self { names, classes, scale, top, vector: Vector::best() }
    }

    /// The columns for a batch; nulls where a row has no vector.
    ///
    /// # Errors
    /// `ColumnType` where vectors have another length than the classes.
    pub fn label(
        &self,
        (table, column): (&Table, &str),
        batch: &RecordBatch,
        labelled: &mut Labelled,
    ) -> Result<Vec<ArrayRef>, Error> {
        let wrong = |problem: String| table.wrong_type(column, problem);
        let array = batch.column_by_name(column).ok_or_else(|| wrong("it is gone".into()))?;
        let dim = self.classes.dim();
        let vectors = Vectors::of(array, Some(dim)).map_err(|problem| {
            wrong(format!("it has {problem}; the model's embeddings have {dim}"))
        })?;
        let blocks: Vec<_> = (0..array.len()).step_by(BLOCK).collect();
        let best: Vec<_> = blocks
            .into_par_iter()
            .flat_map_iter(|start| self.block(&vectors, start..(start + BLOCK).min(array.len())))
            .collect();
        self.count(batch, (&best, array.as_ref()), labelled);
        Ok(self.columns(&best))
    }

    /// The classes of some rows.
    fn block(&self, vectors: &Vectors, rows: std::ops::Range<usize>) -> Vec<Option<Best>> {
        let mut block = Rows::zeros(rows.len(), vectors.dim);
        let mut is_there = vec![false; rows.len()];
        for (at, row) in rows.enumerate() {
            let Some(vector) = vectors.get(row) else { continue };
            let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            if length > 0.0 {
                let unit: Vec<_> = vector.iter().map(|x| (f64::from(*x) / length) as f32).collect();
                block.set(at, &unit);
                is_there[at] = true;
            }
        }
        let n = self.names.len();
        let mut products = vec![0.0; is_there.len() * n];
        dots(self.vector, (&block, is_there.len()), &self.classes, &mut products);
        let rows = products.chunks_exact(n).zip(is_there);
        rows.map(|(cosines, is_there)| is_there.then(|| self.best(cosines))).collect()
    }

    /// The likeliest first; of two alike the one that was named first.
    fn best(&self, cosines: &[f32]) -> Best {
        let probabilities = softmax(cosines, self.scale);
        let mut order: Vec<_> = (0..cosines.len()).collect();
        let by = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
        if self.top < order.len() {
            order.select_nth_unstable_by(self.top - 1, by);
            order.truncate(self.top);
        }
        order.sort_unstable_by(by);
        order.into_iter().map(|class| (class, probabilities[class])).collect()
    }

    fn columns(&self, best: &[Option<Best>]) -> Vec<ArrayRef> {
        let first = |row: &Option<Best>| row.as_ref().and_then(|best| best.first().copied());
        let names = best.iter().map(|row| first(row).map(|(class, _)| self.names[class].as_str()));
        let names: StringArray = names.collect();
        let probabilities: Float32Array =
            best.iter().map(|row| first(row).map(|(_, probability)| probability)).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(probabilities)];
        if self.top > 1 {
            let mut names = ListBuilder::new(StringBuilder::new());
            let mut probabilities = ListBuilder::new(Float32Builder::new());
            for row in best {
                for (class, probability) in row.iter().flatten() {
                    names.values().append_value(&self.names[*class]);
                    probabilities.values().append_value(*probability);
                }
                names.append(row.is_some());
                probabilities.append(row.is_some());
            }
            columns
                .extend([Arc::new(names.finish()) as ArrayRef, Arc::new(probabilities.finish())]);
        }
        columns
    }

    fn count(
        &self,
        batch: &RecordBatch,
        (best, array): (&[Option<Best>], &dyn Array),
        labelled: &mut Labelled,
    ) {
        for (row, best) in best.iter().enumerate() {
            if let Some((class, _)) = best.as_ref().and_then(|best| best.first()) {
                *labelled.by_label.entry(self.names[*class].clone()).or_default() += 1;
                continue;
            }
            let why = if array.is_null(row) { "no vector" } else { "no usable vector" };
            labelled.without.add(batch, row, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_the_direction_of_the_mean_of_its_unit_texts() {
        let found = class_vector(&[vec![2.0, 0.0], vec![0.0, 0.5]]);
        let half = std::f32::consts::FRAC_1_SQRT_2;
        assert!(found.iter().all(|x| (x - half).abs() < 1e-7), "{found:?}");
    }

    #[test]
    fn the_likeliest_comes_first_and_of_equals_the_one_named_first() {
        let classes = [vec![0.0, 1.0], vec![1.0, 0.0], vec![0.0, 1.0]];
        let names = ["a", "b", "c"].map(str::to_owned).to_vec();
        let labeller = Labeller::new(names, &classes, 10.0, 2);
        let best = labeller.best(&[0.3, 0.1, 0.3]);
        assert_eq!(best.iter().map(|(class, _)| *class).collect::<Vec<_>>(), [0, 2]);
        // exp(3) of 2 exp(3) + exp(1).
        let wanted = 1.0 / (2.0 + (-2.0_f32).exp());
        assert!(best.iter().all(|(_, p)| (p - wanted).abs() < 1e-6), "{best:?}");
    }
}
