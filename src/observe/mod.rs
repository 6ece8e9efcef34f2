//! What a run tells those who look after it while nobody watches: the last event of its log, a file
//! of metrics, lineage events.
//!
//! An [`Observer`] is told the plan, the meter, what was made and how it ended, as these become
//! known; `metrics` and `lineage` are pure functions from what is known to text. Nothing here
//! decides anything of the run: what cannot be told is a warning, once the run has begun.

mod lineage;
mod metrics;
mod post;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arrow::datatypes::SchemaRef;

use crate::analysis::summary::ScoreSummary;
use crate::error::{Error, in_words};
use crate::log::Event;
use crate::progress::Meter;
use crate::report::Work;
use lineage::Lineage;
use metrics::MetricsFile;

/// How often the metrics are written while a run is at work: a run that is stuck says so by numbers
/// that stay, one that was killed by a file that grows old.
const WRITE_EVERY: Duration = Duration::from_secs(15);

/// Who is told, besides the log.
#[derive(Debug, Clone, Default)]
pub struct Outlets {
    /// `--metrics`
    pub metrics: Option<PathBuf>,
    /// `--lineage`, a file or a URL.
    pub lineage: Option<String>,
}

/// What is known of a run.
#[derive(Debug, Clone)]
struct Known {
    /// The pipeline file's name without its ending: the job's name.
    pipeline: String,
    started: SystemTime,
    plan: Option<Planned>,
    meter: Option<Arc<Meter>>,
    made: Option<Made>,
    ended: Option<Ended>,
}

impl Known {
    /// A run of a pipeline file that begins now.
    fn of(pipeline: &Path) -> Self {
        Self {
            pipeline: pipeline.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            started: SystemTime::now(),
            plan: None,
            meter: None,
            made: None,
            ended: None,
        }
    }
}

/// What a plan says.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Rows that the whole plan reads, and parts that it writes; not known of a stream.
    pub rows: Option<u64>,
    pub parts: Option<u64>,
    pub inputs: Vec<Data>,
    /// The run's own, where it is a folder, then those of what is done with the scores.
    pub outputs: Vec<Data>,
}

/// A table that is read or written.
#[derive(Debug, Clone)]
pub struct Data {
    /// A file, a folder or a URL of a store.
    pub path: PathBuf,
    /// Where it is known before the table is there.
    pub schema: Option<SchemaRef>,
}

/// How large a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    pub rows: u64,
    pub bytes: u64,
    pub files: u64,
}

/// What is there once the stages are done: the whole output, or the parts that were asked for.
#[derive(Debug, Clone)]
pub struct Made {
    pub size: Size,
    /// Rows that it was made of; where those that failed are dropped, more than there are.
    pub rows: u64,
    /// Rows among them that are not ok, by status word.
    pub failed: BTreeMap<String, u64>,
    /// Empty where the parts are a share of an output.
    pub scores: Vec<ScoreSummary>,
    /// Whether that is the whole output.
    pub is_whole: bool,
}

impl Made {
    fn ok(&self) -> u64 {
        self.rows.saturating_sub(self.failed.values().sum())
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
struct Ended {
    at: SystemTime,
    exit_code: i32,
    /// Why, where it did not end well.
    error: Option<String>,
}

/// Who follows a run and tells of it.
pub struct Observer {
    shared: Arc<Shared>,
    /// Writes the metrics now and then.
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    known: Mutex<Known>,
    /// Notified when the run has ended.
    has_ended: Condvar,
    /// Held while anything is told; the end is told once, and last.
    telling: Mutex<()>,
    metrics: Option<MetricsFile>,
    lineage: Option<Lineage>,
}

impl Observer {
    /// Begins to follow a run of a pipeline file.
    ///
    /// # Errors
    /// `Setting` for an outlet that nothing can be written to, found out by writing to it; `Thread`.
    pub fn begin(pipeline: &Path, to: Outlets) -> Result<Self, Error> {
        let known = Known::of(pipeline);
        let lineage = to.lineage.as_deref().map(|to| Lineage::open(to, &known.pipeline));
        let metrics = to.metrics.map(|path| MetricsFile::begin(path, &known));
        let shared = Arc::new(Shared {
            known: Mutex::new(known),
            has_ended: Condvar::new(),
            telling: Mutex::default(),
            lineage: lineage.transpose()?,
            metrics: metrics.transpose()?,
        });
        let writer = shared.metrics.is_some().then(|| {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name("metrics".to_owned());
            let spawned = thread.spawn(move || shared.write_now_and_then(WRITE_EVERY));
            spawned.map_err(|source| Error::Thread { stage: "metrics", source })
        });
        Ok(Self { shared, writer: writer.transpose()? })
    }

    /// The plan is made, and work begins.
    pub fn plans(&self, plan: Planned) {
        let _telling = self.shared.telling();
        let known = {
            let mut known = self.shared.known();
            known.plan = Some(plan);
            known.clone()
        };
        if let (Some(lineage), None) = (&self.shared.lineage, &known.ended) {
            lineage.start(&known);
        }
    }

    /// The stages begin.
    pub fn works(&self, meter: &Arc<Meter>) {
        self.shared.known().meter = Some(meter.clone());
    }

    /// What was asked for is there.
    pub fn made(&self, made: Made) {
        self.shared.known().made = Some(made);
    }

    /// What tells of an end that no caller is there for: a signal, an error on another thread. Gives
    /// the exit code that was told: of two ends, the first one's.
    pub fn sudden_end(&self) -> impl Fn(i32, Option<&Error>) -> i32 + Send + 'static {
        let shared = self.shared.clone();
        move |exit_code, error| {
            let error = error.map_or_else(|| "interrupted".to_owned(), in_words);
            shared.end(exit_code, Some(error))
        }
    }

    /// The run has ended.
    pub fn ends(self, how: &Result<(), Error>) {
        match how {
            Ok(()) => self.shared.end(0, None),
            Err(error) => self.shared.end(error.exit_code().into(), Some(in_words(error))),
        };
        if let Some(writer) = self.writer {
            // It has nothing left to write.
            let _ = writer.join();
        }
    }
}

impl Shared {
    /// Who panicked while it held the lock has left whole values.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_now_and_then(&self, every: Duration) {
        let Some(metrics) = &self.metrics else { return };
        loop {
            let known = self.known();
            if known.ended.is_some() {
                return;
            }
            drop(self.has_ended.wait_timeout(known, every));
            // The end's numbers are the last. A slow disk keeps nobody from noting what is known.
            let _telling = self.telling();
            let known = self.known().clone();
            if known.ended.is_some() {
                return;
            }
            metrics.write(&known);
        }
    }

    /// Tells of the end; gives the exit code that was told. Who comes second waits until that is done.
    fn end(&self, exit_code: i32, error: Option<String>) -> i32 {
        let _telling = self.telling();
        let known = {
            let mut known = self.known();
            if let Some(ended) = &known.ended {
                return ended.exit_code;
            }
            known.ended = Some(Ended { at: SystemTime::now(), exit_code, error });
            known.clone()
        };
        self.has_ended.notify_all();
        if let Some(metrics) = &self.metrics {
            metrics.write(&known);
        }
        if let Some(lineage) = &self.lineage {
            lineage.end(&known);
        }
        if let Some(made) = &known.made {
            finished(&known, made).say_in_json();
        }
        exit_code
    }
}

/// The last event of a run that made what it was asked for; text has it on stdout, as tables.
fn finished(known: &Known, made: &Made) -> Event {
    let work = known.meter.as_deref().map(Work::of);
    let (rows, seconds) = work.map_or((0, 0.0), |work| (work.rows, work.seconds));
    let took = known.ended.as_ref().and_then(|ended| ended.at.duration_since(known.started).ok());
    let output = known.plan.as_ref().and_then(|plan| plan.outputs.first());
    Event::info("finished", format!("{} of {} rows are ok", made.ok(), made.rows))
        .with("rows", made.rows)
        .with("ok", made.ok())
        .with("failed", &made.failed)
        .with("parts", made.size.files)
        .with("rows_now", rows)
        .with("rows_per_second", rows as f64 / seconds.max(1e-9))
        .with("seconds", took.unwrap_or_default().as_secs_f64())
        .with("output", output.map_or("-".into(), |data| data.path.to_string_lossy()))
}

/// Adds a line to a file, in one write: others may write to it, too.
fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_metrics_of_a_run_at_work_follow_it_and_its_end_is_the_last() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("job.prom");
        let known = Known::of(Path::new("pipelines/job.toml"));
        let metrics = MetricsFile::begin(path.clone(), &known).expect("written");
        let shared = Arc::new(Shared {
            known: Mutex::new(known),
            has_ended: Condvar::new(),
            telling: Mutex::default(),
            metrics: Some(metrics),
            lineage: None,
        });
        let writing = shared.clone();
        let thread =
            std::thread::spawn(move || writing.write_now_and_then(Duration::from_millis(5)));
        let says = |line: &str| {
            let text = std::fs::read_to_string(&path).expect("whole");
            text.lines().any(|found| found == line)
        };
        let meter = Arc::new(Meter::start());
        shared.known().meter = Some(meter.clone());
        for rows in [7, 14] {
            meter.add_rows(7, 1);
            let line = format!("clipmill_run_rows{{pipeline=\"job\",output=\"\"}} {rows}");
            let begun = Instant::now();
            while !says(&line) {
                assert!(begun.elapsed() < Duration::from_secs(30), "no {line}");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        shared.end(75, Some("the disk is full".to_owned()));
        // Who comes second tells nothing.
        shared.end(0, None);
        thread.join().expect("no panic");
        assert!(says("clipmill_run_exit_code{pipeline=\"job\",output=\"\"} 75"));
        assert!(says("clipmill_run_running{pipeline=\"job\",output=\"\"} 0"));
    }
}
