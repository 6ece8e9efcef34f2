//! Every file in `pipelines/` is one that users copy: it has to check, and to say in two comment
//! lines what it makes and what it costs.

mod common;

use common::{clipmill, root, scratch};

#[test]
fn every_shipped_pipeline_checks_and_explains_itself() {
    let mut seen = 0;
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
        clipmill(["check", &pipeline, "--output", &out]).ok();
    }
    assert!(seen > 0);
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
