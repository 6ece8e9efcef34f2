//! Folders that are named `key=value`, as Hive, Spark, pyarrow and DuckDB write them: their values
//! as columns of the files in them.
//!
//! Values are int64 where all of a key's are integers, and strings otherwise;
//! `__HIVE_DEFAULT_PARTITION__` is null.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema};

use super::find::Found;
use super::input::InputFile;
use crate::error::Error;
use crate::travel::travel_schema;

/// Whether a folder is looked into for folders of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folders {
    /// Only the files right in it are its own.
    Flat,
    /// With its folders, if they are named so.
    Partitioned,
}

/// A column that has one value for all rows of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partition {
    Number(Option<i64>),
    Text(Option<String>),
}

impl Partition {
    /// As batches have it.
    fn rows(&self, n_rows: usize) -> ArrayRef {
        match self {
            Partition::Number(value) => Arc::new(Int64Array::from(vec![*value; n_rows])),
            Partition::Text(value) => {
                let value = value.as_ref().map(|text| text.as_bytes());
                Arc::new(BinaryViewArray::from_iter(std::iter::repeat_n(value, n_rows)))
            }
        }
    }
}

/// Whether folders in this one are named `key=value`.
pub fn folder_of_keys(dir: &Path) -> Result<bool, Error> {
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        if key_value(&entry.file_name().to_string_lossy()).is_some() && entry.path().is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The key, and the value if it is not null.
pub(super) fn key_value(folder: &str) -> Option<(String, Option<String>)> {
    let (key, value) = folder.split_once('=')?;
    if key.is_empty() || key.starts_with(['.', '_']) {
        return None;
    }
    let value = (value != "__HIVE_DEFAULT_PARTITION__").then(|| decoded(value));
    Some((decoded(key), value))
}

/// Text with its `%2F`s read; as it is, where that would be no text.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| str::from_utf8(hex).ok());
        let hex = hex.filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// What the names of a file's folders say, beneath the path that was given.
fn keys(file: &Found) -> Vec<(String, Option<String>)> {
    let beneath = file.path.strip_prefix(&file.base).unwrap_or(&file.path);
    let folders = beneath.parent().into_iter().flat_map(Path::components);
    folders.filter_map(|folder| key_value(&folder.as_os_str().to_string_lossy())).collect()
}

/// Adds the columns that the names of folders say to files, each at its place in `found`.
///
/// # Errors
/// Why that cannot be, in words; then nothing was changed.
pub fn partition(inputs: &mut [InputFile], found: &[Found]) -> Result<(), String> {
    let of_files: Vec<_> = found.iter().map(keys).collect();
    let first = &of_files[0];
    if first.is_empty() {
        return Err(format!("no folder of {} is named key=value", found[0].path.display()));
    }
    let names = |keys: &[(String, Option<String>)]| -> Vec<String> {
        keys.iter().map(|(key, _)| key.clone()).collect()
    };
    for (file, own) in found.iter().zip(&of_files) {
        if names(own) != names(first) {
            let (path, other) = (found[0].path.display(), file.path.display());
            return Err(format!("the folders of {path} and {other} have different keys"));
        }
    }
    let names = names(first);
    for (index, name) in names.iter().enumerate() {
        let is_column = inputs.iter().any(|input| input.schema.field_with_name(name).is_ok());
        if is_column || names[..index].contains(name) {
            return Err(format!("a folder is named {name}=…, and \"{name}\" is a column already"));
        }
    }
    for (at, name) in names.iter().enumerate() {
        let values = of_files.iter().map(|keys| keys[at].1.as_deref());
        let is_number = |value: Option<&str>| value.is_none_or(|text| text.parse::<i64>().is_ok());
        let all_numbers = values.clone().all(is_number) && values.clone().any(|v| v.is_some());
        let kind = if all_numbers { DataType::Int64 } else { DataType::Utf8 };
        let field = Arc::new(Field::new(name, kind, true));
        for (input, value) in inputs.iter_mut().zip(values) {
            input.partitions.push(match all_numbers {
                true => Partition::Number(value.and_then(|text| text.parse().ok())),
                false => Partition::Text(value.map(str::to_owned)),
            });
            let fields: Vec<_> = input.schema.fields().iter().chain([&field]).cloned().collect();
            let metadata = input.schema.metadata().clone();
            input.schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        }
    }
    Ok(())
}

/// A file's rows with the columns that its folders' names say.
pub fn with_partitions(rows: RecordBatch, input: &InputFile) -> Result<RecordBatch, Error> {
    if input.partitions.is_empty() {
        return Ok(rows);
    }
    let n_rows = rows.num_rows();
    let mut columns = rows.columns().to_vec();
    columns.extend(input.partitions.iter().map(|partition| partition.rows(n_rows)));
    let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
    RecordBatch::try_new_with_options(travel_schema(&input.schema), columns, &options)
        .map_err(|source| Error::Arrow { action: "add the columns of folders", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_keys_and_values() {
        let said =
            |path: &str| keys(&Found { path: path.into(), base: "data".into(), version: None });
        let pair = |key: &str, value: Option<&str>| (key.to_owned(), value.map(str::to_owned));
        let wanted = [pair("year", Some("2024")), pair("a b", Some("x/y"))];
        assert_eq!(said("data/year=2024/a%20b=x%2Fy/z.parquet"), wanted);
        assert_eq!(said("data/p=__HIVE_DEFAULT_PARTITION__/z=1.parquet"), [pair("p", None)]);
        assert_eq!(said("data/plain/.hidden=1/=2/z.parquet"), []);
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%+1"), "%+1");
        assert_eq!(decoded("%ff"), "%ff");
    }
}
