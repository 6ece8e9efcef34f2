//! What a run finds in its output folder and around it: what it believes, takes over, makes again
//! or refuses. Each check of a digest, a size or a key has a case that it alone notices.
//!
//! What happens to a run is in `faults.rs`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use clipmill::digest;
use clipmill::error::Error;
use clipmill::manifest::Manifest;
use clipmill::sink::read_published;
use clipmill::source::{ParquetSource, Part, Source, open_inputs};
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;
use rustix::process::{Pid, Signal, kill_process};

use crate::common;
use crate::common::job::{
    Faulty, PARTS, args, assert_same, finalize, image_paths, images_with_killers, library, share,
    trace, undisturbed,
};
use crate::common::{Ran, clipmill, sample, scratch};

/// What stands before a seal's 64 digits in a footer.
const BEFORE_SEAL: &[u8] = b"clipmill.sha256\x18\x40";

fn part(output: &Path, index: usize) -> PathBuf {
    output.join(format!("part-{index:05}.parquet"))
}

/// Gives changed bytes of a part the seal that fits them.
fn sealed_anew(mut bytes: Vec<u8>) -> Vec<u8> {
    let found = bytes.windows(BEFORE_SEAL.len()).rposition(|window| window == BEFORE_SEAL);
    let at = found.expect("a seal") + BEFORE_SEAL.len();
    bytes[at..at + 64].fill(b'0');
    let seal = digest::of_bytes(&bytes);
    bytes[at..at + 64].copy_from_slice(seal.as_bytes());
    bytes
}

#[track_caller]
fn refused(ran: &Ran, says: &[&str]) {
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    for says in says {
        assert!(ran.stderr.contains(says), "no {says:?} in: {}", ran.stderr);
    }
}

#[test]
fn a_recorded_part_that_was_cut_is_made_again() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("undisturbed");
    let second = part(&output, 1);
    let whole = fs::read(&second).expect("a part");
    fs::write(&second, &whole[..whole.len() - 100]).expect("written");
    let ran = clipmill(args(&output)).ok();
    assert!(ran.stderr.contains("part-00001.parquet is damaged"), "{}", ran.stderr);
    assert_same(&output, &wanted, "cut");
}

/// Whole by its own seal, of the same job by its key, as long as the recorded one, and not it.
#[test]
fn a_part_that_is_not_the_recorded_one_is_not_taken_for_it() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("undisturbed");
    let second = part(&output, 1);
    let mut other = fs::read(&second).expect("a part");
    other[100] ^= 1;
    fs::write(&second, sealed_anew(other)).expect("written");
    assert!(read_published(&second).expect("read").is_some(), "the seal does not fit");
    let ran = clipmill(finalize(&output));
    assert_eq!(ran.code, 1);
    let said = "part-00001.parquet is not the one that was recorded";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert!(!output.join("_SUCCESS").exists(), "it is not complete any more");
    // The manifest is silent about it now, and a run believes seals.
    assert!(!second.exists(), "it would be taken for the part");
    clipmill(args(&output)).ok();
    assert_same(&output, &wanted, "replaced");
}

/// The same, and longer: the size alone tells, before anything is read.
#[test]
fn a_part_longer_than_the_recorded_one_is_not_taken_for_it() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("undisturbed");
    let second = part(&output, 1);
    let mut other = fs::read(&second).expect("a part");
    // Between the magic and the first page: offsets are wrong then, and nobody follows them.
    other.splice(4..4, [0; 8]);
    fs::write(&second, sealed_anew(other)).expect("written");
    assert!(read_published(&second).expect("read").is_some(), "the seal does not fit");
    let ran = clipmill(args(&output)).ok();
    let said = "part-00001.parquet is not the one that was recorded";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    assert_same(&output, &wanted, "replaced by a longer one");
}

/// A folder made by another version of the program is another job's.
#[test]
fn the_programs_version_is_part_of_how_an_output_was_made() {
    let dir = scratch();
    undisturbed(dir.path());
    let output = dir.path().join("undisturbed");
    let mut manifest = Manifest::read(&output).expect("read").expect("there");
    let version = manifest.made_with.insert("clipmill".to_owned(), "0.0.1".to_owned());
    assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    manifest.write(&output).expect("written");
    refused(&clipmill(args(&output)), &["clipmill was 0.0.1 and is", "--redo-changed"]);
}

/// The small job over a copy of the sample's table, and what it is started with.
fn over_a_copy(table: &Path, output: &Path) -> Vec<String> {
    fs::copy(sample().join("captions.parquet"), table).expect("copied");
    [args(output), vec!["--input".to_owned(), table.display().to_string()]].concat()
}

#[test]
fn an_input_that_is_written_to_when_the_job_has_begun_is_not_taken_for_what_it_was() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let (table, output) = (dir.path().join("table.parquet"), dir.path().join("out"));
    let args = over_a_copy(&table, &output);
    let log = dir.path().join("log");
    let run = Faulty { library: &library, output: &output, log: &log };
    // Planned, and no row read yet: before the first manifest.
    let stopped = run.command("rename:1:stop", &args).stderr(Stdio::piped()).spawn();
    let stopped = stopped.expect("it starts");
    wait_for_stop(&stopped);
    fs::copy(sample().join("captions.parquet"), &table).expect("copied");
    let now = std::time::SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(&table).and_then(|f| f.set_modified(now)).expect("set");
    kill_process(Pid::from_child(&stopped), Signal::CONT).expect("goes on");
    let ended = stopped.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), run.fired()), (Some(1), 1), "{said}");
    assert!(said.contains("table.parquet was changed while it was read"), "{said}");
    assert!(!part(&output, 0).exists(), "it was published as what it was");
    // As the message says.
    clipmill([&args[..], &["--redo-changed".to_owned()]].concat()).ok();
    assert!(output.join("_SUCCESS").exists());
}

#[test]
fn a_part_read_while_somebody_writes_to_its_file_is_refused() {
    let dir = scratch();
    let table = dir.path().join("table.parquet");
    fs::copy(sample().join("captions.parquet"), &table).expect("copied");
    let inputs = open_inputs(&table).expect("a table");
    let part = Part { index: 0, number: 0, input: 0, start: 0, rows: inputs[0].rows };
    let read = |disturb: bool| {
        let mut source = ParquetSource::new(inputs.clone(), vec![part], 100);
        source.next_batch().expect("a batch").expect("rows");
        if disturb {
            let now = std::time::SystemTime::now() + Duration::from_secs(5);
            let file = fs::File::options().write(true).open(&table).expect("opened");
            file.set_modified(now).expect("set");
        }
        std::iter::from_fn(|| source.next_batch().transpose()).find_map(Result::err)
    };
    assert!(read(false).is_none());
    let error = read(true).expect("it was written to");
    assert!(matches!(error, Error::InputChanged { .. }), "{error}");
}

/// Between the plan and the reading, another file was put in its place.
#[test]
fn an_input_as_long_and_as_old_as_the_planned_one_is_told_by_its_footer() {
    let dir = scratch();
    let table = dir.path().join("table.parquet");
    write_table(&table, "one", "a face");
    let inputs = open_inputs(&table).expect("a table");
    let part = Part { index: 0, number: 0, input: 0, start: 0, rows: inputs[0].rows };
    let read = || ParquetSource::new(inputs.clone(), vec![part], 100).next_batch();
    assert!(read().expect("a batch").is_some());
    let written = fs::metadata(&table).and_then(|found| found.modified()).expect("a time");
    write_table(&table, "two", "a face");
    fs::File::options()
        .write(true)
        .open(&table)
        .and_then(|f| f.set_modified(written))
        .expect("set");
    let error = read().expect_err("it is another");
    assert!(matches!(error, Error::InputChanged { .. }), "{error}");
}

#[test]
fn what_is_not_clipmills_is_refused_or_left_alone() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let table = fs::read(sample().join("captions.parquet")).expect("the sample");
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).expect("a folder");
    fs::write(part(&foreign, 0), &table).expect("written");
    refused(&clipmill(args(&foreign)), &["foreign", "part-00000.parquet"]);
    assert_eq!(fs::read_dir(&foreign).expect("listed").count(), 1, "a trace is left");

    // A damaged manifest is made again, but not in a folder that others use.
    let output = dir.path().join("undisturbed");
    let manifest = output.join("_manifest.json");
    let whole = fs::read(&manifest).expect("a manifest");
    fs::write(&manifest, &whole[..whole.len() / 2]).expect("written");
    fs::write(output.join("notes.txt"), "mine").expect("written");
    refused(&clipmill(args(&output)), &["notes.txt"]);
    fs::remove_file(output.join("notes.txt")).expect("removed");

    // Not of the plan, and not whole: perhaps somebody's. Those of a larger plan are removed.
    fs::copy(part(&output, 2), part(&output, 7)).expect("copied");
    fs::write(part(&output, 9), &table).expect("written");
    clipmill(args(&output)).ok();
    assert!(!part(&output, 7).exists(), "a part of no plan stays");
    assert!(fs::read(part(&output, 9)).expect("it is there") == table);
    fs::remove_file(part(&output, 9)).expect("removed");
    assert_same(&output, &wanted, "cleared");
}

/// A table whose footer can be changed and be as long as before.
fn write_table(path: &Path, note: &str, caption: &str) {
    let column = |values: [&str; 3]| -> ArrayRef { Arc::new(StringArray::from(values.to_vec())) };
    let columns = [
        ("image_path", column(["images/003-1f31c.png"; 3])),
        ("caption", column(["moon", caption, "sun"])),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let note = KeyValue::new("note".to_owned(), note.to_owned());
    let properties = WriterProperties::builder().set_key_value_metadata(Some(vec![note])).build();
    let file = fs::File::create(path).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).expect("opened");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}

/// Everything that a run reads is told by its digest, also where size and time are as they were.
#[test]
fn what_a_run_reads_is_told_by_its_digest() {
    let dir = scratch();
    let (table, model) = (dir.path().join("table.parquet"), dir.path().join("model"));
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(sample().join("model")).expect("the sample") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, model.join(path.file_name().expect("a name"))).expect("copied");
    }
    write_table(&table, "one", "a face");
    let set = format!("model.clip.dir={:?}", model.display().to_string());
    let paths = [&table, &dir.path().join("out")].map(|path| path.display().to_string());
    let run = || {
        let sets = ["--set", &set, "--input", &paths[0], "--output", &paths[1]];
        clipmill([&["run", "pipelines/sample.toml"][..], &sets].concat())
    };
    run().ok();

    let times =
        |path: &Path| fs::metadata(path).and_then(|found| found.modified()).expect("a time");
    let (before, size) = (times(&table), fs::metadata(&table).expect("there").len());
    write_table(&table, "two", "a face");
    fs::File::options().write(true).open(&table).and_then(|f| f.set_modified(before)).expect("set");
    assert_eq!(fs::metadata(&table).expect("there").len(), size);
    refused(&run(), &["table.parquet", "footer sha256", "--redo-changed"]);
    write_table(&table, "one", "a face");
    fs::File::options().write(true).open(&table).and_then(|f| f.set_modified(before)).expect("set");
    assert!(run().ok().stdout.contains("complete already"));

    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, &str, Change); 4] = [
        // The lowest bit of the last weight.
        ("model.safetensors", "weights sha256", |bytes| {
            let last = bytes.len() - 2;
            bytes[last] ^= 1;
        }),
        ("config.json", "configuration sha256", |bytes| bytes.push(b'\n')),
        ("tokenizer.json", "tokenizer sha256", |bytes| bytes.push(b'\n')),
        ("preprocessor_config.json", "preprocessing", |bytes| {
            let text = String::from_utf8(bytes.clone()).expect("text");
            *bytes = text.replace("0.48145466", "0.58145466").into_bytes();
        }),
    ];
    for (name, says, change) in changes {
        let path = model.join(name);
        let whole = fs::read(&path).expect("a model file");
        let mut changed = whole.clone();
        change(&mut changed);
        assert!(changed != whole, "{name}");
        fs::write(&path, changed).expect("written");
        refused(&run(), &[says, "--redo-changed"]);
        fs::write(&path, whole).expect("written");
    }
    assert!(run().ok().stdout.contains("complete already"));
}

/// The seal is the last of its kind, whatever a caption puts into a part's statistics before it.
#[test]
fn a_caption_that_looks_like_a_seal_is_a_caption() {
    let dir = scratch();
    let table = dir.path().join("table.parquet");
    let zeros = "0".repeat(64);
    let before = std::str::from_utf8(BEFORE_SEAL).expect("ASCII");
    // The greatest, so that it is among the statistics.
    write_table(&table, "x", &format!("zzz {before}{zeros}"));
    let output = dir.path().join("out");
    let paths = [&table, &output].map(|path| path.display().to_string());
    let args = ["pipelines/sample.toml", "--input", &paths[0], "--output", &paths[1]];
    clipmill([&["run"][..], &args].concat()).ok();
    let bytes = fs::read(part(&output, 0)).expect("a part");
    let places = bytes.windows(BEFORE_SEAL.len()).filter(|window| *window == BEFORE_SEAL);
    assert!(places.count() > 1, "the caption is not in the footer");
    clipmill([&["finalize"][..], &args].concat()).ok();
    clipmill(["verify", &paths[1]]).ok();
}

/// Waits until a process has stopped itself.
fn wait_for_stop(child: &Child) {
    let stat = format!("/proc/{}/stat", child.id());
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
    while !is_stopped() {
        assert!(Instant::now() < deadline, "the run did not stop");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn while_one_share_replaces_the_manifest_the_others_wait() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let wanted = undisturbed(dir.path());
    let (output, log) = (dir.path().join("out"), dir.path().join("log"));
    let run = Faulty { library: &library, output: &output, log: &log };
    // Just before it renames the manifest into place.
    let mut first = run.command("rename:1:stop", &share(&output, "0"));
    let first = first.stdout(Stdio::null()).stderr(Stdio::piped());
    let first = first.spawn().expect("it starts");
    wait_for_stop(&first);
    let log_of_second = dir.path().join("log-of-second");
    let other = Faulty { log: &log_of_second, ..run };
    let mut second = other.command("", &share(&output, "1-2"));
    let second = second.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut second = second.spawn().expect("it starts");
    let said = || fs::read_to_string(&log_of_second).unwrap_or_default();
    while !said().contains("_lock.manifest") && second.try_wait().expect("it is ours").is_none() {
        std::thread::sleep(Duration::from_millis(20));
    }
    // It has opened the lock, and who has it writes its name into it.
    std::thread::sleep(Duration::from_secs(1));
    let last = said().lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains(" open _lock.manifest"), "it did not wait: {last}");
    kill_process(Pid::from_child(&first), Signal::CONT).expect("goes on");
    for share in [first, second] {
        let ended = share.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(run.fired(), 1);
    let log = fs::read_to_string(&log).expect("a log");
    let fired = log.lines().find(|line| line.contains("FIRED")).expect("it fired");
    assert!(fired.contains("-> _manifest.json"), "{fired}");
    clipmill(finalize(&output)).ok();
    assert_same(&output, &wanted, "shared");
}

/// Arguments of a share of the job, over images of which one, of part 0, kills its decoder.
fn share_with_killer(images: &Path, output: &Path, parts: &str) -> Vec<String> {
    let root = format!("image.path.root={:?}", images.display().to_string());
    [share(output, parts), vec!["--set".to_owned(), root]].concat()
}

/// The manifest's killers, and its parts.
fn recorded(output: &Path) -> (usize, Vec<String>) {
    let manifest = Manifest::read(output).expect("read").expect("there");
    (manifest.killers.len(), manifest.parts.into_keys().collect())
}

#[test]
fn a_share_that_waited_keeps_what_others_found_meanwhile() {
    let dir = scratch();
    let Some(faults) = library("faults") else { return };
    let Some(killer) = library("killer") else { return };
    let (images, output) = (dir.path().join("images"), dir.path().join("out"));
    images_with_killers(&images, 'A', &[&image_paths()[5]]);
    let log = dir.path().join("log");
    let run = Faulty { library: &faults, output: &output, log: &log };
    // It has looked at the empty folder, and is about to ask for the manifest.
    let opens = {
        let (output, log) = (dir.path().join("counted"), dir.path().join("counted.log"));
        let counted = Faulty { library: &faults, output: &output, log: &log };
        let args = share_with_killer(&images, &output, "1");
        assert!(counted.run("", &args).status.success());
        let log = fs::read_to_string(&log).expect("a log");
        let opens = log.lines().filter(|line| line.contains(" open "));
        1 + opens.take_while(|line| !line.contains("_lock.manifest")).count()
    };
    let args = share_with_killer(&images, &output, "1");
    let mut waiting = run.command(&format!("open:{opens}:stop"), &args);
    let waiting = waiting.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for_stop(&waiting);
    let first = || {
        let mut command = common::command(share_with_killer(&images, &output, "0"));
        command.env("LD_PRELOAD", &killer).output().expect("it starts")
    };
    assert_eq!(first().status.signal(), Some(6));
    let went_on = first();
    assert!(went_on.status.success(), "{}", String::from_utf8_lossy(&went_on.stderr));
    // Once more, and the part that it made is recorded.
    assert!(first().status.success());
    let before = recorded(&output);
    assert_eq!((before.0, before.1.len()), (1, 1));
    kill_process(Pid::from_child(&waiting), Signal::CONT).expect("goes on");
    let ended = waiting.wait_with_output().expect("it ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(run.fired(), 1);
    let after = recorded(&output);
    assert_eq!(after.0, 1, "what killed is forgotten");
    assert!(before.1.iter().all(|part| after.1.contains(part)), "{before:?} {after:?}");
}

#[test]
fn finalize_leaves_a_dead_shares_image_to_the_share_that_goes_on() {
    let dir = scratch();
    let Some(killer) = library("killer") else { return };
    let (images, output) = (dir.path().join("images"), dir.path().join("out"));
    images_with_killers(&images, 'S', &[&image_paths()[5]]);
    let ran = |args: Vec<String>| {
        common::command(args).env("LD_PRELOAD", &killer).output().expect("it starts")
    };
    let args = |parts| share_with_killer(&images, &output, parts);
    assert_eq!(ran(args("0-2")).status.signal(), Some(11));
    let root = format!("image.path.root={:?}", images.display().to_string());
    let finalize = || ran([finalize(&output), vec!["--set".to_owned(), root.clone()]].concat());
    assert_eq!(finalize().status.code(), Some(1));
    let went_on = ran(args("0-2"));
    let said = String::from_utf8_lossy(&went_on.stderr);
    assert!(went_on.status.success() && said.contains("a segmentation fault"), "{said}");
    assert!(finalize().status.success());
    assert_eq!(recorded(&output).0, 1);
}

/// Before there are stages to stop, and where there are none, the process ends at once. (That the
/// fault fired is seen by its having stopped: it does not come to its log.)
#[test]
fn a_signal_that_finds_no_stages_ends_the_process_with_its_number() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let done = dir.path().join("undisturbed");
    let wanted = undisturbed(dir.path());
    let cases = [
        (args(&dir.path().join("begun")), "open:1:stop", Signal::TERM, 143),
        (args(&dir.path().join("begun-2")), "open:1:stop", Signal::INT, 130),
        (finalize(&done), "open:1:stop", Signal::TERM, 143),
    ];
    for (args, fault, signal, code) in cases {
        let output = Path::new(&args[3]).to_owned();
        let log = output.with_extension("log");
        let run = Faulty { library: &library, output: &output, log: &log };
        let mut stopped = run.command(fault, &args);
        let mut stopped = stopped.stdout(Stdio::null()).spawn().expect("it starts");
        wait_for_stop(&stopped);
        kill_process(Pid::from_child(&stopped), signal).expect("signalled");
        kill_process(Pid::from_child(&stopped), Signal::CONT).expect("goes on");
        let begun = Instant::now();
        assert_eq!(stopped.wait().expect("it ends").code(), Some(code), "{args:?}");
        assert!(begun.elapsed() < Duration::from_secs(30));
        clipmill(&args).ok();
        assert_same(&output, &wanted, "signalled");
    }
}

#[test]
fn a_run_or_share_killed_after_any_rename_is_taken_over_by_the_next_one() {
    let dir = scratch();
    let Some(library) = library("faults") else { return };
    let wanted = undisturbed(dir.path());
    let (output, log) = (dir.path().join("counted"), dir.path().join("counted.log"));
    let counted = Faulty { library: &library, output: &output, log: &log };
    assert!(counted.run("", &share(&output, "0-2")).status.success());
    let n_renames = counted.events(Some("rename"));
    assert!(n_renames > PARTS, "{n_renames} renames");
    // After one a name is there, and does not last yet.
    let events: Vec<_> = (1..=n_renames).flat_map(|n| [(n, "whole"), (n, "share")]).collect();
    events.into_par_iter().for_each(|(event, how)| {
        let output = dir.path().join(format!("{how}-{event}"));
        let log = dir.path().join(format!("{how}-{event}.log"));
        let run = Faulty { library: &library, output: &output, log: &log };
        let again = if how == "share" { share(&output, "0-2") } else { args(&output) };
        let killed = run.run(&format!("rename:{event}:kill-after"), &again);
        assert_eq!((killed.status.signal(), run.fired()), (Some(9), 1), "{how} {event}");
        for args in [again, finalize(&output)] {
            let ran = run.run("", &args);
            let said = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{how} {event}: {said}");
        }
        assert_same(&output, &wanted, &format!("{how} killed at {event}"));
        trace(&log, &["--complete"]);
    });
}
