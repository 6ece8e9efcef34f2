//! A table written anew, rows left out and columns added, into a folder of its own.
//!
//! The folder is published as a run's is: parts whole or absent, `_SUCCESS` when all are there,
//! one writer at a time. `_made.json` says what was asked for, from which files; asked for again,
//! nothing is done. What becomes of a row is the caller's to say.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Table;
use crate::error::Error;
use crate::files::{self, Lock};
use crate::manifest::{Manifest, SUCCESS};
use crate::sink::{ParquetSink, PartOptions, Published, Sink};
use crate::travel::travel_schema;

/// The file that says how a folder came about.
const FILE_NAME: &str = "_made.json";

/// The most rows in a part.
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
    check_added(table, new)?;
    found(new, &asked_for(table, new))
}

/// Writes `table` anew, its rows in their order. `change` is called for each batch, in order, with
/// the number of its first row; `summary` at the end.
///
/// # Errors
/// `OutputExists` for a folder that holds anything else, or was made by other settings and may not
/// be overwritten; `Locked`; what reading and writing give.
pub fn rewrite(
    table: &Table,
    new: &NewTable<'_>,
    mut change: impl FnMut(u64, &RecordBatch) -> Result<Change, Error>,
    summary: impl FnOnce() -> Value,
) -> Result<Written, Error> {
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
    let mut writer = Writer::new(table, new)?;
    for piece in table.pieces() {
        let mut row = piece.start;
        for batch in table.read(piece, None)? {
            let batch = batch?;
            writer.write(&batch, change(row, &batch)?)?;
            row += batch.num_rows() as u64;
        }
    }
    (written.rows_out, written.parts) = writer.finish()?;
    written.summary = summary();
    remove_others(new.dir, &written)?;
    files::replace(&new.dir.join(FILE_NAME), &json(&written))?;
    Manifest::mark_complete(new.dir)?;
    Ok(written)
}

impl Written {
    /// How a folder came about, or `None` where it does not say.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(FILE_NAME);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", path)(error)),
        }
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
    let is_complete = new.dir.join(SUCCESS).exists();
    match Written::read(new.dir)? {
        Some(mut found) if found.is_same_job(wanted) && is_complete => {
            found.was_there = true;
            Ok(Some(found))
        }
        Some(found) if found.command != new.command => {
            exists(format!("what `clipmill {}` made", found.command))
        }
        Some(found) if !found.is_same_job(wanted) && is_complete && !new.overwrite => exists(
            "the result of other settings or another input (--overwrite replaces it)".to_owned(),
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
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(Error::io("list", dir))?.file_name();
        let name = name.to_string_lossy().into_owned();
        if !files::is_housekeeping(&name) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Removes the parts of an earlier output that this one does not have.
fn remove_others(dir: &Path, written: &Written) -> Result<(), Error> {
    files::remove_leftovers(dir)?;
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let name = entry.map_err(Error::io("list", dir))?.file_name();
        let name = name.to_string_lossy().into_owned();
        let is_part = name.starts_with("part-") && name.ends_with(".parquet");
        if is_part && !written.parts.iter().any(|(part, _)| *part == name) {
            files::remove(&dir.join(name))?;
        }
    }
    Ok(())
}

fn json(written: &Written) -> Vec<u8> {
    serde_json::to_vec_pretty(written).expect("it is plain data")
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

/// Cuts kept rows into parts.
struct Writer<'a> {
    table: &'a Table,
    new: &'a NewTable<'a>,
    sink: ParquetSink,
    /// What batches have: the table's columns as they travel, and the added ones.
    schema: SchemaRef,
    rows: u64,
    /// Rows of the open part, if one is open.
    open: Option<usize>,
    parts: Vec<(String, String)>,
}

impl<'a> Writer<'a> {
    fn new(table: &'a Table, new: &'a NewTable<'a>) -> Result<Self, Error> {
        let file = &table.files()[0];
        let own = table.written_schema();
        check_added(table, new)?;
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
        let options =
            PartOptions { schema: schema.clone(), declared, input: file.parquet.clone(), metadata };
        let sink = ParquetSink::new(new.dir, options);
        Ok(Self { table, new, sink, schema, rows: 0, open: None, parts: Vec::new() })
    }

    fn write(&mut self, batch: &RecordBatch, change: Change) -> Result<(), Error> {
        let columns = batch.columns().iter().cloned().chain(change.added).collect();
        let arrow = |source| Error::Arrow { action: "put columns together", source };
        let mut rows = RecordBatch::try_new(self.schema.clone(), columns).map_err(arrow)?;
        if let Some(keep) = &change.keep {
            rows = filter_record_batch(&rows, keep).map_err(arrow)?;
        }
        while rows.num_rows() > 0 {
            let open = self.open()?;
            let n = rows.num_rows().min(PART_ROWS - open);
            self.sink.write(&rows.slice(0, n))?;
            self.rows += n as u64;
            self.open = Some(open + n);
            rows = rows.slice(n, rows.num_rows() - n);
            if open + n == PART_ROWS {
                self.publish()?;
            }
        }
        Ok(())
    }

    /// Rows in the open part; opens one if there is none.
    fn open(&mut self) -> Result<usize, Error> {
        if let Some(rows) = self.open {
            return Ok(rows);
        }
        let name = format!("part-{:05}.parquet", self.parts.len());
        self.sink.begin(&name, &self.table.files()[0].metadata)?;
        self.parts.push((name, String::new()));
        self.open = Some(0);
        Ok(0)
    }

    fn publish(&mut self) -> Result<(), Error> {
        let about = serde_json::json!({ "command": self.new.command });
        let Published { sha256, .. } = self.sink.publish(about.to_string())?;
        if let Some((_, digest)) = self.parts.last_mut() {
            *digest = sha256;
        }
        self.open = None;
        Ok(())
    }

    /// Rows, and the parts: at least one, so that an output of no rows has its columns.
    fn finish(mut self) -> Result<(u64, Vec<(String, String)>), Error> {
        if self.parts.is_empty() {
            self.open()?;
        }
        if self.open.is_some() {
            self.publish()?;
        }
        Ok((self.rows, self.parts))
    }
}
