//! Rows for training, held in memory: as many as there may be, each as likely as any other.
//!
//! A row's place is decided by its number under the seed alone, so the sample is the same however
//! the table is cut into files. Source: bottom-k sampling, Cohen and Kaplan 2007.

use std::collections::BinaryHeap;

use super::super::random;
use super::super::unit::UnitColumn;
use crate::error::Error;

/// Vectors of some rows.
pub struct Sample {
    /// Row-major, `[rows, dim]`, each of length 1.
    pub values: Vec<f32>,
    pub dim: usize,
    /// Rows of the table that have a vector.
    pub seen: u64,
    /// Per row, the number that it was chosen by.
    keys: Vec<u64>,
}

impl Sample {
    /// Reads the whole column once.
    pub fn gather(column: &UnitColumn<'_>, most: usize, seed: u64) -> Result<Self, Error> {
        let dim = column.dim;
        let mut sample = Self { values: Vec::new(), dim, seen: 0, keys: Vec::new() };
        // The highest keys first: those that go when a lower one comes.
        let mut held: BinaryHeap<(u64, usize)> = BinaryHeap::new();
        column.scan(|first, unit| {
            for (row, vector) in unit.rows.iter().zip(unit.values.chunks_exact(dim.max(1))) {
                sample.seen += 1;
                let key = random::of_row(seed, first + u64::from(*row));
                if sample.keys.len() < most {
                    held.push((key, sample.keys.len()));
                    sample.keys.push(key);
                    sample.values.extend_from_slice(vector);
                } else if let Some(mut highest) = held.peek_mut()
                    && key < highest.0
                {
                    let slot = highest.1;
                    *highest = (key, slot);
                    sample.keys[slot] = key;
                    sample.values[slot * dim..(slot + 1) * dim].copy_from_slice(vector);
                }
            }
            Ok(())
        })?;
        Ok(sample)
    }

    pub fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are rows that it does not have.
    pub fn is_part(&self) -> bool {
        (self.rows() as u64) < self.seen
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }

    /// `n` of its rows, each as likely as any other.
    pub fn some(&self, n: usize) -> Vec<f32> {
        let mut order: Vec<usize> = (0..self.rows()).collect();
        order.sort_unstable_by_key(|row| (self.keys[*row], *row));
        order.truncate(n);
        order.iter().flat_map(|row| self.row(*row)).copied().collect()
    }
}
