//! A table written anew, rows left out and columns added, into a folder of its own.
//!
//! What is decided about rows is decided in order; what they are copied with (`copy`) is done for
//! several row groups at once, and gives the same bytes however many there are.
//!
//! The folder is published as a run's is: parts whole or absent, `_SUCCESS` when all are there,
//! one writer at a time. `_made.json` says what was asked for, from which files; asked for again,
//! nothing is done. What becomes of a row is the caller's to say.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::{FieldRef, Schema};
use parquet::arrow::arrow_writer::ArrowRowGroupWriterFactory;
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Table;
use super::copy::{Block, Copier, Decided, OpenGroup, Task, arrow_error};
use crate::error::Error;
use crate::files::{self, Lock};
use crate::manifest::{Manifest, SUCCESS};
use crate::sink::{GroupsFile, PartOptions, Published, ROW_GROUP_BYTES};
use crate::travel::travel_schema;

/// The file that says how a folder came about.
const FILE_NAME: &str = "_made.json";

/// A part of so many rows is closed.
const PART_ROWS: usize = 262_144;

/// What is to be written.
pub struct NewTable<'a> {
    /// The folder: new, empty, or made by the same command before.
    pub dir: &'a Path,
    /// The command's name.
    pub command: &'static str,
    /// Everything that the command was asked for and the output depends on.
    pub settings: Value,
    /// Columns after the table's own.
    pub added: Vec<FieldRef>,
    /// Whether an output of this command that was asked for differently may be replaced.
    pub overwrite: bool,
}

/// What becomes of the rows of a batch.
pub struct Change {
    /// Per row, whether it is kept; every row where there is none. A null is no.
    pub keep: Option<BooleanArray>,
    /// The added columns, for all rows of the batch.
    pub added: Vec<ArrayRef>,
}

/// What was written. Also what `_made.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Written {
    pub clipmill: String,
    pub command: String,
    pub settings: Value,
    /// Path and fingerprint of each input file.
    pub inputs: Vec<(String, String)>,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Name and digest of each part.
    pub parts: Vec<(String, String)>,
    /// What the command has to say of it.
    pub summary: Value,
    /// Whether it was there already, and nothing was done.
    #[serde(skip)]
    pub was_there: bool,
}

/// What is there already, if it is just what is asked for: for who has much to do before `rewrite`.
///
/// # Errors
/// `OutputExists` as `rewrite` has it, `ColumnThere` for an added column that the table has.
pub fn made(table: &Table, new: &NewTable<'_>) -> Result<Option<Written>, Error> {
    check(table, new)?;
    found(new, &asked_for(table, new))
}

/// [`rewrite_seeing`] for a `change` that looks at every column.
pub fn rewrite(
    table: &Table,
    new: &NewTable<'_>,
    change: impl FnMut(u64, &RecordBatch) -> Result<Change, Error>,
    summary: impl FnOnce() -> Value,
) -> Result<Written, Error> {
    rewrite_seeing(table, new, None, change, summary)
}

/// Writes `table` anew, its rows in their order. `change` is called for each batch, in order, with
/// the number of its first row; it sees the columns `sees` alone, in the file's order (all, where
/// there is no list). `summary` is called at the end.
///
/// Held: what `change` sees of, and what is kept of, as many row groups as take 512 MiB, at least
/// one and at most two a thread; and an output row group, 64 MiB.
///
/// # Errors
/// `OutputExists` for a folder that holds anything else, or was made by other settings and may not
/// be overwritten; `Locked`; what reading and writing give.
pub fn rewrite_seeing(
    table: &Table,
    new: &NewTable<'_>,
    sees: Option<&[&str]>,
    mut change: impl FnMut(u64, &RecordBatch) -> Result<Change, Error>,
    summary: impl FnOnce() -> Value,
) -> Result<Written, Error> {
    let is_part = |name: &str| name.starts_with("part-") && name.ends_with(".parquet");
    publish(table, new, (&[], &is_part), || {
        let copier = Copier::new(table, &new.added, sees)?;
        let mut writer = Writer::new(table, new, &copier)?;
        for tasks in copier.windows() {
            let mut decided = Vec::with_capacity(tasks.len());
            for (task, seen) in tasks.iter().zip(copier.see(tasks)) {
                decided.push(decide(task, seen?, new, &mut change)?);
            }
            for block in copier.copy(tasks, decided) {
                writer.write(block?)?;
            }
        }
        let (rows_out, parts) = writer.finish()?;
        Ok(Made { rows_out, parts, summary: summary() })
    })
}

/// Whether a file of that name, from the output folder on, is one that the work may have made.
pub type IsPart<'a> = &'a dyn Fn(&str) -> bool;

/// What some work has written into a folder.
pub struct Made {
    pub rows_out: u64,
    /// Name and digest of each file, names from the folder on.
    pub parts: Vec<(String, String)>,
    /// What the command has to say of it.
    pub summary: Value,
}

/// Does work that makes files of a table in a folder of its own, unless it is done already: one
/// writer at a time, `_made.json` first and `_SUCCESS` last. Each file is the work's to write whole;
/// those that an earlier output had, in the folder or its `folders`, as `is_part` tells by their names
/// from the folder on, and this one has not, are removed.
///
/// # Errors
/// Those of [`rewrite_seeing`].
pub fn publish(
    table: &Table,
    new: &NewTable<'_>,
    (folders, is_part): (&[&str], IsPart<'_>),
    work: impl FnOnce() -> Result<Made, Error>,
) -> Result<Written, Error> {
    check(table, new)?;
    let mut written = asked_for(table, new);
    if let Some(found) = found(new, &written)? {
        return Ok(found);
    }
    let _lock = Lock::take(new.dir)?;
    // It may have been finished by whoever had the lock.
    if let Some(found) = found(new, &written)? {
        return Ok(found);
    }
    Manifest::mark_incomplete(new.dir)?;
    files::replace(&new.dir.join(FILE_NAME), &json(&written))?;
    let Made { rows_out, parts, summary } = work()?;
    written = Written { rows_out, parts, summary, ..written };
    remove_others(new.dir, &written, (folders, is_part))?;
    files::replace(&new.dir.join(FILE_NAME), &json(&written))?;
    Manifest::mark_complete(new.dir)?;
    Ok(written)
}

/// The same for a table without rows: what a command would write, as far as it can be known before
/// there are any.
pub fn rewrite_empty(table: &Table, new: &NewTable<'_>) -> Result<Written, Error> {
    let empty = |_, _: &RecordBatch| {
        let added = new.added.iter().map(|field| new_empty_array(field.data_type()));
        Ok(Change { keep: None, added: added.collect() })
    };
    rewrite_seeing(table, new, Some(&[]), empty, || Value::Null)
}

/// Asks what becomes of the rows of a task.
fn decide(
    task: &Task,
    seen: Vec<RecordBatch>,
    new: &NewTable<'_>,
    change: &mut impl FnMut(u64, &RecordBatch) -> Result<Change, Error>,
) -> Result<Decided, Error> {
    let mut row = task.start();
    let mut keep = Vec::new();
    let mut added = vec![Vec::new(); new.added.len()];
    for batch in seen {
        let found = change(row, &batch)?;
        row += batch.num_rows() as u64;
        match found.keep {
            Some(kept) => keep.extend(kept.iter().map(|kept| kept == Some(true))),
            None => keep.resize(keep.len() + batch.num_rows(), true),
        }
        added.iter_mut().zip(found.added).for_each(|(all, array)| all.push(array));
    }
    let join = |(arrays, field): (Vec<ArrayRef>, &FieldRef)| {
        let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
        match arrays.as_slice() {
            [] => Ok(new_empty_array(field.data_type())),
            arrays => concat(arrays),
        }
    };
    let added = added.into_iter().zip(&new.added).map(join).collect::<Result<_, _>>();
    let added = added.map_err(arrow_error)?;
    Ok(Decided { keep, added })
}

impl Written {
    /// How a folder came about, or `None` where it does not say.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let text = files::read(&dir.join(FILE_NAME))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    fn is_same_job(&self, other: &Self) -> bool {
        let job = |made: &Self| (made.command.clone(), made.settings.clone(), made.inputs.clone());
        self.clipmill == other.clipmill && job(self) == job(other)
    }
}

/// The record of an output of which nothing is written yet.
fn asked_for(table: &Table, new: &NewTable<'_>) -> Written {
    let input = |file: &crate::source::InputFile| {
        (file.full_path().display().to_string(), file.fingerprint())
    };
    Written {
        clipmill: env!("CARGO_PKG_VERSION").to_owned(),
        command: new.command.to_owned(),
        settings: new.settings.clone(),
        inputs: table.files().iter().map(input).collect(),
        rows_in: table.rows(),
        rows_out: 0,
        parts: Vec::new(),
        summary: Value::Null,
        was_there: false,
    }
}

/// What is there already, if it is just what is asked for and complete.
fn found(new: &NewTable<'_>, wanted: &Written) -> Result<Option<Written>, Error> {
    let exists = |found: String| Err(Error::OutputExists { path: new.dir.to_owned(), found });
    let is_complete = files::exists(&new.dir.join(SUCCESS))?;
    match Written::read(new.dir)? {
        Some(mut found) if found.is_same_job(wanted) && is_complete => {
            found.was_there = true;
            Ok(Some(found))
        }
        Some(found) if found.command != new.command => {
            exists(format!("what `clipmill {}` made", found.command))
        }
        Some(found) if !found.is_same_job(wanted) && is_complete && !new.overwrite => exists(
            "the result of other settings or another input (--overwrite replaces it; in a pipeline \
             --redo-changed does)".to_owned(),
        ),
        Some(_) => Ok(None),
        None => match foreign_entry(new.dir)? {
            Some(entry) => exists(entry),
            None => Ok(None),
        },
    }
}

/// An entry of a folder that is no rewrite's.
fn foreign_entry(dir: &Path) -> Result<Option<String>, Error> {
    Ok(files::list(dir)?.into_keys().find(|name| !files::is_housekeeping(name)))
}

/// Removes the files of an earlier output that this one does not have, and what killed processes left
/// beside them. What else lies in the folder is somebody's.
fn remove_others(
    dir: &Path,
    written: &Written,
    (folders, is_part): (&[&str], IsPart<'_>),
) -> Result<(), Error> {
    let kept: HashSet<_> = written.parts.iter().map(|(part, _)| part.as_str()).collect();
    for folder in std::iter::once("").chain(folders.iter().copied()) {
        let path = dir.join(folder);
        // Not where a link leads.
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir());
        let there = files::list(&path)?;
        if is_link || there.is_empty() {
            continue;
        }
        files::remove_leftovers(&path)?;
        for name in there.into_keys() {
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if is_part(&name) && !kept.contains(name.as_str()) {
                files::remove(&dir.join(name))?;
            }
        }
    }
    Ok(())
}

fn json(written: &Written) -> Vec<u8> {
    serde_json::to_vec_pretty(written).expect("it is plain data")
}

/// What can be known to be wrong before anything is read or written.
///
/// # Errors
/// `ColumnThere`, and `OutputExists` for a folder that the table itself lies in.
pub fn check(table: &Table, new: &NewTable<'_>) -> Result<(), Error> {
    check_added(table, new)?;
    let dir = new.dir.canonicalize().unwrap_or_else(|_| new.dir.to_owned());
    match table.files().iter().any(|file| file.full_path().parent() == Some(&*dir)) {
        false => Ok(()),
        true => {
            let found = "the table that is read".to_owned();
            Err(Error::OutputExists { path: new.dir.to_owned(), found })
        }
    }
}

fn check_added(table: &Table, new: &NewTable<'_>) -> Result<(), Error> {
    match new.added.iter().find(|field| table.find(field.name()).is_some()) {
        None => Ok(()),
        Some(field) => {
            let (path, column) = (table.files()[0].path.clone(), field.name().clone());
            Err(Error::ColumnThere { path, column })
        }
    }
}

/// Cuts kept rows into row groups and parts, at ends of blocks.
struct Writer<'a> {
    table: &'a Table,
    new: &'a NewTable<'a>,
    copier: &'a Copier<'a>,
    options: PartOptions,
    rows: u64,
    open: Option<OpenPart>,
    parts: Vec<(String, String)>,
}

struct OpenPart {
    file: GroupsFile,
    factory: ArrowRowGroupWriterFactory,
    rows: usize,
    groups: usize,
    group: Option<OpenGroup>,
}

impl<'a> Writer<'a> {
    fn new(table: &'a Table, new: &'a NewTable<'a>, copier: &'a Copier<'a>) -> Result<Self, Error> {
        let file = &table.files()[0];
        let own = table.written_schema();
        let with = |schema: &Schema| {
            let fields: Vec<_> = schema.fields().iter().chain(&new.added).cloned().collect();
            Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
        };
        let (schema, declared) = (with(&travel_schema(&own)), with(&own));
        let about = serde_json::json!({ "settings": new.settings, "rows_in": table.rows() });
        let key = format!("clipmill.{}", new.command);
        let mut metadata: Vec<_> =
            file.made_by.iter().filter(|pair| pair.key != key).cloned().collect();
        metadata.push(KeyValue::new(key, about.to_string()));
        let options = PartOptions { schema, declared, input: file.parquet.clone(), metadata };
        Ok(Self { table, new, copier, options, rows: 0, open: None, parts: Vec::new() })
    }

    fn write(&mut self, block: Block) -> Result<(), Error> {
        if block.rows == 0 {
            return Ok(());
        }
        self.rows += block.rows as u64;
        let copier = self.copier;
        let schema = self.options.schema.clone();
        let part = self.part()?;
        part.rows += block.rows;
        let group = match &mut part.group {
            Some(group) => group,
            empty => empty.insert(OpenGroup::new(copier, &part.factory, schema, part.groups)?),
        };
        group.add(block)?;
        if group.size() >= ROW_GROUP_BYTES {
            part.end_group()?;
        }
        if part.rows >= PART_ROWS { self.publish() } else { Ok(()) }
    }

    /// The open part; opens one if there is none.
    fn part(&mut self) -> Result<&mut OpenPart, Error> {
        match &mut self.open {
            Some(part) => Ok(part),
            empty => {
                let name = format!("part-{:05}.parquet", self.parts.len());
                let metadata = &self.table.files()[0].metadata;
                let (file, factory) =
                    GroupsFile::create(self.new.dir, &name, &self.options, metadata)?;
                self.parts.push((name, String::new()));
                Ok(empty.insert(OpenPart { file, factory, rows: 0, groups: 0, group: None }))
            }
        }
    }

    fn publish(&mut self) -> Result<(), Error> {
        let Some(mut part) = self.open.take() else { return Ok(()) };
        part.end_group()?;
        let about = serde_json::json!({ "command": self.new.command });
        let Published { sha256, .. } = part.file.publish(about.to_string())?;
        if let Some((_, digest)) = self.parts.last_mut() {
            *digest = sha256;
        }
        Ok(())
    }

    /// Rows, and the parts: at least one, so that an output of no rows has its columns.
    fn finish(mut self) -> Result<(u64, Vec<(String, String)>), Error> {
        if self.parts.is_empty() {
            self.part()?;
        }
        self.publish()?;
        Ok((self.rows, self.parts))
    }
}

impl OpenPart {
    fn end_group(&mut self) -> Result<(), Error> {
        let Some(group) = self.group.take() else { return Ok(()) };
        self.groups += 1;
        let rows = group.rows as u64;
        let columns = group.finish(|leaf| self.file.column(leaf))?;
        self.file.append(rows, columns)
    }
}
