//! An output that follows its input, night after night: what is new, changed or gone is done and nothing
//! else; and what a finished output is held against.
//!
//! A fresh run over the final state says what has to be there, and `oracle/incremental.py` reads
//! inputs and output with pyarrow.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::common::job::{Faulty, library, random};
use crate::common::{Ran, clipmill, oracle, sample, scratch};

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
    let (mut killed, mut edited, mut removed) = (0, 0, 0);
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
        let _ = fs::remove_file(&log);
        let run = Faulty { library: &library, output: &output, log: &log };
        let fault = if below(3) > 0 { format!("{}:kill", 1 + below(60)) } else { String::new() };
        let ran = run.run(&fault, &args);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() || ran.status.signal() == Some(9), "{night}: {said}");
        killed += usize::from(!ran.status.success());
    }
    assert!(killed > 5 && edited > 3 && removed > 2, "{killed}, {edited}, {removed}");
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

    // Usage.
    for (more, says) in [
        (&["--prune"][..], "--incremental"),
        (&["--incremental", "--parts", "0"], "cannot be used with"),
    ] {
        let refused = clipmill(args(&inputs, &output, more));
        assert!(refused.code == 2 && refused.stderr.contains(says), "{}", refused.stderr);
    }
}

/// Changes a file's bytes, and nothing that a look from outside tells.
fn change_unseen(path: &Path) {
    let modified = fs::metadata(path).and_then(|found| found.modified()).expect("a time");
    let mut bytes = fs::read(path).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0);
    fs::write(path, bytes).expect("written");
    let file = File::options().write(true).open(path).expect("opened");
    file.set_modified(modified).expect("set");
}

#[test]
fn a_night_with_nothing_new_opens_no_input_and_no_model() {
    let dir = scratch();
    let (inputs, output, model) =
        (dir.path().join("inputs"), dir.path().join("out"), dir.path().join("model"));
    fs::create_dir(&inputs).expect("a folder");
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(sample().join("model")).expect("the sample") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, model.join(path.file_name().expect("a name"))).expect("copied");
    }
    deliver(&inputs.join("a.parquet"), &rows(), 0, 9);
    let place = format!("model.clip.dir={:?}", model.display().to_string());
    let run = |more: &[&str]| -> Ran {
        clipmill(args(&inputs, &output, &[&["--set", &place], more].concat()))
    };
    run(&["--incremental"]).ok();
    let made = parts(&output);
    change_unseen(&model.join("model.safetensors"));
    change_unseen(&inputs.join("a.parquet"));
    let quiet = run(&["--incremental", "--prune"]).ok();
    assert!(quiet.stdout.contains("nothing is new"), "{}", quiet.stdout);
    assert_eq!(parts(&output), made);
    // Who looks into them notices.
    assert_ne!(run(&[]).code, 0);
    // A part that is not there is new enough; so is a file that was touched.
    fs::remove_file(output.join("part-00001.parquet")).expect("removed");
    assert_ne!(run(&["--incremental"]).code, 0);
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
    run(&["--max-drift", "2"]).ok();
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
