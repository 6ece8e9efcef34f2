//! tokenizer.json as it stands, and what tokenizer_config.json says of filling captions up.
//!
//! What a tokenizer's class does to a caption before is the families' affair.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer as Inner;

use super::clean::Clean;
use super::{Rules, Side, json};
use crate::error::Error;
use crate::regular;
use crate::spec::{CaptionSpec, SpecialTokensSpec};

pub(super) const CONFIG: &str = "tokenizer_config.json";

/// What tokenizer_config.json says.
#[derive(Deserialize, Default)]
pub(super) struct Config {
    #[serde(default)]
    tokenizer_class: Option<String>,
    #[serde(default)]
    pad_token: Option<Token>,
    #[serde(default)]
    padding_side: Option<String>,
    #[serde(default)]
    pub do_lower_case: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Word(String),
    Added { content: String },
}

impl Config {
    /// Reads the file, which may be missing.
    ///
    /// # Errors
    /// `ModelFile` for a file that holds something else.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        match dir.join(CONFIG) {
            there if there.exists() => json(&there, "a tokenizer's settings"),
            _ => Ok(Self::default()),
        }
    }

    /// The class, without the suffix of older names; `default` where there is none.
    pub fn class<'a>(&'a self, default: &'a str) -> &'a str {
        self.tokenizer_class.as_deref().unwrap_or(default).trim_end_matches("Fast")
    }
}

/// What a tokenizer's class does.
pub(super) struct Class {
    pub clean: Clean,
    /// The token that fills captions up, and where, unless the configuration says otherwise.
    pub pad: &'static str,
    pub side: Side,
}

/// Refuses control tokens in captions.
///
/// # Errors
/// `Setting` with the key.
pub(super) fn check_text(spec: &CaptionSpec) -> Result<(), Error> {
    match spec.special_tokens {
        SpecialTokensSpec::Text => Ok(()),
        SpecialTokensSpec::Control => Err(Error::Setting {
            key: "caption.special_tokens".into(),
            problem: "\"control\" is for [model.clip]: for this family leave it \"text\"".into(),
        }),
    }
}

/// Reads tokenizer.json of a model folder; captions are filled up to the context.
///
/// # Errors
/// `NotFound` without tokenizer.json; `ModelFile` for what is no such tokenizer.
pub(super) fn rules(dir: &Path, config: Config, class: Class) -> Result<Rules, Error> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        let other = ["spiece.model", "sentencepiece.bpe.model", "vocab.txt"];
        let hint = match other.into_iter().find(|name| dir.join(name).exists()) {
            Some(name) => {
                format!(", and {name} alone is not read: take tokenizer.json from the same place")
            }
            None => ": it holds the vocabulary".into(),
        };
        return Err(Error::NotFound { what: "tokenizer", path, hint });
    }
    let wrong = |problem: String| Error::ModelFile { path: path.clone(), problem };
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
