//! Names for clusters: the words whose embeddings set a cluster apart from the others.
//!
//! Of plain cosines a few words would win everywhere, the ones that are near to all images. So
//! words are ranked by how much nearer they are to the cluster than to the mean of the clusters.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Centroids;

/// Words with their embeddings.
pub struct Words {
    pub texts: Vec<String>,
    /// Of unit length, as long as the table's.
    pub vectors: Vec<Vec<f32>>,
}

/// A word of a cluster's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Name {
    pub word: String,
    /// Cosine of the word and the cluster's centroid.
    pub cosine: f32,
}

/// For each centroid the best `n` words, the best first.
pub fn names(centroids: &Centroids, words: &Words, n: usize) -> Vec<Vec<Name>> {
    let k = centroids.k();
    let units: Vec<Vec<f32>> = (0..k).map(|label| unit(centroids.get(label))).collect();
    let mut mean = vec![0.0; centroids.dim];
    // One cluster is not set apart from anything.
    if k > 1 {
        for unit in &units {
            mean.iter_mut().zip(unit).for_each(|(sum, value)| *sum += value / k as f32);
        }
    }
    let common: Vec<f32> = words.vectors.iter().map(|word| dot(word, &mean)).collect();
    let name = |unit: &Vec<f32>| {
        let cosines: Vec<f32> = words.vectors.iter().map(|word| dot(word, unit)).collect();
        let mut order: Vec<usize> = (0..cosines.len()).collect();
        let lead = |at: usize| cosines[at] - common[at];
        order.sort_by(|a, b| lead(*b).total_cmp(&lead(*a)).then(a.cmp(b)));
        order.truncate(n);
        let word = |at: usize| Name { word: words.texts[at].clone(), cosine: cosines[at] };
        order.into_iter().map(word).collect()
    };
    units.par_iter().map(name).collect()
}

fn unit(vector: &[f32]) -> Vec<f32> {
    let length = dot(vector, vector).sqrt();
    let scale = if length > 0.0 { length.recip() } else { 0.0 };
    vector.iter().map(|value| value * scale).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_near_to_all_names_none() {
        // Both clusters are nearest to "thing"; "red" and "blue" set them apart.
        let centroids = Centroids { values: vec![0.9, 0.4, 0.0, 0.9, 0.0, 0.4], dim: 3 };
        let words = Words {
            texts: ["thing", "red", "blue"].map(str::to_owned).to_vec(),
            vectors: vec![vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]],
        };
        let found = names(&centroids, &words, 2);
        assert_eq!((found[0][0].word.as_str(), found[1][0].word.as_str()), ("red", "blue"));
        assert_eq!(found[0].len(), 2);
        let one = Centroids { values: vec![0.9, 0.4, 0.0], dim: 3 };
        assert_eq!(names(&one, &words, 1)[0][0].word, "thing");
    }
}
