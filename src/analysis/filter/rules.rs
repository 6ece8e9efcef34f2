//! One rule of a filter: what it reads of a row, and whether it keeps it.
//!
//! A rule looks at one row. What depends on all rows (a share, a quantile) has become a threshold
//! before. A null is never kept, nor is a caption that is not UTF-8.

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};

use super::sql::Condition;
use crate::error::Error;

/// What a row has to fulfil.
pub enum Rule {
    /// The row did not fail.
    Status { column: String },
    /// English.
    Language { column: String },
    /// More words than this, as Python's `str.split` counts them.
    Words { column: String, more_than: usize },
    /// At least so many code points.
    Characters { column: String, at_least: usize },
    /// The shorter side has at least so many pixels.
    Side { width: String, height: String, at_least: f64 },
    /// The longer side is at most so many times the shorter one.
    Aspect { width: String, height: String, at_most: f64 },
    /// The image's file has at least so many bytes.
    ImageBytes { column: String, at_least: f64 },
    /// An SQL expression is true.
    Where(Condition),
    /// There is a score, and it is a number.
    Scored { column: String },
    /// The score is at least this, a value of the column's type. `why` is the rule's name.
    Score { column: String, at_least: f64, why: &'static str },
}

impl Rule {
    /// A short stable word: `rejected_by` holds it.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::Status { .. } => "status",
            Rule::Language { .. } => "language",
            Rule::Words { .. } => "words",
            Rule::Characters { .. } => "characters",
            Rule::Side { .. } => "side",
            Rule::Aspect { .. } => "aspect",
            Rule::ImageBytes { .. } => "image_bytes",
            Rule::Where(_) => "where",
            Rule::Scored { .. } => "no_score",
            Rule::Score { why, .. } => why,
        }
    }

    /// What it keeps, for people.
    pub fn keeps(&self) -> String {
        match self {
            Rule::Status { column } => format!("{column} is ok"),
            Rule::Language { column } => format!("{column} is en"),
            Rule::Words { column, more_than } => format!("{column} of more than {more_than} words"),
            Rule::Characters { column, at_least } => {
                format!("{column} of at least {at_least} code points")
            }
            Rule::Side { width, height, at_least } => {
                format!("{width} and {height} at least {at_least}")
            }
            Rule::Aspect { at_most, .. } => format!("one side at most {at_most} times the other"),
            Rule::ImageBytes { column, at_least } => format!("{column} at least {at_least}"),
            Rule::Where(condition) => condition.text().to_owned(),
            Rule::Scored { column } => format!("{column} is a number"),
            Rule::Score { column, at_least, .. } => format!("{column} at least {at_least}"),
        }
    }

    /// The columns that it reads.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Rule::Status { column }
            | Rule::Language { column }
            | Rule::Words { column, .. }
            | Rule::Characters { column, .. }
            | Rule::ImageBytes { column, .. }
            | Rule::Scored { column }
            | Rule::Score { column, .. } => vec![column],
            Rule::Side { width, height, .. } | Rule::Aspect { width, height, .. } => {
                vec![width, height]
            }
            Rule::Where(condition) => condition.columns().iter().map(String::as_str).collect(),
        }
    }

    /// Per row of a batch that has the columns, whether the rule keeps it.
    pub fn keep(&self, batch: &RecordBatch) -> Result<Vec<bool>, Error> {
        let texts = |column: &str, is: &dyn Fn(&str) -> bool| {
            let texts = text(batch, column);
            let keep = |row: usize| {
                texts.is_valid(row) && std::str::from_utf8(texts.value(row)).is_ok_and(is)
            };
            (0..texts.len()).map(keep).collect()
        };
        let number = |column: &str, is: &dyn Fn(f64) -> bool| {
            Ok::<_, Error>(numbers(batch, column)?.into_iter().map(is).collect())
        };
        // Shorter and longer side. A NaN is no side's.
        let sides = |width: &str, height: &str, is: &dyn Fn(f64, f64) -> bool| {
            let pairs = numbers(batch, width)?.into_iter().zip(numbers(batch, height)?);
            let keep = |(a, b): (f64, f64)| !a.is_nan() && !b.is_nan() && is(a.min(b), a.max(b));
            Ok::<_, Error>(pairs.map(keep).collect())
        };
        Ok(match self {
            Rule::Status { column } => texts(column, &is_usable),
            Rule::Language { column } => texts(column, &|language| language == "en"),
            Rule::Words { column, more_than } => {
                texts(column, &|caption| words(caption) > *more_than)
            }
            Rule::Characters { column, at_least } => {
                texts(column, &|caption| caption.chars().count() >= *at_least)
            }
            Rule::Side { width, height, at_least } => {
                sides(width, height, &|short, _| short >= *at_least)?
            }
            Rule::Aspect { width, height, at_most } => {
                sides(width, height, &|short, long| long / short <= *at_most)?
            }
            Rule::ImageBytes { column, at_least } => number(column, &|bytes| bytes >= *at_least)?,
            Rule::Where(condition) => condition.keep(batch)?.values().iter().collect(),
            Rule::Scored { column } => number(column, &|score| !score.is_nan())?,
            Rule::Score { column, at_least, .. } => number(column, &|score| score >= *at_least)?,
        })
    }
}

/// Whether a row of this status is one to work with: clipmill's word, and img2dataset's.
pub fn is_usable(status: &str) -> bool {
    ["ok", "success"].contains(&status)
}

/// Words as Python's `str.split()` finds them: besides Unicode's white space, it takes the four
/// separators of ASCII for some.
fn words(caption: &str) -> usize {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    caption.split(is_space).filter(|word| !word.is_empty()).count()
}

/// A column of strings, which travels as views.
pub fn text<'a>(batch: &'a RecordBatch, column: &str) -> &'a BinaryViewArray {
    column_of(batch, column).as_binary_view()
}

/// A column of numbers as f64, a null as NaN.
pub fn numbers(batch: &RecordBatch, column: &str) -> Result<Vec<f64>, Error> {
    let arrow = |source| Error::Arrow { action: "read a column of numbers", source };
    let array = cast(column_of(batch, column), &DataType::Float64).map_err(arrow)?;
    let numbers = array.as_primitive::<Float64Type>();
    Ok(match numbers.null_count() {
        0 => numbers.values().to_vec(),
        _ => numbers.iter().map(|number| number.unwrap_or(f64::NAN)).collect(),
    })
}

fn column_of<'a>(batch: &'a RecordBatch, column: &str) -> &'a ArrayRef {
    batch.column_by_name(column).expect("the rules' columns were looked up and are what is read")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_python() {
        for (text, n) in [
            ("", 0),
            (" a  b ", 2),
            ("a\u{1c}b\u{1f}c", 3),
            ("a\u{a0}b\u{3000}c\u{85}d\u{2028}e", 5),
            ("a\u{200b}b\u{feff}", 1),
        ] {
            assert_eq!(words(text), n, "{text:?}");
        }
    }
}
