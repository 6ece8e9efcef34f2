//! Numbers counted in equal steps: mean and quantiles of any number of rows in bounded memory.
//!
//! What the numbers are is not known here. Two counts of the same steps can be merged.

/// Scores lie between a cosine of -1 and a CLIPScore of 2.5.
const SCORES: (f64, f64) = (-1.0, 2.5);
/// The step of scores: their quantiles are exact to half of this.
const SCORE_STEP: f64 = 1e-4;

/// Counts of numbers, in steps. 280 kB for scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Bins {
    step: f64,
    /// The first bin is of the numbers around `first * step`.
    first: i64,
    counts: Vec<u64>,
    pub n: u64,
    sum: f64,
    pub min: f64,
    pub max: f64,
}

impl Bins {
    /// For cosines and CLIPScores. Numbers beyond their range count in the first and last bin.
    pub fn of_scores() -> Self {
        let n = ((SCORES.1 - SCORES.0) / SCORE_STEP).round() as usize + 1;
        Self::new(SCORE_STEP, (SCORES.0 / SCORE_STEP).round() as i64, n)
    }

    /// For numbers between two finite ones, which may be equal, in about `n` steps.
    pub fn between(low: f64, high: f64, n: usize) -> Self {
        let width = high / n as f64 - low / n as f64;
        // So that numbers divided by it stay apart, and finite.
        let step = width.max(low.abs().max(high.abs()) * 1e-12).max(1e-300);
        Self::new(step, (low / step).floor() as i64, n + 2)
    }

    /// For counts from 0 up to `most`; larger ones count as that.
    pub fn of_counts(most: usize) -> Self {
        Self::new(1.0, 0, most + 1)
    }

    fn new(step: f64, first: i64, n: usize) -> Self {
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { step, first, counts: vec![0; n], n: 0, sum: 0.0, min, max }
    }

    /// The same steps with nothing counted.
    pub fn emptied(&self) -> Self {
        Self::new(self.step, self.first, self.counts.len())
    }

    /// Whether every number that was counted has a bin of its own.
    pub fn holds_all(&self) -> bool {
        let last = self.value(self.counts.len() - 1);
        self.n == 0 || (self.min >= self.value(0) && self.max <= last)
    }

    /// Counts a finite number.
    pub fn add(&mut self, value: f64) {
        self.n += 1;
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        let bin = ((value / self.step).round() - self.first as f64).max(0.0) as usize;
        let last = self.counts.len() - 1;
        self.counts[bin.min(last)] += 1;
    }

    /// Adds what another count of the same steps has.
    pub fn merge(&mut self, other: &Self) {
        self.n += other.n;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, n)| *own += n);
    }

    fn value(&self, bin: usize) -> f64 {
        let at = self.first as f64 + bin as f64;
        // 6585 ten-thousandths are 0.6585; times 1e-4 they are 0.6585000000000001.
        let per_one = (1.0 / self.step).round();
        if (per_one * self.step - 1.0).abs() < f64::EPSILON { at / per_one } else { at * self.step }
    }

    /// The mean, or 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.sum / self.n.max(1) as f64
    }

    /// The smallest number with at least a share `q` of the numbers at or below it, to half a step.
    pub fn quantile(&self, q: f64) -> f64 {
        let wanted = (q * self.n as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bin, n) in self.counts.iter().enumerate() {
            below += n;
            if below >= wanted {
                return self.value(bin).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// How many numbers lie in each of `n` bars of `width` from 0 on. For counts.
    pub fn bars(&self, width: usize, n: usize) -> Vec<u64> {
        let bar = |bar: usize| self.counts.iter().skip(bar * width).take(width).sum();
        (0..n).map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_of_scores_is_a_number_of_four_digits() {
        let mut bins = Bins::of_scores();
        bins.add(0.65848);
        bins.add(0.65852);
        assert_eq!(bins.quantile(0.5), 0.6585);
    }

    #[test]
    fn quantiles_of_any_range_are_within_a_step() {
        for (low, high) in [(0.0, 10.0), (-1e9, 1e9), (1e15, 1e15 + 8.0), (-3.0, -2.999)] {
            let mut bins = Bins::between(low, high, 10_000);
            let at = |i: u32| low + (high - low) * f64::from(i) / 1000.0;
            (0..=1000).for_each(|i| bins.add(at(i)));
            assert!(bins.holds_all(), "{low}");
            for q in [0.0, 0.25, 0.5, 1.0] {
                let off = (bins.quantile(q) - (low + (high - low) * q)).abs();
                assert!(off <= (high - low) * 2e-3 + 1.0e-12 * high.abs() * 2e3, "{low} {q} {off}");
            }
        }
        let mut one = Bins::between(0.1, 0.1, 100);
        one.add(0.1);
        assert_eq!((one.quantile(0.5), one.mean()), (0.1, 0.1));
    }

    #[test]
    fn merged_is_as_if_counted_at_once() {
        let (mut a, mut b, mut all) = (Bins::of_scores(), Bins::of_scores(), Bins::of_scores());
        for i in 0..100 {
            let value = f64::from(i) * 0.03125 - 1.5;
            if i % 3 == 0 {
                a.add(value)
            } else {
                b.add(value)
            };
            all.add(value);
        }
        a.merge(&b);
        assert_eq!(a, all);
        assert!(!all.holds_all());
    }
}
