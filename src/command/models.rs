//! `clipmill models`: the families of models that can be read, or what one of them holds.
//!
//! The weights' headers are read, not the weights. README.md has the same table.

use serde_json::{Value, json};

use super::{encoder, table};
use crate::batch::ImageShape;
use crate::cli::ModelsArgs;
use crate::error::Error;
use crate::hub::Hub;
use crate::images::Preprocess;
use crate::model::ModelFiles;
use crate::model::architecture::fastvit::{FastVitConfig, Mixer, Stage};
use crate::model::architecture::{ImagePooling, Pooling, Sight, TowerConfig, Vision, VisionConfig};
use crate::spec::{CaptionSpec, Family, ModelPlace, PreprocessSpec};
use crate::text::Tokenizer;

pub fn models(args: &ModelsArgs) -> Result<(), Error> {
    match (&args.model, args.json) {
        (None, false) => table::print(&families()),
        (None, true) => table::print(&format!("{}\n", json!(Family::ALL.map(as_json)))),
        (Some(model), json) => one(model, json),
    }
}

/// What a family's folder holds, and what is done to images and captions for it.
struct About {
    folder: &'static str,
    preprocessing: &'static str,
    captions: &'static str,
}

impl About {
    fn of(family: Family) -> Self {
        match family {
            Family::Clip => Self {
                folder: "transformers' `CLIPModel`: config.json, model.safetensors, \
                         preprocessor_config.json, tokenizer.json",
                preprocessing: "`CLIPImageProcessor`: shortest side, centre crop (offset floored)",
                captions: "`CLIPTokenizerFast`: BPE, lower case; the end of text survives the cut",
            },
            Family::Siglip => Self {
                folder: "transformers' `SiglipModel` (SigLIP; SigLIP 2 of a fixed resolution) or \
                         `Siglip2Model` (SigLIP 2 NaFlex): the same files and \
                         tokenizer_config.json",
                preprocessing: "`SiglipImageProcessor`: squashed to a square; \
                                `Siglip2ImageProcessor`: the image's own shape, in at most \
                                max_num_patches patches",
                captions: "as tokenizer_class says: `SiglipTokenizer` lower-cases and drops \
                           punctuation, `Siglip2Tokenizer` lower-cases, `GemmaTokenizer` does \
                           neither; padded to the context",
            },
            Family::ChineseClip => Self {
                folder: "transformers' `ChineseCLIPModel`: config.json, model.safetensors, \
                         preprocessor_config.json, tokenizer.json or vocab.txt",
                preprocessing: "`ChineseCLIPImageProcessor`: as `clip`",
                captions: "`BertTokenizer`: WordPiece, lower case unless tokenizer_config.json \
                           says otherwise",
            },
            Family::OpenClip => Self {
                folder: "OpenCLIP's own, with its own ViT or timm's of SigLIP, PE, EVA-02, \
                         MobileCLIP or MobileCLIP2, its own text tower or XLM-RoBERTa: \
                         open_clip_config.json, open_clip_model.safetensors, tokenizer.json",
                preprocessing: "`image_transform`: shortest side, longest side or squash; centre \
                                crop (offset rounded)",
                captions: "text mended as ftfy does, but for wrong encodings, then \
                           `SimpleTokenizer` (BPE, lower case; zeros up to the context where the \
                           tower sees them), or `HFTokenizer` (tokenizer.json, case and \
                           punctuation as tokenizer_kwargs says; padded to the context but for \
                           XLM-RoBERTa)",
            },
        }
    }
}

/// The table of README.md.
fn families() -> String {
    let mut lines = vec![
        "| `[model.…]` | the folder | images | captions |".to_owned(),
        "|---|---|---|---|".to_owned(),
    ];
    for family in Family::ALL {
        let About { folder, preprocessing, captions } = About::of(family);
        lines.push(format!("| `{family}` | {folder} | {preprocessing} | {captions} |"));
    }
    format!("{}\n", lines.join("\n"))
}

fn as_json(family: Family) -> Value {
    let About { folder, preprocessing, captions } = About::of(family);
    json!({
        "family": family,
        "folder": folder,
        "preprocessing": preprocessing,
        "captions": captions,
    })
}

/// What a folder holds.
fn one(place: &ModelPlace, as_json: bool) -> Result<(), Error> {
    let spec = encoder::found(place, None, Hub::Shown)?;
    let files = ModelFiles::open(&spec)?;
    let architecture = files.architecture();
    let preprocess = Preprocess::of(&spec, &PreprocessSpec::default())?;
    let tokenizer = Tokenizer::of(&spec, files.context_length(), &CaptionSpec::default())?;
    let (vision, text) = (&architecture.vision, &architecture.text);
    let pixels: Value = serde_json::from_str(&preprocess.describe()).unwrap_or_default();
    let found = json!({
        "family": spec.family(),
        "dir": spec.dir,
        "parameters": files.n_parameters(),
        "embedding_dim": architecture.embedding_dim,
        "image_tower": match vision {
            Vision::Transformer(config) => transformer(config, preprocess.shape()),
            Vision::FastVit(config) => fastvit(config),
        },
        "text_tower": {
            "context": text.context_length,
            "vocabulary": text.vocab_size,
            "blocks": tower(&text.tower),
            "sight": match text.sight {
                Sight::Causal => "causal",
                Sight::Full => "full",
            },
            "pooling": match text.pooling {
                Pooling::HighestId => "first token of the highest id".to_owned(),
                Pooling::FirstOf(id) => format!("first token {id}"),
                Pooling::Last => "last token".to_owned(),
                Pooling::First => "first token".to_owned(),
                Pooling::FirstThroughTanh => "first token, through a tanh".to_owned(),
                Pooling::Mean => "mean of the tokens".to_owned(),
            },
        },
        "preprocessing": pixels,
        "captions": About::of(spec.family()).captions,
        "padding_token": tokenizer.pad(),
    });
    match as_json {
        true => table::print(&format!("{found}\n")),
        false => table::print(&format!("{}\n", table::table(&[], rows(&found, ""), &[]))),
    }
}

fn transformer(vision: &VisionConfig, shape: ImageShape) -> Value {
    let (side, tokens) = match shape {
        ImageShape::Whole { .. } => (json!(vision.image_size), vision.tokens()),
        ImageShape::Patches { most, .. } => (json!("the image's own"), most as i64),
    };
    json!({
        "side": side,
        "patch": vision.patch_size,
        "tokens": tokens,
        "blocks": tower(&vision.tower),
        "pooling": match vision.pooling {
            ImagePooling::ClassToken => "class token",
            ImagePooling::Attention { .. } => "attention",
        },
    })
}

fn fastvit(vision: &FastVitConfig) -> Value {
    let list =
        |of: fn(&Stage) -> String| vision.stages.iter().map(of).collect::<Vec<_>>().join(", ");
    json!({
        "side": vision.image_size,
        "grid": vision.grid(),
        "blocks": list(|stage| stage.blocks.to_string()),
        "widths": list(|stage| stage.width.to_string()),
        "mixers": list(|stage| match stage.mixer {
            Mixer::Convolution => "convolution".to_owned(),
            Mixer::Attention { heads, .. } => format!("attention of {heads} heads"),
        }),
        "pooling": "mean",
    })
}

fn tower(tower: &TowerConfig) -> Value {
    json!({
        "layers": tower.layers,
        "width": tower.width,
        "heads": tower.heads,
        "mlp_width": tower.mlp_width,
        "activation": tower.activation.as_str(),
    })
}

/// A JSON object as lines, what is inside of it further in.
fn rows(value: &Value, indent: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        let name = format!("{indent}{}", key.replace('_', " "));
        match value {
            Value::Object(_) => {
                lines.push(vec![name, String::new()]);
                lines.extend(rows(value, &format!("{indent}  ")));
            }
            Value::String(text) => lines.push(vec![name, text.clone()]),
            other => lines.push(vec![name, other.to_string()]),
        }
    }
    lines
}
