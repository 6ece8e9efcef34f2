//! `clipmill cluster`: against scikit-learn and numpy (`oracle/cluster.py`), and on odd tables.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Ran, clipmill, oracle, sample, scratch};

/// Clusters `input` into `output`.
fn cluster(input: &Path, output: &Path, more: &[&str]) -> Ran {
    let mut args = vec!["cluster".to_owned()];
    args.extend([input, output].map(|path| path.display().to_string()));
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    clipmill(args)
}

/// The sample's images, embedded.
fn embedded_sample(dir: &Path) -> PathBuf {
    let out = dir.join("run");
    clipmill(["run", "pipelines/sample.toml", "--output", &out.display().to_string()]).ok();
    out
}

/// A folder of the oracle's tables, or nothing where there is no oracle.
fn tables(dir: &Path) -> Option<PathBuf> {
    let made = dir.join("tables");
    fs::create_dir(&made).expect("a folder");
    oracle("cluster.py", ["make".as_ref(), made.as_path()]).then_some(made)
}

fn check(input: &Path, output: &Path, k: &str) {
    assert!(oracle("cluster.py", ["check".as_ref(), input, output, k.as_ref()]));
}

fn parts(dir: &Path) -> Vec<Vec<u8>> {
    let names = ["part-00000.parquet", "_centroids.safetensors"];
    names.map(|name| fs::read(dir.join(name)).expect("a file")).to_vec()
}

#[test]
fn inertia_is_scikit_learns_on_the_sample_and_the_same_seed_gives_the_same_bytes() {
    let dir = scratch();
    let run = embedded_sample(dir.path());
    let out = |name: &str| dir.path().join(name);
    for k in ["1", "10", "40"] {
        let output = out(&format!("k{k}"));
        let ran = cluster(&run, &output, &["--k", k]).ok();
        assert!(ran.stdout.contains("image_undecodable 2"), "{}", ran.stdout);
        if !oracle("cluster.py", ["check".as_ref(), run.as_path(), &output, k.as_ref()]) {
            return;
        }
    }
    cluster(&run, &out("again"), &["--k", "10"]).ok();
    cluster(&run, &out("other"), &["--k", "10", "--seed", "1"]).ok();
    assert_eq!(parts(&out("again")), parts(&out("k10")));
    assert_ne!(parts(&out("other")), parts(&out("k10")));
    // Centroids that are given are not changed, and rows go where they went.
    let given = out("k10").join("_centroids.safetensors").display().to_string();
    cluster(&run, &out("given"), &["--centroids", &given]).ok();
    check(&run, &out("given"), "10");
    let column = |dir: &Path| {
        let written: Value =
            serde_json::from_slice(&fs::read(dir.join("_made.json")).expect("a file")).expect("it");
        written["summary"]["clusters"].clone()
    };
    assert_eq!(column(&out("given")), column(&out("k10")));
}

#[test]
fn inertia_is_scikit_learns_in_memory_and_by_mini_batches() {
    let dir = scratch();
    let Some(tables) = tables(dir.path()) else { return };
    let big = tables.join("big.parquet");
    for (name, more) in [
        ("whole", &["--k", "60"][..]),
        ("sampled", &["--k", "60", "--sample", "6000", "--batch", "2000"]),
        // Fewer rows in a mini-batch than there are centroids.
        ("small", &["--k", "60", "--sample", "3000", "--batch", "50", "--passes", "2"]),
    ] {
        let output = dir.path().join(name);
        cluster(&big, &output, more).ok();
        check(&big, &output, "60");
    }
    let again = dir.path().join("again");
    cluster(&big, &again, &["--k", "60", "--sample", "6000", "--batch", "2000"]).ok();
    assert_eq!(parts(&again), parts(&dir.path().join("sampled")));
}

#[test]
fn names_are_the_words_that_set_a_cluster_apart() {
    let dir = scratch();
    let run = embedded_sample(dir.path());
    // Of what the sample's model knows.
    let words: Vec<_> = ["a cat", "an apple", "a car", "a flag", "a face", "a tree", "a clock"]
        .into_iter()
        .chain(["a hand", "a bird", "a cup", "a house", "a star", "a fish", "a person"])
        .collect();
    let list = dir.path().join("words.txt");
    fs::write(&list, words.join("\n")).expect("written");
    let (out, path) = (dir.path().join("out"), list.display().to_string());
    let more = ["--k", "8", "--words", &path, "--top-words", "2", "--precision", "f32", "--json"];
    let ran = cluster(&run, &out, &more).ok();
    let json: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(json["summary"]["clusters"].as_array().map(Vec::len), Some(8));
    let model = sample().join("model");
    let args = ["names".as_ref(), run.as_path(), &out, &list, &model, "2".as_ref()];
    if !oracle("cluster.py", args) {
        return;
    }
    // Asked again: nothing is done. Asked otherwise: refused, unless it may be replaced.
    let again: Value = serde_json::from_str(&cluster(&run, &out, &more).ok().stdout).expect("JSON");
    assert_eq!(again["was_there"], true);
    let other = cluster(&run, &out, &["--k", "9"]);
    assert_eq!(other.code, 2, "{}", other.stderr);
    assert!(other.stderr.contains("--overwrite"), "{}", other.stderr);
    cluster(&run, &out, &["--k", "9", "--overwrite"]).ok();
    check(&run, &out, "9");
}

#[test]
fn odd_tables_are_clustered_or_refused_by_name() {
    let dir = scratch();
    let Some(tables) = tables(dir.path()) else { return };
    let table = |name: &str| tables.join(format!("{name}.parquet"));
    let out = |name: &str| dir.path().join(name);
    for name in ["odd", "lists"] {
        let ran = cluster(&table(name), &out(name), &["--k", "2"]).ok();
        let said = "4 rows without an embedding, in none: image_missing 1, not finite, or zero 3";
        assert!(ran.stdout.contains(said), "{}", ran.stdout);
        check(&table(name), &out(name), "2");
    }
    cluster(&table("one"), &out("one"), &["--k", "1"]).ok();
    check(&table("one"), &out("one"), "1");
    // Fewer different rows than clusters.
    let ran = cluster(&table("same"), &out("same"), &["--k", "3"]).ok();
    assert!(ran.stdout.contains("2 clusters without a row"), "{}", ran.stdout);
    let given = out("odd").join("_centroids.safetensors").display().to_string();
    for name in ["failed", "empty"] {
        let output = out(&format!("given-{name}"));
        cluster(&table(name), &output, &["--centroids", &given]).ok();
        check_without_k(&table(name), &output);
    }
    for (name, more, said) in [
        ("one", &["--k", "2"][..], "k: 2 is more than there are rows with an embedding"),
        ("failed", &["--k", "2"], "no row has an embedding"),
        ("empty", &["--k", "2"], "no row has an embedding"),
        ("mixed", &["--k", "1"], "vectors of 2 and of 3 numbers"),
        ("words", &["--k", "1"], "a list of f16, f32 or f64"),
        ("one", &["--k", "1", "--column", "image_embeding"], "did you mean \"image_embedding\"?"),
        ("one", &["--centroids", &given], "have 3 numbers, and the embeddings have 2"),
        ("one", &["--centroids", "no-such-file"], "does not exist"),
        ("one", &["--k", "1", "--name", "image_embedding"], "already has a column"),
        ("one", &["--k", "1", "--words", "no-such-file"], "word list no-such-file does not exist"),
        ("one", &["--k", "0"], "invalid value"),
        ("one", &[], "--k"),
    ] {
        let ran = cluster(&table(name), &out("refused"), more);
        assert_eq!(ran.code, 2, "{name} {more:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(said), "{name} {more:?}: {}", ran.stderr);
        assert!(!out("refused").join("_SUCCESS").exists());
    }
}

fn check_without_k(input: &Path, output: &Path) {
    assert!(oracle("cluster.py", ["check".as_ref(), input, output]));
}
