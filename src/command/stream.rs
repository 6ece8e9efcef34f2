//! `clipmill run` over pipes: an Arrow IPC stream as `--input -`, as `--output -`, or both.
//!
//! What is given on cannot be taken back or gone on with: there is no manifest, and a consumer knows
//! by the end marker and the exit code that it has all. Everything said goes to stderr.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use super::observed::planned;
use super::outcome::counts;
use super::run::{on, started};
use super::signals::Signals;
use super::{steps, table};
use crate::cli::RunArgs;
use crate::error::{Error, RowStatus};
use crate::hub::Hub;
use crate::log::Event;
use crate::observe::{Made, Observer, Planned, Size};
use crate::plan::{Plan, Spool, is_stdin};
use crate::progress::{Meter, Progress};
use crate::run::run as run_stages;
use crate::source::{ArrowStream, InputFile, Source, StreamSource};
use crate::spec::SinkSpec;
use crate::spec::layers::Layered;
use crate::write::Streamed;

/// Gives the rows on to stdout.
pub fn run(
    (args, signals, observer): (&RunArgs, &Signals, &Observer),
    layered: Layered,
) -> Result<(), Error> {
    refuse(args, "--output -")?;
    if steps::follow(&layered.spec) {
        let problem = "is done over a finished output: name a folder with --output, or remove it";
        return Err(wrong(steps::names(&layered.spec), problem));
    }
    let max_failed = layered.spec.run.max_failed;
    let hub = Hub::new(args.quiet);
    let stdout = open(io::stdout().as_fd(), io::stdout().is_terminal(), "stdout")?;
    let (mut plan, source) = match is_stdin(&layered.spec) {
        false => (Plan::resolve(layered, hub)?, None),
        true => {
            let (stream, limit) = (stdin()?, layered.spec.source.limit());
            let plan = Plan::over(layered, hub, Some(columns(&stream)?))?;
            let source = StreamSource::new(stream, plan.batch_size, limit);
            (plan, Some(Box::new(source) as Box<dyn Source>))
        }
    };
    plan.start_loading()?;
    let made_with = plan.made_with()?;
    let total = source.is_none().then(|| plan.rows());
    observer.plans(Planned { rows: total, parts: None, ..planned(&plan) });
    if !args.quiet {
        let rows = total.map_or("rows".to_owned(), |rows| table::counted(rows, "row"));
        let event = started(&plan, format!("{rows} to stdout; {}", on(&plan)));
        // Of a stream nobody knows how many there are.
        event.with("rows", total).with("parts", None::<u64>).with("output", "-").say();
    }
    let device = plan.runs_on();
    let (stages, _scratch) = plan.streaming(source, Box::new(stdout), &made_with)?;
    let (meter, mut progress) = (Arc::new(Meter::start()), Progress::new(total, args.quiet));
    observer.works(&meter);
    let done = signals.gently(|stop| run_stages(stages, &meter, &mut progress, stop))?;
    let Streamed { rows, mut statuses, no_text } = done;
    if no_text > 0 {
        let values = table::counted(no_text, "value");
        Event::warning(format!("{values} of text that is not UTF-8 became null")).say();
    }
    let ok = statuses.remove(RowStatus::Ok.as_str()).unwrap_or(0);
    let (size, failed) = (Size { rows, ..Size::default() }, statuses.clone());
    observer.made(Made { size, rows, failed, scores: Vec::new(), is_whole: true });
    if !args.quiet {
        let seconds = meter.elapsed().as_secs_f64();
        let per_second = rows as f64 / seconds.max(1e-9);
        Event::info(
            "finished",
            format!(
                "{}\n\n {} in {seconds:.1} s ({per_second:.1} rows/s) on {device}",
                counts(rows, ok, &statuses),
                table::counted(rows, "row"),
            ),
        )
        .say_in_text();
    }
    match max_failed.filter(|most| most.exceeded(rows - ok, rows)) {
        None => Ok(()),
        Some(most) => Err(Error::TooManyFailed {
            failed: rows - ok,
            rows,
            allowed: most.to_string(),
            output: "stdout".into(),
        }),
    }
}

/// What came on stdin, where a run into a folder reads that.
pub fn spool(args: &RunArgs, layered: &Layered) -> Result<Option<Spool>, Error> {
    if !is_stdin(&layered.spec) {
        return Ok(None);
    }
    if args.parts.is_some() || args.parts_of.is_some() {
        return Err(wrong("--parts".into(), "shares a table on disk: a stream is read once"));
    }
    if args.incremental {
        let problem = "follows files that come and change: a stream is another one each time";
        return Err(wrong("--incremental".into(), problem));
    }
    let stream = stdin()?;
    // What is wrong with the pipeline is said before the stream is read.
    let plan = Plan::over(layered.clone(), Hub::new(args.quiet), Some(columns(&stream)?))?;
    steps::rehearse(&plan)?;
    let SinkSpec::Parquet(sink) = &layered.spec.sink;
    Spool::read(stream, layered.spec.source.limit(), &sink.path).map(Some)
}

/// A plan over a stream of which the columns are known.
fn columns(stream: &ArrowStream<File>) -> Result<InputFile, Error> {
    InputFile::of_columns(Path::new("stdin"), stream.schema())
}

fn stdin() -> Result<ArrowStream<File>, Error> {
    let file = open(io::stdin().as_fd(), io::stdin().is_terminal(), "stdin")?;
    ArrowStream::open(Path::new("stdin"), file)
}

fn open(file: BorrowedFd<'_>, is_terminal: bool, name: &'static str) -> Result<File, Error> {
    if is_terminal {
        let problem = format!("{name} is a terminal: an Arrow stream goes through a pipe");
        return Err(wrong("-".into(), &problem));
    }
    file.try_clone_to_owned().map(File::from).map_err(Error::io("open", name))
}

/// Says of flags about what is on disk that there is nothing.
fn refuse(args: &RunArgs, by: &str) -> Result<(), Error> {
    let flags = [
        ("--parts", args.parts.is_some()),
        ("--parts-of", args.parts_of.is_some()),
        ("--incremental", args.incremental),
        ("--redo-changed", args.redo_changed),
        ("--retry-failed", args.retry_failed),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            Err(wrong(flag.into(), &format!("is about parts on disk: {by} writes none")))
        }
    }
}

fn wrong(key: String, problem: &str) -> Error {
    Error::Setting { key, problem: problem.to_owned() }
}
