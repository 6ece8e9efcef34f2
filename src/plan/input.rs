//! The input of a plan: its columns checked, its parts cut. Nothing is read.

use arrow::datatypes::DataType;

use crate::columns::Needs;
use crate::error::Error;
use crate::source::{InputFile, Part, no_column};
use crate::spec::{PipelineSpec, SourceSpec};

/// The columns that hold the image and the caption, where the work needs them.
pub fn check_columns(
    spec: &PipelineSpec,
    needs: Needs,
    first: &InputFile,
) -> Result<(Option<String>, Option<String>), Error> {
    let SourceSpec::Parquet(source) = &spec.source;
    let image = match (&source.image, needs.images) {
        (None, true) => return Err(missing_setting("image")),
        (Some(column), needed) => check_column(first, column)?.filter(|_| needed),
        (None, false) => None,
    };
    let caption = match (&source.caption, needs.captions) {
        (None, true) => return Err(missing_setting("caption")),
        (Some(column), needed) => check_column(first, column)?.filter(|_| needed),
        (None, false) => None,
    };
    Ok((image, caption))
}

fn missing_setting(what: &str) -> Error {
    let problem = format!("[columns] asks for what needs a column of {what}s: name that column");
    Error::Setting { key: format!("source.parquet.{what}"), problem }
}

/// A column that must be there and hold strings.
fn check_column(file: &InputFile, column: &str) -> Result<Option<String>, Error> {
    let Ok(field) = file.schema.field_with_name(column) else {
        return Err(no_column(file, column));
    };
    if is_string(field.data_type()) {
        return Ok(Some(column.to_owned()));
    }
    Err(Error::ColumnType {
        path: file.path.clone(),
        column: column.to_owned(),
        found: field.data_type().to_string(),
        wanted: "a column of strings is needed".into(),
    })
}

fn is_string(data_type: &DataType) -> bool {
    match data_type {
        // A column of nulls alone has no other type, and every row of it a status.
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => true,
        DataType::Dictionary(_, values) => is_string(values),
        _ => false,
    }
}

/// Cuts input files into parts of at most `rows_per_part` rows. A file of 0 rows is one part of
/// 0 rows, so that an empty table has an empty output.
pub fn cut(inputs: &[InputFile], rows_per_part: u64, limit: Option<u64>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut left = limit.unwrap_or(u64::MAX);
    for (input, file) in inputs.iter().enumerate() {
        if left == 0 && !parts.is_empty() {
            break;
        }
        let rows_wanted = file.rows.min(left);
        left -= rows_wanted;
        let mut start = 0;
        loop {
            let rows = (rows_wanted - start).min(rows_per_part);
            parts.push(Part { index: parts.len(), input, start, rows });
            start += rows;
            if start == rows_wanted {
                break;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Schema;
    use parquet::arrow::ArrowSchemaConverter;
    use std::sync::Arc;

    fn file(rows: u64) -> InputFile {
        let schema = Arc::new(Schema::empty());
        let parquet = ArrowSchemaConverter::new().convert(&schema).expect("no columns").into();
        let (path, footer) = ("x.parquet".into(), String::new());
        InputFile {
            path,
            rows,
            groups: vec![rows],
            bytes: 0,
            modified: 0,
            footer,
            schema,
            parquet,
            metadata: vec![],
            made_by: vec![],
        }
    }

    fn rows(parts: &[Part]) -> Vec<(usize, u64, u64)> {
        parts.iter().map(|part| (part.input, part.start, part.rows)).collect()
    }

    #[test]
    fn a_part_never_holds_rows_of_two_files() {
        let parts = cut(&[file(5), file(2)], 3, None);
        assert_eq!(rows(&parts), [(0, 0, 3), (0, 3, 2), (1, 0, 2)]);
    }

    #[test]
    fn an_empty_table_is_one_empty_part() {
        assert_eq!(rows(&cut(&[file(0)], 3, None)), [(0, 0, 0)]);
    }

    #[test]
    fn a_limit_stops_in_the_middle_of_a_part_and_leaves_later_files_out() {
        assert_eq!(rows(&cut(&[file(5), file(9)], 3, Some(4))), [(0, 0, 3), (0, 3, 1)]);
        assert_eq!(rows(&cut(&[file(5), file(9)], 3, Some(0))), [(0, 0, 0)]);
    }
}
