//! Where rows and images come from: tables that hold their images, every type of a column of text,
//! several paths. What should come out is said by `datasets` and pyarrow (`oracle/embedded.py`).

mod common;

use std::fs;
use std::path::Path;

use common::{Ran, clipmill, oracle, sample, scratch};

/// A run in f32 over a source, with images from a section, into `dir/out`.
fn run(dir: &Path, out: &str, (source, image): (&str, &str), columns: &str) -> Ran {
    let pipeline = format!(
        "version = 1\n{source}\n{image}\n[model.clip]\ndir = {:?}\nprecision = \"f32\"\n\
         [columns]\n{columns}\n[sink.parquet]\npath = {:?}\nrows_per_part = 100\n",
        sample().join("model"),
        dir.join(out),
    );
    let path = dir.join(format!("{out}.toml"));
    fs::write(&path, pipeline).expect("written");
    clipmill(["run".to_owned(), path.display().to_string()])
}

fn parquet(path: &Path, image: &str, caption: &str) -> String {
    format!("[source.parquet]\npath = {path:?}\nimage = {image:?}\ncaption = {caption}")
}

fn root() -> String {
    format!("[image.path]\nroot = {:?}", sample())
}

const COLUMNS: &str = "similarity = \"cosine\"\nimage_embedding = \"image_embedding\"\n\
                       image_width = \"image_width\"\nimage_format = \"image_format\"\n\
                       image_sha256 = \"image_sha256\"";

#[test]
fn images_in_a_table_of_datasets_score_as_those_beside_it() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    let make = [sample().join("captions.parquet"), sample(), dir.path().to_owned()];
    let make = make.map(|path| path.display().to_string());
    if !oracle("embedded.py", [&["make".to_owned()], &make[..]].concat()) {
        return;
    }
    let paths = parquet(&at("hf.parquet"), "image_path", "\"caption\"");
    let bytes = parquet(&at("hf.parquet"), "image", "\"caption\"");
    run(dir.path(), "paths", (&paths, &root()), COLUMNS).ok();
    let ran = run(dir.path(), "bytes", (&bytes, "[image.bytes]"), COLUMNS).ok();
    assert!(ran.stdout.contains("image_missing"), "{}", ran.stdout);
    let outs = [at("paths"), at("bytes")].map(|path| path.display().to_string());
    assert!(oracle("embedded.py", [&["check".to_owned()], &outs[..]].concat()));

    every_type_of_column(dir.path());
}

/// A run over each column of `types.parquet`, which all say the same.
fn every_type_of_column(dir: &Path) {
    let table = dir.join("types.parquet");
    let kinds = ["string", "large_string", "string_view", "dictionary", "small_dictionary"];
    let bytes = ["binary", "large_binary", "binary_view", "binary_dictionary"];
    let captions: Vec<_> = kinds.iter().chain(&bytes).map(|k| format!("caption_{k}")).collect();
    let one = |caption: &String| format!("{caption}_ = {{kind=\"cosine\",caption={caption:?}}}\n");
    let columns: String = captions.iter().map(one).collect();
    let text = format!("{captions:?}");
    let images = kinds.iter().map(|kind| (format!("path_{kind}"), root()));
    let bytes = bytes.iter().chain(&["fixed"]);
    let images = images.chain(bytes.map(|k| (format!("bytes_{k}"), "[image.bytes]".to_owned())));
    for (column, image) in images {
        let source = parquet(&table, &column, &text);
        run(dir, &column, (&source, &image), &columns).ok();
        let made = captions.iter().map(|caption| format!("{caption}_"));
        let out = [dir.join(&column).display().to_string()];
        let args: Vec<_> = ["types".to_owned()].into_iter().chain(out).chain(made).collect();
        assert!(oracle("embedded.py", args), "{column}");
    }
    let bad = parquet(&table, "path_string", "\"caption_bad\"");
    let ran = run(dir, "bad", (&bad, &root()), COLUMNS).ok();
    assert!(ran.stdout.contains("caption_invalid"), "{}", ran.stdout);
    for (column, image, says) in [
        ("path_string", "[image.bytes]", ["Utf8", "use [image.path] or [image.url]"]),
        ("path_dictionary", "[image.bytes]", ["Dictionary", "use [image.path] or [image.url]"]),
        ("number", "[image.bytes]", ["Int64", "[image.bytes] takes binary values"]),
        ("bytes_binary", &root(), ["Binary", "use [image.bytes]"]),
        ("bytes_fixed", &root(), ["FixedSizeBinary", "use [image.bytes]"]),
    ] {
        let source = parquet(&table, column, &text);
        let ran = run(dir, "wrong", (&source, image), COLUMNS);
        assert_eq!(ran.code, 2, "{column}: {}", ran.stderr);
        for says in says.into_iter().chain([column, "types.parquet"]) {
            assert!(ran.stderr.contains(says), "{column}: {}", ran.stderr);
        }
    }
}

#[test]
fn folders_of_keys_are_columns_and_lists_name_files() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let captions = sample().join("captions.parquet").display().to_string();
    if !oracle("inputs.py", ["hive".to_owned(), captions, at("")]) {
        return;
    }
    let source = parquet(&dir.path().join("hive"), "image_path", "\"caption\"");
    run(dir.path(), "hive_out", (&source, &root()), COLUMNS).ok();
    assert!(oracle("inputs.py", ["check-hive".to_owned(), at(""), at("hive_out")]));

    fs::write(at("list.txt"), "hive/year=2023\nhive/year=2024/**/*.parquet\n").expect("written");
    let plan = |path: &str, hive: &str| {
        let set = [format!("source.parquet.path={path}"), format!("source.parquet.hive={hive}")];
        clipmill(["plan", &at("hive_out.toml"), "--set", &set[0], "--set", &set[1]])
    };
    let listed = plan(&format!("\"@{}\"", at("list.txt")), "auto").ok().stdout;
    assert!(listed.contains("6 parts, 30 rows"), "{listed}");
    // Beneath what is given, the years are no folders' names.
    assert!(listed.contains(" month ") && !listed.contains(" year "), "{listed}");
    let two = format!("[\"{}\", \"{}\"]", at("hive/year=2024"), at("hive/year=2023"));
    let first = plan(&two, "true").ok().stdout;
    assert!(first.find("year=2024") < first.find("year=2023"), "{first}");
    for (path, hive, says) in [
        (at("hive"), "false", "no Parquet files"),
        (captions_path(), "true", "named key=value"),
        (format!("[\"{}\", \"{}\"]", at("hive"), at("hive/**/*.parquet")), "auto", "twice"),
    ] {
        let ran = plan(&path, hive);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
}

fn captions_path() -> String {
    sample().join("captions.parquet").display().to_string()
}
