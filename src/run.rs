//! The staged run: four stages on their own threads, joined by bounded channels.
//!
//! ```text
//! read --RowBatch--> prepare --PreparedBatch--> encode --EncodedBatch--> write (this thread)
//! ```
//!
//! It knows the stages' traits and the manifest, not what is behind them. A part is published
//! only when all its rows came through; a channel that closed early is never a success.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use crate::batch::{EncodedBatch, PreparedBatch, RowBatch};
use crate::columns::Column;
use crate::encode::encode;
use crate::error::{Error, RowStatus};
use crate::manifest::{Manifest, PartRecord};
use crate::model::DualEncoder;
use crate::prepare::Prepare;
use crate::progress::{Meter, Progress, Stage};
use crate::sink::Sink;
use crate::source::{Part, Source};
use crate::spec::OnRowError;

/// Two: one being worked on, one ready. More only hides a slow stage behind memory.
const QUEUE: usize = 2;

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
    pub sink: Box<dyn Sink>,
    pub output: Output,
    /// Rayon threads of the prepare stage.
    pub threads: usize,
}

/// What the write stage needs to know of the plan.
pub struct Output {
    pub dir: PathBuf,
    pub schema: SchemaRef,
    pub columns: Vec<Column>,
    pub on_row_error: OnRowError,
    /// The parts that this run makes.
    pub parts: Vec<Part>,
    /// The input file of each part's `input`, for messages.
    pub inputs: Vec<PathBuf>,
    /// Parts in the whole plan, those of earlier runs included.
    pub total_parts: usize,
    /// Updated after every part.
    pub manifest: Manifest,
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
    let Stages { source, prepare, load_model, sink, output, threads } = stages;

    let shared = || (meter.clone(), stop.clone());
    let (m, s) = shared();
    let reader = spawn("read", move || read_stage(source, &row_tx, &m, &s))?;
    let (m, s) = shared();
    let preparer = spawn("prepare", move || {
        prepare_stage(&prepare, threads, (&row_rx, &prepared_tx), &m, &s)
    })?;
    let (m, s) = shared();
    let encoder =
        spawn("encode", move || encode_stage(load_model, &prepared_rx, &encoded_tx, (&m, &s)))?;

    let mut writer = Writer { sink, output, open: None };
    let written = writer.run(&encoded_rx, meter, progress, stop);
    // Closing the last channel is what ends the other stages when this one stopped early.
    drop(encoded_rx);
    let upstream = join([("read", reader), ("prepare", preparer), ("encode", encoder)], stop);
    progress.finish();
    if let Some(signal) = stop.signal() {
        return Err(writer.interrupted(signal));
    }
    // The writer's own error first: the others then only saw their channel close.
    written?;
    upstream?;
    writer.complete()
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
    load_model: Option<LoadModel>,
    prepared: &Receiver<PreparedBatch>,
    encoded: &SyncSender<EncodedBatch>,
    (meter, stop): (&Meter, &Stop),
) -> Result<(), Error> {
    let model = load_model.map(|load| load()).transpose()?;
    for batch in prepared {
        if stop.signal().is_some() {
            break;
        }
        let batch = meter.time(Stage::Encode, || encode(model.as_deref(), batch))?;
        if encoded.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}

/// The last stage: fills the columns, writes parts and records them.
struct Writer {
    sink: Box<dyn Sink>,
    output: Output,
    open: Option<OpenPart>,
}

/// The part that is being written.
struct OpenPart {
    part: Part,
    rows_in: u64,
    statuses: BTreeMap<String, u64>,
}

impl Writer {
    fn run(
        &mut self,
        encoded: &Receiver<EncodedBatch>,
        meter: &Meter,
        progress: &mut Progress,
        stop: &Stop,
    ) -> Result<(), Error> {
        while stop.signal().is_none() {
            match encoded.recv_timeout(Duration::from_millis(200)) {
                Ok(batch) => meter.time(Stage::Write, || self.write(&batch, meter))?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.update(meter);
        }
        Ok(())
    }

    fn write(&mut self, batch: &EncodedBatch, meter: &Meter) -> Result<(), Error> {
        let n_rows = batch.rows.num_rows();
        if self.open.is_none() {
            let parts = &self.output.parts;
            let part = *parts
                .iter()
                .find(|part| part.index == batch.position.part)
                .expect("the source gives the parts of this plan");
            self.sink.begin(&part.file_name())?;
            self.open = Some(OpenPart { part, rows_in: 0, statuses: BTreeMap::new() });
        }
        let open = self.open.as_mut().expect("opened above");
        let statuses: Vec<_> = (0..n_rows).map(|row| batch.status(row)).collect();
        let failed = statuses.iter().filter(|status| **status != RowStatus::Ok).count();
        if failed > 0 && self.output.on_row_error == OnRowError::Fail {
            return Err(first_failure(&self.output, open, batch));
        }
        for status in &statuses {
            *open.statuses.entry(status.to_string()).or_default() += 1;
        }
        let mut rows = self.output.fill(batch)?;
        if failed > 0 && self.output.on_row_error == OnRowError::Drop {
            let kept: BooleanArray =
                statuses.iter().map(|status| Some(*status == RowStatus::Ok)).collect();
            rows = filter_record_batch(&rows, &kept)
                .map_err(|source| Error::Arrow { action: "drop failed rows", source })?;
        }
        self.sink.write(&rows)?;
        open.rows_in += n_rows as u64;
        if batch.position.last {
            self.publish()?;
        }
        meter.add_rows(n_rows as u64, failed as u64);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), Error> {
        let OpenPart { part, rows_in, statuses } =
            self.open.take().expect("only called with an open part");
        let path = &self.output.inputs[part.input];
        if rows_in != part.rows {
            return Err(Error::RowCount {
                path: path.clone(),
                expected: part.rows,
                found: rows_in,
            });
        }
        let published = self.sink.publish()?;
        let record =
            PartRecord { rows_in, rows_out: published.rows, bytes: published.bytes, statuses };
        self.output.manifest.parts.insert(part.file_name(), record);
        self.output.manifest.write(&self.output.dir)
    }

    fn interrupted(&self, signal: i32) -> Error {
        Error::Interrupted {
            signal,
            complete: self.output.manifest.parts.len(),
            parts: self.output.total_parts,
            output: self.output.dir.clone(),
        }
    }

    /// All stages ended well: makes sure that every part is there.
    fn complete(self) -> Result<Manifest, Error> {
        let Output { parts, manifest, .. } = self.output;
        let missing = parts.iter().find(|part| !manifest.parts.contains_key(&part.file_name()));
        match missing {
            None => Ok(manifest),
            Some(_) => Err(Error::StagePanicked { stage: "write" }),
        }
    }
}

impl Output {
    /// The input's columns, unchanged, then the declared ones.
    fn fill(&self, batch: &EncodedBatch) -> Result<RecordBatch, Error> {
        let mut columns: Vec<ArrayRef> = batch.rows.columns().to_vec();
        columns.extend(self.columns.iter().map(|column| column.fill(batch)));
        let options = RecordBatchOptions::new().with_row_count(Some(batch.rows.num_rows()));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|source| Error::Arrow { action: "put the output columns together", source })
    }
}

fn first_failure(output: &Output, open: &OpenPart, batch: &EncodedBatch) -> Error {
    let row = (0..batch.rows.num_rows())
        .find(|row| batch.status(*row) != RowStatus::Ok)
        .expect("the caller counted a failure");
    Error::Row {
        path: output.inputs[open.part.input].clone(),
        row: open.part.start + batch.position.offset + row as u64,
        status: batch.status(row),
        message: batch.message(row).unwrap_or_default(),
    }
}

/// Sums the statuses of all parts, in the order in which reports list them.
pub fn count_statuses(manifest: &Manifest) -> Vec<(RowStatus, u64)> {
    let count = |status: RowStatus| {
        let parts = manifest.parts.values();
        parts.filter_map(|part| part.statuses.get(status.as_str())).sum()
    };
    RowStatus::ALL
        .map(|status| (status, count(status)))
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect()
}
