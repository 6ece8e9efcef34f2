//! The tokenizer of Chinese-CLIP's folders, as transformers' `BertTokenizer` builds it.
//!
//! Like that class (tokenization_bert.py of transformers 5.23), this takes the vocabulary of
//! tokenizer.json, or else vocab.txt, and the switches of tokenizer_config.json, and builds the
//! rest itself. Control tokens in a caption are text.

use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer as Inner;
use tokenizers::models::bpe::Vocab;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;

use super::clean::Clean;
use super::hugging_face::{self, CONFIG};
use super::{Rules, json};
use crate::error::Error;
use crate::regular;
use crate::spec::CaptionSpec;

/// What tokenizer_config.json says, with the class's defaults.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    tokenizer_class: String,
    do_lower_case: bool,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tokenizer_class: "BertTokenizer".into(),
            do_lower_case: true,
            strip_accents: None,
            tokenize_chinese_chars: true,
        }
    }
}

/// Reads the vocabulary of a model folder and the switches beside it.
///
/// # Errors
/// `NotFound` without a vocabulary; `ModelFile` when it is not BERT's; `Setting` for control tokens
/// in captions.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec) -> Result<Rules, Error> {
    hugging_face::check_text(spec)?;
    let (whole, lines, config) =
        (dir.join("tokenizer.json"), dir.join("vocab.txt"), dir.join(CONFIG));
    let (path, vocab) = match (whole.exists(), lines.exists()) {
        (true, _) => (whole.clone(), of_tokenizer_json(&whole)?),
        (false, true) => (lines.clone(), of_lines(&lines)?),
        (false, false) => {
            let hint = ", nor does vocab.txt".into();
            return Err(Error::NotFound { what: "tokenizer", path: whole, hint });
        }
    };
    let switches = match config.exists() {
        true => json(&config, "a tokenizer's settings")?,
        false => Config::default(),
    };
    if switches.tokenizer_class.trim_end_matches("Fast") != "BertTokenizer" {
        let name = switches.tokenizer_class;
        let problem = format!("tokenizer_class is \"{name}\": this family has BertTokenizer");
        return Err(Error::ModelFile { path: config, problem });
    }
    let id = |token: &str| match vocab.get(token) {
        Some(&id) => Ok(i64::from(id)),
        None => {
            let problem = format!("has no \"{token}\": it is not BERT's tokenizer");
            Err(Error::ModelFile { path: path.clone(), problem })
        }
    };
    let around = [vec![id("[CLS]")?], vec![id("[SEP]")?]];
    let pad = id("[PAD]")?;
    id("[UNK]")?;
    let inner = build(vocab, &switches)
        .map_err(|error| Error::ModelFile { path: path.clone(), problem: error.to_string() })?;
    let mut files = vec![path, config];
    files.retain(|file| file.exists());
    Ok(Rules { inner, clean: Clean::AsIs, around, pad, fill: None, files })
}

fn of_tokenizer_json(path: &Path) -> Result<Vocab, Error> {
    #[derive(Deserialize)]
    struct Written {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        vocab: Vocab,
    }
    Ok(json::<Written>(path, "the vocabulary of a BERT tokenizer")?.model.vocab)
}

/// A token a line; its number is the id.
fn of_lines(path: &Path) -> Result<Vocab, Error> {
    let text = regular::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(text.lines().map(str::to_owned).zip(0..).collect())
}

/// The tokenizer that `BertTokenizer.__init__` builds.
fn build(vocab: Vocab, config: &Config) -> tokenizers::Result<Inner> {
    let pieces = WordPiece::builder().vocab(vocab).unk_token("[UNK]".into()).build()?;
    let mut inner = Inner::new(pieces);
    let normalizer = BertNormalizer::new(
        true,
        config.tokenize_chinese_chars,
        config.strip_accents,
        config.do_lower_case,
    );
    inner.with_normalizer(Some(normalizer))?;
    inner.with_pre_tokenizer(Some(BertPreTokenizer));
    Ok(inner)
}
