//! Parts that a scheduler hands out: `clipmill worker`, shares of array jobs, `clipmill transform`. What
//! comes of them is what comes of one run.
//!
//! Engines that do the handing out are tried by `make test-cluster`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::common;
use crate::common::job::{self, PARTS, assert_same, undisturbed};
use crate::common::{clipmill, command, scratch};

/// A worker at work on the small job.
struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(output: &Path) -> Self {
        let mut args = job::args(output);
        args[0] = "worker".to_owned();
        let mut child = command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    fn ask(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().expect("open"), "{line}").expect("it listens");
    }

    /// What it says next, if it says anything more.
    fn said(&mut self) -> Option<Value> {
        let mut line = String::new();
        let n = self.stdout.read_line(&mut line).expect("it can be read");
        (n > 0).then(|| serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}")))
    }

    /// Until something of that kind is said.
    fn until(&mut self, event: &str) -> Value {
        loop {
            let said = self.said().unwrap_or_else(|| panic!("no {event}"));
            if said["event"] == event {
                return said;
            }
        }
    }

    /// Asks for nothing more; what it still says, and its exit code.
    fn end(mut self) -> (Vec<Value>, i32) {
        self.stdin = None;
        let rest: Vec<_> = std::iter::from_fn(|| self.said()).collect();
        (rest, self.child.wait().expect("it ends").code().expect("it was not killed"))
    }
}

#[test]
fn parts_are_done_as_they_are_asked_for_and_make_the_whole() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("out");
    let mut worker = Worker::start(&output);
    let ready = worker.said().expect("a word");
    assert_eq!(ready["event"], "ready", "{ready}");
    assert_eq!((&ready["parts"], &ready["rows"]), (&json!(PARTS), &json!(21)), "{ready}");
    for part in [2, 0, 1] {
        worker.ask(&json!({ "part": part }).to_string());
    }
    let (said, code) = worker.end();
    assert_eq!(code, 0, "{said:?}");
    let order: Vec<_> = said
        .iter()
        .map(|said| (said["event"].as_str().unwrap(), said["part"].as_u64().unwrap()))
        .collect();
    let each = |part| ["started", "rows", "done"].map(|event| (event, part));
    assert_eq!(order, [each(2), each(0), each(1)].concat());
    for done in said.iter().filter(|said| said["event"] == "done") {
        let name = done["file"].as_str().expect("a name");
        let (_, bytes) = wanted.iter().find(|(file, _)| file == name).expect("it is of the whole");
        assert_eq!(done["bytes"].as_u64(), Some(bytes.len() as u64));
        assert_eq!(done["sha256"].as_str(), Some(clipmill::digest::of_bytes(bytes).as_str()));
        assert_eq!((&done["was_there"], &done["failed"]), (&json!(false), &json!(0)), "{done}");
    }
    // A part that is there is only read.
    let mut worker = Worker::start(&output);
    worker.ask("{\"part\": 1}");
    let done = worker.until("done");
    assert_eq!((&done["part"], &done["was_there"]), (&json!(1), &json!(true)), "{done}");
    assert_eq!(worker.end().1, 0);

    clipmill(job::finalize(&output)).ok();
    assert_same(&output, &wanted, "by a worker");
}

#[test]
fn a_killed_worker_leaves_nothing_that_another_does_not_make_whole() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("out");
    let mut first = Worker::start(&output);
    for part in 0..PARTS {
        first.ask(&json!({ "part": part }).to_string());
    }
    let done = first.until("done");
    assert_eq!(done["part"], 0, "{done}");
    first.child.kill().expect("killed");
    first.child.wait().expect("it ends");

    let mut second = Worker::start(&output);
    for part in 0..PARTS {
        second.ask(&json!({ "part": part }).to_string());
    }
    let (said, code) = second.end();
    assert_eq!(code, 0, "{said:?}");
    let there = |said: &Value| said["was_there"] == true && said["part"] == 0;
    assert!(said.iter().any(there), "what was done is not done again: {said:?}");
    clipmill(job::finalize(&output)).ok();
    assert_same(&output, &wanted, "after a kill");
}

#[test]
fn what_cannot_be_done_ends_a_worker_with_its_reason() {
    let dir = scratch();
    let output = dir.path().join("out");
    for (line, part, code, says) in [
        ("part 3", json!(null), 2, "is not {\"part\": N}"),
        ("{\"part\": 1, \"rows\": 3}", json!(null), 2, "rows"),
        ("{\"part\": 99}", json!(99), 2, "there is no part 99"),
    ] {
        let mut worker = Worker::start(&output);
        worker.ask("{\"part\": 0}");
        worker.ask(line);
        let (said, found) = worker.end();
        let failed = said.last().expect("a word");
        assert_eq!(
            (found, &failed["event"], &failed["part"]),
            (code, &json!("failed"), &part),
            "{said:?}"
        );
        assert_eq!(failed["exit_code"], code, "{failed}");
        assert!(failed["error"].as_str().is_some_and(|error| error.contains(says)), "{failed}");
        // What was asked for before is done.
        assert!(said.iter().any(|said| said["event"] == "done" && said["part"] == 0), "{said:?}");
    }

    // Another process holds the part.
    let held = output.join("_lock.part-00001.parquet");
    let file = std::fs::File::create(&held).expect("created");
    file.lock().expect("locked");
    let mut worker = Worker::start(&output);
    worker.ask("{\"part\": 1}");
    let (said, code) = worker.end();
    assert_eq!(code, 73, "{said:?}");
    assert_eq!(said.last().expect("a word")["exit_code"], 73);
    drop(file);

    // Nobody hears it: there is nothing to do it for.
    let mut worker = Worker::start(&output);
    worker.until("ready");
    let Worker { mut child, mut stdin, stdout } = worker;
    drop(stdout);
    writeln!(stdin.as_mut().expect("open"), "{{\"part\": 2}}").expect("it listens");
    assert_eq!(child.wait().expect("it ends").code(), Some(1));
}

#[test]
fn shares_of_an_array_job_make_the_whole() {
    let dir = scratch();
    let wanted = undisturbed(dir.path());
    let output = dir.path().join("out");
    let share = |share: &str| {
        clipmill([&job::args(&output)[..], &["--parts-of".to_owned(), share.to_owned()]].concat())
    };
    for wrong in ["2/2", "1", "0/0", "x/2"] {
        let ran = share(wrong);
        assert!(ran.code == 2 && ran.stderr.contains("0"), "{wrong}: {}", ran.stderr);
    }
    // More shares than parts: some have none, and that is no error.
    for index in (0..4).rev() {
        share(&format!("{index}/4")).ok();
    }
    clipmill(job::finalize(&output)).ok();
    assert_same(&output, &wanted, "in shares");
}

#[test]
fn transform_is_a_run_between_streams() {
    let dir = scratch();
    let stream = dir.path().join("in.arrow");
    let rows = std::fs::File::open(common::sample().join("captions.parquet")).expect("the sample");
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(rows);
    let reader = reader.expect("Parquet").with_batch_size(16).build().expect("a reader");
    let batches: Vec<_> = reader.take(2).map(|batch| batch.expect("a batch")).collect();
    let file = std::fs::File::create(&stream).expect("created");
    let mut writer =
        arrow::ipc::writer::StreamWriter::try_new(file, &batches[0].schema()).expect("a writer");
    batches.iter().for_each(|batch| writer.write(batch).expect("written"));
    writer.finish().expect("finished");
    let through = |args: &[&str]| {
        let output = command(args)
            .stdin(std::fs::File::open(&stream).expect("there"))
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let run = through(&["run", "pipelines/sample.toml", "--input", "-", "--output", "-"]);
    let transformed = through(&["transform", "pipelines/sample.toml"]);
    assert!(!run.is_empty() && run == transformed);
}
