//! What a Parquet table holds: statuses, null rates, quantiles, first rows, provenance. A column is
//! read at a time, and one of numbers is held to be sorted: quantiles are exact.

use std::collections::HashMap;
use std::path::PathBuf;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::strings::Strings;
use crate::error::Error;
use crate::table::Table;
use crate::travel::{is_text, travel_schema};

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
    /// The `clipmill.*` metadata of the first file, less what tells of that file alone.
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
    /// Looks at a table, and at its first `n_sample` rows more closely.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn of(table: &Table, n_sample: usize) -> Result<Self, Error> {
        let names = table.schema().fields().iter().map(|field| field.name().clone());
        let columns = names.clone().map(|name| column(table, name));
        let provenance = table.files()[0].made_by.iter().filter_map(|pair| {
            let key = pair.key.strip_prefix("clipmill.")?.to_owned();
            Some((key, pair.value.clone().unwrap_or_default()))
        });
        Ok(Self {
            files: table.files().iter().map(|file| file.path.clone()).collect(),
            rows: table.rows(),
            statuses: statuses(table)?,
            columns: columns.collect::<Result<_, _>>()?,
            sample: sample(table, n_sample)?,
            sample_header: names.collect(),
            provenance: provenance.collect(),
        })
    }
}

fn column(table: &Table, name: String) -> Result<ColumnInspection, Error> {
    let data_type = table.field(&name)?.data_type();
    let (mut nulls, mut numbers) = (0, Vec::new());
    table.scan(&[&name], |_, batch| {
        let values = batch.column(0);
        nulls += values.logical_null_count() as u64;
        if data_type.is_numeric() {
            let values = cast(values, &DataType::Float64).map_err(arrow("read numbers"))?;
            numbers.extend(values.as_primitive::<Float64Type>().iter().flatten());
        }
        Ok(())
    })?;
    let quantiles = (!numbers.is_empty()).then(|| {
        numbers.sort_unstable_by(f64::total_cmp);
        // The nearest value there is.
        QUANTILES.map(|q| numbers[((numbers.len() - 1) as f64 * q).round() as usize])
    });
    Ok(ColumnInspection { name, data_type: data_type.to_string(), nulls, quantiles })
}

fn statuses(table: &Table) -> Result<Vec<(String, u64)>, Error> {
    const STATUS: &str = "status";
    if !table.find(STATUS).is_some_and(|field| is_text(field.data_type())) {
        return Ok(Vec::new());
    }
    let mut counts: HashMap<String, u64> = HashMap::new();
    table.scan(&[STATUS], |_, batch| {
        let words = Strings::of(batch, Some(STATUS))?;
        for row in 0..batch.num_rows() {
            let word = words.get(row).unwrap_or_else(|| "null".to_owned());
            *counts.entry(word).or_default() += 1;
        }
        Ok(())
    })?;
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    Ok(counts)
}

/// The first `n` rows, a cell a column.
fn sample(table: &Table, n: usize) -> Result<Vec<Vec<String>>, Error> {
    let (mut batches, mut missing) = (Vec::new(), n);
    'rows: for piece in table.pieces() {
        for batch in table.read(piece, None)? {
            if missing == 0 {
                break 'rows;
            }
            let batch = batch?;
            let batch = batch.slice(0, batch.num_rows().min(missing));
            missing -= batch.num_rows();
            batches.push(batch);
        }
    }
    let rows = concat_batches(&travel_schema(table.schema()), &batches);
    let rows = rows.map_err(arrow("join the first rows"))?;
    let columns = table.schema().fields().iter().enumerate();
    let columns: Vec<Vec<String>> = columns
        .map(|(index, field)| match is_text(field.data_type()) {
            true => texts(&rows, field.name()),
            false => shown(rows.column(index), field.data_type()),
        })
        .collect::<Result<_, _>>()?;
    Ok((0..rows.num_rows()).map(|row| columns.iter().map(|c| c[row].clone()).collect()).collect())
}

fn texts(rows: &RecordBatch, name: &str) -> Result<Vec<String>, Error> {
    let texts = Strings::of(rows, Some(name))?;
    let text = |row| texts.get(row).unwrap_or_else(|| "null".to_owned());
    Ok((0..rows.num_rows()).map(text).collect())
}

/// Values as Arrow shows them, texts within them as texts where they are some.
fn shown(values: &ArrayRef, declared: &DataType) -> Result<Vec<String>, Error> {
    let values = cast(values, declared).unwrap_or_else(|_| values.clone());
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(&values, &options).map_err(arrow("show values"))?;
    Ok((0..values.len()).map(|row| formatter.value(row).to_string()).collect())
}

fn arrow(action: &'static str) -> impl Fn(arrow::error::ArrowError) -> Error {
    move |source| Error::Arrow { action, source }
}
