//! What a scheduler sees of a run: the log for machines, metrics, lineage events, the report's schema.
//!
//! `oracle/production.py` reads them as their users do: Prometheus' own parser, OpenLineage's own
//! schemas, `jsonschema`; numbers are pyarrow's of the output. Servers that fail are here.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::job::{finalize, share};
use crate::common::{Ran, clipmill, command, oracle, root, sample, scratch};

/// Arguments of a run into three parts, with two rows that fail.
fn args(output: &Path) -> Vec<String> {
    let settings = ["--limit", "60", "--set", "sink.parquet.rows_per_part=20", "--threads", "2"];
    let run = ["run", "pipelines/sample.toml", "--output", &output.display().to_string()];
    run.iter().chain(&settings).map(|word| (*word).to_owned()).collect()
}

/// A command's arguments with more behind them.
fn with<const N: usize>(args: &[String], more: [&str; N]) -> Vec<String> {
    args.iter().cloned().chain(more.map(str::to_owned)).collect()
}

/// Has the oracle look at something.
fn look<const N: usize>(what: &str, at: [&Path; N]) {
    let at = at.map(|path| path.display().to_string());
    assert!(oracle("production.py", std::iter::once(what.to_owned()).chain(at)));
}

/// A log for machines, an object a line.
#[track_caller]
fn events(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| {
            let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            for key in ["time", "level", "event", "message"] {
                assert!(event[key].is_string(), "{key} of {line}");
            }
            event
        })
        .collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().expect("a word")).collect()
}

#[test]
fn every_line_of_a_log_for_machines_is_an_object() {
    let dir = scratch();
    // A name that would break lines and terminals.
    let out = dir.path().join("a\nb \u{1b}[2J \"c\"");
    let kept = dir.path().join("kept");
    let json = ["--log-format", "json"];
    let mut run = with(&args(&out), json);
    run.extend(["--set".to_owned(), format!("filter.path={}", kept.display())]);
    run.extend(["--set", "filter.where=similarity > 0"].map(str::to_owned));
    let before = std::time::SystemTime::now();
    let ran = clipmill(&run).ok();
    assert!(ran.stdout.contains("rows/s"), "what was asked for stays on stdout: {}", ran.stdout);
    let log = events(&ran.stderr);
    assert_eq!(names(&log), ["started", "step", "finished"], "{}", ran.stderr);
    let [started, step, finished] = &log[..] else { unreachable!("three") };
    let output = out.display().to_string();
    assert_eq!((&started["rows"], &started["parts"]), (&60.into(), &3.into()));
    assert_eq!((&started["parts_done"], &started["threads"]), (&0.into(), &2.into()));
    assert_eq!(started["output"], output.as_str());
    assert_eq!(started["device"], "cpu");
    assert_eq!((&step["step"], &step["level"]), (&"filter".into(), &"info".into()));
    let report = fs::read(out.join("run_report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    for key in ["rows", "ok", "failed", "parts"] {
        assert_eq!(finished[key], report[key], "{key}");
    }
    assert_eq!(finished["rows_now"], 60);
    assert_eq!(finished["output"], output.as_str());
    let seconds = finished["seconds"].as_f64().expect("a number");
    assert!(seconds > 0.0 && seconds <= before.elapsed().expect("later").as_secs_f64());
    assert!(ran.stderr.lines().all(|line| !line.chars().any(char::is_control)));

    // A damaged manifest is worth a warning, also for who wants nothing else.
    fs::write(out.join("_manifest.json"), "{").expect("written");
    let ran = clipmill(with(&run, ["--quiet"])).ok();
    let log = events(&ran.stderr);
    assert_eq!(log[0]["level"], "warning", "{}", ran.stderr);
    assert!(log.iter().all(|event| event["level"] != "info"), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
}

#[test]
fn what_is_wrong_is_an_object_with_the_exit_code_too() {
    let dir = scratch();
    let out = dir.path().join("out");
    let json = ["--log-format", "json"];
    let error = |ran: Ran, code: i32, wanted: &str| {
        assert_eq!((ran.code, ran.stdout.as_str()), (code, ""), "{}", ran.stderr);
        let log = events(&ran.stderr);
        let [error] = &log[..] else { panic!("{}", ran.stderr) };
        assert_eq!((&error["event"], &error["level"]), (&"error".into(), &"error".into()));
        assert_eq!(error["exit_code"], code);
        let message = error["message"].as_str().expect("words");
        assert!(message.contains(wanted), "{message}");
        assert!(!message.starts_with("error"), "{message}");
        error.clone()
    };
    // Of the command line, wherever it asks for JSON.
    error(clipmill(with(&args(&out), ["--nonsense", "--log-format=json"])), 2, "--nonsense");
    error(clipmill(["--log-format", "json", "run"]), 2, "PIPELINE.toml");
    // Of the input.
    let missing = dir.path().join("missing.parquet");
    let wrong = with(&args(&out), ["--input", &missing.display().to_string()]);
    error(clipmill(with(&wrong, json)), 2, "missing.parquet");
    // With causes.
    let broken = dir.path().join("broken.parquet");
    fs::write(&broken, "PAR1 is not enough PAR1").expect("written");
    let wrong = with(&args(&out), ["--input", &broken.display().to_string()]);
    let said = error(clipmill(with(&wrong, json)), 1, "broken.parquet");
    let causes = said["causes"].as_array().expect("a list");
    let message = said["message"].as_str().expect("words");
    assert!(causes.iter().all(|cause| message.contains(cause.as_str().expect("words"))), "{said}");
    // Text stays text, and help stays where it was.
    let ran = clipmill(with(&args(&out), ["--nonsense"]));
    assert!(ran.stderr.starts_with("error: unexpected argument"), "{}", ran.stderr);
    let ran = clipmill(["run", "--help", "--log-format", "json"]).ok();
    assert!(ran.stdout.contains("--log-format") && ran.stderr.is_empty());
}

#[test]
fn metrics_are_what_prometheus_reads_and_pyarrow_counts() {
    let dir = scratch();
    let (out, file) = (dir.path().join("out"), dir.path().join("job.prom"));
    let metrics = file.display().to_string();
    let mut run = vec!["run", "pipelines/sample.toml", "--quiet", "--metrics", &metrics];
    let output = out.display().to_string();
    run.extend(["--output", &output]);
    // The collector is another user, whatever this one's mask.
    let mut private = Command::new("sh");
    private.args(["-c", "umask 077; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_clipmill")]);
    private.args(&run).current_dir(root());
    Ran::of(private).ok();
    let mode = fs::metadata(&file).expect("metrics").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let of_run = dir.path().join("run");
    fs::copy(&file, &of_run).expect("copied");

    // A run that ends in another way leaves its own numbers, and when one last ended well.
    let states = [("failed", "--max-failed=0", 3), ("refused", "--input=missing.parquet", 2)];
    for (name, flag, code) in states {
        run.push(flag);
        assert_eq!(clipmill(&run).code, code);
        fs::copy(&file, dir.path().join(name)).expect("copied");
    }
    // One that goes wrong before its plan, and one that is stopped while it waits for rows.
    let mut waiting = command(&run[..5]);
    waiting.args(["--input", "-", "--output"]).arg(dir.path().join("other"));
    let lineage = dir.path().join("lineage");
    waiting.arg("--lineage").arg(&lineage).stdin(Stdio::piped());
    let mut waiting = waiting.spawn().expect("it starts");
    // Waiting for its end would close it.
    let _rows = waiting.stdin.take();
    let is_running = || {
        let text = fs::read_to_string(&file).expect("whole");
        text.lines().any(|line| line.starts_with("clipmill_run_running{") && line.ends_with(" 1"))
    };
    let begun = Instant::now();
    while !is_running() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no metrics of a run that has begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::copy(&file, dir.path().join("running")).expect("copied");
    kill_process(Pid::from_child(&waiting), Signal::TERM).expect("signalled");
    assert_eq!(waiting.wait().expect("it ends").code(), Some(143));
    fs::copy(&file, dir.path().join("stopped")).expect("copied");
    let told = fs::read_to_string(&lineage).expect("events");
    assert!(told.lines().last().is_some_and(|line| line.contains("\"ABORT\"")), "{told}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("listed").collect();
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!left.iter().any(|entry| hidden(entry.as_ref().expect("an entry"))), "{left:?}");
    look("metrics", [dir.path(), &out]);
}

#[test]
fn an_outlet_that_cannot_be_written_to_is_refused_before_the_run() {
    let dir = scratch();
    let out = dir.path().join("out");
    let nowhere = dir.path().join("nowhere/file").display().to_string();
    let folder = dir.path().display().to_string();
    for place in [&nowhere, &folder, "ftp://host/path"] {
        for flag in ["--metrics", "--lineage"] {
            let ran = clipmill(with(&args(&out), [flag, place]));
            assert_eq!(ran.code, 2, "{flag} {place}: {}", ran.stderr);
            assert!(ran.stderr.contains(flag) && ran.stderr.contains(place), "{}", ran.stderr);
        }
    }
    assert!(!out.exists());
    // One that goes away later does not cost the run.
    let (gone, metrics) = (dir.path().join("gone"), dir.path().join("gone/job.prom"));
    fs::create_dir(&gone).expect("made");
    let mut child = command(with(&args(&out), ["--metrics", &metrics.display().to_string()]));
    let child = child.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
    let begun = Instant::now();
    while !metrics.exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no metrics of a run that has begun");
        std::thread::sleep(Duration::from_millis(2));
    }
    fs::rename(&gone, dir.path().join("elsewhere")).expect("moved");
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success() && said.contains("warning: could not write the metrics"),
        "{said}"
    );
}

#[test]
fn lineage_events_are_openlineage_s() {
    let dir = scratch();
    let (out, file) = (dir.path().join("out"), dir.path().join("lineage.jsonl"));
    let lineage = file.display().to_string();
    let run = with(&args(&out), ["--lineage", &lineage, "--quiet"]);
    let start = |run: &[String], parent: &str| {
        let mut run = command(run);
        run.env("OPENLINEAGE_NAMESPACE", "nightly").env("OPENLINEAGE_PARENT_ID", parent);
        Ran::of(run)
    };
    let parent = "airflow/dag.task/017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    start(&run, parent).ok();
    // Complete already, but over the limit; and refused before its plan.
    assert_eq!(start(&with(&run, ["--max-failed", "0"]), "").code, 3);
    assert_eq!(start(&with(&run, ["--input", "missing.parquet"]), "").code, 2);
    assert!(start(&run, "no parent").stderr.contains("OPENLINEAGE_PARENT_ID"));
    look("lineage", [&file, &out, &sample().join("captions.parquet")]);

    // Rows that are dropped count as rows that failed, and are not written.
    let (out, file) = (dir.path().join("dropped"), dir.path().join("of_dropped"));
    let drop = with(&args(&out), ["--set", "sink.parquet.on_row_error=drop", "--parts", "0-2"]);
    let log = ["--log-format", "json", "--lineage", &file.display().to_string()];
    let ran = start(&with(&drop, log), "").ok();
    let finished = events(&ran.stderr).pop().expect("events");
    assert_eq!((&finished["rows"], &finished["ok"]), (&60.into(), &57.into()), "{finished}");
    let told = fs::read_to_string(&file).expect("events");
    let told: Value = serde_json::from_str(told.lines().last().expect("two")).expect("JSON");
    let size = &told["outputs"][0]["outputFacets"]["outputStatistics"];
    assert_eq!((&size["rowCount"], &size["fileCount"]), (&57.into(), &3.into()));
}

/// A server that takes one request a connection, answers with what `answer` gives for its number, and
/// keeps what came.
fn server(answer: fn(usize) -> Option<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://127.0.0.1:{}", listener.local_addr().expect("bound").port());
    let came = Arc::new(Mutex::new(Vec::new()));
    let kept = came.clone();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (nth, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            kept.lock().expect("no panic").push(request(&mut stream));
            match answer(nth) {
                None => silent.push(stream),
                Some(status) => {
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n");
                    let head = format!("{head}connection: close\r\nlocation: /elsewhere\r\n\r\n");
                    stream.write_all(head.as_bytes()).expect("answered");
                }
            }
        }
    });
    (url, came)
}

/// The request's head and body.
fn request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    while reader.read_line(&mut request).expect("a line") > 2 {}
    let head = request.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.expect("a length").trim().parse().expect("a number")];
    reader.read_exact(&mut body).expect("a body");
    request + std::str::from_utf8(&body).expect("text")
}

/// A small run that tells a server of itself, and how long it took.
fn posted(out: PathBuf, url: &str) -> (Ran, Duration) {
    let mut run = command(with(&args(&out), ["--lineage", url]));
    run.env("OPENLINEAGE_API_KEY", "a-key").env_remove("http_proxy").env("NO_PROXY", "127.0.0.1");
    let begun = Instant::now();
    (Ran::of(run), begun.elapsed())
}

#[test]
fn a_server_hears_of_a_run_in_order_and_one_that_fails_costs_no_run() {
    let dir = scratch();
    // Twice not now, then well.
    let (url, came) = server(|nth| match nth {
        0 => Some("500 Internal Server Error"),
        1 => Some("429 Too Many Requests"),
        _ => Some("201 Created"),
    });
    let (ran, _) = posted(dir.path().join("well"), &url);
    assert!(!ran.ok().stderr.contains("warning"));
    let came = came.lock().expect("no panic").clone();
    let events: Vec<Value> = came
        .iter()
        .map(|request| {
            let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
            assert!(head.starts_with("POST /api/v1/lineage HTTP/1.1"), "{head}");
            let head = head.to_ascii_lowercase();
            assert!(head.contains("authorization: bearer a-key"), "{head}");
            assert!(head.contains("content-type: application/json"), "{head}");
            serde_json::from_str(body).expect("JSON")
        })
        .collect();
    let states: Vec<_> = events.iter().map(|event| event["eventType"].clone()).collect();
    assert_eq!(states, ["START", "START", "START", "COMPLETE"]);
    assert!(events.iter().all(|event| event["run"]["runId"] == events[0]["run"]["runId"]));

    // One that refuses is not asked again, and nothing is followed elsewhere.
    for status in ["403 Forbidden", "307 Temporary Redirect"] {
        let (url, came) = match status {
            "403 Forbidden" => server(|_| Some("403 Forbidden")),
            _ => server(|_| Some("307 Temporary Redirect")),
        };
        let (ran, _) = posted(dir.path().join(&status[..3]), &url);
        let said = ran.ok().stderr;
        assert!(said.contains("warning: lineage: 127.0.0.1") && said.contains(status), "{said}");
        assert_eq!(came.lock().expect("no panic").len(), 2);
    }
    // One that is not there.
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let (ran, _) = posted(dir.path().join("nobody"), &format!("http://{nobody}"));
    let said = ran.ok().stderr;
    assert!(said.contains("warning: lineage: 127.0.0.1 was not told"), "{said}");
    // One that never answers.
    let (url, _) = server(|_| None);
    let (ran, took) = posted(dir.path().join("stalls"), &url);
    let said = ran.ok().stderr;
    assert!(said.contains("within 10 s"), "{said}");
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn reports_fit_their_schema_and_others_do_not() {
    let dir = scratch();
    let dirs = ["sample", "several", "shared"].map(|name| dir.path().join(name));
    let [sampled, several, shared] = &dirs;
    let output = sampled.display().to_string();
    clipmill(["run", "pipelines/sample.toml", "-q", "--output", &output]).ok();
    // Two models, and a cosine of each.
    let model = sample().join("model");
    let pipeline = fs::read_to_string(root().join("pipelines/sample.toml"))
        .expect("the sample's pipeline")
        .replace("[model.clip]", &format!("[model.clip.b]\ndir = {model:?}\n\n[model.clip.a]"))
        .replace("image_embedding = \"image_embedding\"", "")
        .replace("text_embedding  = \"text_embedding\"", "")
        .replace(
            "similarity      = \"cosine\"",
            "a = { kind = \"cosine\", model = \"a\" }\nb = { kind = \"cosine\", model = \"b\" }",
        );
    let path = dir.path().join("several.toml");
    fs::write(&path, pipeline).expect("written");
    let (path, output) = (path.display().to_string(), several.display().to_string());
    clipmill(["run", &path, "-q", "--limit", "21", "--output", &output]).ok();
    for parts in ["0", "1-2"] {
        clipmill(share(shared, parts)).ok();
    }
    clipmill(finalize(shared)).ok();
    look("reports", [sampled.as_path(), several, shared]);
}
