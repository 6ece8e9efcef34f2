//! A table's embeddings as NumPy files, with the other columns beside them.
//!
//! In every layout the n-th vector of a file is that of the n-th row of the Parquet file beside it.
//! Arrays have no nulls: a row without all of the vectors is in none of the files, and is counted.
//! Row numbers tell which ones are there. Held is a batch of rows.

pub mod npy;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::writer::Writer;
use super::Reasons;
use crate::error::Error;
use crate::spec::{ColumnSpec, ExportLayout, ExportSpec};
use crate::table::{NewTable, Table, Written, publish};
use crate::vectors::is_vector;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub arrays: Vec<ArraySummary>,
    /// Files of each array.
    pub files: usize,
    /// Rows without all of the vectors, by reason: the status where there is one.
    pub without: Reasons,
}

/// One of the arrays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArraySummary {
    pub name: String,
    pub column: String,
    /// Length of a vector.
    pub dim: usize,
    /// `f16` or `f32`.
    pub element: String,
}

/// The arrays that are written: the column and, in `npy`, the name.
fn arrays(table: &Table, spec: &ExportSpec) -> Result<Vec<(String, &'static str)>, Error> {
    let wrong = |key: &str, problem: String| Error::Setting { key: key.to_owned(), problem };
    match spec.layout {
        ExportLayout::Npz => {
            if spec.image.is_some() || spec.text.is_some() {
                let problem = "npz names its arrays as their columns: list those as `arrays`";
                return Err(wrong("image", problem.into()));
            }
            let all = || {
                let fields = table.schema().fields().iter();
                let vectors = fields.filter(|field| is_vector(field.data_type()));
                vectors.map(|field| field.name().clone()).collect()
            };
            let names: Vec<String> =
                if spec.arrays.is_empty() { all() } else { spec.arrays.clone() };
            if names.is_empty() {
                let problem = "the table has no column of vectors".to_owned();
                return Err(wrong("arrays", problem));
            }
            let twice = |name: &&String| names.iter().filter(|other| other == name).count() > 1;
            if let Some(name) = names.iter().find(twice) {
                return Err(wrong("arrays", format!("names \"{name}\" twice")));
            }
            names
                .into_iter()
                .map(|name| Ok((table.embedding(Some(&name))?.to_owned(), "")))
                .collect()
        }
        ExportLayout::Npy => {
            if !spec.arrays.is_empty() {
                let problem = "npy has image and text embeddings: name those columns as `image` and \
                               `text`, or take npz";
                return Err(wrong("arrays", problem.into()));
            }
            let kinds = [
                ("image", &spec.image, ColumnSpec::ImageEmbedding, "img_emb"),
                ("text", &spec.text, ColumnSpec::TextEmbedding, "text_emb"),
            ];
            let mut found = Vec::new();
            for (key, asked, kind, name) in kinds {
                let column = match asked {
                    Some(column) => Some(column.clone()),
                    None => the_one(table, kind).map_err(|problem| wrong(key, problem))?,
                };
                if let Some(column) = column {
                    found.push((table.embedding(Some(&column))?.to_owned(), name));
                }
            }
            match found.is_empty() {
                true => {
                    let problem = "the table has no embeddings that a run made: name their column";
                    Err(wrong("image", problem.into()))
                }
                false => Ok(found),
            }
        }
    }
}

/// The table's one column of a kind, if it has one.
fn the_one(table: &Table, kind: ColumnSpec) -> Result<Option<String>, String> {
    let made = table.made_columns(kind);
    match made.as_slice() {
        [] => Ok(Some(kind.as_str().to_owned()).filter(|name| table.find(name).is_some())),
        [only] => Ok(Some(only.clone())),
        several => Err(format!("could be any of {}: name one", several.join(", "))),
    }
}

/// What is asked for: the columns, and everything else that the output depends on.
pub struct Export<'a> {
    spec: &'a ExportSpec,
    arrays: Vec<(String, &'static str)>,
    /// The other columns' places in the table.
    others: Vec<usize>,
}

impl<'a> Export<'a> {
    /// Finds the columns.
    ///
    /// # Errors
    /// `Setting`, `NoColumn` or `ColumnType` for what cannot be done, `ColumnThere` where the table
    /// has a column of the row numbers' name.
    pub fn of(table: &Table, spec: &'a ExportSpec) -> Result<Self, Error> {
        if spec.row.trim().is_empty() {
            let problem = "a column has a name".to_owned();
            return Err(Error::Setting { key: "row".into(), problem });
        }
        if table.find(&spec.row).is_some() {
            let (path, column) = (table.files()[0].path.clone(), spec.row.clone());
            return Err(Error::ColumnThere { path, column });
        }
        let arrays = arrays(table, spec)?;
        let taken: BTreeSet<_> = arrays.iter().map(|(column, _)| column.as_str()).collect();
        let fields = table.schema().fields().iter().enumerate();
        let others = fields.filter(|(_, field)| !taken.contains(field.name().as_str()));
        let others = others.map(|(at, _)| at).collect();
        Ok(Self { spec, arrays, others })
    }

    /// What is written into which folder.
    pub fn new_table(&self) -> NewTable<'a> {
        let arrays: Vec<_> = self.arrays.iter().map(|(column, _)| column).collect();
        let settings = serde_json::json!({
            "layout": self.spec.layout, "arrays": arrays, "row": self.spec.row,
        });
        let (dir, overwrite) = (&*self.spec.path, self.spec.overwrite);
        NewTable { dir, command: "export", settings, added: Vec::new(), overwrite }
    }

    /// Writes the files.
    ///
    /// # Errors
    /// Those of [`publish`]; `ColumnType` for vectors of several lengths.
    pub fn write(&self, table: &Table) -> Result<Written, Error> {
        let new = self.new_table();
        publish(table, &new, (&FOLDERS.map(|(folder, ..)| folder), &is_ours), || {
            let mut writer = Writer::new(table, self)?;
            for piece in table.pieces() {
                writer.at_file(piece.file)?;
                let mut row = piece.start;
                for batch in table.read(piece, None)? {
                    let batch = batch?;
                    writer.write(row, &batch)?;
                    row += batch.num_rows() as u64;
                }
            }
            writer.finish()
        })
    }
}

/// The folders of `npy`, and how files in each begin and end.
const FOLDERS: [(&str, &str, &str); 3] = [
    ("img_emb", "img_emb_", "npy"),
    ("text_emb", "text_emb_", "npy"),
    ("metadata", "metadata_", "parquet"),
];

/// Whether a file's name, from the output folder on, is one that a layout gives.
fn is_ours(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let of_npz = number(stem) && ["npz", "parquet"].contains(&extension);
    of_npz
        || FOLDERS.iter().any(|(folder, prefix, wanted)| {
            let own = stem.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            let digits = own.and_then(|own| own.strip_prefix(prefix));
            digits.is_some_and(number) && extension == *wanted
        })
}

impl Export<'_> {
    /// Where an array of a file is written; of an archive, on its way into it.
    fn place(&self, array: usize, number: usize, width: usize) -> PathBuf {
        let dir = &self.spec.path;
        match self.spec.layout {
            ExportLayout::Npy => {
                let name = self.arrays[array].1;
                dir.join(name).join(format!("{name}_{number:0width$}.npy"))
            }
            ExportLayout::Npz => dir.join(format!("{number:08}.{array}.npy")),
        }
    }

    /// Where the other columns are written.
    fn beside(&self, number: usize, width: usize) -> PathBuf {
        let dir = &self.spec.path;
        match self.spec.layout {
            ExportLayout::Npy => {
                dir.join("metadata").join(format!("metadata_{number:0width$}.parquet"))
            }
            ExportLayout::Npz => dir.join(format!("{number:08}.parquet")),
        }
    }
}
