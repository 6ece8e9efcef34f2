//! Bad input, one row a case: what the user typed, the exit code and what the message names.
//!
//! Every message has to name the file, the column or the key that is wrong. Bad rows are data:
//! the run ends well and says so in `status`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::error::Error;
use clipmill::files::Lock;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use rayon::prelude::*;

use crate::common::{self, Ran, clipmill, corpora, oracle, root, sample, scratch};

const SAMPLE: &str = "pipelines/sample.toml";

fn run(args: &[&str]) -> Ran {
    clipmill([&["run", SAMPLE], args].concat())
}

/// Writes a table of `id`, `image_path` and `caption`.
fn write_table(path: &Path, rows: &[(Option<&str>, Option<&str>)]) {
    let fields =
        [("id", DataType::Int32), ("image_path", DataType::Utf8), ("caption", DataType::Utf8)];
    let fields: Vec<_> = fields.map(|(name, of)| Field::new(name, of, true)).to_vec();
    let ids = Int32Array::from_iter_values(0..rows.len() as i32);
    let images = StringArray::from_iter(rows.iter().map(|row| row.0));
    let captions = StringArray::from_iter(rows.iter().map(|row| row.1));
    let columns: Vec<std::sync::Arc<dyn Array>> =
        vec![std::sync::Arc::new(ids), std::sync::Arc::new(images), std::sync::Arc::new(captions)];
    let batch = RecordBatch::try_new(Schema::new(fields).into(), columns).expect("a batch");
    let file = fs::File::create(path).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

/// `status` and `error_message` of every row of a run's only part.
fn statuses(output: &Path) -> Vec<(String, Option<String>)> {
    let file = fs::File::open(output.join("part-00000.parquet")).expect("a part");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    // The input's own columns may be no text.
    let names = ["status", "error_message"];
    let mask = ProjectionMask::columns(reader.parquet_schema(), names);
    let reader = reader.with_projection(mask).build();
    let mut found = Vec::new();
    for batch in reader.expect("a reader") {
        let batch = batch.expect("a batch");
        let words = batch.column_by_name("status").expect("there").as_string::<i32>();
        let messages = batch.column_by_name("error_message").expect("there").as_string::<i32>();
        found.extend((0..batch.num_rows()).map(|row| {
            let message = messages.is_valid(row).then(|| messages.value(row).to_owned());
            (words.value(row).to_owned(), message)
        }));
    }
    found
}

/// One bad setting or input.
struct Case {
    name: &'static str,
    args: Vec<String>,
    code: i32,
    /// Each must be in the message.
    says: Vec<&'static str>,
}

fn case(name: &'static str, args: &[&str], code: i32, says: &[&'static str]) -> Case {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Case { name, args, code, says: says.to_vec() }
}

#[test]
fn every_bad_input_is_named_with_its_exit_code() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("text.parquet"), "this is not Parquet, only long enough").expect("written");
    let whole = fs::read(sample().join("captions.parquet")).expect("the sample");
    fs::write(at("cut.parquet"), &whole[..whole.len() / 2]).expect("written");
    fs::write(at("tiny.parquet"), "PAR1").expect("written");
    fs::create_dir(at("empty")).expect("made");
    fs::create_dir(at("taken")).expect("made");
    fs::write(at("taken/notes.txt"), "mine").expect("written");
    fs::write(at("file"), "").expect("written");
    fs::create_dir(at("mixed")).expect("made");
    fs::copy(sample().join("captions.parquet"), at("mixed/a.parquet")).expect("copied");
    write_table(Path::new(&at("mixed/b.parquet")), &[]);
    fs::write(at("typo.toml"), "version = 1\n[source.parquet]\npath = \"x\"\nimgae = \"y\"\n")
        .expect("written");
    fs::write(at("kind.toml"), "version = 1\n[source.csv]\npath = \"x\"\n").expect("written");
    fs::write(at("broken.toml"), "version = \n").expect("written");
    let out = &at("out");
    let with = |input: &str| vec!["--input".to_owned(), at(input), "--output".into(), out.clone()];
    let input = |name, file: &str, code, says: &[&'static str]| Case {
        name,
        args: with(file),
        code,
        says: says.to_vec(),
    };
    let set = |name, setting: &str, code, says: &[&'static str]| {
        case(name, &["--output", out, "--set", setting], code, says)
    };
    let cases = [
        input("no such file", "none.parquet", 2, &["none.parquet", "does not exist"]),
        input("not Parquet", "text.parquet", 1, &["text.parquet", "Parquet", "PAR1"]),
        input("cut Parquet", "cut.parquet", 1, &["cut.parquet", "Parquet"]),
        input("a few bytes", "tiny.parquet", 1, &["tiny.parquet", "Parquet"]),
        input("empty folder", "empty", 2, &["empty", "no Parquet files"]),
        input("empty glob", "empty/*.parquet", 2, &["empty/*.parquet", "no Parquet files"]),
        input("columns differ", "mixed", 2, &["a.parquet", "b.parquet", "\"id\" Utf8", "Int32"]),
        set(
            "wrong column",
            "source.parquet.image=image_pth",
            2,
            &["captions.parquet", "no column \"image_pth\"", "did you mean \"image_path\"?"],
        ),
        set("no image column", "source.parquet.image=zzz", 2, &["it has id, image_path, caption"]),
        set("unknown key", "sink.parquet.rows=5", 2, &["sink.parquet.rows=5", "unknown field"]),
        set("wrong value", "model.clip.precision=f8", 2, &["precision=f8", "unknown variant"]),
        set("wrong version", "version=9", 2, &["version", "9"]),
        set("collision", "columns.caption=cosine", 2, &["\"caption\"", "already a column"]),
        set("no image root", "image.path.root=nowhere", 2, &["nowhere", "does not exist"]),
        set("no model", "model.clip.dir=nowhere", 2, &["nowhere"]),
        set("f16 on a CPU", "model.clip.precision=f16", 2, &["f16", "CPU"]),
        set("not a device", "run.device=gpu", 2, &["gpu", "cuda:N"]),
        case("set without value", &["--set", "a.b"], 2, &["a.b", "key=value"]),
        case("output is a file", &["--output", &at("file")], 1, &["file", "output"]),
        case("output exists", &["--output", &at("taken")], 2, &["taken", "notes.txt", "--output"]),
    ];
    for case in cases {
        check(&case, &[&["run".to_owned(), SAMPLE.to_owned()][..], &case.args].concat());
        assert!(!Path::new(out).exists(), "{}: nothing may be left behind", case.name);
    }
    let pipelines = [
        case("no pipeline", &[&at("none.toml")], 2, &["none.toml", "does not exist"]),
        case("typo in a key", &[&at("typo.toml")], 2, &["typo.toml", "line 4, column 1", "imgae"]),
        case("unknown kind", &[&at("kind.toml")], 2, &["kind.toml", "line 2, column 9", "csv"]),
        case("not TOML", &[&at("broken.toml")], 2, &["broken.toml", "line 1"]),
        case("no argument", &[], 2, &["PIPELINE.toml"]),
    ];
    for case in pipelines {
        check(&case, &[&["run".to_owned()][..], &case.args].concat());
    }
}

fn check(case: &Case, args: &[String]) {
    let ran = clipmill(args);
    assert_eq!(ran.code, case.code, "{}: {}", case.name, ran.stderr);
    for says in &case.says {
        assert!(ran.stderr.contains(says), "{}: no {says:?} in: {}", case.name, ran.stderr);
    }
    assert!(!ran.stderr.contains("panicked"), "{}: {}", case.name, ran.stderr);
}

#[test]
fn a_column_of_the_wrong_type_is_named_with_its_type() {
    let dir = scratch();
    let table = dir.path().join("table.parquet");
    write_table(&table, &[(Some("a"), Some("b"))]);
    let (table, out) = (table.display().to_string(), dir.path().join("out").display().to_string());
    let args = ["--input", &table, "--output", &out, "--set", "source.parquet.image=id"];
    let ran = run(&args);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("column \"id\"") && ran.stderr.contains("Int32"), "{}", ran.stderr);
}

#[test]
fn an_output_folder_that_cannot_be_written_is_found_before_the_model_is_read() {
    let dir = scratch();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).expect("made");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o500)).expect("locked");
    if fs::write(locked.join("probe"), "").is_ok() {
        // Root may write anywhere; /proc refuses everybody.
        let ran = run(&["--output", "/proc/clipmill", "--set", "model.clip.dir=nowhere"]);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stderr.contains("/proc"), "{}", ran.stderr);
        return;
    }
    let out = locked.join("out").display().to_string();
    let ran = run(&["--output", &out, "--set", "model.clip.dir=nowhere"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("locked"), "{}", ran.stderr);
}

#[test]
fn an_output_made_differently_is_refused_and_says_what_differs() {
    let dir = scratch();
    let out = dir.path().join("out").display().to_string();
    run(&["--output", &out, "--limit", "5"]).ok();
    let ran = run(&["--output", &out, "--limit", "5", "--set", "sink.parquet.embeddings=f16"]);
    assert_eq!(ran.code, 2);
    for says in ["sink.parquet.embeddings", "f32", "f16", "--output"] {
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
}

#[test]
fn a_second_run_on_one_output_is_refused_at_once() {
    let dir = scratch();
    let _held = Lock::take(dir.path()).expect("free");
    let ran = run(&["--output", &dir.path().display().to_string()]);
    assert_eq!(ran.code, 73, "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("process {}", std::process::id())), "{}", ran.stderr);
}

/// The loader contract: what an image column may hold, and the status that it gives.
#[test]
fn bad_rows_are_kept_with_their_status() {
    let dir = scratch();
    let images = dir.path().join("images");
    fs::create_dir_all(images.join("folder")).expect("made");
    let at = |name: &str| images.join(name);
    let good = fs::read(sample().join("images/003-1f31c.png")).expect("an image");
    let jpeg = fs::read(sample().join("images/001-1f4cf.jpg")).expect("an image");
    fs::write(at("good.png"), &good).expect("written");
    fs::write(at("cut.jpg"), &jpeg[..jpeg.len() / 2]).expect("written");
    fs::write(at("empty.png"), "").expect("written");
    fs::write(at("text.png"), "no picture at all").expect("written");
    fs::write(dir.path().join("outside.png"), &good).expect("written");
    symlink("../outside.png", at("out.png")).expect("linked");
    symlink("good.png", at("in.png")).expect("linked");
    symlink("loop.png", at("loop.png")).expect("linked");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe.png"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .expect("a FIFO");
    let absolute = at("good.png").display().to_string();
    let cases: Vec<(Option<&str>, Option<&str>, &str)> = vec![
        (Some("good.png"), Some("moon"), "ok"),
        (Some("in.png"), Some("moon"), "ok"),
        (None, Some("moon"), "image_path_missing"),
        (Some(""), Some("moon"), "image_path_missing"),
        (Some("none.png"), Some("moon"), "image_missing"),
        (Some("folder"), Some("moon"), "image_refused"),
        (Some("pipe.png"), Some("moon"), "image_refused"),
        (Some("../outside.png"), Some("moon"), "image_refused"),
        (Some("../nothing.png"), Some("moon"), "image_refused"),
        (Some("out.png"), Some("moon"), "image_refused"),
        (Some(&absolute), Some("moon"), "image_refused"),
        (Some("a\0b"), Some("moon"), "image_refused"),
        (Some("empty.png"), Some("moon"), "image_undecodable"),
        (Some("text.png"), Some("moon"), "image_undecodable"),
        (Some("cut.jpg"), Some("moon"), "image_truncated"),
        (Some("good.png"), None, "caption_missing"),
        (Some("good.png"), Some(""), "caption_empty"),
        (Some("good.png"), Some(" \n\t"), "caption_empty"),
        (None, None, "image_path_missing"),
    ];
    let rows: Vec<_> = cases.iter().map(|(image, caption, _)| (*image, *caption)).collect();
    let table = dir.path().join("table.parquet");
    write_table(&table, &rows);
    let out = dir.path().join("out");
    let root = format!("image.path.root={}", images.display());
    let paths = [table.display().to_string(), out.display().to_string()];
    let args = ["--input", &paths[0], "--output", &paths[1], "--set", &root];
    run(&args).ok();
    let found = statuses(&out);
    assert_eq!(found.len(), cases.len());
    for ((image, caption, wanted), (status, message)) in cases.iter().zip(&found) {
        assert_eq!(status, wanted, "{image:?} {caption:?}: {message:?}");
        assert_eq!(message.is_none(), *wanted == "ok", "{image:?} {caption:?}");
    }
    // Whether a forbidden target exists must not be learned from the message.
    let without_name =
        |index: usize, name: &str| found[index].1.clone().map(|m| m.replace(name, ""));
    assert_eq!(without_name(7, "outside"), without_name(8, "nothing"));
    assert!(found[18].1.as_ref().is_some_and(|both| both.contains("; ")), "{:?}", found[18]);
}

#[test]
fn max_failed_decides_the_exit_code_and_not_the_output() {
    let dir = scratch();
    for (index, (most, code)) in [("5", 0), ("4", 3), ("1%", 3), ("2%", 0)].iter().enumerate() {
        let out = dir.path().join(index.to_string()).display().to_string();
        let ran = run(&["--output", &out, "--max-failed", most]);
        assert_eq!(ran.code, *code, "{most}: {}", ran.stderr);
        assert_eq!(statuses(Path::new(&out)).len(), 269);
    }
}

#[test]
fn fail_stops_at_the_first_bad_row_and_names_it() {
    let dir = scratch();
    let out = dir.path().join("out");
    let output = out.display().to_string();
    let ran = run(&["--output", &output, "--set", "sink.parquet.on_row_error=fail"]);
    assert_eq!(ran.code, 1);
    for says in ["row ", "captions.parquet", "on_row_error"] {
        assert!(ran.stderr.contains(says), "{}", ran.stderr);
    }
    assert!(!out.join("part-00000.parquet").exists());
}

#[test]
fn hostile_parquet_never_ends_the_process() {
    let Some(corpus) = corpora("parquet") else { return };
    let dir = scratch();
    let mut files = Vec::new();
    collect(&corpus, &mut files);
    assert!(files.len() > 200, "{} files", files.len());
    let check = |(index, file): (usize, &PathBuf)| {
        let out = dir.path().join(index.to_string()).display().to_string();
        let input = file.display().to_string();
        let pipeline = dir.path().join(format!("{index}.toml"));
        let model = root().join("sample_data/model");
        let text = format!(
            "version = 1\n[source.parquet]\npath = {input:?}\n[model.clip]\ndir = {model:?}\n\
             [columns]\n\"clipmill status\" = \"status\"\n\"clipmill error\" = \"error_message\"\n\
             [sink.parquet]\npath = {out:?}\n"
        );
        fs::write(&pipeline, text).expect("written");
        // In this process, so that LibTorch is loaded once for all; an abort ends the test.
        let pipeline = pipeline.display().to_string();
        let cli = Cli::parse_from(["clipmill", "run", &pipeline, "--quiet"]);
        let Err(error) = dispatch(cli.command) else { return true };
        assert!(matches!(error.exit_code(), 1 | 2), "{input}: {error}");
        assert!(error.to_string().contains(&input), "{input}: {error}");
        assert!(!matches!(error, Error::StagePanicked { .. }), "{input}: {error}");
        false
    };
    let read = files.par_iter().enumerate().filter(|found| check(*found)).count();
    // Some are good: a run that refused everything would prove nothing.
    assert!(read > 50, "{read} of {} files could be read", files.len());
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}

/// What `oracle/hostile.py` makes, and pyarrow or a hand wrote.
#[test]
fn tables_that_exhaust_readers_are_refused_or_read_in_bounded_memory() {
    let dir = scratch();
    if !oracle("hostile.py", [dir.path()]) {
        return;
    }
    let run = |name: &str| {
        let input = dir.path().join(format!("{name}.parquet")).display().to_string();
        let output = dir.path().join(name);
        (run(&["--input", &input, "--output", &output.display().to_string()]), output)
    };
    for (name, code, says) in [
        ("row", 1, "row 0 of"),
        ("list", 1, "has a row of more than 16777216 values"),
        ("nested-60", 2, "no column \"image_path\""),
        ("nested-61", 1, "nested more than 60 deep"),
        ("nested-350", 1, "nested more than 60 deep"),
        ("nested-5000", 1, "reading its footer ended the reader (signal 6)"),
        ("nested-100000", 1, "reading its footer ended the reader (signal 6)"),
        ("rows-negative", 1, "its footer claims -1 rows"),
        ("rows-huge", 1, "its footer claims 4611686018427387904 rows"),
        ("checksum", 1, "Page CRC checksum mismatch"),
        ("rows-too-many", 1, "its footer claims 5 rows, and its row groups hold 0"),
    ] {
        let (ran, _) = run(name);
        assert_eq!(ran.code, code, "{name}: {}", ran.stderr);
        let is_named = ran.stderr.contains(says) && ran.stderr.contains(name);
        assert!(is_named, "{name}: {}", ran.stderr);
    }
    // 8 GiB of values in about a kilobyte; written out they took 8 GiB, as views one value. And
    // long lists, none of them too long.
    for (name, rows) in [("dictionary", 128), ("lists", 70)] {
        let (ran, output) = run(name);
        ran.ok();
        let report = fs::read_to_string(output.join("run_report.json")).expect("a report");
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!(report["ok"], rows, "{name}");
        let peak = report["this_run"]["peak_memory"].as_u64().expect("Linux tells");
        assert!(peak < 1 << 30, "{name}: {peak} bytes");
        fs::remove_dir_all(output).expect("removed");
    }
}

#[test]
fn captions_that_are_not_utf8_are_rows_of_their_own_and_come_back_as_they_were() {
    let dir = scratch();
    if !oracle("hostile.py", [dir.path()]) {
        return;
    }
    let (input, output) = (dir.path().join("text.parquet"), dir.path().join("out"));
    let paths = [&input, &output].map(|path| path.display().to_string());
    run(&["--input", &paths[0], "--output", &paths[1]]).ok();
    let words: Vec<_> = statuses(&output).into_iter().map(|(word, _)| word).collect();
    let invalid = "caption_invalid";
    assert_eq!(words, ["ok", invalid, "caption_missing", invalid, "caption_empty", "ok"]);
    assert!(oracle("same_bytes.py", [&input, &output.join("part-00000.parquet")]));
    // What shows tables shows these.
    let shown = clipmill(["inspect", &paths[1]]).ok().stdout;
    assert!(shown.contains("caption_invalid"), "{shown}");
}

#[test]
fn no_more_open_files_is_the_machines_fault_and_no_rows() {
    let dir = scratch();
    let output = dir.path().join("out");
    let mut seen = 0;
    for most in 4..40 {
        let program = env!("CARGO_BIN_EXE_clipmill");
        let script =
            format!("ulimit -n {most}; exec {program} run {SAMPLE} --output {output:?} -q");
        let ran = std::process::Command::new("sh")
            .args(["-c", &script])
            .current_dir(root())
            .output()
            .expect("a shell");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(!said.contains("panicked"), "{said}");
        match ran.status.code() {
            Some(0) => break,
            // Below a few files the system's loader fails before the program begins.
            Some(127) => continue,
            code => assert_eq!(code, Some(75), "{most} files: {said}"),
        }
        assert!(said.contains("Too many open files"), "{said}");
        seen += 1;
    }
    assert!(seen > 2, "{seen} limits were too low");
    run(&["--output", &output.display().to_string()]).ok();
    assert!(statuses(&output).iter().all(|(word, _)| word != "image_unreadable"));
}

/// What a reader that has seen enough does to a program that prints: it ends quietly.
#[test]
fn nobody_reading_is_no_panic() {
    let dir = scratch();
    let output = dir.path().display().to_string();
    run(&["--output", &output]).ok();
    for args in [
        &["plan", "pipelines/sample.toml", "--json"][..],
        &["check", "pipelines/sample.toml"],
        &["inspect", &output],
        &["verify", &output],
        &["search", &output, "a red apple"],
        &["run", "pipelines/sample.toml", "--output", &output],
        &["completions", "bash"],
        &["--help"],
    ] {
        // Its reading end is closed before the program begins, so that its first line fails.
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = common::command(args);
        let ran = command.stdout(writer).output().expect("it starts");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(!said.contains("panicked"), "{args:?}: {said}");
        // Rust's programs ignore SIGPIPE, and this one takes it for no failure.
        assert_eq!(ran.status.code(), Some(0), "{args:?}: {said}");
    }
}
