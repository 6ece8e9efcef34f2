//! `clipmill inspect`: what a Parquet file or a run's output holds.

use super::table;
use crate::analysis::inspect::Inspection;
use crate::cli::InspectArgs;
use crate::error::Error;
use crate::table::Table;

pub fn inspect(args: &InspectArgs) -> Result<(), Error> {
    let found = Inspection::of(&Table::open(&args.path)?, args.rows)?;
    let files = match found.files.as_slice() {
        [only] => only.display().to_string(),
        [first, .., last] => {
            format!("{} files, {} to {}", found.files.len(), first.display(), last.display())
        }
        [] => String::new(),
    };
    let mut text = format!("{files}\n{} rows\n", table::count(found.rows));
    if !found.statuses.is_empty() {
        let rows = found.statuses.iter().map(|(word, n)| vec![word.clone(), table::count(*n)]);
        text += &format!("\nStatus\n{}\n", table::table(&[], rows.collect(), &[1]));
    }
    let columns = found.columns.iter().map(|column| {
        let share = column.nulls as f64 * 100.0 / found.rows.max(1) as f64;
        let quantiles = column.quantiles.as_ref().map_or_else(String::new, |quantiles| {
            quantiles.map(|value| format!("{value:.4}")).join("  ")
        });
        vec![column.name.clone(), column.data_type.clone(), format!("{share:.1}%"), quantiles]
    });
    let header = ["column", "type", "null", "min  5%  25%  50%  75%  95%  max"];
    text += &format!("\nColumns\n{}\n", table::table(&header, columns.collect(), &[2]));
    if !found.sample.is_empty() {
        let header: Vec<_> = found.sample_header.iter().map(String::as_str).collect();
        let cells = |row: &Vec<String>| row.iter().map(|cell| table::one_line(cell, 40)).collect();
        let rows = found.sample.iter().map(cells).collect();
        text += &format!("\nFirst rows\n{}\n", table::table(&header, rows, &[]));
    }
    if !found.provenance.is_empty() {
        text += "\nMade with\n";
        for (key, value) in &found.provenance {
            text += &format!(" {key}\n   {}\n", value.trim_end().replace('\n', "\n   "));
        }
    }
    table::print(&text)
}
