//! How long captions are, and how many were cut.

use crate::analysis::bins::Bins;

/// Longer captions count as that many characters, or tokens.
pub const MOST_CHARACTERS: usize = 8192;
const MOST_TOKENS: usize = 2048;

/// Captions counted.
#[derive(Debug, Clone)]
pub struct CaptionTally {
    /// Unicode characters of the captions that are there and UTF-8.
    pub characters: Bins,
    /// Tokens, where a column says.
    pub tokens: Bins,
    pub missing: u64,
    /// Nothing, or white space alone.
    pub empty: u64,
    /// Not UTF-8.
    pub invalid: u64,
    /// Captions of which a column says whether they were cut, and those that were.
    pub known: u64,
    pub truncated: u64,
}

impl Default for CaptionTally {
    fn default() -> Self {
        Self {
            characters: Bins::of_counts(MOST_CHARACTERS),
            tokens: Bins::of_counts(MOST_TOKENS),
            missing: 0,
            empty: 0,
            invalid: 0,
            known: 0,
            truncated: 0,
        }
    }
}

impl CaptionTally {
    pub fn add(&mut self, caption: Option<&[u8]>, tokens: Option<u64>, truncated: Option<bool>) {
        match caption.map(str::from_utf8) {
            None => self.missing += 1,
            Some(Err(_)) => self.invalid += 1,
            Some(Ok(text)) => {
                self.empty += u64::from(text.trim().is_empty());
                self.characters.add(text.chars().count() as f64);
            }
        }
        if let Some(tokens) = tokens {
            self.tokens.add(tokens as f64);
        }
        if let Some(truncated) = truncated {
            self.known += 1;
            self.truncated += u64::from(truncated);
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.characters.merge(&other.characters);
        self.tokens.merge(&other.tokens);
        self.missing += other.missing;
        self.empty += other.empty;
        self.invalid += other.invalid;
        self.known += other.known;
        self.truncated += other.truncated;
    }
}
