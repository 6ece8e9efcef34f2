//! What a pipeline's settings become: the loader, the output's columns; or what is wrong with them.
//!
//! Each function looks at one thing, and reads the model's small files at the most. `Plan::resolve`
//! puts them together.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};

use super::available_threads;
use super::input::{UsedColumns, captions_of};
use super::models::{PlannedModel, model_of};
use crate::batch::lists::UsedLists;
use crate::columns::{Column, Needs};
use crate::error::Error;
use crate::images::{BytesLoader, ImageLoader, PathLoader, UrlLoader};
use crate::model::head::Head;
use crate::source::InputFile;
use crate::spec::{ColumnSpec, DeclaredColumn, ImageSpec, ParquetSinkSpec, PipelineSpec, SinkSpec};

/// Heads by name.
pub type Heads = BTreeMap<String, Arc<Head>>;

/// What is well-formed and makes no sense.
pub fn check_settings(spec: &PipelineSpec) -> Result<(), Error> {
    let wrong = |key: &str, problem: String| Err(Error::Setting { key: key.into(), problem });
    if spec.columns.is_empty() {
        let problem = "is empty: declare at least one column, or there is nothing to do";
        return wrong("columns", problem.into());
    }
    if sink(spec).path.as_os_str().is_empty() {
        return wrong("sink.parquet.path", "is empty: name an output folder".into());
    }
    match (spec.run.min_median_similarity, spec.run.max_drift) {
        (Some(least), _) if !(-1.0..=1.0).contains(&least) => {
            let problem = format!("{least} is no cosine: use one from -1 to 1");
            return wrong("run.min_median_similarity", problem);
        }
        (_, Some(most)) if !(most >= 0.0 && most.is_finite()) => {
            return wrong("run.max_drift", format!("{most} is no distance: use one from 0 up"));
        }
        _ => {}
    }
    let most = 4 * available_threads();
    match spec.run.threads {
        Some(threads) if threads.get() > most => {
            wrong("run.threads", format!("{threads} is more than four a core: use at most {most}"))
        }
        _ => Ok(()),
    }
}

/// Makes sure that there are scores to ask something of. Lists of them are not summed up.
pub fn check_gates(spec: &PipelineSpec, columns: &[Column]) -> Result<(), Error> {
    let has = |is_one: fn(ColumnSpec) -> bool| {
        let mut numbers = columns.iter().filter(|column| column.field.data_type().is_numeric());
        numbers.any(|column| is_one(column.kind))
    };
    let wanting = match (spec.run.min_median_similarity, spec.run.max_drift) {
        (Some(_), _) if !has(ColumnSpec::is_cosine) => {
            Some(("run.min_median_similarity", "needs a column of kind cosine or best_cosine"))
        }
        (_, Some(_)) if !has(ColumnSpec::is_score) => {
            Some(("run.max_drift", "needs a column of scores"))
        }
        _ => None,
    };
    wanting.map_or(Ok(()), |(key, problem)| {
        Err(Error::Setting { key: key.into(), problem: format!("{problem}, a number a row") })
    })
}

pub fn sink(spec: &PipelineSpec) -> &ParquetSinkSpec {
    let SinkSpec::Parquet(sink) = &spec.sink;
    sink
}

pub fn loader(spec: &PipelineSpec) -> Result<Box<dyn ImageLoader>, Error> {
    let max_bytes = spec.preprocess.max_bytes;
    match &spec.image {
        Some(ImageSpec::Path(path)) => Ok(Box::new(PathLoader::open(path, max_bytes)?)),
        Some(ImageSpec::Url(url)) => Ok(Box::new(UrlLoader::open(url, max_bytes)?)),
        Some(ImageSpec::Bytes(bytes)) => Ok(Box::new(BytesLoader::open(bytes, max_bytes)?)),
        Some(ImageSpec::Shard(_) | ImageSpec::Embedding(_)) | None => Err(Error::Setting {
            key: "image".into(),
            problem: "[columns] asks for what needs images: add [image.path] with a root, \
                      [image.url], [image.bytes] or [image.shard]"
                .into(),
        }),
    }
}

/// The work that the columns ask for, and the input column that has the image tower's already.
pub fn needs(spec: &PipelineSpec) -> Result<(Needs, Option<String>), Error> {
    let needs = Needs::of(spec.columns.values().map(|column| column.kind));
    let Some(ImageSpec::Embedding(stored)) = &spec.image else { return Ok((needs, None)) };
    if spec.model.all().len() > 1 {
        let problem = "[image.embedding] brings the embeddings of one model: name one alone";
        return Err(Error::Setting { key: "model".into(), problem: problem.into() });
    }
    for (name, column) in &spec.columns {
        let own = Needs::of([column.kind]);
        if own.images && !own.image_tower {
            let (key, kind) = (format!("columns.{name}"), column.kind.as_str());
            let problem = format!("{kind} needs the image itself: [image.embedding] has none");
            return Err(Error::Setting { key, problem });
        }
    }
    let column = needs.image_tower.then(|| stored.column.clone());
    Ok((Needs { images: false, image_tower: false, ..needs }, column))
}

/// The heads that columns name, read.
///
/// # Errors
/// Those of [`Head::open`]; `Setting` for a column of a head that names none, or one that is not
/// there, or for what this kind of column has no use.
pub fn heads(spec: &PipelineSpec) -> Result<Heads, Error> {
    let mut heads = Heads::new();
    for (name, column) in &spec.columns {
        let wrong = |problem: String| Error::Setting { key: format!("columns.{name}"), problem };
        let kind = column.kind.as_str();
        match &column.head {
            None if column.kind.is_of_a_head() => {
                let problem = format!("{kind} needs `head`: the name of a section [head.NAME]");
                return Err(wrong(problem));
            }
            None if column.index.is_some() => {
                return Err(wrong(format!("{kind} has no `index`: it is for heads")));
            }
            None => {}
            Some(_) if !column.kind.is_of_a_head() => {
                let problem = "use image_head or text_head for what a head gives";
                return Err(wrong(format!("{kind} is given by no head: {problem}")));
            }
            Some(head) if heads.contains_key(head) => {}
            Some(head) => {
                let Some(section) = spec.head.get(head) else {
                    let there: Vec<_> = spec.head.keys().map(String::as_str).collect();
                    let there = match there.join(", ") {
                        none if none.is_empty() => format!("add a section [head.{head}]"),
                        some => format!("there is {some}"),
                    };
                    return Err(wrong(format!("no head is named \"{head}\": {there}")));
                };
                heads.insert(head.clone(), Arc::new(Head::open(head, section)?));
            }
        }
    }
    Ok(heads)
}

/// A column that a head gives, where its model's embeddings and the head fit each other.
fn given_by_head(
    column: Column,
    declared: &DeclaredColumn,
    (heads, length): (&Heads, usize),
) -> Result<Column, Error> {
    let Some((name, head)) = declared.head.as_ref().and_then(|name| heads.get_key_value(name))
    else {
        return Ok(column);
    };
    let wrong = |problem: String| {
        let key = format!("columns.{}", column.name);
        Err(Error::Setting { key, problem })
    };
    let (takes, gives) = (head.n_inputs(), head.n_outputs());
    if takes != length {
        return wrong(format!(
            "head \"{name}\" takes embeddings of {takes} numbers, and the model's have {length}: \
             it was trained on another model's"
        ));
    }
    match declared.index {
        Some(index) if index >= gives => wrong(format!(
            "head \"{name}\" gives {gives} {}, of which the first is 0: there is no index {index}",
            if gives == 1 { "number" } else { "numbers" }
        )),
        index => Ok(column.given_by(head.clone(), index)),
    }
}

/// The declared columns, and `status` and `error_message` after them where they are not declared.
pub fn columns(
    spec: &PipelineSpec,
    models: &[PlannedModel],
    (used, lists): (&UsedColumns, &UsedLists),
    heads: &Heads,
) -> Result<Vec<Column>, Error> {
    let captions = used.captions.as_slice();
    let embeddings = sink(spec).embeddings;
    let always = [("status", ColumnSpec::Status), ("error_message", ColumnSpec::ErrorMessage)];
    let is_declared = |kind| spec.columns.values().any(|column| column.kind == kind);
    let missing = always.into_iter().filter(|(_, kind)| !is_declared(*kind));
    let missing: Vec<_> = missing.map(|(name, kind)| (name, kind.into())).collect();
    let declared = spec.columns.iter().map(|(name, column)| (name.as_str(), column));
    declared
        .chain(missing.iter().map(|(name, column)| (*name, column)))
        .map(|(name, column)| {
            let about = captions_of(name, column, captions)?;
            let place = model_of(name, column, &spec.model)?.unwrap_or(0);
            let model = &models[place];
            if column.kind == ColumnSpec::SiglipProbability
                && !model.files.architecture().logit_bias
            {
                let problem = "siglip_probability needs a bias in the model's weights, as SigLIP's \
                               have: this one's scores are `cosine`";
                let key = format!("columns.{name}");
                return Err(Error::Setting { key, problem: problem.into() });
            }
            let of_kind = Column::new(name, column.kind, embeddings, model.lengths());
            let of_model = of_kind.by(place, model.inputs.captions).about(about.clone(), captions);
            let of_model = given_by_head(of_model, column, (heads, model.lengths().embedding))?;
            let own =
                in_lists((name, column.kind), used.image.as_ref(), &about, (captions, lists))?;
            Ok(of_model.in_lists(own))
        })
        .collect()
}

/// The columns of lists that a declared column has a value an element of.
///
/// # Errors
/// `Setting` for a kind that compares captions with one another.
fn in_lists(
    (name, kind): (&str, ColumnSpec),
    image: Option<&String>,
    about: &[usize],
    (captions, lists): (&[String], &UsedLists),
) -> Result<Vec<String>, Error> {
    let own = Needs::of([kind]);
    let image = image.filter(|_| own.images);
    let captions: Vec<_> = about.iter().filter_map(|at| captions.get(*at)).collect();
    let captions = if own.captions { captions } else { Vec::new() };
    let is_list = |name: &&String| lists.lists.contains(*name);
    let compares = captions.len() > 1 || kind.is_of_the_best();
    if let Some(list) = captions.iter().copied().find(is_list).filter(|_| compares) {
        let problem = format!(
            "{} compares captions with one another, and \"{list}\" has lists of them: write \
             them in columns of their own",
            kind.as_str()
        );
        return Err(Error::Setting { key: format!("columns.{name}"), problem });
    }
    Ok(image.into_iter().chain(captions).filter(is_list).cloned().collect())
}

/// The input's columns, then the declared ones. A column is nullable if it is in any input.
pub fn output_schema(inputs: &[InputFile], columns: &[Column]) -> Result<SchemaRef, Error> {
    let first = &inputs[0];
    let mut fields: Vec<Arc<Field>> = first.schema.fields().to_vec();
    for (index, field) in fields.iter_mut().enumerate() {
        if inputs.iter().any(|input| input.schema.field(index).is_nullable()) {
            *field = Arc::new(field.as_ref().clone().with_nullable(true));
        }
    }
    let from_input = fields.len();
    for column in columns {
        let (name, kind) = (&column.name, column.kind.as_str());
        if fields[..from_input].iter().any(|field| field.name() == name) {
            let (path, column) = (first.path.clone(), name.clone());
            return Err(Error::ColumnCollision { path, column, kind });
        }
        if fields[from_input..].iter().any(|field| field.name() == name) {
            let problem = format!("is the name of the {kind} column: name that one too");
            return Err(Error::Setting { key: format!("columns.{name}"), problem });
        }
        fields.push(column.field.clone());
    }
    Ok(Arc::new(Schema::new_with_metadata(fields, first.schema.metadata().clone())))
}
