//! The tokenizer of CLIP's folders, as transformers' `CLIPTokenizer` builds it.
//!
//! Like that class (tokenization_clip.py of transformers 5.23), this takes the vocabulary and the
//! merges from the model folder and builds the rest itself, so what tokenizer.json says about
//! normalising, truncation and padding does not count.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::normalizers::{Lowercase, NFC, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Inner};

use super::clean::Clean;
use super::{Rules, json};
use crate::error::Error;
use crate::regular;
use crate::spec::{CaptionSpec, SpecialTokensSpec};

/// What the files hold, for messages.
const WHAT: &str = "the vocabulary of a CLIP tokenizer";

/// Words as `CLIPTokenizer` splits them, without its two control tokens.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// The control tokens, which `CLIPTokenizer` keeps whole.
const CONTROL: &str = r"<\|startoftext\|>|<\|endoftext\|>|";

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
const END_OF_WORD: &str = "</w>";

/// Whether captions are normalised as `CLIPTokenizer` does, or were before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Normalize {
    LikeClip,
    Not,
}

/// Reads tokenizer.json of a model folder, or else vocab.json and merges.txt.
///
/// # Errors
/// `NotFound` without those files; `ModelFile` when they are no CLIP vocabulary.
pub(super) fn rules(dir: &Path, spec: &CaptionSpec, normalize: Normalize) -> Result<Rules, Error> {
    let vocabulary = Vocabulary::read(dir)?;
    let around = [vec![vocabulary.id(START)?], vec![vocabulary.id(END)?]];
    vocabulary.check_bytes()?;
    let pad = vocabulary.id(&pad_token(dir)?)?;
    let (path, files) = (vocabulary.path.clone(), vocabulary_files(dir));
    let inner = vocabulary
        .build(spec.special_tokens, normalize)
        .map_err(|error| Error::ModelFile { path, problem: error.to_string() })?;
    Ok(Rules { inner, clean: Clean::AsIs, around, pad, fill: None, files })
}

/// The files of a folder that hold its vocabulary.
fn vocabulary_files(dir: &Path) -> Vec<PathBuf> {
    match dir.join("tokenizer.json") {
        whole if whole.exists() => vec![whole],
        _ => ["vocab.json", "merges.txt"].map(|name| dir.join(name)).to_vec(),
    }
}

/// The token that captions are filled up with: what tokenizer_config.json says, as a string or as
/// an added token, and else the end of text, as in `CLIPTokenizer`. Stable Diffusion 2 has "!".
fn pad_token(dir: &Path) -> Result<String, Error> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        pad_token: Option<Token>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Word(String),
        Added { content: String },
    }
    let path = dir.join("tokenizer_config.json");
    if !path.exists() {
        return Ok(END.to_owned());
    }
    Ok(match json::<Config>(&path, WHAT)?.pad_token {
        None => END.to_owned(),
        Some(Token::Word(token) | Token::Added { content: token }) => token,
    })
}

/// What tokenizer.json, or vocab.json and merges.txt, say.
struct Vocabulary {
    /// Of the file that holds the vocabulary, for messages.
    path: PathBuf,
    ids: Vocab,
    merges: Vec<(String, String)>,
}

impl Vocabulary {
    fn read(dir: &Path) -> Result<Self, Error> {
        let (whole, vocab) = (dir.join("tokenizer.json"), dir.join("vocab.json"));
        if whole.exists() {
            return Self::from_tokenizer_json(whole);
        }
        if vocab.exists() {
            return Self::from_parts(vocab, &dir.join("merges.txt"));
        }
        let hint = ", nor does vocab.json".into();
        Err(Error::NotFound { what: "tokenizer", path: whole, hint })
    }

    fn from_tokenizer_json(path: PathBuf) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Written {
            model: Model,
            #[serde(default)]
            added_tokens: Vec<Added>,
        }
        #[derive(Deserialize)]
        struct Model {
            vocab: Vocab,
            merges: Vec<Merge>,
        }
        #[derive(Deserialize)]
        struct Added {
            content: String,
        }
        let written: Written = json(&path, WHAT)?;
        let controls = [START, END];
        let added = &written.added_tokens;
        if let Some(token) = added.iter().find(|token| !controls.contains(&&*token.content)) {
            let problem = format!(
                "adds the token \"{}\": clipmill knows the vocabulary of CLIP alone",
                token.content
            );
            return Err(Error::ModelFile { path, problem });
        }
        let merges = written.model.merges.into_iter().map(Merge::pair);
        let merges = merges.collect::<Option<_>>().ok_or_else(|| Error::ModelFile {
            path: path.clone(),
            problem: "has a merge that is no pair".into(),
        })?;
        Ok(Self { path, ids: written.model.vocab, merges })
    }

    fn from_parts(vocab: PathBuf, merges: &Path) -> Result<Self, Error> {
        let ids = json(&vocab, WHAT)?;
        if !merges.exists() {
            let hint = ", and vocab.json is half a tokenizer".into();
            return Err(Error::NotFound { what: "tokenizer merges", path: merges.into(), hint });
        }
        let text = regular::read_to_string(merges).map_err(Error::io("read", merges))?;
        let lines = text.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        let pairs = lines.map(|line| Merge::Joined(line.into()).pair());
        let merges = pairs.collect::<Option<_>>().ok_or_else(|| Error::ModelFile {
            path: merges.into(),
            problem: "has a line that is no pair".into(),
        })?;
        Ok(Self { path: vocab, ids, merges })
    }

    fn id(&self, token: &str) -> Result<i64, Error> {
        match self.ids.get(token) {
            Some(&id) => Ok(id.into()),
            None => Err(self.problem(format!("has no \"{token}\": it is not CLIP's tokenizer"))),
        }
    }

    /// Every byte is a token, within a word and at its end. Otherwise a caption could hold an
    /// unknown token, whose id is that of the end of text.
    fn check_bytes(&self) -> Result<(), Error> {
        for byte in ByteLevel::alphabet() {
            self.id(&byte.to_string())?;
            self.id(&format!("{byte}{END_OF_WORD}"))?;
        }
        Ok(())
    }

    /// The tokenizer that `CLIPTokenizer.__init__` builds.
    fn build(
        self,
        special_tokens: SpecialTokensSpec,
        normalize: Normalize,
    ) -> tokenizers::Result<Inner> {
        let bpe = BPE::builder().vocab_and_merges(self.ids, self.merges);
        let mut inner = Inner::new(bpe.end_of_word_suffix(END_OF_WORD.into()).build()?);
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?;
        let normalizers = vec![NFC.into(), spaces.into(), Lowercase.into()];
        if normalize == Normalize::LikeClip {
            inner.with_normalizer(Some(Normalizers::new(normalizers)))?;
        }
        let pattern = match special_tokens {
            SpecialTokensSpec::Text => WORDS.into(),
            SpecialTokensSpec::Control => {
                inner
                    .add_special_tokens([START, END].map(|token| AddedToken::from(token, true)))?;
                format!("{CONTROL}{WORDS}")
            }
        };
        let pattern = SplitPattern::Regex(pattern);
        let words = Split::new(pattern, SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![words.into(), bytes.into()])));
        Ok(inner)
    }

    fn problem(&self, problem: String) -> Error {
        Error::ModelFile { path: self.path.clone(), problem }
    }
}

/// A merge as tokenizer.json writes it: joined by a space in old files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

impl Merge {
    fn pair(self) -> Option<(String, String)> {
        match self {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Joined(text) => {
                let (left, right) = text.split_once(' ')?;
                (!right.contains(' ')).then(|| (left.into(), right.into()))
            }
        }
    }
}
