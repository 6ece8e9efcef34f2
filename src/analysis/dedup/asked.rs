//! What a deduplication is asked for, held against the table: columns, limits, the output's columns.
//!
//! Nothing is read but the table's schema.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use serde_json::{Value, json};

use super::{exact, perceptual};
use crate::error::Error;
use crate::spec::DedupSpec;
use crate::table::Table;

/// The score column that is taken where none is asked for.
const SIMILARITY: &str = "similarity";

/// What is well-formed and makes no sense, and columns that are not there.
pub fn check(table: &Table, spec: &DedupSpec) -> Result<(), Error> {
    let wrong = |key: &str, problem: String| Err(Error::Setting { key: key.into(), problem });
    if !(spec.exact || spec.perceptual || spec.semantic) {
        let problem = "say what makes rows alike: exact, perceptual, semantic, or several of them";
        return wrong("dedup", problem.into());
    }
    if spec.exact {
        let name = &spec.exact_column;
        let Some(field) = table.find(name) else {
            return Err(no_hash(table, name, "image_sha256"));
        };
        if !exact::is_content(field.data_type()) {
            let wanted = "a hash (a string) or the image's bytes are needed".into();
            return Err(table.wrong_type(name, wanted));
        }
    }
    if spec.perceptual {
        let name = &spec.phash_column;
        let Some(field) = table.find(name) else { return Err(no_hash(table, name, "image_phash")) };
        if !perceptual::is_hash(field.data_type()) {
            return Err(table.wrong_type(name, "64 bits in a u64 or i64 are needed".into()));
        }
        if spec.distance > perceptual::MOST {
            let most = perceptual::MOST;
            let problem =
                format!("{} of 64 bits is no likeness: use at most {most}", spec.distance);
            return wrong("distance", problem);
        }
    }
    if spec.semantic && !(spec.threshold > 0.0 && spec.threshold <= 1.0) {
        return wrong("threshold", format!("{} is not in (0, 1]", spec.threshold));
    }
    if spec.mark && spec.group_column == spec.duplicate_column {
        return wrong("duplicate_column", "is the group column's name too".into());
    }
    Ok(())
}

fn no_hash(table: &Table, column: &str, kind: &str) -> Error {
    if column != kind {
        return table.field(column).err().unwrap_or_else(|| unreachable!("it was not found"));
    }
    let problem = format!(
        "{} has no such column: declare `{kind} = \"{kind}\"` under [columns] of the run that \
         makes the table, or name the column that holds it",
        table.files()[0].path.display()
    );
    Error::Setting { key: format!("column \"{column}\""), problem }
}

/// The column that decides which row is kept.
pub fn score_column(table: &Table, spec: &DedupSpec) -> Result<Option<String>, Error> {
    let Some(name) = spec.score.as_deref() else {
        let is_number =
            |name: &String| table.find(name).is_some_and(|field| field.data_type().is_numeric());
        let usual = table.made_scores().into_iter().chain([SIMILARITY.to_owned()]);
        return Ok(usual.into_iter().find(is_number));
    };
    match table.field(name)?.data_type().is_numeric() {
        true => Ok(Some(name.to_owned())),
        false => Err(table.wrong_type(name, "a number is needed to tell the best row".into())),
    }
}

/// What the output depends on.
pub fn settings(spec: &DedupSpec, score: Option<&str>, embedding: Option<&str>) -> Value {
    let exact = spec.exact.then(|| json!({ "column": spec.exact_column }));
    let perceptual =
        spec.perceptual.then(|| json!({ "column": spec.phash_column, "distance": spec.distance }));
    let semantic = spec.semantic.then(|| {
        json!({
            "column": embedding,
            "threshold": spec.threshold,
            "cells": spec.cells,
            "seed": spec.seed,
        })
    });
    json!({
        "exact": exact,
        "perceptual": perceptual,
        "semantic": semantic,
        "score": score,
        "mark": spec.mark,
        "group_column": spec.group_column,
        "duplicate_column": spec.duplicate_column,
    })
}

/// The columns that come after the table's own.
pub fn added(spec: &DedupSpec) -> Vec<FieldRef> {
    let mut fields = vec![Arc::new(Field::new(&spec.group_column, DataType::Int64, true))];
    if spec.mark {
        fields.push(Arc::new(Field::new(&spec.duplicate_column, DataType::Boolean, false)));
    }
    fields
}
