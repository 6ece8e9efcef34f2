//! `clipmill score`: a few images against a few captions, as tutorials show CLIP.

use serde_json::json;

use super::encoder::Encoder;
use super::table;
use crate::cli::ScoreArgs;
use crate::error::Error;
use crate::model::Towers;
use crate::score::{cosine, softmax};

pub fn score(args: &ScoreArgs) -> Result<(), Error> {
    let encoder = Encoder::open(&args.model_place(), &args.model, Towers::BOTH)?;
    let texts = encoder.texts("--caption", &args.caption)?;
    let images = encoder.images(&args.images)?;
    let row = |image: &Vec<f32>| texts.iter().map(|text| cosine(image, text)).collect();
    let similarity: Vec<_> = images.iter().map(row).collect();
    table::print(&if args.json {
        as_json(args, &similarity, encoder.logit_scale())
    } else {
        as_text(args, &similarity)
    })
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
    let probability = similarity.iter().map(|row| softmax(row, logit_scale));
    let scores = json!({
        "model": args.model_place().to_string(),
        "images": args.images,
        "captions": args.caption,
        "similarity": similarity,
        "probability": probability.collect::<Vec<_>>(),
    });
    format!("{scores:#}\n")
}
