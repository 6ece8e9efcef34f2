//! A search from its settings to its results: queries embedded, the table scanned, the texts of
//! the rows that were found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::analysis::search::export::{Exported, export};
use crate::analysis::search::shown::{Texts, texts};
use crate::analysis::search::{Cache, Found, Hit, Index, Query};
use crate::cli::ModelArgs;
use crate::command::encoder::TableModel;
use crate::command::table;
use crate::error::Error;
use crate::log::Event;
use crate::model::Towers;
use crate::spec::SearchSpec;
use crate::table::Table;
use crate::travel::is_text;

/// Making a smaller file of vectors is done before anybody wonders.
const SAY_BYTES: u64 = 256 << 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Text(String),
    Image(PathBuf),
    /// A row of the table.
    Like(u64),
}

impl Asked {
    /// For people.
    pub fn title(&self) -> String {
        match self {
            Asked::Text(text) => table::one_line(text, 100),
            Asked::Image(path) => table::one_line(&format!("image {}", path.display()), 100),
            Asked::Like(row) => format!("like row {row}"),
        }
    }
}

/// What was found, with the texts of the rows.
pub struct Answer {
    pub asked: Vec<Asked>,
    pub column: String,
    pub rows: u64,
    pub found: Found,
    /// The index that was written, where one was wanted.
    pub exported: Option<Exported>,
    /// The columns whose texts are shown, that of the images first where there is one.
    pub shown: Vec<String>,
    /// Whether the first of them names images.
    pub has_images: bool,
    /// What the table says of the run that made it.
    pub pipeline: toml::Table,
    texts: Texts,
}

impl Answer {
    /// Searches.
    ///
    /// # Errors
    /// `Setting` for a row that is not there or has no vector, or a model whose vectors have
    /// another length than the table's.
    pub fn find(spec: &SearchSpec, input: &Path, model: &ModelArgs) -> Result<Self, Error> {
        let table = Table::open(input)?;
        let index = open_index(&table, input, spec)?;
        let asked: Vec<_> = (spec.queries.iter().cloned().map(Asked::Text))
            .chain(spec.images.iter().cloned().map(Asked::Image))
            .chain(spec.like.iter().copied().map(Asked::Like))
            .collect();
        let queries = queries(spec, (&table, &index), model)?;
        let found = index.nearest(&queries, spec.top.get())?;
        let exported = spec.export.as_ref().map(|path| export(&index, path)).transpose()?;
        let pipeline = table.pipeline();
        let (shown, has_images) = shown(&table, &pipeline);
        let found_rows = found.hits.iter().flatten().map(|hit| hit.row);
        let rows: BTreeSet<_> = found_rows.chain(spec.like.iter().copied()).collect();
        let columns: Vec<_> = shown.iter().map(String::as_str).collect();
        let texts = texts(&table, &columns, &rows)?;
        let (column, rows) = (index.name().to_owned(), table.rows());
        Ok(Self { asked, column, rows, found, exported, shown, has_images, pipeline, texts })
    }

    /// What was asked with what was found.
    pub fn results(&self) -> impl Iterator<Item = (&Asked, &[Hit])> {
        self.asked.iter().zip(self.found.hits.iter().map(Vec::as_slice))
    }

    /// The rows whose texts are known: those that were found, and those that were asked about.
    pub fn named(&self) -> impl Iterator<Item = u64> {
        self.texts.keys().copied()
    }

    /// What a row has in the shown columns.
    pub fn texts(&self, row: u64) -> Vec<Option<String>> {
        let lossy = |text: &Option<Vec<u8>>| {
            text.as_ref().map(|text| String::from_utf8_lossy(text).into_owned())
        };
        self.texts.get(&row).map_or_else(Vec::new, |texts| texts.iter().map(lossy).collect())
    }

    /// The bytes that name a row's image.
    pub fn image(&self, row: u64) -> Option<&[u8]> {
        let texts = self.texts.get(&row).filter(|_| self.has_images)?;
        texts.first()?.as_deref()
    }
}

/// Opens the column, and says what takes long.
fn open_index<'a>(
    table: &'a Table,
    input: &Path,
    spec: &'a SearchSpec,
) -> Result<Index<'a>, Error> {
    let cache = if spec.cache { Cache::Use } else { Cache::Leave };
    let on_build = |path: &Path, bytes: u64| {
        if bytes > SAY_BYTES {
            let size = table::bytes(bytes);
            let message = format!("putting the vectors into {} ({size}), once", path.display());
            Event::info("vectors", message).with_path("path", path).with("bytes", bytes).say();
        }
    };
    let index = Index::open((table, input), spec.column.as_deref(), cache, on_build)?;
    index.note.iter().for_each(|note| Event::info("vectors", note).say());
    Ok(index)
}

/// The vectors of what is asked for, in the order texts, images, rows.
fn queries(
    spec: &SearchSpec,
    (table, index): (&Table, &Index<'_>),
    model: &ModelArgs,
) -> Result<Vec<Query>, Error> {
    let mut vectors = Vec::new();
    let towers =
        Towers { image: !spec.images.is_empty(), text: !spec.queries.is_empty(), states: false };
    if towers.image || towers.text {
        let encoder =
            TableModel::find(table, index.name(), model.model.as_ref())?.load(model, towers)?;
        if index.dim() != 0 && encoder.dim() != index.dim() {
            let (ours, theirs) = (encoder.dim(), index.dim());
            let name = index.name();
            let problem = format!("its embeddings have {ours} numbers, those of {name} {theirs}");
            return Err(Error::Setting { key: "--model".into(), problem });
        }
        if towers.text {
            vectors.extend(encoder.texts("the query", &spec.queries)?);
        }
        if towers.image {
            vectors.extend(encoder.images(&spec.images)?);
        }
    }
    let mut queries: Vec<_> =
        vectors.into_iter().map(|vector| Query { vector, except: None }).collect();
    for row in &spec.like {
        let refuse = |problem: String| Error::Setting { key: format!("--like {row}"), problem };
        if *row >= table.rows() {
            return Err(refuse(format!("the table has {} rows, from 0", table.rows())));
        }
        let vector = index.vector(*row)?;
        let vector = vector.ok_or_else(|| refuse("that row has no vector".into()))?;
        queries.push(Query { vector, except: Some(*row) });
    }
    Ok(queries)
}

/// The columns to show: those that the run read its images and captions from, or else what tables
/// usually call them.
fn shown(table: &Table, pipeline: &toml::Table) -> (Vec<String>, bool) {
    let is_there = |name: &&str| table.find(name).is_some_and(|field| is_text(field.data_type()));
    let source = pipeline.get("source").and_then(|source| source.get("parquet"));
    let column = |key: &str, usual: [&'static str; 4]| {
        let named = source.and_then(|source| source.get(key)).and_then(toml::Value::as_str);
        let names = named.into_iter().chain(usual);
        names.into_iter().find(is_there).map(str::to_owned)
    };
    let image = column("image", ["image_path", "path", "url", "URL"]);
    let caption = column("caption", ["caption", "text", "TEXT", "alt"]);
    let has_images = image.is_some();
    (image.into_iter().chain(caption).collect(), has_images)
}
