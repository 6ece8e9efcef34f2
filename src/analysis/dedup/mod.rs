//! Of rows that are alike, the best one: exact, perceptual and semantic duplicates.
//!
//! Rows are alike in pairs, and a group is all rows that pairs lead to from one another, whichever
//! likeness each pair has. So a group may hold two rows that are not alike themselves: the summary
//! names the largest groups. The row with the highest score is kept, of equal ones the first; a
//! score that is missing or no number is below all others.
//!
//! A row without the value that a likeness looks at is like no other by it. A row that has none of
//! the values is in no group and is kept: dropping what failed is `filter`'s.
//!
//! Held in memory for a row: 5 bytes, 8 for each group of several, and what each likeness says in
//! its file, one after the other.

mod asked;
mod exact;
mod groups;
mod perceptual;
mod semantic;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde::{Deserialize, Serialize};
use tch::Device;

use super::Reasons;
use super::cluster::Centroids;
use super::unit::UnitColumn;
use crate::error::Error;
use crate::spec::DedupSpec;
use crate::table::{Change, NewTable, Table, Written, made, rewrite};
use groups::Groups;

/// Groups that the summary names.
const LARGEST: usize = 10;

/// What is said of a deduplication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub rows: u64,
    /// Groups of several rows.
    pub groups: u64,
    /// Rows that are in such a group and not kept.
    pub duplicates: u64,
    /// The column that decided which row of a group is kept, if any.
    pub score: Option<String>,
    /// In the order in which they were looked for.
    pub likenesses: Vec<Likeness>,
    /// The largest groups: the kept row, and how many rows there are.
    pub largest: Vec<(u64, u64)>,
    /// Rows without any of the values that were looked at.
    pub without: u64,
}

/// What one likeness found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Likeness {
    pub kind: String,
    pub column: String,
    /// Duplicates that it found and those before it had not.
    pub duplicates: u64,
    /// Rows without a value, by reason.
    pub missing: Reasons,
    /// Cells, of the semantic one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cells: Option<usize>,
}

/// What is known so far.
struct Found {
    groups: Groups,
    /// Per row, whether it has any of the values.
    keys: Vec<bool>,
}

impl Found {
    fn has_key(&mut self, row: u32) {
        self.keys[row as usize] = true;
    }
}

/// Deduplicates a table into a new folder.
///
/// # Errors
/// `Setting` for what makes no sense or lacks its column; those of `rewrite`, of reading and of
/// LibTorch.
pub fn dedup(table: &Table, spec: &DedupSpec, device: Device) -> Result<Written, Error> {
    asked::check(table, spec)?;
    let score = asked::score_column(table, spec)?;
    let score = score.as_deref();
    let embedding = match spec.semantic {
        true => Some(table.embedding(spec.column.as_deref())?),
        false => None,
    };
    let new = NewTable {
        dir: &spec.path,
        command: "dedup",
        settings: asked::settings(spec, score, embedding),
        added: asked::added(spec),
        overwrite: spec.overwrite,
    };
    if let Some(made) = made(table, &new)? {
        return Ok(made);
    }
    let rows = u32::try_from(table.rows()).map_err(|_| Error::Setting {
        key: "dedup".into(),
        problem: format!("{} rows are more than 4,294,967,295: split the table", table.rows()),
    })?;
    let mut found = Found { groups: Groups::new(rows), keys: vec![false; rows as usize] };
    let (likenesses, centroids) = find(table, spec, device, &mut found)?;
    let Found { groups, keys } = found;
    let roots = groups.into_roots();
    let kept = kept(table, score, &roots)?;
    let result = Verdict { roots, keys, kept, mark: spec.mark };
    let summary = result.summary(score, likenesses);
    let about = new.settings.to_string();
    let centroids = RefCell::new(centroids);
    let keep = || match centroids.take() {
        Some(centroids) if centroids.k() > 0 => centroids.write(&spec.path, about.clone()),
        _ => Ok(()),
    };
    let change = |first, batch: &RecordBatch| {
        keep()?;
        Ok(result.change(first, batch.num_rows()))
    };
    rewrite(table, &new, change, || serde_json::to_value(&summary).expect("it is plain data"))
}

/// A column, and the one that says what became of a row.
fn with_status<'a>(table: &Table, column: &'a str) -> Vec<&'a str> {
    let mut columns = vec![column];
    if column != "status" && table.find("status").is_some() {
        columns.push("status");
    }
    columns
}

/// Looks for each likeness that is asked for.
fn find(
    table: &Table,
    spec: &DedupSpec,
    device: Device,
    found: &mut Found,
) -> Result<(Vec<Likeness>, Option<Centroids>), Error> {
    let mut likenesses = Vec::new();
    let mut centroids = None;
    let mut note = |kind: &str, column: &str, (missing, duplicates, cells)| {
        let (kind, column) = (kind.to_owned(), column.to_owned());
        likenesses.push(Likeness { kind, column, duplicates, missing, cells });
    };
    if spec.exact {
        let before = found.groups.joined();
        let missing = exact::join(table, &spec.exact_column, found)?;
        note("exact", &spec.exact_column, (missing, found.groups.joined() - before, None));
    }
    if spec.perceptual {
        let before = found.groups.joined();
        let missing = perceptual::join(table, (&spec.phash_column, spec.distance), found)?;
        note("perceptual", &spec.phash_column, (missing, found.groups.joined() - before, None));
    }
    if spec.semantic {
        let before = found.groups.joined();
        let column = UnitColumn::open(table, spec.column.as_deref())?;
        let (missing, cells) = semantic::join(&column, spec, device, found)?;
        let joined = found.groups.joined() - before;
        note("semantic", column.name, (missing, joined, Some(cells.k())));
        centroids = Some(cells);
    }
    Ok((likenesses, centroids))
}

/// The kept row of each group of several, by the group's first row.
fn kept(table: &Table, score: Option<&str>, roots: &[u32]) -> Result<HashMap<u32, u32>, Error> {
    let others = roots.iter().enumerate().filter(|(row, root)| *row != **root as usize);
    let mut best: HashMap<u32, (f64, u32)> =
        others.map(|(_, root)| (*root, (f64::NEG_INFINITY, *root))).collect();
    if let Some(column) = score {
        table.scan(&[column], |first, batch| {
            let values = batch.column_by_name(column).expect("it was asked for");
            let values = cast(values, &DataType::Float64)
                .map_err(|source| Error::Arrow { action: "read scores as numbers", source })?;
            let values = values.as_primitive::<Float64Type>();
            for at in (0..values.len()).filter(|at| values.is_valid(*at)) {
                let row = (first + at as u64) as u32;
                if let Some(best) = best.get_mut(&roots[row as usize])
                    // False for NaN too.
                    && values.value(at) > best.0
                {
                    *best = (values.value(at), row);
                }
            }
            Ok(())
        })?;
    }
    Ok(best.into_iter().map(|(root, (_, row))| (root, row)).collect())
}

/// What becomes of each row.
struct Verdict {
    roots: Vec<u32>,
    keys: Vec<bool>,
    kept: HashMap<u32, u32>,
    mark: bool,
}

impl Verdict {
    /// The row that a row's group is kept by: itself, where it is alone.
    fn kept_by(&self, row: u32) -> u32 {
        let root = self.roots[row as usize];
        self.kept.get(&root).copied().unwrap_or(row)
    }

    fn change(&self, first: u64, n_rows: usize) -> Change {
        let rows = first as u32..(first + n_rows as u64) as u32;
        let group = |row: u32| self.keys[row as usize].then(|| i64::from(self.kept_by(row)));
        let groups: ArrayRef = Arc::new(Int64Array::from_iter(rows.clone().map(group)));
        let is_kept: Vec<bool> = rows.map(|row| self.kept_by(row) == row).collect();
        if self.mark {
            let marks = BooleanArray::from_iter(is_kept.into_iter().map(|kept| Some(!kept)));
            return Change { keep: None, added: vec![groups, Arc::new(marks)] };
        }
        Change { keep: Some(BooleanArray::from(is_kept)), added: vec![groups] }
    }

    fn summary(&self, score: Option<&str>, likenesses: Vec<Likeness>) -> Summary {
        let mut sizes: HashMap<u32, u64> = HashMap::with_capacity(self.kept.len());
        for root in self.roots.iter().filter(|root| self.kept.contains_key(root)) {
            *sizes.entry(*root).or_default() += 1;
        }
        let duplicates = sizes.values().map(|size| size - 1).sum();
        let mut largest: Vec<_> =
            sizes.into_iter().map(|(root, size)| (u64::from(self.kept[&root]), size)).collect();
        largest.sort_unstable_by_key(|(row, size)| (std::cmp::Reverse(*size), *row));
        largest.truncate(LARGEST);
        Summary {
            rows: self.roots.len() as u64,
            groups: self.kept.len() as u64,
            duplicates,
            score: score.map(str::to_owned),
            likenesses,
            largest,
            without: self.keys.iter().filter(|has| !**has).count() as u64,
        }
    }
}
