//! Bytes that nobody wrote, for every parser of strangers' bytes: seeds from the sample, changed
//! at random for a while. A panic of clipmill's own code, a decoder's panic or an abort is a
//! failure; an error is what is asked for, also where the Parquet library panics and is contained.
//!
//! Two seconds a target in `make test`, a minute in `make fuzz` (`CLIPMILL_FUZZ`, in seconds). The
//! numbers are seeded, so a failure comes again. It does not look at which code was reached.

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use clipmill::error::RowStatus;
use clipmill::images::Preprocess;
use clipmill::manifest::{FILE_NAME, MadeWith, Manifest, PartAbout, PartRecord};
use clipmill::source::preflight;
use clipmill::spec::layers;
use clipmill::spec::{CaptionSpec, PreprocessSpec};
use clipmill::text::Tokenizer;
use common::{root, sample, scratch};

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

/// Calls `target` with changed seeds until the time is over. Returns how often.
fn fuzz(name: &str, seeds: &[Vec<u8>], mut target: impl FnMut(&[u8])) -> usize {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let given = std::env::var("CLIPMILL_FUZZ").ok().and_then(|seconds| seconds.parse().ok());
    let end = Instant::now() + Duration::from_secs(given.unwrap_or(2));
    let mut random = Random(0x5eed);
    let mut n = 0;
    seeds.iter().for_each(|seed| target(seed));
    while Instant::now() < end {
        target(&random.mutate(seeds));
        n += 1;
    }
    println!("{name}: {n} inputs from {} seeds", seeds.len());
    assert!(n > 20, "{name}: only {n} inputs");
    n
}

fn files(dir: &Path, extensions: &[&str]) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("one").path());
    let mut paths: Vec<_> = entries
        .filter(|path| extensions.iter().any(|e| path.extension().is_some_and(|found| found == *e)))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a file")).collect()
}

#[test]
fn pipeline_files() {
    let dir = scratch();
    let path = dir.path().join("pipeline.toml");
    let mut read = 0;
    fuzz("spec", &files(&root().join("pipelines"), &["toml"]), |bytes| {
        fs::write(&path, bytes).expect("written");
        match layers::read(&path, &[]) {
            Ok(_) => read += 1,
            Err(error) => assert!(matches!(error.exit_code(), 1 | 2), "{error}"),
        }
    });
    assert!(read > 0, "not even the seeds were read");
}

#[test]
fn manifests() {
    let dir = scratch();
    let about = PartAbout { key: "k".into(), rows_in: 3, statuses: [("ok".into(), 3)].into() };
    let record = PartRecord { about, rows_out: 3, bytes: 100, sha256: "00".into() };
    let mut manifest = Manifest::new(MadeWith::from([("a".into(), "b".into())]), 1);
    manifest.parts.insert("part-00000.parquet".into(), record);
    manifest.write(dir.path()).expect("written");
    let path = dir.path().join(FILE_NAME);
    let seed = fs::read(&path).expect("there");
    fuzz("manifest", &[seed], |bytes| {
        fs::write(&path, bytes).expect("written");
        if let Ok(found) = Manifest::read(dir.path()) {
            // What is not refused says what was written.
            assert_eq!(found.as_ref(), Some(&manifest));
        }
    });
}

#[test]
fn images() {
    // One an extension, and the smallest, so that many are tried.
    let mut seeds = Vec::new();
    for extension in ["jpg", "png", "webp", "gif", "bmp", "tif"] {
        let mut of_kind = files(&sample().join("images"), &[extension]);
        of_kind.retain(|bytes| bytes.len() > 100);
        of_kind.sort_by_key(Vec::len);
        seeds.extend(of_kind.into_iter().take(3));
    }
    let spec = PreprocessSpec { max_pixels: 1 << 20, ..PreprocessSpec::default() };
    let preprocess = Preprocess::read(&sample().join("model"), &spec).expect("the sample");
    let mut pixels = vec![0; preprocess.n_bytes()];
    let mut ok = 0;
    fuzz("image", &seeds, |bytes| match preprocess.apply(bytes, &mut pixels).1 {
        Ok(()) => ok += 1,
        Err(error) => assert_ne!(error.status, RowStatus::DecoderPanic, "{error}"),
    });
    assert!(ok >= seeds.len());
}

#[test]
fn captions() {
    let tokenizer = Tokenizer::read(&sample().join("model"), 77, &CaptionSpec::default());
    let tokenizer = tokenizer.expect("the sample");
    let seeds =
        ["a photo of the moon", "<|endoftext|> 🌜🏽‍🚀 \u{202e}x", "ﬁ é 1,000.00 'll", "\0\t\n"];
    fuzz("tokenizer", &seeds.map(|seed| seed.as_bytes().to_vec()), |bytes| {
        if let Ok((ids, _)) = tokenizer.encode(&String::from_utf8_lossy(bytes)) {
            assert!((2..=77).contains(&ids.len()), "{} ids", ids.len());
        }
    });
}

#[test]
fn parquet_footers() {
    let dir = scratch();
    let path = dir.path().join("table.parquet");
    let mut seeds = files(&sample(), &["parquet"]);
    // Most of the changes should meet the footer.
    seeds.iter_mut().for_each(|seed| {
        seed.splice(4..seed.len().saturating_sub(4000).max(4), []);
    });
    fuzz("footer", &seeds, |bytes| {
        fs::write(&path, bytes).expect("written");
        let mut answer = Vec::new();
        let name = path.display().to_string() + "\0";
        preflight::serve(name.as_bytes(), &mut answer, preflight::examine).expect("answered");
        assert!(matches!(answer.first(), Some(b'+' | b'-')));
    });
}
