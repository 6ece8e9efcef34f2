//! `clipmill label`: zero-shot classes for the rows of a table.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::encoder::Encoder;
use super::table;
use crate::analysis::label::{Labelled, Labeller, class_vector};
use crate::cli::{LabelArgs, ModelArgs};
use crate::error::Error;
use crate::model::Towers;
use crate::progress::say;
use crate::regular;
use crate::spec::{DeviceSpec, LabelSpec, PrecisionSpec, label_names};
use crate::table::{Change, NewTable, Table, Written, rewrite};

/// Texts that are embedded together, so that many classes of many templates take little memory.
const TEXTS: usize = 4096;

/// How often a line says how far the texts are.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Classes in the list of the most frequent.
const MOST_SHOWN: usize = 10;

pub fn label(args: &LabelArgs) -> Result<(), Error> {
    table::print(&done(&args.spec(), &args.input, &args.model)?)
}

/// Labels as a pipeline file's `[label]` says; returns what the terminal shows.
pub fn step(spec: &LabelSpec, input: &Path, device: DeviceSpec) -> Result<String, Error> {
    let model = ModelArgs { model: None, device, precision: PrecisionSpec::Auto };
    done(spec, input, &model)
}

fn done(spec: &LabelSpec, input: &Path, model: &ModelArgs) -> Result<String, Error> {
    let setting = |key: &str, problem| Error::Setting { key: key.to_owned(), problem };
    let templates = spec.all_templates().map_err(|problem| setting("--template", problem))?;
    let names = read_names(&spec.labels)?;
    if spec.name.trim().is_empty() {
        return Err(setting("--name", "a column has a name".into()));
    }
    let table = Table::open(input)?;
    let column = table.embedding(spec.column.as_deref())?;
    check_names(spec, &table)?;
    let encoder = Encoder::of_table(&table, model, Towers::TEXT)?;
    let mut settings = json!({
        "labels": names, "templates": templates, "top": spec.top, "name": spec.name,
        "column": column, "logit_scale": encoder.logit_scale(),
    });
    settings["model_sha256"] = json!(encoder.weights_sha256());
    let classes = classes(&encoder, &names, &templates)?;
    let labeller = Labeller::new(names, &classes, encoder.logit_scale(), spec.top);
    let new = NewTable {
        dir: &spec.path,
        command: "label",
        settings,
        added: labeller.fields(&spec.name),
        overwrite: spec.overwrite,
    };
    let labelled = std::cell::RefCell::new(Labelled::default());
    let written = rewrite(
        &table,
        &new,
        |_, batch| {
            let added = labeller.label((&table, column), batch, &mut labelled.borrow_mut())?;
            Ok(Change { keep: None, added })
        },
        || {
            let Labelled { by_label, without } = &*labelled.borrow();
            json!({ "by_label": by_label, "without_vector": without })
        },
    )?;
    Ok(report(&written, &spec.path))
}

/// Before the model is loaded and the output folder touched: the new columns are new.
fn check_names(spec: &LabelSpec, table: &Table) -> Result<(), Error> {
    let few = Labeller::new(vec![String::new(); spec.top.min(2)], &[], 1.0, spec.top);
    let fields = few.fields(&spec.name);
    match fields.iter().find(|field| table.find(field.name()).is_some()) {
        None => Ok(()),
        Some(field) => {
            let (path, column) = (table.files()[0].path.clone(), field.name().clone());
            Err(Error::ColumnThere { path, column })
        }
    }
}

fn read_names(path: &Path) -> Result<Vec<String>, Error> {
    let text = regular::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            let hint = ": write a class's name a line".into();
            Error::NotFound { what: "labels file", path: path.to_owned(), hint }
        }
        std::io::ErrorKind::InvalidData => Error::Setting {
            key: "--labels".into(),
            problem: format!("{} is not UTF-8", path.display()),
        },
        _ => Error::io("read", path)(source),
    })?;
    label_names(path, &text).map_err(|problem| Error::Setting { key: "--labels".into(), problem })
}

/// A vector a class.
fn classes(
    encoder: &Encoder,
    names: &[String],
    templates: &[String],
) -> Result<Vec<Vec<f32>>, Error> {
    let mut classes = Vec::with_capacity(names.len());
    let mut said = Instant::now();
    for some in names.chunks((TEXTS / templates.len()).max(1)) {
        let texts: Vec<_> = some
            .iter()
            .flat_map(|name| templates.iter().map(move |template| template.replace("{}", name)))
            .collect();
        let embedded = encoder.texts("the text", &texts)?;
        classes.extend(embedded.chunks(templates.len()).map(class_vector));
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            say(&format!("{} of {} classes embedded", classes.len(), names.len()));
        }
    }
    Ok(classes)
}

fn report(written: &Written, path: &Path) -> String {
    let mut text = match written.was_there {
        true => format!("{} is there already, nothing was done\n", path.display()),
        false => String::new(),
    };
    let counts = |key: &str| {
        let counts = written.summary[key].as_object().into_iter().flatten();
        let mut counts: Vec<_> =
            counts.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0))).collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    };
    let by_label = counts("by_label");
    let labelled: u64 = by_label.iter().map(|(_, n)| n).sum();
    let rows = table::counted(written.rows_in, "row");
    text += &format!("{} of {rows} labelled", table::count(labelled));
    let without = counts("without_vector").into_iter();
    let without: Vec<_> = without
        .map(|(why, n)| format!("{} {}", table::count(n), table::one_line(&why, 64)))
        .collect();
    if !without.is_empty() {
        text += &format!("; without a vector: {}", without.join(", "));
    }
    let shown = by_label.iter().take(MOST_SHOWN).map(|(name, n)| {
        let share = *n as f64 * 100.0 / labelled.max(1) as f64;
        vec![table::one_line(name, 60), table::count(*n), format!("{share:.1}%")]
    });
    text += &format!("\n\n{}\n", table::table(&["label", "rows", ""], shown.collect(), &[1, 2]));
    if by_label.len() > MOST_SHOWN {
        text += &format!("and {} more labels\n", by_label.len() - MOST_SHOWN);
    }
    text + &format!("\nwritten to {}\n", path.display())
}
