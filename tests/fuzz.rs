//! Bytes that nobody wrote, for every parser of strangers' bytes (`fuzz/targets.rs`): seeds, changed
//! at random for a while. A panic of clipmill's own code, a decoder's panic or an abort is a
//! failure; an error is what is asked for, also where the Parquet library panics and is contained.
//!
//! Two seconds a target in `make test`, a minute in `make fuzz` (`CLIPMILL_FUZZ`, in seconds). The
//! numbers are seeded, so a failure comes again. It does not look at which code was reached; for a
//! fuzzer that does, `CLIPMILL_FUZZ_SEEDS` has the seeds written into a folder.

mod targets;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, DictionaryArray, Int64Array, LargeBinaryArray, ListArray, RecordBatch, StringArray,
};
use arrow::datatypes::Int32Type;
use clipmill::digest;
use clipmill::manifest::{FILE_NAME, MadeWith, Manifest, PartAbout, PartRecord};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use targets::TARGETS;

use crate::common::{self, corpora, root, sample, scratch};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize >> 1
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() % n.max(1)
    }

    /// A seed with a few changes: bits, bytes that matter, runs removed, doubled or taken from
    /// another seed, an end cut off.
    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', 0xc0];
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let n = bytes.len();
            let at = self.below(n);
            let run = at..(at + 1 + self.below(16)).min(n);
            match self.below(7) {
                0 | 1 if n > 0 => bytes[at] ^= 1 << self.below(8),
                2 if n > 0 => bytes[at] = TELLING[self.below(TELLING.len())],
                3 => drop(bytes.drain(run)),
                4 => {
                    let copy = bytes[run].to_vec();
                    bytes.splice(at..at, copy);
                }
                5 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    let piece = &other[from..(from + self.below(64)).min(other.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// Calls a target with its seeds, which are all to be read unless `odd`, then with changed ones until
/// the time is over.
fn fuzz(name: &str, seeds: &[Vec<u8>], odd: &[Vec<u8>]) {
    let (_, target) = TARGETS.iter().find(|target| target.0 == name).expect("a target");
    let dir = scratch();
    for (index, seed) in seeds.iter().enumerate() {
        assert!(target(dir.path(), seed), "{name}: seed {index} is not read");
    }
    for seed in odd {
        target(dir.path(), seed);
    }
    let seeds = [seeds, odd].concat();
    if let Some(to) = std::env::var_os("CLIPMILL_FUZZ_SEEDS") {
        let to = Path::new(&to).join(name);
        fs::create_dir_all(&to).expect("a folder");
        for seed in &seeds {
            fs::write(to.join(digest::of_bytes(seed)), seed).expect("written");
        }
        return;
    }
    let given = std::env::var("CLIPMILL_FUZZ").ok().and_then(|seconds| seconds.parse().ok());
    let end = Instant::now() + Duration::from_secs(given.unwrap_or(2));
    let mut random = Random(0x5eed);
    let (mut n, mut read) = (0, 0);
    while Instant::now() < end {
        read += usize::from(target(dir.path(), &random.mutate(&seeds)));
        n += 1;
    }
    println!("{name}: {n} inputs from {} seeds, {read} read", seeds.len());
    assert!(n > 20, "{name}: only {n} inputs");
}

fn files(dir: &Path, extensions: &[&str]) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("one").path());
    let mut paths: Vec<_> = entries
        .filter(|path| extensions.iter().any(|e| path.extension().is_some_and(|found| found == *e)))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

/// Small files of a folder of others' files, where it is here: they may be of any kind.
fn others(folders: &[&str], extensions: &[&str], most: usize) -> Vec<Vec<u8>> {
    let mut found: Vec<_> = folders.iter().filter_map(|folder| corpora(folder)).collect();
    let mut bytes = Vec::new();
    for dir in found.drain(..) {
        bytes.extend(files(&dir, extensions).into_iter().filter(|file| file.len() <= most));
    }
    bytes
}

#[test]
fn pipeline_files() {
    fuzz("spec", &files(&root().join("pipelines"), &["toml"]), &[]);
}

#[test]
fn manifests() {
    let dir = scratch();
    let about = PartAbout {
        key: "k".into(),
        input: "i".into(),
        start: 0,
        rows_in: 3,
        statuses: [("ok".into(), 3)].into(),
    };
    let record = PartRecord { about, rows_out: 3, bytes: 100, sha256: "00".into() };
    let mut manifest = Manifest::new(MadeWith::from([("a".into(), "b".into())]), 1);
    manifest.write(dir.path()).expect("written");
    let empty = fs::read(dir.path().join(FILE_NAME)).expect("there");
    manifest.parts.insert("part-00000.parquet".into(), record);
    manifest.write(dir.path()).expect("written");
    fuzz("manifest", &[empty, fs::read(dir.path().join(FILE_NAME)).expect("there")], &[]);
}

#[test]
fn images() {
    // Of each extension the smallest, so that many are tried.
    let mut seeds = Vec::new();
    for extension in ["jpg", "png", "webp", "gif", "bmp", "tif"] {
        let mut of_kind = files(&sample().join("images"), &[extension]);
        of_kind.retain(|bytes| bytes.len() > 100);
        of_kind.sort_by_key(Vec::len);
        seeds.extend(of_kind.into_iter().take(3));
    }
    let folders = [
        "images/image-png/tests/pngsuite",
        "images/image-png/tests/pngsuite-extra",
        "images/image-png/tests/bugfixes",
        "images/jpeg-decoder/tests/reftest/images",
        "images/jpeg-decoder/tests/crashtest/images",
    ];
    // The sample has a few that are no images.
    let (good, mut odd): (Vec<_>, _) =
        seeds.into_iter().partition(|seed| targets::image(Path::new("unused"), seed));
    assert!(good.len() > 6 && odd.len() < 3, "{} good, {} odd", good.len(), odd.len());
    odd.extend(others(&folders, &["png", "jpg", "jpeg"], 8 << 10));
    fuzz("image", &good, &odd);
}

#[test]
fn captions() {
    let seeds =
        ["a photo of the moon", "<|endoftext|> 🌜🏽‍🚀 \u{202e}x", "ﬁ é 1,000.00 'll", "a\0\t\n"];
    let naughty = corpora("captions").map(|captions| {
        let text = fs::read_to_string(captions.join("blns/blns.txt")).expect("a file");
        text.lines().map(|line| line.as_bytes().to_vec()).collect::<Vec<_>>()
    });
    fuzz("caption", &seeds.map(|seed| seed.as_bytes().to_vec()), &naughty.unwrap_or_default());
}

#[test]
fn parquet_footers() {
    let mut seeds = files(&sample(), &["parquet"]);
    // Most of the changes should meet the footer.
    seeds.iter_mut().for_each(|seed| {
        seed.splice(4..seed.len().saturating_sub(4000).max(4), []);
    });
    fuzz("footer", &[], &[seeds, others_tables()].concat());
}

fn others_tables() -> Vec<Vec<u8>> {
    let folders = [
        "parquet/parquet-testing/data",
        "parquet/parquet-testing/bad_data",
        "parquet/arrow-testing",
    ];
    others(&folders, &["parquet"], 8 << 10)
}

/// Columns of every encoding that captions and paths come in, packed as `compression` says.
fn table(compression: Compression) -> Vec<u8> {
    let words = ["moon", "", "a photo of the sun", "moon", "é 🌜", "x"];
    let coded: DictionaryArray<Int32Type> = words.into_iter().collect();
    let numbers = [Some(1), None, Some(-3), Some(i64::MAX), None, Some(6)];
    let list = [Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(2)]), None, None];
    let columns: [(&str, ArrayRef); 5] = [
        ("text", Arc::new(StringArray::from(words.to_vec()))),
        ("coded", Arc::new(coded)),
        ("bytes", Arc::new(LargeBinaryArray::from_iter_values(words.map(str::as_bytes)))),
        ("number", Arc::new(Int64Array::from(numbers.to_vec()))),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(list))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .set_dictionary_enabled(compression != Compression::SNAPPY)
        .set_max_row_group_row_count(Some(4))
        .build();
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties));
    let mut writer = writer.expect("opened");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
    bytes
}

#[test]
fn parquet_rows() {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let mut seeds = [Compression::UNCOMPRESSED, Compression::SNAPPY, zstd].map(table).to_vec();
    seeds.extend(files(&sample(), &["parquet"]));
    fuzz("rows", &seeds, &others_tables());
}

#[test]
fn sealed_parts() {
    let dir = scratch();
    let output = dir.path().display().to_string();
    let args = ["run", "pipelines/sample.toml", "--limit", "3", "--output", &output];
    common::clipmill(args).ok();
    let part = fs::read(dir.path().join("part-00000.parquet")).expect("a part");
    // Where a seal should be there is no room for one.
    let mut cut = b"PAR1clipmill.sha256\x18\x40".to_vec();
    cut.extend([&(cut.len() as u32 - 4).to_le_bytes()[..], b"PAR1"].concat());
    fuzz("part", &[part], &[cut]);
}

/// The sample's weights, cut down to the shapes of `SMALL_CONFIG`.
fn small_weights(dtype: Dtype) -> Vec<u8> {
    let bytes = fs::read(sample().join("model/model.safetensors")).expect("the sample");
    let tensors = SafeTensors::deserialize(&bytes).expect("weights");
    let is_kept = |name: &str| !name.contains(".layers.") || name.contains(".layers.0.");
    let small = |side: &usize| match side {
        128 => 4,
        512 => 6,
        3072 => 8,
        32 | 37 => 5,
        8 => 2,
        other => *other,
    };
    let shapes: Vec<(String, Vec<usize>)> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| is_kept(name))
        .map(|(name, view)| (name, view.shape().iter().map(small).collect()))
        .collect();
    let data = vec![0; 4096];
    let views = shapes.iter().map(|(name, shape)| {
        let n_bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (name, TensorView::new(dtype, shape.clone(), &data[..n_bytes]).expect("it fits"))
    });
    serialize(views, None).expect("written")
}

#[test]
fn weights() {
    fuzz("weights", &[Dtype::F32, Dtype::F16, Dtype::BF16].map(small_weights), &[]);
}

fn model_file(name: &str) -> Vec<u8> {
    fs::read(sample().join("model").join(name)).expect("the sample")
}

#[test]
fn model_configurations() {
    let huge = json!({"model_type": "clip", "text_config": {"num_hidden_layers": 1 << 24}});
    fuzz("config", &[model_file("config.json")], &[huge.to_string().into_bytes()]);
}

#[test]
fn preprocessor_configurations() {
    let squash = json!({"do_center_crop": false, "size": {"height": 9, "width": 7}, "resample": 2,
        "image_mean": [0, 0, 0], "image_std": [1, 1, 1]});
    let seeds = [model_file("preprocessor_config.json"), b"{}".to_vec()];
    fuzz("preprocessor", &[&seeds[..], &[squash.to_string().into_bytes()]].concat(), &[]);
}

/// The sample's tokenizer with the letters and few words, so that most changes meet its structure.
#[test]
fn tokenizer_files() {
    let whole: Value = serde_json::from_slice(&model_file("tokenizer.json")).expect("JSON");
    let mut small = whole.clone();
    let vocab = small["model"]["vocab"].as_object_mut().expect("a vocabulary");
    vocab.retain(|token, id| {
        let letters = token.strip_suffix("</w>").unwrap_or(token).chars().count();
        letters == 1 || id.as_u64().is_some_and(|id| id < 530) || token.starts_with("<|")
    });
    let vocab = vocab.clone();
    let merges = small["model"]["merges"].as_array_mut().expect("merges");
    merges.retain(|merge| {
        let pair = match merge {
            Value::String(joined) => joined.replace(' ', ""),
            pair => format!("{}{}", pair[0].as_str().unwrap_or(""), pair[1].as_str().unwrap_or("")),
        };
        vocab.contains_key(&pair)
    });
    fuzz("tokenizer", &[small.to_string().into_bytes()], &[]);
}
