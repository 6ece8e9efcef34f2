//! Thresholds in round numbers over the range where scores lie, and rows counted exactly at them.

use super::columns::Rounding;
use crate::analysis::bins::Bins;

/// Bars and thresholds of a histogram: round numbers, each decimal exactly what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Ruler {
    /// In `unit`s.
    low: i64,
    /// Units a threshold, and thresholds a bar.
    step: i64,
    per_bar: i64,
    pub bars: usize,
    /// Digits after the point; a unit is one of the last.
    pub decimals: usize,
    /// Decimal exponent of a unit.
    exponent: i32,
}

/// A bar is the next round number from this share of the range on.
const BARS: f64 = 64.0;

impl Ruler {
    /// Over the range of the scores and of `cut`; where few lie far out, over that of the others.
    pub fn over(scores: &Bins, cut: Option<f64>) -> Self {
        let (mut low, mut high) = (scores.min, scores.max);
        let (near_low, near_high) = (scores.quantile(0.001), scores.quantile(0.999));
        let near = near_high - near_low;
        if near > 0.0 && high - low > 2.0 * near {
            (low, high) = (low.max(near_low - near / 4.0), high.min(near_high + near / 4.0));
        }
        if let Some(cut) = cut {
            (low, high) = (low.min(cut), high.max(cut));
        }
        if low == high {
            // All the same: some room around it.
            high = low + (low.abs() / 10.0).max(0.01);
        }
        let bar = ((high - low) / BARS).max(low.abs().max(high.abs()) * 1e-8).max(1e-12);
        let exponent = bar.log10().floor();
        let digit = bar / 10_f64.powf(exponent);
        // Of one more digit: units a threshold, thresholds a bar.
        let (exponent, step, per_bar) = match digit {
            d if d <= 2.0 => (exponent as i32 - 1, 1, 20),
            d if d <= 5.0 => (exponent as i32 - 1, 2, 25),
            _ => (exponent as i32, 1, 10),
        };
        let width = (step * per_bar) as f64 * 10_f64.powi(exponent);
        let first = (low / width).floor();
        let bars = ((high / width).floor() - first) as usize + 1;
        let low = first as i64 * step * per_bar;
        Self { low, step, per_bar, bars, decimals: (-exponent).max(0) as usize, exponent }
    }

    fn at(&self, units: i64) -> f64 {
        // Through text, so that 0.28 is the number that 0.28 is elsewhere.
        format!("{units}e{}", self.exponent).parse().unwrap_or(f64::NAN)
    }

    /// The edges of the bars: one more than there are bars.
    pub fn edges(&self) -> Vec<f64> {
        (0..=self.bars as i64).map(|i| self.at(self.low + i * self.step * self.per_bar)).collect()
    }

    /// How wide a bar is, written.
    pub fn width(&self) -> String {
        format!("{}", self.at(self.step * self.per_bar))
    }

    /// Some edges to write at the axis, at most about `most`: round numbers of round bars.
    pub fn ticks(&self, most: usize) -> Vec<f64> {
        let first = self.low / (self.step * self.per_bar);
        let every = [1, 2, 5, 10, 20, 50, 100];
        let fits = |every: &&i64| self.bars / **every as usize <= most;
        let every = every.iter().find(fits).copied().unwrap_or(100);
        let edges = self.edges();
        let is_tick = |index: &usize| (first + *index as i64) % every == 0;
        (0..=self.bars).filter(is_tick).map(|index| edges[index]).collect()
    }

    /// Every threshold, in order, from the first edge to the last, and `cut`, whatever it is.
    pub fn thresholds(&self, cut: f64) -> Vec<f64> {
        let n = self.bars as i64 * self.per_bar;
        let mut all: Vec<_> = (0..=n).map(|i| self.at(self.low + i * self.step)).collect();
        if let Err(at) = all.binary_search_by(|x| x.total_cmp(&cut)) {
            all.insert(at, cut);
        }
        all
    }

    /// A score in the ruler's decimals.
    pub fn write(&self, value: f64) -> String {
        let text = format!("{value:.*}", self.decimals);
        // As many as it takes to tell a threshold that lies between.
        if text.parse() == Ok(value) || self.decimals > 12 { text } else { format!("{value}") }
    }
}

/// Rows counted between limits, exactly: how many have a score of a limit or more.
#[derive(Debug, Clone, PartialEq)]
pub struct Above {
    /// Ascending, rounded as the column's numbers are.
    limits: Vec<f64>,
    /// Rows below the first limit, between it and the next, and so on.
    between: Vec<u64>,
}

impl Above {
    pub fn new(limits: &[f64], rounding: Rounding) -> Self {
        let limits: Vec<_> = limits.iter().map(|limit| rounding.round(*limit)).collect();
        let between = vec![0; limits.len() + 1];
        Self { limits, between }
    }

    pub fn add(&mut self, score: f64) {
        self.between[self.limits.partition_point(|limit| *limit <= score)] += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        self.between.iter_mut().zip(&other.between).for_each(|(own, n)| *own += n);
    }

    /// Rows below the first limit, between limits, and from the last limit on.
    pub fn between(&self) -> &[u64] {
        &self.between
    }

    /// For each limit, the rows with that score or more.
    pub fn kept(&self) -> Vec<u64> {
        let mut above = 0;
        let mut kept: Vec<_> = self.between[1..]
            .iter()
            .rev()
            .map(|n| {
                above += n;
                above
            })
            .collect();
        kept.reverse();
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(scores: &[f64]) -> Bins {
        let (low, high) = (scores[0], scores[scores.len() - 1]);
        let mut bins = Bins::between(low, high, 1000);
        scores.iter().for_each(|score| bins.add(*score));
        bins
    }

    #[test]
    fn thresholds_are_the_decimals_that_they_are_written_as() {
        for scores in [&[-0.39, 0.5, 0.8226][..], &[0.0, 4.0, 10.0], &[0.3, 0.3], &[-7e9, 2e9]] {
            let ruler = Ruler::over(&bins(scores), None);
            assert!((1..=80).contains(&ruler.bars), "{scores:?}: {ruler:?}");
            let (edges, all) = (ruler.edges(), ruler.thresholds(ruler.edges()[0]));
            assert!(edges[0] <= scores[0] && edges[ruler.bars] > scores[scores.len() - 1]);
            assert_eq!(ruler.write(all[7]).parse(), Ok(all[7]));
            assert!(edges.iter().all(|edge| all.contains(edge)));
            assert!(all.is_sorted());
        }
        let ruler = Ruler::over(&bins(&[-0.39, 0.8226]), Some(0.28));
        assert!(ruler.thresholds(0.28).contains(&0.28));
        assert_eq!(ruler.write(0.28), "0.280");
        assert!(ruler.thresholds(0.28123).contains(&0.28123));
        assert_eq!(ruler.write(0.28123), "0.28123");
    }

    #[test]
    fn far_out_scores_do_not_flatten_the_rest() {
        let mut bins = Bins::between(0.0, 1000.0, 35_000);
        (0..10_000).for_each(|i| bins.add(f64::from(i) / 10_000.0));
        bins.add(1000.0);
        let ruler = Ruler::over(&bins, None);
        assert!(ruler.edges()[ruler.bars] < 3.0, "{ruler:?}");
    }

    #[test]
    fn rows_at_a_limit_are_above_it_in_the_columns_own_type() {
        let mut above = Above::new(&[0.1, 0.7], Rounding::F32);
        [0.7_f32, 0.1, 0.099, 5.0].into_iter().for_each(|score| above.add(f64::from(score)));
        assert_eq!(above.between(), [1, 1, 2]);
        assert_eq!(above.kept(), [3, 2]);
    }
}
