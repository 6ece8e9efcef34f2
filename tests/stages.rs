//! What the run does when a stage fails, panics or ends early: the first cause is reported, what
//! was complete stays recorded, nothing incomplete is published and nobody waits for ever.
//!
//! The stages are fakes; `run.rs` tests the real ones.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use clipmill::batch::lists::UsedLists;
use clipmill::batch::{Captions, Embeddings, Pixels, Position, RowBatch};
use clipmill::encode::Inputs;
use clipmill::error::Error;
use clipmill::manifest::{MadeWith, Manifest};
use clipmill::model::pending::Pending;
use clipmill::model::{AtOnce, DualEncoder, Towers};
use clipmill::prepare::Prepare;
use clipmill::progress::{Meter, Progress};
use clipmill::run::{LoadModels, Stages, Stop, run};
use clipmill::sink::{ParquetSink, PartOptions, Published, Sink};
use clipmill::source::{InputFile, Part, Source};
use clipmill::spec::OnRowError;
use clipmill::write::{Output, OutputRows, PartWriter};
use parquet::file::metadata::KeyValue;

const PARTS: usize = 20;
const ROWS: u64 = 3;

/// What goes wrong, at the third part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    SourceError,
    SourcePanic,
    SourceEnds,
    SourceLosesRow,
    ModelError,
    ModelPanic,
    SinkError,
    SinkPublishError,
    Signal,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("x", DataType::UInt32, false)]))
}

fn failure(path: &str) -> Error {
    let source = std::io::Error::other("injected");
    Error::Io { action: "use", path: path.into(), source }
}

struct FakeSource {
    next: usize,
    fault: Fault,
    stop: Arc<Stop>,
}

impl Source for FakeSource {
    #[expect(clippy::panic, reason = "the panic is the fault")]
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        if self.next == 3 {
            match self.fault {
                Fault::SourceError => return Err(failure("source")),
                Fault::SourcePanic => panic!("injected"),
                Fault::SourceEnds => return Ok(None),
                Fault::Signal => self.stop.0.store(15, Ordering::Relaxed),
                _ => {}
            }
        }
        if self.next == PARTS {
            return Ok(None);
        }
        let position = Position { part: self.next, offset: 0, last: true };
        let lost = u64::from(self.next == 3 && self.fault == Fault::SourceLosesRow);
        self.next += 1;
        let values = UInt32Array::from_iter_values(0..(ROWS - lost) as u32);
        let rows = RecordBatch::try_new(schema(), vec![Arc::new(values)]).expect("a batch");
        Ok(Some(RowBatch { position, rows }))
    }
}

/// Fails when it is made: with no pixels and no captions nothing else is asked of it.
struct FakeModel;

impl DualEncoder for FakeModel {
    fn submit_image(&self, _: &Pixels) -> Result<Pending, Error> {
        Ok(Pending::Ready(Embeddings::default()))
    }

    fn submit_text(&self, _: &Captions) -> Result<Pending, Error> {
        Ok(Pending::Ready(Embeddings::default()))
    }

    fn submit_text_states(&self, _: &Captions) -> Result<Pending, Error> {
        Ok(Pending::Ready(Embeddings::default()))
    }

    fn at_once(&self) -> AtOnce {
        AtOnce { device: "fake".into(), images: None, tokens: None, halved: 0 }
    }

    fn logit_scale(&self) -> f32 {
        1.0
    }

    fn embedding_dim(&self) -> usize {
        1
    }
}

#[expect(clippy::panic, reason = "the panic is the fault")]
fn load_models(fault: Fault) -> LoadModels {
    Box::new(move || match fault {
        Fault::ModelError => Err(failure("model")),
        Fault::ModelPanic => panic!("injected"),
        _ => Ok(vec![Box::new(FakeModel) as Box<dyn DualEncoder>]),
    })
}

/// The real sink, with a fault at its third part.
struct FaultySink {
    sink: ParquetSink,
    fault: Fault,
    begun: usize,
}

impl Sink for FaultySink {
    fn begin(&mut self, file_name: &str, metadata: &[KeyValue]) -> Result<(), Error> {
        self.begun += 1;
        self.sink.begin(file_name, metadata)
    }

    fn write(&mut self, rows: &RecordBatch) -> Result<(), Error> {
        match self.fault {
            Fault::SinkError if self.begun == 3 => Err(failure("sink")),
            _ => self.sink.write(rows),
        }
    }

    fn publish(&mut self, about: String) -> Result<Published, Error> {
        match self.fault {
            Fault::SinkPublishError if self.begun == 3 => Err(failure("publish")),
            _ => self.sink.publish(about),
        }
    }
}

fn stages(dir: &Path, fault: Fault, stop: &Arc<Stop>) -> Stages<PartWriter> {
    let part = |index| {
        let start = index as u64 * ROWS;
        Part { index, number: index, input: 0, start, rows: ROWS }
    };
    let input = InputFile::of_columns(Path::new("in.parquet"), schema());
    let input = InputFile { rows: PARTS as u64 * ROWS, ..input.expect("a column") };
    let options = PartOptions {
        schema: schema(),
        declared: schema(),
        input: input.parquet.clone(),
        metadata: vec![],
    };
    let sink = ParquetSink::new(dir, options);
    Stages {
        source: Box::new(FakeSource { next: 0, fault, stop: stop.clone() }),
        prepare: Prepare { lists: UsedLists::default(), image: None, stored: None, caption: None },
        load_models: vec![load_models(fault)],
        inputs: vec![Inputs { towers: Towers::BOTH, pixels: 0, captions: 0 }],
        writer: PartWriter::new(
            Box::new(FaultySink { sink, fault, begun: 0 }),
            Output {
                dir: dir.to_owned(),
                rows: OutputRows {
                    schema: schema(),
                    columns: vec![],
                    on_row_error: OnRowError::Keep,
                },
                parts: (0..PARTS).map(part).collect(),
                keys: vec![String::new(); PARTS],
                inputs: vec![input],
                total_parts: PARTS,
                manifest: Manifest::new(MadeWith::new(), PARTS),
                follow: Box::new(|_| Ok(())),
                writes_manifest: true,
            },
        ),
        threads: 1,
    }
}

/// Runs with a fault and gives the outcome and the parts that are in the folder. Fails the test
/// when the run has not ended after 30 s.
fn outcome(fault: Fault) -> (Result<Manifest, Error>, usize) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().to_owned();
    let (tx, rx) = channel();
    std::thread::spawn(move || {
        let stop = Arc::new(Stop::default());
        let stages = stages(&path, fault, &stop);
        let meter = Arc::new(Meter::start());
        let mut progress = Progress::new(PARTS as u64 * ROWS, true);
        tx.send(run(stages, &meter, &mut progress, &stop)).expect("the test waits");
    });
    let outcome = rx.recv_timeout(Duration::from_secs(30));
    let outcome = outcome.unwrap_or_else(|_| unreachable!("{fault:?}: the run hangs"));
    let names = std::fs::read_dir(dir.path()).expect("a folder");
    let names: Vec<_> = names.map(|entry| entry.expect("an entry").file_name()).collect();
    let parts = names.iter().filter(|name| name.to_string_lossy().starts_with("part-")).count();
    let temporary = names.iter().any(|name| name.to_string_lossy().ends_with("tmp"));
    assert!(!temporary, "{fault:?} left a temporary file: {names:?}");
    let recorded = Manifest::read(dir.path()).expect("whole").map_or(0, |found| found.parts.len());
    assert_eq!(parts, recorded, "{fault:?}: every part that is there is recorded");
    (outcome, parts)
}

#[test]
fn without_a_fault_every_part_is_made() {
    let (outcome, parts) = outcome(Fault::None);
    assert_eq!(parts, PARTS);
    assert_eq!(outcome.expect("it ends well").statuses().len(), 1);
}

#[test]
fn a_failing_stage_is_what_the_run_reports() {
    for (fault, path, least) in [
        (Fault::SourceError, "source", 3),
        (Fault::ModelError, "model", 0),
        (Fault::SinkError, "sink", 2),
        (Fault::SinkPublishError, "publish", 2),
    ] {
        let (outcome, parts) = outcome(fault);
        let error = outcome.expect_err("a stage failed");
        assert!(matches!(&error, Error::Io { path: of, .. } if of == Path::new(path)), "{error}");
        assert_eq!(parts, least, "{fault:?}: what was complete before stays");
    }
}

#[test]
fn a_panicking_stage_is_named() {
    for (fault, name) in [(Fault::SourcePanic, "read"), (Fault::ModelPanic, "encode")] {
        let (outcome, _) = outcome(fault);
        let error = outcome.expect_err("a stage panicked");
        assert!(matches!(error, Error::StagePanicked { stage } if stage == name), "{error}");
    }
}

#[test]
fn a_source_that_ends_early_is_no_success() {
    let (outcome, parts) = outcome(Fault::SourceEnds);
    assert_eq!(parts, 3);
    outcome.expect_err("17 parts are missing");
}

#[test]
fn a_part_that_is_a_row_short_is_not_published() {
    let (outcome, parts) = outcome(Fault::SourceLosesRow);
    assert_eq!(parts, 3);
    let error = outcome.expect_err("a row is missing");
    assert!(matches!(error, Error::RowCount { expected: 3, found: 2, .. }), "{error}");
}

#[test]
fn a_signal_ends_the_run_with_its_number() {
    let (outcome, parts) = outcome(Fault::Signal);
    let error = outcome.expect_err("it was interrupted");
    assert_eq!(error.exit_code(), 143, "{error}");
    assert!(parts < PARTS);
}
