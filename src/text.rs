//! Captions to token ids, as the reference of a model's family makes them.
//!
//! What a family's folder says is read by the files of this module (`clip`, `siglip`, `open_clip`, `bert`;
//! `hugging_face` for what they share); what is done to a caption before is in `clean`. Truncation keeps the tokens that follow a caption and
//! is reported. Captions are padded here only where the text tower sees the padding; else the
//! encoder decides which lengths share a pass.

mod bert;
mod clean;
mod clip;
mod ftfy;
mod hugging_face;
mod open_clip;
mod siglip;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer as Inner;

use self::clean::Clean;
use crate::batch::CaptionInfo;
use crate::error::{Error, RowError, RowStatus};
use crate::regular;
use crate::spec::{CaptionSpec, Family, ModelSpec};

/// A longer caption is tokenized from its start: a context of 77 tokens never reaches further.
const MAX_BYTES: usize = 64 << 10;

/// Makes token ids of captions. Shared by threads.
pub struct Tokenizer {
    rules: Rules,
    context_length: usize,
    /// Before every caption.
    prefix: String,
}

/// What a family's folder says of tokenizing.
struct Rules {
    inner: Inner,
    clean: Clean,
    /// The control tokens before and after a caption's.
    around: [Vec<i64>; 2],
    /// The token that fills captions up.
    pad: i64,
    /// Where captions are filled up to the context, if they are.
    fill: Option<Side>,
    files: Vec<PathBuf>,
}

/// A side of a caption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Tokenizer {
    /// Reads the tokenizer of a `CLIPModel` folder: tokenizer.json, or else vocab.json and
    /// merges.txt.
    ///
    /// `context_length` is the most tokens that the text tower takes, control tokens included.
    ///
    /// # Errors
    /// `NotFound` without those files; `ModelFile` when they are no CLIP vocabulary; `Setting`
    /// for a context without room for a word.
    pub fn read(dir: &Path, context_length: usize, spec: &CaptionSpec) -> Result<Self, Error> {
        Self::of(&ModelSpec::new(Family::Clip, dir), context_length, spec)
    }

    /// Reads the tokenizer of a model of any family.
    ///
    /// # Errors
    /// As [`Tokenizer::read`], and `Setting` for what the family has not.
    pub fn of(model: &ModelSpec, context_length: usize, spec: &CaptionSpec) -> Result<Self, Error> {
        if context_length < 3 {
            let problem = format!("{context_length} leaves no room for a word");
            return Err(Error::Setting { key: "max_position_embeddings".into(), problem });
        }
        let rules = match model.family() {
            Family::Clip => clip::rules(model.dir(), spec, clip::Normalize::LikeClip)?,
            Family::OpenClip => open_clip::rules(model.dir(), spec)?,
            Family::Siglip => siglip::rules(model.dir(), spec)?,
            Family::ChineseClip => bert::rules(model.dir(), spec)?,
        };
        Ok(Self { rules, context_length, prefix: spec.prefix.clone() })
    }

    /// The ids of a caption (after the prefix, if there is one), control tokens included, at most
    /// the context long.
    ///
    /// # Errors
    /// `caption_empty` when the caption has no token.
    pub fn encode(&self, caption: &str) -> Result<(Vec<i64>, CaptionInfo), RowError> {
        let read = start_of(caption);
        let text = match self.prefix.as_str() {
            "" => Cow::Borrowed(read),
            // A prefix alone is no caption.
            _ if read.trim().is_empty() => Cow::Borrowed(""),
            prefix => Cow::Owned(format!("{prefix}{read}")),
        };
        let Rules { inner, clean, around: [before, after], .. } = &self.rules;
        let text = clean.apply(&text);
        let encoding = inner.encode_fast(text.as_ref(), false).map_err(|error| {
            RowError::new(RowStatus::CaptionEmpty, format!("could not tokenize: {error}"))
        })?;
        let words = encoding.get_ids();
        if words.is_empty() || text.is_empty() {
            return Err(RowError::new(RowStatus::CaptionEmpty, "the caption has no token"));
        }
        let n_control = before.len() + after.len();
        let kept = words.len().min(self.context_length.saturating_sub(n_control));
        let mut ids = Vec::with_capacity(self.context_length);
        ids.extend(before);
        ids.extend(words[..kept].iter().copied().map(i64::from));
        // The text tower may read its output here, so these must survive the cut.
        ids.extend(after);
        self.fill(&mut ids);
        let truncated = kept < words.len() || read.len() < caption.len();
        let tokens = (words.len() + n_control) as u32;
        Ok((ids, CaptionInfo { tokens, truncated }))
    }

    fn fill(&self, ids: &mut Vec<i64>) {
        let missing = self.context_length.saturating_sub(ids.len());
        let padding = std::iter::repeat_n(self.rules.pad, missing);
        match self.rules.fill {
            Some(Side::Right) => ids.extend(padding),
            Some(Side::Left) => ids.splice(0..0, padding).for_each(drop),
            None => {}
        }
    }

    /// The most tokens of a caption.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// The token that fills captions up to the context, where they have to be of one length.
    pub fn pad(&self) -> i64 {
        self.rules.pad
    }

    /// The files that decide which ids a caption has.
    pub fn files(&self) -> &[PathBuf] {
        &self.rules.files
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        self.rules.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }
}

/// As much of the caption as is read, up to a character's end.
fn start_of(caption: &str) -> &str {
    let most = caption.len().min(MAX_BYTES);
    let end = (0..=most).rev().find(|&end| caption.is_char_boundary(end)).unwrap_or(0);
    &caption[..end]
}

/// Reads a JSON file, which holds `what`.
fn json<T: serde::de::DeserializeOwned>(path: &Path, what: &str) -> Result<T, Error> {
    let bytes = regular::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::ModelFile {
        path: path.into(),
        problem: format!("does not hold {what}: {error}"),
    })
}
