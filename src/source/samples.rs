//! Samples of a tar shard, as the `webdataset` package groups them: members that follow one another
//! and have the same key, which is their path up to the first dot of the file name.
//!
//! Members whose file name has no dot, or begins with one, belong to no sample, and so do those in
//! `__folders__` of the package's own. (The package takes a file that begins with a dot for one of
//! a sample named like its folder.)

use std::path::Path;

use super::tar::{Member, Walker};
use crate::error::Error;

/// More members than this in a sample are a mistake.
const MOST_MEMBERS: usize = 10_000;

/// Members with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub key: Vec<u8>,
    /// What follows the key's dot, in lower case, and where the member's bytes are.
    pub members: Vec<(Vec<u8>, Member)>,
}

impl Sample {
    /// The member of that extension.
    pub fn member(&self, extension: &str) -> Option<&Member> {
        let is = |(own, _): &&(Vec<u8>, Member)| own == extension.as_bytes();
        self.members.iter().find(is).map(|(_, member)| member)
    }
}

/// The samples of a shard, in order.
pub struct Samples {
    pub walker: Walker,
    /// The next sample's first member.
    next: Option<Sample>,
    /// A whole sample that comes again.
    given_back: Option<Sample>,
}

impl Samples {
    /// Opens a shard.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { walker: Walker::open(path)?, next: None, given_back: None })
    }

    /// The next sample.
    ///
    /// # Errors
    /// `Tar` for two members of one name, and what the walker says.
    pub fn next_sample(&mut self) -> Result<Option<Sample>, Error> {
        if let Some(sample) = self.given_back.take() {
            return Ok(Some(sample));
        }
        let mut sample = self.next.take();
        while let Some(member) = self.walker.next_member()? {
            let Some((key, extension)) = split(&member.name) else { continue };
            let (key, extension) = (key.to_vec(), extension.to_ascii_lowercase());
            match &mut sample {
                Some(sample) if sample.key == key => {
                    let is_there = sample.members.iter().any(|(own, _)| *own == extension);
                    if is_there || sample.members.len() == MOST_MEMBERS {
                        let name = String::from_utf8_lossy(&member.name).into_owned();
                        let problem = match is_there {
                            true => format!("the sample has {name:?} twice"),
                            false => format!("a sample has more than {MOST_MEMBERS} members"),
                        };
                        return Err(self.walker.wrong(member.offset, problem));
                    }
                    sample.members.push((extension, member));
                }
                _ => {
                    let new = Sample { key, members: vec![(extension, member)] };
                    if let Some(whole) = sample.replace(new) {
                        self.next = sample;
                        return Ok(Some(whole));
                    }
                }
            }
        }
        Ok(sample)
    }

    /// Lets a sample come again.
    pub fn give_back(&mut self, sample: Sample) {
        self.given_back = Some(sample);
    }
}

/// The key and the extension of a member's name, where it belongs to a sample.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    if first.len() >= 4 && first.starts_with(b"__") && first.ends_with(b"__") {
        return None;
    }
    let file = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    match name[file..].iter().position(|byte| *byte == b'.') {
        None | Some(0) => None,
        Some(dot) => Some((&name[..file + dot], &name[file + dot + 1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_at_the_first_dot_of_the_file_name() {
        let said = |name: &str| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            split(name.as_bytes()).map(|(key, extension)| (text(key), text(extension)))
        };
        let pair = |key: &str, extension: &str| Some((key.to_owned(), extension.to_owned()));
        assert_eq!(said("a.b/c.seg.png"), pair("a.b/c", "seg.png"));
        assert_eq!(said("./0001.jpg"), pair("./0001", "jpg"));
        assert_eq!(said("0001."), pair("0001", ""));
        for none in ["readme", "a.b/readme", ".hidden", "d/.hidden.jpg", "__meta__/a.jpg", "____"] {
            assert_eq!(said(none), None, "{none}");
        }
        assert_eq!(said("__a.jpg"), pair("__a", "jpg"));
    }
}
