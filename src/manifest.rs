//! What was done, from what, with what: `manifest.json` in the output folder.
//!
//! A run reads it to know which parts are complete and whether they were made in the way that is
//! asked for now. It is replaced atomically after every part. It holds no rows and no scores.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files;

/// The manifest's name in the output folder. The underscore keeps it out of data globs.
pub const FILE_NAME: &str = "_manifest.json";

/// What an output's values depend on, by name: settings, model, inputs.
pub type MadeWith = BTreeMap<String, String>;

/// The state of one output folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version.
    pub clipmill: String,
    pub made_with: MadeWith,
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
    /// Rows by status word.
    pub statuses: BTreeMap<String, u64>,
}

impl Manifest {
    /// A manifest of no parts.
    pub fn new(made_with: MadeWith) -> Self {
        let clipmill = env!("CARGO_PKG_VERSION").to_owned();
        Self { clipmill, made_with, parts: BTreeMap::new() }
    }

    /// Reads a folder's manifest, or `None` where there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE_NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::Manifest {
            path,
            problem: format!("it cannot be read ({error})"),
        })
    }

    /// Replaces a folder's manifest.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        files::replace(&dir.join(FILE_NAME), &text)
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
            .map(|key| {
                let show =
                    |side: &MadeWith| side.get(key).cloned().unwrap_or_else(|| "nothing".into());
                format!("{key} was {} and is {}", show(&self.made_with), show(made_with))
            })
            .next()
    }
}
