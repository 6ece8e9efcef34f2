//! What goes to other programs and comes from them beside Parquet: Arrow IPC streams through pipes,
//! and NumPy files. What they should read is said by pyarrow, polars, DuckDB and numpy
//! (`oracle/streams.py`, `oracle/arrays.py`).

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{FixedSizeListArray, Float64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;

use crate::common::{clipmill, oracle, sample, scratch};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The first rows of the sample in f32, into a folder: three of them fail.
fn scored(out: &Path, more: &[&str]) {
    let fixed = [
        "run",
        "pipelines/sample.toml",
        "--set",
        "model.clip.precision=f32",
        "--limit",
        "72",
        "--output",
    ];
    clipmill([&fixed[..], &[&text(out)], more].concat()).ok();
}

#[test]
fn streams_through_pipes_are_what_part_files_hold() {
    let dir = scratch();
    let out = dir.path().join("scored");
    scored(&out, &[]);
    let pipeline = dir.path().join("pipeline.toml");
    let sample_pipeline = fs::read_to_string("pipelines/sample.toml").expect("there");
    let f32 = sample_pipeline.replace("precision = \"auto\"", "precision = \"f32\"");
    assert_ne!(f32, sample_pipeline);
    fs::write(&pipeline, f32).expect("written");
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    let table = sample().join("captions.parquet");
    let program = env!("CARGO_BIN_EXE_clipmill").to_owned();
    let paths = [pipeline, table, out, elsewhere].map(|path| text(&path));
    let _ = oracle("streams.py", [program].iter().chain(&paths));
}

#[test]
fn embeddings_as_numpy_files_stand_beside_their_rows() {
    let dir = scratch();
    let at = |name: &str| text(&dir.path().join(name));
    let more = ["--set", "sink.parquet.rows_per_part=20", "--also", "npy"];
    scored(&dir.path().join("scored"), &more);
    let said = clipmill(["export", &at("scored"), &at("npz"), "--layout", "npz"]).ok().stdout;
    assert!(said.contains("image_missing 1") && said.contains("68 of 72 rows"), "{said}");
    // Asked for again, nothing is done; asked for otherwise, it is refused.
    let again = clipmill(["export", &at("scored"), &at("npz"), "--layout", "npz"]).ok().stdout;
    assert!(again.contains("nothing was done"), "{again}");
    let other =
        ["export", &at("scored"), &at("npz"), "--layout", "npz", "--array", "text_embedding"];
    assert_eq!(clipmill(other).code, 2);

    let odd = dir.path().join("odd");
    fs::create_dir(&odd).expect("a folder");
    odd_vectors(&odd.join("odd.parquet"));
    let (table, export) = (text(&odd.join("odd.parquet")), text(&odd.join("export")));
    let args = ["export", &table, &export, "--image", "vector"];
    assert!(clipmill(args).ok().stdout.contains("2 of 4 rows"));
    let paths = [at("scored"), at("scored-npy"), at("npz"), text(&odd)];
    let _ = oracle("arrays.py", &paths);

    // A shorter table over it leaves nothing of the longer one, and the parts are whole.
    clipmill(["verify", &at("npz")]).ok();
    clipmill(["export", &table, &at("npz"), "--layout", "npz", "--overwrite"]).ok();
    let mut names: Vec<_> = fs::read_dir(at("npz")).expect("a folder").collect();
    names.retain(|entry| {
        let name = entry.as_ref().expect("an entry").file_name();
        name.to_string_lossy().starts_with('0')
    });
    assert_eq!(names.len(), 2);
    // What is somebody else's in it stays, whatever its name.
    let npy = dir.path().join("scored-npy");
    fs::create_dir(npy.join("mine")).expect("a folder");
    fs::write(npy.join("mine/00000000.npz"), "mine").expect("written");
    fs::write(npy.join("img_emb/img_emb_7.npy"), "left of an earlier one").expect("written");
    clipmill(["export", &table, &text(&npy), "--image", "vector", "--overwrite"]).ok();
    assert!(npy.join("mine/00000000.npz").exists());
    assert_eq!(fs::read_dir(npy.join("img_emb")).expect("a folder").count(), 1);

    for (args, why) in [
        (["export", &table, &at("x"), "--image", "place"], "a list of f16"),
        (["export", &table, &at("x"), "--image", "vectr"], "did you mean \"vector\""),
        (["export", &table, &at("x"), "--array", "vector"], "npz"),
        (["export", &table, &at("x"), "--row", "place"], "already has a column"),
        (["export", &table, &text(&odd), "--image", "vector"], "the table that is read"),
        (["export", &table, &at("x"), "--layout", "npy"], "name their column"),
    ] {
        let ran = clipmill(args);
        assert!(ran.code == 2 && ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
        assert!(!dir.path().join("x").exists());
    }
}

/// Four vectors in f64: two can be used, one is null and one not finite.
fn odd_vectors(path: &Path) {
    let values = (1..=12).map(|value| if value == 5 { f64::NAN } else { f64::from(value) });
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let values = Arc::new(Float64Array::from_iter_values(values));
    let valid = vec![true, true, false, true].into();
    let vectors = FixedSizeListArray::new(item, 3, values, Some(valid));
    let place = UInt32Array::from(vec![0, 1, 2, 3]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("place", Arc::new(place) as _, false),
        ("vector", Arc::new(vectors) as _, true),
    ]);
    let batch = batch.expect("equally long");
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}
