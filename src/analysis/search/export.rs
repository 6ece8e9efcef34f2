//! The vectors as a USearch index (HNSW) for other programs, and how much it finds of what an exact
//! scan finds.
//!
//! Keys are row numbers, the metric is cosine, numbers are f16 or f32 as the column's. The whole
//! index is in memory while it is built. Rows are added by all cores at once, so that two indexes
//! of one table differ in their graphs. Building the graph is the library's.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde::Serialize;
use usearch::{Index as Graph, IndexOptions, MetricKind, ScalarKind};

use super::{Element, Index, Query};
use crate::error::{Cause, Error};
use crate::files::Draft;

/// Rows that are added at once.
const BATCH: usize = 8192;

/// Rows whose neighbours are looked up to measure the recall, and how many neighbours.
const SAMPLE: u64 = 200;
const NEIGHBOURS: usize = 10;

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exported {
    pub vectors: u64,
    /// Numbers in a vector.
    pub dim: usize,
    /// Size of the file.
    pub bytes: u64,
    /// Of the ten nearest of a sample of the table's own rows, the share that the index finds;
    /// `None` for a table of few rows.
    pub recall_at_10: Option<f64>,
    /// Rows in that sample.
    pub sample: usize,
}

/// Writes the index.
///
/// # Errors
/// `Setting` for a path that is not UTF-8, `Table` for what the library refuses; what reading and
/// writing give.
pub fn export(index: &Index<'_>, path: &Path) -> Result<Exported, Error> {
    let draft = Draft::new(path)?;
    let Some(place) = draft.path().to_str() else {
        let problem =
            format!("{} is not UTF-8, and the library takes no other path", path.display());
        return Err(Error::Setting { key: "export".into(), problem });
    };
    let rows = index.nearest(&[], 0)?.searched as usize;
    let graph = Graph::new(&options(index)).map_err(refused("make the index", path))?;
    graph
        .reserve_capacity_and_threads(rows.max(1), rayon::current_num_threads())
        .map_err(refused("take the memory for", path))?;
    let mut queries = fill(index, (&graph, path))?;
    if rows <= NEIGHBOURS {
        queries.clear();
    }
    let (recall_at_10, sample) = (recall(index, &queries, (&graph, path))?, queries.len());
    let bytes = graph.serialized_length() as u64;
    // The library does not look whether its last bytes came to the disk, nor say what is wrong with
    // one. Some file systems cannot put bytes aside.
    match fallocate(draft.file(), FallocateFlags::empty(), 0, bytes) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(Error::io("write", path)(error.into())),
    }
    graph.save(place).map_err(refused("write", path))?;
    if draft.file().metadata().map_err(Error::io("read", path))?.len() != bytes {
        return Err(Error::io("write", path)(ErrorKind::StorageFull.into()));
    }
    draft.publish(path)?;
    Ok(Exported { vectors: graph.size() as u64, dim: index.dim(), bytes, recall_at_10, sample })
}

fn options(index: &Index<'_>) -> IndexOptions {
    IndexOptions {
        dimensions: index.dim().max(1),
        metric: MetricKind::Cos,
        quantization: match index.element() {
            Element::F16 => ScalarKind::F16,
            Element::F32 => ScalarKind::F32,
        },
        // The library's own choices of neighbours a row and of candidates.
        connectivity: 0,
        expansion_add: 0,
        expansion_search: 0,
        multi: false,
    }
}

fn refused<E: ToString>(action: &'static str, path: &Path) -> impl Fn(E) -> Error {
    move |error| {
        let source: Cause = error.to_string().into();
        Error::Table { action, path: path.to_owned(), source }
    }
}

/// Adds every row that has a vector. Gives those of a sample, as queries for the rows near them.
fn fill(index: &Index<'_>, (graph, path): (&Graph, &Path)) -> Result<Vec<Query>, Error> {
    let sampled = sample(index.column.table.rows());
    let (mut queries, mut batch) = (Vec::new(), Vec::with_capacity(BATCH));
    let add = |batch: &mut Vec<(u64, Vec<f32>)>| {
        let one = |(row, vector): &(u64, Vec<f32>)| graph.add(*row, vector);
        let added = batch.par_iter().try_for_each(one);
        batch.clear();
        added.map_err(refused("add to", path))
    };
    index.each(|row, vector| {
        if sampled.contains(&row) {
            queries.push(Query { vector: vector.clone(), except: Some(row) });
        }
        batch.push((row, vector));
        if batch.len() == BATCH { add(&mut batch) } else { Ok(()) }
    })?;
    add(&mut batch)?;
    Ok(queries)
}

/// Rows spread over a table, always the same: the fractional parts of multiples of the golden ratio.
fn sample(rows: u64) -> BTreeSet<u64> {
    let share = |turn: u64| turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let row = |turn| ((u128::from(share(turn)) * u128::from(rows)) >> 64) as u64;
    (1..=SAMPLE).map(row).collect()
}

/// The share of the queries' neighbours that the index finds. Of rows that are equally near those
/// count that the exact scan gives.
fn recall(
    index: &Index<'_>,
    queries: &[Query],
    (graph, path): (&Graph, &Path),
) -> Result<Option<f64>, Error> {
    let exact = index.nearest(queries, NEIGHBOURS)?;
    let (mut found, mut wanted) = (0, 0);
    for (query, hits) in queries.iter().zip(&exact.hits) {
        // One more, for the row itself.
        let matches = graph.search(&query.vector, NEIGHBOURS + 1);
        let keys = matches.map_err(refused("search", path))?.keys;
        let is_near = |row: &&u64| hits.iter().any(|hit| hit.row == **row);
        found += keys.iter().filter(is_near).count();
        wanted += hits.len();
    }
    Ok((wanted > 0).then(|| found as f64 / wanted as f64))
}
