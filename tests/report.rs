//! `clipmill report`, as a browser sees it and as numpy counts.
//!
//! Headless Chromium opens each page: nothing is complained of, nothing is asked of the network,
//! keys move the cut (`oracle/report.py`). What the page should say is computed there from the
//! table.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{self, clipmill, corpora, oracle, root, sample, scratch};

/// Reports on `input` with more arguments, and gives the page's path.
fn report(dir: &Path, input: &Path, args: &[&str]) -> PathBuf {
    let out = dir.join("report.html");
    let mut all = vec!["report".to_owned(), input.display().to_string()];
    all.extend(["--out".to_owned(), out.display().to_string()]);
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    clipmill(all).ok();
    out
}

/// Tables to report on, or none without Python.
fn tables(dir: &Path) -> bool {
    let naughty = corpora("captions/blns").unwrap_or("none".into());
    oracle("report_tables.py", [dir.as_os_str(), naughty.as_os_str()])
}

/// Has the browser and numpy look at a page.
fn look(page: &Path, table: &Path, checks: &str) {
    let has_browser =
        ["chromium", "chromium-browser", "google-chrome"].iter().any(|name| which(name).is_some());
    if !has_browser {
        assert!(std::env::var_os("CI").is_none(), "CI needs Chromium: run `make test`");
        eprintln!("SKIPPED: no Chromium, so nobody looks at the page; `make test` installs it");
        return;
    }
    assert!(oracle("report.py", [page.as_os_str(), table.as_os_str(), checks.as_ref()]));
}

fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.exists())
}

#[test]
fn a_report_of_the_sample_shows_its_pairs_and_counts_as_numpy_does() {
    let dir = scratch();
    let out = dir.path().join("out");
    let input = sample().join("captions.parquet");
    let args = ["run", "pipelines/sample.toml", "-q"].map(str::to_owned);
    let places = ["--input", &input.display().to_string(), "--output", &out.display().to_string()]
        .map(str::to_owned);
    let columns = ["caption_tokens", "caption_truncated"]
        .map(|column| ["--set".to_owned(), format!("columns.{column}={column}")]);
    clipmill(args.into_iter().chain(places).chain(columns.into_iter().flatten())).ok();
    let page = report(dir.path(), &out, &["--by", "image_format", "--cut", "0.28"]);
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.len() < 3_000_000, "{} bytes", html.len());
    for wanted in ["image_truncated", "0.280", "cpu in", "weights sha256", "the file is empty"] {
        assert!(html.contains(wanted), "{wanted}");
    }
    let again = report(dir.path(), &out, &["--by", "image_format", "--cut", "0.28"]);
    assert!(html == fs::read_to_string(again).expect("a page"), "the same twice");
    if !tables(dir.path()) {
        return;
    }
    report(dir.path(), &out, &["--by", "image_format", "--cut", "0.28"]);
    look(&page, &out, "slider,quantiles,groups:image_format,captions,hostile,pictures");
    // Another seed draws other pairs, and says the same numbers.
    let page = report(dir.path(), &out, &["--seed", "1", "--no-thumbnails"]);
    let other = fs::read_to_string(&page).expect("a page");
    assert!(other != html && !other.contains("data:image"));
    look(&page, &out, "quantiles");
}

#[test]
fn counts_quantiles_groups_and_drift_are_numpys() {
    let dir = scratch();
    if !tables(dir.path()) {
        return;
    }
    let at = |name: &str| dir.path().join(format!("{name}.parquet"));
    let (new, old) = (at("new"), at("old"));
    let against = old.display().to_string();
    let page = report(dir.path(), &new, &["--by", "site", "--against", &against]);
    let drift = format!("slider,quantiles,groups:site,captions,drift:{against}");
    look(&page, &new, &drift);
    for by in ["width", "caption_truncated"] {
        // A cut that is on no round number.
        let page = report(dir.path(), &new, &["--by", by, "--cut", "0.27183"]);
        if by == "width" {
            look(&page, &new, "slider,groups:width");
        }
        assert!(fs::read_to_string(&page).expect("a page").contains("0.27183"));
    }
    let page = report(dir.path(), &new, &["--against", &new.display().to_string()]);
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("data-psi=\"0\"") && html.contains("little change"));
    // Scores that are no cosines, found by their name or named.
    for (name, column, args) in [
        ("wide", "aesthetic", &["--score", "aesthetic", "--by", "text"][..]),
        ("half", "clip_score", &[][..]),
        ("integers", "score", &[][..]),
    ] {
        let page = report(dir.path(), &at(name), args);
        look(&page, &at(name), &format!("slider,quantiles,score:{column}"));
    }
    // The same as JSON, held against pandas.
    let page = dir.path().join("json.html").display().to_string();
    let args = ["--cut", "0.27183", "--against", &against, "--out", &page, "--json"];
    let said = clipmill([&["report", &new.display().to_string()], &args[..]].concat()).ok().stdout;
    let Some(python) = common::python() else { return };
    let compare = "import sys, json, numpy as np, pyarrow.parquet as pq\n\
        said, table = json.loads(sys.argv[2]), pq.read_table(sys.argv[1]).to_pandas()\n\
        ok = table[table['status'] == 'ok']\n\
        scores = ok[said['scores']['column']].astype(float)\n\
        scores = scores[np.isfinite(scores)]\n\
        assert said['rows'] == len(table) and said['ok'] == len(ok), said\n\
        assert sum(said['failed'].values()) == len(table) - len(ok), said\n\
        assert said['scores']['rows'] == len(scores), (said, len(scores))\n\
        assert abs(said['scores']['mean'] - scores.mean()) < 1e-6, said\n\
        assert said['scores']['kept'] == (scores >= said['scores']['cut']).sum(), said\n\
        for q, score in said['scores']['quantiles']:\n\
        \x20   assert abs(np.quantile(scores, q) - score) < 2e-4, (q, score)\n\
        assert said['population_stability_index'] > 0 and said['report'] == sys.argv[3], said";
    let mut command = std::process::Command::new(python);
    let compared = command.args(["-c", compare]).arg(&new);
    let compared = compared.args([&said, &page]).output().expect("Python starts");
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
    // More values than are held: the large ones are found.
    let page = report(dir.path(), &new, &["--by", "id"]);
    assert!(fs::read_to_string(&page).expect("a page").contains("all other values"));
}

#[test]
fn what_a_table_holds_stays_text() {
    let dir = scratch();
    if !tables(dir.path()) {
        return;
    }
    let table = dir.path().join("hostile.parquet");
    let images = sample().display().to_string();
    let args = ["--by", "<b>name</b>", "--by", "caption", "--images-root", &images];
    let page = report(dir.path(), &table, &args);
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("image_refused") && !html.contains("data:image"));
    look(&page, &table, "hostile,quantiles");
    let words = dir.path().join("words.parquet");
    let page = report(dir.path(), &words, &[]);
    look(&page, &words, "plain");
}

#[test]
fn tables_that_lack_something_get_a_page_without_it() {
    let dir = scratch();
    if !tables(dir.path()) {
        return;
    }
    for (name, says) in [
        ("empty", "The table has no rows."),
        ("failed", "Every row failed."),
        ("one", "1 scored rows"),
        ("same", "9 scored rows"),
        ("nan", "No row has a score."),
        ("plain", "no column of scores"),
        ("none", "no column of scores"),
    ] {
        let table = dir.path().join(format!("{name}.parquet"));
        let page = report(dir.path(), &table, &[]);
        let html = fs::read_to_string(&page).expect("a page");
        assert!(html.contains(says), "{name}: {says}");
        look(&page, &table, "plain");
        // With either side of a comparison empty too.
        let new = dir.path().join("new.parquet").display().to_string();
        let args = ["--against", &new];
        report(dir.path(), &table, &args);
        let page =
            report(dir.path(), Path::new(&new), &["--against", &table.display().to_string()]);
        look(&page, Path::new(&new), "plain");
    }
}

#[test]
fn a_filtered_table_shows_its_funnel() {
    let dir = scratch();
    if !tables(dir.path()) {
        return;
    }
    let run = |args: [&str; 4], more: [&str; 2]| clipmill([&args[..], &more[..]].concat()).ok();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (unique, kept) = (at("unique"), at("kept"));
    run(["cluster", &at("embedded.parquet"), &unique, "--k"], ["2", "--json"]);
    run(["filter", &unique, &kept, "--where"], ["x > 4", "--json"]);
    let html = fs::read_to_string(report(dir.path(), Path::new(&kept), &[])).expect("a page");
    for wanted in ["before cluster", "x &gt; 4", "12 rows in, 7 out"] {
        assert!(html.contains(wanted), "{wanted}");
    }
}

#[test]
fn what_cannot_be_reported_is_said() {
    let dir = scratch();
    let table = sample().join("captions.parquet").display().to_string();
    let out = dir.path().join("x.html").display().to_string();
    let folder = dir.path().display().to_string();
    for (args, says) in [
        (vec!["--score", "captoin", "--out", &out], "did you mean \"caption\"?"),
        (vec!["--score", "caption", "--out", &out], "a number is needed"),
        (vec!["--by", "nothing", "--out", &out], "has no column \"nothing\""),
        (vec!["--against", "no/such", "--out", &out], "no/such does not exist"),
        (vec!["--images-root", "no/such", "--out", &out], "the image root no/such"),
        (vec!["--out", &folder], "is a folder"),
        (vec!["--out", "no/such/x.html"], "the folder of the file no/such does not exist"),
        (vec!["--cut", "nan", "--out", &out], "is no finite number"),
    ] {
        let ran = clipmill(["report", &table].into_iter().chain(args.iter().copied()));
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
        assert!(!Path::new(&out).exists());
    }
    assert!(!root().join("report.html").exists());
}
