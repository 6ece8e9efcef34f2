//! `clipmill run`: plan, drive the stages, write the report, show what came out.

use std::path::Path;
use std::sync::Arc;

use super::observed::{observed, planned, share, whole};
use super::outcome::{About, counts, summary};
use super::signals::Signals;
use super::{gates, pipeline, steps, stream, table};
use crate::cli::RunArgs;
use crate::error::{self, Error};
use crate::files::Lock;
use crate::hub::{Commit, Hub};
use crate::log::Event;
use crate::manifest::{MadeWith, Manifest};
use crate::observe::{Data, Observer, Planned};
use crate::plan::{Allowed, Growth, News, Plan, Resume, Seen, Spool, Wanted, is_stream};
use crate::progress::{Meter, Progress};
use crate::report::RunReport;
use crate::run::run as run_stages;
use crate::source::Part;
use crate::spec::layers::Override;
use crate::spec::{ExportLayout, PipelineSpec, SinkSpec};

pub fn run(args: &RunArgs) -> Result<(), Error> {
    let signals = Signals::listen()?;
    let who = (args.pipeline.pipeline.as_path(), &args.observe, args.quiet);
    observed(who, &signals, |observer| run_observed((args, &signals, observer)))
}

/// What every step of a run is given: what was asked for, what may end it, who follows it.
type Given<'a> = (&'a RunArgs, &'a Signals, &'a Observer);

fn run_observed(given: Given<'_>) -> Result<(), Error> {
    let (args, signals, observer) = given;
    let gates = asked_of_it(args);
    let layered = pipeline::read_layered(&args.pipeline, gates.clone())?;
    let layered = match args.also {
        None => layered,
        Some(layout) => {
            if layered.spec.export.is_some() {
                let problem = "the pipeline has an [export] of its own: leave one out";
                return Err(Error::Setting { key: "--also".into(), problem: problem.into() });
            }
            let more = gates.into_iter().chain(also(&layered.spec, layout));
            pipeline::read_layered(&args.pipeline, more)?
        }
    };
    let SinkSpec::Parquet(sink) = &layered.spec.sink;
    if is_stream(&sink.path) {
        return stream::run(given, layered);
    }
    // Before anything is read: what is written to from here on is new the next time.
    let seen = if args.incremental { Seen::look(&layered, Hub::new(args.quiet))? } else { None };
    if let Some(seen) = &seen
        && let Some(report) = nothing_new(given, seen, &sink.path)?
    {
        // The steps are done, too.
        return gates::check(&layered.spec, &report, &sink.path);
    }
    // It lives as long as it is read.
    let spool = stream::spool(args, &layered)?;
    let input = spool.as_ref().map(Spool::input);
    let mut plan = Plan::over(layered, Hub::new(args.quiet), input)?;
    let dir = plan.output().to_owned();
    let chosen = match (&args.parts, args.parts_of) {
        (Some(list), _) => Some(plan.chosen(&list.0)?),
        (None, Some(share)) => Some(plan.share(share.index, share.of)),
        (None, None) => None,
    };
    if chosen.is_none() {
        steps::rehearse(&plan)?;
    }
    if matches!(Manifest::read(&dir), Ok(None)) {
        // Nothing is done yet, so there is work for the model, and digesting it takes a while.
        plan.start_loading()?;
    }
    let made_with = plan.made_with()?;
    // Before the lock: a folder that is somebody else's is refused without a trace in it.
    plan.check_output(&made_with, allowed(args))?;
    observer.plans(planned(&plan));
    let (spec, parts) = (plan.spec.clone(), plan.parts.len());
    // A share is not the whole; `finalize` does what follows.
    if let Some(chosen) = chosen {
        plan.check_shares()?;
        let counts = run_parts(given, plan, &made_with, &chosen)?;
        return gates::failed(&spec, counts, &dir);
    }
    let (report, has_gone) = run_whole(given, plan, &made_with)?;
    match signals.raised() {
        Some(signal) if steps::follow(&spec) => {
            gates::check(&spec, &report, &dir)?;
            Err(Error::Interrupted { signal, complete: parts, parts, output: dir })
        }
        _ => {
            gates::check(&spec, &report, &dir)?;
            let is_replaced = args.redo_changed || args.retry_failed || args.incremental;
            say(args.quiet, &steps::run(&spec, &dir, is_replaced)?)?;
            if let Some(Err(error)) = seen.map(|seen| leave(seen, &report, &dir, has_gone)) {
                // All is done; the next run only takes longer to see it.
                Event::warning(error::in_words(&error)).say();
            }
            Ok(())
        }
    }
}

/// Leaves in the output how it looked, where it is still the one that this run has made.
fn leave(seen: Seen, report: &RunReport, dir: &Path, has_gone: bool) -> Result<(), Error> {
    let _lock = match Lock::take(dir) {
        Err(Error::Locked { .. }) => return Ok(()),
        lock => lock?,
    };
    match RunReport::read(dir)?.is_some_and(|found| found.is_of(report)) {
        true => seen.leave(dir, has_gone),
        false => Ok(()),
    }
}

/// The gates of the command line.
fn asked_of_it(args: &RunArgs) -> Vec<Override> {
    let failed = args
        .max_failed
        .map(|most| Override::flag("--max-failed", "run.max_failed", most.to_string()));
    let least = args
        .min_median_similarity
        .map(|least| Override::flag("--min-median-similarity", "run.min_median_similarity", least));
    let drift = args.max_drift.map(|most| Override::flag("--max-drift", "run.max_drift", most));
    failed.into_iter().chain(least).chain(drift).collect()
}

fn allowed(args: &RunArgs) -> Allowed {
    Allowed { redo_changed: args.redo_changed, grows: args.incremental }
}

/// The report of an output that looks as it did when it was complete, of an input that does, too.
fn nothing_new(
    (args, _, observer): Given<'_>,
    seen: &Seen,
    dir: &Path,
) -> Result<Option<RunReport>, Error> {
    if args.redo_changed || args.retry_failed || !seen.is_known(dir, args.prune)? {
        return Ok(None);
    }
    let _lock = Lock::take(dir)?;
    let report = match seen.is_known(dir, args.prune)? {
        true => RunReport::read(dir)?,
        false => None,
    };
    if let Some(report) = &report {
        let output = Data { path: dir.to_owned(), schema: None };
        let (rows, parts) = (Some(report.rows), Some(report.parts));
        observer.plans(Planned { rows, parts, inputs: Vec::new(), outputs: vec![output] });
        let manifest = Manifest::read(dir)?;
        observer.made(whole(report, manifest.iter().flat_map(|found| found.parts.values())));
        say(args.quiet, &format!("{} is complete, and nothing is new\n\n", dir.display()))?;
        say(args.quiet, &summary(report))?;
    }
    Ok(report)
}

/// What `--also` says of the pipeline.
fn also(spec: &PipelineSpec, layout: ExportLayout) -> [Override; 2] {
    let SinkSpec::Parquet(sink) = &spec.sink;
    // However it was typed, with a slash at its end or without.
    let output = sink.path.display().to_string();
    let path = format!("{}-{layout}", output.trim_end_matches('/'));
    let set = |key: &str, value: String| Override::flag("--also", key, value);
    [set("export.layout", layout.to_string()), set("export.path", path)]
}

/// Does whatever is left of the whole output. Returns its report, and whether it has parts of files
/// that are gone.
fn run_whole(
    (args, signals, observer): Given<'_>,
    mut plan: Plan,
    made_with: &MadeWith,
) -> Result<(RunReport, bool), Error> {
    let dir = plan.output().to_owned();
    let _lock = Lock::take(&dir)?;
    // Nobody adds to it from here on.
    plan.number_parts(args.incremental)?;
    let parts = plan.parts.clone();
    let wanted = wanted(args, &parts);
    let resume = plan.resume(made_with, wanted)?;
    warn(&resume);
    let has_gone = resume.manifest.n_parts > parts.len();
    let (report, manifest) = match RunReport::read(&dir)? {
        Some(report) if resume.is_complete() => {
            resume.forget_journals()?;
            // Missing only where a run was killed after its report.
            Manifest::mark_complete(&dir)?;
            say(args.quiet, &format!("{} is complete already: nothing to do\n\n", dir.display()))?;
            (report, resume.manifest)
        }
        _ => {
            plan.claim(&resume)?;
            let (about, meter) = (About::of(&plan), Arc::new(Meter::start()));
            let given = (args, signals, observer);
            let manifest = work_on(given, plan, resume, &meter, true)?;
            (about.publish(&manifest, &meter)?, manifest)
        }
    };
    observer.made(whole(&report, manifest.parts.values()));
    say(args.quiet, &summary(&report))?;
    Ok((report, has_gone))
}

/// Does some parts beside others who do theirs. Returns how many of their rows failed, and of how
/// many.
fn run_parts(
    (args, signals, observer): Given<'_>,
    plan: Plan,
    made_with: &MadeWith,
    parts: &[Part],
) -> Result<(u64, u64), Error> {
    let dir = plan.output().to_owned();
    let names: Vec<_> = parts.iter().map(Part::file_name).collect();
    let _locks = Lock::take_parts(&dir, &names)?;
    let wanted = wanted(args, parts);
    // Reading parts and trying images takes a while; the others need not wait for it.
    let mut resume = plan.resume(made_with, wanted)?;
    if resume.is_changed || !resume.remaining.is_empty() {
        let _manifest = Lock::wait_for_manifest(&dir)?;
        resume.add_what_others_found(args.redo_changed)?;
        plan.claim_parts(&resume)?;
    }
    warn(&resume);
    let of = plan.parts.len();
    let meter = Arc::new(Meter::start());
    let manifest = work_on((args, signals, observer), plan, resume, &meter, false)?;
    let records: Vec<_> = names.iter().map(|name| &manifest.parts[name]).collect();
    let made = share(&records);
    let (all, failed) = (made.rows, made.failed.values().sum());
    let done = format!(
        "{}\n\n {} done, of {of}, in {}; when all are, `clipmill finalize` ends the job\n",
        counts(all, all - failed, &made.failed),
        table::counted(names.len() as u64, "part"),
        dir.display()
    );
    observer.made(made);
    say(args.quiet, &done)?;
    Ok((failed, all))
}

fn wanted<'a>(args: &RunArgs, parts: &'a [Part]) -> Wanted<'a> {
    let RunArgs { redo_changed, retry_failed, .. } = *args;
    let growth = args.incremental.then_some(Growth { prune: args.prune });
    Wanted { parts, redo_changed, growth, retry_failed, check_all: false }
}

/// Does the parts that are left, if any. Returns the manifest with them.
fn work_on(
    (args, signals, observer): Given<'_>,
    plan: Plan,
    resume: Resume,
    meter: &Arc<Meter>,
    writes_manifest: bool,
) -> Result<Manifest, Error> {
    if resume.remaining.is_empty() {
        return Ok(resume.manifest);
    }
    announce(args, &plan, &resume);
    observer.works(meter);
    let rows: u64 = resume.remaining.iter().map(|part| part.rows).sum();
    let mut progress = Progress::new(rows, args.quiet);
    let stages = plan.stages(resume, writes_manifest)?;
    signals.gently(|stop| run_stages(stages, meter, &mut progress, stop))
}

/// Says what was found in the output folder that should not be there. Also when asked to be quiet:
/// it is no progress.
pub(super) fn warn(resume: &Resume) {
    resume.notes.iter().for_each(|note| Event::warning(note).say());
}

pub(super) fn say(quiet: bool, text: &str) -> Result<(), Error> {
    if quiet { Ok(()) } else { table::print(text) }
}

/// One line before the work, on stderr with the progress: what runs, on what.
fn announce(args: &RunArgs, plan: &Plan, resume: &Resume) {
    if args.quiet {
        return;
    }
    let is_done = |part: &&Part| resume.manifest.parts.contains_key(&part.file_name());
    let is_share = args.parts.is_some() || args.parts_of.is_some();
    let what = match (is_share, plan.parts.len() - resume.remaining.len()) {
        (true, _) => format!(", {} of them now", resume.remaining.len()),
        (false, 0) => String::new(),
        (false, n) => format!(", going on after {} complete", table::counted(n as u64, "part")),
    };
    if let Some(News { new, changed, gone }) = resume.news {
        let files = table::counted(new as u64, "file");
        let event = Event::info("news", format!("{files} new, {changed} changed, {gone} gone"));
        event.with("new", new).with("changed", changed).with("gone", gone).say();
    }
    for hub in plan.from_hub().filter(|hub| hub.spec.pinned().is_none()) {
        let event = Event::info("pinned", pinned(hub)).with("repo", hub.spec.repo());
        event.with("commit", &hub.commit).say();
    }
    let message = format!(
        "{} in {}{what}; {}",
        table::counted(plan.rows(), "row"),
        table::counted(plan.parts.len() as u64, "part"),
        on(plan)
    );
    started(plan, message)
        .with("parts_done", plan.parts.iter().filter(is_done).count())
        .with("parts_now", resume.remaining.len())
        .with_path("output", plan.output())
        .say();
}

/// What is said when the stages begin: the plan's rows and parts, and what it runs on.
pub(super) fn started(plan: &Plan, message: String) -> Event {
    Event::info("started", message)
        .with("rows", plan.rows())
        .with("parts", plan.parts.len())
        .with("device", plan.device_names())
        .with("precision", plan.precision())
        .with("batch_size", plan.batch_size)
        .with("threads", plan.threads)
}

/// What a plan runs on, in words.
pub(super) fn on(plan: &Plan) -> String {
    let threads = table::counted(plan.threads as u64, "CPU thread");
    format!("{}, batches of {}, {threads}", plan.runs_on(), plan.batch_size)
}

/// Which commit a model was taken at that may be another tomorrow.
pub(super) fn pinned(hub: &Commit) -> String {
    let (spec, commit) = (&hub.spec, &hub.commit);
    format!(
        "{} is at commit {commit} now ({}): `revision = \"{commit}\"` pins it",
        spec.repo(),
        spec.revision()
    )
}
