//! One file a subcommand. A command turns arguments into a plan or a query, and prints.

mod check;
mod cluster;
mod completions;
mod dedup;
mod doctor;
mod encoder;
mod export;
mod filter;
mod finalize;
mod gates;
mod inspect;
pub mod label;
mod models;
mod observed;
mod outcome;
mod pipeline;
mod plan;
mod preflight;
mod report;
mod run;
mod score;
pub mod search;
mod signals;
mod steps;
mod stream;
mod table;
mod transform;
mod try_images;
mod verify;
mod worker;

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::analysis::Reasons;
use crate::cli::Command;
use crate::error::Error;
use crate::store::is_url;
use crate::table::Written;

/// Does what the command line asks for.
pub fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Finalize(args) => finalize::finalize(&args),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Filter(args) => filter::filter(&args),
        Command::Export(args) => export::export(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Score(args) => score::score(&args),
        Command::Report(args) => report::report(&args),
        Command::Cluster(args) => cluster::cluster(&args),
        Command::Dedup(args) => dedup::dedup(&args),
        Command::Label(args) => label::label(&args),
        Command::Search(args) => search::search(&args),
        Command::Worker(args) => worker::worker(&args),
        Command::Transform(args) => transform::transform(args),
        Command::Models(args) => models::models(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Preflight => preflight::preflight(),
        Command::TryImages(args) => try_images::try_images(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}

/// Says what is wrong with the path of a file to be written, before anything is read for it.
///
/// # Errors
/// Those of [`check_file_name`], `NotFound` for a folder that is not there.
fn check_file(key: &str, out: &Path) -> Result<(), Error> {
    check_file_name(key, out)?;
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty() && !is_url(out));
    match dir.filter(|dir| !dir.is_dir()) {
        None => Ok(()),
        Some(dir) => {
            let hint = format!(": make it, or choose another with {key}");
            Err(Error::NotFound { what: "the folder of the file", path: dir.to_owned(), hint })
        }
    }
}

/// Says what is wrong with the name of a file to be written.
///
/// # Errors
/// `Setting` for what is no file's, or a table's.
fn check_file_name(key: &str, out: &Path) -> Result<(), Error> {
    let wrong = |problem: String| Err(Error::Setting { key: key.to_owned(), problem });
    let name = out.display();
    if key.ends_with("export") && is_url(out) {
        return wrong(format!("{name} is in a store, and the library writes to disks alone"));
    }
    if out.is_dir() || out.file_name().is_none() {
        return wrong(format!("{name} is a folder; name a file"));
    }
    if out.extension().is_some_and(|extension| extension == "parquet") {
        return wrong(format!("{name} is the name of a table, which would be replaced"));
    }
    Ok(())
}

/// What a command had to say of its output, as the folder keeps it.
fn summary<T: DeserializeOwned>(written: &Written, dir: &Path) -> Result<T, Error> {
    serde_json::from_value(written.summary.clone()).map_err(|error| Error::Manifest {
        path: dir.to_owned(),
        problem: format!("says of itself what cannot be read ({error}): remove it, or --overwrite"),
    })
}

/// `12 rows without WHAT: null 10, image_missing 2`, or nothing.
fn missing(what: &str, reasons: &Reasons) -> String {
    if reasons.rows() == 0 {
        return String::new();
    }
    let each = reasons
        .0
        .iter()
        .map(|(why, rows)| format!("{} {}", table::one_line(why, 40), table::count(*rows)));
    let each: Vec<_> = each.collect();
    format!("{} {what}: {}\n", table::counted(reasons.rows(), "row"), each.join(", "))
}
