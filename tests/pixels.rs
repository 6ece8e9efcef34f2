//! Our pixels against transformers' `CLIPImageProcessorPil` over Pillow: every byte equal.
//!
//! The files and what is expected of them come from `tests/oracle/pixels.py`. A file that Pillow
//! refuses has to be refused; a damaged one that Pillow fills in may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clipmill::error::RowStatus;
use clipmill::images::Preprocess;
use clipmill::images::resize::{Filter, Region, Resize, Rgb, Size, Vector};
use clipmill::spec::{ExifSpec, PreprocessSpec};
use rayon::prelude::*;
use serde_json::Value;

use crate::common;

/// What Pillow reads and we refuse, because identity could not be shown.
const REFUSED: [&str; 4] = ["tiff-fax", "tiff-float", "tiff-fill-order", "tiff-CMYK-jpeg"];

/// What libjpeg only warns of, so that Pillow gives a picture with holes.
const DAMAGE: [&str; 4] = [
    "Corrupt JPEG data",
    "Inconsistent progression",
    "Invalid SOS parameters",
    "the file ends before",
];

/// Kinds that must be among what is compared.
const KINDS: [&str; 33] = [
    "jpeg-420",
    "jpeg-422",
    "jpeg-444",
    "jpeg-cmyk",
    "jpeg-first-scan",
    "jpeg-gray",
    "jpeg-progressive",
    "jpeg-restart",
    "jpeg-ycck",
    "png-gray-1",
    "png-gray-16",
    "png-gray-trns-8",
    "png-graya-16",
    "png-interlaced",
    "png-palette-4",
    "png-palette-trns-8",
    "png-rgb-16",
    "png-rgb-8",
    "png-rgba-16",
    "png-rgba-8",
    "webp-animated",
    "webp-lossless-alpha",
    "webp-lossy",
    "webp-lossy-alpha",
    "gif",
    "gif-animated",
    "gif-transparent",
    "bmp-1",
    "bmp-RGB",
    "bmp-palette-8",
    "tiff-gray-16",
    "tiff-rgb-8",
    "tiff-cmyk-8",
];

/// One image under one config, and what the reference made of it.
#[derive(serde::Deserialize)]
struct Case(String, String, String, String, usize);

/// How a case went, if not well.
fn verdict(dir: &Path, case: &Case, preprocess: &Preprocess, expected: &[u8]) -> Option<String> {
    let Case(config, kind, name, outcome, at) = case;
    let bytes = fs::read(dir.join("images").join(name)).expect("the oracle wrote it");
    let mut ours = vec![0xa5; preprocess.n_bytes()];
    let (_, result) = preprocess.apply(&bytes, &mut ours);
    // A changed byte may be one that only one of the two looks at.
    let odd = kind.starts_with("flip-") || kind.starts_with("corpus-");
    let damaged = odd || kind.starts_with("cut-");
    match (outcome.as_str(), result) {
        ("ok", Ok(_)) => {
            let theirs = &expected[*at..][..ours.len()];
            let most = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
            (most > 0).then(|| format!("{config} {name}: differs by up to {most}"))
        }
        ("ok", Err(error)) if damaged || REFUSED.contains(&kind.as_str()) => {
            (error.status == RowStatus::DecoderPanic).then(|| format!("{name}: panicked"))
        }
        ("ok", Err(error)) => Some(format!("{config} {name}: {} ({error})", error.status)),
        (_, Ok(_)) if odd => None,
        (theirs, Ok(_)) => Some(format!("{config} {name}: accepted, but Pillow: {theirs}")),
        (_, Err(error)) if error.status == RowStatus::DecoderPanic => {
            Some(format!("{name}: panicked"))
        }
        (_, Err(_)) => None,
    }
}

#[test]
fn every_kind_of_image_has_pillows_pixels() {
    let dir = common::scratch();
    let dir = dir.path();
    // Images of others: beside the checkout, and where the environment says.
    let more = std::env::var_os("CLIPMILL_IMAGES").map(PathBuf::from);
    let arguments = [Some(dir.to_owned()), common::corpora("images"), more].into_iter().flatten();
    if !common::oracle("pixels.py", arguments) {
        return;
    }
    resize_is_pillows(dir);
    let index = fs::read_to_string(dir.join("index.json")).expect("the oracle wrote it");
    let cases: Vec<Case> = serde_json::from_str(&index).expect("an index");
    let mut kinds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut failures = Vec::new();
    for config in cases.chunk_by(|a, b| a.0 == b.0) {
        let name = &config[0].0;
        let folder = dir.join("configs").join(name);
        let exif = if name == "exif" { ExifSpec::Apply } else { ExifSpec::Ignore };
        let spec = PreprocessSpec { exif, ..PreprocessSpec::default() };
        let preprocess = Preprocess::read(&folder, &spec).expect("a config that we read");
        let expected = fs::read(folder.join("expected.bin")).expect("the oracle wrote it");
        let bad = config.par_iter().filter_map(|case| verdict(dir, case, &preprocess, &expected));
        failures.extend(bad.collect::<Vec<_>>());
        let whole = config.iter().filter(|Case(_, kind, _, outcome, _)| {
            outcome == "ok" && !["cut-", "flip-", "corpus-"].iter().any(|odd| kind.starts_with(odd))
        });
        for Case(_, kind, name, ..) in whole {
            kinds.entry(kind).or_default().insert(name);
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    // What was compared: whole images that the reference reads, each under every config.
    let images: usize = kinds.values().map(BTreeSet::len).sum();
    println!("{images} images of {} kinds, {} comparisons", kinds.len(), cases.len());
    assert!(images >= 300, "{images} images");
    for kind in KINDS {
        assert!(kinds.contains_key(kind), "no {kind} among {:?}", kinds.keys());
    }
}

/// `Image.resize`, every filter, against the same call here: with every kind of vector code
/// that this machine has, without, computed in windows, and from the pixels alone that the
/// windows say they read.
fn resize_is_pillows(dir: &Path) {
    let index = fs::read_to_string(dir.join("resize.json")).expect("the oracle wrote it");
    let cases: Vec<[usize; 6]> = serde_json::from_str(&index).expect("an index");
    let data = fs::read(dir.join("resize.bin")).expect("the oracle wrote it");
    cases.par_iter().for_each(|&[from_width, from_height, width, height, number, at]| {
        let input = from_width * from_height * 3;
        let image =
            Rgb { width: from_width, height: from_height, data: data[at..at + input].to_vec() };
        let theirs = &data[at + input..][..width * height * 3];
        let filter = Filter::from_number(number as u64).expect("0 to 5");
        let case = format!("{from_width}x{from_height} to {width}x{height}, {filter:?}");
        let whole = Resize::whole(Size { width, height }, filter);
        let run = |resize: &Resize, out: &mut [u8]| resize.apply(&image, out, width * 3);
        for vector in Vector::available() {
            let mut ours = vec![0xa5; theirs.len()];
            run(&Resize { vector, ..whole.clone() }, &mut ours);
            assert!(ours == theirs, "{case}, {vector:?}");
        }
        let (x, y) = (width / 3, height / 2);
        let mut ours = vec![0; theirs.len()];
        for (columns, rows) in [(0..x, 0..height), (x..width, 0..y), (x..width, y..height)] {
            if columns.is_empty() || rows.is_empty() {
                continue;
            }
            let out = &mut ours[(rows.start * width + columns.start) * 3..];
            let window = Resize { columns, rows, ..whole.clone() };
            let Region { columns, rows } = window.source(from_width, from_height);
            let mut part = image.clone();
            for (at, byte) in part.data.iter_mut().enumerate() {
                let (row, column) = (at / 3 / from_width, at / 3 % from_width);
                if !rows.contains(&row) || !columns.contains(&column) {
                    *byte = !*byte;
                }
            }
            window.apply(&part, out, width * 3);
        }
        assert!(ours == theirs, "{case}, in windows");
    });
}

#[test]
fn a_resize_bomb_costs_only_its_crop() {
    // 224 x 11,200,000 once resized.
    let dir = config(r#"{}"#);
    let spec = PreprocessSpec { max_aspect_ratio: u32::MAX, ..PreprocessSpec::default() };
    let preprocess = Preprocess::read(dir.path(), &spec).expect("defaults");
    let mut bmp =
        b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x01\0\0\0\x50\xc3\0\0\x01\0\x18\0".to_vec();
    bmp.resize(54 + 50_000 * 4, 7);
    bmp[30..54].fill(0);
    let mut out = vec![0; preprocess.n_bytes()];
    let (info, result) = preprocess.apply(&bmp, &mut out);
    assert_eq!(info.map(|info| (info.width, info.height)), Some((1, 50_000)));
    result.expect("a plain BMP");
    assert_eq!(out, vec![7; out.len()]);

    let preprocess = Preprocess::read(dir.path(), &PreprocessSpec::default()).expect("defaults");
    let error = preprocess.apply(&bmp, &mut out).1.expect_err("too long by default");
    assert_eq!(error.status, RowStatus::ImageTooLarge);
    assert!(error.message.contains("max_aspect_ratio"), "{error}");
}

/// libjpeg keeps the quantisation tables of one file for the next.
#[test]
fn a_jpeg_without_tables_of_its_own_is_not_decoded_with_those_of_another() {
    let dir = config(r#"{}"#);
    let preprocess = Preprocess::read(dir.path(), &PreprocessSpec::default()).expect("defaults");
    let mut out = vec![0; preprocess.n_bytes()];
    let whole = fs::read(common::sample().join("images/001-1f4cf.jpg")).expect("an image");
    let (mut bytes, mut rest) = (whole[..2].to_vec(), &whole[2..]);
    let mut left_out = 0;
    while rest[1] != 0xda {
        let length = 2 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (segment, after) = rest.split_at(length);
        // Without Huffman tables libjpeg takes the standard's, as for a frame of Motion JPEG.
        match segment[1] == 0xdb {
            true => left_out += 1,
            false => bytes.extend(segment),
        }
        rest = after;
    }
    bytes.extend(rest);
    assert!(left_out > 0, "the sample has quantisation tables");
    // On this thread, one after the other.
    preprocess.apply(&whole, &mut out).1.expect("a good image");
    let error = preprocess.apply(&bytes, &mut out).1.expect_err("nothing to decode it with");
    assert_eq!(error.status, RowStatus::ImageUndecodable, "{error}");
}

#[test]
fn limits_are_held_against_the_header() {
    let dir = config(r#"{}"#);
    let spec = PreprocessSpec { max_pixels: 100, ..PreprocessSpec::default() };
    let preprocess = Preprocess::read(dir.path(), &spec).expect("defaults");
    let mut out = vec![0; preprocess.n_bytes()];
    let mut seen = 0;
    for entry in fs::read_dir(common::sample().join("images")).expect("the sample") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        let (info, result) = preprocess.apply(&bytes, &mut out);
        let error = result.expect_err("over 100 pixels, or broken on purpose");
        seen += usize::from(info.is_some() && error.status == RowStatus::ImageTooLarge);
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn a_config_that_is_not_supported_is_named() {
    for (text, key) in [
        (r#"{"resample": 9}"#, "resample"),
        (r#"{"size": {"longest_edge": 4}}"#, "size"),
        (r#"{"crop_size": 0}"#, "crop_size"),
        (r#"{"image_mean": [1, 2]}"#, "image_mean"),
        (r#"{"image_processor_type": "SiglipImageProcessor"}"#, "image_processor_type"),
        (r#"{"do_center_crop": false}"#, "do_center_crop"),
        (r#"{"do_convert_rgb": false}"#, "do_convert_rgb"),
        (r#"{"do_resize": 1}"#, "do_resize"),
    ] {
        let dir = config(text);
        let error = Preprocess::read(dir.path(), &PreprocessSpec::default()).expect_err(text);
        assert!(error.to_string().contains(key), "{text}: {error}");
    }
}

/// A folder with that preprocessor_config.json.
fn config(text: &str) -> tempfile::TempDir {
    let dir = common::scratch();
    fs::write(dir.path().join("preprocessor_config.json"), text).expect("a scratch folder");
    dir
}

#[test]
fn hostile_files_give_a_status_each() {
    let Some(images) = common::corpora("images") else { return };
    let table = images.join("../EXPECTED_images.tsv");
    let table = fs::read_to_string(table).expect("beside the folder");
    let dir = config(r#"{"size": 64, "crop_size": 64}"#);
    let preprocess = Preprocess::read(dir.path(), &PreprocessSpec::default()).expect("a config");
    // PPM is no format of ours.
    let ours = |row: &&str| !row.contains(".ppm\t") && !row.contains(".pgm\t");
    let rows: Vec<&str> = table.lines().skip(1).filter(ours).collect();
    let bad: Vec<String> =
        rows.par_iter().filter_map(|row| hostile(&images, row, &preprocess)).collect();
    println!("{} files", rows.len());
    assert!(bad.is_empty(), "{} of {} differ:\n{}", bad.len(), rows.len(), bad.join("\n"));
}

/// What is wrong about one file of the corpus.
fn hostile(images: &Path, row: &str, preprocess: &Preprocess) -> Option<String> {
    let fields: Vec<&str> = row.split('\t').collect();
    let (path, pillow, want) = (fields[0], fields[5].trim_matches('"'), fields[6]);
    let bytes = fs::read(images.join("..").join(path)).expect("a file of the table");
    let mut out = vec![0; preprocess.n_bytes()];
    let (info, result) = preprocess.apply(&bytes, &mut out);
    let stored = info.map(|info| format!("{}x{}", info.width, info.height));
    let good = match (&result, want) {
        (Err(error), _) if error.status == RowStatus::DecoderPanic => false,
        (Err(error), _) if DAMAGE.iter().any(|damage| error.message.contains(damage)) => true,
        (Ok(_), "ok, same size") => pillow.split(' ').nth(1) == stored.as_deref(),
        (Err(_), "ok, same size") | (Ok(_), "typed error") => false,
        _ => true,
    };
    let result = result.map_err(|error| format!("{}: {error}", error.status));
    (!good).then(|| format!("{path}: {stored:?} {result:?}, wanted {want}, Pillow {pillow}"))
}

#[test]
fn descriptions_tell_preprocessings_apart() {
    let describe = |text: &str| {
        let dir = config(text);
        Preprocess::read(dir.path(), &PreprocessSpec::default()).expect(text).describe()
    };
    assert_eq!(
        describe("{}"),
        describe(r#"{"size": 224, "crop_size": {"height": 224, "width": 224}}"#)
    );
    assert_ne!(describe("{}"), describe(r#"{"resample": 2}"#));
    let value: Value = serde_json::from_str(&describe("{}")).expect("JSON");
    assert_eq!(value["resample"], 3);
}
