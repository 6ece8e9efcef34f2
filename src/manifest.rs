//! What was done, from what, with what: `_manifest.json` in the output folder.
//!
//! A run reads it to know which parts are complete and whether they were made in the way that is
//! asked for now. It is replaced atomically after every part; those of shares are collected in it by
//! `finalize`. It holds no rows and no scores. What it says of a part, the part says of itself, so
//! that a manifest that is lost or damaged can be made again (`plan::resume` does); but for the
//! images that ended a process, which then end one more.
//!
//! # Which crash window does what
//!
//! A run may be killed, or lose its power, at any instant. What the next run finds, and does:
//!
//! | between | is left | the next run |
//! |---|---|---|
//! | start and the first manifest | `_lock`, which the kernel has freed | begins |
//! | a part's first byte and its `fsync` | a hidden temporary file | removes it, does the part |
//! | `fsync` and `rename` | the same, whole | the same: nobody has said that it is whole |
//! | `rename` and the folder's `fsync` | the part, or after a power cut perhaps not | takes it over if its seal fits, or does it |
//! | the part and its record in the manifest | a part that the manifest does not know | checks its seal and its key, takes it over |
//! | the last record and the report | all parts, no `_SUCCESS` | writes the report and the mark |
//! | the report and `_SUCCESS` | the same and a report | writes the mark |
//! | `_SUCCESS` and exit | a complete output | does nothing |
//! | `_SUCCESS` removed and parts redone (`--redo-changed`) | a manifest without the old parts | does the rest of them |
//! | the manifest of a changed input and its first part (`--incremental`) | the old parts, `_SUCCESS` gone | does what is not recorded; removes parts that nobody has any more |
//! | `_SUCCESS` and `_seen.json` | a complete output | reads footers to find that nothing is new, does the steps again |
//! | a decoder's crash | the rows it was at, in `_in_flight` | tries each in a child process (`crash`); `finalize` leaves them to a run |
//!
//! `rename` that was done and reported as failed is the fourth row. What no row covers: a disk that
//! says that bytes are safe and loses them (`verify` finds it), two machines on a network file
//! system that does not pass `flock` on (both would write the same parts), and a person who edits
//! a part and its seal.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::crash::Killer;
use crate::digest;
use crate::error::{Error, RowStatus};
use crate::files;

/// The manifest's name in the output folder. The underscore keeps it out of data globs.
pub const FILE_NAME: &str = "_manifest.json";

/// Empty, and there exactly when the output is complete: what others wait for.
pub const SUCCESS: &str = "_SUCCESS";

/// What an output's values depend on, by name: settings, model, inputs.
pub type MadeWith = BTreeMap<String, String>;

/// The state of one output folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version.
    pub clipmill: String,
    pub made_with: MadeWith,
    /// How many parts the whole output has.
    pub n_parts: usize,
    /// Whether the output grows with its input: parts have the numbers that they got when they came,
    /// and those of an input that is gone may still be there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub grows: bool,
    /// Complete parts by file name.
    pub parts: BTreeMap<String, PartRecord>,
    /// Images that ended the process of an earlier run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub killers: Vec<Killer>,
}

/// What an input file is called among what an output was made with.
pub fn input_key(path: &str) -> String {
    format!("input {path}")
}

/// Whether something that an output was made with is an input.
pub fn is_input(key: &str) -> bool {
    key.starts_with("input ")
}

/// One complete part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    #[serde(flatten)]
    pub about: PartAbout,
    /// Rows written.
    pub rows_out: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Digest of the file.
    pub sha256: String,
}

/// What a part file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartAbout {
    /// Digest of everything that the part's values depend on: two parts of one key are the same.
    pub key: String,
    /// The input that its rows are of: its file's full path.
    pub input: String,
    /// The first of them there.
    pub start: u64,
    /// Rows read from the input.
    pub rows_in: u64,
    /// Rows by status word.
    pub statuses: BTreeMap<String, u64>,
}

impl PartRecord {
    /// The record of a part that says `about` of itself, where that is understood.
    pub fn read(about: &str, rows_out: u64, bytes: u64, sha256: String) -> Option<Self> {
        let about = serde_json::from_str(about).ok()?;
        Some(Self { about, rows_out, bytes, sha256 })
    }
}

impl PartAbout {
    /// Whether rows of it failed in a way that may pass.
    pub fn has_passing_failures(&self) -> bool {
        let may_pass = |status: &RowStatus| status.may_pass();
        let mut statuses = RowStatus::ALL.into_iter().filter(may_pass);
        statuses.any(|status| self.statuses.get(status.as_str()).is_some_and(|n| *n > 0))
    }

    /// As the part file says it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are JSON")
    }
}

/// The file: the content and its checksum.
#[derive(Serialize, Deserialize)]
struct Checked {
    sha256: String,
    manifest: Manifest,
}

impl Manifest {
    /// A manifest of no parts.
    pub fn new(made_with: MadeWith, n_parts: usize) -> Self {
        let clipmill = env!("CARGO_PKG_VERSION").to_owned();
        let (parts, killers) = (BTreeMap::new(), Vec::new());
        Self { clipmill, made_with, n_parts, grows: false, parts, killers }
    }

    /// Reads a folder's manifest, or `None` where there is none.
    ///
    /// # Errors
    /// `Manifest` when its checksum is not that of its content: it was damaged or edited.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE_NAME);
        let Some(text) = files::read(&path)? else { return Ok(None) };
        let damaged = |what: String| Error::Manifest {
            path: path.clone(),
            problem: format!("is damaged ({what}): `clipmill run` makes it again from the parts"),
        };
        let checked: Checked =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        match checked.manifest.checksum() == checked.sha256 {
            true => Ok(Some(checked.manifest)),
            false => Err(damaged("its checksum does not fit".into())),
        }
    }

    /// Replaces a folder's manifest.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let checked = Checked { sha256: self.checksum(), manifest: self.clone() };
        let text = serde_json::to_vec_pretty(&checked).expect("strings and numbers are JSON");
        files::replace(&dir.join(FILE_NAME), &text)
    }

    /// The digest of the content, whatever the JSON's layout.
    fn checksum(&self) -> String {
        let content = serde_json::to_vec(self).expect("strings and numbers are JSON");
        digest::of_bytes(&content)
    }

    /// Marks the output complete for whoever waits for it. Only when every part is there.
    pub fn mark_complete(dir: &Path) -> Result<(), Error> {
        let mark = dir.join(SUCCESS);
        if files::exists(&mark)? { Ok(()) } else { files::replace(&mark, b"") }
    }

    /// Takes the mark away, before anything of the output changes.
    pub fn mark_incomplete(dir: &Path) -> Result<(), Error> {
        files::remove(&dir.join(SUCCESS))
    }

    /// The first thing that the output was made with and this was not, in words.
    pub fn difference(&self, made_with: &MadeWith) -> Option<String> {
        self.first_of(made_with, |_| true)
    }

    /// The same, but for which inputs there are and what is in them.
    pub fn difference_beside_inputs(&self, made_with: &MadeWith) -> Option<String> {
        self.first_of(made_with, |key| !is_input(key))
    }

    fn first_of(&self, made_with: &MadeWith, counts: fn(&str) -> bool) -> Option<String> {
        let keys = self.made_with.keys().chain(made_with.keys());
        keys.filter(|key| counts(key) && self.made_with.get(*key) != made_with.get(*key))
            .map(|key| match (self.made_with.get(key), made_with.get(key)) {
                (Some(was), Some(is)) => format!("{key} was {was} and is {is}"),
                (Some(was), None) => format!("{key} ({was}) is not part of it now"),
                (None, is) => format!("{key} ({}) is new", is.map_or("", String::as_str)),
            })
            .next()
    }

    /// Rows of all parts by status, in the order in which reports list them, none of 0.
    pub fn statuses(&self) -> Vec<(RowStatus, u64)> {
        let count = |status: RowStatus| {
            let parts = self.parts.values();
            parts.filter_map(|part| part.about.statuses.get(status.as_str())).sum()
        };
        let counted = RowStatus::ALL.map(|status| (status, count(status)));
        counted.into_iter().filter(|(_, n)| *n > 0).collect()
    }
}
