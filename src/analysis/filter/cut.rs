//! Where a share or a quantile of all scores cuts: the first of two passes over the table.
//!
//! Exact: it holds every score, 8 bytes a row. Nothing is decided about a row here.

use super::rules::{is_usable, numbers, text};
use crate::error::Error;
use crate::table::Table;

/// What decides about the threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cut {
    /// The share of the rows with a score that is kept at least.
    Top(f64),
    /// The quantile of those rows' scores, interpolated linearly.
    Quantile(f64),
    /// DataComp's: rows without a score count too, and one row more is kept.
    Datacomp(f64),
}

/// The scores of the rows that did not fail.
pub struct Scores {
    /// Those that are numbers, in no order.
    values: Vec<f64>,
    /// Those that are not.
    missing: usize,
}

impl Scores {
    /// Reads them, leaving out rows whose status is not ok.
    pub fn read(table: &Table, score: &str, status: Option<&str>) -> Result<Self, Error> {
        let columns: Vec<_> = [Some(score), status].into_iter().flatten().collect();
        let pieces = table.map(&columns, |_, batches| {
            let mut scores = Vec::new();
            for batch in batches {
                let batch = batch?;
                let usable = |row: usize| match status.map(|status| text(&batch, status)) {
                    Some(words) => std::str::from_utf8(words.value(row)).is_ok_and(is_usable),
                    None => true,
                };
                let all = numbers(&batch, score)?.into_iter().enumerate();
                scores.extend(all.filter(|(row, _)| usable(*row)).map(|(_, score)| score));
            }
            Ok(scores)
        })?;
        let mut values = pieces.concat();
        let all = values.len();
        values.retain(|score| !score.is_nan());
        Ok(Self { missing: all - values.len(), values })
    }

    /// The least score that is kept, NaN where none is.
    ///
    /// `Datacomp(1.0)` has none: there DataComp's script ends with an IndexError.
    pub fn threshold(mut self, cut: Cut) -> f64 {
        let n = self.values.len();
        match cut {
            Cut::Datacomp(fraction) => {
                // As Python's `int` does it.
                let rows = ((n + self.missing) as f64 * fraction) as usize;
                self.highest(rows)
            }
            Cut::Top(share) => {
                // A product that is whole but for rounding is whole.
                let rows = (n as f64 * share * (1.0 - 4.0 * f64::EPSILON)).ceil() as usize;
                self.highest(rows.max(1) - 1)
            }
            Cut::Quantile(q) => self.quantile(q),
        }
    }

    /// The score that so many are before, from the highest on.
    fn highest(&mut self, before: usize) -> f64 {
        if before >= self.values.len() {
            return f64::NAN;
        }
        *self.values.select_nth_unstable_by(before, |a, b| b.total_cmp(a)).1
    }

    /// As `numpy.quantile` has it by default: the same operations in the same order.
    fn quantile(&mut self, q: f64) -> f64 {
        let Some(last) = self.values.len().checked_sub(1) else { return f64::NAN };
        let at = last as f64 * q;
        let (below, share) = (at.floor() as usize, at - at.floor());
        let (_, low, above) = self.values.select_nth_unstable_by(below, f64::total_cmp);
        let low = *low;
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        if share >= 0.5 { high - (high - low) * (1.0 - share) } else { low + (high - low) * share }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(values: &[f64], missing: usize, cut: Cut) -> f64 {
        Scores { values: values.to_vec(), missing }.threshold(cut)
    }

    #[test]
    fn a_share_is_what_is_kept_at_least() {
        let tenths: Vec<_> = (0..10).map(|n| f64::from(n) / 10.0).collect();
        for (share, least) in [(0.3, 0.7), (0.31, 0.6), (0.7, 0.3), (1.0, 0.0), (1e-9, 0.9)] {
            assert_eq!(threshold(&tenths, 5, Cut::Top(share)), least, "{share}");
        }
        assert!(threshold(&[], 3, Cut::Top(0.5)).is_nan());
        assert_eq!(threshold(&[0.5], 0, Cut::Top(0.5)), 0.5);
    }

    #[test]
    fn datacomp_counts_rows_without_a_score_and_keeps_one_more() {
        let values = [0.1, 0.2, 0.3, 0.4];
        assert_eq!(threshold(&values, 0, Cut::Datacomp(0.5)), 0.2);
        assert_eq!(threshold(&values, 2, Cut::Datacomp(0.5)), 0.1);
        assert!(threshold(&values, 6, Cut::Datacomp(0.5)).is_nan());
    }
}
