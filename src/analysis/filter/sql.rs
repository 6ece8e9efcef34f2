//! `where`: an SQL expression over a row's columns, as polars reads it.
//!
//! A condition looks at one row at a time: what needs others (an average, a rank) is refused,
//! since it would be another one for every batch. Null is not true.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes as types;
use arrow::datatypes::{DataType, Schema};
use polars::polars_utils::idx_vec::UnitVec;
use polars::prelude::{
    Column, DataFrame, DataType as Kind, Expr, IntoLazy, NamedFrom, PolarsResult, Series, TimeUnit,
    TimeZone,
};
use polars_plan::plans::{AExpr, ExprToIRContext, is_elementwise, to_expr_ir};
use polars_plan::prelude::{Arena, Node};
use polars_plan::utils::{expr_to_leaf_column_names, has_aexpr};

use crate::contain::contain;
use crate::error::Error;
use crate::table::Table;
use crate::travel::travel_schema;

/// A condition over the columns of a table.
pub struct Condition {
    text: String,
    expression: Expr,
    columns: Vec<String>,
}

/// The name of what a condition gives: no column's.
const VERDICT: &str = "\u{0}keep";

impl Condition {
    /// Reads a condition and tries it on the table's columns.
    ///
    /// # Errors
    /// `NoColumn` with the nearest name; `Setting` for what is no SQL, looks at more than a row,
    /// or is neither true nor false; `ColumnType` for a column that cannot be compared.
    pub fn new(text: &str, table: &Table) -> Result<Self, Error> {
        let parse = || polars::sql::sql_expr(text).map_err(|error| error.to_string());
        let parsed = contain(parse).unwrap_or_else(|| Err("polars panicked on it".to_owned()));
        let expression =
            parsed.map_err(|problem| wrong(text, format!("is no SQL expression: {problem}")))?;
        let mut columns: Vec<_> =
            expr_to_leaf_column_names(&expression).iter().map(ToString::to_string).collect();
        columns.sort();
        columns.dedup();
        if columns.is_empty() {
            return Err(wrong(text, "names no column".to_owned()));
        }
        let mut fields = Vec::new();
        for column in &columns {
            fields.push(table.field(column)?.clone());
            if !is_comparable(fields[fields.len() - 1].data_type()) {
                let wanted = "a condition reads numbers, strings, booleans, dates and timestamps";
                return Err(table.wrong_type(column, wanted.to_owned()));
            }
        }
        let condition = Self { text: text.to_owned(), expression, columns };
        let none = RecordBatch::new_empty(travel_schema(&Schema::new(fields)));
        condition.keep(&none)?;
        condition.check_rows(&none)?;
        Ok(condition)
    }

    /// The columns that it reads.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Per row of a batch that has the columns, whether the condition is true.
    pub fn keep(&self, batch: &RecordBatch) -> Result<BooleanArray, Error> {
        let evaluate = || self.evaluate(batch).map_err(|error| error.to_string());
        let verdict = contain(evaluate).unwrap_or_else(|| Err("polars panicked on it".to_owned()));
        verdict.map_err(|problem| wrong(&self.text, format!("does not work: {problem}")))
    }

    fn evaluate(&self, batch: &RecordBatch) -> PolarsResult<BooleanArray> {
        let frame = self.frame(batch)?;
        let verdict = frame.lazy().with_column(self.expression.clone().alias(VERDICT)).collect()?;
        let verdict = verdict.column(VERDICT)?.bool()?.clone();
        Ok(verdict.iter().map(|keep| Some(keep == Some(true))).collect())
    }

    /// The condition's columns of a batch.
    fn frame(&self, batch: &RecordBatch) -> PolarsResult<DataFrame> {
        let mut columns = Vec::with_capacity(self.columns.len());
        for name in &self.columns {
            let array = batch.column_by_name(name);
            let array = array.expect("the condition's columns are what is read");
            columns.push(Column::from(series(name, array)?));
        }
        DataFrame::new(batch.num_rows(), columns)
    }

    /// Makes sure that the condition looks at one row at a time.
    fn check_rows(&self, batch: &RecordBatch) -> Result<(), Error> {
        let check = || -> PolarsResult<bool> {
            let schema = self.frame(batch)?.schema().as_ref().clone();
            let mut arena = Arena::new();
            let mut context = ExprToIRContext::new(&mut arena, &schema);
            let node = to_expr_ir(self.expression.clone(), &mut context)?.node();
            Ok(is_of_rows(node, &arena))
        };
        match contain(check) {
            Some(Ok(true)) => Ok(()),
            _ => Err(wrong(
                &self.text,
                "looks at more than one row: --keep-top and --keep-quantile are for that".into(),
            )),
        }
    }
}

/// Whether every step of an expression gives each row something of that row alone. What names no
/// column is the same for all (a list after `in`).
fn is_of_rows(node: Node, arena: &Arena<AExpr>) -> bool {
    let mut stack: UnitVec<Node> = [node].into_iter().collect();
    while let Some(node) = stack.pop() {
        let of_table = |step: &AExpr| matches!(step, AExpr::Column(_) | AExpr::Len);
        if has_aexpr(node, arena, of_table) && !is_elementwise(&mut stack, arena.get(node), arena) {
            return false;
        }
    }
    true
}

fn wrong(text: &str, problem: String) -> Error {
    Error::Setting { key: "where".into(), problem: format!("`{text}` {problem}") }
}

/// Whether [`series`] knows the type, which is a declared one.
fn is_comparable(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => is_comparable(values),
        Utf8 | LargeUtf8 | Utf8View | Boolean | Date32 | Timestamp(..) => true,
        Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) => true,
        other => other.is_numeric(),
    }
}

/// A column as polars has it. Decimals are compared as f64; a string that is not UTF-8 is null.
fn series(name: &str, array: &ArrayRef) -> PolarsResult<Series> {
    macro_rules! numbers {
        ($kind:ty) => {{
            let numbers = array.as_primitive::<$kind>();
            match numbers.null_count() {
                0 => Series::new(name.into(), numbers.values().as_ref()),
                _ => Series::new(name.into(), numbers.iter().collect::<Vec<_>>()),
            }
        }};
    }
    Ok(match array.data_type() {
        DataType::Int8 => numbers!(types::Int8Type),
        DataType::Int16 => numbers!(types::Int16Type),
        DataType::Int32 => numbers!(types::Int32Type),
        DataType::Int64 => numbers!(types::Int64Type),
        DataType::UInt8 => numbers!(types::UInt8Type),
        DataType::UInt16 => numbers!(types::UInt16Type),
        DataType::UInt32 => numbers!(types::UInt32Type),
        DataType::UInt64 => numbers!(types::UInt64Type),
        DataType::Float32 => numbers!(types::Float32Type),
        DataType::Float64 => numbers!(types::Float64Type),
        DataType::Boolean => {
            Series::new(name.into(), array.as_boolean().iter().collect::<Vec<_>>())
        }
        DataType::BinaryView => {
            let texts = array.as_binary_view().iter();
            let texts = texts.map(|text| text.and_then(|text| std::str::from_utf8(text).ok()));
            Series::new(name.into(), texts.collect::<Vec<_>>())
        }
        DataType::Date32 => series(name, &as_type(array, &DataType::Int32)?)?.cast(&Kind::Date)?,
        DataType::Timestamp(unit, zone) => {
            // polars has no seconds.
            let (unit, kept) = match unit {
                types::TimeUnit::Nanosecond => (TimeUnit::Nanoseconds, *unit),
                types::TimeUnit::Microsecond => (TimeUnit::Microseconds, *unit),
                _ => (TimeUnit::Milliseconds, types::TimeUnit::Millisecond),
            };
            let array = as_type(array, &DataType::Timestamp(kept, zone.clone()))?;
            let numbers = series(name, &as_type(&array, &DataType::Int64)?)?;
            let zone = TimeZone::opt_try_new(zone.as_deref())?;
            numbers.cast(&Kind::Datetime(unit, zone))?
        }
        DataType::Float16 => series(name, &as_type(array, &DataType::Float32)?)?,
        DataType::Dictionary(_, values) => series(name, &as_type(array, values)?)?,
        _ => series(name, &as_type(array, &DataType::Float64)?)?,
    })
}

fn as_type(array: &ArrayRef, data_type: &DataType) -> PolarsResult<ArrayRef> {
    let wrong = |error: arrow::error::ArrowError| {
        polars::prelude::PolarsError::ComputeError(error.to_string().into())
    };
    cast(array, data_type).map_err(wrong)
}
