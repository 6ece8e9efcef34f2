//! The second pass: rows counted exactly at thresholds and by group, and the rows that are shown.

use std::collections::{BTreeMap, HashMap};

use arrow::array::RecordBatch;

use super::captions::CaptionTally;
use super::columns::Columns;
use super::fold::Count;
use super::ruler::Above;
use super::values::{Score, Values, each_name};
use crate::analysis::bins::Bins;
use crate::analysis::lowest::Lowest;
use crate::error::Error;

/// The most status words that are told apart.
const MOST_STATUSES: usize = 64;
/// What the rows of further ones are counted as.
const OTHER_STATUS: &str = "(other)";
/// Rows shown of each status.
const EXAMPLES: usize = 3;

/// What the second pass is to look for. Shared by all threads.
pub struct Look {
    pub columns: Columns,
    pub seed: u64,
    /// Thresholds of the slider, ascending.
    pub thresholds: Vec<f64>,
    /// Deciles to compare with.
    pub deciles: Vec<f64>,
    pub cut: f64,
    /// Empty, in the steps that the scores are counted in.
    pub bins: Bins,
    /// For each column to group by, which group a value is. Others go to the last one.
    pub groups: Vec<HashMap<Option<Vec<u8>>, usize>>,
    /// Pairs kept of each kind, and of each stratum of the range of scores.
    pub pairs: usize,
    pub strata: usize,
    pub a_stratum: usize,
}

/// A row that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// Counted over the whole table.
    pub row: u64,
    pub score: Option<f64>,
    pub caption: Option<String>,
    /// What the image column says.
    pub image: Option<Vec<u8>>,
    pub status: Option<String>,
    pub error_message: Option<String>,
}

/// Rows that failed alike.
#[derive(Debug, Clone)]
pub struct Failed {
    pub rows: u64,
    pub examples: Lowest<Pair>,
}

/// Scores of the rows of one group.
#[derive(Debug, Clone)]
pub struct GroupTally {
    /// Rows that are ok, with a score or without.
    pub rows: u64,
    pub scores: Bins,
}

/// What has been counted.
pub struct Tally<'a> {
    look: &'a Look,
    pub rows: u64,
    pub ok: u64,
    /// Rows that are ok and have a score that is NaN or infinite, or none.
    pub not_finite: u64,
    pub unscored: u64,
    pub failed: BTreeMap<String, Failed>,
    pub kept: Above,
    pub deciles: Above,
    pub worst: Lowest<Pair>,
    pub best: Lowest<Pair>,
    pub random: Lowest<Pair>,
    /// Nearest to the cut, on either side.
    pub below: Lowest<Pair>,
    pub above: Lowest<Pair>,
    pub strata: Vec<Lowest<Pair>>,
    pub captions: CaptionTally,
    pub groups: Vec<Vec<GroupTally>>,
}

impl<'a> Tally<'a> {
    pub fn new(look: &'a Look) -> Self {
        let kept = || Lowest::new(look.pairs);
        let group = || GroupTally { rows: 0, scores: look.bins.emptied() };
        let groups = |names: &HashMap<_, _>| (0..=names.len()).map(|_| group()).collect();
        Self {
            look,
            rows: 0,
            ok: 0,
            not_finite: 0,
            unscored: 0,
            failed: BTreeMap::new(),
            kept: Above::new(&look.thresholds, look.columns.rounding),
            deciles: Above::new(&look.deciles, look.columns.rounding),
            worst: kept(),
            best: kept(),
            random: kept(),
            below: kept(),
            above: kept(),
            strata: vec![Lowest::new(look.a_stratum); look.strata],
            captions: CaptionTally::default(),
            groups: look.groups.iter().map(groups).collect(),
        }
    }

    fn failed(&mut self, row: u64, pair: impl Fn() -> Pair) {
        let mut word = pair().status.unwrap_or_else(|| "null".to_owned());
        if !self.failed.contains_key(&word) && self.failed.len() >= MOST_STATUSES {
            word = OTHER_STATUS.to_owned();
        }
        let new = || Failed { rows: 0, examples: Lowest::new(EXAMPLES.min(self.look.pairs)) };
        let failed = self.failed.entry(word).or_insert_with(new);
        failed.rows += 1;
        failed.examples.keep(0.0, row, pair);
    }

    fn scored(&mut self, row: u64, score: f64, pair: impl Fn() -> Pair) {
        self.kept.add(score);
        self.deciles.add(score);
        if self.look.pairs == 0 {
            return;
        }
        self.worst.keep(score, row, &pair);
        self.best.keep(-score, row, &pair);
        let cut = self.look.columns.rounding.round(self.look.cut);
        let (side, distance) = match score >= cut {
            true => (&mut self.above, score - cut),
            false => (&mut self.below, cut - score),
        };
        side.keep(distance, row, &pair);
        let [low, .., high] = self.look.thresholds[..] else { return };
        let share = (score - low) / (high - low) * self.strata.len() as f64;
        let last = self.strata.len().saturating_sub(1);
        if let Some(stratum) = self.strata.get_mut((share.max(0.0) as usize).min(last)) {
            stratum.keep(drawn(self.look.seed ^ 1, row), row, &pair);
        }
    }

    fn grouped(&mut self, batch: &RecordBatch, values: &Values) -> Result<(), Error> {
        let columns = self.look.columns.by.iter().zip(&self.look.groups);
        for ((column, index), groups) in columns.zip(&mut self.groups) {
            let other = groups.len() - 1;
            let mut key = Some(Vec::new());
            each_name(batch, column, |row, name| {
                if !values.is_ok(row) {
                    return;
                }
                match (name, &mut key) {
                    (Some(name), Some(key)) => {
                        key.clear();
                        key.extend(name);
                    }
                    (name, key) => *key = name.map(<[u8]>::to_vec),
                }
                let group = &mut groups[index.get(&key).copied().unwrap_or(other)];
                group.rows += 1;
                if let Score::Of(score) = values.score(row) {
                    group.scores.add(score);
                }
            })?;
        }
        Ok(())
    }
}

impl Count for Tally<'_> {
    fn add(&mut self, first: u64, batch: &RecordBatch) -> Result<(), Error> {
        let values = Values::of(batch, &self.look.columns)?;
        self.rows += batch.num_rows() as u64;
        for at in 0..batch.num_rows() {
            let row = first + at as u64;
            let score = values.score(at);
            let pair = || Pair {
                row,
                score: if let Score::Of(score) = score { Some(score) } else { None },
                caption: values.caption.get(at),
                image: values.image.raw(at).map(<[u8]>::to_vec),
                status: values.status.get(at),
                error_message: values.error_message.get(at),
            };
            if self.look.columns.caption.is_some() {
                self.captions.add(values.caption.raw(at), values.tokens(at), values.truncated(at));
            }
            if !values.is_ok(at) {
                self.failed(row, pair);
                continue;
            }
            self.ok += 1;
            self.random.keep(drawn(self.look.seed, row), row, pair);
            match score {
                Score::Of(score) => self.scored(row, score, pair),
                Score::NotFinite => self.not_finite += 1,
                Score::None => self.unscored += 1,
            }
        }
        self.grouped(batch, &values)
    }

    fn merge(&mut self, later: Self) {
        self.rows += later.rows;
        self.ok += later.ok;
        self.not_finite += later.not_finite;
        self.unscored += later.unscored;
        for (mut word, failed) in later.failed {
            if !self.failed.contains_key(&word) && self.failed.len() >= MOST_STATUSES {
                word = OTHER_STATUS.to_owned();
            }
            match self.failed.get_mut(&word) {
                Some(own) => {
                    own.rows += failed.rows;
                    own.examples.merge(failed.examples);
                }
                None => drop(self.failed.insert(word, failed)),
            }
        }
        self.kept.merge(&later.kept);
        self.deciles.merge(&later.deciles);
        self.worst.merge(later.worst);
        self.best.merge(later.best);
        self.random.merge(later.random);
        self.below.merge(later.below);
        self.above.merge(later.above);
        self.strata.iter_mut().zip(later.strata).for_each(|(own, other)| own.merge(other));
        self.captions.merge(&later.captions);
        for (own, other) in self.groups.iter_mut().flatten().zip(later.groups.iter().flatten()) {
            own.rows += other.rows;
            own.scores.merge(&other.scores);
        }
    }
}

/// A number in 0..1 for a row, the same for the same seed.
///
/// Source: the output function of SplitMix64 (Steele, Lea and Flood 2014).
fn drawn(seed: u64, row: u64) -> f64 {
    let mut z = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(row);
    z = z.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}
