//! Whether the scores are spread as they were before: the population stability index.

/// Two tables' scores in the deciles of the old ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Drift {
    /// Between deciles, ascending, each once: one fewer than there are shares.
    pub edges: Vec<f64>,
    /// Rows of the old table and of the new one in each.
    pub rows: Vec<(u64, u64)>,
    pub psi: f64,
    /// What two samples of one population exceed once in twenty times.
    pub by_chance: f64,
}

/// How far apart, by the rule of thumb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Below 0.1.
    Little,
    /// Up to 0.25.
    Some,
    Much,
}

impl Drift {
    /// Compares counts in the same intervals. `None` where either has no rows.
    pub fn of(edges: Vec<f64>, old: &[u64], new: &[u64]) -> Option<Self> {
        let (n, m) = (old.iter().sum::<u64>(), new.iter().sum::<u64>());
        if n == 0 || m == 0 {
            return None;
        }
        let rows: Vec<_> = old.iter().copied().zip(new.iter().copied()).collect();
        let psi = rows.iter().map(|(a, b)| term((*a, n), (*b, m))).sum();
        let scale = 1.0 / n as f64 + 1.0 / m as f64;
        let by_chance = chi_square_95(rows.len() - 1) * scale;
        Some(Self { edges, rows, psi, by_chance })
    }

    /// Source: Siddiqi, "Credit Risk Scorecards", 2006: below 0.1 no significant change, 0.1 to
    /// 0.25 some, above 0.25 a shift.
    pub fn verdict(&self) -> Verdict {
        match self.psi {
            psi if psi < 0.1 => Verdict::Little,
            psi if psi <= 0.25 => Verdict::Some,
            _ => Verdict::Much,
        }
    }
}

/// `(b - a) ln(b / a)` of two shares. No rows count as half a row, so that there is a logarithm.
pub fn term((old, n): (u64, u64), (new, m): (u64, u64)) -> f64 {
    let share = |rows: u64, all: u64| (rows as f64).max(0.5) / all as f64;
    let (a, b) = (share(old, n), share(new, m));
    (b - a) * (b / a).ln()
}

/// The 95 % quantile of chi-square with `k` degrees of freedom, 0 for none.
///
/// PSI is about chi-square times `1/n + 1/m` where nothing changed: Yurdakul and Naranjo 2020,
/// "Statistical properties of the population stability index". The quantile is Wilson and
/// Hilferty's (1931), to 1 % from 2 degrees on.
fn chi_square_95(k: usize) -> f64 {
    if k == 0 {
        return 0.0;
    }
    let k = k as f64;
    let ninth = 2.0 / (9.0 * k);
    k * (1.0 - ninth + 1.644_853_627 * ninth.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_0_and_a_known_case_is_right() {
        let same = Drift::of(vec![0.5], &[10, 30], &[20, 60]).expect("rows");
        assert_eq!((same.psi, same.verdict()), (0.0, Verdict::Little));
        // (0.5 - 0.25) ln 2 + (0.5 - 0.75) ln (2 / 3)
        let moved = Drift::of(vec![0.5], &[25, 75], &[50, 50]).expect("rows");
        assert!((moved.psi - 0.274_653_072).abs() < 1e-9, "{}", moved.psi);
        assert_eq!(moved.verdict(), Verdict::Much);
        // Half a row of 100.
        let gone = Drift::of(vec![0.5], &[50, 50], &[0, 100]).expect("rows");
        let by_hand = (0.005_f64 - 0.5) * (0.01_f64).ln() + 0.5 * 2_f64.ln();
        assert!((gone.psi - by_hand).abs() < 1e-12);
        assert_eq!(Drift::of(vec![], &[0], &[5]), None);
    }

    #[test]
    fn chance_follows_the_tables_of_chi_square() {
        // Abramowitz and Stegun, table 26.8.
        for (k, quantile) in [(1, 3.841), (4, 9.488), (9, 16.919)] {
            assert!((chi_square_95(k) - quantile).abs() < 0.03 * quantile, "{k}");
        }
    }
}
