//! The input of a plan: its columns checked, its parts cut. Nothing is read.

use arrow::datatypes::{DataType, Field};

use crate::batch::hidden;
use crate::batch::lists::{UsedLists, element};
use crate::columns::Needs;
use crate::error::Error;
use crate::images::holds_bytes;
use crate::source::{FOLDER_IMAGE, InputFile, Part, no_column};
use crate::spec::{ColumnSpec, DeclaredColumn, ImageSpec, PipelineSpec, SourceSpec};
use crate::travel::holds_text;
use crate::vectors::is_vector;

/// The input columns that the work needs.
#[derive(Debug, Clone, Default)]
pub struct UsedColumns {
    pub image: Option<String>,
    pub captions: Vec<String>,
}

/// The columns that hold the image and the captions, where the work needs them.
pub fn check_columns(
    spec: &PipelineSpec,
    needs: Needs,
    first: &InputFile,
) -> Result<UsedColumns, Error> {
    let kind = spec.source.kind();
    let image = match (&spec.source, needs.images) {
        (SourceSpec::Webdataset(_), needed) => needed.then(|| hidden::COLUMN.to_owned()),
        (SourceSpec::Folder(_), needed) => needed.then(|| FOLDER_IMAGE.to_owned()),
        (SourceSpec::Parquet(source), needed) => match &source.image {
            None if needed => return Err(missing_setting(kind, "image")),
            None => None,
            Some(column) => {
                check_image(first, column, spec.image.as_ref())?;
                let hidden = matches!(spec.image, Some(ImageSpec::Shard(_)));
                let column = if hidden { hidden::COLUMN } else { column.as_str() };
                needed.then(|| column.to_owned())
            }
        },
    };
    let captions = spec.source.captions();
    if captions.is_empty() && needs.captions {
        return Err(missing_setting(kind, "caption"));
    }
    for (index, column) in captions.iter().enumerate() {
        check_caption(first, column)?;
        if captions[..index].contains(column) {
            let problem = format!("names \"{column}\" twice");
            return Err(Error::Setting { key: format!("source.{kind}.caption"), problem });
        }
    }
    Ok(UsedColumns { image, captions: if needs.captions { captions } else { Vec::new() } })
}

/// For a declared column, the places among `captions` of those that it is about.
///
/// # Errors
/// `Setting` for one that the source does not name, or for what this kind of column has no use.
pub fn captions_of(
    name: &str,
    column: &DeclaredColumn,
    captions: &[String],
) -> Result<Vec<usize>, Error> {
    let wrong = |problem: String| Error::Setting { key: format!("columns.{name}"), problem };
    let DeclaredColumn { kind, caption, references, .. } = column;
    let place = |wanted: &String| match captions.iter().position(|name| name == wanted) {
        Some(place) => Ok(place),
        None => Err(wrong(format!(
            "\"{wanted}\" is not among the source's captions {captions:?}: name it there too"
        ))),
    };
    let word = kind.as_str();
    match kind {
        ColumnSpec::BestCaption | ColumnSpec::BestCaptionColumn | ColumnSpec::BestCosine => {
            match (caption, references.as_slice()) {
                (None, []) => Ok((0..captions.len()).collect()),
                (None, chosen) => chosen.iter().map(place).collect(),
                (Some(_), _) => {
                    Err(wrong(format!("{word} chooses among `references`, not `caption`")))
                }
            }
        }
        _ if !kind.is_of_a_caption() && (caption.is_some() || !references.is_empty()) => {
            Err(wrong(format!("{word} is about no caption")))
        }
        ColumnSpec::RefClipScore | ColumnSpec::CaptionCosine if references.is_empty() => {
            let problem = "needs `references`: a list of caption columns to compare with";
            Err(wrong(format!("{word} {problem}")))
        }
        ColumnSpec::RefClipScore | ColumnSpec::CaptionCosine => {
            let own = caption.as_ref().map_or(Ok(0), place)?;
            let others = references.iter().map(place).collect::<Result<Vec<_>, _>>()?;
            match others.contains(&own) {
                true => Err(wrong(format!("\"{}\" is compared with itself", captions[own]))),
                false => Ok([vec![own], others].concat()),
            }
        }
        _ if !references.is_empty() => Err(wrong(format!("{word} takes no `references`"))),
        _ => Ok(vec![caption.as_ref().map_or(Ok(0), place)?]),
    }
}

/// A column that must be there and hold vectors.
pub fn check_vectors(file: &InputFile, column: &str) -> Result<(), Error> {
    let field = file.schema.field_with_name(column).map_err(|_| no_column(file, column))?;
    if is_vector(field.data_type()) {
        return Ok(());
    }
    Err(Error::ColumnType {
        path: file.path.clone(),
        column: column.to_owned(),
        found: field.data_type().to_string(),
        wanted: "a list of f16, f32 or f64, all of one length, is needed".into(),
    })
}

fn missing_setting(kind: &str, what: &str) -> Error {
    let problem = format!("[columns] asks for what needs a column of {what}s: name that column");
    Error::Setting { key: format!("source.{kind}.{what}"), problem }
}

/// A column that must be there and hold text: strings, or bytes that may be some.
fn check_caption(file: &InputFile, column: &str) -> Result<(), Error> {
    let found = type_of(file, column)?;
    let each = of_each(found);
    if holds_text(each) || is_binary(each) {
        return Ok(());
    }
    Err(wrong_type(file, column, found, "a column of strings, or of lists of them, is needed"))
}

/// A column that must be there and hold what the pipeline's `[image.KIND]` takes.
fn check_image(file: &InputFile, column: &str, image: Option<&ImageSpec>) -> Result<(), Error> {
    let declared = type_of(file, column)?;
    let found = of_each(declared);
    let wanted = match image {
        Some(ImageSpec::Path(_)) if holds_text(found) => return Ok(()),
        Some(ImageSpec::Path(_)) if holds_bytes(found) => {
            "[image.path] takes strings: for images in the column itself use [image.bytes]"
        }
        Some(ImageSpec::Url(_)) if holds_text(found) => return Ok(()),
        Some(ImageSpec::Url(_)) if holds_bytes(found) => {
            "[image.url] takes strings: for images in the column itself use [image.bytes]"
        }
        Some(ImageSpec::Shard(_)) if holds_text(declared) => return Ok(()),
        Some(ImageSpec::Path(_) | ImageSpec::Url(_) | ImageSpec::Shard(_)) => {
            "a column of strings is needed"
        }
        Some(ImageSpec::Bytes(_)) if holds_bytes(found) => return Ok(()),
        Some(ImageSpec::Bytes(_)) if holds_text(found) => {
            "[image.bytes] takes the images' own bytes: for strings use [image.path] or [image.url]"
        }
        Some(ImageSpec::Bytes(_)) => {
            "[image.bytes] takes binary values, or a struct of \"bytes\" and \"path\""
        }
        // Nothing is read from it.
        Some(ImageSpec::Embedding(_)) | None => return Ok(()),
    };
    Err(wrong_type(file, column, declared, wanted))
}

fn type_of<'a>(file: &'a InputFile, column: &str) -> Result<&'a DataType, Error> {
    let field = file.schema.field_with_name(column);
    field.map(Field::data_type).map_err(|_| no_column(file, column))
}

/// What is looked at: a value, or each of a list.
fn of_each(data_type: &DataType) -> &DataType {
    element(data_type).map_or(data_type, |item| item.data_type())
}

impl UsedColumns {
    /// Which of them are lists, where some are.
    pub fn lists(&self, file: &InputFile, stored: Option<&str>) -> UsedLists {
        let names = || self.image.iter().chain(&self.captions);
        let is_list = |name: &&String| {
            type_of(file, name).is_ok_and(|data_type| element(data_type).is_some())
        };
        let (lists, mut beside): (Vec<String>, Vec<String>) = (
            names().filter(is_list).cloned().collect(),
            names().filter(|n| !is_list(n)).cloned().collect(),
        );
        beside.extend(stored.map(str::to_owned));
        UsedLists { lists, beside }
    }
}

fn wrong_type(file: &InputFile, column: &str, found: &DataType, wanted: &str) -> Error {
    Error::ColumnType {
        path: file.path.clone(),
        column: column.to_owned(),
        found: found.to_string(),
        wanted: wanted.to_owned(),
    }
}

fn is_binary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, values) => is_binary(values),
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
            let index = parts.len();
            parts.push(Part { index, number: index, input, start, rows });
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
    use std::path::Path;
    use std::sync::Arc;

    fn file(rows: u64) -> InputFile {
        let file = InputFile::of_columns(Path::new("x.parquet"), Arc::new(Schema::empty()));
        InputFile { rows, ..file.expect("no columns") }
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
