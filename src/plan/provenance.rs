//! How the output was made: what the manifest compares and what every part file says.

use std::collections::BTreeMap;

use arrow::datatypes::FieldRef;
use parquet::file::metadata::KeyValue;
use serde_json::{Value, json};

use super::Plan;
use super::models::PlannedModel;
use crate::digest;
use crate::error::Error;
use crate::manifest::{MadeWith, Manifest, input_key, is_input};
use crate::source::Part;
use crate::spec::STEPS;
use crate::spec::layers::Setting;

/// Settings that say where or how fast, and change nothing in the output. The input is told by
/// its files.
const NOT_MEANING: [&str; 9] = [
    "run.",
    "sink.parquet.path",
    "source.parquet.path",
    "source.webdataset.path",
    "source.folder.path",
    "image.url.timeout",
    "image.url.retries",
    "image.url.parallel",
    "image.url.outage",
];

/// Settings that say which parts there are, and change nothing within one.
const CUT: [&str; 4] = [
    "source.parquet.limit",
    "source.webdataset.limit",
    "source.folder.limit",
    "sink.parquet.rows_per_part",
];

/// Everything that the output's values depend on, by name.
///
/// Reads the weights of every model once to digest them.
pub fn made_with(plan: &Plan) -> Result<MadeWith, Error> {
    let mut made_with = MadeWith::new();
    made_with.insert("clipmill".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    made_with.extend(meant(&plan.settings));
    for input in &plan.inputs {
        made_with.insert(input_key(&input.full_name()), input.fingerprint());
    }
    // All have the same.
    if let Some(input) = plan.inputs.first() {
        let column = |field: &FieldRef| format!("{} {}", field.name(), field.data_type());
        let columns: Vec<_> = input.schema.fields().iter().map(column).collect();
        made_with.insert("columns of the input".to_owned(), columns.join(", "));
    }
    let columns: Vec<_> = plan.columns.iter().map(|column| column.name.as_str()).collect();
    made_with.insert("columns, in order".to_owned(), columns.join(", "));
    for model in &plan.models.all {
        for (what, value) in made_by(plan, model)? {
            made_with.insert(of_model(plan, model, what), value);
        }
    }
    for (name, head) in &plan.heads {
        made_with.insert(of_head(name), head.sha256()?);
    }
    Ok(made_with)
}

/// The settings that say what is in the output, by key.
fn meant(settings: &[Setting]) -> MadeWith {
    let is_meant = |setting: &&Setting| {
        let section = setting.key.split('.').next().unwrap_or_default();
        !STEPS.contains(&section) && has_meaning(&setting.key)
    };
    let meant = settings.iter().filter(is_meant);
    meant.map(|setting| (setting.key.clone(), setting.value.clone())).collect()
}

/// The name of what tells a head from others.
fn of_head(name: &str) -> String {
    format!("head {name} sha256")
}

/// Whether another value of a setting is another output. Of a revision, the commit that it is
/// tells: to pin the one that was taken changes nothing.
fn has_meaning(key: &str) -> bool {
    let is_revision = key.starts_with("model.") && key.ends_with(".revision");
    !is_revision && !NOT_MEANING.iter().any(|prefix| key.starts_with(prefix))
}

/// What the values that a model makes depend on. Reads its weights once, where it runs.
fn made_by(plan: &Plan, model: &PlannedModel) -> Result<Vec<(&'static str, String)>, Error> {
    let mut made_by = vec![("precision", model.precision().to_owned())];
    if let Some(hub) = &model.hub {
        made_by.push(("commit (`revision` can pin it)", hub.commit.clone()));
    }
    // What is stored is told by the weights that made it, whether or not they run.
    if model.inputs.towers.any() || plan.stored.is_some() {
        let weights = model.files.weights_sha256()?;
        if plan.stored.is_some() {
            check_stored(plan, &weights)?;
        }
        made_by.push(("weights sha256", weights));
        // The same numbers are another model with another activation.
        let config = model.spec.dir().join(model.spec.family().config_file());
        made_by.push(("configuration sha256", digest::of_file(&config)?));
    }
    if let Some(preprocess) = &model.preprocess {
        made_by.push(("preprocessing", preprocess.describe()));
    }
    if model.needs.captions {
        let reader = &plan.models.readers[model.inputs.captions];
        made_by.push(("tokenizer sha256", reader.sha256.clone()));
    }
    Ok(made_by)
}

/// The name of something that a model's values depend on: of several models, each has its own.
fn of_model(plan: &Plan, model: &PlannedModel, what: &str) -> String {
    match (&model.spec.name, plan.models.all.len()) {
        (Some(name), 2..) => format!("{what} of {name}"),
        _ => what.to_owned(),
    }
}

/// Makes sure that embeddings that an input brings are not said to be of other weights.
fn check_stored(plan: &Plan, weights: &str) -> Result<(), Error> {
    for input in &plan.inputs {
        let column = plan.stored.as_ref().map_or("", |stored| stored.column.as_str());
        let made_by = input.weights_sha256(column);
        let Some(other) = made_by.filter(|other| other != weights) else { continue };
        let problem = format!(
            "{} was made by other weights (sha256 {other}) than those of {}: its embeddings do \
             not compare with this model's captions",
            input.path.display(),
            plan.models.all[0].spec.dir().display()
        );
        return Err(Error::Setting { key: "image.embedding".into(), problem });
    }
    Ok(())
}

/// For each part of the plan, the digest of everything that its values depend on: what concerns
/// every part, its input file, and which rows of it.
pub fn part_keys(plan: &Plan, made_with: &MadeWith) -> Vec<String> {
    let shared = made_with.iter().filter(|(key, _)| !is_input(key) && !CUT.contains(&key.as_str()));
    let shared = json!(shared.collect::<BTreeMap<_, _>>()).to_string();
    let inputs = plan.inputs.iter().map(|input| {
        let key = input_key(&input.full_name());
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
    let pipeline = effective(plan);
    let made_with = |model: &PlannedModel, what: &str| {
        manifest.made_with.get(&of_model(plan, model, what)).cloned()
    };
    let described = |model: &PlannedModel| {
        let mut said = json!({
            "family": model.spec.family.as_str(),
            "weights_sha256": made_with(model, "weights sha256"),
            "embedding_dim": model.files.embedding_dim(),
        });
        match &model.hub {
            // Where the cache is differs from one machine to the other.
            Some(hub) => {
                said["hub"] = json!(hub.spec.repo());
                said["commit"] = json!(hub.commit);
            }
            None => said["dir"] = json!(model.spec.dir),
        }
        said
    };
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: Option<String>| {
        if value.is_some() {
            pairs.push(KeyValue { key: format!("clipmill.{key}"), value });
        }
    };
    add("version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    add("pipeline", Some(pipeline));
    match plan.models.all.as_slice() {
        [model] => {
            add("model", Some(described(model).to_string()));
            add("precision", made_with(model, "precision"));
            add("device", Some(plan.runs_on()));
            add("preprocessing", made_with(model, "preprocessing"));
            add("tokenizer_sha256", made_with(model, "tokenizer sha256"));
        }
        several => {
            let described = several.iter().enumerate().map(|(place, model)| {
                let mut all = described(model);
                all["precision"] = json!(made_with(model, "precision"));
                all["preprocessing"] = json!(made_with(model, "preprocessing"));
                all["tokenizer_sha256"] = json!(made_with(model, "tokenizer sha256"));
                let columns = plan.columns.iter().filter(|column| column.is_by(place));
                all["columns"] = columns.map(|column| column.name.as_str()).collect();
                (model.spec.name.clone().unwrap_or_default(), all)
            });
            add("models", Some(Value::from_iter(described).to_string()));
            add("device", Some(plan.runs_on()));
        }
    }
    let heads = plan.heads.iter().map(|(name, head)| {
        let sha256 = manifest.made_with.get(&of_head(name));
        (name.clone(), json!({ "file": head.path(), "sha256": sha256 }))
    });
    add("heads", (!plan.heads.is_empty()).then(|| Value::from_iter(heads).to_string()));
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
