//! What a Parquet table holds: statuses, null rates, quantiles, first rows, provenance. In
//! polars, which streams; exact quantiles still hold one column each.

use std::path::{Path, PathBuf};

use parquet::file::metadata::ParquetMetaDataReader;
use polars::prelude::*;

use crate::contain::contain;
use crate::error::Error;

/// The quantiles of a numeric column: minimum, 5 %, 25 %, 50 %, 75 %, 95 %, maximum.
const QUANTILES: [f64; 7] = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0];

/// What was found in one or more Parquet files of the same columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    pub files: Vec<PathBuf>,
    pub rows: u64,
    /// Rows by word of the `status` column, most first; empty where there is none.
    pub statuses: Vec<(String, u64)>,
    pub columns: Vec<ColumnInspection>,
    pub sample_header: Vec<String>,
    pub sample: Vec<Vec<String>>,
    /// The `clipmill.*` metadata of the first file.
    pub provenance: Vec<(String, String)>,
}

/// One column.
#[derive(Debug, Clone, PartialEq)]
pub struct ColumnInspection {
    pub name: String,
    pub data_type: String,
    pub nulls: u64,
    /// Of a numeric column with a value: minimum, 5, 25, 50, 75 and 95 %, maximum.
    pub quantiles: Option<[f64; 7]>,
}

impl Inspection {
    /// Looks at `files`, and at their first `n_sample` rows more closely.
    ///
    /// # Errors
    /// `Table` when polars cannot read them, for a column type that it does not have too.
    pub fn of(files: Vec<PathBuf>, n_sample: usize) -> Result<Self, Error> {
        let path = files[0].clone();
        // Where polars lacks a type it panics.
        contain(|| Self::read(files, n_sample)).unwrap_or_else(|| {
            let source = "a column has a type that polars does not read".into();
            Err(Error::Table { action: "summarise", path, source })
        })
    }

    fn read(files: Vec<PathBuf>, n_sample: usize) -> Result<Self, Error> {
        let first = &files[0];
        let wrong = |source: PolarsError| Error::Table {
            action: "read",
            path: first.clone(),
            source: source.into(),
        };
        let paths = files.iter().map(|path| PlRefPath::new(path.to_string_lossy())).collect();
        let args = ScanArgsParquet { glob: false, ..ScanArgsParquet::default() };
        let mut table = LazyFrame::scan_parquet_files(paths, args).map_err(wrong)?;
        let schema = table.collect_schema().map_err(wrong)?;
        let totals = totals(&table, &schema).map_err(wrong)?;
        let columns = columns(&totals, &schema).map_err(wrong)?;
        let statuses = match schema.get("status") {
            Some(DataType::String) => statuses(&table).map_err(wrong)?,
            _ => Vec::new(),
        };
        let rows = number(&totals, ROWS).map_err(wrong)? as u64;
        let sample = table.limit(n_sample as IdxSize).collect().map_err(wrong)?;
        let names = schema.iter_names().map(|name| name.to_string()).collect();
        let provenance = provenance(first)?;
        let sample = cells(&sample);
        Ok(Self { rows, statuses, columns, sample_header: names, sample, provenance, files })
    }
}

/// A name that no column has.
const ROWS: &str = "\u{0}rows";

fn derived(name: &str, what: usize) -> String {
    format!("{name}\u{0}{what}")
}

/// One row: the number of rows, and per column its nulls and quantiles.
fn totals(table: &LazyFrame, schema: &Schema) -> PolarsResult<DataFrame> {
    let mut wanted = vec![len().alias(ROWS)];
    for (name, data_type) in schema.iter() {
        let nulls = col(name.clone()).null_count();
        wanted.push(nulls.alias(derived(name, QUANTILES.len())));
        if !data_type.is_primitive_numeric() {
            continue;
        }
        for (index, q) in QUANTILES.iter().enumerate() {
            let values = col(name.clone()).cast(DataType::Float64);
            let quantile = values.quantile(lit(*q), QuantileMethod::Nearest);
            wanted.push(quantile.alias(derived(name, index)));
        }
    }
    stream(table.clone().select(wanted))
}

fn stream(query: LazyFrame) -> PolarsResult<DataFrame> {
    Ok(query.collect_with_engine(Engine::Streaming)?.unwrap_single())
}

fn number(totals: &DataFrame, name: &str) -> PolarsResult<f64> {
    totals.column(name)?.get(0)?.try_extract::<f64>()
}

fn columns(totals: &DataFrame, schema: &Schema) -> PolarsResult<Vec<ColumnInspection>> {
    let column = |(name, data_type): (&PlSmallStr, &DataType)| {
        let mut quantiles = [0.0; 7];
        let mut has_values = data_type.is_primitive_numeric();
        for (index, quantile) in quantiles.iter_mut().enumerate() {
            if has_values {
                match totals.column(&derived(name, index))?.get(0)? {
                    AnyValue::Null => has_values = false,
                    value => *quantile = value.try_extract()?,
                }
            }
        }
        Ok(ColumnInspection {
            name: name.to_string(),
            data_type: data_type.to_string(),
            nulls: number(totals, &derived(name, QUANTILES.len()))? as u64,
            quantiles: has_values.then_some(quantiles),
        })
    };
    schema.iter().map(column).collect()
}

fn statuses(table: &LazyFrame) -> PolarsResult<Vec<(String, u64)>> {
    let by_count = SortMultipleOptions::default().with_order_descending(true);
    let counted = table.clone().group_by([col("status")]).agg([len().alias("rows")]);
    let counted = stream(counted.sort(["rows"], by_count))?;
    let words = counted.column("status")?.str()?.clone();
    let counts = counted.column("rows")?.cast(&DataType::UInt64)?;
    let pairs = words.iter().zip(counts.u64()?.iter());
    Ok(pairs.map(|(word, n)| (word.unwrap_or("null").to_owned(), n.unwrap_or(0))).collect())
}

fn cells(sample: &DataFrame) -> Vec<Vec<String>> {
    let cell = |column: &Column, row| match column.get(row) {
        Ok(AnyValue::Null) => "null".to_owned(),
        Ok(AnyValue::String(text)) => text.to_owned(),
        Ok(AnyValue::StringOwned(text)) => text.to_string(),
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    };
    let columns = sample.columns();
    (0..sample.height()).map(|row| columns.iter().map(|c| cell(c, row)).collect()).collect()
}

fn provenance(path: &Path) -> Result<Vec<(String, String)>, Error> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file);
    let metadata =
        metadata.map_err(|error| Error::Parquet { path: path.to_owned(), source: error.into() })?;
    let pairs = metadata.file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let ours = pairs.into_iter().filter_map(|pair| {
        let key = pair.key.strip_prefix("clipmill.")?.to_owned();
        Some((key, pair.value.unwrap_or_default()))
    });
    Ok(ours.collect())
}
