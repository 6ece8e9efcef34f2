//! `clipmill filter`: the rows of a scored table that rules keep, written anew.

use std::path::Path;

use super::table;
use crate::analysis::filter::{self, Filtered};
use crate::cli::FilterArgs;
use crate::error::Error;
use crate::spec::filter::{FilterColumns, FilterSpec};

pub fn filter(args: &FilterArgs) -> Result<(), Error> {
    let spec = spec(args)?;
    if args.json {
        let found = filter::filter(&spec, &args.input)?;
        let text = serde_json::to_string_pretty(&found).expect("it is plain data");
        return table::print(&format!("{text}\n"));
    }
    table::print(&step(&spec, &args.input)?)
}

/// Filters, and says what became of the rows.
pub fn step(spec: &FilterSpec, input: &Path) -> Result<String, Error> {
    Ok(describe(&filter::filter(spec, input)?))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `dir`.
pub fn rehearse(spec: &FilterSpec, input: &Path, dir: &Path) -> Result<(), Error> {
    spec.uids.iter().try_for_each(|uids| super::check_file_name("uids", uids))?;
    let beside = |name: &str| dir.with_file_name(format!("filter-{name}"));
    let spec = FilterSpec {
        path: dir.to_owned(),
        rejected: spec.rejected.as_ref().map(|_| beside("rejected")),
        uids: spec.uids.as_ref().map(|_| beside("uids.npy")),
        ..spec.clone()
    };
    filter::filter(&spec, input).map(drop)
}

fn spec(args: &FilterArgs) -> Result<FilterSpec, Error> {
    let mut columns = FilterColumns::default();
    for column in &args.columns {
        let wrong = |problem: String| Error::Setting { key: "--map".into(), problem };
        let (role, name) = column
            .split_once('=')
            .ok_or_else(|| wrong(format!("\"{column}\" is not like caption=NAME")))?;
        columns.set(role, name.to_owned()).map_err(wrong)?;
    }
    Ok(FilterSpec {
        path: args.output.clone(),
        condition: args.condition.clone(),
        keep_top: args.keep_top,
        keep_quantile: args.keep_quantile,
        score: args.score.clone(),
        preset: args.preset,
        columns,
        rejected: args.rejected.clone(),
        uids: args.uids.clone(),
        overwrite: args.overwrite,
    })
}

fn describe(found: &Filtered) -> String {
    let mut rows = vec![vec!["all rows".into(), table::count(found.rows_in), String::new()]];
    for step in &found.funnel.funnel {
        let lost = match step.rejected {
            0 => String::new(),
            n => format!("-{}", table::count(n)),
        };
        rows.push(vec![table::one_line(&step.keeps, 60), table::count(step.rows), lost]);
    }
    let mut text = table::table(&["keeps", "rows", ""], rows, &[1, 2]);
    if !found.funnel.failed.0.is_empty() {
        let words = found.funnel.failed.0.iter().map(|(word, n)| {
            let word = table::one_line(word, 40);
            format!("{word} {}", table::count(*n))
        });
        text += &format!("\n\nfailed: {}", words.collect::<Vec<_>>().join(", "));
    }
    for note in &found.funnel.notes {
        text += &format!("\nnote: {note}");
    }
    let share = found.rows_out as f64 * 100.0 / found.rows_in.max(1) as f64;
    let kept = table::counted(found.rows_out, "row");
    let was_there = if found.was_there { " (complete already)" } else { "" };
    text += &format!("\n\n{}: {kept}, {share:.1}%{was_there}\n", found.output.display());
    if let Some((path, rows)) = &found.rejected {
        text += &format!("{}: {} rejected\n", path.display(), table::counted(*rows, "row"));
    }
    if let Some((path, rows)) = &found.uids {
        text += &format!("{}: {}\n", path.display(), table::counted(*rows, "uid"));
    }
    text
}
