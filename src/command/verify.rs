//! `clipmill verify`: every part of an output against the digests that the folder records, of a run
//! in its manifest, of what else writes tables in `_made.json`.

use std::path::Path;

use super::table;
use crate::cli::VerifyArgs;
use crate::error::Error;
use crate::files;
use crate::manifest::{Manifest, PartRecord, SUCCESS};
use crate::source::find_files;
use crate::table::Written;

pub fn verify(args: &VerifyArgs) -> Result<(), Error> {
    let dir = &args.output;
    if let Some(made) = Written::read(dir)? {
        return verify_made(dir, &made);
    }
    let manifest = Manifest::read(dir)?.ok_or_else(|| Error::NotFound {
        what: "the manifest of",
        path: dir.clone(),
        hint: ": it is no output folder of clipmill".into(),
    })?;
    let mut problems = Vec::new();
    let there = files::list(dir)?;
    for (name, record) in &manifest.parts {
        if let Some(problem) = check(dir, name, (there.get(name), record))? {
            problems.push(format!("{name} {problem}"));
        }
    }
    for path in find_files(dir).unwrap_or_default() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !manifest.parts.contains_key(name.as_ref()) {
            problems.push(format!("{name} is not in the manifest"));
        }
    }
    let missing = manifest.n_parts.saturating_sub(manifest.parts.len());
    if missing > 0 {
        let of = manifest.n_parts;
        problems.push(format!("{} of {of} not made yet", table::counted(missing as u64, "part")));
    }
    match (missing == 0, there.contains_key(SUCCESS)) {
        (true, false) => problems.push(format!("{SUCCESS} is missing: run the pipeline again")),
        (false, true) => problems.push(format!("{SUCCESS} is there and parts are missing")),
        _ => {}
    }
    if !problems.is_empty() {
        return Err(Error::Verify { path: dir.clone(), problems });
    }
    let rows = manifest.parts.values().map(|part| part.rows_out).sum();
    let n_parts = manifest.parts.len() as u64;
    let (parts, rows) = (table::counted(n_parts, "part"), table::counted(rows, "row"));
    table::print(&format!("{}: {parts}, {rows}, every digest fits\n", dir.display()))
}

/// The same for a table that a command has written anew.
fn verify_made(dir: &Path, made: &Written) -> Result<(), Error> {
    let mut problems = Vec::new();
    for (name, digest) in &made.parts {
        let path = dir.join(name);
        match files::exists(&path)? {
            false => problems.push(format!("{name} is missing")),
            true if files::sha256(&path)? != *digest => {
                problems.push(format!("{name} does not have the recorded digest"));
            }
            true => {}
        }
    }
    if !files::exists(&dir.join(SUCCESS))? {
        problems.push(format!("{SUCCESS} is missing: `clipmill {}` has not ended", made.command));
    }
    if !problems.is_empty() {
        return Err(Error::Verify { path: dir.to_owned(), problems });
    }
    let parts = table::counted(made.parts.len() as u64, "part");
    let rows = table::counted(made.rows_out, "row");
    table::print(&format!("{}: {parts}, {rows}, every digest fits\n", dir.display()))
}

/// What is wrong with a part file that was found with some size, if anything.
fn check(
    dir: &Path,
    name: &str,
    (found, record): (Option<&Option<u64>>, &PartRecord),
) -> Result<Option<String>, Error> {
    Ok(match found {
        None => Some("is missing".to_owned()),
        Some(None) => Some("is no file".to_owned()),
        Some(Some(bytes)) if *bytes != record.bytes => {
            Some(format!("has {bytes} bytes, not {}", record.bytes))
        }
        Some(Some(_)) if files::sha256(&dir.join(name))? != record.sha256 => {
            Some("does not have the recorded digest".to_owned())
        }
        Some(Some(_)) => None,
    })
}
