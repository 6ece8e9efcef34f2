//! An output that grows with its input: files come, change and go, and the parts of those that did not
//! stay as they are.
//!
//! A part is told by its place: which rows of which input. It keeps the number that it got when it
//! came, so that the order of the parts is that in which their inputs came; within one it is the
//! input's. What is to be done is found by `resume`, as for any output.

use std::collections::{BTreeMap, BTreeSet};

use super::Plan;
use super::resume::{Found, part_files, part_number, read_part};
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
    /// knows theirs, and new ones the next.
    pub fn number_parts(&mut self, grows: bool) -> Result<(), Error> {
        let manifest = match Manifest::read(self.output()) {
            Err(Error::Manifest { .. }) => None,
            found => found?,
        };
        let mut numbers = Numbers::new();
        let mut add = |name: &str, about: &PartAbout| {
            let place = (about.input.clone(), about.start);
            numbers.extend(part_number(name).map(|number| (place, number)));
        };
        let has_grown = match &manifest {
            Some(found) => {
                found.parts.iter().for_each(|(name, record)| add(name, &record.about));
                found.grows
            }
            // The parts tell of themselves.
            None => {
                for name in part_files(self.output())? {
                    if let Found::Part(record) = read_part(&self.output().join(&name))? {
                        add(&name, &record.about);
                    }
                }
                let places = self.places();
                let mut numbered = places.iter().map(|place| numbers.get(place)).enumerate();
                numbered.any(|(index, number)| number.is_some_and(|number| *number != index))
            }
        };
        self.grows = grows || has_grown;
        if self.grows {
            let mut next = numbers.values().max().map_or(0, |last| last + 1);
            let places = self.places();
            for (part, place) in self.parts.iter_mut().zip(&places) {
                part.number = numbers.get(place).copied().unwrap_or_else(|| {
                    next += 1;
                    next - 1
                });
            }
        }
        Ok(())
    }

    /// Of each part.
    fn places(&self) -> Vec<(String, u64)> {
        let names: Vec<_> = self.inputs.iter().map(InputFile::full_name).collect();
        self.parts.iter().map(|part| (names[part.input].clone(), part.start)).collect()
    }

    /// Parts of inputs that are gone, where they stay.
    pub(super) fn kept<'a>(
        &self,
        recorded: &'a BTreeMap<String, PartRecord>,
        growth: Option<Growth>,
    ) -> Vec<(&'a String, &'a PartRecord)> {
        let stay = match growth {
            Some(Growth { prune }) => !prune,
            None => false,
        };
        if !stay {
            return Vec::new();
        }
        let inputs: BTreeSet<_> = self.inputs.iter().map(InputFile::full_name).collect();
        let is_gone = |(_, record): &(_, &PartRecord)| !inputs.contains(&record.about.input);
        recorded.iter().filter(is_gone).collect()
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
