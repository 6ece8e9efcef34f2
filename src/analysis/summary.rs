//! Score quantiles and the worst and best pairs of a run's output, in one pass and in bounded
//! memory.
//!
//! The output is read rather than the running stages watched, so that a run that was interrupted
//! and went on is summarised whole.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::travel::travel_reader;

/// How many of the worst and of the best pairs are kept.
const PAIRS: usize = 5;

/// The quantiles that reports give.
pub const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// Scores lie between a cosine of -1 and a CLIPScore of 2.5.
const RANGE: (f64, f64) = (-1.0, 2.5);
/// Width of a histogram bin: quantiles are exact to half of this.
const BIN: f64 = 1e-4;

/// A run's scores in one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreSummary {
    pub column: String,
    /// Rows with a score.
    pub scored: u64,
    pub mean: f64,
    pub min: f32,
    pub max: f32,
    /// Quantile -> score, to 1e-4.
    pub quantiles: Vec<(f64, f64)>,
    /// Lowest scores first.
    pub worst: Vec<Pair>,
    /// Highest scores first.
    pub best: Vec<Pair>,
}

/// One image and its caption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub score: f32,
    /// The image column's value.
    pub image: Option<String>,
    pub caption: Option<String>,
    /// Row of the output, counted over all parts.
    pub row: u64,
}

/// Which columns a summary reads.
#[derive(Debug, Clone, Copy)]
pub struct SummaryColumns<'a> {
    pub score: &'a str,
    pub image: Option<&'a str>,
    pub caption: Option<&'a str>,
}

impl ScoreSummary {
    /// Summarises a score column of part files, in their order. `None` when no row has a score.
    pub fn of(parts: &[PathBuf], columns: SummaryColumns<'_>) -> Result<Option<Self>, Error> {
        let mut tally = Tally::new();
        for part in parts {
            tally.add_part(part, columns)?;
        }
        Ok(tally.finish(columns.score))
    }
}

/// What is known so far.
struct Tally {
    row: u64,
    scored: u64,
    sum: f64,
    min: f32,
    max: f32,
    bins: Vec<u64>,
    worst: BinaryHeap<Ranked>,
    best: BinaryHeap<Ranked>,
}

/// A pair ordered so that a heap's top is the one to give up: the greatest `rank`.
struct Ranked {
    rank: f32,
    pair: Pair,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.total_cmp(&other.rank).then(self.pair.row.cmp(&other.pair.row))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl Tally {
    fn new() -> Self {
        Self {
            row: 0,
            scored: 0,
            sum: 0.0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            bins: vec![0; ((RANGE.1 - RANGE.0) / BIN).round() as usize + 1],
            worst: BinaryHeap::new(),
            best: BinaryHeap::new(),
        }
    }

    fn add_part(&mut self, part: &Path, columns: SummaryColumns<'_>) -> Result<(), Error> {
        let wrong = |source: parquet::errors::ParquetError| Error::Parquet {
            path: part.to_owned(),
            source: source.into(),
        };
        let file = File::open(part).map_err(Error::io("open", part))?;
        let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(wrong)?;
        // As bytes: a caption may be anything.
        let metadata = travel_reader(footer.metadata(), footer.schema()).map_err(wrong)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let wanted = [Some(columns.score), columns.image, columns.caption];
        let names = wanted.into_iter().flatten();
        let mask = ProjectionMask::columns(builder.parquet_schema(), names);
        let reader = builder.with_projection(mask).build().map_err(wrong)?;
        for batch in reader {
            let batch =
                batch.map_err(|source| Error::Arrow { action: "read the output back", source })?;
            self.add_batch(&batch, columns)?;
        }
        Ok(())
    }

    fn add_batch(&mut self, batch: &RecordBatch, columns: SummaryColumns<'_>) -> Result<(), Error> {
        let scores = batch.column_by_name(columns.score).expect("a score column was declared");
        let scores = scores.as_primitive::<Float32Type>();
        let images = Strings::of(batch, columns.image)?;
        let captions = Strings::of(batch, columns.caption)?;
        for (row, score) in scores.iter().enumerate() {
            let Some(score) = score else { continue };
            self.count(score);
            let pair = || Pair {
                score,
                image: images.get(row),
                caption: captions.get(row),
                row: self.row + row as u64,
            };
            keep(&mut self.worst, score, pair);
            keep(&mut self.best, -score, pair);
        }
        self.row += batch.num_rows() as u64;
        Ok(())
    }

    fn count(&mut self, score: f32) {
        self.scored += 1;
        self.sum += f64::from(score);
        self.min = self.min.min(score);
        self.max = self.max.max(score);
        let bin = ((f64::from(score) - RANGE.0) / BIN).round().max(0.0) as usize;
        let last = self.bins.len() - 1;
        self.bins[bin.min(last)] += 1;
    }

    /// The smallest score with at least a share `q` of the scores at or below it.
    fn quantile(&self, q: f64) -> f64 {
        let wanted = (q * self.scored as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bin, n) in self.bins.iter().enumerate() {
            below += n;
            if below >= wanted {
                return ((RANGE.0 + bin as f64 * BIN) / BIN).round() * BIN;
            }
        }
        f64::from(self.max)
    }

    fn finish(self, column: &str) -> Option<ScoreSummary> {
        if self.scored == 0 {
            return None;
        }
        let pairs = |heap: &BinaryHeap<Ranked>| {
            let mut ranked: Vec<_> = heap.iter().collect();
            ranked.sort();
            ranked.into_iter().map(|ranked| ranked.pair.clone()).collect()
        };
        Some(ScoreSummary {
            column: column.to_owned(),
            scored: self.scored,
            mean: self.sum / self.scored as f64,
            min: self.min,
            max: self.max,
            quantiles: QUANTILES.map(|q| (q, self.quantile(q))).to_vec(),
            worst: pairs(&self.worst),
            best: pairs(&self.best),
        })
    }
}

/// Keeps a pair when it is among the `PAIRS` of the lowest rank. Builds it only then.
fn keep(heap: &mut BinaryHeap<Ranked>, rank: f32, pair: impl FnOnce() -> Pair) {
    if heap.len() < PAIRS {
        heap.push(Ranked { rank, pair: pair() });
    } else if heap.peek().is_some_and(|top| rank < top.rank) {
        heap.pop();
        heap.push(Ranked { rank, pair: pair() });
    }
}

/// A longer caption is shown to here, in bytes.
const MOST_TEXT: usize = 4096;

/// A column of text as bytes, or none.
struct Strings(Option<ArrayRef>);

impl Strings {
    fn of(batch: &RecordBatch, column: Option<&str>) -> Result<Self, Error> {
        let Some(values) = column.and_then(|name| batch.column_by_name(name)) else {
            return Ok(Self(None));
        };
        let values = cast(values, &DataType::BinaryView)
            .map_err(|source| Error::Arrow { action: "read a column as bytes", source })?;
        Ok(Self(Some(values)))
    }

    /// The text of a row, with what is not UTF-8 in it replaced.
    fn get(&self, row: usize) -> Option<String> {
        let values = self.0.as_ref()?.as_binary_view();
        let text = values.is_valid(row).then(|| values.value(row))?;
        Some(String::from_utf8_lossy(&text[..text.len().min(MOST_TEXT)]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(scores: impl IntoIterator<Item = f32>) -> ScoreSummary {
        let mut tally = Tally::new();
        for (row, score) in scores.into_iter().enumerate() {
            tally.count(score);
            let pair = || Pair { score, image: None, caption: None, row: row as u64 };
            keep(&mut tally.worst, score, pair);
            keep(&mut tally.best, -score, pair);
        }
        tally.finish("similarity").expect("there are scores")
    }

    #[test]
    fn quantiles_of_a_uniform_ramp() {
        let summary = tally((0..=1000).map(|step| step as f32 / 1000.0));
        for (q, score) in &summary.quantiles {
            assert!((q - score).abs() < 1.1e-3, "{q}: {score}");
        }
        assert_eq!((summary.min, summary.max), (0.0, 1.0));
    }

    #[test]
    fn worst_and_best_are_in_order_and_few() {
        let summary = tally([0.3, -0.2, 0.9, 0.1, 0.5, 0.7, 0.2]);
        let scores = |pairs: &[Pair]| pairs.iter().map(|pair| pair.score).collect::<Vec<_>>();
        assert_eq!(scores(&summary.worst), [-0.2, 0.1, 0.2, 0.3, 0.5]);
        assert_eq!(scores(&summary.best), [0.9, 0.7, 0.5, 0.3, 0.2]);
    }
}
