//! The tokenizers of OpenCLIP's folders, behind open_clip's own cleaning: CLIP's words, or a
//! tokenizer of Hugging Face.
//!
//! `SimpleTokenizer` (tokenizer.py of open_clip 3.3) brings its vocabulary along; here it is read
//! from the folder's tokenizer.json, or vocab.json and merges.txt. What is not cleaned as there is
//! said in `ftfy`; its pattern, which ignores case, drops the mark U+0345, and is of another
//! version of Unicode, in which a few letters are none. `HFTokenizer` is transformers' class of the
//! folder's tokenizer.json, which is taken as it stands.

use std::path::Path;

use serde::Deserialize;

use super::clean::{Clean, OpenClip};
use super::hugging_face::{self, Class};
use super::{Rules, Side, clip, json};
use crate::error::Error;
use crate::spec::CaptionSpec;

/// What open_clip_config.json says of the tokenizer.
#[derive(Deserialize)]
struct Config {
    model_cfg: ModelConfig,
}

#[derive(Deserialize)]
struct ModelConfig {
    #[serde(default)]
    text_cfg: TextConfig,
}

#[derive(Deserialize, Default)]
struct TextConfig {
    #[serde(default)]
    hf_model_name: Option<String>,
    #[serde(default)]
    hf_tokenizer_name: Option<String>,
    #[serde(default)]
    tokenizer_mode: Option<String>,
    #[serde(default)]
    tokenizer_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    pool_type: Option<String>,
    #[serde(default)]
    no_causal_mask: Option<bool>,
}

/// Reads the folder's vocabulary and the cleaning that its configuration asks for.
///
/// # Errors
/// Those of `clip`'s; `ModelFile` for another tokenizer; `Setting` for control tokens in captions.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec) -> Result<Rules, Error> {
    hugging_face::check_text(spec)?;
    let path = dir.join("open_clip_config.json");
    let Config { model_cfg: ModelConfig { text_cfg } } = json(&path, "OpenCLIP's configuration")?;
    let wrong = |problem: String| Err(Error::ModelFile { path: path.clone(), problem });
    let named = text_cfg.hf_tokenizer_name.is_some_and(|name| !name.is_empty());
    if let Some(mode) = text_cfg.tokenizer_mode.filter(|mode| named && !mode.is_empty()) {
        return wrong(format!("text_cfg.tokenizer_mode is \"{mode}\": not known"));
    }
    let mut clean = if named { OpenClip::Whitespace } else { OpenClip::Lower };
    for (key, value) in text_cfg.tokenizer_kwargs.unwrap_or_default() {
        match (key.as_str(), value.as_str()) {
            ("clean", Some("whitespace")) => clean = OpenClip::Whitespace,
            ("clean", Some("lower")) => clean = OpenClip::Lower,
            ("clean", Some("canonicalize")) => clean = OpenClip::Canonical,
            _ => return wrong(format!("text_cfg.tokenizer_kwargs.{key} is {value}: not known")),
        }
    }
    let clean = Clean::OpenClip(clean);
    let mut rules = match named {
        // A tower of Hugging Face is told which tokens only fill a caption up.
        true if text_cfg.hf_model_name.is_some() => {
            Rules { fill: None, ..of_hugging_face(dir, clean)? }
        }
        true => of_hugging_face(dir, clean)?,
        false => {
            let rules = clip::rules(dir, spec, clip::Normalize::Not)?;
            let last = text_cfg.pool_type.as_deref() == Some("last");
            match last || text_cfg.no_causal_mask == Some(true) {
                // Padding is read or seen, and `SimpleTokenizer` fills up with zeros.
                true => Rules { clean, pad: 0, fill: Some(Side::Right), ..rules },
                false => Rules { clean, ..rules },
            }
        }
    };
    rules.files.push(path);
    Ok(rules)
}

fn of_hugging_face(dir: &Path, clean: Clean) -> Result<Rules, Error> {
    let config = hugging_face::Config::read(dir)?;
    let class = match config.class("PreTrainedTokenizer") {
        "T5Tokenizer" | "XLMRobertaTokenizer" | "PreTrainedTokenizer" => {
            Class { clean, pad: "<pad>", side: Side::Right }
        }
        "GemmaTokenizer" => Class { clean, pad: "<pad>", side: Side::Left },
        name => {
            let problem = format!(
                "tokenizer_class is \"{name}\": in OpenCLIP's folders clipmill knows T5Tokenizer, \
                 GemmaTokenizer, XLMRobertaTokenizer and PreTrainedTokenizer"
            );
            return Err(Error::ModelFile { path: dir.join(hugging_face::CONFIG), problem });
        }
    };
    hugging_face::rules(dir, config, class)
}
