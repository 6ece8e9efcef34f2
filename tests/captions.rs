//! Several captions an image: what a run says of each, of the best, and of one against others;
//! and new captions for images that an earlier run has embedded.

use std::fs;
use std::path::Path;

use crate::common::{Ran, clipmill, oracle, sample, scratch};

const PREFIX: &str = "A photo depicts ";

/// A pipeline over a table of `caption`, `alt` and `human`, with these images and columns.
fn run(dir: &Path, table: &Path, out: &str, captions: &str, image: &str, columns: &str) -> Ran {
    let pipeline = format!(
        "version = 1\n[source.parquet]\npath = {table:?}\nimage = \"image_path\"\n\
         caption = {captions}\n[caption]\nprefix = {PREFIX:?}\n{image}\n[model.clip]\ndir = {:?}\n\
         precision = \"f32\"\n[columns]\n{columns}\n[sink.parquet]\npath = {:?}\n\
         rows_per_part = 100\n",
        sample().join("model"),
        dir.join(out),
    );
    let path = dir.join(format!("{out}.toml"));
    fs::write(&path, pipeline).expect("written");
    clipmill(["run".to_owned(), path.display().to_string()])
}

const THREE: &str = r#"["caption", "alt", "human"]"#;

const SCORES: &str = r#"
similarity_caption = "cosine"
similarity_alt = { kind = "cosine", caption = "alt" }
similarity_human = { kind = "cosine", caption = "human" }
best_caption = "best_caption"
best_column = "best_caption_column"
best_similarity = "best_cosine"
clip_score = "clip_score"
ref_clip_score = { kind = "ref_clip_score", references = ["alt", "human"] }
agreement = { kind = "caption_cosine", caption = "caption", references = ["alt"] }
"#;

fn images() -> String {
    format!("[image.path]\nroot = {:?}", sample())
}

#[test]
fn several_captions_are_scored_as_transformers_and_clipscore_score_them() {
    let dir = scratch();
    let table = dir.path().join("captions.parquet");
    let make = ["make".into(), sample().join("captions.parquet"), table.clone()];
    if !oracle("captions.py", make) {
        return;
    }
    let columns = format!("image_embedding = \"image_embedding\"\n{SCORES}");
    run(dir.path(), &table, "out", THREE, &images(), &columns).ok();
    let check = |out: &str| {
        let args = [dir.path().join(out), sample().join("model"), sample()];
        let args = args.map(|path| path.display().to_string());
        let args = [&["check".to_owned()], &args[..], &[PREFIX.to_owned()]].concat();
        assert!(oracle("captions.py", args));
    };
    check("out");

    // The captions again, the images not: what the first run stored is as good.
    let columns = columns.lines().filter(|line| !line.starts_with("image_embedding"));
    let columns: String = columns.map(|line| format!("{line}\n")).collect();
    let stored = "[image.embedding]\ncolumn = \"image_embedding\"";
    let first = without_scores(dir.path(), &dir.path().join("out"));
    let again = run(dir.path(), &first, "again", THREE, stored, &columns).ok();
    assert!(again.stdout.contains("image_embedding_missing"), "{}", again.stdout);
    check("again");
}

/// The output of a run, but for the columns that the next one makes.
fn without_scores(dir: &Path, out: &Path) -> std::path::PathBuf {
    let to = dir.join("stored");
    assert!(oracle("columns.py", [out, &to]));
    to
}

#[test]
fn hidden_states_are_those_that_an_image_generator_takes_from_transformers() {
    let dir = scratch();
    let table = sample().join("captions.parquet");
    for pad in ["<|endoftext|>", "!"] {
        // The same model, whose tokenizer fills captions up with this.
        let model = dir.path().join(format!("model-{}", pad.len()));
        fs::create_dir(&model).expect("a folder");
        for entry in fs::read_dir(sample().join("model")).expect("the model") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), model.join(entry.file_name())).expect("copied");
        }
        let config = model.join("tokenizer_config.json");
        let text = fs::read_to_string(&config).expect("JSON");
        let changed = text.replace(
            "\"pad_token\": \"<|endoftext|>\"",
            &format!("\"pad_token\": {{\"__type\": \"AddedToken\", \"content\": \"{pad}\"}}"),
        );
        assert_ne!(text, changed);
        fs::write(&config, changed).expect("written");
        let out = dir.path().join(format!("out-{}", pad.len()));
        let pipeline = dir.path().join("states.toml");
        let text = format!(
            "version = 1\n[source.parquet]\npath = {table:?}\ncaption = \"caption\"\n\
             [model.clip]\ndir = {model:?}\nprecision = \"f32\"\n[columns]\n\
             text_hidden_state = \"text_hidden_state\"\ntext_embedding = \"text_embedding\"\n\
             [sink.parquet]\npath = {out:?}\n"
        );
        fs::write(&pipeline, text).expect("written");
        clipmill(["run".to_owned(), pipeline.display().to_string()]).ok();
        let args = [out.display().to_string(), model.display().to_string(), pad.to_owned()];
        if !oracle("states.py", args) {
            return;
        }
    }
}

#[test]
fn captions_that_do_not_fit_their_columns_are_named_before_the_run() {
    let dir = scratch();
    let table = sample().join("captions.parquet");
    for (captions, columns, says) in [
        (r#"["caption", "captoin"]"#, "x = \"cosine\"", "did you mean \"caption\"?"),
        (r#"["caption", "caption"]"#, "x = \"cosine\"", "names \"caption\" twice"),
        ("[]", "x = \"cosine\"", "name that column"),
        ("7", "x = \"cosine\"", "expected a column's name, or a list of names"),
        (r#""caption""#, "x = { kind = \"cosine\", caption = \"alt\" }", "name it there too"),
        (r#""caption""#, "x = \"ref_clip_score\"", "needs `references`"),
        (r#""caption""#, "x = { kind = \"caption_cosine\", references = [\"caption\"] }", "itself"),
        (r#""caption""#, "x = { kind = \"image_width\", caption = \"caption\" }", "no caption"),
        (r#""caption""#, "x = { kind = \"cosine\", references = [\"caption\"] }", "takes no"),
        (r#""caption""#, "x = { kind = \"cosine\", of = \"caption\" }", "unknown field `of`"),
        (r#""caption""#, "x = { kind = \"best_cosine\", caption = \"caption\" }", "chooses among"),
    ] {
        let refused = run(dir.path(), &table, "out", captions, &images(), columns);
        assert_eq!(refused.code, 2, "{columns}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{columns}: {}", refused.stderr);
    }
    for (stored, columns, says) in [
        ("image_embeding", "x = \"cosine\"", "has no column \"image_embeding\""),
        ("caption", "x = \"cosine\"", "a list of f16, f32 or f64"),
        ("caption", "x = \"image_width\"", "image_width needs the image itself"),
    ] {
        let image = format!("[image.embedding]\ncolumn = {stored:?}");
        let refused = run(dir.path(), &table, "out", r#""caption""#, &image, columns);
        assert_eq!(refused.code, 2, "{columns}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{columns}: {}", refused.stderr);
    }
    assert!(!dir.path().join("out").exists());
}
