//! What a pipeline does with its scores once all are there: `[label]`, `[cluster]`, `[dedup]`,
//! `[filter]`, `[search]`, `[report]`.
//!
//! They run in this order, whatever theirs in the file is, each over what the one before wrote.
//! Each is the command of its name; nothing is computed here.

use std::path::{Path, PathBuf};

use super::{cluster, dedup, filter, label, report, search};
use crate::error::Error;
use crate::progress;
use crate::spec::{DeviceSpec, PipelineSpec, SinkSpec};

/// Does a step over a table; gives what the terminal shows.
type Work<'a> = Box<dyn Fn(&Path) -> Result<String, Error> + 'a>;

/// A step: its section, where it writes a table, and what it does with its input.
struct Step<'a> {
    name: &'static str,
    output: Option<&'a Path>,
    work: Work<'a>,
}

/// Does the pipeline's steps, the first over `scored`. Gives what the terminal shows. With
/// `overwrite`, outputs that were made by other settings are replaced.
pub fn run(spec: &PipelineSpec, scored: &Path, overwrite: bool) -> Result<String, Error> {
    let mut input = scored.to_owned();
    let mut said = String::new();
    for step in steps(spec, overwrite) {
        said += &format!("\n [{}] of {}\n", step.name, input.display());
        said += &(step.work)(&input)?;
        input = step.output.map_or(input, Path::to_owned);
    }
    Ok(said)
}

/// Makes sure that no two steps write to one folder, nor one to the run's.
///
/// # Errors
/// `Setting`, naming the step.
pub fn check(spec: &PipelineSpec) -> Result<(), Error> {
    let SinkSpec::Parquet(sink) = &spec.sink;
    let mut taken: Vec<(&str, PathBuf)> = vec![("sink.parquet", absolute(&sink.path)?)];
    for Step { name, output, .. } in steps(spec, false) {
        let Some(output) = output else { continue };
        let output = absolute(output)?;
        let other = taken.iter().find(|(_, other)| {
            // One within the other is as bad: a folder of parts holds nothing else.
            other.starts_with(&output) || output.starts_with(other)
        });
        if let Some((other, path)) = other {
            let (key, path) = (format!("{name}.path"), path.display());
            let problem = format!("is in the way of {other}'s {path}: name a folder of its own");
            return Err(Error::Setting { key, problem });
        }
        taken.push((name, output));
    }
    Ok(())
}

/// However it was typed. An empty one is found to be empty elsewhere.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    match path.as_os_str().is_empty() {
        true => Ok(PathBuf::new()),
        false => std::path::absolute(path).map_err(Error::io("find", path)),
    }
}

/// Says what comes next, for a step may take a while.
fn announce(name: &str) {
    progress::say(&format!("{name} …"));
}

fn steps(spec: &PipelineSpec, overwrite: bool) -> Vec<Step<'_>> {
    let device = spec.run.device;
    let or_the_runs = |own: DeviceSpec| if own == DeviceSpec::Auto { device } else { own };
    let mut steps = Vec::new();
    let mut add = |name, output, work: Work<'static>| {
        let work = Box::new(move |input: &Path| {
            announce(name);
            work(input)
        });
        steps.push(Step { name, output, work });
    };
    if let Some(own) = &spec.label {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        add("label", Some(&*own.path), Box::new(move |input| label::step(&changed, input, device)));
    }
    if let Some(own) = &spec.cluster {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        changed.device = or_the_runs(changed.device);
        add("cluster", Some(&*own.path), Box::new(move |input| cluster::step(&changed, input)));
    }
    if let Some(own) = &spec.dedup {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        changed.device = or_the_runs(changed.device);
        add("dedup", Some(&*own.path), Box::new(move |input| dedup::step(&changed, input)));
    }
    if let Some(own) = &spec.filter {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        add("filter", Some(&*own.path), Box::new(move |input| filter::step(&changed, input)));
    }
    if let Some(own) = &spec.search {
        let own = own.clone();
        add("search", None, Box::new(move |input| search::step(&own, input, device)));
    }
    if let Some(own) = &spec.report {
        let own = own.clone();
        add("report", None, Box::new(move |input| report::step(&own, input)));
    }
    steps
}
