//! An output that follows its input, night after night: what is new, changed or gone is done and nothing
//! else; and what a finished output is held against.
//!
//! A fresh run over the final state says what has to be there, and `oracle/incremental.py` reads
//! inputs and output with pyarrow.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::job::{Faulty, image_paths, images_with_killers, library, random};
use crate::common::{Ran, clipmill, command, oracle, sample, scratch};

/// The sample's table.
fn rows() -> RecordBatch {
    let file = File::open(sample().join("captions.parquet")).expect("the sample");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    let batches = reader.with_batch_size(1000).build().expect("a reader");
    batches.map(|batch| batch.expect("rows")).next().expect("one batch")
}

/// Writes some of its rows as a file, as who delivers data does: whole, under its name.
fn deliver(path: &Path, rows: &RecordBatch, from: usize, n: usize) {
    let beside = path.with_extension("tmp");
    let file = File::create(&beside).expect("created");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows.slice(from, n)).expect("written");
    writer.close().expect("closed");
    fs::rename(beside, path).expect("renamed");
}

fn args(inputs: &Path, output: &Path, more: &[&str]) -> Vec<String> {
    let mut args = vec!["run".to_owned(), "pipelines/sample.toml".to_owned()];
    args.extend(["--input".to_owned(), inputs.display().to_string()]);
    args.extend(["--output".to_owned(), output.display().to_string()]);
    args.extend(["--set", "sink.parquet.rows_per_part=8", "--threads", "2"].map(str::to_owned));
    args.extend(["--set", "model.clip.precision=f32"].map(str::to_owned));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

/// The parts of an output by name.
fn parts(output: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(output).expect("an output");
    let mut parts: Vec<_> = entries
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, _)| name.starts_with("part-"))
        .map(|(name, path)| (name, fs::read(path).expect("a part")))
        .collect();
    parts.sort();
    parts
}

/// The same, whatever their numbers.
fn contents(output: &Path) -> BTreeSet<Vec<u8>> {
    let parts = parts(output);
    let contents: BTreeSet<_> = parts.iter().map(|(_, bytes)| bytes.clone()).collect();
    assert_eq!(contents.len(), parts.len(), "two parts are the same");
    contents
}

/// The parts that the manifest has of files that are not there any more.
fn recorded_and_gone(output: &Path, files: &[PathBuf]) -> Vec<Vec<u8>> {
    let Ok(text) = fs::read(output.join("_manifest.json")) else { return Vec::new() };
    let manifest: Value = serde_json::from_slice(&text).expect("JSON");
    let recorded = manifest["manifest"]["parts"].as_object().expect("parts");
    let is_gone = |record: &Value| {
        let input = Path::new(record["input"].as_str().expect("a name"));
        !files.iter().any(|file| file.file_name() == input.file_name())
    };
    let gone = recorded.iter().filter(|(_, record)| is_gone(record));
    gone.map(|(name, _)| fs::read(output.join(name)).expect("a part")).collect()
}

fn report(output: &Path) -> Value {
    let text = fs::read(output.join("run_report.json")).expect("a report");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn thirty_nights_of_changes_and_kills_equal_one_run_over_what_is_there_in_the_end() {
    let Some(library) = library("faults") else { return };
    let dir = scratch();
    let (inputs, output, log) =
        (dir.path().join("inputs"), dir.path().join("out"), dir.path().join("log"));
    fs::create_dir(&inputs).expect("a folder");
    let rows = rows();
    let mut seed = 0;
    let mut below = |n: usize| {
        seed += 1;
        (random(seed) % n as u64) as usize
    };
    let mut names: Vec<PathBuf> = Vec::new();
    let (mut killed, mut edited, mut removed, mut stayed) = (0, 0, 0, 0);
    for night in 0..30 {
        for _ in 0..=below(2) {
            let (from, n) = (below(250), below(20));
            match below(4) {
                // Where it sorts among the others has nothing to do with when it comes.
                0 | 1 => {
                    let path = inputs.join(format!("{:04}-{night}.parquet", below(10_000)));
                    if !names.contains(&path) {
                        names.push(path.clone());
                    }
                    deliver(&path, &rows, from, n);
                }
                2 if !names.is_empty() => {
                    deliver(&names[below(names.len())], &rows, from, n);
                    edited += 1;
                }
                3 if names.len() > 3 => {
                    fs::remove_file(names.swap_remove(below(names.len()))).expect("removed");
                    removed += 1;
                }
                _ => {}
            }
        }
        if names.is_empty() {
            continue;
        }
        let prune: &[&str] = if below(2) == 0 { &["--prune"] } else { &[] };
        let args = args(&inputs, &output, &[&["--incremental"], prune].concat());
        let gone = recorded_and_gone(&output, &names);
        let _ = fs::remove_file(&log);
        let run = Faulty { library: &library, output: &output, log: &log };
        let fault = if below(3) > 0 { format!("{}:kill", 1 + below(60)) } else { String::new() };
        let ran = run.run(&fault, &args);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() || ran.status.signal() == Some(9), "{night}: {said}");
        killed += usize::from(!ran.status.success());
        if ran.status.success() && prune.is_empty() {
            let there = contents(&output);
            assert!(gone.iter().all(|part| there.contains(part)), "{night}: parts were lost");
            stayed += gone.len();
        }
    }
    let tried = [killed > 5, edited > 3, removed > 2, stayed > 0];
    assert_eq!(tried, [true; 4], "{killed}, {edited}, {removed}, {stayed}");
    clipmill(args(&inputs, &output, &["--incremental", "--prune"])).ok();
    clipmill(["verify".to_owned(), output.display().to_string()]).ok();

    let fresh = dir.path().join("fresh");
    clipmill(args(&inputs, &fresh, &[])).ok();
    assert!(contents(&output) == contents(&fresh), "other parts than those of a fresh run");
    let (grown, whole) = (report(&output), report(&fresh));
    for what in ["rows", "ok", "failed", "parts"] {
        assert_eq!(grown[what], whole[what], "{what}");
    }
    // A plain run finds nothing to do in it: it is the output of this input.
    let plain = clipmill(args(&inputs, &output, &[])).ok();
    assert!(plain.stdout.contains("complete already"), "{}", plain.stdout);
    let _ = oracle("incremental.py", [inputs.display().to_string(), output.display().to_string()]);
}

#[test]
fn what_came_is_added_what_changed_replaced_and_what_went_stays_until_it_is_pruned() {
    let dir = scratch();
    let (inputs, output) = (dir.path().join("inputs"), dir.path().join("out"));
    fs::create_dir(&inputs).expect("a folder");
    let input = |name: &str| inputs.join(name).with_extension("parquet");
    let rows = rows();
    deliver(&input("b"), &rows, 0, 10);
    deliver(&input("d"), &rows, 20, 20);
    let run =
        |more: &[&str]| clipmill(args(&inputs, &output, &[&["--incremental"], more].concat()));
    run(&[]).ok();
    let first = parts(&output);
    assert_eq!(first.len(), 5, "2 parts of b, 3 of d");

    // Before both: its parts come after theirs all the same.
    deliver(&input("a"), &rows, 50, 4);
    let grown = run(&[]).ok();
    assert!(grown.stderr.contains("1 file new, 0 changed, 0 gone"), "{}", grown.stderr);
    let second = parts(&output);
    assert_eq!((&second[..5], second.len()), (&first[..], 6));
    assert_eq!(second[5].0, "part-00005.parquet");

    // Fewer rows than before: of three parts two stay, with other rows.
    deliver(&input("d"), &rows, 100, 12);
    let changed = run(&[]).ok();
    assert!(changed.stderr.contains("0 files new, 1 changed, 0 gone"), "{}", changed.stderr);
    let third = parts(&output);
    let names = |parts: &[(String, Vec<u8>)]| -> Vec<String> {
        parts.iter().map(|(name, _)| name[5..10].to_owned()).collect()
    };
    assert_eq!(names(&third), ["00000", "00001", "00002", "00003", "00005"]);
    assert!(third[..2] == second[..2] && third[4] == second[5], "the others are as they were");
    assert!(third[2] != second[2] && third[3] != second[3], "the changed ones are new");

    fs::remove_file(input("b")).expect("removed");
    let stayed = run(&[]).ok();
    assert!(
        stayed.stderr.contains("the files of 2 parts are gone: they stay"),
        "{}",
        stayed.stderr
    );
    assert_eq!(parts(&output), third);
    // Also where nobody but they themselves tell of them, and whatever else comes.
    fs::remove_file(output.join("_manifest.json")).expect("removed");
    run(&[]).ok();
    assert_eq!(parts(&output), third);
    let other = ["--set", "sink.parquet.embeddings=f16", "--redo-changed"];
    let refused = run(&other);
    assert!(refused.code == 2 && refused.stderr.contains("2 parts are gone"), "{}", refused.stderr);
    let plain = clipmill(args(&inputs, &output, &["--redo-changed"]));
    assert_eq!(parts(&output), third, "{}", plain.stderr);
    // Who moved a file would have its rows twice.
    fs::rename(input("a"), input("moved")).expect("moved");
    let refused = run(&[]);
    assert!(refused.code == 2 && refused.stderr.contains("moved"), "{}", refused.stderr);
    fs::rename(input("moved"), input("a")).expect("moved");
    let again = run(&["--prune"]).ok();
    assert_eq!(names(&parts(&output)), ["00002", "00003", "00005"], "{}", again.stderr);
    assert_eq!(report(&output)["rows"], 16);
    clipmill(["verify".to_owned(), output.display().to_string()]).ok();

    // The parts tell of their places where the manifest is lost.
    fs::remove_file(output.join("_manifest.json")).expect("removed");
    deliver(&input("c"), &rows, 200, 3);
    run(&[]).ok();
    assert_eq!(names(&parts(&output)), ["00002", "00003", "00005", "00006"]);
    assert_eq!(parts(&output)[..2], third[2..4]);

    // Another setting is no growth.
    let other = ["--set", "sink.parquet.embeddings=f16"];
    let refused = run(&other);
    assert!(refused.code == 2 && refused.stderr.contains("sink.parquet.embeddings"));
    run(&[&other[..], &["--redo-changed"]].concat()).ok();
    assert_eq!(names(&parts(&output)), ["00002", "00003", "00005", "00006"]);
    assert_ne!(parts(&output)[0], third[2]);

    // New parts have no numbers that shares could agree on.
    deliver(&input("e"), &rows, 60, 3);
    let share = clipmill(args(&inputs, &output, &["--parts", "0", "--redo-changed"]));
    assert!(share.code == 2 && share.stderr.contains("1 of its parts are new"), "{}", share.stderr);
    // Usage.
    let stream = clipmill(args(Path::new("-"), &output, &["--incremental"]));
    assert!(stream.code == 2 && stream.stderr.contains("stream"), "{}", stream.stderr);
    for (more, says) in [
        (&["--prune"][..], "--incremental"),
        (&["--incremental", "--parts", "0"], "cannot be used with"),
    ] {
        let refused = clipmill(args(&inputs, &output, more));
        assert!(refused.code == 2 && refused.stderr.contains(says), "{}", refused.stderr);
    }
}

#[test]
fn a_night_with_nothing_new_opens_no_input_and_no_model() {
    let Some(library) = library("unreadable") else { return };
    let dir = scratch();
    let (inputs, output) = (dir.path().join("inputs"), dir.path().join("out"));
    fs::create_dir(&inputs).expect("a folder");
    let input = inputs.join("delivered.parquet");
    deliver(&input, &rows(), 0, 9);
    let log = dir.path().join("log");
    // A night on which a file cannot be read.
    let without = |name: &str, more: &[&str]| -> (Ran, bool) {
        let _ = fs::remove_file(&log);
        let mut night = command(args(&inputs, &output, &[&["--incremental"], more].concat()));
        night.env("LD_PRELOAD", &library).env("CLIPMILL_UNREADABLE", name);
        night.env("CLIPMILL_UNREADABLE_AFTER", "0").env("CLIPMILL_UNREADABLE_ERRNO", "5");
        night.env("CLIPMILL_UNREADABLE_LOG", &log);
        (Ran::of(night), log.exists())
    };
    let run = |more: &[&str]| clipmill(args(&inputs, &output, more));
    run(&["--incremental"]).ok();
    let made = parts(&output);
    for name in ["delivered.parquet", "tokenizer.json", "config.json"] {
        let (quiet, was_read) = without(name, &["--prune"]);
        let quiet = quiet.ok();
        assert!(quiet.stdout.contains("nothing is new") && !was_read, "{name}: {}", quiet.stdout);
    }
    assert_eq!(parts(&output), made);
    // Whoever looks into them does read them, as a file that was touched is.
    for name in ["delivered.parquet", "tokenizer.json"] {
        assert!(without(name, &["--retry-failed"]).1, "{name}");
    }
    let file = File::options().write(true).open(&input).expect("opened");
    file.set_modified(std::time::SystemTime::now()).expect("touched");
    let (refused, was_read) = without("delivered.parquet", &[]);
    assert!(refused.code == 75 && was_read, "{}", refused.stderr);
    let touched = run(&["--incremental"]).ok();
    assert!(touched.stderr.contains("0 files new, 1 changed, 0 gone"), "{}", touched.stderr);
    assert!(run(&["--incremental"]).ok().stdout.contains("nothing is new"));
    // So is a part that is not there, or a setting of a step.
    fs::remove_file(output.join("part-00001.parquet")).expect("removed");
    let mended = run(&["--incremental"]).ok();
    assert!(!mended.stdout.contains("nothing is new"), "{}", mended.stdout);
    assert_eq!(parts(&output).len(), made.len());
    let page = format!("report.out={:?}", dir.path().join("page.html").display().to_string());
    let reported = run(&["--incremental", "--set", &page]).ok();
    assert!(reported.stdout.contains("[report]"), "{}", reported.stdout);
    let quiet = run(&["--incremental", "--set", &page]).ok();
    assert!(!quiet.stdout.contains("[report]"), "{}", quiet.stdout);
}

#[test]
fn an_image_that_killed_a_night_is_found_when_other_files_have_come_meanwhile() {
    let dir = scratch();
    let Some(library) = library("killer") else { return };
    let (inputs, output) = (dir.path().join("inputs"), dir.path().join("out"));
    fs::create_dir(&inputs).expect("a folder");
    let rows = rows();
    let images = image_paths();
    images_with_killers(dir.path(), 'A', &[&images[3]]);
    let root = format!("image.path.root={:?}", dir.path().display().to_string());
    let night = || {
        let more = ["--incremental", "--set", &root];
        let mut night = command(args(&inputs, &output, &more));
        night.env("LD_PRELOAD", &library).output().expect("it starts")
    };
    deliver(&inputs.join("b.parquet"), &rows, 0, 8);
    assert_eq!(night().status.signal(), Some(6));
    // Its part is the second of the plan from here on.
    deliver(&inputs.join("a.parquet"), &rows, 200, 8);
    let went_on = night();
    let said = String::from_utf8_lossy(&went_on.stderr);
    assert!(went_on.status.success() && said.contains("it aborted (signal 6)"), "{said}");
    let n =
        images[..8].iter().chain(&images[200..208]).filter(|image| **image == images[3]).count();
    assert_eq!(report(&output)["failed"]["decoder_crash"], n);
}

#[cfg(target_os = "linux")]
#[test]
fn two_files_whose_names_are_one_in_the_output_are_refused() {
    let dir = scratch();
    let (inputs, output) = (dir.path().join("inputs"), dir.path().join("out"));
    fs::create_dir(&inputs).expect("a folder");
    for byte in [0xfe, 0xff] {
        let name = [b"night-", &[byte][..], b".parquet"].concat();
        deliver(&inputs.join(OsStr::from_bytes(&name)), &rows(), usize::from(byte) - 200, 4);
    }
    let refused = clipmill(args(&inputs, &output, &["--incremental"]));
    assert!(refused.code == 2 && refused.stderr.contains("night-"), "{}", refused.stderr);
    assert!(!output.exists());
}

#[test]
fn gates_tell_a_scheduler_by_their_exit_code_and_leave_the_output_complete() {
    let dir = scratch();
    let (inputs, output) = (dir.path().join("inputs"), dir.path().join("out"));
    fs::create_dir(&inputs).expect("a folder");
    let rows = rows();
    deliver(&inputs.join("a.parquet"), &rows, 0, 30);
    let run =
        |more: &[&str]| clipmill(args(&inputs, &output, &[&["--incremental"], more].concat()));
    // No earlier run, no drift.
    run(&["--min-median-similarity", "0.2", "--max-drift", "0"]).ok();
    let median = |report: &Value| {
        let quantiles = report["scores"][0]["quantiles"].as_array().expect("a list").clone();
        let median = quantiles.iter().find(|pair| pair[0] == 0.5).expect("a median");
        median[1].as_f64().expect("a number")
    };
    let before = median(&report(&output));
    let closed = |ran: Ran, says: &str| {
        assert!(ran.code == 4 && ran.stderr.contains(says), "{}: {}", ran.code, ran.stderr);
        assert!(output.join("_SUCCESS").exists(), "the output is complete");
    };
    closed(run(&["--min-median-similarity", "0.99"]), "the median of similarity is 0.");
    deliver(&inputs.join("b.parquet"), &rows, 100, 40);
    let more = run(&["--max-drift", "0.0001"]);
    let after = median(&report(&output));
    assert!((after - before).abs() > 0.0001, "{before} and {after}");
    closed(more, "similarity has drifted");
    // Asked again, the answer is the same; a wider gate is open.
    closed(run(&["--max-drift", "0.0001"]), "similarity has drifted");
    // Nor is the bad one what the next is compared with: only one that was let pass.
    deliver(&inputs.join("c.parquet"), &rows, 140, 1);
    closed(run(&["--max-drift", "0.0001"]), "similarity has drifted");
    run(&["--max-drift", "2"]).ok();
    run(&["--max-drift", "0.0001"]).ok();
    let failed = run(&["--max-failed", "0"]);
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    // `finalize` asks, too.
    let gate = ["--set", "run.min_median_similarity=0.99"];
    let finalize = [&["finalize".to_owned()], &args(&inputs, &output, &gate)[1..]].concat();
    closed(clipmill(finalize), "the median of similarity is 0.");
    for (setting, says) in [
        ("run.min_median_similarity=7", "is no cosine"),
        ("run.max_drift=-1", "is no distance"),
        ("run.max_drift=nan", "is no distance"),
    ] {
        let refused = run(&["--set", setting]);
        assert!(refused.code == 2 && refused.stderr.contains(says), "{}", refused.stderr);
    }
}
