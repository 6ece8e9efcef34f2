//! `clipmill worker`: parts of a job as they are asked for. Who hands them out, and what becomes of the
//! whole, is a scheduler's affair; rows never pass through it.
//!
//! One JSON object a line, in on stdin and out on stdout. A part is locked from when it is asked for
//! until it is there; one that is there already is only read.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::pipeline;
use super::run::{on, started, warn};
use super::signals::Signals;
use crate::cli::JobArgs;
use crate::error::{Error, RowStatus, in_words};
use crate::files::Lock;
use crate::hub::Hub;
use crate::manifest::PartRecord;
use crate::plan::{Allowed, Plan, Wanted, is_stream, published};
use crate::progress::{Meter, Progress};
use crate::run::run as run_stages;
use crate::source::Part;
use crate::spec::SinkSpec;
use crate::write::PartEvent;

/// Parts that wait for the one that is worked on: asked for, locked, and perhaps read already.
const AHEAD: usize = 1;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    part: usize,
}

pub fn worker(args: &JobArgs) -> Result<(), Error> {
    let at = Arc::new(Mutex::new(None));
    work(args, &at).inspect_err(|error| {
        let (part, code, why) = (*locked(&at), error.exit_code(), in_words(error));
        // Nobody may be left to hear of it; the exit code tells.
        let failed = json!({ "event": "failed", "part": part, "error": why, "exit_code": code });
        let _ = tell(failed);
    })
}

fn work(args: &JobArgs, at: &Arc<Mutex<Option<usize>>>) -> Result<(), Error> {
    let signals = Signals::listen()?;
    let layered = pipeline::read_layered(&args.pipeline, None)?;
    let SinkSpec::Parquet(sink) = &layered.spec.sink;
    if is_stream(&sink.path) {
        let problem = "is a stream, which has no parts: name a folder, or use `clipmill transform`";
        return Err(Error::Setting { key: "--output".into(), problem: problem.into() });
    }
    let mut plan = Plan::resolve(layered, Hub::new(args.quiet))?;
    plan.start_loading()?;
    let dir = plan.output().to_owned();
    let made_with = plan.made_with()?;
    plan.check_output(&made_with, Allowed::default())?;
    plan.check_shares()?;
    // Nobody's part is looked for yet; what dead processes were at is.
    let _share = Lock::take_parts(&dir, &[])?;
    let mut resume = plan.resume(&made_with, Wanted::of(&[]))?;
    if resume.is_changed {
        let _manifest = Lock::wait_for_manifest(&dir)?;
        resume.add_what_others_found(false)?;
        plan.claim_parts(&resume)?;
    }
    warn(&resume);
    if !args.quiet {
        started(&plan, on(&plan)).say();
    }
    let ready = json!({
        "event": "ready",
        "parts": plan.parts.len(),
        "rows": plan.rows(),
        "device": plan.device_names(),
    });

    let (send, asked) = sync_channel(AHEAD);
    let open = Arc::new(AtomicUsize::new(0));
    let listener = Arc::new(Listener {
        dir,
        parts: plan.parts.clone(),
        keys: resume.keys.clone(),
        locks: Mutex::default(),
        open: open.clone(),
        failed: Mutex::default(),
    });
    let follow = {
        let (listener, at) = (listener.clone(), at.clone());
        Box::new(move |event: PartEvent<'_>| listener.follow(event, &at))
    };
    let stages = plan.stages_of_asked(resume, (asked, open), follow)?;
    tell(ready)?;
    let hearing = listener.clone();
    // It ends with stdin; when the run ends before, nobody waits for it.
    let heard = std::thread::Builder::new()
        .name("listen".to_owned())
        .spawn(move || hearing.listen(send))
        .map_err(|source| Error::Thread { stage: "listen", source })?;
    let meter = Arc::new(Meter::start());
    // Who asks draws the progress.
    let mut progress = Progress::new(None, true);
    signals.gently(|stop| run_stages(stages, &meter, &mut progress, stop))?;
    drop(heard);
    let failed = locked(&listener.failed).take();
    failed.map_or(Ok(()), |(part, error)| {
        *locked(at) = part;
        Err(error)
    })
}

/// What was asked for and is not done yet.
struct Listener {
    dir: PathBuf,
    parts: Vec<Part>,
    keys: Vec<String>,
    /// By part.
    locks: Mutex<HashMap<usize, Lock>>,
    open: Arc<AtomicUsize>,
    /// What could not be begun, and why: it ends the worker once what was begun is done.
    failed: Mutex<Option<(Option<usize>, Error)>>,
}

impl Listener {
    /// Hands parts on until stdin ends, or something is asked that cannot be done.
    fn listen(&self, asked: SyncSender<Part>) {
        for line in io::stdin().lock().lines() {
            let mut part = None;
            let ended = match self.take(line, &mut part) {
                Ok(None) => false,
                Ok(Some(part)) => {
                    self.open.fetch_add(1, Ordering::Relaxed);
                    asked.send(part).is_err()
                }
                Err(error) => {
                    *locked(&self.failed) = Some((part, error));
                    true
                }
            };
            if ended {
                return;
            }
        }
    }

    /// The part of a line, locked; none where it is there already.
    fn take(
        &self,
        line: io::Result<String>,
        at: &mut Option<usize>,
    ) -> Result<Option<Part>, Error> {
        let wrong = |problem: String| Error::Setting { key: "stdin".into(), problem };
        let line = line.map_err(|error| wrong(format!("cannot be read: {error}")))?;
        if line.trim().is_empty() {
            return Ok(None);
        }
        let Asked { part } = serde_json::from_str(&line)
            .map_err(|error| wrong(format!("{line:?} is not {{\"part\": N}}: {error}")))?;
        *at = Some(part);
        let n = self.parts.len();
        let found = self.parts.get(part).copied();
        let found = found.ok_or_else(|| {
            wrong(format!("there is no part {part}: the plan has {n}, from 0 on"))
        })?;
        if locked(&self.locks).contains_key(&part) {
            return Err(wrong(format!("asks for part {part} again, which is not done yet")));
        }
        let lock = Lock::take_parts(&self.dir, &[found.file_name()])?;
        if let Some(record) = published(&self.dir, found, &self.keys[part])? {
            tell(done(found, &record, true))?;
            return Ok(None);
        }
        locked(&self.locks).insert(part, lock);
        Ok(Some(found))
    }

    /// Tells what becomes of parts.
    fn follow(&self, event: PartEvent<'_>, at: &Mutex<Option<usize>>) -> Result<(), Error> {
        match event {
            PartEvent::Started(part) => {
                *locked(at) = Some(part.index);
                tell(json!({ "event": "started", "part": part.index, "rows": part.rows }))
            }
            PartEvent::Rows(part, rows) => {
                tell(json!({ "event": "rows", "part": part.index, "rows": rows }))
            }
            PartEvent::Done(part, record) => {
                *locked(at) = None;
                locked(&self.locks).remove(&part.index);
                tell(done(part, record, false))
            }
        }
    }
}

fn done(part: Part, record: &PartRecord, was_there: bool) -> Value {
    let ok = record.about.statuses.get(RowStatus::Ok.as_str()).copied().unwrap_or(0);
    json!({
        "event": "done",
        "part": part.index,
        "file": part.file_name(),
        "rows": record.about.rows_in,
        "failed": record.about.rows_in - ok.min(record.about.rows_in),
        "bytes": record.bytes,
        "sha256": record.sha256,
        "was_there": was_there,
    })
}

/// A line on stdout, at once.
///
/// # Errors
/// `Io` where nobody hears it: then nobody asks for anything more either.
fn tell(what: Value) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    let told = writeln!(stdout, "{what}").and_then(|()| stdout.flush());
    told.map_err(Error::io("write to", "stdout"))
}

/// Who panicked while it held the lock has left whole values.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
