//! `clipmill search`: the rows of a table that are nearest to texts, images or other rows.

mod answer;
mod sheet;

use std::path::Path;

use serde_json::json;

use self::answer::{Answer, Asked};
use super::table;
use crate::cli::{ModelArgs, SearchArgs};
use crate::error::Error;
use crate::spec::{DeviceSpec, PrecisionSpec, SearchSpec};

pub fn search(args: &SearchArgs) -> Result<(), Error> {
    let spec = args.spec();
    let answer = find(&spec, &args.input, &args.model)?;
    table::print(&if args.json { as_json(&answer) } else { shown(&spec, &answer) })
}

/// Searches as a pipeline file's `[search]` says; returns what the terminal shows.
pub fn step(spec: &SearchSpec, input: &Path, device: DeviceSpec) -> Result<String, Error> {
    let model = ModelArgs { model: None, device, precision: PrecisionSpec::Auto };
    Ok(shown(spec, &find(spec, input, &model)?))
}

/// Searches, and writes the page where one is wanted.
fn find(spec: &SearchSpec, input: &Path, model: &ModelArgs) -> Result<Answer, Error> {
    if !spec.asks() {
        let problem = "name a text, or --image or --like (queries, images, like)".to_owned();
        return Err(Error::Setting { key: "search".into(), problem });
    }
    spec.html.iter().try_for_each(|page| super::check_page("--html", page))?;
    let answer = Answer::find(spec, input, model)?;
    if let Some(path) = &spec.html {
        sheet::write(&answer, (input, spec.images_root.as_deref()), path)?;
    }
    Ok(answer)
}

fn shown(spec: &SearchSpec, answer: &Answer) -> String {
    let page = spec.html.as_ref().map(|path| format!("page with the images: {}\n", path.display()));
    as_text(answer) + &page.unwrap_or_default()
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
        header.extend(answer.shown.iter().map(|column| column.as_str()));
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

fn as_json(answer: &Answer) -> String {
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
    let all = json!({
        "column": answer.column,
        "rows": answer.rows,
        "searched": answer.found.searched,
        "without_vector": answer.found.without,
        "queries": results.collect::<Vec<_>>(),
    });
    format!("{all:#}\n")
}
