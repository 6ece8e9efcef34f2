//! Anybody's Parquet files of the same columns, read as one table; and a table written anew.
//!
//! What `analysis` works on: clipmill's own output, or any table with the columns that are asked
//! for. Rows are numbered from 0 over all files, in their order. No model is known here, and
//! nothing is decided about rows.

mod copy;
mod lists;
mod rewrite;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rayon::prelude::*;

pub use rewrite::{
    Change, Made, NewTable, Written, check, made, publish, rewrite, rewrite_empty, rewrite_seeing,
};

use crate::error::Error;
pub use crate::source::GroupRows;
use crate::source::{InputFile, no_column, open_inputs};
use crate::spec::{ColumnSpec, DeclaredColumn};
pub use crate::vectors::Vectors;
use crate::vectors::is_vector;

/// Parquet files that were opened as one table.
pub struct Table {
    files: Vec<InputFile>,
}

/// A run of rows that is read at once: a row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Index of the file.
    pub file: usize,
    /// The row group in it.
    pub group: usize,
    /// The first row, counted over the whole table.
    pub start: u64,
    pub rows: u64,
}

impl Table {
    /// Opens a file, a folder of Parquet files or a glob; a run's output is such a folder.
    ///
    /// # Errors
    /// Those of [`open_inputs`], which reads the footers and nothing else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self { files: open_inputs(path)? })
    }

    /// At least one.
    pub fn files(&self) -> &[InputFile] {
        &self.files
    }

    pub fn rows(&self) -> u64 {
        self.files.iter().map(|file| file.rows).sum()
    }

    /// The columns as the first file declares them. What batches hold is `travel_schema` of it.
    pub fn schema(&self) -> &SchemaRef {
        &self.files[0].schema
    }

    /// The columns as they are written: nullable where they are in any file.
    pub fn written_schema(&self) -> Schema {
        let nullable = |index| self.files.iter().any(|f| f.schema.field(index).is_nullable());
        let fields =
            self.schema().fields().iter().enumerate().map(|(index, field)| {
                Arc::new(field.as_ref().clone().with_nullable(nullable(index)))
            });
        Schema::new_with_metadata(fields.collect::<Vec<_>>(), self.schema().metadata().clone())
    }

    /// A column that has to be there.
    ///
    /// # Errors
    /// `NoColumn`, with the nearest name.
    pub fn field(&self, column: &str) -> Result<&Field, Error> {
        self.find(column).ok_or_else(|| no_column(&self.files[0], column))
    }

    /// What the first file says of the run that made it, under `clipmill.KEY`.
    pub fn made_by(&self, key: &str) -> Option<&str> {
        let is = |name: &str| name.strip_prefix("clipmill.") == Some(key);
        self.files[0].made_by.iter().find(|pair| is(&pair.key))?.value.as_deref()
    }

    /// What the first file says of the model that made a column.
    pub fn model_of(&self, column: &str) -> Option<serde_json::Value> {
        self.files[0].model_of(column)
    }

    /// The pipeline that made it, as it says; empty where it says nothing.
    pub fn pipeline(&self) -> toml::Table {
        self.made_by("pipeline").and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The score columns that the run which made the table says it made and that are there; none,
    /// where it says nothing.
    pub fn made_scores(&self) -> Vec<String> {
        let is_one = |name: &String| self.find(name).is_some_and(|f| f.data_type().is_numeric());
        self.made(ColumnSpec::is_score).into_iter().filter(is_one).collect()
    }

    /// The same for the columns of one kind.
    pub fn made_columns(&self, kind: ColumnSpec) -> Vec<String> {
        self.made(|other| other == kind)
    }

    fn made(&self, wanted: impl Fn(ColumnSpec) -> bool) -> Vec<String> {
        let pipeline = self.pipeline();
        let columns = pipeline.get("columns").and_then(toml::Value::as_table);
        let is_wanted = |declared: &toml::Value| {
            let declared = declared.clone().try_into::<DeclaredColumn>();
            declared.is_ok_and(|declared| wanted(declared.kind))
        };
        let found = columns.into_iter().flatten().filter(|(_, declared)| is_wanted(declared));
        let names = found.map(|(name, _)| name.clone());
        names.filter(|name| self.find(name).is_some()).collect()
    }

    /// A column that may be there.
    pub fn find(&self, column: &str) -> Option<&Field> {
        self.schema().field_with_name(column).ok()
    }

    /// The embedding column: the one that is asked for, or else `image_embedding`.
    ///
    /// # Errors
    /// `NoColumn`, or `ColumnType` where it holds no vectors.
    pub fn embedding<'a>(&'a self, asked: Option<&'a str>) -> Result<&'a str, Error> {
        let name = asked.unwrap_or("image_embedding");
        let field = self.field(name)?;
        if is_vector(field.data_type()) {
            return Ok(name);
        }
        let wanted = "a list of f16, f32 or f64, all of one length, is needed".into();
        Err(self.wrong_type(name, wanted))
    }

    /// What to say of a column whose type does not do.
    pub fn wrong_type(&self, column: &str, wanted: String) -> Error {
        let found = self.find(column).map_or(DataType::Null, |field| field.data_type().clone());
        let (path, column) = (self.files[0].path.clone(), column.to_owned());
        Error::ColumnType { path, column, found: found.to_string(), wanted }
    }

    /// The table's row groups, in order.
    pub fn pieces(&self) -> Vec<Piece> {
        let mut start = 0;
        let mut pieces = Vec::new();
        for (file, input) in self.files.iter().enumerate() {
            for (group, &rows) in input.groups.iter().enumerate() {
                pieces.push(Piece { file, group, start, rows });
                start += rows;
            }
        }
        pieces
    }

    /// The batches of a piece, with these columns alone (all, where there is no list).
    pub fn read(&self, piece: Piece, columns: Option<&[&str]>) -> Result<GroupRows, Error> {
        self.files[piece.file].group_rows(piece.group, columns)
    }

    /// Calls `with` for every batch, in order, with the batch's first row.
    pub fn scan(
        &self,
        columns: &[&str],
        mut with: impl FnMut(u64, &RecordBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for piece in self.pieces() {
            let mut row = piece.start;
            for batch in self.read(piece, Some(columns))? {
                let batch = batch?;
                with(row, &batch)?;
                row += batch.num_rows() as u64;
            }
        }
        Ok(())
    }

    /// Calls `with` for every piece, several at once, and gives the results in order.
    pub fn map<T: Send>(
        &self,
        columns: &[&str],
        with: impl Fn(Piece, GroupRows) -> Result<T, Error> + Sync,
    ) -> Result<Vec<T>, Error> {
        let pieces = self.pieces();
        let each = |piece: &Piece| with(*piece, self.read(*piece, Some(columns))?);
        pieces.par_iter().map(each).collect()
    }
}
