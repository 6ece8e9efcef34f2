//! Scores of an image-caption pair: pure functions, each with its formula and source.
//!
//! Nothing here knows about tables or models; `columns` calls these per row.

/// Cosine similarity of two unit-length embeddings of the same length: their dot product.
///
/// Summed in f64, so that the order of the terms does not show in the f32 result, and clamped
/// to [-1, 1], which rounding of the embeddings can leave by 1e-7.
///
/// Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
/// Supervision", figure 3.
pub fn cosine(image: &[f32], text: &[f32]) -> f32 {
    debug_assert_eq!(image.len(), text.len());
    let dot: f64 = image.iter().zip(text).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    dot.clamp(-1.0, 1.0) as f32
}

/// CLIPScore without a prompt: `2.5 * max(cosine, 0)`, in [0, 2.5].
///
/// Source: Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation Metric for Image
/// Captioning", equation 1. The paper's captions begin with "A photo depicts"; the caption is
/// scored here as it stands in the table.
pub fn clip_score(cosine: f32) -> f32 {
    2.5 * cosine.max(0.0)
}

/// The probability that image and text belong together, each pair by itself, in [0, 1]:
/// `sigmoid(logit_scale * cosine + logit_bias)`.
///
/// Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2.
pub fn siglip_probability(cosine: f32, logit_scale: f32, logit_bias: f32) -> f32 {
    let logit = f64::from(logit_scale) * f64::from(cosine) + f64::from(logit_bias);
    (1.0 / (1.0 + (-logit).exp())) as f32
}

/// RefCLIPScore: the harmonic mean of the candidate's CLIPScore and of the greatest cosine
/// similarity of the candidate with a reference, 0 where either is not above 0; in [0, 1.43].
///
/// Source: Hessel et al. 2021, equation 2, and its implementation (jmhessel/clipscore,
/// `clipscore.py`).
pub fn ref_clip_score(clip_score: f32, nearest_reference: f32) -> f32 {
    let nearest = nearest_reference.max(0.0);
    match clip_score + nearest {
        sum if sum > 0.0 => 2.0 * clip_score * nearest / sum,
        _ => 0.0,
    }
}

/// Softmax over one image's texts of `logit_scale * cosine`: zero-shot probabilities.
///
/// Source: Radford et al. 2021, section 3.1.2.
pub fn softmax(cosines: &[f32], logit_scale: f32) -> Vec<f32> {
    let most = cosines.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<_> = cosines.iter().map(|s| ((s - most) * logit_scale).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_of_known_angles() {
        assert_eq!(cosine(&[1.0, 0.0], &[1.0, 0.0]), 1.0);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 1.0]), 0.0);
        assert_eq!(cosine(&[1.0, 0.0], &[-1.0, 0.0]), -1.0);
        assert!((cosine(&[0.6, 0.8], &[1.0, 0.0]) - 0.6).abs() < 1e-7);
    }

    #[test]
    fn cosine_stays_in_range_when_embeddings_are_a_little_too_long() {
        let long = [1.000_001, 0.0];
        assert_eq!(cosine(&long, &long), 1.0);
    }

    #[test]
    fn clip_score_is_zero_below_zero_and_scaled_above() {
        assert_eq!(clip_score(-0.3), 0.0);
        assert_eq!(clip_score(0.5), 1.25);
    }

    #[test]
    fn siglip_probability_is_a_half_where_scale_and_bias_meet() {
        assert_eq!(siglip_probability(0.125, 80.0, -10.0), 0.5);
        // 1 / (1 + e)
        assert!((siglip_probability(0.09, 100.0, -10.0) - 0.268_941_4).abs() < 1e-6);
        assert_eq!(siglip_probability(-1.0, 1e4, 0.0), 0.0);
    }

    #[test]
    fn ref_clip_score_is_a_harmonic_mean() {
        assert_eq!(ref_clip_score(0.5, 0.5), 0.5);
        assert!((ref_clip_score(1.0, 0.25) - 0.4).abs() < 1e-7);
        assert_eq!(ref_clip_score(0.0, 0.9), 0.0);
        assert_eq!(ref_clip_score(0.7, -0.2), 0.0);
        assert_eq!(ref_clip_score(0.0, 0.0), 0.0);
    }

    #[test]
    fn softmax_sums_to_one_and_follows_the_scale() {
        assert_eq!(softmax(&[0.2, 0.2], 100.0), [0.5, 0.5]);
        // exp(1) : 1
        let p = softmax(&[0.3, 0.2], 10.0);
        assert!((p[0] / p[1] - std::f32::consts::E).abs() < 1e-4);
    }
}
