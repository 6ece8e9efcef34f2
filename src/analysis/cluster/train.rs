//! k-means: centroids that a table's vectors are near to.
//!
//! Euclidean, on vectors of unit length; a centroid is the mean of its rows, not of unit length
//! itself, so inertia means what it does in scikit-learn. On a sample that is held in memory,
//! k-means++ and Lloyd's rounds; where the table has more rows, one round of mini-batches over all
//! of them (Sculley 2010, "Web-Scale K-Means Clustering", with each batch's rows added to their
//! centroid's mean at once), its row groups in shuffled order, then whole rounds.
//!
//! Products are the device's; sums are made here, in f64 and in order, so the same seed gives the
//! same centroids.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tch::{Device, Tensor};

use super::super::random::Random;
use super::super::unit::UnitColumn;
use super::Centroids;
use super::nearest::{Found, Nearest, upload};
use super::sample::Sample;
use super::seeding::plus_plus;
use crate::error::Error;
use crate::spec::TrainingSpec;

/// Beginnings that are tried for a few rounds; the best one goes on. Many centroids differ less.
const BEGINNINGS: [usize; 2] = [4, 1];
const MANY: usize = 1024;
const FEW_ROUNDS: u32 = 10;

/// With more centroids than this, random rows are the beginning, as in FAISS: k-means++ looks at
/// `k` times as many rows.
const TOO_MANY: usize = 16_384;

/// The share of inertia that a round has to take away for there to be another.
const WORTH_IT: f64 = 1e-5;

/// Squared distances below this are rounding.
const SAME: f32 = 1e-6;

/// Far rows that are remembered for centroids that have none.
const FAR: usize = 256;

/// Bytes of the default sample. On a CPU LibTorch has a copy.
const SAMPLE_BYTES: usize = 512 << 20;

/// What training gives.
pub struct Trained {
    pub centroids: Centroids,
    /// Rows with a vector.
    pub rows: u64,
    /// Rows that were held in memory.
    pub sampled: usize,
}

/// Trains `k` centroids, or as many as there are rows with a vector, if those are fewer.
///
/// Held in memory: the sample, and `k * dim` in f32 and f64.
pub fn train(
    column: &UnitColumn<'_>,
    k: usize,
    spec: &TrainingSpec,
    device: Device,
) -> Result<Trained, Error> {
    let by_default = (256 * k).max(65_536).min(SAMPLE_BYTES / (4 * column.dim.max(1)));
    let most = spec.sample.map_or(by_default, usize::from).max(k);
    let sample = Sample::gather(column, most, spec.seed)?;
    let k = k.min(sample.rows());
    let (rows, sampled) = (sample.seen, sample.rows());
    if k == 0 {
        let centroids = Centroids { values: Vec::new(), dim: column.dim };
        return Ok(Trained { centroids, rows, sampled });
    }
    let mut random = Random::new(spec.seed);
    let mut fit = fit_sample(&sample, k, spec, (&mut random, device))?;
    let is_part = sample.is_part();
    drop(sample);
    if is_part {
        mini_batches(column, spec, &mut fit, (&mut random, device))?;
        for _ in 0..spec.passes {
            fit.centroids = whole_round(column, &fit.centroids, device)?;
        }
    }
    Ok(Trained { centroids: fit.centroids, rows, sampled })
}

struct Fit {
    centroids: Centroids,
    /// Rows of each.
    counts: Vec<u64>,
    inertia: f64,
}

fn fit_sample(
    sample: &Sample,
    k: usize,
    spec: &TrainingSpec,
    (random, device): (&mut Random, Device),
) -> Result<Fit, Error> {
    let x = upload(&sample.values, sample.dim, device)
        .map_err(Error::torch("put the sample on the device"))?;
    let some = sample.some((16 * k).max(16_384));
    let mut best: Option<Fit> = None;
    for _ in 0..BEGINNINGS[usize::from(k > MANY)] {
        let begin = match k > TOO_MANY {
            true => Centroids { values: some[..k * sample.dim].to_vec(), dim: sample.dim },
            false => plus_plus(&some, (sample.dim, k), random, device)?,
        };
        let fit = lloyd(sample, &x, begin, (FEW_ROUNDS.min(spec.iterations.get()), device))?;
        if best.as_ref().is_none_or(|best| fit.inertia < best.inertia) {
            best = Some(fit);
        }
    }
    let best = best.expect("there is a beginning");
    lloyd(sample, &x, best.centroids, (spec.iterations.get(), device))
}

/// Rounds over a sample until they gain nothing. What it gives is what the last round began with.
fn lloyd(
    sample: &Sample,
    x: &Tensor,
    mut centroids: Centroids,
    (rounds, device): (u32, Device),
) -> Result<Fit, Error> {
    let (mut before, mut round) = (f64::INFINITY, 0);
    loop {
        let found = Nearest::new(&centroids, device)?.of_tensor(x)?;
        let inertia: f64 = found.squared.iter().map(|squared| f64::from(*squared)).sum();
        let mut sums = Sums::new(&centroids);
        sums.add(&found.labels, &sample.values);
        let none = sums.counts.iter().filter(|count| **count == 0).count();
        let gained = before - inertia > WORTH_IT * inertia;
        let far = farthest(&found, none);
        if round >= rounds || (!gained && far.is_empty()) {
            return Ok(Fit { centroids, counts: sums.counts, inertia });
        }
        centroids = sums.means(centroids, far.into_iter().map(|row| sample.row(row).to_vec()));
        (before, round) = (inertia, round + 1);
    }
}

/// The rows that are farthest from their centroid, at most `n`; none that are where it is.
fn farthest(found: &Found, n: usize) -> Vec<usize> {
    if n == 0 {
        return Vec::new();
    }
    let mut rows: Vec<_> =
        (0..found.squared.len()).filter(|row| found.squared[*row] > SAME).collect();
    rows.sort_by(|a, b| found.squared[*b].total_cmp(&found.squared[*a]).then(a.cmp(b)));
    rows.truncate(n);
    rows
}

/// One round over the table, `batch` rows at a time.
fn mini_batches(
    column: &UnitColumn<'_>,
    spec: &TrainingSpec,
    fit: &mut Fit,
    (random, device): (&mut Random, Device),
) -> Result<(), Error> {
    let mut pieces = column.table.pieces();
    random.shuffle(&mut pieces);
    let size = spec.batch.get().saturating_mul(column.dim);
    let mut waiting: Vec<f32> = Vec::new();
    for piece in pieces {
        column.read(piece, |_, unit| {
            waiting.extend(unit.values);
            while waiting.len() >= size {
                let rest = waiting.split_off(size);
                step(&waiting, fit, device)?;
                waiting = rest;
            }
            Ok(())
        })?;
    }
    match waiting.is_empty() {
        true => Ok(()),
        false => step(&waiting, fit, device),
    }
}

/// Adds the rows of a batch to the means that their centroids are.
fn step(batch: &[f32], fit: &mut Fit, device: Device) -> Result<(), Error> {
    let found = Nearest::new(&fit.centroids, device)?.of(batch)?;
    let mut sums = Sums::new(&fit.centroids);
    sums.add(&found.labels, batch);
    let dim = fit.centroids.dim;
    for (label, (added, total)) in sums.counts.iter().zip(&mut fit.counts).enumerate() {
        if *added == 0 {
            continue;
        }
        *total += added;
        let share = 1.0 / *total as f64;
        let sums = &sums.sums[label * dim..(label + 1) * dim];
        for (value, sum) in fit.centroids.values[label * dim..].iter_mut().zip(sums) {
            let value_now = f64::from(*value);
            *value = (value_now + (sum - *added as f64 * value_now) * share) as f32;
        }
    }
    Ok(())
}

/// One of Lloyd's rounds over the whole table.
fn whole_round(
    column: &UnitColumn<'_>,
    centroids: &Centroids,
    device: Device,
) -> Result<Centroids, Error> {
    let nearest = Nearest::new(centroids, device)?;
    let mut sums = Sums::new(centroids);
    // The nearest of the far ones first. A squared distance is not negative, so its bits order it.
    let mut far: BinaryHeap<(Reverse<u32>, u64, Vec<u32>)> = BinaryHeap::new();
    column.scan(|first, unit| {
        if unit.rows.is_empty() {
            return Ok(());
        }
        let found = nearest.of(&unit.values)?;
        sums.add(&found.labels, &unit.values);
        for (at, squared) in found.squared.iter().enumerate().filter(|(_, d)| **d > SAME) {
            let bits = squared.to_bits();
            if far.len() < FAR || far.peek().is_some_and(|(least, _, _)| bits > least.0) {
                let vector = &unit.values[at * column.dim..(at + 1) * column.dim];
                let row = first + u64::from(unit.rows[at]);
                far.push((Reverse(bits), row, vector.iter().map(|x| x.to_bits()).collect()));
                if far.len() > FAR {
                    far.pop();
                }
            }
        }
        Ok(())
    })?;
    let mut far = far.into_vec();
    far.sort_unstable_by_key(|(squared, row, _)| (*squared, *row));
    let vectors =
        far.into_iter().map(|(_, _, bits)| bits.into_iter().map(f32::from_bits).collect());
    Ok(sums.means(centroids.clone(), vectors))
}

/// Sums of the vectors of each centroid.
struct Sums {
    dim: usize,
    /// `[k, dim]`.
    sums: Vec<f64>,
    counts: Vec<u64>,
}

impl Sums {
    fn new(centroids: &Centroids) -> Self {
        let sums = vec![0.0; centroids.values.len()];
        Self { dim: centroids.dim, sums, counts: vec![0; centroids.k()] }
    }

    fn add(&mut self, labels: &[u32], vectors: &[f32]) {
        for (label, vector) in labels.iter().zip(vectors.chunks_exact(self.dim)) {
            let label = *label as usize;
            self.counts[label] += 1;
            let sums = &mut self.sums[label * self.dim..(label + 1) * self.dim];
            sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }

    /// The means; those of no rows go to `far`, or stay where they were when there is none left.
    fn means(self, mut old: Centroids, mut far: impl Iterator<Item = Vec<f32>>) -> Centroids {
        for (label, count) in self.counts.iter().enumerate() {
            let place = label * self.dim..(label + 1) * self.dim;
            if *count == 0 {
                if let Some(vector) = far.next() {
                    old.values[place].copy_from_slice(&vector);
                }
                continue;
            }
            let mean = self.sums[place.clone()].iter().map(|sum| (sum / *count as f64) as f32);
            old.values[place].iter_mut().zip(mean).for_each(|(value, mean)| *value = mean);
        }
        old
    }
}
