//! The first pass: how the scores are spread, and which groups are large.
//!
//! The second pass counts exactly, at thresholds and for groups that are chosen from this.

use std::collections::HashMap;

use arrow::array::RecordBatch;

use super::columns::Columns;
use super::fold::{Count, fold};
use super::values::{Score, Values, each_name};
use crate::analysis::bins::Bins;
use crate::error::Error;
use crate::table::Table;

/// Values of a column to group by that are held at once. One of more than a share `1 / 20,000` of
/// the rows is found for certain, however many there are.
const MOST_NAMES: usize = 20_000;

/// Steps of a score that is no cosine: its quantiles are exact to half of that share of its range.
const STEPS: usize = 35_000;

/// What is known after the first pass.
pub struct Survey {
    /// Scores of the rows that are ok.
    pub scores: Bins,
    /// For each column to group by, values and about how many rows have them.
    pub names: Vec<Names>,
}

/// Values of a column that many rows have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    pub rows: HashMap<Vec<u8>, u64>,
    pub nulls: u64,
    /// Whether there were more values than are held.
    pub more: bool,
}

impl Survey {
    pub fn of(table: &Table, columns: &Columns) -> Result<Self, Error> {
        let pass = |bins: &Bins, by: &[String]| {
            let mut wanted: Vec<_> =
                [&columns.score, &columns.status].into_iter().flatten().collect();
            wanted.extend(by);
            let wanted: Vec<_> = wanted.into_iter().map(String::as_str).collect();
            fold(table, &wanted, || Pass {
                columns,
                scores: bins.emptied(),
                names: by.iter().map(|column| (column.clone(), Names::default())).collect(),
            })
        };
        let first = pass(&Bins::of_scores(), &columns.by)?;
        let names = first.names.into_iter().map(|(_, names)| names).collect();
        let scores = match first.scores.holds_all() {
            true => first.scores,
            // No cosine: its range is known now.
            false => {
                let range = Bins::between(first.scores.min, first.scores.max, STEPS);
                pass(&range, &[])?.scores
            }
        };
        Ok(Self { scores, names })
    }
}

struct Pass<'a> {
    columns: &'a Columns,
    scores: Bins,
    names: Vec<(String, Names)>,
}

impl Count for Pass<'_> {
    fn add(&mut self, _row: u64, batch: &RecordBatch) -> Result<(), Error> {
        let values = Values::of(batch, self.columns)?;
        for row in 0..batch.num_rows() {
            if let (true, Score::Of(score)) = (values.is_ok(row), values.score(row)) {
                self.scores.add(score);
            }
        }
        for (column, names) in &mut self.names {
            each_name(batch, column, |row, name| {
                if values.is_ok(row) {
                    names.add(name, 1);
                }
            })?;
            names.shrink();
        }
        Ok(())
    }

    fn merge(&mut self, later: Self) {
        self.scores.merge(&later.scores);
        for ((_, names), (_, others)) in self.names.iter_mut().zip(later.names) {
            names.more |= others.more;
            names.nulls += others.nulls;
            others.rows.iter().for_each(|(name, rows)| names.add(Some(name), *rows));
            names.shrink();
        }
    }
}

impl Names {
    fn add(&mut self, name: Option<&[u8]>, rows: u64) {
        let Some(name) = name else {
            self.nulls += rows;
            return;
        };
        match self.rows.get_mut(name) {
            Some(own) => *own += rows,
            None => drop(self.rows.insert(name.to_vec(), rows)),
        }
    }

    /// Lets go of the rarest, and of as many rows of the others, when there are too many.
    ///
    /// Source: Misra and Gries 1982, in the mergeable form of Agarwal et al. 2012, "Mergeable
    /// summaries": what is lost of a count is at most `rows / (MOST_NAMES + 1)`.
    fn shrink(&mut self) {
        if self.rows.len() <= MOST_NAMES {
            return;
        }
        self.more = true;
        let mut counts: Vec<_> = self.rows.values().copied().collect();
        let (_, &mut lost, _) = counts.select_nth_unstable_by(MOST_NAMES, |a, b| b.cmp(a));
        self.rows.retain(|_, rows| {
            *rows = rows.saturating_sub(lost);
            *rows > 0
        });
    }

    /// The values that most rows have, most first, then by value; `None` is null.
    pub fn most(&self, n: usize) -> Vec<Option<Vec<u8>>> {
        let nulls = (self.nulls > 0).then_some((self.nulls, None));
        let mut all: Vec<_> = self.rows.iter().map(|(name, rows)| (*rows, Some(name))).collect();
        all.extend(nulls);
        all.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(n).map(|(_, name)| name.cloned()).collect()
    }

    /// How many values there are, as far as they are held.
    pub fn n(&self) -> usize {
        self.rows.len() + usize::from(self.nulls > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_value_is_found_among_any_number_of_rare_ones() {
        let mut names = Names::default();
        for i in 0..300_000_u32 {
            names.add(Some(&i.to_le_bytes()), 1);
            if i % 1000 == 0 {
                names.add(Some(b"common"), 1);
                names.shrink();
            }
        }
        assert!(names.more && names.rows.len() <= MOST_NAMES + 1001);
        assert_eq!(names.most(1), [Some(b"common".to_vec())]);
    }
}
