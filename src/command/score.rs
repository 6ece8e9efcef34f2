//! `clipmill score`: a few images against a few captions, as tutorials show CLIP.
//!
//! The same preprocessing, tokenizing and towers as `run`, without a table. One bad image or
//! caption is an error here: the user named it.

use std::path::Path;

use serde_json::json;

use super::table;
use crate::batch::{Captions, Embeddings, Pixels};
use crate::cli::ScoreArgs;
use crate::error::{Error, RowError};
use crate::images::Preprocess;
use crate::model::clip::ClipFiles;
use crate::model::{DualEncoder, Towers, device};
use crate::score::cosine;
use crate::spec::{CaptionSpec, PreprocessSpec};
use crate::text::Tokenizer;

pub fn score(args: &ScoreArgs) -> Result<(), Error> {
    let files = ClipFiles::open(&args.model)?;
    let spec = PreprocessSpec::default();
    let preprocess = Preprocess::read(&args.model, &spec)?;
    let tokenizer = Tokenizer::read(&args.model, files.context_length(), &CaptionSpec::default())?;
    let pixels = pixels(args, &preprocess, &spec)?;
    let captions = captions(args, &tokenizer)?;
    let placement = device::resolve(args.device, args.precision)?.placement;
    let model = files.load(Towers::BOTH, preprocess.scale(), placement)?;
    let images = model.encode_image(&pixels)?;
    let texts = model.encode_text(&captions)?;
    let similarity = matrix(&images, &texts);
    table::print(&if args.json {
        as_json(args, &similarity, model.logit_scale())
    } else {
        as_text(args, &similarity)
    })
}

fn pixels(
    args: &ScoreArgs,
    preprocess: &Preprocess,
    spec: &PreprocessSpec,
) -> Result<Pixels, Error> {
    let (height, width) = (preprocess.height(), preprocess.width());
    let slot_bytes = height * width * 3;
    let mut data = vec![0; args.images.len() * slot_bytes];
    for (path, slot) in args.images.iter().zip(data.chunks_exact_mut(slot_bytes)) {
        let bytes = read(path, spec.max_bytes)?;
        let (_, outcome) = preprocess.apply(&bytes, slot);
        outcome.map_err(|error| bad_input("image", path.display().to_string(), &error))?;
    }
    Ok(Pixels { data, height, width, rows: (0..args.images.len() as u32).collect() })
}

/// A regular file of bounded size: a device or a FIFO has no end.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let found = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { what: "image", path: path.to_owned(), hint: String::new() }
        }
        _ => Error::Io { action: "read the image", path: path.to_owned(), source },
    })?;
    let refuse =
        |problem: String| Err(Error::Setting { key: format!("image {}", path.display()), problem });
    if !found.is_file() {
        return refuse("is not a regular file".into());
    }
    if found.len() > max_bytes {
        return refuse(format!("has {} bytes, more than {max_bytes}", found.len()));
    }
    std::fs::read(path).map_err(Error::io("read the image", path))
}

fn captions(args: &ScoreArgs, tokenizer: &Tokenizer) -> Result<Captions, Error> {
    let encode = |caption: &String| match tokenizer.encode(caption) {
        Ok((ids, _)) => Ok(ids),
        Err(error) => Err(bad_input("--caption", format!("{caption:?}"), &error)),
    };
    let ids = args.caption.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
    let rows = (0..ids.len() as u32).collect();
    Ok(Captions { ids, rows })
}

fn bad_input(what: &str, which: String, error: &RowError) -> Error {
    Error::Setting { key: format!("{what} {which}"), problem: error.message.clone() }
}

/// Cosine of every image with every caption, a row an image.
fn matrix(images: &Embeddings, texts: &Embeddings) -> Vec<Vec<f32>> {
    let row = |image| {
        let image = images.slot(image);
        (0..texts.rows.len()).map(|text| cosine(image, texts.slot(text))).collect()
    };
    (0..images.rows.len()).map(row).collect()
}

/// Softmax over one image's captions of `logit_scale * cosine`: zero-shot probabilities.
///
/// Source: Radford et al. 2021, section 3.1.2.
fn probabilities(similarity: &[f32], logit_scale: f32) -> Vec<f32> {
    let most = similarity.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<_> = similarity.iter().map(|s| ((s - most) * logit_scale).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn as_text(args: &ScoreArgs, similarity: &[Vec<f32>]) -> String {
    let captions = args.caption.iter().map(|caption| table::one_line(caption, 24));
    let header: Vec<_> = std::iter::once(String::new()).chain(captions).collect();
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    let rows = args.images.iter().zip(similarity).map(|(path, scores)| {
        let name = table::one_line(&path.display().to_string(), 48);
        std::iter::once(name).chain(scores.iter().map(|score| format!("{score:+.4}"))).collect()
    });
    let right: Vec<_> = (1..header.len()).collect();
    format!("{}\n", table::table(&header, rows.collect(), &right))
}

fn as_json(args: &ScoreArgs, similarity: &[Vec<f32>], logit_scale: f32) -> String {
    let probability = similarity.iter().map(|row| probabilities(row, logit_scale));
    let scores = json!({
        "model": args.model,
        "images": args.images,
        "captions": args.caption,
        "similarity": similarity,
        "probability": probability.collect::<Vec<_>>(),
    });
    format!("{scores:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_follow_the_scale() {
        let p = probabilities(&[0.2, 0.2], 100.0);
        assert_eq!(p, [0.5, 0.5]);
        // exp(1) : 1
        let p = probabilities(&[0.3, 0.2], 10.0);
        assert!((p[0] / p[1] - std::f32::consts::E).abs() < 1e-4);
    }
}
