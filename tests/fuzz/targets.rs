//! The parsers of strangers' bytes, each called with some bytes by `tests/fuzz.rs`, and fit to be
//! called by libFuzzer: a folder and bytes are all that they need.
//!
//! A target panics where a promise is broken: a panic of clipmill's own, a decoder's panic, an
//! error that blames the wrong side, something accepted that cannot be. It gives back whether the
//! bytes were read, so that a test can tell that its seeds are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clipmill::batch::PixelScale;
use clipmill::contain::contain;
use clipmill::digest;
use clipmill::error::{Error, RowStatus};
use clipmill::images::Preprocess;
use clipmill::manifest::{FILE_NAME, Manifest};
use clipmill::model::device::Placement;
use clipmill::model::{ModelFiles, Towers};
use clipmill::sink::read_published;
use clipmill::source::{InputFile, ParquetSource, Part, Source, preflight};
use clipmill::spec::layers;
use clipmill::spec::{CaptionSpec, Family, ModelSpec, PreprocessSpec};
use clipmill::text::Tokenizer;

/// Called with a folder that is its own, and the bytes.
pub type Target = fn(&Path, &[u8]) -> bool;

/// What stands before a seal's digits.
const BEFORE_SEAL: &[u8] = b"clipmill.sha256\x18\x40";

/// The sample, seen from the package that this file is built in.
pub fn sample() -> PathBuf {
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.find(|dir| dir.join("sample_data").exists());
    found.expect("the package is in the repository").join("sample_data")
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).expect("the folder is the target's own");
    path
}

/// Bad bytes are the stranger's fault: no other code may be given.
fn is_read<T>(result: Result<T, Error>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            assert!(matches!(error.exit_code(), 1 | 2), "{error}");
            false
        }
    }
}

/// Pipeline files.
pub fn spec(dir: &Path, bytes: &[u8]) -> bool {
    is_read(layers::read(&write(dir, "pipeline.toml", bytes), &[]))
}

/// Manifests. What is read says the same when it is written and read again.
pub fn manifest(dir: &Path, bytes: &[u8]) -> bool {
    write(dir, FILE_NAME, bytes);
    let Ok(Some(found)) = Manifest::read(dir) else { return false };
    found.write(dir).expect("the folder is the target's own");
    assert_eq!(Manifest::read(dir).expect("it was just written").as_ref(), Some(&found));
    true
}

/// Images: header, decoding, resizing.
pub fn image(_: &Path, bytes: &[u8]) -> bool {
    static PREPROCESS: LazyLock<Preprocess> = LazyLock::new(|| {
        let spec = PreprocessSpec { max_pixels: 1 << 20, ..PreprocessSpec::default() };
        Preprocess::read(&sample().join("model"), &spec).expect("the sample")
    });
    let mut pixels = vec![0; PREPROCESS.n_bytes()];
    match PREPROCESS.apply(bytes, &mut pixels).1 {
        Ok(_) => true,
        Err(error) => {
            assert_ne!(error.status, RowStatus::DecoderPanic, "{error}");
            false
        }
    }
}

/// Captions.
pub fn caption(_: &Path, bytes: &[u8]) -> bool {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let tokenizer = Tokenizer::read(&sample().join("model"), 77, &CaptionSpec::default());
        tokenizer.expect("the sample")
    });
    let encoded = TOKENIZER.encode(&String::from_utf8_lossy(bytes));
    let Ok((ids, info)) = encoded else { return false };
    assert!((3..=77).contains(&ids.len()), "{} ids", ids.len());
    assert_eq!((ids[0], ids[ids.len() - 1]), (3070, 3071));
    assert_eq!(info.truncated, info.tokens > 77);
    true
}

/// Footers of Parquet files, as the child of a run reads them.
pub fn footer(dir: &Path, bytes: &[u8]) -> bool {
    let path = write(dir, "table.parquet", bytes);
    matches!(contain(|| preflight::examine(&path)), Some(Ok(())))
}

/// Rows of Parquet files: pages, dictionaries, strings. As many come as the footer says, or none.
pub fn rows(dir: &Path, bytes: &[u8]) -> bool {
    let path = write(dir, "table.parquet", bytes);
    // As in a run: what does not pass here is not opened.
    if !matches!(contain(|| preflight::examine(&path)), Some(Ok(()))) {
        return false;
    }
    let read = || -> Result<(), Error> {
        let input = InputFile::open(&path)?;
        let part = Part { index: 0, number: 0, input: 0, start: 0, rows: input.rows };
        if input.rows == 0 {
            return Ok(());
        }
        let mut source = ParquetSource::new(vec![input], vec![part], 64);
        let mut n_rows = 0;
        while let Some(batch) = source.next_batch()? {
            n_rows += batch.rows.num_rows() as u64;
        }
        assert_eq!(n_rows, part.rows);
        Ok(())
    };
    is_read(read())
}

/// Parts of an output, as they are and with a seal that fits whatever became of them.
pub fn part(dir: &Path, bytes: &[u8]) -> bool {
    let is_part = |bytes: &[u8]| {
        let published = read_published(&write(dir, "part-00000.parquet", bytes));
        let Some((_, published)) = published.expect("it can be read") else { return false };
        assert_eq!(published.sha256, digest::of_bytes(bytes));
        assert_eq!(published.bytes, bytes.len() as u64);
        true
    };
    let found = bytes.windows(BEFORE_SEAL.len()).rposition(|window| window == BEFORE_SEAL);
    let seal = found.map(|at| at + BEFORE_SEAL.len()..at + BEFORE_SEAL.len() + 64);
    if let Some(seal) = seal.filter(|seal| seal.end <= bytes.len()) {
        let mut sealed = bytes.to_vec();
        sealed[seal.clone()].fill(b'0');
        let digits = digest::of_bytes(&sealed);
        sealed[seal].copy_from_slice(digits.as_bytes());
        is_part(&sealed);
    }
    is_part(bytes)
}

fn open(dir: &Path) -> Result<ModelFiles, Error> {
    ModelFiles::open(&ModelSpec::new(Family::Clip, dir))
}

/// Weights of the small model that `config.json` in the folder describes.
pub fn weights(dir: &Path, bytes: &[u8]) -> bool {
    write(dir, "config.json", SMALL_CONFIG.as_bytes());
    write(dir, "model.safetensors", bytes);
    let scale = PixelScale { rescale: 1.0, mean: [0.0; 3], std: [1.0; 3] };
    let cpu = Placement { device: tch::Device::Cpu, kind: tch::Kind::Float };
    is_read(open(dir).and_then(|files| files.load(Towers::BOTH, scale, cpu)))
}

/// `config.json`, beside the sample's weights.
pub fn config(dir: &Path, bytes: &[u8]) -> bool {
    write(dir, "config.json", bytes);
    let weights = dir.join("model.safetensors");
    if !weights.exists() {
        fs::copy(sample().join("model/model.safetensors"), &weights).expect("copied");
    }
    is_read(open(dir))
}

/// `preprocessor_config.json`.
pub fn preprocessor(dir: &Path, bytes: &[u8]) -> bool {
    write(dir, "preprocessor_config.json", bytes);
    let read = Preprocess::read(dir, &PreprocessSpec::default());
    is_read(read.map(|preprocess| (preprocess.describe(), preprocess.scale())))
}

/// `tokenizer.json`, and a caption that is encoded with it.
pub fn tokenizer(dir: &Path, bytes: &[u8]) -> bool {
    write(dir, "tokenizer.json", bytes);
    let tokenizer = Tokenizer::read(dir, 77, &CaptionSpec::default());
    if let Ok(tokenizer) = &tokenizer
        && let Ok((ids, _)) = tokenizer.encode("a photo of the <|endoftext|> moon, 1st 🌜")
    {
        let most = tokenizer.vocab_size() as i64;
        assert!(ids.iter().all(|id| (0..most).contains(id)), "{ids:?} of {most}");
    }
    is_read(tokenizer)
}

/// A model of a few numbers, for [`weights`].
pub const SMALL_CONFIG: &str = r#"{"model_type": "clip", "projection_dim": 4,
  "text_config": {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 6,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 5},
  "vision_config": {"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 4, "patch_size": 2}}"#;

/// Every target by its name, which is also that of its seeds.
pub const TARGETS: [(&str, Target); 11] = [
    ("spec", spec),
    ("manifest", manifest),
    ("image", image),
    ("caption", caption),
    ("footer", footer),
    ("rows", rows),
    ("part", part),
    ("weights", weights),
    ("config", config),
    ("preprocessor", preprocessor),
    ("tokenizer", tokenizer),
];
