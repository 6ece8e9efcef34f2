//! The tokenizers of SigLIP's folders: SentencePiece's for SigLIP, Gemma's for SigLIP 2.
//!
//! tokenizer.json is taken as it stands. What the class that tokenizer_config.json names does to a
//! caption before is done before, and captions are padded up to the context as the processor does
//! with `padding="max_length"`, the way the weights were trained. Classes: tokenization_siglip.py,
//! tokenization_siglip2.py and tokenization_gemma.py of transformers 5.23, of which
//! `GemmaTokenizer`, that the first folders of SigLIP 2 name, does not lower case.
//!
//! `SiglipTokenizer` is SentencePiece's own program. The one difference met are letters with
//! combining marks that NFKC changes, which `tokenizers` normalises together and SentencePiece one
//! by one.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer as Inner;

use super::clean::Clean;
use super::{Rules, Side, json};
use crate::error::Error;
use crate::regular;
use crate::spec::{CaptionSpec, SpecialTokensSpec};

const CONFIG: &str = "tokenizer_config.json";

/// What tokenizer_config.json says.
#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    tokenizer_class: Option<String>,
    #[serde(default)]
    pad_token: Option<Token>,
    #[serde(default)]
    padding_side: Option<String>,
    #[serde(default)]
    do_lower_case: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Word(String),
    Added { content: String },
}

/// What a tokenizer's class does.
struct Class {
    clean: Clean,
    pad: &'static str,
    side: Side,
}

impl Class {
    fn of(dir: &Path, config: &Config) -> Result<Self, Error> {
        let name = config.tokenizer_class.as_deref().unwrap_or("SiglipTokenizer");
        let gemma = |clean| Self { clean, pad: "<pad>", side: Side::Left };
        match name.trim_end_matches("Fast") {
            "SiglipTokenizer" => {
                let lower = config.do_lower_case.unwrap_or(true);
                Ok(Self { clean: Clean::Canonical { lower }, pad: "</s>", side: Side::Right })
            }
            "Siglip2Tokenizer" => Ok(gemma(Clean::Lowercase)),
            "GemmaTokenizer" => Ok(gemma(Clean::AsIs)),
            _ => Err(Error::ModelFile {
                path: dir.join(CONFIG),
                problem: format!(
                    "tokenizer_class is \"{name}\": clipmill knows what SiglipTokenizer, \
                     Siglip2Tokenizer and GemmaTokenizer do to a caption"
                ),
            }),
        }
    }
}

/// Reads tokenizer.json and tokenizer_config.json of a model folder.
///
/// # Errors
/// `NotFound` without tokenizer.json; `ModelFile` for what is no such tokenizer; `Setting` for
/// control tokens in captions.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec) -> Result<Rules, Error> {
    if spec.special_tokens == SpecialTokensSpec::Control {
        let problem = "\"control\" is for [model.clip]: for this family leave it \"text\"".into();
        return Err(Error::Setting { key: "caption.special_tokens".into(), problem });
    }
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        let hint = match dir.join("spiece.model").exists() {
            true => ", and spiece.model alone is not read: take tokenizer.json from the same place",
            false => ": it holds the vocabulary",
        };
        return Err(Error::NotFound { what: "tokenizer", path, hint: hint.into() });
    }
    let wrong = |problem: String| Error::ModelFile { path: path.clone(), problem };
    let config = match dir.join(CONFIG) {
        there if there.exists() => json(&there, "a tokenizer's settings")?,
        _ => Config::default(),
    };
    let class = Class::of(dir, &config)?;
    let bytes = regular::read(&path).map_err(Error::io("read", &path))?;
    let inner = read(&bytes).map_err(|error| wrong(format!("is no tokenizer: {error}")))?;
    let around = around(&inner).map_err(|error| wrong(error.to_string()))?;
    if around[1].is_empty() {
        return Err(wrong("has no token that follows a caption in its post_processor".into()));
    }
    let pad = match config.pad_token {
        Some(Token::Word(word) | Token::Added { content: word }) => word,
        None => class.pad.to_owned(),
    };
    let Some(pad) = inner.token_to_id(&pad) else {
        return Err(wrong(format!("has no \"{pad}\", which {CONFIG} fills captions up with")));
    };
    let side = match config.padding_side.as_deref() {
        None => class.side,
        Some("left") => Side::Left,
        Some("right") => Side::Right,
        Some(other) => {
            let problem = format!("padding_side is \"{other}\": use \"left\" or \"right\"");
            return Err(Error::ModelFile { path: dir.join(CONFIG), problem });
        }
    };
    let mut files = vec![path.clone(), dir.join(CONFIG)];
    files.retain(|file| file.exists());
    let (pad, fill) = (pad.into(), Some(side));
    Ok(Rules { inner, clean: class.clean, around, pad, fill, files })
}

/// The tokenizer without truncation and padding, for which control tokens in a caption are text.
fn read(bytes: &[u8]) -> tokenizers::Result<Inner> {
    let mut inner = Inner::from_bytes(bytes)?;
    inner.with_truncation(None)?;
    inner.with_padding(None);
    inner.set_encode_special_tokens(true);
    Ok(inner)
}

/// The control tokens that the tokenizer puts before and after a caption.
fn around(inner: &Inner) -> tokenizers::Result<[Vec<i64>; 2]> {
    let encoding = inner.encode("a", true)?;
    let ids = encoding.get_ids().iter().copied().map(i64::from);
    let marked: Vec<_> = ids.zip(encoding.get_special_tokens_mask()).collect();
    let is_special = |(_, special): &&(i64, &u32)| **special == 1;
    let before = marked.iter().take_while(is_special).map(|(id, _)| *id).collect();
    let mut after: Vec<_> = marked.iter().rev().take_while(is_special).map(|(id, _)| *id).collect();
    after.reverse();
    Ok([before, after])
}
