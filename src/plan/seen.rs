//! Whether anything is new, told in a moment: `_seen.json`, which a run whose output grows leaves when
//! all is done, steps and gates.
//!
//! Two digests: of the settings and of how all files look that the output was made from (size, times,
//! inode; in a store length, tag and time; of a hub's model the commit), and of the names and sizes of
//! its own. Where both are as they were, no input is opened, no weights are digested and no model is
//! loaded. What the output was made with is the manifest's to say;
//! this is only how it looked. Images that rows name are not looked at, here as there.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::resume::is_part;
use super::{settings, sources};
use crate::crash::is_journal;
use crate::digest::Growing;
use crate::error::Error;
use crate::files::{self, SEEN};
use crate::hub::Hub;
use crate::manifest::{FILE_NAME, SUCCESS};
use crate::report;
use crate::spec::layers::Layered;
use crate::spec::{ModelPlace, PipelineSpec};

/// What an output is made from, as it looks from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Of the settings, and of the files that it is made from.
    made_from: String,
    /// Of the output's own files.
    #[serde(default)]
    output: String,
    /// Whether it has parts of files that were gone then.
    #[serde(default)]
    has_gone: bool,
}

impl Seen {
    /// Looks at what a pipeline reads. To be asked before anything is read: what is written to later
    /// looks different the next time. None where only a look into files tells, or asking a hub.
    ///
    /// # Errors
    /// `Setting` for one that makes no sense; those of finding the input.
    pub fn look(layered: &Layered, hub: Hub) -> Result<Option<Self>, Error> {
        settings::check_settings(&layered.spec)?;
        let Some(files) = files_of(&layered.spec)? else { return Ok(None) };
        let mut digest = Growing::default();
        digest.add(env!("CARGO_PKG_VERSION").as_bytes());
        // Those of steps too; how it runs, and what it is held against, is asked anew.
        for setting in layered.settings.iter().filter(|setting| !setting.key.starts_with("run.")) {
            digest.add(format!("\n{}\n{}", setting.key, setting.value).as_bytes());
        }
        for model in layered.spec.model.all() {
            if let ModelPlace::Hub(spec) = &model.place {
                // Whoever needs it says why it is not to be had.
                let Ok(commit) = hub.commit(spec, model.family) else { return Ok(None) };
                digest.add(format!("\n{spec}\0{commit}").as_bytes());
            }
        }
        for (path, version) in files {
            digest.add(b"\n");
            digest.add(path.as_os_str().as_bytes());
            if let Some(version) = version {
                digest.add(format!("\0{version}").as_bytes());
                continue;
            }
            // Whoever reads it says what is wrong with it.
            let Ok(found) = std::fs::metadata(&path) else { return Ok(None) };
            let written = (found.mtime(), found.mtime_nsec());
            let changed = (found.ctime(), found.ctime_nsec());
            let looks = (found.len(), written, changed, found.ino());
            digest.add(format!("\0{looks:?}").as_bytes());
        }
        Ok(Some(Self { made_from: digest.finish(), output: String::new(), has_gone: false }))
    }

    /// Whether an output was complete when it was made from the same, and looks as it did then; where
    /// parts of files that are gone are to be removed, whether it had none.
    pub fn is_known(&self, dir: &Path, prune: bool) -> Result<bool, Error> {
        let Some(text) = files::read(&dir.join(SEEN))? else { return Ok(false) };
        let Ok(then) = serde_json::from_slice::<Self>(&text) else { return Ok(false) };
        let is_done = then.made_from == self.made_from && !(prune && then.has_gone);
        Ok(is_done && then.output == output(dir)?)
    }

    /// Leaves it in a complete output, which may have parts of files that are gone.
    pub fn leave(mut self, dir: &Path, has_gone: bool) -> Result<(), Error> {
        (self.output, self.has_gone) = (output(dir)?, has_gone);
        let text = serde_json::to_vec(&self).expect("strings are JSON");
        files::replace(&dir.join(SEEN), &text)
    }
}

/// A digest of what a run has left in its output folder, or a dead one at work.
fn output(dir: &Path) -> Result<String, Error> {
    let mut digest = Growing::default();
    for (name, bytes) in files::list(dir)? {
        let is_its = [FILE_NAME, SUCCESS, report::FILE_NAME].contains(&name.as_str());
        if is_its || is_part(&name) || is_journal(&name) {
            digest.add(format!("{name}\0{bytes:?}\n").as_bytes());
        }
    }
    Ok(digest.finish())
}

/// Every file that a pipeline reads, but for images that its rows name, with its version where a store
/// has it.
fn files_of(spec: &PipelineSpec) -> Result<Option<BTreeMap<PathBuf, Option<String>>>, Error> {
    let Some(inputs) = sources::list_inputs(spec)? else { return Ok(None) };
    let mut files: BTreeMap<_, _> = inputs.into_iter().collect();
    files.extend(spec.head.values().map(|head| (head.file.clone(), None)));
    for model in spec.model.all() {
        let ModelPlace::Dir(dir) = &model.place else { continue };
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(None) };
        for entry in entries {
            files.insert(entry.map_err(Error::io("list", dir))?.path(), None);
        }
    }
    Ok(Some(files))
}
