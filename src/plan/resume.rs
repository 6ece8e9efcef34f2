//! What of a plan's output is there already, and what is left to do.
//!
//! The manifest is believed where it is whole. Where it is silent, damaged or gone, each part file
//! is asked: a part whose seal fits and whose key is the plan's is as good as a recorded one.
//! Nothing is written here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::growth::{Growth, News};
use super::{Plan, provenance};
use crate::crash;
use crate::error::Error;
use crate::files;
use crate::manifest::{FILE_NAME, MadeWith, Manifest, PartRecord, SUCCESS, input_key};
use crate::report::{self, RunReport};
use crate::sink::{Published, read_published};
use crate::source::{Part, part_name};

/// Where a run goes on.
pub struct Resume {
    dir: PathBuf,
    /// Of the plan as it is now, with the parts that stand.
    pub manifest: Manifest,
    /// The parts that are wanted and not there.
    pub remaining: Vec<Part>,
    /// Files of parts that the plan does not have, to be removed.
    pub stale: Vec<String>,
    /// Files that are not the parts that were recorded under their names, to be removed before the
    /// record is: without it they would be taken for them.
    impostors: Vec<String>,
    /// The key of every part of the plan.
    pub keys: Vec<String>,
    /// What dead processes were at, to be removed once the manifest knows of it.
    journals: Vec<PathBuf>,
    /// Whether the folder's manifest says something else, or there is none.
    pub is_changed: bool,
    /// What came, changed and went since the output was made, where it grows with its input.
    pub news: Option<News>,
    /// What a person should know of how the folder was found.
    pub notes: Vec<String>,
}

/// What the caller allows and wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The parts to look for; others are taken from the manifest as they are.
    pub parts: &'a [Part],
    /// Whether parts that were made differently may be done again.
    pub redo_changed: bool,
    /// Whether the output grows with its input.
    pub growth: Option<Growth>,
    /// Whether parts with rows that may go better now are done again.
    pub retry_failed: bool,
    /// Whether recorded parts are read and held against their digests.
    pub check_all: bool,
}

impl<'a> Wanted<'a> {
    /// What is left of some parts, and nothing that was made differently.
    pub fn of(parts: &'a [Part]) -> Self {
        Self { parts, redo_changed: false, growth: None, retry_failed: false, check_all: false }
    }
}

impl Resume {
    /// Removes what dead processes were at, where the manifest knows all of it already.
    pub fn forget_journals(&self) -> Result<(), Error> {
        crash::forget(&self.journals)
    }

    /// Adds what others have written to the manifest of the same job since it was looked at. For
    /// who holds the manifest's lock.
    ///
    /// # Errors
    /// `OutputDiffers` where others have begun another job there meanwhile.
    pub fn add_what_others_found(&mut self, redo_changed: bool) -> Result<(), Error> {
        let found = match Manifest::read(&self.dir) {
            Ok(Some(found)) => match found.difference(&self.manifest.made_with) {
                None => found,
                Some(_) if redo_changed => return Ok(()),
                Some(difference) => {
                    return Err(Error::OutputDiffers { path: self.dir.clone(), difference });
                }
            },
            Ok(None) | Err(Error::Manifest { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (name, record) in found.parts {
            // A part that this process looked for and will make anew is not there.
            if !self.remaining.iter().any(|part| part.file_name() == name) {
                self.manifest.parts.entry(name).or_insert(record);
            }
        }
        for killer in found.killers {
            if !self.manifest.killers.contains(&killer) {
                self.manifest.killers.push(killer);
            }
        }
        self.is_changed = true;
        Ok(())
    }

    /// Whether the output is as it should be, but perhaps for its report.
    pub fn is_complete(&self) -> bool {
        self.remaining.is_empty() && self.stale.is_empty() && !self.is_changed
    }
}

impl Plan {
    /// Makes sure that the output folder is this plan's to write to, without a trace in it.
    ///
    /// # Errors
    /// `OutputExists` for a folder that holds anything else, `OutputDiffers` for parts that were
    /// made differently and may not be redone.
    pub fn check_output(
        &self,
        made_with: &MadeWith,
        Allowed { redo_changed, grows }: Allowed,
    ) -> Result<(), Error> {
        let path = self.output();
        match Manifest::read(path) {
            Ok(Some(found)) => match difference(&found, made_with, grows) {
                Some(difference) if !redo_changed => {
                    Err(Error::OutputDiffers { path: path.to_owned(), difference })
                }
                _ => Ok(()),
            },
            Ok(None) => match foreign_entry(path)? {
                None => Ok(()),
                Some(found) => Err(Error::OutputExists { path: path.to_owned(), found }),
            },
            // It is made again, if the rest of the folder is clipmill's.
            Err(Error::Manifest { .. }) => match foreign_entry(path)? {
                None => Ok(()),
                Some(found) => Err(Error::OutputExists { path: path.to_owned(), found }),
            },
            Err(error) => Err(error),
        }
    }

    /// Finds out what is left to do. For who holds the locks.
    ///
    /// # Errors
    /// Those of [`Plan::check_output`].
    pub fn resume(&self, made_with: &MadeWith, wanted: Wanted<'_>) -> Result<Resume, Error> {
        let grows = wanted.growth.is_some();
        self.check_output(made_with, Allowed { redo_changed: wanted.redo_changed, grows })?;
        let dir = self.output();
        let (found, mut notes) = match Manifest::read(dir) {
            Ok(found) => (found, Vec::new()),
            Err(Error::Manifest { problem, .. }) => (None, vec![format!("{FILE_NAME} {problem}")]),
            Err(error) => return Err(error),
        };
        let is_new = found.is_none();
        let before = found.clone();
        let difference = found.as_ref().and_then(|found| difference(found, made_with, grows));
        notes.extend(difference.as_ref().map(|what| format!("doing again what changed: {what}")));
        let recorded = match found {
            Some(found) => found.parts,
            // Parts of files that are gone tell of themselves, too.
            None if self.grows || grows => self.parts_there()?,
            None => BTreeMap::new(),
        };
        let keys = provenance::part_keys(self, made_with);
        let mut manifest = Manifest::new(made_with.clone(), self.parts.len());
        manifest.grows = self.grows || grows;
        // What changed may be what they died of.
        let unchanged = before.as_ref().filter(|_| difference.is_none());
        manifest.killers = unchanged.map_or_else(Vec::new, |found| found.killers.clone());
        let (mut remaining, mut impostors) = (Vec::new(), Vec::new());
        let there = files::list(dir)?;
        for part in &self.parts {
            let (name, key) = (part.file_name(), &keys[part.index]);
            let known = recorded.get(&name).filter(|record| record.about.key == *key);
            let record = known.filter(|record| there.get(&name) == Some(&Some(record.bytes)));
            let is_wanted = wanted.parts.contains(part);
            // Its file stays until another takes its place: interrupted, that is what is there.
            let again = |record: &PartRecord| {
                wanted.retry_failed && is_wanted && record.about.has_passing_failures()
            };
            if record.is_some_and(again) {
                remaining.push(*part);
                continue;
            }
            if let Some(record) = record.filter(|_| !(wanted.check_all && is_wanted)) {
                manifest.parts.insert(name, record.clone());
                continue;
            }
            if !is_wanted {
                continue;
            }
            let found = if matches!(there.get(&name), Some(Some(_))) {
                read_part(&dir.join(&name))?
            } else {
                Found::Nothing
            };
            match found {
                Found::Part(found)
                    if found.about.key == *key
                        && again(&found)
                        && known.is_none_or(|record| *record == found) => {}
                Found::Part(found) if found.about.key == *key => {
                    // Recorded under another digest: one whole part was put in another's place.
                    if known.is_none_or(|record| *record == found) {
                        manifest.parts.insert(name, found);
                        continue;
                    }
                    notes.push(format!(
                        "{name} is not the one that was recorded, and has to be made again"
                    ));
                    impostors.push(name);
                }
                Found::Part(_) if is_new && !wanted.redo_changed => {
                    return Err(another(dir, &name));
                }
                Found::Damaged => {
                    notes.push(format!("{name} is damaged, and has to be made again"))
                }
                Found::Part(_) | Found::Nothing => {}
            }
            remaining.push(*part);
        }
        if is_new && !manifest.parts.is_empty() {
            let (n, of) = (manifest.parts.len(), self.parts.len());
            notes.push(format!("{FILE_NAME} was made again: {n} of {of} parts are whole"));
        }
        let kept = self.kept(&recorded, before.as_ref(), made_with, wanted.growth)?;
        for (name, record) in &kept {
            if there.get(*name) != Some(&Some(record.bytes)) {
                let input = &record.about.input;
                notes.push(format!("{name} is gone or damaged, and so is its input {input}"));
                continue;
            }
            // Its input is not among what the plan is made with.
            let input = input_key(&record.about.input);
            let was = before.as_ref().and_then(|before| before.made_with.get(&input).cloned());
            let was = was.unwrap_or_else(|| "gone".to_owned());
            manifest.made_with.entry(input).or_insert(was);
            manifest.parts.insert((*name).clone(), (*record).clone());
            manifest.n_parts += 1;
        }
        if manifest.n_parts > self.parts.len() {
            let n = manifest.n_parts - self.parts.len();
            notes.push(format!("the files of {n} parts are gone: they stay, --prune removes them"));
        }
        let stale = self.stale(&recorded, &manifest)?;
        let news = wanted.growth.map(|_| self.news(before.as_ref(), made_with));
        let (journals, suspects) = crash::left_behind(&files::local(dir))?;
        if !suspects.is_empty() && !wanted.check_all {
            let found = self.killers(&suspects, &manifest.killers, &mut notes)?;
            manifest.killers.extend(found);
        }
        // What was not tried is still suspected.
        let journals =
            if wanted.check_all && !remaining.is_empty() { Vec::new() } else { journals };
        let is_changed = before.as_ref() != Some(&manifest);
        Ok(Resume {
            dir: dir.to_owned(),
            manifest,
            remaining,
            stale,
            impostors,
            keys,
            journals,
            is_changed,
            news,
            notes,
        })
    }

    /// Makes the folder ready for what is left to do, so that from here on it says no more than is
    /// true. For who holds the lock of the whole folder.
    pub fn claim(&self, resume: &Resume) -> Result<(), Error> {
        let dir = self.output();
        self.claim_parts(resume)?;
        for name in &resume.stale {
            files::remove(&dir.join(name))?;
        }
        files::remove_leftovers(dir)
    }

    /// The same for who holds the locks of some parts and that of the manifest.
    pub fn claim_parts(&self, resume: &Resume) -> Result<(), Error> {
        let dir = self.output();
        // Before a part: a run killed right after publishing one must find its own folder.
        Manifest::mark_incomplete(dir)?;
        RunReport::remove(dir)?;
        for name in &resume.impostors {
            files::remove(&dir.join(name))?;
        }
        if resume.is_changed {
            resume.manifest.write(dir)?;
        }
        crash::forget(&resume.journals)
    }

    /// The parts that are in the folder, by what they say of themselves.
    pub(super) fn parts_there(&self) -> Result<BTreeMap<String, PartRecord>, Error> {
        let mut there = BTreeMap::new();
        for name in part_files(self.output())? {
            if let Found::Part(record) = read_part(&self.output().join(&name))? {
                there.insert(name, record);
            }
        }
        Ok(there)
    }

    /// Part files that the output does not have: of an input that was larger, or is gone.
    fn stale(
        &self,
        recorded: &BTreeMap<String, PartRecord>,
        manifest: &Manifest,
    ) -> Result<Vec<String>, Error> {
        let dir = self.output();
        let planned: BTreeSet<_> = self.parts.iter().map(Part::file_name).collect();
        let mut stale = Vec::new();
        for name in part_files(dir)? {
            let stays = planned.contains(&name) || manifest.parts.contains_key(&name);
            let is_ours = || Ok(matches!(read_part(&dir.join(&name))?, Found::Part(_)));
            if !stays && (recorded.contains_key(&name) || is_ours()?) {
                stale.push(name);
            }
        }
        Ok(stale)
    }
}

/// Which changes of what an output was made with are no reason to refuse it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Any: what changed is done again.
    pub redo_changed: bool,
    /// Those of the input.
    pub grows: bool,
}

fn difference(found: &Manifest, made_with: &MadeWith, grows: bool) -> Option<String> {
    match grows {
        true => found.difference_beside_inputs(made_with),
        false => found.difference(made_with),
    }
}

/// A part that is there already, whole and of this plan, by its key.
///
/// # Errors
/// `OutputDiffers` for one that came from another input, model or setting.
pub fn published(dir: &Path, part: Part, key: &str) -> Result<Option<PartRecord>, Error> {
    let path = dir.join(part.file_name());
    if !files::exists(&path)? {
        return Ok(None);
    }
    match read_part(&path)? {
        Found::Part(found) if found.about.key == key => Ok(Some(found)),
        Found::Part(_) => Err(another(dir, &part.file_name())),
        Found::Damaged | Found::Nothing => Ok(None),
    }
}

fn another(dir: &Path, name: &str) -> Error {
    let difference = format!("{name} came from another input, model or setting");
    Error::OutputDiffers { path: dir.to_owned(), difference }
}

/// What is under a part's name.
enum Found {
    Nothing,
    /// Cut, changed, or not clipmill's.
    Damaged,
    Part(PartRecord),
}

fn read_part(path: &Path) -> Result<Found, Error> {
    let Some((about, Published { rows, bytes, sha256 })) = read_published(path)? else {
        return Ok(Found::Damaged);
    };
    Ok(PartRecord::read(&about, rows, bytes, sha256).map_or(Found::Damaged, Found::Part))
}

/// The number in a part's file name.
pub(super) fn part_number(name: &str) -> Option<usize> {
    let number = name.strip_prefix("part-")?.strip_suffix(".parquet")?.parse().ok()?;
    (part_name(number) == name).then_some(number)
}

pub(super) fn is_part(name: &str) -> bool {
    part_number(name).is_some()
}

/// Names of part files in a folder, sorted.
fn part_files(dir: &Path) -> Result<Vec<String>, Error> {
    let names = names(dir)?;
    Ok(names.into_iter().filter(|name| is_part(name)).collect())
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    Ok(files::list(dir)?.into_keys().collect())
}

/// What a folder without a whole manifest holds that is not what a run leaves. Parts are a run's if one
/// of them at least is whole.
fn foreign_entry(dir: &Path) -> Result<Option<String>, Error> {
    let (parts, others): (Vec<_>, Vec<_>) = names(dir)?.into_iter().partition(|name| is_part(name));
    let is_ours = |name: &String| {
        let of_a_run =
            [FILE_NAME, SUCCESS, report::FILE_NAME, report::BASELINE].contains(&name.as_str());
        of_a_run || files::is_housekeeping(name) || crash::is_journal(name)
    };
    if let Some(other) = others.into_iter().find(|name| !is_ours(name)) {
        return Ok(Some(other));
    }
    for name in &parts {
        if let Found::Part(_) = read_part(&dir.join(name))? {
            return Ok(None);
        }
    }
    Ok(parts.into_iter().next())
}
