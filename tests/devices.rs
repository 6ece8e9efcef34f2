//! What the run does with devices that work behind the host's back, and with several of them:
//! the next batch is there before the last one's results are read, rows keep their order, and a
//! slow device holds up memory no more than the plan says.
//!
//! The devices are fakes that write down when they are given work and when their results are
//! asked for. What a real GPU computes is tested in `towers.rs` where there is one.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Schema, SchemaRef};
use clipmill::batch::lists::UsedLists;
use clipmill::batch::{Captions, Embeddings, Pixels, Position, RowBatch};
use clipmill::columns::{Column, Lengths};
use clipmill::encode::Inputs;
use clipmill::error::Error;
use clipmill::manifest::{MadeWith, Manifest};
use clipmill::model::pending::Pending;
use clipmill::model::{AtOnce, DualEncoder, Towers};
use clipmill::prepare::{CaptionReader, CaptionStep, Prepare};
use clipmill::progress::{Meter, Progress};
use clipmill::run::{LoadModels, QUEUE, Stages, run};
use clipmill::sink::{ParquetSink, PartOptions};
use clipmill::source::{InputFile, Part, Source};
use clipmill::spec::{CaptionSpec, ColumnSpec, EmbeddingType, OnRowError};
use clipmill::text::Tokenizer;
use clipmill::write::{Output, OutputRows, PartWriter};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::common;

const BATCHES: usize = 60;
const ROWS: usize = 3;
const DIM: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Submitted { device: usize, batch: usize },
    Waited { device: usize, batch: usize },
}

type Log = Arc<Mutex<Vec<Event>>>;

/// A caption that says which batch and row it is of, in the sample tokenizer's digits.
fn caption(batch: usize, row: usize) -> String {
    format!("{batch} {row}")
}

struct FakeSource {
    next: usize,
    read: Arc<AtomicUsize>,
}

impl Source for FakeSource {
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        if self.next == BATCHES {
            return Ok(None);
        }
        let captions = (0..ROWS).map(|row| caption(self.next, row));
        let captions = StringArray::from_iter_values(captions);
        let rows = RecordBatch::try_new(input_schema(), vec![Arc::new(captions)]).expect("rows");
        let last = self.next + 1 == BATCHES;
        let position = Position { part: 0, offset: (self.next * ROWS) as u64, last };
        self.next += 1;
        self.read.fetch_add(1, Ordering::SeqCst);
        Ok(Some(RowBatch { position, rows }))
    }
}

/// Embeds a caption as a number of its ids, so that rows can be told apart.
fn embedding(ids: &[i64]) -> [f32; DIM] {
    let sum = ids.iter().enumerate().map(|(at, id)| (at as i64 + 1) * id).sum::<i64>();
    [sum as f32, ids.len() as f32]
}

struct FakeDevice {
    index: usize,
    log: Log,
    submitted: AtomicUsize,
    /// Batches that all devices have been given.
    given: Arc<AtomicUsize>,
    /// Batches that the source has read.
    read: Arc<AtomicUsize>,
    /// How long it waits for the next batch to be prepared.
    patience: Duration,
    /// How long giving it the batch takes, by how many were given to any device before.
    submit_time: fn(usize) -> Duration,
    /// How long after that its results are there, likewise.
    work_time: fn(usize) -> Duration,
}

impl FakeDevice {
    /// Until the next batch is sure to be in the devices' queue: so many are read that those
    /// which wait to be prepared, or are in a stage's hands, are not all that are left.
    fn wait_for_next(&self, order: usize) {
        let enough = (order + 2 + QUEUE + 2).min(BATCHES);
        let started = Instant::now();
        while self.read.load(Ordering::SeqCst) < enough && started.elapsed() < self.patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl DualEncoder for FakeDevice {
    fn submit_image(&self, _: &Pixels) -> Result<Pending, Error> {
        Ok(Pending::Ready(Embeddings::default()))
    }

    fn submit_text(&self, captions: &Captions) -> Result<Pending, Error> {
        let (device, batch) = (self.index, self.submitted.fetch_add(1, Ordering::SeqCst));
        self.log.lock().expect("no panic").push(Event::Submitted { device, batch });
        let order = self.given.fetch_add(1, Ordering::SeqCst);
        self.wait_for_next(order);
        std::thread::sleep((self.submit_time)(order));
        let data = captions.ids.iter().flat_map(|ids| embedding(ids)).collect();
        let embeddings = Embeddings { data, dim: DIM, rows: captions.rows.clone() };
        let (log, work_time) = (self.log.clone(), (self.work_time)(order));
        Ok(Pending::Later(Box::new(move || {
            log.lock().expect("no panic").push(Event::Waited { device, batch });
            std::thread::sleep(work_time);
            Ok(embeddings)
        })))
    }

    fn submit_text_states(&self, _: &Captions) -> Result<Pending, Error> {
        unreachable!("no column needs them")
    }

    fn logit_scale(&self) -> f32 {
        1.0
    }

    fn embedding_dim(&self) -> usize {
        DIM
    }

    fn at_once(&self) -> AtOnce {
        AtOnce { device: format!("fake:{}", self.index), images: None, tokens: None, halved: 0 }
    }
}

fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("caption", DataType::Utf8, false)]))
}

fn tokenizer() -> Tokenizer {
    let model = common::root().join("sample_data/model");
    Tokenizer::read(&model, 77, &CaptionSpec::default()).expect("the sample's tokenizer")
}

fn stages(dir: &Path, load_models: Vec<LoadModels>, read: &Arc<AtomicUsize>) -> Stages<PartWriter> {
    let lengths = Lengths { embedding: DIM, context: 1, text_width: 1 };
    let column = Column::new("embedding", ColumnSpec::TextEmbedding, EmbeddingType::F32, lengths);
    let caption = Field::new("caption", DataType::Utf8, false);
    let schema = Arc::new(Schema::new(vec![Arc::new(caption), column.field.clone()]));
    let rows = (BATCHES * ROWS) as u64;
    let input = InputFile::of_columns(Path::new("in.parquet"), input_schema());
    let input = InputFile { rows, ..input.expect("a column") };
    let options = PartOptions {
        schema: schema.clone(),
        declared: schema.clone(),
        input: input.parquet.clone(),
        metadata: vec![],
    };
    let reader = CaptionReader { tokenizer: tokenizer(), padded: false };
    let caption = CaptionStep { columns: vec!["caption".into()], tokenizers: vec![reader] };
    let towers = Towers { image: false, text: true, states: false };
    Stages {
        source: Box::new(FakeSource { next: 0, read: read.clone() }),
        prepare: Prepare {
            lists: UsedLists::default(),
            image: None,
            stored: None,
            caption: Some(caption),
        },
        load_models,
        inputs: vec![Inputs { towers, pixels: 0, captions: 0 }],
        writer: PartWriter::new(
            Box::new(ParquetSink::new(dir, options)),
            Output {
                dir: dir.to_owned(),
                rows: OutputRows { schema, columns: vec![column], on_row_error: OnRowError::Keep },
                parts: vec![Part { index: 0, number: 0, input: 0, start: 0, rows }],
                keys: vec![String::new()],
                inputs: vec![input],
                total_parts: 1,
                manifest: Manifest::new(MadeWith::new(), 1),
                follow: Box::new(|_| Ok(())),
                writes_manifest: true,
            },
        ),
        threads: 1,
    }
}

/// How long each of a device's batches takes to be given and to be done.
type Times = (fn(usize) -> Duration, fn(usize) -> Duration);

struct Outcome {
    events: Vec<Event>,
    meter: Arc<Meter>,
}

/// Runs on fake devices and makes sure that every row has the embedding of its own caption.
fn run_on(devices: &[Times], read: &Arc<AtomicUsize>, patience: Duration) -> Outcome {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let (log, given) = (Log::default(), Arc::new(AtomicUsize::new(0)));
    let load = |(index, &(submit_time, work_time)): (usize, &Times)| {
        let (log, given, submitted) = (log.clone(), given.clone(), AtomicUsize::new(0));
        let read = read.clone();
        let device =
            FakeDevice { index, log, submitted, given, read, patience, submit_time, work_time };
        Box::new(move || Ok(vec![Box::new(device) as Box<dyn DualEncoder>])) as LoadModels
    };
    let load_models = devices.iter().enumerate().map(load).collect();
    let stages = stages(dir.path(), load_models, read);
    let meter = Arc::new(Meter::start());
    let mut progress = Progress::new((BATCHES * ROWS) as u64, true);
    run(stages, &meter, &mut progress, &Arc::default()).expect("it ends well");
    check_rows(&dir.path().join("part-00000.parquet"));
    let events = log.lock().expect("no panic").clone();
    Outcome { events, meter }
}

fn check_rows(part: &Path) {
    let file = std::fs::File::open(part).expect("the part");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
    let tokenizer = tokenizer();
    let mut n = 0;
    for rows in reader.expect("it is whole") {
        let rows = rows.expect("it is whole");
        let captions = rows.column(0).as_string::<i32>();
        let embeddings = rows.column(1).as_fixed_size_list();
        for row in 0..rows.num_rows() {
            assert_eq!(captions.value(row), caption(n / ROWS, n % ROWS));
            let (ids, _) = tokenizer.encode(captions.value(row)).expect("digits");
            let found = embeddings.value(row);
            let found = found.as_primitive::<Float32Type>().values();
            assert_eq!(found.to_vec(), embedding(&ids), "row {n}");
            n += 1;
        }
    }
    assert_eq!(n, BATCHES * ROWS);
}

const NO_TIME: fn(usize) -> Duration = |_| Duration::ZERO;

#[test]
fn a_device_has_its_next_batch_before_the_last_ones_results_are_read() {
    let outcome = run_on(&[(NO_TIME, NO_TIME)], &Arc::default(), Duration::from_secs(20));
    let at = |wanted: Event| {
        let found = outcome.events.iter().position(|event| *event == wanted);
        found.unwrap_or_else(|| unreachable!("{wanted:?} did not happen"))
    };
    // Of the last ones, which are all read, nobody knows whether they are prepared as well.
    for batch in 0..BATCHES - 2 * QUEUE - 4 {
        let next = at(Event::Submitted { device: 0, batch: batch + 1 });
        let read = at(Event::Waited { device: 0, batch });
        assert!(next < read, "batch {batch} was read at {read}, the next given at {next}");
        let after = at(Event::Submitted { device: 0, batch: batch + 2 });
        assert!(read < after, "two batches are in flight at the most");
    }
}

#[test]
fn several_devices_share_one_queue_and_rows_keep_their_order() {
    let uneven: [Times; 3] = [
        (|_| Duration::from_millis(3), |order| Duration::from_millis((order * 7 % 5) as u64)),
        (|_| Duration::from_millis(4), |order| Duration::from_millis((order * 3 % 4) as u64)),
        (|_| Duration::from_millis(5), NO_TIME),
    ];
    let outcome = run_on(&uneven, &Arc::default(), Duration::ZERO);
    let submitted = outcome.events.iter().filter_map(|event| match event {
        Event::Submitted { device, .. } => Some(*device),
        Event::Waited { .. } => None,
    });
    let devices: BTreeSet<_> = submitted.clone().collect();
    assert_eq!(devices, BTreeSet::from([0, 1, 2]), "every device has work");
    assert_eq!(submitted.count(), BATCHES, "and no batch is given twice");
    let noted: Vec<_> = outcome.meter.devices().into_iter().map(|noted| noted.device).collect();
    assert_eq!(noted, ["fake:0", "fake:1", "fake:2"], "every device says what it took at once");
}

#[test]
fn a_device_that_cannot_be_loaded_ends_the_run_though_others_could_go_on() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let (read, log) = (Arc::new(AtomicUsize::new(0)), Log::default());
    let device = FakeDevice {
        index: 0,
        log: log.clone(),
        submitted: AtomicUsize::new(0),
        given: Arc::default(),
        read: read.clone(),
        patience: Duration::ZERO,
        submit_time: |_| Duration::from_millis(20),
        work_time: NO_TIME,
    };
    let broken = || Err(Error::Device { device: "fake:1".into(), problem: "is broken".into() });
    let load_models: Vec<LoadModels> = vec![
        Box::new(move || Ok(vec![Box::new(device) as Box<dyn DualEncoder>])),
        Box::new(broken),
    ];
    let stages = stages(dir.path(), load_models, &read);
    let mut progress = Progress::new((BATCHES * ROWS) as u64, true);
    let ended = run(stages, &Arc::new(Meter::start()), &mut progress, &Arc::default());
    let error = ended.expect_err("a device is broken");
    assert!(matches!(error, Error::Device { .. }), "{error}");
    let read = read.load(Ordering::SeqCst);
    assert!(read < BATCHES / 2, "{read} batches were read all the same");
    assert!(!dir.path().join("part-00000.parquet").exists(), "nothing incomplete is published");
}

#[test]
fn a_stuck_device_does_not_let_the_others_run_ahead_for_ever() {
    let read = Arc::new(AtomicUsize::new(0));
    let seen = Arc::new(AtomicUsize::new(0));
    let watch = std::thread::spawn({
        let (read, seen) = (read.clone(), seen.clone());
        move || {
            std::thread::sleep(Duration::from_millis(700));
            seen.store(read.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    });
    let stuck: Times = (|order| Duration::from_millis(if order == 0 { 1200 } else { 0 }), NO_TIME);
    run_on(&[stuck, stuck], &read, Duration::ZERO);
    watch.join().expect("no panic");
    // Rows that wait to be prepared, one being prepared, and the slots of two devices; one more
    // batch is in the reader's hand and one in the writer's.
    let most = QUEUE + 1 + (QUEUE + 2 * 2) + 2;
    let seen = seen.load(Ordering::SeqCst);
    assert!((4..=most).contains(&seen), "{seen} batches were read while the first was stuck");
    assert_eq!(read.load(Ordering::SeqCst), BATCHES);
}
