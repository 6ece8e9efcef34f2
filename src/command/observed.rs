//! A run, or the end of one, while an observer follows it: what of plans and reports it is told.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::slice;

use super::signals::Signals;
use super::steps;
use crate::cli::ObserveArgs;
use crate::error::{Error, RowStatus};
use crate::log;
use crate::manifest::PartRecord;
use crate::observe::{Data, Made, Observer, Outlets, Planned, Size};
use crate::plan::{Plan, is_stream};
use crate::report::RunReport;
use crate::source::InputFile;
use crate::spec::SourceSpec;

/// Does a run's work, and has its end told, whatever it is.
///
/// # Errors
/// Those of the work, and of [`Observer::begin`].
pub fn observed(
    (pipeline, args, quiet): (&Path, &ObserveArgs, bool),
    signals: &Signals,
    work: impl FnOnce(&Observer) -> Result<(), Error>,
) -> Result<(), Error> {
    let ObserveArgs { metrics, lineage } = args.clone();
    if quiet {
        log::be_quiet();
    }
    let is_followed = metrics.is_some() || lineage.is_some();
    if is_followed {
        // Whoever hears of the beginning hears of the end.
        signals.hold();
    }
    let observer = Observer::begin(pipeline, Outlets { metrics, lineage })?;
    if is_followed {
        let (on_exit, on_signal) = (observer.sudden_end(), observer.sudden_end());
        log::at_exit(move |error| {
            // The caller has the code.
            let _ = on_exit(error.exit_code().into(), Some(error));
        });
        signals.tell(move |signal| on_signal(128 + signal, None))?;
    }
    let ended = work(&observer);
    observer.ends(&ended);
    ended
}

/// What a plan reads and writes.
pub fn planned(plan: &Plan) -> Planned {
    let (mut inputs, mut seen) = (Vec::new(), HashSet::new());
    for input in plan.inputs.iter().filter(|input| input.piped.is_none()) {
        let path = table(&plan.spec.source, input);
        if seen.insert(path.clone()) {
            inputs.push(Data { path, schema: Some(input.schema.clone()) });
        }
    }
    let own = Data { path: plan.output().to_owned(), schema: Some(plan.schema.clone()) };
    let own = Some(own).filter(|own| !is_stream(&own.path));
    let steps = steps::outputs(&plan.spec).into_iter().map(|path| Data { path, schema: None });
    Planned {
        rows: Some(plan.rows()),
        parts: Some(plan.parts.len() as u64),
        inputs,
        outputs: own.into_iter().chain(steps).collect(),
    }
}

/// The table that an input file is, or is of: as the pipeline names it, or else the folder that it is
/// in, above those that say `key=value`.
fn table(source: &SourceSpec, input: &InputFile) -> PathBuf {
    let named = match source {
        SourceSpec::Parquet(source) => source.path.0.as_slice(),
        SourceSpec::Webdataset(source) => source.path.0.as_slice(),
        SourceSpec::Folder(source) => slice::from_ref(&source.path),
    };
    let path = &input.path;
    let folder = path.ancestors().nth(1 + input.partitions.len());
    match folder.filter(|_| !named.contains(path)) {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => path.clone(),
    }
}

/// What a report says of the whole output, whose parts these are.
pub fn whole<'a>(report: &RunReport, parts: impl IntoIterator<Item = &'a PartRecord>) -> Made {
    Made {
        size: size(parts),
        rows: report.rows,
        failed: report.failed.clone(),
        scores: report.scores.clone(),
        is_whole: true,
    }
}

/// What some parts of an output are, made beside others.
pub fn share(parts: &[&PartRecord]) -> Made {
    let mut failed = BTreeMap::new();
    for (status, n) in parts.iter().flat_map(|part| &part.about.statuses) {
        *failed.entry(status.clone()).or_insert(0) += n;
    }
    let rows = failed.values().sum();
    failed.remove(RowStatus::Ok.as_str());
    Made { size: size(parts.iter().copied()), rows, failed, scores: Vec::new(), is_whole: false }
}

fn size<'a>(parts: impl IntoIterator<Item = &'a PartRecord>) -> Size {
    parts.into_iter().fold(Size::default(), |size, part| Size {
        rows: size.rows + part.rows_out,
        bytes: size.bytes + part.bytes,
        files: size.files + 1,
    })
}
