//! `clipmill search`: what it finds is what numpy and transformers find, from a file of vectors or
//! from the table itself; odd tables have a clear answer. The oracle is `oracle/search.py`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{clipmill, oracle, sample, scratch};

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Searches, keeps the JSON under `name` and gives it back.
fn search(dir: &Path, name: &str, args: &[&str]) -> (PathBuf, Value) {
    let ran = clipmill(["search"].iter().chain(args).chain(&["--json"])).ok();
    let path = dir.join(name);
    fs::write(&path, &ran.stdout).expect("written");
    (path, serde_json::from_str(&ran.stdout).expect("JSON"))
}

fn hits(result: &Value) -> Vec<Vec<u64>> {
    let row = |hit: &Value| hit["row"].as_u64().expect("a row");
    let queries = result["queries"].as_array().expect("a list").iter();
    queries
        .map(|query| query["hits"].as_array().expect("a list").iter().map(row).collect())
        .collect()
}

/// The random and odd tables.
fn tables() -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = scratch();
    let tables = dir.path().join("tables");
    fs::create_dir(&tables).expect("a folder");
    let args = ["make".into(), tables.clone().into_os_string()];
    oracle("search.py", args).then_some((dir, tables))
}

#[test]
fn nearest_rows_are_those_of_numpy_in_every_type_with_and_without_the_file() {
    let Some((dir, tables)) = tables() else { return };
    for name in ["f16", "f32", "f64"] {
        let table = tables.join(name);
        let table_text = text(&table);
        let likes = [1, 7, 50, 77_005, 99_998, 555, 31_000, 64_123].map(|row: u64| row.to_string());
        for top in ["10", "150"] {
            let mut args = vec![table_text.as_str(), "--column", "vector", "--top", top];
            likes.iter().for_each(|row| args.extend(["--like", row]));
            let (path, with) = search(dir.path(), "with.json", &args);
            assert!(table.join("_vectors-vector.bin").exists());
            let check: Vec<OsString> =
                vec!["check".into(), table.clone().into(), path.into(), top.into()];
            assert!(oracle("search.py", check));
            let without = [&args[..], &["--no-cache"]].concat();
            assert_eq!(search(dir.path(), "without.json", &without).1, with, "{name} {top}");
        }
    }
}

#[test]
fn the_sample_is_searched_as_transformers_would() {
    let dir = scratch();
    let out = dir.path().join("out");
    let out_text = text(&out);
    let set = "model.clip.precision=f32";
    clipmill(["run", "pipelines/sample.toml", "--output", &out_text, "--set", set]).ok();
    let image = text(&sample().join("images"));
    let entries = fs::read_dir(&image).expect("images").map(|entry| entry.expect("one").path());
    let mut images: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "png")).collect();
    images.sort();
    let image = text(images.first().expect("a PNG"));
    let args = [out_text.as_str(), "red apple", "a photo of a cat", "--image", &image];
    let f32 = ["--precision", "f32"];
    let (path, result) = search(dir.path(), "result.json", &[&args[..], &f32].concat());
    assert_eq!(result["searched"].as_u64().map(|n| n > 260), Some(true));
    let check: Vec<OsString> = vec!["sample".into(), out.clone().into(), path.into(), "10".into()];
    if !oracle("search.py", check) {
        return;
    }
    // The terminal says the same, and which rows have no vector.
    let ran = clipmill(["search", &out_text, "red apple", "--top", "3"]).ok();
    for wanted in ["red apple", "image_path", "rows searched", "image_truncated"] {
        assert!(ran.stdout.contains(wanted), "{wanted}: {}", ran.stdout);
    }
    // The file of vectors is nobody's: neither the run's nor a change of the output.
    let again = clipmill(["run", "pipelines/sample.toml", "--output", &out_text, "--set", set]);
    assert!(again.ok().stderr.is_empty());
    clipmill(["verify", &out_text]).ok();
    let new = dir.path().join("new");
    fs::create_dir(&new).expect("a folder");
    fs::write(new.join("_vectors-image_embedding.bin"), "old").expect("written");
    clipmill(["run", "pipelines/sample.toml", "--output", &text(&new), "--limit", "5"]).ok();
    assert!(!new.join("_vectors-image_embedding.bin").exists(), "it was of other data");
}

#[test]
fn the_file_of_vectors_follows_the_table_and_is_never_needed() {
    let Some((dir, tables)) = tables() else { return };
    let (table, file) = (tables.join("f16"), tables.join("f16/_vectors-vector.bin"));
    let table_text = text(&table);
    let args = [table_text.as_str(), "--column", "vector", "--like", "20", "--top", "5"];
    let find = || hits(&search(dir.path(), "r.json", &args).1);
    let first = find();
    let whole = fs::read(&file).expect("it was made");
    // Cut short, of another format, not a file: made again or done without.
    for bad in [&whole[..whole.len() - 1], &whole[..100], &[]] {
        fs::write(&file, bad).expect("written");
        assert_eq!(find(), first);
        assert!(fs::read(&file).expect("made again") == whole);
    }
    let mut other = whole.clone();
    other[0] ^= 1;
    fs::write(&file, &other).expect("written");
    assert_eq!(find(), first);
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("a folder");
    let ran = clipmill(["search"].iter().chain(&args)).ok();
    assert!(ran.stderr.contains("the table itself is read each time"), "{}", ran.stderr);
    assert_eq!(find(), first);
    fs::remove_dir(&file).expect("removed");
    // Another table under the same name.
    fs::remove_file(table.join("1.parquet")).expect("removed");
    let fewer = find();
    assert_eq!(
        hits(&search(dir.path(), "n.json", &[&args[..], &["--no-cache"]].concat()).1),
        fewer
    );
    assert_ne!(fewer, first);
    // Beside a single file, and for a glob.
    let one = text(&table.join("0.parquet"));
    let args = [one.as_str(), "--column", "vector", "--like", "20", "--top", "5"];
    assert_eq!(hits(&search(dir.path(), "o.json", &args).1), fewer);
    assert!(table.join("_vectors-0.parquet-vector.bin").exists());
    let glob = format!("{table_text}/*.parquet");
    let args = [glob.as_str(), "--column", "vector", "--like", "20", "--top", "5"];
    assert_eq!(hits(&search(dir.path(), "g.json", &args).1), fewer);
}

#[test]
fn odd_tables_and_bad_usage_have_a_clear_answer() {
    let Some((_dir, tables)) = tables() else { return };
    let model = text(&sample().join("model"));
    let table = |name: &str| text(&tables.join(format!("{name}.parquet")));
    let with_model = ["a cat", "--model", &model];
    for (name, args, code, wanted) in [
        ("empty", &with_model[..], 0, "0 of 0 rows searched"),
        ("empty", &["--like", "0"], 2, "the table has 0 rows"),
        ("nulls", &with_model, 0, "0 of 2 rows searched; without a vector: 2 no vector"),
        ("nulls", &["--like", "1"], 2, "has no vector"),
        ("one", &["--like", "0"], 0, "1 of 1 row searched"),
        ("one", &["--like", "0", "--top", "0"], 2, "--top"),
        ("one", &["--export", "no/such/x.usearch"], 2, "the folder of the file"),
        ("one", &with_model, 2, "its embeddings have 128 numbers, those of image_embedding 2"),
        ("one", &["a cat"], 2, "does not say which model"),
        ("one", &[], 2, "name a text"),
        ("one", &["--like", "0", "--column", "image_embeding"], 2, "did you mean"),
        ("nulls", &["--image", "no.png", "--model", &model], 2, "no.png"),
        ("mixed", &["--like", "0"], 2, "vectors of 2 and of 3 numbers"),
        ("none_good", &["--like", "0"], 2, "has no vector"),
        ("numbers", &["--like", "0"], 2, "a list of f16, f32 or f64"),
        ("no_such", &["--like", "0"], 2, "does not exist"),
        ("hostile", &["--like", "2", "--top", "99"], 0, "\u{fffd}[2J.png"),
    ] {
        for more in [&[][..], &["--no-cache"]] {
            let path = table(name);
            let ran = clipmill([&["search", &path][..], args, more].concat());
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert_eq!(ran.code, code, "{name} {args:?}: {said}");
            assert!(said.contains(wanted), "{name} {args:?}: {said}");
            assert!(!said.contains('\x1b') && !said.contains("alert(1)</script>\n\n"), "{said}");
        }
    }
    let path = table("none_good");
    let ran = clipmill([&["search", &path][..], &with_model].concat());
    assert!(ran.code == 2 || ran.stdout.contains("1 image_missing"), "{}", ran.stdout);
}

#[test]
fn the_page_has_the_pictures_and_hostile_texts_stay_texts() {
    let Some((dir, tables)) = tables() else { return };
    let (hostile, page) = (text(&tables.join("hostile.parquet")), dir.path().join("page.html"));
    let page_text = text(&page);
    clipmill(["search", &hostile, "--like", "2", "--html", &page_text]).ok();
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{html}");
    assert!(!html.contains("<script") && !html.contains('\x1b'), "{html}");
    assert!(html.contains("default-src 'none'; img-src data:; style-src 'sha256-"), "{html}");
    assert!(html.contains("does not say where its images are"), "{html}");
    // A root that is named is the only one, and nothing leaves it.
    let root = text(&tables);
    let args = ["search", &hostile, "--like", "2", "--html", &page_text, "--images-root", &root];
    clipmill(args).ok();
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("image_refused") && html.contains("image_missing"), "{html}");
    let none =
        ["search", &hostile, "--like", "2", "--html", &page_text, "--images-root", "no/such"];
    assert_eq!(clipmill(none).code, 2);
    // The sample's pictures are there, one a result, and nothing else is loaded.
    let out = text(&dir.path().join("out"));
    clipmill(["run", "pipelines/sample.toml", "--output", &out]).ok();
    clipmill(["search", &out, "a red apple", "--top", "7", "--html", &page_text]).ok();
    let html = fs::read_to_string(&page).expect("a page");
    assert_eq!(html.matches("src=\"data:image/jpeg;base64,").count(), 7);
    assert_eq!(html.matches("src=").count(), 7);
    assert!(!html.contains("http://") && !html.contains("https://"));
}

/// Other people's USearch reads it: what it finds is held against numpy's brute force, and so is
/// what the export says of itself.
#[test]
fn an_exported_index_is_read_by_usearch_and_finds_what_it_says() {
    let Some((dir, tables)) = tables() else { return };
    let (table, index) = (tables.join("f16"), dir.path().join("vectors.usearch"));
    let (table_text, index_text) = (text(&table), text(&index));
    let args = [table_text.as_str(), "--column", "vector", "--export", &index_text];
    let (path, result) = search(dir.path(), "export.json", &args);
    assert_eq!(result["export"]["sample"], 200, "{result}");
    let check: Vec<OsString> = vec!["export".into(), table.into(), path.into(), index.into()];
    assert!(oracle("search.py", check));
    // From the table alone as well, of wider numbers, and over what is there.
    let (table, index) = (text(&tables.join("f64")), index_text);
    let args = ["search", &table, "--column", "vector", "--export", &index, "--no-cache"];
    let ran = clipmill(args).ok();
    for wanted in ["USearch index of 99,995 vectors, 64 numbers each", "of the 10 nearest"] {
        assert!(ran.stdout.contains(wanted), "{wanted}: {}", ran.stdout);
    }
    // Where there is nothing, or little, to put in.
    for (name, vectors) in [("empty", "0 vectors"), ("nulls", "0 vectors"), ("one", "1 vector")] {
        let table = text(&tables.join(format!("{name}.parquet")));
        let ran = clipmill(["search", &table, "--export", &index]).ok();
        let says = ran.stdout.contains(vectors) && ran.stdout.contains("too few rows to measure");
        assert!(says, "{name}: {}", ran.stdout);
    }
}
