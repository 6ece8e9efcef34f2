//! clipmill's own stages as workers of `bench.py`, each alone: nothing is read, written or run
//! beside it.
//!
//! `stages preprocess DATA` or `stages towers DATA PRECISION` loads what it needs, prints `ready`,
//! and for every line `JOB N` that it reads does that job over N rows and prints the seconds, as
//! `peers.py` does. Whole runs are timed from outside, by `bench.py`.

use std::fs::File;
use std::io::{Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use clipmill::batch::{Captions, ImageShape, Pixels};
use clipmill::error::Error;
use clipmill::images::Preprocess;
use clipmill::model::device::{self, Placement};
use clipmill::model::{DualEncoder, ModelFiles, Towers};
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tch::{Device, Kind};

/// Rows a batch, as `peers.py` has them.
const BATCH: usize = 64;

fn main() {
    // `cargo bench` adds `--bench`.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["preprocess", data] => serve(preprocess(Path::new(data))),
        ["towers", data, precision] => serve(towers(Path::new(data), precision)),
        // Started by `cargo bench` alone.
        _ => println!("run `make bench`: tests/bench/bench.py calls this"),
    }
}

/// Does a job over a number of rows.
type Work = Box<dyn FnMut(&str, usize)>;

fn serve(mut work: Work) {
    let say = |line: String| {
        println!("{line}");
        stdout().flush().expect("the bench reads");
    };
    say("ready".into());
    for line in stdin().lines() {
        let line = line.expect("the bench writes");
        let (job, n) = line.split_once(' ').expect("`JOB N`");
        let n = n.parse().expect("a number of rows");
        let started = Instant::now();
        work(job, n);
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
fn preprocess(data: &Path) -> Work {
    let preprocess = Preprocess::read(&model_dir(data), &PreprocessSpec::default());
    let preprocess = preprocess.expect("the model folder is whole");
    let [paths, _] = table(data);
    let read = |path: &String| std::fs::read(data.join(path)).expect("the photo is there");
    let photos: Vec<_> = paths.iter().map(read).collect();
    let mut pixels = vec![0; preprocess.n_bytes()];
    Box::new(move |_, n| {
        for photo in &photos[..n] {
            preprocess.apply(photo, &mut pixels).1.expect("every photo is good");
        }
    })
}

/// The model on every core.
fn clip(data: &Path, precision: &str) -> Result<Box<dyn DualEncoder>, Error> {
    device::set_threads(std::thread::available_parallelism().map_or(1, usize::from));
    let kind = if precision == "bf16" { Kind::BFloat16 } else { Kind::Float };
    let dir = model_dir(data);
    let scale = Preprocess::read(&dir, &PreprocessSpec::default())?.scale();
    let placement = Placement { device: Device::Cpu, kind };
    ModelFiles::open(&ModelSpec::new(Family::Clip, &dir))?.load(Towers::BOTH, scale, placement)
}

/// A batch of images. Any pixels do for the speed, as long as no two images are the same: those
/// would be encoded once.
fn pixels() -> Pixels {
    let side = 224;
    let mut state = 7_u32;
    let noise = (0..BATCH * side * side * 3).map(|_| {
        // Numerical Recipes' generator; its upper bits do not repeat within a batch.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    let noise = noise.collect();
    let rows = (0..BATCH as u32).collect();
    Pixels { data: noise, shape: ImageShape::square(side), rows, ..Pixels::default() }
}

/// The towers over captions of the table, tokenizing counted, and over any images; and both as a
/// run's encode stage has them, with nothing beside it.
fn towers(data: &Path, precision: &str) -> Work {
    let clip = clip(data, precision).expect("the model loads");
    let tokenizer = Tokenizer::read(&model_dir(data), 77, &CaptionSpec::default());
    let tokenizer = tokenizer.expect("the model folder is whole");
    let pixels = pixels();
    let [_, captions] = table(data);
    let ids_of = move |batch: &[String]| {
        let ids = batch.iter().map(|caption| tokenizer.encode(caption).expect("words").0);
        Captions { ids: ids.collect(), rows: (0..batch.len() as u32).collect() }
    };
    let prepared: Vec<_> = captions.chunks(BATCH).map(&ids_of).collect();
    Box::new(move |job, n| {
        for batch in 0..n / BATCH {
            if job != "text" {
                clip.encode_image(&pixels).expect("it fits");
            }
            match job {
                "image" => {}
                "text" => {
                    let captions = ids_of(&captions[batch * BATCH..][..BATCH]);
                    clip.encode_text(&captions).expect("it fits");
                }
                _ => drop(clip.encode_text(&prepared[batch]).expect("it fits")),
            }
        }
    })
}
