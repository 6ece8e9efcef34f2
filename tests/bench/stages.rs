//! clipmill's own stages as workers of `bench.py`, each alone: nothing is read, written or run
//! beside it.
//!
//! `stages NAME DATA [PRECISION]` loads what it needs, prints `ready`, and for every line that it
//! reads does its work once and prints the seconds, as `peers.py` does. Whole runs are timed from
//! outside, by `bench.py`.

use std::fs::File;
use std::io::{Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use clipmill::batch::{Captions, Pixels};
use clipmill::error::Error;
use clipmill::images::Preprocess;
use clipmill::model::DualEncoder;
use clipmill::model::clip::Clip;
use clipmill::model::device::{self, Placement};
use clipmill::spec::{CaptionSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tch::{Device, Kind};

/// Rows a batch, as `peers.py` has them.
const BATCH: usize = 64;
const N_IMAGES: usize = 128;
const N_CAPTIONS: usize = 512;

fn main() {
    // `cargo bench` adds `--bench`.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let (name, data) = match args.as_slice() {
        [name, data, ..] => (name.as_str(), Path::new(data)),
        // Run without a task by `cargo bench`.
        _ => return println!("run `make bench`: tests/bench/bench.py calls this"),
    };
    let precision = args.get(2).map_or("f32", String::as_str);
    match name {
        "preprocess" => serve(preprocess(data)),
        "image" => serve(image_tower(data, precision)),
        "text" => serve(text_tower(data, precision)),
        "encode" => serve(both_towers(data, precision)),
        _ => eprintln!("no stage is called {name}"),
    }
}

/// Once to warm up, then once for every line.
fn serve(mut work: impl FnMut()) {
    let say = |line: String| {
        println!("{line}");
        stdout().flush().expect("the bench reads");
    };
    work();
    say("ready".into());
    for _ in stdin().lines() {
        let started = Instant::now();
        work();
        say(started.elapsed().as_secs_f64().to_string());
    }
}

fn model_dir(data: &Path) -> PathBuf {
    data.parent().expect("DATA is a folder beside the model").join("model")
}

/// The table's columns of paths and captions.
fn table(data: &Path) -> [Vec<String>; 2] {
    let file = File::open(data.join("table.parquet")).expect("the table is there");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("it is Parquet");
    let schema = builder.schema().clone();
    let batches: Vec<_> = builder.build().expect("it is whole").map(|b| b.expect("rows")).collect();
    let rows = concat_batches(&schema, &batches).expect("one schema");
    ["image_path", "caption"].map(|name| {
        let column = rows.column_by_name(name).expect("bench.py wrote it").as_string::<i32>();
        column.iter().map(|value| value.expect("no nulls").to_owned()).collect()
    })
}

/// Encoded bytes to u8 pixels, on one core.
fn preprocess(data: &Path) -> impl FnMut() {
    let preprocess = Preprocess::read(&model_dir(data), &PreprocessSpec::default());
    let preprocess = preprocess.expect("the model folder is whole");
    let [paths, _] = table(data);
    let read = |path: &String| std::fs::read(data.join(path)).expect("the photo is there");
    let photos: Vec<_> = paths.iter().map(read).collect();
    let mut pixels = vec![0; preprocess.n_bytes()];
    move || {
        for photo in &photos {
            preprocess.apply(photo, &mut pixels).1.expect("every photo is good");
        }
    }
}

/// The model on every core.
fn clip(data: &Path, precision: &str) -> Result<Clip, Error> {
    device::set_threads(std::thread::available_parallelism().map_or(1, usize::from));
    let kind = if precision == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let dir = model_dir(data);
    let scale = Preprocess::read(&dir, &PreprocessSpec::default())?.scale();
    Clip::load(&dir, scale, Placement { device: Device::Cpu, kind })
}

/// A batch of images. Any pixels do: speed does not depend on them.
fn pixels() -> Pixels {
    let side = 224;
    let noise = (0..BATCH * side * side * 3).map(|i| (i * i >> 7) as u8).collect();
    Pixels { data: noise, height: side, width: side, rows: (0..BATCH as u32).collect() }
}

fn image_tower(data: &Path, precision: &str) -> impl FnMut() {
    let clip = clip(data, precision).expect("the model loads");
    let pixels = pixels();
    move || {
        for _ in 0..N_IMAGES / BATCH {
            clip.encode_image(&pixels).expect("it fits");
        }
    }
}

fn text_tower(data: &Path, precision: &str) -> impl FnMut() {
    let clip = clip(data, precision).expect("the model loads");
    let tokenizer = Tokenizer::read(&model_dir(data), 77, &CaptionSpec::default());
    let tokenizer = tokenizer.expect("the model folder is whole");
    let [_, captions] = table(data);
    move || {
        for batch in captions[..N_CAPTIONS].chunks(BATCH) {
            let ids = batch.iter().map(|caption| tokenizer.encode(caption).expect("words").0);
            let captions = Captions { ids: ids.collect(), rows: (0..batch.len() as u32).collect() };
            clip.encode_text(&captions).expect("it fits");
        }
    }
}

/// All that the encode stage does in a run over the whole table, and nothing beside it.
fn both_towers(data: &Path, precision: &str) -> impl FnMut() {
    let clip = clip(data, precision).expect("the model loads");
    let tokenizer = Tokenizer::read(&model_dir(data), 77, &CaptionSpec::default());
    let tokenizer = tokenizer.expect("the model folder is whole");
    let pixels = pixels();
    let [_, captions] = table(data);
    let batches = captions.chunks(BATCH).map(|batch| {
        let ids = batch.iter().map(|caption| tokenizer.encode(caption).expect("words").0);
        Captions { ids: ids.collect(), rows: (0..batch.len() as u32).collect() }
    });
    let batches: Vec<_> = batches.collect();
    move || {
        for captions in &batches {
            clip.encode_image(&pixels).expect("it fits");
            clip.encode_text(captions).expect("it fits");
        }
    }
}
