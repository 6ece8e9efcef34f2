//! The tokenizer of OpenCLIP's folders: CLIP's words, behind open_clip's own cleaning.
//!
//! `SimpleTokenizer` (tokenizer.py of open_clip 3.3) brings its vocabulary along; here it is read
//! from the folder's tokenizer.json, or vocab.json and merges.txt. What is not cleaned as there is
//! said in `ftfy`; its pattern, which ignores case, drops the mark U+0345, and is of another version
//! of Unicode, in which a few letters are none.

use std::path::Path;

use serde::Deserialize;

use super::clean::Clean;
use super::{Rules, clip, json};
use crate::error::Error;
use crate::spec::{CaptionSpec, SpecialTokensSpec};

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
    hf_tokenizer_name: Option<String>,
    #[serde(default)]
    tokenizer_kwargs: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Reads the folder's vocabulary and the cleaning that its configuration asks for.
///
/// # Errors
/// Those of `clip`'s; `ModelFile` for another tokenizer; `Setting` for control tokens in captions.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec) -> Result<Rules, Error> {
    if spec.special_tokens == SpecialTokensSpec::Control {
        let problem = "\"control\" is for [model.clip]: for this family leave it \"text\"".into();
        return Err(Error::Setting { key: "caption.special_tokens".into(), problem });
    }
    let path = dir.join("open_clip_config.json");
    let Config { model_cfg: ModelConfig { text_cfg } } = json(&path, "OpenCLIP's configuration")?;
    let wrong = |problem: String| Err(Error::ModelFile { path: path.clone(), problem });
    if let Some(name) = text_cfg.hf_tokenizer_name.filter(|name| !name.is_empty()) {
        return wrong(format!(
            "text_cfg.hf_tokenizer_name is \"{name}\": clipmill tokenizes for OpenCLIP's folders \
             with CLIP's vocabulary alone"
        ));
    }
    let mut clean = Clean::OpenClip { canonical: false };
    for (key, value) in text_cfg.tokenizer_kwargs.unwrap_or_default() {
        match (key.as_str(), value.as_str()) {
            ("clean", Some("lower")) => {}
            ("clean", Some("canonicalize")) => clean = Clean::OpenClip { canonical: true },
            _ => return wrong(format!("text_cfg.tokenizer_kwargs.{key} is {value}: not known")),
        }
    }
    let mut rules = clip::rules(dir, spec, clip::Normalize::Not)?;
    rules.files.push(path);
    Ok(Rules { clean, ..rules })
}
