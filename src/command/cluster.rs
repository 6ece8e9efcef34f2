//! `clipmill cluster`: rows into k groups by their embeddings, and names for the groups.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::encoder::TableModel;
use super::table;
use crate::analysis::cluster::{self, Cluster, FILE_NAME, Summary, Words};
use crate::cli::{ClusterArgs, ModelArgs};
use crate::error::Error;
use crate::model::{Towers, device};
use crate::progress::Waiting;
use crate::regular;
use crate::spec::{ClusterSpec, PrecisionSpec};
use crate::table::{Table, Written};

/// Clusters that are shown.
const SHOWN: usize = 20;

/// The most words of a list.
const MOST_WORDS: usize = 200_000;

pub fn cluster(args: &ClusterArgs) -> Result<(), Error> {
    let spec = args.spec();
    let (written, summary) = run(&spec, &args.input, &args.model)?;
    table::print(&match args.json {
        true => as_json(&spec, &written),
        false => as_text(&spec, &written, &summary),
    })
}

/// Does it as a step after a run; gives what the terminal shows.
pub fn step(spec: &ClusterSpec, input: &Path) -> Result<String, Error> {
    let model = ModelArgs { model: None, device: spec.device, precision: PrecisionSpec::Auto };
    let (written, summary) = run(spec, input, &model)?;
    Ok(as_text(spec, &written, &summary))
}

/// Finds what is wrong with it before there are rows: over a table without any, into `dir`.
pub fn rehearse(spec: &ClusterSpec, input: &Path, dir: &Path) -> Result<(), Error> {
    spec.words.as_deref().map(read_words).transpose()?;
    device::resolve(spec.device, PrecisionSpec::F32)?;
    cluster::rehearse(&Table::open(input)?, &ClusterSpec { path: dir.to_owned(), ..spec.clone() })
}

fn run(spec: &ClusterSpec, path: &Path, model: &ModelArgs) -> Result<(Written, Summary), Error> {
    let input = Table::open(path)?;
    let device = device::resolve(spec.device, PrecisionSpec::F32)?.placement.device;
    let texts = spec.words.as_deref().map(read_words).transpose()?;
    let asked = model.model.as_ref();
    let column = input.embedding(spec.column.as_deref())?.to_owned();
    let sha256 = match texts {
        Some(_) => Some(TableModel::sha256(&input, &column, asked)?),
        None => None,
    };
    let words = || match texts {
        None => Ok(None),
        Some(texts) => {
            let encoder = TableModel::find(&input, &column, asked)?.load(model, Towers::TEXT)?;
            let vectors = encoder.texts("word", &texts)?;
            Ok(Some(Words { texts, vectors }))
        }
    };
    let rows = table::counted(input.rows(), "row");
    let _waiting = Waiting::new(&format!("clustering {rows}"));
    let written = cluster::cluster(&input, spec, device, (sha256.as_deref(), words))?;
    let summary = super::summary(&written, &spec.path)?;
    Ok((written, summary))
}

/// The lines of a file, each once, without those that are empty.
fn read_words(path: &Path) -> Result<Vec<String>, Error> {
    let text = regular::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            let hint = ": it holds a word or a phrase a line".to_owned();
            Error::NotFound { what: "word list", path: path.to_owned(), hint }
        }
        _ => Error::io("read the word list", path)(error),
    })?;
    let mut seen = BTreeSet::new();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let words: Vec<String> = lines.filter(|line| seen.insert(*line)).map(str::to_owned).collect();
    let wrong = |problem: String| Err(Error::Setting { key: "words".into(), problem });
    match words.len() {
        0 => wrong(format!("{} has no words", path.display())),
        n if n > MOST_WORDS => {
            wrong(format!("{} has {n} words: at most {MOST_WORDS}", path.display()))
        }
        _ => Ok(words),
    }
}

fn as_json(spec: &ClusterSpec, written: &Written) -> String {
    let json = json!({
        "output": spec.path,
        "centroids": spec.path.join(FILE_NAME),
        "was_there": written.was_there,
        "summary": written.summary,
    });
    format!("{json:#}\n")
}

fn as_text(spec: &ClusterSpec, written: &Written, summary: &Summary) -> String {
    let mut order: Vec<&Cluster> = summary.clusters.iter().collect();
    order.sort_by_key(|cluster| (std::cmp::Reverse(cluster.rows), cluster.cluster));
    let has_names = order.iter().any(|cluster| !cluster.names.is_empty());
    let mut header = vec!["cluster", "rows", "share", "distance", "nearest row"];
    header.extend(has_names.then_some("names"));
    let rows = order.iter().take(SHOWN).map(|cluster| row(cluster, summary.rows, has_names));
    let mut text = format!("{}\n", table::table(&header, rows.collect(), &[0, 1, 2, 3, 4]));
    if order.len() > SHOWN {
        text += &format!("... and {} more, in _made.json\n", order.len() - SHOWN);
    }
    let empty = order.iter().filter(|cluster| cluster.rows == 0).count();
    if empty > 0 {
        text += &format!("{} without a row\n", table::counted(empty as u64, "cluster"));
    }
    let (rows, clusters) = (table::counted(summary.rows, "row"), table::count(summary.k as u64));
    text += &format!("\n{rows} in {clusters} clusters, inertia {:.4}\n", summary.inertia);
    text += &super::missing("without an embedding, in none", &summary.missing);
    let there = if written.was_there { " (was there already; nothing was done)" } else { "" };
    text += &format!("Output: {}{there}\n", spec.path.display());
    text + &format!("Centroids: {}\n", spec.path.join(FILE_NAME).display())
}

fn row(cluster: &Cluster, rows: u64, has_names: bool) -> Vec<String> {
    // Of the rows' distances, the root of the mean square.
    let distance = (cluster.inertia / cluster.rows.max(1) as f64).sqrt();
    let mut cells = vec![
        cluster.cluster.to_string(),
        table::count(cluster.rows),
        format!("{:.1} %", cluster.rows as f64 * 100.0 / rows.max(1) as f64),
        format!("{distance:.4}"),
        cluster.nearest_row.map_or_else(String::new, |row| row.to_string()),
    ];
    let words = cluster.names.iter().map(|name| table::one_line(&name.word, 32));
    cells.extend(has_names.then(|| words.collect::<Vec<_>>().join(", ")));
    cells
}
