//! The model for commands that encode a few texts or images: `score`, `label`, `search`.
//!
//! The same preprocessing, tokenizing and towers as `run`, without stages. One bad image or text
//! is an error here: the user named it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::batch::{Captions, Embeddings, Pixels};
use crate::cli::ModelArgs;
use crate::error::{Error, RowError};
use crate::images::Preprocess;
use crate::model::clip::ClipFiles;
use crate::model::{DualEncoder, Towers, device};
use crate::spec::{CaptionSpec, PreprocessSpec};
use crate::table::Table;
use crate::text::Tokenizer;

/// Captions that are encoded at once.
const AT_ONCE: usize = 512;

/// A loaded model with its preprocessing and its tokenizer.
pub struct Encoder {
    preprocess: Preprocess,
    max_bytes: u64,
    tokenizer: Tokenizer,
    model: Box<dyn DualEncoder>,
    weights_sha256: Option<String>,
}

/// What a table says of the run that made its embeddings.
#[derive(Debug, Default)]
struct MadeBy {
    dir: Option<PathBuf>,
    weights: Option<String>,
    preprocess: PreprocessSpec,
    caption: CaptionSpec,
}

impl Encoder {
    /// Loads the model of a folder.
    pub fn open(dir: &Path, args: &ModelArgs, towers: Towers) -> Result<Self, Error> {
        Self::load(&ClipFiles::open(dir)?, dir, args, towers, &MadeBy::default())
    }

    /// Loads the model that made a table's embeddings: the one that its metadata names, or the one
    /// that is asked for.
    ///
    /// # Errors
    /// `Setting` where neither is there, or where the weights are not those that made the table.
    pub fn of_table(table: &Table, args: &ModelArgs, towers: Towers) -> Result<Self, Error> {
        let made_by = MadeBy::read(table);
        let made_by_dir = made_by.dir.clone();
        let Some(dir) = args.model.as_ref().or(made_by_dir.as_ref()) else {
            let problem = "the table does not say which model made its embeddings: name its folder";
            return Err(Error::Setting { key: "--model".into(), problem: problem.into() });
        };
        if !dir.is_dir() {
            let hint = ": it made the table's embeddings; give its folder with --model".into();
            return Err(Error::NotFound { what: "model folder", path: dir.clone(), hint });
        }
        let files = ClipFiles::open(dir)?;
        if let Some(made_by) = &made_by.weights
            && files.weights_sha256()? != *made_by
        {
            let problem = format!(
                "{} has other weights than those that made the table's embeddings (sha256 \
                 {made_by}): name the folder that has them",
                dir.display()
            );
            return Err(Error::Setting { key: "--model".into(), problem });
        }
        let weights = Some(files.weights_sha256()?);
        Self::load(&files, dir, args, towers, &MadeBy { weights, ..made_by })
    }

    fn load(
        files: &ClipFiles,
        dir: &Path,
        args: &ModelArgs,
        towers: Towers,
        made_by: &MadeBy,
    ) -> Result<Self, Error> {
        let preprocess = Preprocess::read(dir, &made_by.preprocess)?;
        let tokenizer = Tokenizer::read(dir, files.context_length(), &made_by.caption)?;
        let placement = device::resolve(args.device, args.precision)?.placement;
        let model = Box::new(files.load(towers, preprocess.scale(), placement)?);
        let max_bytes = made_by.preprocess.max_bytes;
        let weights_sha256 = made_by.weights.clone();
        Ok(Self { preprocess, max_bytes, tokenizer, model, weights_sha256 })
    }

    /// Embeds texts, each to unit length, in their order. `what` names them in an error.
    ///
    /// # Errors
    /// `Setting` for a text without a token.
    pub fn texts(&self, what: &str, texts: &[String]) -> Result<Vec<Vec<f32>>, Error> {
        let mut found = Vec::with_capacity(texts.len());
        for some in texts.chunks(AT_ONCE) {
            let encode = |text: &String| match self.tokenizer.encode(text) {
                Ok((ids, _)) => Ok(ids),
                Err(error) => Err(bad_input(what, format!("{text:?}"), &error)),
            };
            let ids = some.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
            let rows = (0..ids.len() as u32).collect();
            found.extend(slots(&self.model.encode_text(&Captions { ids, rows })?));
        }
        Ok(found)
    }

    /// Embeds image files, each to unit length, in their order.
    ///
    /// # Errors
    /// `NotFound`, or `Setting` for what is no image.
    pub fn images(&self, paths: &[PathBuf]) -> Result<Vec<Vec<f32>>, Error> {
        let (height, width) = (self.preprocess.height(), self.preprocess.width());
        let slot_bytes = height * width * 3;
        let mut data = vec![0; paths.len() * slot_bytes];
        for (path, slot) in paths.iter().zip(data.chunks_exact_mut(slot_bytes)) {
            let bytes = read(path, self.max_bytes)?;
            let (_, outcome) = self.preprocess.apply(&bytes, slot);
            outcome.map_err(|error| bad_input("image", path.display().to_string(), &error))?;
        }
        let rows = (0..paths.len() as u32).collect();
        Ok(slots(&self.model.encode_image(&Pixels { data, height, width, rows })?))
    }

    /// What cosines are multiplied by before a softmax.
    pub fn logit_scale(&self) -> f32 {
        self.model.logit_scale()
    }

    /// The digest of the weights, where the model was opened for a table.
    pub fn weights_sha256(&self) -> Option<&str> {
        self.weights_sha256.as_deref()
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.model.embedding_dim()
    }
}

impl MadeBy {
    /// What the metadata of the first file says; nothing where it is not as clipmill writes it.
    fn read(table: &Table) -> Self {
        let value = |key: &str| {
            let pair = table.files()[0].made_by.iter().find(|pair| pair.key == key)?;
            pair.value.as_deref()
        };
        let model: Value = value("clipmill.model")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let text = |key: &str| model[key].as_str().map(str::to_owned);
        let pipeline = pipeline_of(table);
        Self {
            dir: text("dir").map(PathBuf::from),
            weights: text("weights_sha256"),
            preprocess: section(&pipeline, "preprocess"),
            caption: section(&pipeline, "caption"),
        }
    }
}

/// The pipeline that made a table, as its metadata has it; empty where there is none.
pub fn pipeline_of(table: &Table) -> toml::Table {
    let mut pairs = table.files()[0].made_by.iter();
    let pair = pairs.find(|pair| pair.key == "clipmill.pipeline");
    let text = pair.and_then(|pair| pair.value.as_deref());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn section<T: for<'de> Deserialize<'de> + Default>(pipeline: &toml::Table, name: &str) -> T {
    let section = pipeline.get(name).and_then(|section| section.clone().try_into().ok());
    section.unwrap_or_default()
}

fn slots(embeddings: &Embeddings) -> Vec<Vec<f32>> {
    (0..embeddings.rows.len()).map(|slot| embeddings.slot(slot).to_vec()).collect()
}

/// A regular file of bounded size: a device or a FIFO has no end.
fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, Error> {
    let found = std::fs::metadata(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { what: "image", path: path.to_owned(), hint: String::new() }
        }
        _ => Error::Io { action: "read the image", path: path.to_owned(), source },
    })?;
    let refuse =
        |problem: String| Err(Error::Setting { key: format!("image {}", path.display()), problem });
    if !found.is_file() {
        return refuse("is not a regular file".into());
    }
    if found.len() > max_bytes {
        return refuse(format!("has {} bytes, more than {max_bytes}", found.len()));
    }
    std::fs::read(path).map_err(Error::io("read the image", path))
}

fn bad_input(what: &str, which: String, error: &RowError) -> Error {
    Error::Setting { key: format!("{what} {which}"), problem: error.message.clone() }
}
