//! The best rows of each query while blocks of rows pass: sifted in f32, decided in f64.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::Query;
use crate::analysis::dots::{Rows, Vector, dots};

/// Rows that are multiplied at once: with their 512 numbers they fit a core's second cache.
pub const BLOCK: usize = 64;

/// A row that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    pub row: u64,
    /// The cosine, in [-1, 1].
    pub score: f32,
}

/// The worse one is the greater one: a heap has it on top. Of one score the later row is worse.
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Hit {}

/// The best of one query so far.
struct Top {
    query: Vec<f32>,
    length: f64,
    except: Option<u64>,
    most: usize,
    heap: BinaryHeap<Hit>,
}

impl Top {
    /// What a score must reach to matter.
    fn least(&self) -> f32 {
        match self.heap.peek() {
            Some(worst) if self.heap.len() >= self.most => worst.score,
            _ => f32::NEG_INFINITY,
        }
    }

    fn offer(&mut self, row: u64, vector: &[f32]) {
        let (dot, length) = exact_parts(&self.query, vector);
        self.push(Hit { row, score: (dot / (length * self.length)).clamp(-1.0, 1.0) as f32 });
    }

    fn push(&mut self, hit: Hit) {
        if self.most == 0 || self.except == Some(hit.row) || hit.score.is_nan() {
            return;
        }
        if self.heap.len() < self.most {
            self.heap.push(hit);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && hit < *worst
        {
            *worst = hit;
        }
    }
}

/// In f64 and in order: the dot product, and the length of `b`.
pub fn exact_parts(a: &[f32], b: &[f32]) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let b = f64::from(*b);
        sums = (sums.0 + f64::from(*a) * b, sums.1 + b * b);
    }
    (sums.0, sums.1.sqrt())
}

/// One worker's search.
pub struct Scan {
    /// Of unit length.
    queries: Rows,
    tops: Vec<Top>,
    /// More than products in f32 can be wrong by.
    margin: f32,
    products: Vec<f32>,
    pub vector: Vector,
    /// Where a block's vectors are put.
    pub block: Rows,
}

impl Scan {
    pub fn new(queries: &[Query], dim: usize, most: usize) -> Self {
        let units: Vec<_> = queries.iter().map(|query| super::unit(&query.vector)).collect();
        let top = |(unit, query): (&Vec<f32>, &Query)| Top {
            length: exact_parts(unit, unit).1,
            query: unit.clone(),
            except: query.except,
            most,
            heap: BinaryHeap::new(),
        };
        // A sum has a term in each of eight lanes or more, then those are added, and it is
        // multiplied once: each step rounds by at most 2^-24 of what is at most 1.
        let roundings = dim / 8 + 16;
        Self {
            tops: units.iter().zip(queries).map(top).collect(),
            queries: Rows::of(units.iter().map(Vec::as_slice), dim),
            margin: 2.0 * roundings as f32 * f32::EPSILON,
            products: Vec::new(),
            vector: Vector::best(),
            block: Rows::zeros(BLOCK, dim),
        }
    }

    /// Looks at the rows of the block, the first of which has this number. `inverse` is one over
    /// the length of each, 0 for a row that has no vector.
    pub fn look(&mut self, first: u64, inverse: &[f32]) {
        let m = self.tops.len();
        self.products.resize(inverse.len() * m, 0.0);
        dots(self.vector, (&self.block, inverse.len()), &self.queries, &mut self.products);
        for (index, top) in self.tops.iter_mut().enumerate() {
            let mut least = top.least() - self.margin;
            for (row, inverse) in inverse.iter().enumerate() {
                if *inverse > 0.0 && self.products[row * m + index] * inverse >= least {
                    top.offer(first + row as u64, self.block.get(row));
                    least = top.least() - self.margin;
                }
            }
        }
    }

    /// The best of both.
    pub fn merge(mut self, other: Self) -> Self {
        for (own, other) in self.tops.iter_mut().zip(other.tops) {
            other.heap.into_iter().for_each(|hit| own.push(hit));
        }
        self
    }

    /// Per query, best first.
    pub fn finish(self) -> Vec<Vec<Hit>> {
        self.tops.into_iter().map(|top| top.heap.into_sorted_vec()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(vector: &[f32], except: Option<u64>) -> Query {
        Query { vector: vector.to_vec(), except }
    }

    fn rows(found: &[Hit]) -> Vec<u64> {
        found.iter().map(|hit| hit.row).collect()
    }

    #[test]
    fn the_lower_row_comes_first_of_equals_and_bad_rows_never() {
        let queries = [query(&[2.0, 0.0], None), query(&[0.0, 1.0], Some(3))];
        let mut scan = Scan::new(&queries, 2, 3);
        let vectors = [[1.0, 0.0], [0.0, 0.0], [f32::NAN, 1.0], [0.0, 5.0], [3.0, 0.0], [1.0, 0.0]];
        vectors.iter().enumerate().for_each(|(row, vector)| scan.block.set(row, vector));
        scan.look(0, &[1.0, 0.0, 0.0, 0.2, 1.0 / 3.0, 1.0]);
        let mut other = Scan::new(&queries, 2, 3);
        other.block.set(0, &[0.6, 0.8]);
        other.look(6, &[1.0]);
        let found = other.merge(scan).finish();
        assert_eq!(rows(&found[0]), [0, 4, 5]);
        assert_eq!(rows(&found[1]), [6, 0, 4]);
        assert_eq!(found[1][0].score, 0.8);
    }

    #[test]
    fn no_results_may_be_asked_for_and_more_than_there_are() {
        for (most, wanted) in [(0, 0), (1, 1), (9, 2)] {
            let mut scan = Scan::new(&[query(&[1.0], None)], 1, most);
            scan.block.set(0, &[1.0]);
            scan.block.set(1, &[-1.0]);
            scan.look(0, &[1.0, 1.0]);
            assert_eq!(scan.finish()[0].len(), wanted);
        }
    }
}
