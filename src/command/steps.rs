//! What a pipeline does with its scores once all are there: `[label]`, `[cluster]`, `[dedup]`,
//! `[filter]`, `[search]`, `[report]`.
//!
//! They run in this order, whatever theirs in the file is, each over what the one before wrote.
//! Each is the command of its name; nothing is computed here.

use std::path::{Path, PathBuf};

use super::{cluster, dedup, filter, label, report, search};
use crate::error::{self, Error};
use crate::plan::Plan;
use crate::progress;
use crate::spec::{DeviceSpec, PipelineSpec, SinkSpec};

/// Does a step over a table; gives what the terminal shows.
type Work = Box<dyn Fn(&Path) -> Result<String, Error>>;

/// Does a step over a table without rows, the first path; writes to the second alone.
type Rehearsal = Box<dyn Fn(&Path, &Path) -> Result<(), Error>>;

/// A step: its section, where it writes a table, and what it does with its input.
struct Step<'a> {
    name: &'static str,
    output: Option<&'a Path>,
    work: Work,
    rehearsal: Rehearsal,
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

/// Does the steps over a table without rows that is otherwise as the run will write it, elsewhere, so
/// that what is wrong with a step is said before a long run and not after it.
///
/// # Errors
/// `Setting`, naming the step, for what it says is wrong.
pub fn rehearse(plan: &Plan) -> Result<(), Error> {
    let steps = steps(&plan.spec, false);
    if steps.is_empty() {
        return Ok(());
    }
    // Nowhere to try is no reason not to run.
    let Ok(dir) = tempfile::tempdir() else { return Ok(()) };
    let mut input = dir.path().join("scored");
    plan.write_empty(&input)?;
    for step in steps {
        let to = dir.path().join(step.name);
        (step.rehearsal)(&input, &to).map_err(|error| of_step(&step, error, dir.path(), plan))?;
        input = step.output.map_or(input, |_| to);
    }
    Ok(())
}

/// What a step said of the table without rows, said of the one that there will be.
fn of_step(step: &Step<'_>, error: Error, dir: &Path, plan: &Plan) -> Error {
    if error.exit_code() == 75 {
        return error;
    }
    let name = step.name;
    let (key, problem) = match error {
        // As the file says it, not the command line.
        Error::Setting { key, problem } => {
            (format!("{name}.{}", key.trim_start_matches("--").replace('-', "_")), problem)
        }
        other => (format!("[{name}]"), error::in_words(&other)),
    };
    let real = |problem: String, path: &Path, name: String| {
        problem.replace(&path.display().to_string(), &name)
    };
    let problem = real(problem, &dir.join("scored"), plan.output().display().to_string());
    Error::Setting { key, problem: real(problem, &dir.join(""), "the output of ".to_owned()) }
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

/// What a pipeline names is made with all that is above it, as its tables' folders are.
fn make_folder_of(file: &Path) -> Result<(), Error> {
    match file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        None => Ok(()),
        Some(dir) => std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir)),
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
    let mut add = |name, output, work: Work, rehearsal: Rehearsal| {
        let work = Box::new(move |input: &Path| {
            announce(name);
            work(input)
        });
        steps.push(Step { name, output, work, rehearsal });
    };
    if let Some(own) = &spec.label {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        let work = move |input: &Path| label::step(&changed, input, device);
        let (path, own) = (&*own.path, own.clone());
        let rehearsal = move |input: &Path, to: &Path| label::rehearse(&own, input, to);
        add("label", Some(path), Box::new(work), Box::new(rehearsal));
    }
    if let Some(own) = &spec.cluster {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        changed.device = or_the_runs(changed.device);
        let work = move |input: &Path| cluster::step(&changed, input);
        let (path, own) = (&*own.path, own.clone());
        let rehearsal = move |input: &Path, to: &Path| cluster::rehearse(&own, input, to);
        add("cluster", Some(path), Box::new(work), Box::new(rehearsal));
    }
    if let Some(own) = &spec.dedup {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        changed.device = or_the_runs(changed.device);
        let work = move |input: &Path| dedup::step(&changed, input);
        let (path, own) = (&*own.path, own.clone());
        let rehearsal = move |input: &Path, to: &Path| dedup::rehearse(&own, input, to);
        add("dedup", Some(path), Box::new(work), Box::new(rehearsal));
    }
    if let Some(own) = &spec.filter {
        let mut changed = own.clone();
        changed.overwrite |= overwrite;
        let work = move |input: &Path| {
            changed.uids.iter().try_for_each(|file| make_folder_of(file))?;
            filter::step(&changed, input)
        };
        let (path, own) = (&*own.path, own.clone());
        let rehearsal = move |input: &Path, to: &Path| filter::rehearse(&own, input, to);
        add("filter", Some(path), Box::new(work), Box::new(rehearsal));
    }
    if let Some(own) = &spec.search {
        let (own, tried) = (own.clone(), own.clone());
        let work = move |input: &Path| {
            own.html.iter().chain(&own.export).try_for_each(|file| make_folder_of(file))?;
            search::step(&own, input, device)
        };
        let rehearsal = move |input: &Path, _: &Path| search::rehearse(&tried, input);
        add("search", None, Box::new(work), Box::new(rehearsal));
    }
    if let Some(own) = &spec.report {
        let (own, tried) = (own.clone(), own.clone());
        let work = move |input: &Path| {
            make_folder_of(&own.out)?;
            report::step(&own, input)
        };
        let rehearsal = move |input: &Path, to: &Path| report::rehearse(&tried, input, to);
        add("report", None, Box::new(work), Box::new(rehearsal));
    }
    steps
}
