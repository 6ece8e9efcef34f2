//! Several models in one pass: each column is what its model alone gives, in transformers too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Ran, clipmill, oracle, sample, scratch};

/// Models by name: the sample's, one that wants other pixels, and one that wants the sample's
/// pixels and scales them in another way.
fn models(dir: &Path) -> Option<Vec<(&'static str, PathBuf)>> {
    let own = sample().join("model");
    let make = |name: &str, side: &str, how: &[&str]| {
        let path = dir.join(name);
        let args = ["make".into(), path.display().to_string(), own.display().to_string()];
        let more = [&[side], how].concat().into_iter().map(str::to_owned);
        oracle("several.py", args.into_iter().chain(more)).then_some(path)
    };
    let (wide, plain) = (make("wide", "64", &[])?, make("plain", "48", &["plain"])?);
    Some(vec![("own", own), ("wide", wide), ("plain", plain)])
}

fn pipeline(dir: &Path, models: &[(&str, PathBuf)], columns: &str) -> String {
    let sections = models
        .iter()
        .map(|(name, path)| format!("[model.clip.{name}]\ndir = {path:?}\nprecision = \"f32\"\n"));
    let text = format!(
        "version = 1\n[source.parquet]\npath = {:?}\nimage = \"image_path\"\n\
         caption = \"caption\"\n[image.path]\nroot = {:?}\n{}[columns]\n{columns}\n\
         [sink.parquet]\npath = {:?}\nrows_per_part = 100\n",
        sample().join("captions.parquet"),
        sample(),
        sections.collect::<String>(),
        dir.join("out"),
    );
    let path = dir.join("several.toml");
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

fn columns(models: &[(&str, PathBuf)]) -> String {
    let of = |(name, _): &(&str, PathBuf)| {
        [("image", "image_embedding"), ("text", "text_embedding"), ("score", "cosine")]
            .map(|(short, kind)| {
                format!("{name}_{short} = {{ kind = \"{kind}\", model = \"{name}\" }}\n")
            })
            .concat()
    };
    models.iter().map(of).collect()
}

#[test]
fn models_in_one_pass_score_as_transformers_does_with_each() {
    let dir = scratch();
    let Some(models) = models(dir.path()) else { return };
    let pipeline = pipeline(dir.path(), &models, &columns(&models));
    let ran = clipmill(["run", &pipeline]).ok();
    assert!(ran.stdout.contains("269 rows"), "{}", ran.stdout);
    let out = dir.path().join("out").display().to_string();
    let args = ["check".to_owned(), out.clone(), sample().display().to_string()];
    let named = models.iter().map(|(name, path)| format!("{name}={}", path.display()));
    assert!(oracle("several.py", args.into_iter().chain(named)));

    // A question goes to the model that made the column which is searched.
    for column in ["own_image", "wide_image"] {
        clipmill(["search", &out, "moon", "--column", column, "--json"]).ok();
    }

    // Nothing is left to do; with other weights for one, everything is.
    let again = clipmill(["run", &pipeline]).ok();
    assert!(again.stdout.contains("is complete already"), "{}", again.stdout);
    let set = format!("model.clip.wide.dir={}", models[2].1.display());
    let refused = clipmill(["run", &pipeline, "--set", &set]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("wide"), "{}", refused.stderr);
}

#[test]
fn a_column_says_whose_it_is_where_several_models_could_be_meant() {
    let dir = scratch();
    let own = sample().join("model");
    let models = [("a", own.clone()), ("b", own)];
    let check =
        |columns: &str| -> Ran { clipmill(["check", &pipeline(dir.path(), &models, columns)]) };
    for (columns, says) in [
        ("x = \"cosine\"", "could be of any of the models a, b"),
        ("x = { kind = \"cosine\", model = \"c\" }", "no model is named \"c\": there is a, b"),
        ("x = { kind = \"image_width\", model = \"a\" }", "image_width is about no model"),
    ] {
        let refused = check(columns);
        assert_eq!(refused.code, 2, "{columns}");
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    check("x = { kind = \"cosine\", model = \"a\" }\nwidth = \"image_width\"").ok();
}
