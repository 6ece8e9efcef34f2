//! The staged run: four stages on their own threads, joined by bounded channels.
//!
//! ```text
//! read --RowBatch--> prepare --PreparedBatch--> encode, a thread a device --EncodedBatch--> write
//!                        `------ slots: where each batch will come out, in order ------->
//! ```
//!
//! Devices take batches from one queue, each as it is free. With every batch goes the sending end
//! of a slot of its own, whose receiving end goes to the writer, so batches are written in the
//! order in which they were prepared, and no more of them exist than there are slots.
//!
//! It knows the stages' traits, not what is behind them. A channel that closed early is never a
//! success: what the writer publishes, it publishes when all rows of it came through.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;

use crate::batch::{EncodedBatch, PreparedBatch, RowBatch};
use crate::encode::{InFlight, Inputs, submit};
use crate::error::Error;
use crate::model::DualEncoder;
use crate::prepare::Prepare;
use crate::progress::{Meter, Progress, Stage};
use crate::source::Source;
use crate::write::Writer;

/// Two: one being worked on, one ready. More only hides a slow stage behind memory.
pub const QUEUE: usize = 2;

/// How often a stage that waits looks whether it still should.
const TICK: Duration = Duration::from_millis(200);

/// How long an interrupted run waits for its stages before it leaves them behind.
const GRACE: Duration = Duration::from_secs(3);

/// The first stage's name.
const READ: &str = "read";

/// Makes the models of a device, on the thread that will own them.
pub type LoadModels = Box<dyn FnOnce() -> Result<Vec<Box<dyn DualEncoder>>, Error> + Send>;

/// Raised by a signal that asks the run to end. Holds the signal's number, 0 before.
#[derive(Debug, Default)]
pub struct Stop(pub Arc<AtomicUsize>);

impl Stop {
    /// The signal, if one came.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(signal as i32),
        }
    }
}

/// Everything that a run drives. `Plan::stages` makes it.
pub struct Stages<W> {
    pub source: Box<dyn Source>,
    pub prepare: Prepare,
    /// One a device; none when no column needs a model.
    pub load_models: Vec<LoadModels>,
    /// What each model is given.
    pub inputs: Vec<Inputs>,
    pub writer: W,
    /// Rayon threads of the prepare stage.
    pub threads: usize,
}

/// Runs all stages to the end and returns what the writer makes of a complete output.
///
/// On an error or an interruption the parts that were complete stay and are recorded.
pub fn run<W: Writer>(
    stages: Stages<W>,
    meter: &Arc<Meter>,
    progress: &mut Progress,
    stop: &Arc<Stop>,
) -> Result<W::Done, Error> {
    let Stages { source, prepare, load_models, inputs, mut writer, threads } = stages;
    let n_encoders = load_models.len().max(1);
    meter.set_encoders(n_encoders);
    let (row_tx, row_rx) = sync_channel(QUEUE);
    let (work_tx, work_rx) = sync_channel(QUEUE);
    // Those that wait for a device, and two a device: one in flight, one being submitted.
    let (slot_tx, slot_rx) = sync_channel(QUEUE + 2 * n_encoders);

    let abandoned = Arc::new(AtomicBool::new(false));
    let mut handles = Vec::new();
    let shared = || (meter.clone(), stop.clone());
    let (m, s) = shared();
    handles.push(spawn(READ, move || read_stage(source, &row_tx, &m, &s))?);
    let ((m, s), no_more) = (shared(), abandoned.clone());
    handles.push(spawn("prepare", move || {
        let wanted = || s.signal().is_none() && !no_more.load(Ordering::Relaxed);
        prepare_stage(&prepare, threads, (&row_rx, &slot_tx, &work_tx), (&m, &wanted))
    })?);
    let work_rx = Arc::new(Mutex::new(work_rx));
    let mut load_models = load_models.into_iter();
    for _ in 0..n_encoders {
        let ((m, s), work, load) = (shared(), work_rx.clone(), load_models.next());
        let inputs = inputs.clone();
        let leave = Leave { well: false, abandoned: abandoned.clone() };
        handles.push(spawn("encode", move || {
            let ended = encode_stage((load, &inputs), &Queue(work), (&m, &s));
            leave.after(&ended);
            ended
        })?);
    }
    // The encoders' alone: when they are gone, so is the queue.
    drop(work_rx);

    let written = write_stage(&mut writer, &slot_rx, (meter, stop, &abandoned), progress);
    // Closing the slots is what ends the other stages when this one stopped early; but who waits for
    // rows hears of it so.
    drop(slot_rx);
    abandoned.store(true, Ordering::Relaxed);
    let upstream = join(handles, stop);
    meter.stop();
    progress.finish();
    // The writer's own error first: the others then only saw their channel close.
    written?;
    upstream?;
    match stop.signal() {
        Some(signal) if !writer.is_complete() => Err(writer.interrupted(signal)),
        _ => writer.complete(),
    }
}

type Handle = (&'static str, JoinHandle<Result<(), Error>>);

fn spawn(
    name: &'static str,
    stage: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<Handle, Error> {
    let spawned = Builder::new().name(name.to_owned()).spawn(stage);
    spawned.map(|handle| (name, handle)).map_err(|source| Error::Thread { stage: name, source })
}

/// Waits for the stages, once nothing more is written, and returns the first error in the order of
/// the data.
fn join(handles: Vec<Handle>, stop: &Stop) -> Result<(), Error> {
    let deadline = Instant::now() + GRACE;
    let mut outcome = Ok(());
    for (stage, handle) in handles {
        // A device in the middle of a batch cannot be stopped; an interrupted run leaves it. Who
        // reads may wait for a pipe: when the stages after it have ended, nobody waits for that.
        let leave = || stop.signal().is_some() || stage == READ;
        while leave() && !handle.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if leave() && !handle.is_finished() {
            continue;
        }
        let ended = handle.join().unwrap_or(Err(Error::StagePanicked { stage }));
        outcome = outcome.and(ended);
    }
    outcome
}

/// Tells the stages before when a device leaves in an error or a panic: the others must not go on
/// for hours before anybody hears of it.
struct Leave {
    well: bool,
    abandoned: Arc<AtomicBool>,
}

impl Leave {
    fn after(mut self, ended: &Result<(), Error>) {
        self.well = ended.is_ok();
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.well {
            self.abandoned.store(true, Ordering::Relaxed);
        }
    }
}

/// A prepared batch and where it comes out.
struct Task {
    batch: PreparedBatch,
    slot: SyncSender<EncodedBatch>,
}

/// Where batches come out, in the order of the rows.
type Slots = Receiver<Receiver<EncodedBatch>>;

/// The work of all devices.
struct Queue(Arc<Mutex<Receiver<Task>>>);

impl Queue {
    /// The next batch, or `None` after the last.
    fn next(&self) -> Option<Task> {
        // A thread that panicked while it waited has taken nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }

    /// The next batch if there is one now.
    fn next_now(&self) -> Option<Task> {
        let queue = match self.0.try_lock() {
            Ok(queue) => queue,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another device is waiting for one.
            Err(TryLockError::WouldBlock) => return None,
        };
        queue.try_recv().ok()
    }
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
    (rows, slots, work): (
        &Receiver<RowBatch>,
        &SyncSender<Receiver<EncodedBatch>>,
        &SyncSender<Task>,
    ),
    (meter, wanted): (&Meter, &dyn Fn() -> bool),
) -> Result<(), Error> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("prepare-{index}"))
        .build()
        .map_err(|error| Error::Thread {
            stage: "prepare",
            source: std::io::Error::other(error),
        })?;
    let mut ahead = Ahead { rows, prepare, wanted, announced: VecDeque::new() };
    while let Some(batch) = ahead.next()? {
        if !wanted() {
            break;
        }
        let batch = meter.time(Stage::Prepare, || pool.install(|| prepare.apply(batch)))?;
        // One: a device hands its batch over and goes on.
        let (slot, out) = sync_channel(1);
        if slots.send(out).is_err() || work.send(Task { batch, slot }).is_err() {
            break;
        }
    }
    Ok(())
}

/// The rows that were read, some of them announced before they are wanted: their images are on
/// their way while those of earlier batches are decoded.
struct Ahead<'a> {
    rows: &'a Receiver<RowBatch>,
    prepare: &'a Prepare,
    /// Whether anybody still wants batches.
    wanted: &'a dyn Fn() -> bool,
    announced: VecDeque<RowBatch>,
}

/// What rows may take that were announced, in bytes; one batch may be more.
const AHEAD_BYTES: usize = 128 << 20;

impl Ahead<'_> {
    /// The next batch, or `None` after the last.
    fn next(&mut self) -> Result<Option<RowBatch>, Error> {
        if self.announced.is_empty() {
            let Some(batch) = self.receive() else { return Ok(None) };
            self.announce(batch)?;
        }
        while self.has_room() {
            let Ok(batch) = self.rows.try_recv() else { break };
            self.announce(batch)?;
        }
        Ok(self.announced.pop_front())
    }

    /// Waits for rows, which a pipe may never give, as long as they are wanted.
    fn receive(&self) -> Option<RowBatch> {
        loop {
            match self.rows.recv_timeout(TICK) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Timeout) if (self.wanted)() => {}
                Err(_) => return None,
            }
        }
    }

    fn announce(&mut self, batch: RowBatch) -> Result<(), Error> {
        self.prepare.announce(&batch)?;
        self.announced.push_back(batch);
        Ok(())
    }

    fn has_room(&self) -> bool {
        let rows = || self.announced.iter().map(|batch| &batch.rows);
        // The first is about to be applied.
        rows().skip(1).map(RecordBatch::num_rows).sum::<usize>() < self.prepare.ahead()
            && rows().map(RecordBatch::get_array_memory_size).sum::<usize>() < AHEAD_BYTES
    }
}

fn encode_stage(
    (load, inputs): (Option<LoadModels>, &[Inputs]),
    queue: &Queue,
    (meter, stop): (&Meter, &Stop),
) -> Result<(), Error> {
    let models = load.map_or(Ok(Vec::new()), |load| load())?;
    let deliver = |(batch, slot): (InFlight, SyncSender<EncodedBatch>)| -> Result<bool, Error> {
        let batch = meter.time(Stage::Encode, || batch.finish())?;
        Ok(slot.send(batch).is_ok())
    };
    // The device has its next batch before the results of the last one are read: it never waits
    // for the host to look at them. A CPU is done when it has been given its batch.
    let mut in_flight: Option<(InFlight, SyncSender<EncodedBatch>)> = None;
    while stop.signal().is_none() {
        let work = match &in_flight {
            None => queue.next(),
            Some(_) => queue.next_now(),
        };
        let before = in_flight.take();
        if work.is_none() && before.is_none() {
            break;
        }
        if let Some(Task { batch, slot }) = work {
            let batch = meter.time(Stage::Encode, || submit(&models, inputs, batch))?;
            in_flight = Some((batch, slot));
        }
        let ready = in_flight.take_if(|(batch, _)| batch.is_ready());
        for done in [before, ready].into_iter().flatten() {
            if !deliver(done)? {
                return Ok(());
            }
        }
    }
    models.iter().for_each(|model| meter.note(model.at_once()));
    Ok(())
}

fn write_stage(
    writer: &mut impl Writer,
    slots: &Slots,
    (meter, stop, abandoned): (&Meter, &Stop, &AtomicBool),
    progress: &mut Progress,
) -> Result<(), Error> {
    let mut slot: Option<Receiver<EncodedBatch>> = None;
    while stop.signal().is_none() {
        let waited = match slot.take() {
            None => slots.recv_timeout(TICK).map(|next| slot = Some(next)),
            Some(waiting) => match waiting.recv_timeout(TICK) {
                Ok(batch) => {
                    let failed = meter.time(Stage::Write, || writer.write(&batch))?;
                    meter.add_rows(batch.given().num_rows() as u64, failed);
                    Ok(())
                }
                Err(error) => {
                    slot = Some(waiting);
                    Err(error)
                }
            },
        };
        if waited == Err(RecvTimeoutError::Disconnected) {
            break;
        }
        // A device has left in an error, and what comes before may wait for a pipe.
        if waited.is_err() && slot.is_none() && abandoned.load(Ordering::Relaxed) {
            break;
        }
        progress.update(meter);
    }
    Ok(())
}
