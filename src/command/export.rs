//! `clipmill export`: a table's embeddings as NumPy files, as other tools read them.

use std::path::Path;

use serde_json::json;

use super::table;
use crate::analysis::export::{Export, Summary};
use crate::cli::ExportArgs;
use crate::error::Error;
use crate::progress::Waiting;
use crate::spec::ExportSpec;
use crate::table::{Table, Written};

pub fn export(args: &ExportArgs) -> Result<(), Error> {
    let spec = args.spec();
    let (written, summary) = run(&spec, &args.input)?;
    table::print(&match args.json {
        true => as_json(&spec, &written),
        false => as_text(&spec, &written, &summary),
    })
}

/// Does it as a step after a run; gives what the terminal shows.
pub fn step(spec: &ExportSpec, input: &Path) -> Result<String, Error> {
    let (written, summary) = run(spec, input)?;
    Ok(as_text(spec, &written, &summary))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `dir`.
pub fn rehearse(spec: &ExportSpec, input: &Path, dir: &Path) -> Result<(), Error> {
    let (table, spec) = (Table::open(input)?, ExportSpec { path: dir.to_owned(), ..spec.clone() });
    Export::of(&table, &spec)?.write(&table).map(drop)
}

fn run(spec: &ExportSpec, path: &Path) -> Result<(Written, Summary), Error> {
    let input = Table::open(path)?;
    let _waiting = Waiting::new(&format!("writing {}", table::counted(input.rows(), "row")));
    let written = Export::of(&input, spec)?.write(&input)?;
    let summary = super::summary(&written, &spec.path)?;
    Ok((written, summary))
}

fn as_json(spec: &ExportSpec, written: &Written) -> String {
    let files: Vec<_> = written.parts.iter().map(|(name, _)| name).collect();
    let json = json!({
        "output": spec.path,
        "was_there": written.was_there,
        "rows_in": written.rows_in,
        "rows_out": written.rows_out,
        "files": files,
        "summary": written.summary,
    });
    format!("{json:#}\n")
}

fn as_text(spec: &ExportSpec, written: &Written, summary: &Summary) -> String {
    let rows = summary.arrays.iter().map(|array| {
        let shape = format!("{} x {}", table::count(written.rows_out), array.dim);
        vec![array.name.clone(), shape, array.element.clone(), array.column.clone()]
    });
    let table = table::table(&["array", "rows x length", "type", "column"], rows.collect(), &[1]);
    let there = if written.was_there { " (was there already; nothing was done)" } else { "" };
    format!(
        "{table}\n\n{}{} of {} rows, in {} of arrays with their rows beside them{there}\nOutput: {}\n",
        super::missing("without a vector, in none of the files", &summary.without),
        table::count(written.rows_out),
        table::count(written.rows_in),
        table::counted(summary.files as u64, "set"),
        spec.path.display(),
    )
}
