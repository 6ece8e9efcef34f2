//! `clipmill dedup`: of rows that are alike, the best one.

use std::path::Path;

use serde_json::json;

use super::table;
use crate::analysis::dedup::{self, Summary};
use crate::cli::DedupArgs;
use crate::error::Error;
use crate::model::device;
use crate::progress::Waiting;
use crate::spec::{DedupSpec, PrecisionSpec};
use crate::table::{Table, Written};

pub fn dedup(args: &DedupArgs) -> Result<(), Error> {
    let spec = args.spec();
    table::print(&match args.json {
        true => as_json(&spec, &run(&spec, &args.input)?.0),
        false => step(&spec, &args.input)?,
    })
}

/// Does it as a step after a run; gives what the terminal shows.
pub fn step(spec: &DedupSpec, input: &Path) -> Result<String, Error> {
    let (written, summary) = run(spec, input)?;
    Ok(as_text(spec, &written, &summary))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `dir`.
pub fn rehearse(spec: &DedupSpec, input: &Path, dir: &Path) -> Result<(), Error> {
    let spec = DedupSpec { path: dir.to_owned(), ..spec.clone() };
    dedup::dedup(&Table::open(input)?, &spec, device(&spec)?).map(drop)
}

fn run(spec: &DedupSpec, path: &Path) -> Result<(Written, Summary), Error> {
    let input = Table::open(path)?;
    let device = device(spec)?;
    let rows = table::counted(input.rows(), "row");
    let _waiting = Waiting::new(&format!("comparing {rows}"));
    let written = dedup::dedup(&input, spec, device)?;
    let summary = super::summary(&written, &spec.path)?;
    Ok((written, summary))
}

fn device(spec: &DedupSpec) -> Result<tch::Device, Error> {
    match spec.semantic {
        true => Ok(device::resolve(spec.device, PrecisionSpec::F32)?.placement.device),
        // Nothing is multiplied.
        false => Ok(tch::Device::Cpu),
    }
}

fn as_json(spec: &DedupSpec, written: &Written) -> String {
    let json = json!({
        "output": spec.path,
        "was_there": written.was_there,
        "rows_in": written.rows_in,
        "rows_out": written.rows_out,
        "summary": written.summary,
    });
    format!("{json:#}\n")
}

fn as_text(spec: &DedupSpec, written: &Written, summary: &Summary) -> String {
    let mut text = String::new();
    for likeness in &summary.likenesses {
        let found = table::counted(likeness.duplicates, "duplicate");
        let cells = likeness.cells.map_or_else(String::new, |cells| {
            format!(" within {}", table::counted(cells as u64, "cell"))
        });
        text += &format!("{} by {}: {found}{cells}\n", likeness.kind, likeness.column);
        text += &super::missing("without a value, like no other", &likeness.missing);
    }
    let groups = table::counted(summary.groups, "group");
    let (rows, twice) = (table::count(summary.rows), table::count(summary.duplicates));
    text += &format!("\n{twice} of {rows} rows are duplicates, in {groups}; ");
    text += &match &summary.score {
        Some(score) => format!("of each the highest {score} is kept\n"),
        None => "of each the first row is kept\n".to_owned(),
    };
    if !summary.largest.is_empty() {
        let row = |(row, size): &(u64, u64)| vec![row.to_string(), table::count(*size)];
        let rows = summary.largest.iter().map(row).collect();
        let table = table::table(&["largest: kept row", "rows"], rows, &[0, 1]);
        text += &format!("\n{table}\n\n");
    }
    let did = if spec.mark { "all marked" } else { "duplicates left out" };
    let there = if written.was_there { " (was there already; nothing was done)" } else { "" };
    let kept = table::counted(written.rows_out, "row");
    text + &format!("Output: {}: {kept}, {did}{there}\n", spec.path.display())
}
