//! The staged run: four stages on their own threads, joined by bounded channels.
//!
//! ```text
//! read --RowBatch--> prepare --PreparedBatch--> encode --EncodedBatch--> write (this thread)
//! ```
//!
//! It knows the stages' traits and the manifest, not what is behind them. A part is published
//! only when all its rows came through; a channel that closed early is never a success.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::batch::{EncodedBatch, PreparedBatch, RowBatch};
use crate::encode::encode;
use crate::error::Error;
use crate::manifest::Manifest;
use crate::model::{DualEncoder, Towers};
use crate::prepare::Prepare;
use crate::progress::{Meter, Progress, Stage};
use crate::sink::Sink;
use crate::source::Source;
use crate::write::{Output, Writer};

/// Two: one being worked on, one ready. More only hides a slow stage behind memory.
pub const QUEUE: usize = 2;

/// How long an interrupted run waits for its stages before it leaves them behind.
const GRACE: Duration = Duration::from_secs(3);

/// Makes the model, on the thread that will own it.
pub type LoadModel = Box<dyn FnOnce() -> Result<Box<dyn DualEncoder>, Error> + Send>;

/// Raised by a signal that asks the run to end. Holds the signal's number, 0 before.
#[derive(Debug, Default)]
pub struct Stop(pub Arc<AtomicUsize>);

impl Stop {
    fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

/// Everything that a run drives. `Plan::stages` makes it.
pub struct Stages {
    pub source: Box<dyn Source>,
    pub prepare: Prepare,
    /// Absent when no column needs a model.
    pub load_model: Option<LoadModel>,
    /// The towers that columns need.
    pub towers: Towers,
    pub sink: Box<dyn Sink>,
    pub output: Output,
    /// Rayon threads of the prepare stage.
    pub threads: usize,
}

/// Runs all stages to the end and returns the manifest of the complete output.
///
/// On an error or an interruption the parts that were complete stay and are recorded.
pub fn run(
    stages: Stages,
    meter: &Arc<Meter>,
    progress: &mut Progress,
    stop: &Arc<Stop>,
) -> Result<Manifest, Error> {
    let (row_tx, row_rx) = sync_channel(QUEUE);
    let (prepared_tx, prepared_rx) = sync_channel(QUEUE);
    let (encoded_tx, encoded_rx) = sync_channel(QUEUE);
    let Stages { source, prepare, load_model, towers, sink, output, threads } = stages;

    let shared = || (meter.clone(), stop.clone());
    let (m, s) = shared();
    let reader = spawn("read", move || read_stage(source, &row_tx, &m, &s))?;
    let (m, s) = shared();
    let preparer = spawn("prepare", move || {
        prepare_stage(&prepare, threads, (&row_rx, &prepared_tx), &m, &s)
    })?;
    let (m, s) = shared();
    let encoder = spawn("encode", move || {
        encode_stage((load_model, towers), &prepared_rx, &encoded_tx, (&m, &s))
    })?;

    let mut writer = Writer::new(sink, output);
    let written = write_stage(&mut writer, &encoded_rx, (meter, stop), progress);
    // Closing the last channel is what ends the other stages when this one stopped early.
    drop(encoded_rx);
    let upstream = join([("read", reader), ("prepare", preparer), ("encode", encoder)], stop);
    progress.finish();
    // The writer's own error first: the others then only saw their channel close.
    written?;
    upstream?;
    match stop.signal() {
        Some(signal) if !writer.is_complete() => Err(writer.interrupted(signal)),
        _ => writer.complete(),
    }
}

fn spawn(
    name: &'static str,
    stage: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<JoinHandle<Result<(), Error>>, Error> {
    let spawned = Builder::new().name(name.to_owned()).spawn(stage);
    spawned.map_err(|source| Error::Thread { stage: name, source })
}

/// Waits for the stages and returns the first error in the order of the data.
fn join<const N: usize>(
    stages: [(&'static str, JoinHandle<Result<(), Error>>); N],
    stop: &Stop,
) -> Result<(), Error> {
    let deadline = Instant::now() + GRACE;
    let mut outcome = Ok(());
    for (stage, handle) in stages {
        // A device in the middle of a batch cannot be stopped; an interrupted run leaves it.
        while stop.signal().is_some() && !handle.is_finished() {
            if Instant::now() > deadline {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let ended = handle.join().unwrap_or(Err(Error::StagePanicked { stage }));
        outcome = outcome.and(ended);
    }
    outcome
}

fn read_stage(
    mut source: Box<dyn Source>,
    rows: &SyncSender<RowBatch>,
    meter: &Meter,
    stop: &Stop,
) -> Result<(), Error> {
    while stop.signal().is_none() {
        let Some(batch) = meter.time(Stage::Read, || source.next_batch())? else { break };
        if rows.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn prepare_stage(
    prepare: &Prepare,
    threads: usize,
    (rows, prepared): (&Receiver<RowBatch>, &SyncSender<PreparedBatch>),
    meter: &Meter,
    stop: &Stop,
) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("prepare-{index}"))
        .build()
        .map_err(|error| Error::Thread {
            stage: "prepare",
            source: std::io::Error::other(error),
        })?;
    for batch in rows {
        if stop.signal().is_some() {
            break;
        }
        let batch = meter.time(Stage::Prepare, || pool.install(|| prepare.apply(batch)))?;
        if prepared.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn encode_stage(
    (load_model, towers): (Option<LoadModel>, Towers),
    prepared: &Receiver<PreparedBatch>,
    encoded: &SyncSender<EncodedBatch>,
    (meter, stop): (&Meter, &Stop),
) -> Result<(), Error> {
    let model = load_model.map(|load| load()).transpose()?;
    for batch in prepared {
        if stop.signal().is_some() {
            break;
        }
        let batch = meter.time(Stage::Encode, || encode(model.as_deref(), towers, batch))?;
        if encoded.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

fn write_stage(
    writer: &mut Writer,
    encoded: &Receiver<EncodedBatch>,
    (meter, stop): (&Meter, &Stop),
    progress: &mut Progress,
) -> Result<(), Error> {
    while stop.signal().is_none() {
        match encoded.recv_timeout(Duration::from_millis(200)) {
            Ok(batch) => {
                let failed = meter.time(Stage::Write, || writer.write(&batch))?;
                meter.add_rows(batch.rows.num_rows() as u64, failed);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        progress.update(meter);
    }
    Ok(())
}
