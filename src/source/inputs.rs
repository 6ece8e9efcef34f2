//! Several input files as one table: found, their footers tried, their columns compared.

use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;

use super::input::{InputFile, check_magic, find_files};
use super::{preflight, remote};
use crate::contain::own_program;
use crate::error::Error;
use crate::store::is_url;

/// Opens every input file and makes sure that all have the same columns.
///
/// Reads footers, each in a child process first, and nothing else.
pub fn open_inputs(path: &Path) -> Result<Vec<InputFile>, Error> {
    open_files(&find_files(path)?)
}

/// The same of files that were found, at least one.
pub fn open_files(paths: &[PathBuf]) -> Result<Vec<InputFile>, Error> {
    let mut inputs = Vec::with_capacity(paths.len());
    // Those of stores many at once, in the order in which they are given.
    for some in paths.chunk_by(|a, b| is_url(a) == is_url(b)) {
        match is_url(&some[0]) {
            true => inputs.extend(remote::open(some)?),
            false => {
                some.iter().try_for_each(|path| check_magic(path))?;
                try_footers(some, some)?;
                for path in some {
                    inputs.push(InputFile::open(path)?);
                }
            }
        }
    }
    let first = inputs.first().expect("at least one file was found");
    for other in &inputs[1..] {
        if let Some(detail) = difference(&first.schema, &other.schema) {
            let (first, other) = (first.path.clone(), other.path.clone());
            return Err(Error::SchemaMismatch { first, other, detail });
        }
    }
    Ok(inputs)
}

/// Has a child process read every footer before this one does. `names` are what errors call them.
pub(super) fn try_footers(paths: &[PathBuf], names: &[PathBuf]) -> Result<(), Error> {
    let Some(mut program) = own_program() else { return Ok(()) };
    let verdicts = preflight::preflight(program.arg("preflight"), paths)
        .map_err(Error::io("start", program.get_program()))?;
    for (path, verdict) in names.iter().zip(verdicts) {
        let refused =
            |problem: String| Error::Parquet { path: path.clone(), source: problem.into() };
        verdict.map_err(refused)?;
    }
    Ok(())
}

/// The first difference in names and types. Nullability and metadata may differ.
fn difference(first: &SchemaRef, other: &SchemaRef) -> Option<String> {
    let describe = |schema: &SchemaRef, index: usize| match schema.fields().get(index) {
        Some(field) => format!("\"{}\" {}", field.name(), field.data_type()),
        None => "none".to_owned(),
    };
    (0..first.fields().len().max(other.fields().len())).find_map(|index| {
        let same = match (first.fields().get(index), other.fields().get(index)) {
            (Some(a), Some(b)) => a.name() == b.name() && a.data_type() == b.data_type(),
            _ => false,
        };
        (!same).then(|| {
            let (first, other) = (describe(first, index), describe(other, index));
            format!("column {}: {first} and {other}", index + 1)
        })
    })
}

/// What to say of a column that a file does not have.
pub fn no_column(file: &InputFile, column: &str) -> Error {
    let names: Vec<_> = file.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let (path, hint) = (file.path.clone(), nearest(column, &names));
    Error::NoColumn { path, column: column.to_owned(), hint }
}

/// `: did you mean "x"?` where a name is near, else the names that there are.
pub fn nearest(wanted: &str, names: &[&str]) -> String {
    let scored = names.iter().map(|name| (strsim::jaro_winkler(wanted, name), name));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.75 => format!(": did you mean \"{name}\"?"),
        Some(_) => format!(": it has {}", names.join(", ")),
        None => ": it has no columns".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names_a_near_column_and_else_lists_all() {
        let names = ["id", "image_path", "caption"];
        assert_eq!(nearest("captions", &names), ": did you mean \"caption\"?");
        assert_eq!(nearest("zzz", &names), ": it has id, image_path, caption");
    }
}
