//! What is done to a caption before it is tokenized, beside what its tokenizer does.

use std::borrow::Cow;

use tokenizers::NormalizedString;

use super::ftfy::basic_clean;

/// The rule of a tokenizer's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clean {
    /// Nothing.
    AsIs,
    /// Lower case, letter by letter: `Siglip2Tokenizer`.
    Lowercase,
    /// ASCII punctuation goes, white space becomes single spaces, and where it says so letters
    /// lower case: `SiglipTokenizer.canonicalize_text`.
    Canonical { lower: bool },
    /// Mended, white space as single spaces, and more.
    OpenClip(OpenClip),
}

/// What `clean` of open_clip's tokenizers says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenClip {
    /// No more than that: `_clean_whitespace`.
    Whitespace,
    /// Lower case: `_clean_lower`.
    Lower,
    /// Lower case without punctuation: `_clean_canonicalize`.
    Canonical,
}

impl Clean {
    /// The caption as the tokenizer takes it. Empty where nothing of it is left.
    pub fn apply<'a>(&self, caption: &'a str) -> Cow<'a, str> {
        match self {
            Clean::AsIs => Cow::Borrowed(caption),
            Clean::Lowercase => {
                let mut text = NormalizedString::from(caption);
                text.lowercase();
                Cow::Owned(text.get().to_owned())
            }
            Clean::Canonical { lower } => Cow::Owned(canonical(caption, *lower)),
            Clean::OpenClip(clean) => {
                let mut text = basic_clean(caption);
                if *clean == OpenClip::Canonical {
                    text = text.replace('_', " ");
                    text.retain(|c| !c.is_ascii_punctuation());
                }
                let text = single_spaces(&text);
                Cow::Owned(match clean {
                    OpenClip::Whitespace => text,
                    OpenClip::Lower | OpenClip::Canonical => text.to_lowercase(),
                })
            }
        }
    }
}

/// SentencePiece's sign for a space, which it takes for one.
const SPACE: char = '▁';

fn canonical(caption: &str, lower: bool) -> String {
    let text = caption.replace(SPACE, " ");
    let text = if lower { text.to_lowercase() } else { text };
    let kept: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    single_spaces(&kept)
}

/// White space as single spaces, none around: Python's `re.sub(r"\s+", " ", text).strip()`.
fn single_spaces(text: &str) -> String {
    let words = text.split(is_python_space).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Python's `str.isspace`, which counts four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_are_canonical() {
        let canonical = |text| Clean::Canonical { lower: true }.apply(text).into_owned();
        assert_eq!(canonical("A Photo, of\tthe CAT!"), "a photo of the cat");
        assert_eq!(canonical("! a_b  "), "ab");
        assert_eq!(canonical("ΣΊΣΥΦΟΣ\x1cx"), "σίσυφος x");
        assert_eq!(canonical(" ?! ▁ "), "");
        assert_eq!(Clean::Canonical { lower: false }.apply("A!"), "A");
        assert_eq!(Clean::Lowercase.apply("A Photo, of İ"), "a photo, of i\u{307}");
    }
}
