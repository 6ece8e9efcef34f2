//! How the output was made: what the manifest compares and what every part file says.

use std::collections::BTreeMap;

use parquet::file::metadata::KeyValue;
use serde_json::json;

use super::Plan;
use crate::digest;
use crate::error::Error;
use crate::manifest::{MadeWith, Manifest};
use crate::source::{InputFile, Part};
use crate::spec::STEPS;

/// Settings that say where or how fast, and change nothing in the output. The input is told by
/// its files.
const NOT_MEANING: [&str; 4] =
    ["run.", "sink.parquet.path", "source.parquet.path", "source.webdataset.path"];

/// Settings that say which parts there are, and change nothing within one.
const CUT: [&str; 3] =
    ["source.parquet.limit", "source.webdataset.limit", "sink.parquet.rows_per_part"];

/// Everything that the output's values depend on, by name.
///
/// Reads the weights once to digest them.
pub fn made_with(plan: &Plan) -> Result<MadeWith, Error> {
    let mut made_with = MadeWith::new();
    made_with.insert("clipmill".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    for setting in &plan.settings {
        let section = setting.key.split('.').next().unwrap_or_default();
        if STEPS.contains(&section) {
            continue;
        }
        if !NOT_MEANING.iter().any(|prefix| setting.key.starts_with(prefix)) {
            made_with.insert(setting.key.clone(), setting.value.clone());
        }
    }
    for input in &plan.inputs {
        made_with.insert(input_key(input), input.fingerprint());
    }
    let columns: Vec<_> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    made_with.insert("columns, in order".to_owned(), columns.join(", "));
    made_with.insert("precision".to_owned(), plan.precision().to_owned());
    if plan.needs_model() {
        let weights = plan.model.weights_sha256()?;
        if plan.stored.is_some() {
            check_stored(plan, &weights)?;
        }
        made_with.insert("weights sha256".to_owned(), weights);
    }
    if let Some(preprocess) = &plan.preprocess {
        made_with.insert("preprocessing".to_owned(), preprocess.describe());
    }
    if let Some(tokenizer) = &plan.tokenizer {
        let digests = tokenizer.files().iter().map(|file| digest::of_file(file));
        let digests = digests.collect::<Result<Vec<_>, _>>()?;
        made_with.insert("tokenizer sha256".to_owned(), digests.join(" "));
    }
    Ok(made_with)
}

/// Makes sure that embeddings that an input brings are not said to be of other weights.
fn check_stored(plan: &Plan, weights: &str) -> Result<(), Error> {
    for input in &plan.inputs {
        let Some(other) = input.weights_sha256().filter(|other| other != weights) else { continue };
        let problem = format!(
            "{} was made by other weights (sha256 {other}) than those of {}: its embeddings do \
             not compare with this model's captions",
            input.path.display(),
            plan.spec.model.dir().display()
        );
        return Err(Error::Setting { key: "image.embedding".into(), problem });
    }
    Ok(())
}

/// The name of an input among what the output was made with.
fn input_key(input: &InputFile) -> String {
    format!("input {}", input.full_path().display())
}

/// For each part of the plan, the digest of everything that its values depend on: what concerns
/// every part, its input file, and which rows of it.
pub fn part_keys(plan: &Plan, made_with: &MadeWith) -> Vec<String> {
    let shared = made_with
        .iter()
        .filter(|(key, _)| !key.starts_with("input ") && !CUT.contains(&key.as_str()));
    let shared = json!(shared.collect::<BTreeMap<_, _>>()).to_string();
    let inputs = plan.inputs.iter().map(|input| {
        let key = input_key(input);
        let found = made_with.get(&key).cloned().unwrap_or_default();
        (key, found)
    });
    let inputs: Vec<_> = inputs.collect();
    let key = |part: &Part| {
        let rows = [part.start, part.rows];
        digest::of_bytes(json!([shared, inputs[part.input], rows]).to_string().as_bytes())
    };
    plan.parts.iter().map(key).collect()
}

/// The key-value metadata of every part, `clipmill.*`. The input's own comes with each part.
pub fn metadata(plan: &Plan, manifest: &Manifest) -> Vec<KeyValue> {
    let made_with = |key: &str| manifest.made_with.get(key).cloned();
    let pipeline = effective(plan);
    let model = json!({
        "family": "clip",
        "dir": plan.spec.model.dir(),
        "weights_sha256": made_with("weights sha256"),
        "embedding_dim": plan.model.embedding_dim(),
    });
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: Option<String>| {
        if value.is_some() {
            pairs.push(KeyValue { key: format!("clipmill.{key}"), value });
        }
    };
    add("version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    add("pipeline", Some(pipeline));
    add("model", Some(model.to_string()));
    add("precision", made_with("precision"));
    add("device", Some(plan.runs_on()));
    add("preprocessing", made_with("preprocessing"));
    add("tokenizer_sha256", made_with("tokenizer sha256"));
    pairs
}

/// The effective pipeline as TOML, without the place of the output and what is done with it later:
/// the same job gives the same bytes wherever it writes.
fn effective(plan: &Plan) -> String {
    let mut pipeline = toml::Table::try_from(&plan.spec).expect("a pipeline can be written");
    pipeline.retain(|section, _| !STEPS.contains(&section));
    let sink = pipeline.get_mut("sink").and_then(|sink| sink.get_mut("parquet"));
    if let Some(sink) = sink.and_then(toml::Value::as_table_mut) {
        sink.remove("path");
    }
    pipeline.to_string()
}
