//! What was done, from what, with what: `_manifest.json` in the output folder.
//!
//! A run reads it to know which parts are complete and whether they were made in the way that is
//! asked for now. It is replaced atomically after every part. It holds no rows and no scores.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    /// Complete parts by file name.
    pub parts: BTreeMap<String, PartRecord>,
}

/// One complete part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Rows read from the input.
    pub rows_in: u64,
    /// Rows written.
    pub rows_out: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Digest of the file.
    pub sha256: String,
    /// Rows by status word.
    pub statuses: BTreeMap<String, u64>,
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
        Self { clipmill, made_with, n_parts, parts: BTreeMap::new() }
    }

    /// Reads a folder's manifest, or `None` where there is none.
    ///
    /// # Errors
    /// `Manifest` when its checksum is not that of its content: it was damaged or edited.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        let damaged = |what: String| Error::Manifest {
            path: path.clone(),
            problem: format!("is damaged ({what}): remove the output folder and run again"),
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
        if mark.exists() { Ok(()) } else { files::replace(&mark, b"") }
    }

    /// Takes the mark away, before anything of the output changes.
    pub fn mark_incomplete(dir: &Path) -> Result<(), Error> {
        let mark = dir.join(SUCCESS);
        match fs::remove_file(&mark) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("remove", mark)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether a part is complete: recorded, and there with the recorded size.
    pub fn has(&self, dir: &Path, file_name: &str) -> bool {
        let Some(record) = self.parts.get(file_name) else { return false };
        fs::metadata(dir.join(file_name)).is_ok_and(|found| found.len() == record.bytes)
    }

    /// The first thing that `other` was made with and this was not, in words.
    pub fn difference(&self, made_with: &MadeWith) -> Option<String> {
        let keys = self.made_with.keys().chain(made_with.keys());
        keys.filter(|key| self.made_with.get(*key) != made_with.get(*key))
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
            parts.filter_map(|part| part.statuses.get(status.as_str())).sum()
        };
        let counted = RowStatus::ALL.map(|status| (status, count(status)));
        counted.into_iter().filter(|(_, n)| *n > 0).collect()
    }
}
