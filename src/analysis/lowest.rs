//! The few things of lowest rank among any number of them.
//!
//! Equal ranks are told apart by the row, so what is kept does not depend on the order in which
//! things come, or on who counted them.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Keeps the `most` things of lowest rank.
#[derive(Debug, Clone)]
pub struct Lowest<T> {
    most: usize,
    heap: BinaryHeap<Ranked<T>>,
}

/// Ordered so that a heap's top is the one to give up: the greatest rank.
#[derive(Debug, Clone)]
struct Ranked<T> {
    rank: f64,
    row: u64,
    what: T,
}

impl<T> Lowest<T> {
    pub fn new(most: usize) -> Self {
        Self { most, heap: BinaryHeap::new() }
    }

    /// Keeps a row's thing when it is among those of the lowest rank. Builds it only then.
    pub fn keep(&mut self, rank: f64, row: u64, make: impl FnOnce() -> T) {
        let is_below = |top: &Ranked<T>| order(rank, row, top).is_lt();
        if self.heap.len() >= self.most {
            if !self.heap.peek().is_some_and(is_below) {
                return;
            }
            self.heap.pop();
        }
        self.heap.push(Ranked { rank, row, what: make() });
    }

    /// Takes in what another has kept.
    pub fn merge(&mut self, other: Self) {
        for Ranked { rank, row, what } in other.heap {
            self.keep(rank, row, || what);
        }
    }

    /// What was kept, lowest rank first.
    pub fn into_sorted(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.what).collect()
    }
}

fn order<T>(rank: f64, row: u64, other: &Ranked<T>) -> Ordering {
    rank.total_cmp(&other.rank).then(row.cmp(&other.row))
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        order(self.rank, self.row, other)
    }
}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Ranked<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_are_kept_whatever_the_order_and_whoever_counted() {
        let ranks = [3.0, 1.0, 2.0, 1.0, 5.0, 1.0, 0.5];
        let mut at_once = Lowest::new(3);
        let (mut odd, mut even) = (Lowest::new(3), Lowest::new(3));
        for (row, rank) in ranks.into_iter().enumerate().rev() {
            at_once.keep(rank, row as u64, || row);
            let half = if row % 2 == 1 { &mut odd } else { &mut even };
            half.keep(rank, row as u64, || row);
        }
        odd.merge(even);
        assert_eq!(at_once.into_sorted(), [6, 1, 3]);
        assert_eq!(odd.into_sorted(), [6, 1, 3]);
        let mut none = Lowest::new(0);
        none.keep(1.0, 0, || 0);
        assert!(none.into_sorted().is_empty());
    }
}
