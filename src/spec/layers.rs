//! Reading a pipeline file and laying the command line's settings over it.
//!
//! Precedence: `--set a.b=c` or a flag, then the file, then the default. Where each value came
//! from is kept for `plan`.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use super::PipelineSpec;
use crate::error::Error;

/// Where a setting's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag, or `--set`.
    CommandLine,
    File,
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::CommandLine => "command line",
            Origin::File => "file",
            Origin::Default => "default",
        })
    }
}

/// One setting of the effective pipeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// Dotted, as `--set` takes it.
    pub key: String,
    /// As TOML.
    pub value: String,
    pub origin: Origin,
}

/// A setting from the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Dotted key.
    pub key: String,
    pub value: Value,
    /// As it was typed, for messages.
    pub typed: String,
}

impl Override {
    /// Reads `a.b=c`. The value is TOML where it parses as TOML, and a string otherwise.
    pub fn parse(typed: &str) -> Result<Self, Error> {
        let wrong = |detail: &str| Error::Set { set: typed.to_owned(), detail: detail.to_owned() };
        let (key, value) = typed.split_once('=').ok_or_else(|| wrong("expected key=value"))?;
        let key = key.trim();
        if key.split('.').any(str::is_empty) {
            return Err(wrong("expected a dotted key such as sink.parquet.rows_per_part"));
        }
        let parsed = format!("value = {value}").parse::<Table>();
        let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
            Some(value) => value,
            None => Value::String(value.trim().to_owned()),
        };
        Ok(Self { key: key.to_owned(), value, typed: typed.to_owned() })
    }

    /// The same, with the kind of source where its key leaves it open (`source.*.limit`).
    fn of_source(&self, kind: &str) -> Self {
        Self { key: self.key.replace("source.*.", &format!("source.{kind}.")), ..self.clone() }
    }

    /// A flag's value for a key.
    pub fn flag(flag: &str, key: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        Self { key: key.to_owned(), typed: format!("{flag} {value}"), value }
    }
}

/// A pipeline as it will run, and where each of its settings came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Layered {
    pub spec: PipelineSpec,
    pub settings: Vec<Setting>,
}

/// Reads a pipeline file and applies overrides in their order.
pub fn read(path: &Path, overrides: &[Override]) -> Result<Layered, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound {
            what: "pipeline file",
            path: path.to_owned(),
            hint: ": pipelines/ has some to copy".into(),
        },
        _ => Error::Spec { path: path.to_owned(), detail: source.to_string() },
    })?;
    let wrong = |error: toml::de::Error| Error::Spec {
        path: path.to_owned(),
        detail: error.to_string().trim_end().to_owned(),
    };
    // The file by itself first: its errors have a line and a column.
    let mut spec: PipelineSpec = toml::from_str(&text).map_err(wrong)?;
    let file: Table = text.parse().map_err(wrong)?;
    let kind = spec.source.kind();
    let overrides: Vec<_> = overrides.iter().map(|change| change.of_source(kind)).collect();
    let overrides = overrides.as_slice();
    let mut table = file.clone();
    // Whose fault it is: the first after which nothing was well again. A section that is new may
    // need several to be whole.
    let mut wrong = None;
    for change in overrides {
        insert(&mut table, change)?;
        match table.clone().try_into::<PipelineSpec>() {
            Ok(changed) => (spec, wrong) = (changed, None),
            Err(error) => {
                let (set, detail) = (change.typed.clone(), error.message().to_owned());
                wrong.get_or_insert(Error::Set { set, detail });
            }
        }
    }
    wrong.map_or(Ok(()), Err)?;
    check_version(&spec)?;
    let settings = settings(&spec, &file, overrides);
    Ok(Layered { spec, settings })
}

fn check_version(spec: &PipelineSpec) -> Result<(), Error> {
    if spec.version == 1 {
        return Ok(());
    }
    let problem = format!("{} is not a version that this clipmill reads: use 1", spec.version);
    Err(Error::Setting { key: "version".into(), problem })
}

fn insert(table: &mut Table, change: &Override) -> Result<(), Error> {
    let (parents, leaf) = match change.key.rsplit_once('.') {
        Some((parents, leaf)) => (parents.split('.').collect(), leaf),
        None => (Vec::new(), change.key.as_str()),
    };
    let mut at = table;
    for parent in parents {
        let next = at.entry(parent).or_insert_with(|| Value::Table(Table::new()));
        at = next.as_table_mut().ok_or_else(|| Error::Set {
            set: change.typed.clone(),
            detail: format!("{parent} is a value, not a section"),
        })?;
    }
    at.insert(leaf.to_owned(), change.value.clone());
    Ok(())
}

fn settings(spec: &PipelineSpec, file: &Table, overrides: &[Override]) -> Vec<Setting> {
    let effective = Value::try_from(spec).expect("a pipeline that was read can be written");
    let mut leaves = Vec::new();
    collect_leaves("", &effective, &mut leaves);
    leaves
        .into_iter()
        .map(|(key, value)| {
            let typed = |change: &Override| {
                key == change.key || key.starts_with(&format!("{}.", change.key))
            };
            let origin = if overrides.iter().any(typed) {
                Origin::CommandLine
            } else if lookup(file, &key).is_some() {
                Origin::File
            } else {
                Origin::Default
            };
            Setting { key, value: value.to_string(), origin }
        })
        .collect()
}

fn collect_leaves(prefix: &str, value: &Value, leaves: &mut Vec<(String, Value)>) {
    let Value::Table(table) = value else {
        leaves.push((prefix.to_owned(), value.clone()));
        return;
    };
    for (key, value) in table {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        collect_leaves(&key, value, leaves);
    }
}

fn lookup<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => lookup(table.get(first)?.as_table()?, rest),
    }
}
