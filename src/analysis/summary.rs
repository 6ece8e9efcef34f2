//! Score quantiles and the worst and best pairs of a run's output, in one pass and in bounded
//! memory.
//!
//! The output is read rather than the running stages watched, so that a run that was interrupted
//! and went on is summarised whole.

use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use serde::{Deserialize, Serialize};

use super::bins::Bins;
use super::lowest::Lowest;
use super::strings::Strings;
use crate::error::Error;
use crate::travel::travel_reader;
use crate::watched::WatchedFile;

/// How many of the worst and of the best pairs are kept.
const PAIRS: usize = 5;

/// The quantiles that reports give.
pub const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

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
    bins: Bins,
    worst: Lowest<Pair>,
    best: Lowest<Pair>,
}

impl Tally {
    fn new() -> Self {
        let few = || Lowest::new(PAIRS);
        Self { row: 0, bins: Bins::of_scores(), worst: few(), best: few() }
    }

    fn add_part(&mut self, part: &Path, columns: SummaryColumns<'_>) -> Result<(), Error> {
        let wrong = |source: parquet::errors::ParquetError| Error::Parquet {
            path: part.to_owned(),
            source: source.into(),
        };
        let file = WatchedFile::open(part).map_err(Error::io("open", part))?;
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
            let at = self.row + row as u64;
            let (image, caption) = (|| images.get(row), || captions.get(row));
            self.add(at, score, || Pair { score, image: image(), caption: caption(), row: at });
        }
        self.row += batch.num_rows() as u64;
        Ok(())
    }

    fn add(&mut self, row: u64, score: f32, pair: impl Fn() -> Pair) {
        let value = f64::from(score);
        self.bins.add(value);
        self.worst.keep(value, row, &pair);
        self.best.keep(-value, row, &pair);
    }

    fn finish(self, column: &str) -> Option<ScoreSummary> {
        if self.bins.n == 0 {
            return None;
        }
        Some(ScoreSummary {
            column: column.to_owned(),
            scored: self.bins.n,
            mean: self.bins.mean(),
            min: self.bins.min as f32,
            max: self.bins.max as f32,
            quantiles: QUANTILES.map(|q| (q, self.bins.quantile(q))).to_vec(),
            worst: self.worst.into_sorted(),
            best: self.best.into_sorted(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(scores: impl IntoIterator<Item = f32>) -> ScoreSummary {
        let mut tally = Tally::new();
        for (row, score) in (0..).zip(scores) {
            tally.add(row, score, || Pair { score, image: None, caption: None, row });
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
