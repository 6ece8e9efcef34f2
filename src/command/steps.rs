//! What a pipeline does with its scores once all are there: `[label]`, `[cluster]`, `[dedup]`,
//! `[filter]`, `[export]`, `[search]`, `[report]`.
//!
//! They run in this order, whatever theirs in the file is, each over what the one before wrote.
//! Each is the command of its name; nothing is computed here.

use std::path::{Path, PathBuf};

use super::{cluster, dedup, export, filter, label, report, search};
use crate::error::{self, Error};
use crate::files;
use crate::log::Event;
use crate::plan::Plan;
use crate::spec::filter::FilterSpec;
use crate::spec::{DeviceSpec, PipelineSpec, ReportSpec, SearchSpec, SinkSpec};
use crate::store::is_url;

/// Does a step over a table; gives what the terminal shows.
type Work = Box<dyn Fn(&Path) -> Result<String, Error>>;

/// Does a step over a table without rows, the first path; writes to the second alone.
type Rehearsal = Box<dyn Fn(&Path, &Path) -> Result<(), Error>>;

/// A step: its section, where it writes tables, and what it does with its input.
struct Step<'a> {
    name: &'static str,
    /// The first is the next step's input, where the step makes tables.
    outputs: Vec<&'a Path>,
    makes_tables: bool,
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
        input = step.next().map_or(input, Path::to_path_buf);
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
    let here = dir.path().display().to_string();
    match rehearse_in(dir.path(), plan, &steps) {
        Err(error) if is_the_disks(&error) && error::in_words(&error).contains(&here) => Ok(()),
        rehearsed => rehearsed,
    }
}

/// Whether an error is none of a step's settings.
fn is_the_disks(error: &Error) -> bool {
    matches!(error, Error::Io { .. }) || error.exit_code() == 75
}

fn rehearse_in(dir: &Path, plan: &Plan, steps: &[Step<'_>]) -> Result<(), Error> {
    let mut input = dir.join("scored");
    plan.write_empty(&input)?;
    for step in steps {
        step.outputs.iter().try_for_each(|output| files::check_writable(output))?;
        let to = dir.join(step.name);
        (step.rehearsal)(&input, &to).map_err(|error| of_step(step, error, dir, plan))?;
        input = step.next().map_or(input, |_| to);
    }
    Ok(())
}

/// What a step said of the table without rows, said of the one that there will be.
fn of_step(step: &Step<'_>, error: Error, dir: &Path, plan: &Plan) -> Error {
    if is_the_disks(&error) {
        return error;
    }
    let name = step.name;
    let (key, problem) = match error {
        Error::Setting { key, problem } if key == name => (format!("[{name}]"), problem),
        // The name of one of its settings.
        Error::Setting { key, problem } if key.chars().all(|c| c.is_alphabetic() || c == '_') => {
            (format!("{name}.{key}"), problem)
        }
        other => (format!("[{name}]"), error::in_words(&other)),
    };
    let real = |problem: String, path: &Path, name: String| {
        problem.replace(&path.display().to_string(), &name)
    };
    let problem = real(problem, &dir.join("scored"), plan.output().display().to_string());
    Error::Setting { key, problem: real(problem, &dir.join(""), "the output of ".to_owned()) }
}

/// Makes sure that no two steps write to one folder, no step to two, nor one to the run's.
///
/// # Errors
/// `Setting`, naming the step.
pub fn check(spec: &PipelineSpec) -> Result<(), Error> {
    let SinkSpec::Parquet(sink) = &spec.sink;
    let mut taken: Vec<(&str, PathBuf)> = vec![("sink.parquet", absolute(&sink.path)?)];
    let steps = steps(spec, false);
    for (name, output) in
        steps.iter().flat_map(|step| step.outputs.iter().map(|output| (step.name, *output)))
    {
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
    match file.parent().filter(|dir| !dir.as_os_str().is_empty() && !is_url(file)) {
        None => Ok(()),
        Some(dir) => std::fs::create_dir_all(dir).map_err(Error::io("create the folder", dir)),
    }
}

/// Says what comes next, for a step may take a while.
fn announce(name: &str) {
    Event::info("step", format!("{name} …")).with("step", name).say();
}

/// The tables that are made of the scores.
pub fn outputs(spec: &PipelineSpec) -> Vec<PathBuf> {
    let steps = steps(spec, false);
    steps.iter().flat_map(|step| &step.outputs).map(|path| path.to_path_buf()).collect()
}

/// Whether anything is done with the scores.
pub fn follow(spec: &PipelineSpec) -> bool {
    !steps(spec, false).is_empty()
}

/// The sections that say what, as in the file.
pub fn names(spec: &PipelineSpec) -> String {
    let names: Vec<_> = steps(spec, false).iter().map(|step| format!("[{}]", step.name)).collect();
    names.join(", ")
}

fn steps(spec: &PipelineSpec, overwrite: bool) -> Vec<Step<'_>> {
    let device = spec.run.device;
    let or_the_runs = |own: &mut DeviceSpec| {
        if *own == DeviceSpec::Auto {
            *own = device;
        }
    };
    let mut steps = Vec::new();
    if let Some(own) = &spec.label {
        let (outputs, mut own) = (vec![own.path.as_path()], own.clone());
        own.overwrite |= overwrite;
        let work = move |own: &_, input: &_| label::step(own, input, device);
        steps.push(Step::new("label", outputs, own, work, label::rehearse));
    }
    if let Some(own) = &spec.cluster {
        let (outputs, mut own) = (vec![own.path.as_path()], own.clone());
        own.overwrite |= overwrite;
        or_the_runs(&mut own.device);
        steps.push(Step::new("cluster", outputs, own, cluster::step, cluster::rehearse));
    }
    if let Some(own) = &spec.dedup {
        let (outputs, mut own) = (vec![own.path.as_path()], own.clone());
        own.overwrite |= overwrite;
        or_the_runs(&mut own.device);
        steps.push(Step::new("dedup", outputs, own, dedup::step, dedup::rehearse));
    }
    if let Some(own) = &spec.filter {
        let outputs = [&own.path].into_iter().chain(&own.rejected).map(PathBuf::as_path).collect();
        let mut own = own.clone();
        own.overwrite |= overwrite;
        let work = |own: &FilterSpec, input: &_| {
            own.uids.iter().try_for_each(|file| make_folder_of(file))?;
            filter::step(own, input)
        };
        steps.push(Step::new("filter", outputs, own, work, filter::rehearse));
    }
    if let Some(own) = &spec.export {
        let (outputs, mut own) = (vec![own.path.as_path()], own.clone());
        own.overwrite |= overwrite;
        let step = Step::new("export", outputs, own, export::step, export::rehearse);
        steps.push(Step { makes_tables: false, ..step });
    }
    if let Some(own) = &spec.search {
        let work = move |own: &SearchSpec, input: &_| {
            own.html.iter().chain(&own.export).try_for_each(|file| make_folder_of(file))?;
            search::step(own, input, device)
        };
        let rehearsal = |own: &_, input: &_, _: &_| search::rehearse(own, input);
        steps.push(Step::new("search", vec![], own.clone(), work, rehearsal));
    }
    if let Some(own) = &spec.report {
        let work = |own: &ReportSpec, input: &_| {
            make_folder_of(&own.out)?;
            report::step(own, input)
        };
        let own = own.clone();
        let SinkSpec::Parquet(sink) = &spec.sink;
        let outputs = steps.iter().flat_map(|step: &Step<'_>| step.outputs.iter().copied());
        let will_be = [&*sink.path]
            .into_iter()
            .chain(outputs)
            .any(|path| own.against.as_deref() == Some(path));
        let rehearsal = move |own: &ReportSpec, input: &_, to: &_| {
            // What the run makes may not be there yet.
            let against = own.against.clone().filter(|_| !will_be);
            report::rehearse(&ReportSpec { against, ..own.clone() }, input, to)
        };
        steps.push(Step::new("report", vec![], own, work, rehearsal));
    }
    steps
}

impl<'a> Step<'a> {
    fn new<S: Clone + 'static>(
        name: &'static str,
        outputs: Vec<&'a Path>,
        spec: S,
        work: impl Fn(&S, &Path) -> Result<String, Error> + 'static,
        rehearsal: impl Fn(&S, &Path, &Path) -> Result<(), Error> + 'static,
    ) -> Self {
        let tried = spec.clone();
        let work = move |input: &Path| {
            announce(name);
            work(&spec, input)
        };
        let rehearsal = move |input: &Path, to: &Path| rehearsal(&tried, input, to);
        let (work, rehearsal) = (Box::new(work), Box::new(rehearsal));
        Self { name, outputs, makes_tables: true, work, rehearsal }
    }

    /// What the next step reads, where it is not what this one read.
    fn next(&self) -> Option<&'a Path> {
        self.outputs.first().copied().filter(|_| self.makes_tables)
    }
}
