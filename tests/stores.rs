//! Tables in and out of object stores: an S3 of moto's, looked at by boto3. What comes of a job there is
//! what comes of it on a disk, whatever is killed.
//!
//! Google's and Azure's stores go through the same library and are not tried here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

use crate::common;
use crate::common::job::{self, PARTS, assert_same, random, undisturbed};
use crate::common::s3::S3;
use crate::common::{Ran, clipmill, sample, scratch};

const OUT: &str = "s3://data/some/out";

fn batches(path: &Path) -> Vec<RecordBatch> {
    let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
    let reader = reader.with_batch_size(1_000_000).build().expect("a reader");
    reader.map(|batch| batch.expect("a batch")).collect()
}

fn write(path: &Path, batch: &RecordBatch) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let file = fs::File::create(path).expect("created");
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("written");
    writer.close().expect("closed");
}

/// What a folder beneath a prefix has, as files.
fn mirrored(s3: &S3, dir: &Path, prefix: &str) -> PathBuf {
    let folder = dir.join(format!("mirror-{}", random(prefix.len() as u64)));
    let _ = fs::remove_dir_all(&folder);
    s3.mirror(prefix, &folder);
    folder
}

/// Files that a run left on this machine.
fn left(scratch: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![scratch.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

#[test]
fn an_output_in_a_store_is_the_one_on_a_disk_byte_for_byte() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let wanted = undisturbed(dir.path());
    // The bucket is there once something is in it.
    s3.delete("data/none");
    let args = job::args(Path::new(OUT));
    s3.run(tmp.path(), &args).ok();
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "in a store");
    let stays = left(tmp.path());
    let is_lock = |path: &PathBuf| path.ends_with("_lock");
    assert!(stays.iter().all(is_lock), "only the lock stays on this machine: {stays:?}");
    let ran = s3.run(tmp.path(), &args).ok();
    assert!(ran.stdout.contains("nothing to do"), "{}", ran.stdout);
    s3.run(tmp.path(), ["verify", OUT]).ok();

    s3.delete("data/some/out/part-00001.parquet");
    let ran = s3.run(tmp.path(), ["verify", OUT]);
    assert!(
        ran.code == 1 && ran.stderr.contains("part-00001.parquet is missing"),
        "{}",
        ran.stderr
    );
    s3.run(tmp.path(), &args).ok();
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "one made again");

    // Without its manifest each part is asked for what it is.
    s3.delete("data/some/out/_manifest.json");
    let ran = s3.run(tmp.path(), &args).ok();
    assert!(ran.stderr.contains("3 of 3 parts are whole"), "{}", ran.stderr);
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "a manifest made again");

    // Another byte in the middle of a part: only reading it tells.
    let part = dir.path().join("part");
    let (name, mut bytes) =
        wanted.iter().find(|(name, _)| name.starts_with("part-")).expect("one").clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).expect("written");
    s3.put(&format!("data/some/out/{name}"), &part);
    let ran = s3.run(tmp.path(), ["verify", OUT]);
    assert!(ran.code == 1 && ran.stderr.contains("recorded digest"), "{}", ran.stderr);

    // A folder's mark, as consoles make it, and another folder of a like name are nothing of this one.
    let empty = dir.path().join("empty");
    fs::write(&empty, "").expect("written");
    for key in ["data/some/marked/", "data/some/marked2/x.csv"] {
        s3.put(key, &empty);
    }
    s3.run(tmp.path(), job::args(Path::new("s3://data/some/marked/"))).ok();
    s3.run(tmp.path(), ["verify", "s3://data/some/marked"]).ok();

    // What is somebody else's is not written to.
    for (key, named) in [("data/theirs/x.csv", "x.csv"), ("data/theirs2/lang=en/x.csv", "lang=en")]
    {
        s3.put(key, &part);
        let url = format!("s3://{}", key.split_at(key.find("/x.csv").expect("it ends so")).0);
        let folder = url.trim_end_matches("/lang=en");
        let ran = s3.run(tmp.path(), job::args(Path::new(folder)));
        assert!(ran.code == 2 && ran.stderr.contains(named), "{}: {}", ran.code, ran.stderr);
        assert_eq!(s3.list(&folder["s3://".len()..]).len(), 1);
    }
}

#[test]
fn a_night_with_nothing_new_reads_no_table_of_a_store() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let input = dir.path().join("rows.parquet");
    let sample = sample().join("captions.parquet");
    write(&input, &batches(&sample)[0].slice(0, 9));
    s3.put("data/in/monday.parquet", &input);
    let night = || {
        let args = job::args(Path::new(OUT));
        s3.run(
            tmp.path(),
            [args, ["--input", "s3://data/in", "--incremental"].map(str::to_owned).into()].concat(),
        )
    };
    let is_quiet = |ran: &Ran| ran.stdout.contains("nothing is new");
    let rows = |ran: Ran| {
        let report = s3_json(&s3, dir.path(), "run_report.json");
        (report["rows"].as_u64().expect("a number"), is_quiet(&ran))
    };
    assert_eq!(rows(night().ok()), (9, false));
    s3.asked();
    let quiet = night().ok();
    let asked = s3.asked();
    assert!(is_quiet(&quiet), "{}", quiet.stdout);
    let of_tables = asked.iter().filter(|request| request.ends_with(".parquet")).count();
    assert!(!asked.is_empty() && of_tables == 0, "{asked:?}");
    // Another file, then the first one put again: as long as before, only the store knows.
    s3.put("data/in/tuesday.parquet", &input);
    assert_eq!(rows(night().ok()), (18, false));
    assert_eq!(rows(night().ok()), (18, true));
    s3.put("data/in/monday.parquet", &input);
    let again = night().ok();
    assert!(again.stderr.contains("0 files new, 1 changed, 0 gone"), "{}", again.stderr);
    assert_eq!(rows(again), (18, false));
    assert_eq!(rows(night().ok()), (18, true));
}

/// A file of JSON of the output.
fn s3_json(s3: &S3, dir: &Path, name: &str) -> Value {
    let text = fs::read(mirrored(s3, dir, "data/some/out").join(name)).expect("a file");
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn a_job_whose_processes_are_killed_ends_as_one_that_was_let_be() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let began = Instant::now();
    let wanted = undisturbed(dir.path());
    let whole_run = began.elapsed();
    s3.delete("data/none");
    let args = job::args(Path::new(OUT));
    let mut killed = 0;
    loop {
        let mut child = s3
            .command(tmp.path(), &args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        // Before anything is written, in the middle, or too late; later each time, so that it ends.
        let tenths = 1 + 2 * killed + killed.min(1) * (random(killed.into()) as u32 % 4);
        std::thread::sleep(whole_run * tenths / 10);
        if child.try_wait().expect("it is there").is_some_and(|ended| ended.success()) {
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("it ends");
        killed += 1;
        whole(&s3, dir.path());
    }
    assert!(killed > 0, "nothing was killed");
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "after kills");
    println!("{killed} runs killed");
}

/// Whatever is there is whole: parts by their seals, what the manifest says of them.
fn whole(s3: &S3, dir: &Path) {
    let folder = mirrored(s3, dir, "data/some/out");
    for entry in fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "parquet") {
            assert!(batches(&path).iter().map(RecordBatch::num_rows).sum::<usize>() > 0);
        }
    }
    let Ok(text) = fs::read(folder.join("_manifest.json")) else { return };
    let manifest: Value = serde_json::from_slice(&text).expect("it is whole");
    for (name, part) in manifest["manifest"]["parts"].as_object().expect("parts") {
        let bytes = fs::read(folder.join(name)).expect("a part that the manifest has is there");
        assert_eq!(part["bytes"].as_u64(), Some(bytes.len() as u64), "{name}");
        assert_eq!(part["sha256"].as_str(), Some(clipmill::digest::of_bytes(&bytes).as_str()));
    }
    let complete = folder.join("_SUCCESS").exists();
    assert!(!complete || manifest["manifest"]["parts"].as_object().expect("parts").len() == PARTS);
}

#[test]
fn of_two_one_waits_for_nobody_and_shares_make_the_whole() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let wanted = undisturbed(dir.path());
    s3.delete("data/none");
    let start = |args: &[String]| {
        let mut command = s3.command(tmp.path(), args);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts")
    };
    let lease = |s3: &S3| s3.list("data/some/out/_lock.").keys().next().cloned();
    // One that is stopped holds its lease as a slow one does.
    let shares =
        [start(&job::share(Path::new(OUT), "0")), start(&job::share(Path::new(OUT), "1-2"))];
    for _ in 0..1000 {
        if lease(&s3).is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let signal = |name: &str| {
        let ids = shares.iter().map(|share| share.id().to_string());
        let sent = Command::new("kill").arg(name).args(ids).status().expect("kill is there");
        assert!(sent.success());
    };
    signal("-STOP");
    let ran = s3.run(tmp.path(), job::args(Path::new(OUT)));
    signal("-CONT");
    assert!(ran.code == 73 && ran.stderr.contains("being written by process"), "{}", ran.stderr);
    for share in shares {
        let ended = share.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    s3.run(tmp.path(), job::finalize(Path::new(OUT))).ok();
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "shares");
    assert_eq!(lease(&s3), None, "leases are gone with their holders");
}

#[test]
fn a_lease_of_another_machine_is_waited_for_until_it_is_dead_or_shows_life() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let said = dir.path().join("lease");
    let process = json!({ "machine": "another one", "id": 7, "began": "1" });
    let put = |held: bool, turn: u64| {
        let lease = json!({
            "holder": "process 7 on elsewhere", "process": process, "scope": "whole",
            "held": held, "turn": turn,
        });
        fs::write(&said, lease.to_string()).expect("written");
        s3.put("data/some/out/_lock.0-elsewhere", &said);
    };
    // One that is held, and one whose process died while it waited: nobody renews them.
    for held in [true, false] {
        put(held, 1);
        let began = Instant::now();
        s3.run(tmp.path(), job::args(Path::new(OUT))).ok();
        assert!(began.elapsed() > Duration::from_secs(30), "it was not waited for");
        assert_eq!(s3.list("data/some/out/_lock.").len(), 0, "dead ones are removed");
        s3.delete("data/some/out/part-00002.parquet");
    }
    put(true, 1);
    let mut command = s3.command(tmp.path(), job::args(Path::new(OUT)));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    for turn in 2..200 {
        std::thread::sleep(Duration::from_millis(500));
        put(true, turn);
        if child.try_wait().expect("it is there").is_some() {
            break;
        }
    }
    let ended = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.code() == Some(73) && stderr.contains("process 7 on elsewhere"),
        "{stderr}"
    );
}

#[test]
fn a_store_that_goes_away_in_the_middle_is_waited_for_and_then_gone_on_with() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let wanted = undisturbed(dir.path());
    s3.delete("data/none");
    let args = job::args(Path::new(OUT));
    let mut command = s3.command(tmp.path(), &args);
    command.env("CLIPMILL_STORE_PATIENCE", "5").stdout(Stdio::null()).stderr(Stdio::piped());
    s3.stop_at("data/some/out/part-00001.parquet");
    let ended = command.output().expect("the program starts");
    s3.go_on();
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(75) && stderr.contains(OUT), "{stderr}");
    s3.run(tmp.path(), &args).ok();
    assert_same(&mirrored(&s3, dir.path(), "data/some/out"), &wanted, "after an outage");
}

/// The sample's rows, each with 128 kB that do not compress: an input and an output of several
/// requests each.
fn large_rows() -> RecordBatch {
    let rows = &batches(&sample().join("captions.parquet"))[0].slice(0, 90);
    let blob = |row: u64| {
        let numbers = (0..16_384).map(|at| random(row << 20 | at));
        numbers.flat_map(u64::to_le_bytes).collect::<Vec<u8>>()
    };
    let blobs: Vec<_> = (0..rows.num_rows() as u64).map(blob).collect();
    let blobs: ArrayRef = Arc::new(BinaryArray::from_iter_values(&blobs));
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, column)| (field.name().clone(), column.clone()));
    let columns = columns.chain([("blob".to_owned(), blobs)]).collect::<Vec<_>>();
    RecordBatch::try_from_iter(columns).expect("rows")
}

#[test]
fn tables_are_read_from_stores_as_from_disks() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    let rows = large_rows();
    let at = |name: &str| dir.path().join(name);
    // A table of a partition each, one of them large.
    for (name, from, n) in [("lang=en/a.parquet", 0, 80), ("lang=fr/b.parquet", 80, 10)] {
        write(&at("in").join(name), &rows.slice(from, n));
        s3.put(&format!("data/in/{name}"), &at("in").join(name));
    }
    fs::write(at("in/notes.txt"), "not data").expect("written");
    s3.put("data/in/notes.txt", &at("in/notes.txt"));

    let run = |input: &str, output: &str| {
        let args = ["run", "pipelines/sample.toml", "--input", input, "--output", output];
        s3.run(tmp.path(), [&args[..], &["--set", "model.clip.precision=f32"]].concat())
    };
    let local = at("local").display().to_string();
    run(&at("in").display().to_string(), &local).ok();
    let parts = ["part-00000.parquet", "part-00001.parquet"];
    let wanted = parts.map(|part| batches(&at("local").join(part)));
    assert!(wanted[0][0].column_by_name("lang").is_some(), "folders are columns");

    for (number, input) in
        ["s3://data/in", "s3://data/in/", "s3://data/in/*/*.parquet"].iter().enumerate()
    {
        let out = format!("s3://data/out{number}");
        run(input, &out).ok();
        let folder = mirrored(&s3, dir.path(), &out["s3://".len()..]);
        let found = parts.map(|part| batches(&folder.join(part)));
        assert_eq!(found, wanted, "{input}");
        if number == 0 {
            let size = fs::metadata(folder.join(parts[0])).expect("there").len();
            assert!(size > 10 << 20, "one that is put in pieces: {size}");
        }
    }
    assert_eq!(s3.uploads("data"), 0, "every upload was ended");

    // One object; another in its place is another input.
    let one = |ran: &str| run("s3://data/in/lang=fr/b.parquet", ran);
    one("s3://data/one").ok();
    write(&at("changed"), &rows.slice(0, 10));
    s3.put("data/in/lang=fr/b.parquet", &at("changed"));
    let ran = one("s3://data/one");
    assert!(
        ran.code == 2 && ran.stderr.contains("s3://data/in/lang=fr/b.parquet was"),
        "{}",
        ran.stderr
    );
}

#[test]
fn commands_work_on_what_is_in_a_store() {
    let Some(s3) = S3::start() else { return };
    let (dir, tmp) = (scratch(), scratch());
    s3.delete("data/none");
    s3.run(tmp.path(), job::args(Path::new(OUT))).ok();
    let local = dir.path().join("local");
    clipmill(job::args(&local)).ok();
    let local = local.display().to_string();
    let both = |args: &[&str], kept: &str| {
        let there = format!("s3://data/{kept}");
        s3.run(tmp.path(), [args, &[OUT, &there]].concat()).ok();
        let here = dir.path().join(kept).display().to_string();
        clipmill([args, &[local.as_str(), &here]].concat()).ok();
        let folder = mirrored(&s3, dir.path(), &format!("data/{kept}"));
        let found = batches(&folder.join("part-00000.parquet"));
        assert_eq!(found, batches(&Path::new(&here).join("part-00000.parquet")), "{args:?}");
        assert!(found[0].num_rows() > 0);
        s3.run(tmp.path(), ["verify", &there]).ok();
    };
    both(&["filter", "--where", "similarity > 0.2"], "kept");
    both(&["dedup", "--semantic"], "deduped");
    let said = |args: &[&str]| s3.run(tmp.path(), args).ok().stdout;
    assert!(said(&["inspect", OUT]).contains("similarity"));
    let hits = |said: &str| {
        let said: Value = serde_json::from_str(said).expect("JSON");
        let hits = said["queries"][0]["hits"].clone();
        assert!(hits.as_array().is_some_and(|hits| hits.len() == 2), "{said}");
        hits
    };
    let like = ["--like", "3", "--top", "2", "--json"];
    let here = clipmill([&["search", local.as_str()], &like[..]].concat()).ok().stdout;
    assert_eq!(hits(&said(&[&["search", OUT], &like[..]].concat())), hits(&here));
}

#[test]
fn what_a_store_refuses_is_said_with_its_name() {
    let Some(s3) = S3::start() else { return };
    let tmp = scratch();
    s3.put("data/in/a.parquet", &sample().join("captions.parquet"));
    s3.put("data/bad/a.parquet", &sample().join("README.md"));
    let run = |input: &str, output: &str| {
        s3.run(tmp.path(), ["run", "pipelines/sample.toml", "--input", input, "--output", output])
    };
    for (input, output, code, says) in [
        ("s3://data/none/*.parquet", OUT, 2, "s3://data/none/*.parquet"),
        ("s3://data/in/none.parquet", OUT, 2, "s3://data/in/none.parquet"),
        ("s3://data/bad", OUT, 1, "s3://data/bad/a.parquet"),
        ("s3://", OUT, 1, "names no bucket"),
        ("s3://nobucket/in", OUT, 1, "s3://nobucket/in"),
        ("s3://data/in", "s3://nobucket/out", 1, "s3://nobucket/out"),
        ("https://host/in.parquet", OUT, 2, "s3://, gs:// and az://"),
    ] {
        let ran = run(input, output);
        assert_eq!(ran.code, code, "{input} {output}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{input} {output}: {}", ran.stderr);
    }
    // A store that is away may be back later.
    let mut command = s3.command(
        tmp.path(),
        ["run", "pipelines/sample.toml", "--input", "s3://data/in", "--output", OUT],
    );
    command.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1").env("CLIPMILL_STORE_PATIENCE", "1");
    let ran = common::Ran::of(command);
    assert_eq!(ran.code, 75, "{}", ran.stderr);
}
