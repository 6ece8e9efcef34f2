//! The vectors of an embedding column, whatever list type they are stored in.
//!
//! Nothing is computed but f16 and f64 to f32; a vector that cannot be compared is left out.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};

/// Whether a column of this type holds vectors.
pub fn is_vector(data_type: &DataType) -> bool {
    match data_type {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            item.data_type().is_floating()
        }
        _ => false,
    }
}

/// The vectors of some rows.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// Row-major, `[rows, dim]`; zeros where there is no vector.
    pub values: Vec<f32>,
    pub dim: usize,
    /// Per row, whether there is a vector: not null, and finite in every element.
    pub valid: Vec<bool>,
}

impl Vectors {
    /// Reads an array of an embedding column. `dim` is the length that vectors must have; without
    /// it the first one decides.
    ///
    /// # Errors
    /// What is wrong, in words: two lengths, or no list of floats.
    pub fn of(array: &ArrayRef, dim: Option<usize>) -> Result<Self, String> {
        let (starts, values) = match array.data_type() {
            DataType::FixedSizeList(_, size) => {
                let list = array.as_fixed_size_list();
                let size = *size as usize;
                let starts = (0..=list.len()).map(|row| row * size).collect::<Vec<_>>();
                (starts, list.values().clone())
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                (list.offsets().iter().map(|at| *at as usize).collect(), list.values().clone())
            }
            DataType::LargeList(_) => {
                let list = array.as_list::<i64>();
                (list.offsets().iter().map(|at| *at as usize).collect(), list.values().clone())
            }
            other => return Err(format!("{other} is no list of numbers")),
        };
        let values = cast(&values, &DataType::Float32).map_err(|error| error.to_string())?;
        let floats = values.as_primitive::<Float32Type>();
        let row = |row: usize| (starts[row], starts[row + 1]);
        let lengths = (0..array.len()).filter(|at| array.is_valid(*at)).map(|at| {
            let (start, end) = row(at);
            end - start
        });
        let dim = match (dim, lengths.clone().next()) {
            (Some(dim), _) | (None, Some(dim)) => dim,
            (None, None) => 0,
        };
        if let Some(other) = lengths.clone().find(|length| *length != dim) {
            return Err(format!("vectors of {dim} and of {other} numbers"));
        }
        let mut found =
            Self { values: vec![0.0; array.len() * dim], dim, valid: vec![false; array.len()] };
        for at in (0..array.len()).filter(|at| array.is_valid(*at)) {
            let (start, end) = row(at);
            let vector = &floats.values()[start..end];
            let is_there = floats.null_count() == 0 || (start..end).all(|i| floats.is_valid(i));
            if dim > 0 && is_there && vector.iter().all(|x| x.is_finite()) {
                found.values[at * dim..(at + 1) * dim].copy_from_slice(vector);
                found.valid[at] = true;
            }
        }
        Ok(found)
    }

    /// A row's vector, if it has one.
    pub fn get(&self, row: usize) -> Option<&[f32]> {
        self.valid[row].then(|| &self.values[row * self.dim..(row + 1) * self.dim])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{FixedSizeListArray, Float16Array, Float64Array, ListArray};
    use arrow::datatypes::{Float16Type, Float32Type};
    use half::f16;

    use super::*;

    fn lists(rows: &[Option<&[Option<f32>]>]) -> ArrayRef {
        let rows = rows.iter().map(|row| row.map(|row| row.iter().copied()));
        Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(rows))
    }

    #[test]
    fn a_row_without_a_usable_vector_has_none() {
        let array = lists(&[
            Some(&[Some(1.0), Some(2.0)]),
            None,
            Some(&[Some(f32::NAN), Some(2.0)]),
            Some(&[None, Some(2.0)]),
            Some(&[Some(3.0), Some(4.0)]),
        ]);
        let vectors = Vectors::of(&array, None).expect("vectors");
        assert_eq!(vectors.valid, [true, false, false, false, true]);
        assert_eq!(vectors.get(4), Some(&[3.0, 4.0][..]));
        assert_eq!(vectors.get(2), None);
        // A slice starts where it says.
        let vectors = Vectors::of(&array.slice(3, 2), None).expect("vectors");
        assert_eq!((vectors.get(0), vectors.get(1)), (None, Some(&[3.0, 4.0][..])));
    }

    #[test]
    fn every_float_and_fixed_or_free_lists_are_read_and_lengths_must_agree() {
        let halves =
            Arc::new(Float16Array::from_iter_values([0.5, 1.5, 2.0, -1.0].map(f16::from_f32)));
        let item = Arc::new(arrow::datatypes::Field::new("item", DataType::Float16, true));
        let fixed: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, halves, None));
        let vectors = Vectors::of(&fixed.slice(1, 1), Some(2)).expect("vectors");
        assert_eq!(vectors.values, [2.0, -1.0]);
        let wrong = Vectors::of(&lists(&[Some(&[Some(1.0)]), Some(&[])]), None);
        assert_eq!(wrong.err().as_deref(), Some("vectors of 1 and of 0 numbers"));
        assert!(Vectors::of(&fixed, Some(3)).is_err());
        let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        assert!(Vectors::of(&numbers, None).is_err());
        let halves = ListArray::from_iter_primitive::<Float16Type, _, _>([Some([Some(f16::ONE)])]);
        let vectors = Vectors::of(&(Arc::new(halves) as ArrayRef), None).expect("vectors");
        assert_eq!(vectors.values, [1.0]);
    }
}
