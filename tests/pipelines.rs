//! Every file in `pipelines/` is one that users copy: it has to check, and to say in two comment
//! lines what it makes and what it costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::common::{self, Ran, clipmill, root, scratch};

#[test]
fn every_shipped_pipeline_checks_and_explains_itself() {
    let (mut seen, shards) = (0, scratch());
    for entry in std::fs::read_dir(root().join("pipelines")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&path).expect("readable");
        let comments = text.lines().take_while(|line| line.starts_with("# ")).count();
        assert_eq!(comments, 2, "{}: two comment lines open the file", path.display());
        let lines = text.lines().count();
        assert!(lines <= 40, "{}: {lines} lines", path.display());
        let out = scratch();
        let pipeline = path.display().to_string();
        let out = out.path().join("out").display().to_string();
        let mut args = vec!["check".to_owned(), pipeline, "--output".into(), out];
        // Where a pipeline wants models that the repository does not have, the sample's stands in.
        let folders = text.lines().filter_map(|line| line.strip_prefix("[model.clip."));
        for name in folders.filter_map(|line| line.split(']').next()) {
            args.push("--set".into());
            args.push(format!("model.clip.{name}.dir=sample_data/model"));
        }
        if text.contains("[source.webdataset]") {
            args.extend(["--input".to_owned(), shard(&shards).display().to_string()]);
        }
        clipmill(args).ok();
    }
    assert!(seen > 0);
}

/// A shard of one of the sample's images.
fn shard(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("00000.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).expect("a file"));
    let image = common::sample().join("images/003-1f31c.png");
    tar.append_path_with_name(image, "0.png").expect("added");
    let mut header = tar::Header::new_gnu();
    header.set_size(6);
    tar.append_data(&mut header, "0.txt", &b"a moon"[..]).expect("added");
    tar.finish().expect("ended");
    path
}

#[test]
fn plan_tells_where_each_value_came_from() {
    let out = scratch();
    let out = out.path().join("out").display().to_string();
    let args = ["plan", "pipelines/sample.toml", "--output", &out, "--limit", "20", "--set"];
    let args = [&args[..], &["sink.parquet.rows_per_part=8", "--json"]].concat();
    let plan: serde_json::Value = serde_json::from_str(&clipmill(args).ok().stdout).expect("JSON");
    let origin = |key: &str| {
        let settings = plan["settings"].as_array().expect("settings");
        let setting = settings.iter().find(|setting| setting["key"] == key);
        setting.map(|setting| setting["origin"].as_str().expect("a word").to_owned())
    };
    assert_eq!(origin("sink.parquet.rows_per_part").as_deref(), Some("command_line"));
    assert_eq!(origin("source.parquet.limit").as_deref(), Some("command_line"));
    assert_eq!(origin("source.parquet.image").as_deref(), Some("file"));
    assert_eq!(origin("preprocess.max_pixels").as_deref(), Some("default"));
    let rows: Vec<_> =
        plan["parts"].as_array().expect("parts").iter().map(|p| &p["rows"]).collect();
    assert_eq!(rows, [8, 8, 4]);
}

/// `filter_dataset.toml` with all its outputs in a folder, and more settings.
fn filter_dataset(command: &str, dir: &Path, more: &[&str]) -> Ran {
    let at = |name: &str| dir.join(name).display().to_string();
    let mut args = vec![command.to_owned(), "pipelines/filter_dataset.toml".to_owned()];
    args.extend(["--output".to_owned(), at("scored")]);
    for (key, name) in
        [("dedup.path", "unique"), ("filter.path", "kept"), ("report.out", "report.html")]
    {
        args.extend(["--set".to_owned(), format!("{key}={:?}", at(name))]);
    }
    args.extend(more.iter().map(|arg| arg.to_string()));
    clipmill(args)
}

fn written(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|found| found.modified()).expect("it is there")
}

#[test]
fn a_pipeline_goes_from_the_raw_table_to_the_kept_one_and_a_report() {
    let dir = scratch();
    let ran = filter_dataset("run", dir.path(), &[]).ok();
    for said in ["[dedup] of", "[filter] of", "[report] of", "similarity >= 0.39"] {
        assert!(ran.stdout.contains(said), "{said} is not in:\n{}", ran.stdout);
    }
    let rows = |name: &str| -> u64 {
        let made = fs::read(dir.path().join(name).join("_made.json")).expect("it says");
        let made: serde_json::Value = serde_json::from_slice(&made).expect("JSON");
        made["rows_out"].as_u64().expect("a number")
    };
    let (unique, kept) = (rows("unique"), rows("kept"));
    assert!((260..269).contains(&unique) && (150..unique).contains(&kept), "{unique}, {kept}");
    let page = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    assert!(page.contains("Content-Security-Policy") && page.contains("similarity"));

    // Again: nothing is scored, and the steps are there already.
    let part = |name: &str| dir.path().join(name).join("part-00000.parquet");
    let before = ["scored", "unique", "kept"].map(|name| written(&part(name)));
    let again = filter_dataset("run", dir.path(), &[]).ok();
    assert!(again.stdout.contains("is complete already"), "{}", again.stdout);
    assert_eq!(before, ["scored", "unique", "kept"].map(|name| written(&part(name))));

    let kept_rows = format!("{kept} rows, every digest fits");
    let at = |name: &str| dir.path().join(name).display().to_string();
    assert!(clipmill(["verify", &at("kept")]).ok().stdout.contains(&kept_rows));
    let mut bytes = fs::read(part("kept")).expect("a part");
    bytes[200] ^= 1;
    fs::create_dir(dir.path().join("flipped")).expect("a folder");
    fs::copy(dir.path().join("kept/_made.json"), dir.path().join("flipped/_made.json"))
        .expect("copied");
    fs::write(part("flipped"), bytes).expect("written");
    let flipped = clipmill(["verify", &at("flipped")]);
    assert_eq!(flipped.code, 1);
    for says in ["part-00000.parquet does not have", "_SUCCESS is missing"] {
        assert!(flipped.stderr.contains(says), "{}", flipped.stderr);
    }

    // No step of its own replaces what it reads.
    for command in ["cluster", "dedup", "filter"] {
        let unique = dir.path().join("unique").display().to_string();
        let how = match command {
            "cluster" => ["--k", "2"],
            "dedup" => ["--exact", "--mark"],
            _ => ["--keep-top", "0.5"],
        };
        let refused = clipmill([&[command, &unique, &unique, "--overwrite"], &how[..]].concat());
        assert_eq!(refused.code, 2, "{command}: {}", refused.stderr);
        assert_eq!(before[1], written(&part("unique")), "{command}");
    }

    // Another threshold is another result, which is not put in the first one's place unasked; and
    // it costs no image.
    let stricter = ["--set", "filter.where=\"similarity >= 0.6\""];
    let refused = filter_dataset("run", dir.path(), &stricter);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("kept") && refused.stderr.contains("other settings"));
    let redo = [&stricter[..], &["--redo-changed"]].concat();
    filter_dataset("run", dir.path(), &redo).ok();
    assert!(rows("kept") < kept);
    assert_eq!(before[..2], ["scored", "unique"].map(|name| written(&part(name))));
}

#[test]
fn steps_that_write_over_each_other_are_refused_before_the_run() {
    let dir = scratch();
    for (key, path) in
        [("dedup.path", "scored"), ("filter.path", "unique/kept"), ("dedup.path", "./scored/")]
    {
        let set = format!("{key}={:?}", dir.path().join(path).display().to_string());
        let refused = filter_dataset("check", dir.path(), &["--set", &set]);
        assert_eq!(refused.code, 2, "{set}: {}", refused.stderr);
        assert!(refused.stderr.contains("in the way of"), "{set}: {}", refused.stderr);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
}

/// What is wrong with a step is said before anything is scored, by `check` and by `run`.
#[test]
fn a_wrong_step_is_named_before_the_run() {
    let dir = scratch();
    let at = |name: &str| format!("{:?}", dir.path().join(name).display().to_string());
    let labels = dir.path().join("labels.txt");
    fs::write(&labels, "a cat\na dog\n").expect("written");
    let (clusters, labelled) =
        (format!("cluster.path={}", at("clusters")), format!("label.path={}", at("labelled")));
    let (good, none) = (format!("label.labels={}", at("labels.txt")), "label.labels=\"no.txt\"");
    let same = format!("filter.rejected={}", at("kept"));
    let own = format!("report.against={}", at("scored"));
    let filter_labels = "filter.where=\"label = 'a cat' and similarity > 0.4\"";
    for (sets, says) in [
        (&["filter.where=\"similarty >= 0.3\""][..], "similarity"),
        (&["filter.where=\"similarity >= \""], "filter.where"),
        (&["filter.keep_top=1.5"], "filter.keep_top: 1.5 is no share"),
        (&["filter.keep_top=0.3", "filter.score=\"caption\""], "a score is a number"),
        (&["filter.preset=\"datacomp-basic\"", "filter.columns.caption=\"txt\""], "txt"),
        (&["dedup.phash_column=\"phash\""], "no column \"phash\""),
        (&["dedup.distance=40"], "dedup.distance: 40 of 64 bits"),
        (&["dedup.group_column=\"similarity\""], "already has a column \"similarity\""),
        (&[&clusters], "cluster.k: say how many clusters"),
        (&[&clusters, "cluster.k=3", "cluster.column=\"image_embeding\""], "did you mean"),
        (&[&clusters, "cluster.k=3", "cluster.words=\"no.txt\""], "word list"),
        (&[&labelled, none], "labels file"),
        (&[&labelled, &good, "label.name=\"status\""], "already has a column \"status\""),
        (&[&labelled, &good, "label.templates=[\"a photo\"]"], "label.templates: \"a photo\""),
        (&["search.top=3"], "[search]: name a text"),
        (&["search.images=[\"no.png\"]"], "no.png"),
        (&["search.like=[1]", "search.images_root=\"no/such\""], "the image root no/such"),
        (&[&same], "in the way of filter's"),
        (&["report.against=\"no/such\""], "no/such"),
        // What the run itself will make can be compared with.
        (&[&own], ""),
        (&["dedup.semantic=true", "dedup.device=\"cuda:99\""], "[dedup]: device \"cuda:99\""),
        (&["report.out=\"/\""], "report.out: / is a folder"),
        // Columns that an earlier step makes are known to a later one.
        (&[&labelled, &good, filter_labels], ""),
    ] {
        let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
        let checked = filter_dataset("check", dir.path(), &sets);
        if says.is_empty() {
            checked.ok();
            continue;
        }
        assert_eq!(checked.code, 2, "{sets:?}: {}{}", checked.stdout, checked.stderr);
        assert!(checked.stderr.contains(says), "{sets:?}: {}", checked.stderr);
        let ran = filter_dataset("run", dir.path(), &sets);
        assert_eq!((ran.code, &ran.stderr), (2, &checked.stderr));
        let nobodys = std::env::temp_dir().join(".tmp").display().to_string();
        let names_it = ran.stderr.contains(&format!(" {nobodys}"));
        assert!(!names_it, "a place that is nobody's: {}", ran.stderr);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1, "a trace is left");
}

/// Every step that there is, in one file.
#[test]
fn all_steps_follow_one_another() {
    let dir = scratch();
    let at = |name: &str| format!("{:?}", dir.path().join(name).display().to_string());
    let write = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).expect("written");
        at(name)
    };
    let labels = write("labels.txt", "a face\nan animal\na food\n");
    let words = write("words.txt", "a cat\na red apple\na car\na smiling face\n");
    let sets = [
        format!("label.path={}", at("labelled")),
        format!("label.labels={labels}"),
        format!("cluster.path={}", at("clusters")),
        "cluster.k=4".to_owned(),
        format!("cluster.words={words}"),
        "filter.where=\"label = 'an animal'\"".to_owned(),
        "search.queries=[\"a cat\"]".to_owned(),
        format!("search.html={}", at("pages/found.html")),
        format!("search.export={}", at("kept.usearch")),
    ];
    let sets: Vec<_> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let ran = filter_dataset("run", dir.path(), &sets).ok();
    for said in [
        "[label] of",
        "[cluster] of",
        "[dedup] of",
        "[filter] of",
        "[search] of",
        "[report] of",
        "a cat",
        "USearch index",
    ] {
        assert!(ran.stdout.contains(said), "{said} is not in:\n{}", ran.stdout);
    }
    let columns = clipmill(["inspect", &dir.path().join("kept").display().to_string()]).ok();
    for name in ["label_probability", "cluster_distance", "duplicate_group"] {
        assert!(columns.stdout.contains(name), "{name}: {}", columns.stdout);
    }
    assert!(dir.path().join("pages/found.html").exists());
    let made = |name: &str| written(&dir.path().join(name).join("part-00000.parquet"));
    let before = ["labelled", "clusters", "unique", "kept"].map(made);
    filter_dataset("run", dir.path(), &sets).ok();
    assert_eq!(before, ["labelled", "clusters", "unique", "kept"].map(made));
}

/// The words that may stand where `wrong` does, as the program says them.
fn expected(pipeline: &str) -> Vec<String> {
    let dir = scratch();
    let path = dir.path().join("wrong.toml");
    fs::write(&path, pipeline).expect("written");
    let said = clipmill(["check".to_owned(), path.display().to_string()]).stderr;
    let (_, list) = said.rsplit_once("expected").unwrap_or_else(|| panic!("{said}"));
    let words: Vec<_> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(words.len() > 1, "{said}");
    words
}

#[test]
fn the_readme_has_a_row_for_every_source_column_and_layout() {
    let readme = fs::read_to_string(root().join("README.md")).expect("there");
    let rows: Vec<_> = readme.lines().filter_map(|line| line.strip_prefix("| ")).collect();
    let first = |row: &str| row.split(" | ").next().unwrap_or_default().to_owned();
    let has = |word: &str| rows.iter().any(|row| first(row).split(", ").any(|cell| cell == word));
    for section in ["source", "image"] {
        let words = expected(&format!("version = 1\n[{section}.wrong]\n"));
        words.iter().for_each(|word| {
            assert!(has(&format!("`[{section}.{word}]`")), "README.md has no row for {word}");
        });
        // And none for what is not there.
        let named = rows.iter().filter_map(|row| row.strip_prefix(&format!("`[{section}.")));
        let named = named.filter_map(|row| row.split_once("]`")).map(|(kind, _)| kind);
        named.for_each(|kind| assert!(words.iter().any(|word| word == kind), "{kind}"));
    }
    for word in expected("version = 1\n[columns]\nx = \"wrong\"\n") {
        assert!(has(&format!("`{word}`")), "README.md has no row for the column {word}");
    }
    for word in expected("version = 1\n[export]\npath = \"x\"\nlayout = \"wrong\"\n") {
        assert!(has(&format!("`{word}`")), "README.md has no row for the layout {word}");
    }
}
