//! An output that grows with its input: files come, change and go, and the parts of those that did not
//! stay as they are.
//!
//! A part is told by its place: which rows of which input. It keeps the number that it got when it
//! came, so that the order of the parts is that in which their inputs came; within one it is the
//! input's. What is to be done is found by `resume`, as for any output.

use std::collections::{BTreeMap, BTreeSet};

use super::Plan;
use super::resume::part_number;
use crate::error::Error;
use crate::manifest::{MadeWith, Manifest, PartAbout, PartRecord, input_key, is_input};
use crate::source::InputFile;

/// How an output follows an input whose files come, change and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// Whether parts whose input is gone are removed.
    pub prune: bool,
}

/// How an input differs from what an output was made of, in files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    pub new: usize,
    pub changed: usize,
    pub gone: usize,
}

/// The number of the part that has a place: an input's name and a first row there.
type Numbers = BTreeMap<(String, u64), usize>;

impl Plan {
    /// Gives parts the numbers that they have in an output that `grows`, or has grown: those that it
    /// knows theirs, and new ones the next. For who holds the output's lock, where they are to last.
    ///
    /// # Errors
    /// `Setting` for two inputs of one name.
    pub fn number_parts(&mut self, grows: bool) -> Result<(), Error> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.inputs.iter().find(|input| !names.insert(input.full_name())) {
            let problem = format!(
                "two files are called {} where bytes that are no UTF-8 are left out: rename one",
                twice.full_name()
            );
            return Err(Error::Setting { key: "the source's path".into(), problem });
        }
        let manifest = match Manifest::read(self.output()) {
            Err(Error::Manifest { .. }) => None,
            found => found?,
        };
        let mut numbers = Numbers::new();
        let mut add = |name: &str, about: &PartAbout| {
            if let Some(number) = part_number(name) {
                // Of two the second is a copy, which nobody recorded.
                numbers.entry((about.input.clone(), about.start)).or_insert(number);
            }
        };
        let has_grown = match &manifest {
            Some(found) => {
                found.parts.iter().for_each(|(name, record)| add(name, &record.about));
                found.grows
            }
            // The parts tell of themselves.
            None => {
                self.parts_there()?.iter().for_each(|(name, record)| add(name, &record.about));
                let places = self.places();
                let mut numbered = places.iter().map(|place| numbers.get(place)).enumerate();
                numbered.any(|(index, number)| number.is_some_and(|number| *number != index))
            }
        };
        self.grows = grows || has_grown;
        if self.grows {
            let first = numbers.values().max().map_or(0, |last| last + 1);
            let (mut next, places) = (first, self.places());
            for (part, place) in self.parts.iter_mut().zip(&places) {
                part.number = numbers.get(place).copied().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
            }
            self.n_new = next - first;
        }
        Ok(())
    }

    /// Of each part.
    fn places(&self) -> Vec<(String, u64)> {
        let names: Vec<_> = self.inputs.iter().map(InputFile::full_name).collect();
        self.parts.iter().map(|part| (names[part.input].clone(), part.start)).collect()
    }

    /// Parts of files that are gone: they stay until they are pruned.
    ///
    /// # Errors
    /// `OutputDiffers` where what was made differently is done again, which these cannot be; where
    /// files that are new look like those that are gone.
    pub(super) fn kept<'a>(
        &self,
        recorded: &'a BTreeMap<String, PartRecord>,
        before: Option<&Manifest>,
        made_with: &MadeWith,
        growth: Option<Growth>,
    ) -> Result<Vec<(&'a String, &'a PartRecord)>, Error> {
        if !self.grows || growth.is_some_and(|growth| growth.prune) {
            return Ok(Vec::new());
        }
        let inputs: BTreeSet<_> = self.inputs.iter().map(InputFile::full_name).collect();
        let is_gone = |(_, record): &(_, &PartRecord)| !inputs.contains(&record.about.input);
        let kept: Vec<_> = recorded.iter().filter(is_gone).collect();
        let (Some(before), Some((_, first))) = (before, kept.first()) else { return Ok(kept) };
        let refused = |difference: String| {
            let path = self.output().to_owned();
            Err(Error::OutputDiffers { path, difference })
        };
        if let Some(difference) = before.difference_beside_inputs(made_with) {
            return refused(format!(
                "{difference}; and the files of {} parts are gone ({} first), which cannot be done \
                 again: --incremental --prune removes them",
                kept.len(),
                first.about.input
            ));
        }
        // What was moved would be there twice.
        for input in &self.inputs {
            let (key, looks) = (input_key(&input.full_name()), input.fingerprint());
            let is_it = |(gone, was): &(&String, &String)| {
                is_input(gone) && **was == looks && !made_with.contains_key(*gone)
            };
            if let (None, Some((gone, _))) =
                (before.made_with.get(&key), before.made_with.iter().find(is_it))
            {
                return refused(format!(
                    "{key} is new and looks as {gone} did, which is gone: where files were moved, \
                     --incremental --prune does them again and removes the parts that they had"
                ));
            }
        }
        Ok(kept)
    }

    /// Makes sure that parts can be shared out: in an output that grows, one process gives the new ones
    /// their numbers.
    ///
    /// # Errors
    /// `Setting`.
    pub fn check_shares(&self) -> Result<(), Error> {
        match self.n_new {
            0 => Ok(()),
            n => Err(Error::Setting {
                key: "--parts".into(),
                problem: format!(
                    "shares an output that has grown, and {n} of its parts are new: do them by \
                     `clipmill run --incremental`"
                ),
            }),
        }
    }

    /// What of the input is another than the output was made of.
    pub(super) fn news(&self, before: Option<&Manifest>, made_with: &MadeWith) -> News {
        let none = MadeWith::new();
        let was = before.map_or(&none, |before| &before.made_with);
        let mut news = News::default();
        for input in &self.inputs {
            let key = input_key(&input.full_name());
            match was.get(&key) {
                None => news.new += 1,
                found if found != made_with.get(&key) => news.changed += 1,
                _ => {}
            }
        }
        let is_gone = |key: &&String| is_input(key) && !made_with.contains_key(*key);
        news.gone = was.keys().filter(is_gone).count();
        news
    }
}
