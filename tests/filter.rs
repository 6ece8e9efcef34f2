//! `clipmill filter`: what it keeps, what it says, and what becomes of interrupted and odd ones.
//!
//! What is kept is said by DataComp's own functions, numpy, polars and DuckDB
//! (`oracle/filter.py`), not by this file.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::job::{Faulty, library};
use crate::common::{Ran, clipmill, command, oracle, scratch};

/// The tables of `oracle/filter.py make`, or `None` where there is no Python.
fn tables() -> Option<tempfile::TempDir> {
    let dir = scratch();
    oracle("filter.py", ["make", &dir.path().display().to_string()]).then_some(dir)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// `filter IN OUT` with more arguments.
fn filter(input: &Path, output: &Path, more: &[&str]) -> Ran {
    let args = ["filter".to_owned(), text(input), text(output)];
    clipmill(args.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())))
}

#[track_caller]
fn json(ran: Ran) -> Value {
    serde_json::from_str(&ran.ok().stdout).expect("JSON")
}

#[track_caller]
fn check(args: &[&str]) {
    assert!(oracle("filter.py", args));
}

#[test]
fn presets_keep_what_datacomps_script_keeps() {
    let Some(dir) = tables() else { return };
    let (table, half) = (dir.path().join("datacomp"), dir.path().join("half"));
    for (index, (table, preset, mode)) in [
        (&table, "datacomp-basic", "basic"),
        (&table, "datacomp-clip-b32-threshold", "b32 threshold 0.25"),
        (&table, "datacomp-clip-l14-30", "l14 fraction 0.3"),
        (&table, "datacomp-clip-b32-30", "b32 fraction 0.3"),
        (&table, "datacomp-clip-l14-1", "l14 fraction 0.01"),
        // The threshold is a NaN: nothing is kept.
        (&table, "datacomp-clip-b32-99", "b32 fraction 0.99"),
        (&table, "laion-5b-en", "laion2b"),
        (&half, "datacomp-basic", "basic"),
        // 0.28 in 16 bits is another number.
        (&half, "laion-5b-en", "laion2b"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("out-{index}"));
        let npy = dir.path().join(format!("out-{index}.npy"));
        let more = ["--preset", preset, "--uids", &text(&npy), "--json"];
        let said = json(filter(table, &out, &more));
        let mut args = vec!["datacomp".to_owned(), text(table), text(&out), text(&npy)];
        args.extend(mode.split(' ').map(str::to_owned));
        check(&args.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(said["rows_out"], said["uids"][1]);
        let last = said["funnel"].as_array().expect("steps").last().expect("one").clone();
        assert_eq!(last["rows"], said["rows_out"], "{preset}");
        let notes = said["notes"].to_string();
        assert_eq!(notes.contains("no row is kept"), preset.ends_with("99"), "{notes}");
        let language = table == &half && !mode.contains("b32 ");
        assert_eq!(notes.contains("captions of every language"), language, "{notes}");
    }
    let ran = filter(&table, &dir.path().join("all"), &["--preset", "datacomp-clip-l14-100"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("IndexError"), "{}", ran.stderr);
}

#[test]
fn laion_400m_keeps_what_its_three_rules_keep() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("datacomp");
    let (preset, sql) = (dir.path().join("preset"), dir.path().join("sql"));
    // A column of numbers stands for the sizes of the files.
    let more = ["--preset", "laion-400m", "--map", "image_bytes=original_width"];
    let said = filter(&table, &preset, &more).ok().stdout;
    assert!(said.contains("original_width at least 5000"), "{said}");
    let said = filter(&table, &preset, &["--preset", "laion-400m", "--overwrite"]).ok().stdout;
    assert!(said.contains("images under 5 kB are not looked for"), "{said}");
    let condition = "char_length(text) >= 5 and clip_b32_similarity_score >= 0.3 and \
                     clip_b32_similarity_score < 2";
    filter(&table, &sql, &["--where", condition]).ok();
    check(&["where", &text(&table), &text(&sql), condition]);
    let parts = |dir: &Path| fs::read(dir.join("part-00000.parquet")).expect("a part").len();
    let rows = |dir: &Path| json(clipmill(["filter", &text(dir), &text(&dir.join("x")), "--json"]));
    assert_eq!(rows(&preset)["rows_out"], rows(&sql)["rows_out"]);
    assert!(parts(&preset) > 0);
}

#[test]
fn a_condition_keeps_what_polars_and_duckdb_keep() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("scored.parquet");
    for (index, sql) in [
        "similarity >= 0.285 and original_width >= 200",
        "original_width > 2 * original_height or not flag",
        "flag",
        "flag is null",
        "text like '%猫%' and language in ('de', 'zh')",
        "similarity between 0.205 and 0.215 or similarity is null",
        "case when flag then original_height >= 600 else original_width < 200 end",
        "abs(similarity - 0.2) < 0.0501",
        "seen >= timestamp '2030-01-01 00:00:00'",
        "length(text) > 12 and \"language\" <> 'en'",
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("where-{index}"));
        filter(&table, &out, &["--where", sql]).ok();
        check(&["where", &text(&table), &text(&out), sql]);
    }
}

#[test]
fn what_is_no_condition_over_a_row_is_refused_with_the_cure() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("scored.parquet");
    for (sql, wanted) in [
        ("similarty >= 0.28", "did you mean \"similarity\"?"),
        ("similarity >>= 0.28", "is no SQL expression"),
        ("similarity >=", "is no SQL expression"),
        ("", "is no SQL expression"),
        ("1 = 1", "names no column"),
        ("similarity + 1", "does not work"),
        ("similarity > text", "does not work"),
        ("similarity > avg(similarity)", "looks at more than one row"),
        ("row_number() over (order by similarity) < 5", "row"),
        ("similarity in (select similarity from x)", ""),
    ] {
        let ran = filter(&table, &dir.path().join("out"), &["--where", sql]);
        assert_eq!(ran.code, 2, "{sql}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(wanted), "{sql}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{sql}: {}", ran.stderr);
        assert!(!dir.path().join("out").exists(), "{sql}");
    }
}

#[test]
fn shares_and_quantiles_are_those_of_numpy_and_the_rest_is_said_why() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("scored.parquet");
    for share in ["0.3", "0.001", "0.5", "1.0", "0.0000001"] {
        let out = dir.path().join(format!("top-{share}"));
        filter(&table, &out, &["--keep-top", share]).ok();
        check(&["top", &text(&table), &text(&out), share]);
    }
    for q in ["0.7", "0", "1", "0.33333"] {
        let out = dir.path().join(format!("quantile-{q}"));
        filter(&table, &out, &["--keep-quantile", q]).ok();
        check(&["quantile", &text(&table), &text(&out), q]);
    }
    let (out, rest) = (dir.path().join("kept"), dir.path().join("rest"));
    let rest = text(&rest);
    let more = ["--where", "original_width >= 200", "--keep-top", "0.3", "--rejected", &rest];
    let said = filter(&table, &out, &more).ok().stdout;
    assert!(said.contains("failed: caption_empty "), "{said}");
    check(&["rejected", &text(&table), &text(&out), &rest]);
    for (flag, value) in [("--keep-top", "0"), ("--keep-top", "1.5"), ("--keep-quantile", "NaN")] {
        let ran = filter(&table, &dir.path().join("x"), &[flag, value]);
        assert_eq!(ran.code, 2, "{flag} {value}");
        assert!(ran.stderr.contains(value), "{}", ran.stderr);
    }
}

#[test]
fn embeddings_of_every_layout_are_copied_as_they_are() {
    let Some(dir) = tables() else { return };
    for layout in ["plain", "small", "v2", "groups", "dictionary", "split"] {
        for kind in ["halffloat", "float", "double"] {
            let table = dir.path().join(format!("lists-{layout}-{kind}.parquet"));
            let out = dir.path().join(format!("copied-{layout}-{kind}"));
            filter(&table, &out, &["--where", "keep"]).ok();
            check(&["rows", &text(&table), &text(&out)]);
            // What was written is read again in the same way.
            let again = dir.path().join(format!("again-{layout}-{kind}"));
            filter(&out, &again, &["--where", "keep"]).ok();
            check(&["rows", &text(&table), &text(&again)]);
        }
    }
}

#[test]
fn small_and_empty_tables_have_sensible_results() {
    let Some(dir) = tables() else { return };
    for (name, more, rows) in [
        ("empty", vec!["--keep-top", "0.3"], 0),
        ("empty", vec!["--keep-quantile", "0.3"], 0),
        ("empty", vec!["--where", "similarity > 0", "--preset", "datacomp-clip-b32-30"], 0),
        ("failed", vec!["--keep-top", "0.3"], 0),
        ("failed", vec![], 0),
        ("one", vec!["--keep-top", "0.001"], 1),
        ("one", vec!["--keep-quantile", "1"], 1),
        // Of one row, the reference keeps it: sorted[int(0.3)] is its score.
        ("one", vec!["--preset", "datacomp-clip-b32-30"], 1),
        ("nan", vec!["--keep-top", "0.9"], 0),
        ("nan", vec!["--where", "similarity is not null"], 45),
    ] {
        let out = dir.path().join(format!("out-{name}-{}", more.concat().replace(' ', "")));
        let table = dir.path().join(format!("{name}.parquet"));
        let npy = text(&dir.path().join("small.npy"));
        let said = json(filter(&table, &out, &[&more[..], &["--json", "--uids", &npy]].concat()));
        let found = said["rows_out"].as_u64().expect("a number");
        match name {
            // Some of the first 50 rows have failed.
            "nan" if rows > 0 => assert!(found > 30 && found < 50, "{found}"),
            _ => assert_eq!(found, rows, "{name} {more:?}"),
        }
        assert!(out.join("_SUCCESS").exists() && out.join("part-00000.parquet").exists());
        assert_eq!(said["uids"][1], said["rows_out"]);
    }
}

#[test]
fn missing_columns_and_folders_that_are_in_use_are_named() {
    let Some(dir) = tables() else { return };
    let (scored, lists) =
        (dir.path().join("scored.parquet"), dir.path().join("lists-plain-float.parquet"));
    let datacomp = dir.path().join("datacomp");
    let here = text(dir.path());
    let out = text(&dir.path().join("out"));
    for (input, output, more, wanted) in [
        (&lists, &out, vec!["--keep-top", "0.3"], "no column of scores"),
        (&datacomp, &out, vec!["--keep-top", "0.3"], "name one: clip_b32_similarity_score"),
        (&scored, &out, vec!["--keep-top", "0.3", "--score", "simlarity"], "\"similarity\"?"),
        (&scored, &out, vec!["--keep-top", "0.3", "--score", "text"], "a score is a number"),
        (&lists, &out, vec!["--preset", "datacomp-basic"], "--map caption=NAME"),
        (&scored, &out, vec!["--preset", "datacomp"], "is no preset"),
        (&scored, &out, vec!["--map", "colour=x"], "is none of"),
        (&scored, &out, vec!["--uids", "x.npy", "--map", "uid=text"], "hexadecimal"),
        (&scored, &here, vec![], "holds the input"),
        (&scored, &out, vec!["--rejected", &out], "for the kept rows"),
        (&lists, &out, vec!["--where", "vector > 1"], "a condition reads numbers"),
    ] {
        let ran = filter(input, Path::new(output), &more);
        assert_eq!(ran.code, 2, "{more:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(wanted), "{more:?}: {}", ran.stderr);
    }
    // Without a preset, whatever is there is a score's only candidate.
    let said = filter(&scored, &dir.path().join("best"), &["--keep-top", "0.5"]).ok().stdout;
    assert!(said.contains("similarity at least"), "{said}");
}

/// Files of a folder and when they were written.
fn times(dir: &Path) -> Vec<(PathBuf, std::time::SystemTime)> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries
        .map(|path| (path.clone(), fs::metadata(path).and_then(|m| m.modified()).expect("a time")))
        .collect();
    files.sort();
    files
}

#[test]
fn asked_for_again_nothing_is_done_and_other_settings_are_refused() {
    let Some(dir) = tables() else { return };
    let (table, out) = (dir.path().join("scored.parquet"), dir.path().join("out"));
    let first = filter(&table, &out, &["--where", "similarity > 0.3"]).ok().stdout;
    let before = times(&out);
    let again = filter(&table, &out, &["--where", "similarity > 0.3"]).ok().stdout;
    assert_eq!(again, first.replace("%\n", "% (complete already)\n"));
    assert_eq!(times(&out), before);
    let changed = filter(&table, &out, &["--where", "similarity > 0.31"]);
    assert_eq!(changed.code, 2);
    assert!(changed.stderr.contains("--overwrite replaces it"), "{}", changed.stderr);
    assert_eq!(times(&out), before);
    filter(&table, &out, &["--where", "similarity > 0.31", "--overwrite"]).ok();
    check(&["where", &text(&table), &text(&out), "similarity > 0.31"]);
    // The rejected rows may be asked for later.
    let rest = text(&dir.path().join("rest"));
    filter(&table, &out, &["--where", "similarity > 0.31", "--rejected", &rest]).ok();
    assert!(Path::new(&rest).join("_SUCCESS").exists());
    // Somebody else's folder is left alone.
    let other = dir.path().join("other");
    fs::create_dir(&other).expect("a folder");
    fs::write(other.join("notes.txt"), "mine").expect("written");
    let ran = filter(&table, &other, &["--overwrite"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("notes.txt"), "{}", ran.stderr);
}

#[test]
fn a_filter_that_was_killed_starts_again_and_gives_the_same_bytes() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("scored.parquet");
    let Some(library) = library("faults") else { return };
    let part = |dir: &Path| fs::read(dir.join("part-00000.parquet")).expect("a part");
    let filtered = |out: &Path, fault: &str| {
        let log = out.with_extension("log");
        let run = Faulty { library: &library, output: out, log: &log };
        let args = ["filter", &text(&table), &text(out), "--where", "similarity > 0"];
        (run.run(fault, &args.map(str::to_owned)).status, run.events(None))
    };
    let whole = dir.path().join("whole");
    let (status, n_events) = filtered(&whole, "");
    assert!(status.success() && n_events > 10, "{n_events} events");
    // An odd step: before and after, by turns.
    for event in (1..=n_events).step_by(7) {
        let (out, when) = (dir.path().join(event.to_string()), ["kill", "kill-after"][event % 2]);
        let (status, _) = filtered(&out, &format!("{event}:{when}"));
        assert_eq!(status.signal(), Some(9), "event {event}");
        assert!(!out.join("_SUCCESS").exists() || part(&out) == part(&whole), "event {event}");
        filter(&table, &out, &["--where", "similarity > 0"]).ok();
        assert!(out.join("_SUCCESS").exists() && part(&out) == part(&whole), "event {event}");
        assert!(!times(&out).iter().any(|(path, _)| text(path).contains("clipmill-tmp")));
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let Some(dir) = tables() else { return };
    let table = dir.path().join("lists-groups-halffloat.parquet");
    let part = |threads: &str| {
        let out = dir.path().join(format!("out-{threads}"));
        let args = ["filter", &text(&table), &text(&out), "--where", "keep"];
        let done = command(args).env("RAYON_NUM_THREADS", threads).output().expect("starts");
        assert!(done.status.success());
        fs::read(out.join("part-00000.parquet")).expect("a part")
    };
    assert!(part("1") == part("7"));
}
