//! `clipmill dedup`: against polars and numpy (`oracle/dedup.py`), and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{self, Ran, clipmill, oracle, root, scratch};

/// Deduplicates `input` into `output`.
fn dedup(input: &Path, output: &Path, more: &[&str]) -> Ran {
    let mut args = vec!["dedup".to_owned()];
    args.extend([input, output].map(|path| path.display().to_string()));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    clipmill(args)
}

/// The oracle's table, or nothing where there is no oracle.
fn table(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("table.parquet");
    oracle("dedup.py", ["make".as_ref(), path.as_path()]).then_some(path)
}

fn summary(output: &Path) -> Value {
    let made = fs::read(output.join("_made.json")).expect("a file");
    let made: Value = serde_json::from_slice(&made).expect("JSON");
    made["summary"].clone()
}

#[test]
fn groups_and_kept_rows_are_those_of_polars_and_numpy() {
    let dir = scratch();
    let Some(input) = table(dir.path()) else { return };
    for (at, (more, kinds)) in [
        (&["--exact", "--mark"][..], "exact,mark,score:similarity"),
        (&["--exact", "--exact-column", "bytes"], "exact:bytes,score:similarity"),
        (&["--perceptual"], "perceptual:4,score:similarity"),
        (&["--perceptual", "--distance", "0", "--mark"], "perceptual:0,mark,score:similarity"),
        (&["--perceptual", "--distance", "9", "--score", "id"], "perceptual:9,score:id"),
        (&["--semantic", "--threshold", "0.9", "--score", "id"], "semantic:0.9,score:id"),
        (&["--semantic", "--cells", "1", "--mark"], "semantic:0.95,mark,score:similarity"),
        (&["--semantic", "--cells", "7", "--seed", "3"], "semantic:0.95,score:similarity"),
        (
            &["--exact", "--perceptual", "--distance", "3", "--semantic", "--mark"],
            "exact,perceptual:3,semantic:0.95,mark,score:similarity",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let output = dir.path().join(at.to_string());
        dedup(&input, &output, more).ok();
        let args = ["check".as_ref(), input.as_path(), &output, kinds.as_ref()];
        assert!(oracle("dedup.py", args), "{kinds}");
    }
    // Every row is accounted for.
    let all = summary(&dir.path().join("8"));
    let found: u64 = all["likenesses"]
        .as_array()
        .expect("three")
        .iter()
        .map(|likeness| likeness["duplicates"].as_u64().expect("a number"))
        .sum();
    assert_eq!(all["duplicates"].as_u64(), Some(found));
    let again = dedup(&input, &dir.path().join("0"), &["--exact", "--mark", "--json"]).ok();
    let again: Value = serde_json::from_str(&again.stdout).expect("JSON");
    assert_eq!((&again["was_there"], &again["rows_out"]), (&true.into(), &3000.into()));
}

#[test]
fn a_table_of_runs_is_deduplicated_by_what_the_run_hashed() {
    let dir = scratch();
    let text = fs::read_to_string(root().join("pipelines/sample.toml")).expect("a pipeline");
    let hashes = "[columns]\nimage_sha256 = \"image_sha256\"\nimage_phash = \"image_phash\"\n";
    let pipeline = dir.path().join("hashes.toml");
    fs::write(&pipeline, text.replacen("[columns]", hashes, 1)).expect("written");
    let pipeline = pipeline.display().to_string();
    let run = dir.path().join("run");
    clipmill(["run", &pipeline, "--output", &run.display().to_string()]).ok();
    let kept = dir.path().join("kept");
    let ran = dedup(&run, &kept, &["--exact", "--perceptual"]).ok();
    let found = summary(&kept);
    assert!(ran.stdout.contains("the highest similarity is kept"), "{}", ran.stdout);
    assert_eq!(found["rows"], 269);
    // Missing and empty files have no bytes, and keep their rows.
    assert_eq!(found["without"], 2);
}

#[test]
fn what_makes_no_sense_is_refused_by_name_and_odd_tables_are_not() {
    let dir = scratch();
    let Some(input) = table(dir.path()) else { return };
    let out = |name: &str| dir.path().join(name);
    for (more, said) in [
        (&[][..], "say what makes rows alike"),
        (&["--exact", "--exact-column", "image_sha25"], "did you mean \"image_sha256\"?"),
        (&["--exact", "--exact-column", "id"], "a hash (a string) or the image's bytes"),
        (&["--perceptual", "--phash-column", "status"], "64 bits in a u64 or i64"),
        (&["--perceptual", "--distance", "30"], "use at most 16"),
        (&["--semantic", "--threshold", "1.5"], "threshold: 1.5 is not in (0, 1]"),
        (&["--semantic", "--column", "id"], "a list of f16, f32 or f64"),
        (&["--exact", "--score", "status"], "a number is needed"),
        (&["--exact", "--score", "similarty"], "did you mean \"similarity\"?"),
        (&["--exact", "--group-column", "id"], "already has a column \"id\""),
    ] {
        let ran = dedup(&input, &out("refused"), more);
        assert_eq!(ran.code, 2, "{more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{more:?}: {}", ran.stderr);
        assert!(!out("refused").join("_SUCCESS").exists());
    }
    let tables = out("tables");
    fs::create_dir(&tables).expect("a folder");
    assert!(oracle("cluster.py", ["make".as_ref(), tables.as_path()]));
    for (name, kept) in [("one", 1), ("same", 1), ("failed", 5), ("empty", 0), ("odd", 6)] {
        let table = tables.join(format!("{name}.parquet"));
        let ran = dedup(&table, &out(name), &["--semantic", "--json"]).ok();
        let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!(json["rows_out"], kept, "{name}");
    }
    let one = tables.join("one.parquet");
    let ran = dedup(&one, &out("refused"), &["--exact"]);
    assert!(ran.stderr.contains("under [columns]"), "{}", ran.stderr);
    assert_eq!(ran.code, 2);
}

/// Peak memory of the process and its time are printed, and only what would be a defect fails.
#[test]
fn a_million_rows_are_compared_in_bounded_memory() {
    let dir = scratch();
    let input = dir.path().join("million.parquet");
    if !oracle("dedup.py", ["million".as_ref(), input.as_path(), "1000000".as_ref()]) {
        return;
    }
    let output = dir.path().join("out");
    let mut command = common::command(["dedup", "--exact", "--perceptual"]);
    let started = std::time::Instant::now();
    let child = command.arg(&input).arg(&output).stdout(std::process::Stdio::null()).spawn();
    let mut child = child.expect("the program starts");
    let mut peak_kib = 0;
    let status = loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let peak = status.ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        peak_kib = peak_kib.max(peak.unwrap_or_default());
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert!(status.success());
    let seconds = started.elapsed().as_secs_f64();
    println!("1,000,000 rows by both: {seconds:.1} s, peak {} MiB", peak_kib / 1024);
    let found = summary(&output);
    assert!(found["duplicates"].as_u64().expect("a number") > 100_000);
    // The program alone takes about 100 MiB; a row 50 bytes.
    assert!(peak_kib < 600 << 10, "{peak_kib} KiB");
}
