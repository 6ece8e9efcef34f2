//! `clipmill search`: the rows of a table that are nearest to texts, images or other rows.

mod answer;
mod sheet;

use std::path::Path;

use serde_json::json;

use self::answer::{Answer, Asked};
use super::table;
use crate::analysis::search::export::Exported;
use crate::cli::{ModelArgs, SearchArgs};
use crate::error::Error;
use crate::spec::{DeviceSpec, PrecisionSpec, SearchSpec};
use crate::table::Table;

pub fn search(args: &SearchArgs) -> Result<(), Error> {
    let spec = args.spec();
    let answer = find(&spec, &args.input, &args.model)?;
    table::print(&if args.json { as_json(&spec, &answer) } else { shown(&spec, &answer) })
}

/// Searches as a pipeline file's `[search]` says; returns what the terminal shows.
pub fn step(spec: &SearchSpec, input: &Path, device: DeviceSpec) -> Result<String, Error> {
    let model = ModelArgs { model: None, device, precision: PrecisionSpec::Auto };
    Ok(shown(spec, &find(spec, input, &model)?))
}

/// Finds what is wrong with it before there are rows: over a table without any.
pub fn rehearse(spec: &SearchSpec, input: &Path) -> Result<(), Error> {
    check(spec)?;
    spec.html.iter().try_for_each(|page| super::check_file_name("html", page))?;
    spec.export.iter().try_for_each(|index| super::check_file_name("export", index))?;
    if let Some(image) = spec.images.iter().find(|image| !image.is_file()) {
        let (path, hint) = (image.clone(), String::new());
        return Err(Error::NotFound { what: "image", path, hint });
    }
    if let Some(root) = spec.images_root.as_ref().filter(|root| !root.is_dir()) {
        let (path, hint) = (root.clone(), ": it is where images are".to_owned());
        return Err(Error::NotFound { what: "the image root", path, hint });
    }
    Table::open(input)?.embedding(spec.column.as_deref()).map(drop)
}

/// What can be wrong whatever the table and the disk are.
fn check(spec: &SearchSpec) -> Result<(), Error> {
    if spec.asks() || spec.export.is_some() {
        return Ok(());
    }
    let problem = "name a text, or --image, --like or --export (queries, images, like, export)";
    Err(Error::Setting { key: "search".into(), problem: problem.to_owned() })
}

/// Searches, and writes what else is wanted.
fn find(spec: &SearchSpec, input: &Path, model: &ModelArgs) -> Result<Answer, Error> {
    check(spec)?;
    spec.html.iter().try_for_each(|page| super::check_file("--html", page))?;
    spec.export.iter().try_for_each(|index| super::check_file("--export", index))?;
    let answer = Answer::find(spec, input, model)?;
    if let Some(path) = &spec.html {
        sheet::write(&answer, input, spec, path)?;
    }
    Ok(answer)
}

fn shown(spec: &SearchSpec, answer: &Answer) -> String {
    let page = spec.html.as_ref().map(|path| format!("page with the images: {}\n", path.display()));
    let index = spec.export.as_ref().zip(answer.exported.as_ref());
    let index = index.map(|(path, made)| exported(path, made));
    as_text(answer) + &page.unwrap_or_default() + &index.unwrap_or_default()
}

fn exported(path: &Path, made: &Exported) -> String {
    let recall = match made.recall_at_10 {
        Some(recall) => format!(
            "it finds {:.1} % of the 10 nearest that a scan of all finds ({} asked)",
            100.0 * recall,
            table::counted(made.sample as u64, "row")
        ),
        None => "of too few rows to measure what it finds".to_owned(),
    };
    format!(
        "USearch index of {}, {} each, {}: {}\n{recall}\n",
        table::counted(made.vectors, "vector"),
        table::counted(made.dim as u64, "number"),
        table::bytes(made.bytes),
        path.display(),
    )
}

fn as_text(answer: &Answer) -> String {
    let mut text = String::new();
    for (asked, hits) in answer.results() {
        text += &format!("{}\n", asked.title());
        if hits.is_empty() {
            text += "  nothing\n\n";
            continue;
        }
        let mut header = vec!["score", "row"];
        let columns: Vec<_> = answer.shown.iter().map(|name| table::one_line(name, 40)).collect();
        header.extend(columns.iter().map(String::as_str));
        let rows = hits.iter().map(|hit| {
            let texts = answer.texts(hit.row).into_iter().map(|text| match text {
                Some(text) => table::one_line(&text, 60),
                None => "null".to_owned(),
            });
            let numbers = [format!("{:+.4}", hit.score), hit.row.to_string()];
            numbers.into_iter().chain(texts).collect()
        });
        text += &format!("{}\n\n", table::table(&header, rows.collect(), &[0, 1]));
    }
    text + &format!("{}\n", about(answer))
}

/// How many rows were searched, and why not all.
pub fn about(answer: &Answer) -> String {
    let rows = table::counted(answer.rows, "row");
    let mut text = format!("{} of {rows} searched", table::count(answer.found.searched));
    let reasons = answer.found.without.iter();
    let reasons: Vec<_> = reasons
        .map(|(why, n)| format!("{} {}", table::count(*n), table::one_line(why, 64)))
        .collect();
    if !reasons.is_empty() {
        text += &format!("; without a vector: {}", reasons.join(", "));
    }
    text
}

fn as_json(spec: &SearchSpec, answer: &Answer) -> String {
    let results = answer.results().map(|(asked, hits)| {
        let hits = hits.iter().map(|hit| {
            let mut object = json!({ "row": hit.row, "score": hit.score });
            for (column, text) in answer.shown.iter().zip(answer.texts(hit.row)) {
                object[column] = json!(text);
            }
            object
        });
        let (kind, value) = match asked {
            Asked::Text(text) => ("text", json!(text)),
            Asked::Image(path) => ("image", json!(path.display().to_string())),
            Asked::Like(row) => ("like", json!(row)),
        };
        json!({ kind: value, "hits": hits.collect::<Vec<_>>() })
    });
    let mut all = json!({
        "column": answer.column,
        "rows": answer.rows,
        "searched": answer.found.searched,
        "without_vector": answer.found.without,
        "queries": results.collect::<Vec<_>>(),
    });
    if let Some((path, made)) = spec.export.as_ref().zip(answer.exported.as_ref()) {
        all["export"] = json!(made);
        all["export"]["path"] = json!(path.display().to_string());
    }
    format!("{all:#}\n")
}
