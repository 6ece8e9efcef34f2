//! Keeping the rows of a scored table that are worth keeping: rules, a funnel, kept rows written.
//!
//! Two passes over the table: one over the scores where a share or a quantile of all rows decides,
//! one over the columns that the rules read, in which kept rows are copied. Held per row: 8 bytes
//! of score in the first, 16 of each kept `uid` where those are asked for. Every rule is one of the
//! whole table (a share is of all usable rows, whatever else is asked of them), so a row is kept if
//! every rule keeps it; their order decides only which one a row is counted under.

mod cut;
mod resolve;
mod rules;
mod sql;
mod uids;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Reasons;
use crate::error::Error;
use crate::spec::filter::FilterSpec;
use crate::table::{Change, NewTable, Table, Written, rewrite_seeing};
use resolve::Rules;

/// The column that says which rule a rejected row did not fulfil.
const REJECTED_BY: &str = "rejected_by";

/// What became of the rows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Filtered {
    pub output: PathBuf,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Whether the output was there already, and nothing was done.
    pub was_there: bool,
    #[serde(flatten)]
    pub funnel: Funnel,
    /// The folder of the other rows, and their number.
    pub rejected: Option<(PathBuf, u64)>,
    /// The file of uids, and their number.
    pub uids: Option<(PathBuf, u64)>,
}

/// How many rows were left after each rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Funnel {
    /// The rules in the order in which they are counted.
    pub funnel: Vec<Step>,
    /// Rows that failed, by status.
    pub failed: Reasons,
    /// What people should know: which column stands for which, what was not looked at.
    pub notes: Vec<String>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// A short stable word.
    pub rule: String,
    /// The same for people.
    pub keeps: String,
    /// Rows that came to it and were not kept.
    pub rejected: u64,
    /// Rows that all rules so far keep.
    pub rows: u64,
}

/// Writes the rows that `spec` keeps, and what else it asks for.
///
/// # Errors
/// `Setting`, `NoColumn` and `ColumnType` for what is asked for; those of `table::rewrite`.
pub fn filter(spec: &FilterSpec, input: &Path) -> Result<Filtered, Error> {
    let table = Table::open(input)?;
    check_folders(spec, &table)?;
    let rules = Rules::resolve(spec, &table)?;
    let kept = write(&table, &rules, &target(spec, false)?)?;
    let rejected = match &spec.rejected {
        Some(dir) => {
            let written = write(&table, &rules, &target(spec, true)?)?;
            Some((dir.clone(), written.rows_out))
        }
        None => None,
    };
    let uids = match (&spec.uids, &rules.uid) {
        (Some(path), Some(column)) => {
            let rows = uids::write(&Table::open(&spec.path)?, column, path)?;
            Some((path.clone(), rows))
        }
        _ => None,
    };
    Ok(Filtered {
        output: spec.path.clone(),
        rows_in: kept.rows_in,
        rows_out: kept.rows_out,
        was_there: kept.was_there,
        funnel: serde_json::from_value(kept.summary).unwrap_or_default(),
        rejected,
        uids,
    })
}

/// One of the two folders that can be written.
struct Target<'a> {
    dir: &'a Path,
    settings: Value,
    overwrite: bool,
    /// Whether it is for the rows that are not kept.
    rejected: bool,
}

fn target(spec: &FilterSpec, rejected: bool) -> Result<Target<'_>, Error> {
    let dir = match &spec.rejected {
        Some(dir) if rejected => dir,
        _ => &spec.path,
    };
    let mut settings = serde_json::to_value(spec).expect("it is plain data");
    if let Some(settings) = settings.as_object_mut() {
        // Where things go changes nothing of what they are.
        for key in ["path", "rejected", "uids", "overwrite"] {
            settings.remove(key);
        }
        settings.insert("rows".into(), if rejected { "rejected" } else { "kept" }.into());
    }
    Ok(Target { dir, settings, overwrite: spec.overwrite, rejected })
}

/// No folder is written that is read, or written twice.
fn check_folders(spec: &FilterSpec, table: &Table) -> Result<(), Error> {
    let wrong =
        |key: &str, problem: &str| Err(Error::Setting { key: key.into(), problem: problem.into() });
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let rejected = spec.rejected.as_deref();
    let inputs: Vec<_> = table.files().iter().map(|file| file.full_path()).collect();
    for (key, dir) in [("output", Some(spec.path.as_path())), ("rejected", rejected)] {
        let Some(dir) = dir.map(real) else { continue };
        if inputs.iter().any(|file| file.parent() == Some(dir.as_path())) {
            return wrong(key, "this folder holds the input: choose another one");
        }
    }
    if rejected.map(real) == Some(real(&spec.path)) {
        return wrong("rejected", "this folder is for the kept rows: choose another one");
    }
    Ok(())
}

fn write(table: &Table, rules: &Rules, target: &Target<'_>) -> Result<Written, Error> {
    let added = match target.rejected {
        true => vec![Arc::new(Field::new(REJECTED_BY, DataType::Utf8, false))],
        false => Vec::new(),
    };
    let new = NewTable {
        dir: target.dir,
        command: "filter",
        settings: target.settings.clone(),
        added,
        overwrite: target.overwrite,
    };
    let tally = std::cell::RefCell::new(Tally::new(rules));
    let change = |_, batch: &RecordBatch| {
        let by = tally.borrow_mut().add(rules, batch)?;
        let kept = by.iter().map(|by| by.is_none() != target.rejected);
        let names = by.iter().map(|by| by.map_or("", |rule| rules.rules[rule].name()));
        let names: Vec<ArrayRef> = match target.rejected {
            true => vec![Arc::new(StringArray::from_iter_values(names))],
            false => Vec::new(),
        };
        Ok(Change { keep: Some(kept.map(Some).collect::<BooleanArray>()), added: names })
    };
    let summary = || {
        let funnel = tally.borrow().funnel(rules);
        serde_json::to_value(funnel).expect("it is plain data")
    };
    rewrite_seeing(table, &new, Some(&rules.columns()), change, summary)
}

/// Counts rows while they pass.
struct Tally {
    rows: u64,
    rejected: Vec<u64>,
    failed: Reasons,
}

impl Tally {
    fn new(rules: &Rules) -> Self {
        Self { rows: 0, rejected: vec![0; rules.rules.len()], failed: Reasons::default() }
    }

    /// Per row, the first rule that does not keep it.
    fn add(&mut self, rules: &Rules, batch: &RecordBatch) -> Result<Vec<Option<usize>>, Error> {
        let mut by = vec![None; batch.num_rows()];
        self.rows += by.len() as u64;
        for (index, rule) in rules.rules.iter().enumerate() {
            let keep = rule.keep(batch)?;
            let lost = by.iter_mut().zip(keep).filter(|(by, keep)| by.is_none() && !keep);
            let mut n = 0;
            lost.for_each(|(by, _)| {
                *by = Some(index);
                n += 1;
            });
            self.rejected[index] += n;
            if let rules::Rule::Status { column } = rule {
                self.count_reasons(rules::text(batch, column), &by);
            }
        }
        Ok(by)
    }

    /// Counts the words of rows that have just been found to have failed.
    fn count_reasons(&mut self, words: &arrow::array::BinaryViewArray, by: &[Option<usize>]) {
        use arrow::array::Array;

        for row in (0..by.len()).filter(|row| by[*row].is_some()) {
            let word = if words.is_valid(row) { words.value(row) } else { b"null" };
            self.failed.count(word, 1);
        }
    }

    fn funnel(&self, rules: &Rules) -> Funnel {
        let mut left = self.rows;
        let steps = rules.rules.iter().zip(&self.rejected).map(|(rule, rejected)| {
            left -= rejected;
            Step { rule: rule.name().into(), keeps: rule.keeps(), rejected: *rejected, rows: left }
        });
        Funnel { funnel: steps.collect(), failed: self.failed.clone(), notes: rules.notes.clone() }
    }
}
