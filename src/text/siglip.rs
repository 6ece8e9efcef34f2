//! The tokenizers of SigLIP's folders: SentencePiece's for SigLIP, Gemma's for SigLIP 2.
//!
//! tokenizer.json is taken as it stands (see `hugging_face`). What the class that
//! tokenizer_config.json names does to a caption before is done before, and captions are padded up
//! to the context as the processor does with `padding="max_length"`, the way the weights were
//! trained. Classes: tokenization_siglip.py, tokenization_siglip2.py and tokenization_gemma.py of
//! transformers 5.23, of which `GemmaTokenizer`, that the first folders of SigLIP 2 name, does not
//! lower case.
//!
//! `SiglipTokenizer` is SentencePiece's own program. The one difference met are letters with
//! combining marks that NFKC changes, which `tokenizers` normalises together and SentencePiece one
//! by one.

use std::path::Path;

use super::clean::Clean;
use super::hugging_face::{self, CONFIG, Class, Config};
use super::{Rules, Side};
use crate::error::Error;
use crate::spec::CaptionSpec;

/// Reads tokenizer.json and tokenizer_config.json of a model folder.
///
/// # Errors
/// `NotFound` without tokenizer.json; `ModelFile` for what is no such tokenizer; `Setting` for
/// control tokens in captions.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec) -> Result<Rules, Error> {
    hugging_face::check_text(spec)?;
    let config = Config::read(dir)?;
    let gemma = |clean| Class { clean, pad: "<pad>", side: Side::Left };
    let class = match config.class("SiglipTokenizer") {
        "SiglipTokenizer" => {
            let lower = config.do_lower_case.unwrap_or(true);
            Class { clean: Clean::Canonical { lower }, pad: "</s>", side: Side::Right }
        }
        "Siglip2Tokenizer" => gemma(Clean::Lowercase),
        "GemmaTokenizer" => gemma(Clean::AsIs),
        name => {
            let problem = format!(
                "tokenizer_class is \"{name}\": clipmill knows what SiglipTokenizer, \
                 Siglip2Tokenizer and GemmaTokenizer do to a caption"
            );
            return Err(Error::ModelFile { path: dir.join(CONFIG), problem });
        }
    };
    hugging_face::rules(dir, config, class)
}
