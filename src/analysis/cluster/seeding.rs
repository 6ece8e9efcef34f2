//! Where k-means begins: k-means++, greedy.
//!
//! Source: Arthur and Vassilvitskii 2007, "k-means++: The Advantages of Careful Seeding"; each
//! centroid is the best of `2 + ln k` candidates, as in scikit-learn.

use tch::Device;

use super::super::random::Random;
use super::Centroids;
use super::nearest::{download, upload};
use crate::error::Error;

/// Squared distances below this are rounding.
const SAME: f32 = 1e-6;

/// Chooses k of packed unit vectors. Of fewer different ones than k, some are chosen again.
pub fn plus_plus(
    vectors: &[f32],
    (dim, k): (usize, usize),
    random: &mut Random,
    device: Device,
) -> Result<Centroids, Error> {
    let n = vectors.len() / dim;
    let x = upload(vectors, dim, device).map_err(Error::torch("put vectors on the device"))?;
    let row = |row: usize| &vectors[row * dim..(row + 1) * dim];
    // Squared distances of all vectors to some of them, `[n, some]`.
    let distances = |rows: &[usize]| -> Result<Vec<f32>, Error> {
        let some: Vec<f32> = rows.iter().flat_map(|at| row(*at)).copied().collect();
        let products =
            || download::<f32>(&x.f_matmul(&upload(&some, dim, device)?.f_transpose(0, 1)?)?);
        let products = products().map_err(Error::torch("measure distances"))?;
        let squared = products.into_iter().map(|cosine| 2.0 - 2.0 * cosine);
        Ok(squared.map(|squared| if squared < SAME { 0.0 } else { squared }).collect())
    };
    let trials = 2 + (k as f64).ln() as usize;
    let first = random.below(n);
    let mut values = row(first).to_vec();
    let mut closest = distances(&[first])?;
    while values.len() < k * dim {
        let candidates = candidates(&closest, trials, random);
        let all = distances(&candidates)?;
        let potential = |at: usize| -> f64 {
            let lengths = closest.iter().zip(all.iter().skip(at).step_by(trials));
            lengths.map(|(old, new)| f64::from(old.min(*new))).sum()
        };
        let potentials: Vec<_> = (0..trials).map(potential).collect();
        let best = (1..trials)
            .fold(0, |best, at| if potentials[at] < potentials[best] { at } else { best });
        for (old, new) in closest.iter_mut().zip(all.iter().skip(best).step_by(trials)) {
            *old = old.min(*new);
        }
        values.extend_from_slice(row(candidates[best]));
    }
    Ok(Centroids { values, dim })
}

/// Rows, each as likely as its squared distance is large.
fn candidates(closest: &[f32], n: usize, random: &mut Random) -> Vec<usize> {
    let mut sum = 0.0;
    let sums: Vec<f64> = closest
        .iter()
        .map(|squared| {
            sum += f64::from(*squared);
            sum
        })
        .collect();
    let pick = |_| match sum > 0.0 {
        true => {
            let at = random.unit() * sum;
            sums.partition_point(|sum| *sum <= at).min(closest.len() - 1)
        }
        false => random.below(closest.len()),
    };
    (0..n).map(pick).collect()
}
