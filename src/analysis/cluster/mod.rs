//! Rows put into k clusters by their embeddings: each row's cluster and its distance from there.
//!
//! k-means (`train`), then the table written anew with two columns. `NAME` is the nearest
//! centroid's number, `NAME_distance` the Euclidean distance from it of the row's embedding at unit
//! length: the squares of a table's distances add up to the inertia of scikit-learn's `KMeans`.
//! Products are LibTorch's (`tch`), for which no model is needed. Names come from words that
//! the caller has embedded.
//!
//! Held in memory: a bounded sample, `k * dim` numbers a few times, nothing for a row.

mod centroids;
mod names;
mod nearest;
mod sample;
mod seeding;
mod train;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::Device;

pub use centroids::{Centroids, FILE_NAME};
pub use names::{Name, Words};
pub use nearest::{Nearest, download, upload};
pub use train::{Trained, train};

use super::reasons::Reasons;
use super::unit::{UnitBatch, UnitColumn};
use crate::digest;
use crate::error::Error;
use crate::spec::ClusterSpec;
use crate::table::{Change, NewTable, Table, Written, made, rewrite, rewrite_empty};

/// The most clusters.
const MOST: usize = 1 << 20;

/// What is said of a clustering.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub k: usize,
    /// Rows with an embedding: those that are in a cluster.
    pub rows: u64,
    /// Rows without one, by reason.
    pub missing: Reasons,
    /// Rows that were held in memory for training; 0 where centroids were given.
    pub sampled: usize,
    /// The sum of squared distances.
    pub inertia: f64,
    /// In the order of their numbers.
    pub clusters: Vec<Cluster>,
}

/// One cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    pub cluster: usize,
    pub rows: u64,
    /// The sum of squared distances of its rows.
    pub inertia: f64,
    /// The row nearest to the centroid, counted over the whole input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_row: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<Name>,
}

/// Clusters a table into a new folder. `words` embeds the words of names and is called only when
/// there is something to do; the weights that they are embedded by have the digest `model`.
///
/// # Errors
/// `Setting` for more clusters than rows; those of `rewrite`, of reading and of LibTorch.
pub fn cluster(
    table: &Table,
    spec: &ClusterSpec,
    device: Device,
    (model, words): (Option<&str>, impl FnOnce() -> Result<Option<Words>, Error>),
) -> Result<Written, Error> {
    let column = UnitColumn::open(table, spec.column.as_deref())?;
    let given = spec.centroids.as_deref().map(|path| given(path, &column)).transpose()?;
    let new = new_table(spec, column.name, model)?;
    if let Some(made) = made(table, &new)? {
        return Ok(made);
    }
    // First: training takes long, and a model may be missing.
    let words = words()?;
    let (centroids, sampled) = match given {
        Some(centroids) => (centroids, 0),
        None => trained(&column, spec, device)?,
    };
    let names = words.map_or(Ok(Vec::new()), |words| named(&centroids, &words, spec))?;
    let assign = Assign {
        nearest: Nearest::new(&centroids, device)?,
        tally: RefCell::new(Tally::new(centroids.k())),
        column,
        centroids,
    };
    assign.write(&new, (sampled, names))
}

/// Finds what is wrong with the settings over a table without rows, and writes what it becomes.
///
/// # Errors
/// Those of [`cluster`] that need no row.
pub fn rehearse(table: &Table, spec: &ClusterSpec) -> Result<(), Error> {
    let column = UnitColumn::open(table, spec.column.as_deref())?;
    match &spec.centroids {
        Some(path) => drop(given(path, &column)?),
        None => drop(k(spec)?),
    }
    rewrite_empty(table, &new_table(spec, column.name, None)?).map(drop)
}

fn new_table<'a>(
    spec: &'a ClusterSpec,
    column: &str,
    model: Option<&str>,
) -> Result<NewTable<'a>, Error> {
    Ok(NewTable {
        dir: &spec.path,
        command: "cluster",
        settings: settings(spec, column, model)?,
        added: added(&spec.name),
        overwrite: spec.overwrite,
    })
}

/// What the output depends on.
fn settings(spec: &ClusterSpec, column: &str, model: Option<&str>) -> Result<Value, Error> {
    let digest = |path: &Option<PathBuf>| path.as_deref().map(digest::of_file).transpose();
    Ok(json!({
        "column": column,
        "k": spec.k,
        "centroids_sha256": digest(&spec.centroids)?,
        "training": spec.training(),
        "words_sha256": digest(&spec.words)?,
        "model_sha256": model,
        "top_words": spec.top_words,
        "name": spec.name,
    }))
}

fn added(name: &str) -> Vec<FieldRef> {
    vec![
        Arc::new(Field::new(name, DataType::Int32, true)),
        Arc::new(Field::new(format!("{name}_distance"), DataType::Float32, true)),
    ]
}

fn given(path: &Path, column: &UnitColumn<'_>) -> Result<Centroids, Error> {
    let centroids = Centroids::read(path)?;
    // A table without a vector has no length of its own.
    if column.dim != 0 && column.dim != centroids.dim {
        let problem = format!(
            "those of {} have {} numbers, and the embeddings have {}",
            path.display(),
            centroids.dim,
            column.dim
        );
        return Err(Error::Setting { key: "centroids".into(), problem });
    }
    Ok(centroids)
}

/// How many clusters are to be trained.
fn k(spec: &ClusterSpec) -> Result<usize, Error> {
    let wrong = |problem: String| Err(Error::Setting { key: "k".into(), problem });
    match spec.k.map(|k| k.get() as usize) {
        None => wrong("say how many clusters there are to be, or give --centroids".into()),
        Some(k) if k > MOST => {
            wrong(format!("{k} is more than the {MOST} clusters that there may be"))
        }
        Some(k) => Ok(k),
    }
}

fn trained(
    column: &UnitColumn<'_>,
    spec: &ClusterSpec,
    device: Device,
) -> Result<(Centroids, usize), Error> {
    let wrong = |problem: String| Err(Error::Setting { key: "k".into(), problem });
    let k = k(spec)?;
    let trained = train(column, k, &spec.training(), device)?;
    match trained.rows {
        0 => {
            let key = format!("column \"{}\"", column.name);
            let problem = "no row has an embedding, so there is nothing to cluster";
            Err(Error::Setting { key, problem: problem.into() })
        }
        rows if (rows as usize) < k => {
            wrong(format!("{k} is more than there are rows with an embedding: use at most {rows}"))
        }
        _ => Ok((trained.centroids, trained.sampled)),
    }
}

fn named(
    centroids: &Centroids,
    words: &Words,
    spec: &ClusterSpec,
) -> Result<Vec<Vec<Name>>, Error> {
    match words.vectors.iter().find(|word| word.len() != centroids.dim) {
        None => Ok(names::names(centroids, words, spec.top_words.get())),
        Some(word) => {
            let (found, dim) = (word.len(), centroids.dim);
            let problem =
                format!("the model gives {found} numbers a word, and the embeddings have {dim}");
            Err(Error::Setting { key: "words".into(), problem })
        }
    }
}

/// Assigns rows to centroids.
struct Assign<'a> {
    column: UnitColumn<'a>,
    centroids: Centroids,
    nearest: Nearest,
    tally: RefCell<Tally>,
}

/// What was seen so far.
struct Tally {
    missing: Reasons,
    rows: Vec<u64>,
    inertia: Vec<f64>,
    /// Squared distance and number of the row nearest to each.
    best: Vec<Option<(f64, u64)>>,
}

impl Tally {
    fn new(k: usize) -> Self {
        let missing = Reasons::default();
        Self { missing, rows: vec![0; k], inertia: vec![0.0; k], best: vec![None; k] }
    }

    fn add(&mut self, label: usize, row: u64, squared: f64) {
        self.rows[label] += 1;
        self.inertia[label] += squared;
        if self.best[label].is_none_or(|(best, _)| squared < best) {
            self.best[label] = Some((squared, row));
        }
    }
}

impl Assign<'_> {
    /// Writes the table anew, and the centroids beside it.
    fn write(
        &self,
        new: &NewTable<'_>,
        (sampled, names): (usize, Vec<Vec<Name>>),
    ) -> Result<Written, Error> {
        let is_kept = Cell::new(false);
        let keep = || match is_kept.replace(true) {
            true => Ok(()),
            false => self.centroids.write(new.dir, new.settings.to_string()),
        };
        let change = |row, batch: &RecordBatch| {
            // The folder is locked now, and not complete yet.
            keep()?;
            self.change(row, batch)
        };
        let written = rewrite(self.column.table, new, change, || self.summary(sampled, names))?;
        // Of a table without a batch.
        keep()?;
        Ok(written)
    }

    fn change(&self, first: u64, batch: &RecordBatch) -> Result<Change, Error> {
        let unit = match self.column.dim {
            0 => UnitBatch { rows: Vec::new(), values: Vec::new() },
            _ => self.column.of(batch)?,
        };
        let tally = &mut *self.tally.borrow_mut();
        self.column.missing(batch, &unit, &mut tally.missing);
        let mut labels = vec![None; batch.num_rows()];
        let mut distances = vec![None; batch.num_rows()];
        if !unit.rows.is_empty() {
            let found = self.nearest.of(&unit.values)?;
            let vectors = unit.values.chunks_exact(self.column.dim);
            for ((row, vector), label) in unit.rows.iter().zip(vectors).zip(found.labels) {
                // Anew, as the product's difference is only good to 1e-6.
                let centroid = self.centroids.get(label as usize);
                let part = |(a, b): (&f32, &f32)| (f64::from(*a) - f64::from(*b)).powi(2);
                let squared: f64 = vector.iter().zip(centroid).map(part).sum();
                tally.add(label as usize, first + u64::from(*row), squared);
                labels[*row as usize] = Some(label as i32);
                distances[*row as usize] = Some(squared.sqrt() as f32);
            }
        }
        let labels: ArrayRef = Arc::new(Int32Array::from(labels));
        Ok(Change { keep: None, added: vec![labels, Arc::new(Float32Array::from(distances))] })
    }

    fn summary(&self, sampled: usize, names: Vec<Vec<Name>>) -> Value {
        let tally = self.tally.borrow();
        let mut names = names.into_iter();
        let cluster = |cluster| Cluster {
            cluster,
            rows: tally.rows[cluster],
            inertia: tally.inertia[cluster],
            nearest_row: tally.best[cluster].map(|(_, row)| row),
            names: names.next().unwrap_or_default(),
        };
        let summary = Summary {
            k: self.centroids.k(),
            rows: tally.rows.iter().sum(),
            missing: tally.missing.clone(),
            sampled,
            inertia: tally.inertia.iter().sum(),
            clusters: (0..self.centroids.k()).map(cluster).collect(),
        };
        serde_json::to_value(summary).expect("it is plain data")
    }
}
