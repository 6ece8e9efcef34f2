//! Where rows and images come from: tables that hold their images, every type of a column of text,
//! several paths, tar shards. What should come out is said by `datasets`, pyarrow, DuckDB and
//! `webdataset` (`oracle/embedded.py`, `oracle/inputs.py`).

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::common::{Ran, clipmill, command, oracle, sample, scratch};

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

/// A pipeline over shards, of all that a sample has.
fn shards(path: &str) -> String {
    format!("[source.webdataset]\npath = {path:?}\ncaption = [\"txt\", \"json.caption\"]")
}

#[test]
fn shards_give_the_samples_that_webdataset_gives() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let captions = [captions_path(), sample().display().to_string(), at("")];
    if !oracle("inputs.py", [&["shards".to_owned()], &captions[..]].concat()) {
        return;
    }
    let source = shards(&at("{00000..00002}.tar"));
    let columns = format!("{COLUMNS}\nother = {{ kind = \"cosine\", caption = \"json.caption\" }}");
    run(dir.path(), "out", (&source, ""), &columns).ok();
    let paths = [0, 1, 2].map(|shard| at(&format!("{shard:05}.tar")));
    assert!(oracle("inputs.py", [&["check-shards".to_owned(), at("out")], &paths[..]].concat()));

    // Part by part, each row has the image of its own shard.
    let mut worker = command(["worker", &at("out.toml"), "--output", &at("by-worker"), "--quiet"]);
    let worker = worker.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
    let mut worker = worker.expect("it starts");
    let parts = |out: &str| {
        let names = fs::read_dir(at(out)).expect("an output").map(|e| e.expect("one").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("part-")).collect::<BTreeSet<_>>()
    };
    let wanted = parts("out");
    assert!(wanted.len() >= 3, "{wanted:?}");
    let mut stdin = worker.stdin.take().expect("piped");
    (0..wanted.len()).for_each(|n| writeln!(stdin, "{{\"part\": {n}}}").expect("it listens"));
    drop(stdin);
    assert!(worker.wait().expect("it ends").success());
    assert_eq!(parts("by-worker"), wanted);
    for name in wanted {
        let bytes = |out: &str| fs::read(Path::new(&at(out)).join(&name)).expect("a part");
        assert!(bytes("by-worker") == bytes("out"), "{name} is another one");
    }

    // The same rows in parts that begin within a shard, batch by batch; then a run that goes on.
    let folder = shards(&at(""));
    let cut =
        ["run", &at("cut.toml"), "--set", "sink.parquet.rows_per_part=3", "--batch-size", "2"];
    run(dir.path(), "cut", (&folder, ""), &columns).ok();
    fs::remove_dir_all(at("cut")).expect("it was made");
    clipmill(cut).ok();
    assert!(oracle("inputs.py", [&["check-shards".to_owned(), at("cut")], &paths[..]].concat()));
    let whole = fs::read(at("cut/part-00004.parquet")).expect("a part");
    fs::remove_file(at("cut/part-00004.parquet")).expect("removed");
    clipmill(cut).ok();
    assert!(fs::read(at("cut/part-00004.parquet")).expect("a part") == whole);
    let limited = clipmill(["plan", &at("cut.toml"), "--limit", "11", "--input", &paths[2]]).ok();
    assert!(limited.stdout.contains("8 rows"), "{}", limited.stdout);

    // What is damaged is named, with the shard and the byte.
    let good = fs::read(&paths[1]).expect("a shard");
    let last = good.iter().rposition(|byte| *byte != 0).expect("not all are") + 1;
    let padded = last.next_multiple_of(512);
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    let twice = [&good[..padded], &good[..]].concat();
    for (bytes, says) in [
        (&good[..padded], ""),
        (&good[..padded - 600], "it was cut"),
        (&good[..700], "it was cut"),
        (&good[..0], "it is empty"),
        (&flipped[..], "at byte 0: the checksum"),
        (b"\x1f\x8b and what gzip gives", "gzip"),
        (&twice[..], ""),
    ] {
        fs::write(at("bad.tar"), bytes).expect("written");
        let ran = clipmill(["plan", &at("cut.toml"), "--input", &at("bad.tar")]);
        assert_eq!(ran.code, i32::from(!says.is_empty()), "{says}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{says}: {}", ran.stderr);
        assert!(says.is_empty() || ran.stderr.contains("bad.tar"), "{}", ran.stderr);
    }
    for (set, says) in [
        ("image.path.root=\"/\"", "brings its images"),
        ("source.webdataset.caption=\"text\"", "its samples have jpg, json"),
        ("source.webdataset.image=\"gif\"", "no column \"gif\""),
        ("source.webdataset.path=\"none.tar\"", "does not exist"),
    ] {
        let ran = clipmill(["plan", &at("cut.toml"), "--set", set]);
        assert_eq!(ran.code, 2, "{set}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{set}: {}", ran.stderr);
    }
}

#[test]
fn a_folder_is_a_row_an_image_with_the_caption_beside_it() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let images = dir.path().join("images");
    fs::create_dir(&images).expect("a folder");
    let made = ["folder".to_owned(), captions_path(), sample().display().to_string(), at("images")];
    if !oracle("inputs.py", made) {
        return;
    }
    let source =
        format!("[source.folder]\npath = {images:?}\ncaption = [\"txt\", \"json.caption\"]");
    let columns = format!("{COLUMNS}\nother = {{ kind = \"cosine\", caption = \"json.caption\" }}");
    run(dir.path(), "out", (&source, ""), &columns).ok();
    assert!(oracle("inputs.py", ["check-folder".to_owned(), at("out"), at("images")]));

    // In parts and small batches the same; nothing is done twice, and a file more is another input.
    let cut =
        ["run", &at("cut.toml"), "--set", "sink.parquet.rows_per_part=4", "--batch-size", "3"];
    run(dir.path(), "cut", (&source, ""), &columns).ok();
    fs::remove_dir_all(at("cut")).expect("it was made");
    clipmill(cut).ok();
    assert!(oracle("inputs.py", ["check-folder".to_owned(), at("cut"), at("images")]));
    assert!(clipmill(cut).ok().stdout.contains("complete already"));
    fs::write(at("images/more.txt"), "one more").expect("written");
    let ran = clipmill(cut);
    assert!(ran.code == 2 && ran.stderr.contains("was made differently"), "{}", ran.stderr);
    for (set, says) in [
        ("image.path.root=\"/\"", "brings its images"),
        ("source.folder.caption=\"text\"", "its samples have"),
        ("source.folder.path=\"none\"", "does not exist"),
    ] {
        let ran = clipmill(["plan", &at("cut.toml"), "--set", set]);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{set}: {}", ran.stderr);
    }
    fs::remove_file(at("images/more.txt")).expect("removed");
    for (to, name, says) in [
        ("../cut.toml", "out.txt", "may not lead out"),
        ("..", "up", "may not lead out"),
        (".", "round", "is it in itself"),
    ] {
        let link = images.join(name);
        std::os::unix::fs::symlink(to, &link).expect("linked");
        let ran = clipmill(["plan", &at("cut.toml")]);
        assert!(ran.code == 2 && ran.stderr.contains(says), "{name}: {}", ran.stderr);
        fs::remove_file(link).expect("removed");
    }
    fs::copy(images.join("003.x.txt"), images.join("003.x.TXT")).expect("copied");
    let ran = clipmill(["plan", &at("cut.toml")]);
    assert!(ran.code == 2 && ran.stderr.contains("letters' case"), "{}", ran.stderr);
}

#[test]
fn tables_of_img2dataset_have_their_images_in_the_shards_beside_them() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir(dir.path().join("data")).expect("a folder");
    let made =
        ["img2dataset".to_owned(), captions_path(), sample().display().to_string(), at("data")];
    if !oracle("inputs.py", made) {
        return;
    }
    let source = parquet(&dir.path().join("data"), "key", "\"caption\"");
    let columns = format!("{COLUMNS}\nclip_status = \"status\"\nclip_error = \"error_message\"");
    run(dir.path(), "out", (&source, "[image.shard]"), &columns).ok();
    assert!(oracle("inputs.py", ["check-img2dataset".to_owned(), at("out"), at("data")]));
    let cut =
        ["run", &at("cut.toml"), "--set", "sink.parquet.rows_per_part=5", "--batch-size", "2"];
    run(dir.path(), "cut", (&source, "[image.shard]"), &columns).ok();
    fs::remove_dir_all(at("cut")).expect("it was made");
    clipmill(cut).ok();
    assert!(oracle("inputs.py", ["check-img2dataset".to_owned(), at("cut"), at("data")]));
    // Another shard under the table is another input, and none is an error.
    fs::copy(at("data/00000.tar"), at("data/00001.tar")).expect("copied");
    let ran = clipmill(cut);
    assert!(ran.code == 2 && ran.stderr.contains("headers sha256"), "{}", ran.stderr);
    fs::remove_file(at("data/00001.tar")).expect("removed");
    let ran = clipmill(cut);
    assert!(ran.code == 2 && ran.stderr.contains("the shard"), "{}", ran.stderr);
}

#[test]
fn lists_of_images_and_captions_have_a_score_each() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    if !oracle("inputs.py", ["lists".to_owned(), captions_path(), at("")]) {
        return;
    }
    let columns = "similarity = \"cosine\"\nimage_embedding = \"image_embedding\"\n\
                   text_embedding = \"text_embedding\"\nimage_width = \"image_width\"\n\
                   caption_tokens = \"caption_tokens\"";
    for (name, image, caption) in [
        ("texts", "image", "texts"),
        ("images", "images", "text"),
        ("both", "images", "texts"),
        ("pair", "image", "pair"),
    ] {
        for (table, out) in
            [("lists", name.to_owned()), (&format!("flat_{name}"), format!("flat_{name}"))]
        {
            let table = dir.path().join(format!("{table}.parquet"));
            let source = parquet(&table, image, &format!("{caption:?}"));
            run(dir.path(), &format!("out_{out}"), (&source, &root()), columns).ok();
        }
    }
    assert!(oracle("inputs.py", ["check-lists".to_owned(), at("")]));
    let source = parquet(&dir.path().join("lists.parquet"), "image", "[\"texts\", \"text\"]");
    let ran = run(dir.path(), "best", (&source, &root()), "best = \"best_cosine\"");
    assert!(ran.code == 2 && ran.stderr.contains("columns of their own"), "{}", ran.stderr);
    // What is made of a batch is bounded by its elements, in batches of any size the same.
    let few = ["run", &at("out_both.toml"), "--output", &at("few"), "--batch-size", "3"];
    clipmill(few).ok();
    fs::remove_dir_all(at("out_both")).expect("it was made");
    fs::rename(at("few"), at("out_both")).expect("renamed");
    assert!(oracle("inputs.py", ["check-lists".to_owned(), at("")]));
    let ran = clipmill([
        "run",
        &at("out_pair.toml"),
        "--output",
        &at("x"),
        "--input",
        &at("long.parquet"),
    ]);
    assert!(ran.code == 1 && ran.stderr.contains("more than 1024"), "{}", ran.stderr);
}
