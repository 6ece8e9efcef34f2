//! `clipmill label`: zero-shot classes for the rows of a table.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::encoder::{Encoder, TableModel};
use super::table;
use crate::analysis::label::{Labelled, Labeller, class_vector, fields};
use crate::cli::{LabelArgs, ModelArgs};
use crate::error::Error;
use crate::log::Event;
use crate::model::Towers;
use crate::regular;
use crate::spec::{DeviceSpec, LabelSpec, PrecisionSpec, label_names};
use crate::table::{Change, NewTable, Table, Written, made, rewrite, rewrite_empty};

/// Texts that are embedded together, so that many classes of many templates take little memory.
const TEXTS: usize = 4096;

/// How often a line says how far the texts are.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Classes in the list of the most frequent.
const MOST_SHOWN: usize = 10;

pub fn label(args: &LabelArgs) -> Result<(), Error> {
    let spec = args.spec();
    let written = run(&spec, &args.input, &args.model)?;
    table::print(&if args.json { as_json(&spec, &written) } else { report(&written, &spec.path) })
}

/// Labels as a pipeline file's `[label]` says; returns what the terminal shows.
pub fn step(spec: &LabelSpec, input: &Path, device: DeviceSpec) -> Result<String, Error> {
    let model = ModelArgs { model: None, device, precision: PrecisionSpec::Auto };
    Ok(report(&run(spec, input, &model)?, &spec.path))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `dir`.
pub fn rehearse(spec: &LabelSpec, input: &Path, dir: &Path) -> Result<(), Error> {
    let classes = Classes::of(spec)?;
    let table = Table::open(input)?;
    table.embedding(spec.column.as_deref())?;
    let spec = LabelSpec { path: dir.to_owned(), ..spec.clone() };
    rewrite_empty(&table, &classes.new_table(&spec, serde_json::Value::Null)).map(drop)
}

/// What is written, and into what.
struct Classes {
    names: Vec<String>,
    templates: Vec<String>,
}

impl Classes {
    /// Reads the settings and the file of labels.
    fn of(spec: &LabelSpec) -> Result<Self, Error> {
        let setting = |key: &str, problem| Error::Setting { key: key.to_owned(), problem };
        if spec.name.trim().is_empty() {
            return Err(setting("name", "a column has a name".into()));
        }
        let templates = spec.all_templates().map_err(|problem| setting("templates", problem))?;
        Ok(Self { names: read_names(&spec.labels)?, templates })
    }

    fn new_table<'a>(&self, spec: &'a LabelSpec, settings: serde_json::Value) -> NewTable<'a> {
        let added = fields(&spec.name, spec.top.get().min(self.names.len()) > 1);
        let (dir, overwrite) = (&*spec.path, spec.overwrite);
        NewTable { dir, command: "label", settings, added, overwrite }
    }
}

fn run(spec: &LabelSpec, input: &Path, model: &ModelArgs) -> Result<Written, Error> {
    let classes = Classes::of(spec)?;
    let table = Table::open(input)?;
    let column = table.embedding(spec.column.as_deref())?;
    let asked = model.model.as_ref();
    let Classes { names, templates } = &classes;
    let settings = json!({
        "labels": names, "templates": templates, "top": spec.top, "name": spec.name,
        "column": column, "model_sha256": TableModel::sha256(&table, column, asked)?,
    });
    let new = classes.new_table(spec, settings);
    if let Some(made) = made(&table, &new)? {
        return Ok(made);
    }
    let encoder = TableModel::find(&table, column, asked)?.load(model, Towers::TEXT)?;
    let vectors = embedded(&encoder, names, templates)?;
    let labeller = Labeller::new(names.clone(), &vectors, encoder.logit_scale(), spec.top.get());
    let labelled = std::cell::RefCell::new(Labelled::default());
    rewrite(
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
    )
}

fn read_names(path: &Path) -> Result<Vec<String>, Error> {
    let text = regular::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            let hint = ": write a class's name a line".into();
            Error::NotFound { what: "labels file", path: path.to_owned(), hint }
        }
        std::io::ErrorKind::InvalidData => Error::Setting {
            key: "labels".into(),
            problem: format!("{} is not UTF-8", path.display()),
        },
        _ => Error::io("read", path)(source),
    })?;
    label_names(path, &text).map_err(|problem| Error::Setting { key: "labels".into(), problem })
}

/// A vector a class.
fn embedded(
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
            let (done, of) = (classes.len(), names.len());
            let event = Event::info("classes", format!("{done} of {of} classes embedded"));
            event.with("classes", done).with("total", of).say();
        }
    }
    Ok(classes)
}

fn as_json(spec: &LabelSpec, written: &Written) -> String {
    let json = json!({
        "output": spec.path,
        "was_there": written.was_there,
        "rows": written.rows_in,
        "summary": written.summary,
    });
    format!("{json:#}\n")
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
