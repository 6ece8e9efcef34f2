//! The model for commands that encode a few texts or images: `score`, `label`, `search`.
//!
//! The same preprocessing, tokenizing and towers as `run`, without stages. One bad image or text
//! is an error here: the user named it.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::batch::{Captions, Embeddings, Pixels};
use crate::cli::ModelArgs;
use crate::error::{Error, RowError};
use crate::hub::Hub;
use crate::images::Preprocess;
use crate::model::{DualEncoder, ModelFiles, Towers, device, family};
use crate::regular;
use crate::spec::{CaptionSpec, Family, HubSpec, ModelPlace, ModelSpec, PreprocessSpec};
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
}

/// The model that made a table's embeddings, before its weights are loaded.
pub struct TableModel {
    files: ModelFiles,
    made_by: MadeBy,
}

impl TableModel {
    /// The model that a table's metadata name as the maker of `column`, or the one that is asked
    /// for.
    ///
    /// # Errors
    /// `Setting` where neither is there, or where the weights are not those that made the table.
    pub fn find(table: &Table, column: &str, asked: Option<&ModelPlace>) -> Result<Self, Error> {
        let made_by = MadeBy::read(table, column);
        // Nobody is asked for a repository because a table names it.
        let hub = if asked.is_some() { Hub::Shown } else { Hub::CacheAlone };
        let Some(place) = asked.or(made_by.place.as_ref()) else {
            let problem = "the table does not say which model made its embeddings: name its folder";
            return Err(Error::Setting { key: "--model".into(), problem: problem.into() });
        };
        if let ModelPlace::Dir(dir) = place
            && !dir.is_dir()
        {
            let hint = ": it made the table's embeddings; give its folder with --model".into();
            return Err(Error::NotFound { what: "model folder", path: dir.clone(), hint });
        }
        let files = ModelFiles::open(&found(place, made_by.family, hub)?)?;
        if let Some(made_by) = &made_by.weights
            && files.weights_sha256()? != *made_by
        {
            let problem = format!(
                "{place} has other weights than those that made the table's embeddings (sha256 \
                 {made_by}): name the folder that has them"
            );
            return Err(Error::Setting { key: "--model".into(), problem });
        }
        Ok(Self { files, made_by })
    }

    /// The digest of the weights that `find` will want; of a table that says it no file is read.
    pub fn sha256(
        table: &Table,
        column: &str,
        asked: Option<&ModelPlace>,
    ) -> Result<String, Error> {
        match (asked, MadeBy::read(table, column).weights) {
            (None, Some(made_by)) => Ok(made_by),
            _ => Ok(Self::find(table, column, asked)?.files.weights_sha256()?),
        }
    }

    /// Loads it.
    pub fn load(&self, args: &ModelArgs, towers: Towers) -> Result<Encoder, Error> {
        Encoder::load(&self.files, args, towers, &self.made_by)
    }
}

/// What a table says of the run that made its embeddings.
#[derive(Debug, Default)]
struct MadeBy {
    place: Option<ModelPlace>,
    family: Option<Family>,
    weights: Option<String>,
    preprocess: PreprocessSpec,
    caption: CaptionSpec,
}

impl Encoder {
    /// Loads the model of a folder, or one on the hub.
    pub fn open(place: &ModelPlace, args: &ModelArgs, towers: Towers) -> Result<Self, Error> {
        let files = ModelFiles::open(&found(place, None, Hub::Shown)?)?;
        Self::load(&files, args, towers, &MadeBy::default())
    }

    fn load(
        files: &ModelFiles,
        args: &ModelArgs,
        towers: Towers,
        made_by: &MadeBy,
    ) -> Result<Self, Error> {
        let preprocess = Preprocess::of(files.spec(), &made_by.preprocess)?;
        let tokenizer = Tokenizer::of(files.spec(), files.context_length(), &made_by.caption)?;
        let placement = device::resolve(args.device, args.precision)?.placement;
        let model = files.load(towers, preprocess.scale(), placement)?;
        let max_bytes = made_by.preprocess.max_bytes;
        Ok(Self { preprocess, max_bytes, tokenizer, model })
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
        let slot_bytes = self.preprocess.n_bytes();
        let mut data = vec![0; paths.len() * slot_bytes];
        let mut grids = Vec::new();
        for (path, slot) in paths.iter().zip(data.chunks_exact_mut(slot_bytes)) {
            let bytes = read(path, self.max_bytes)?;
            let (_, outcome) = self.preprocess.apply(&bytes, slot);
            let wrong = |error: RowError| bad_input("image", path.display().to_string(), &error);
            grids.extend(outcome.map_err(wrong)?);
        }
        let rows = (0..paths.len() as u32).collect();
        let pixels = Pixels { data, shape: self.preprocess.shape(), grids, rows };
        Ok(slots(&self.model.encode_image(&pixels)?))
    }

    /// What cosines are multiplied by before a softmax.
    pub fn logit_scale(&self) -> f32 {
        self.model.logit_scale()
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.model.embedding_dim()
    }
}

impl MadeBy {
    /// What the metadata of the first file says; nothing where it is not as clipmill writes it.
    fn read(table: &Table, column: &str) -> Self {
        let model: Value = table.model_of(column).unwrap_or_default();
        let text = |key: &str| model[key].as_str().map(str::to_owned);
        let pipeline = table.pipeline();
        let hub = text("hub").and_then(|repo| HubSpec::new(&repo, text("commit").as_deref()).ok());
        let dir = || text("dir").map(|dir| ModelPlace::Dir(dir.into()));
        Self {
            place: hub.map(ModelPlace::Hub).or_else(dir),
            family: text("family").and_then(|word| word.parse().ok()),
            weights: text("weights_sha256"),
            preprocess: section(&pipeline, "preprocess"),
            caption: section(&pipeline, "caption"),
        }
    }
}

/// A model of that family in its folder, or of whichever there is.
pub fn found(place: &ModelPlace, family: Option<Family>, hub: Hub) -> Result<ModelSpec, Error> {
    let dir = match place {
        ModelPlace::Dir(dir) => dir.clone(),
        ModelPlace::Hub(spec) => hub.snapshot(spec, family)?.dir,
    };
    let family = family.map_or_else(|| family::detect(&dir), Ok)?;
    Ok(ModelSpec::new(family, dir))
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
    let refuse =
        |problem: String| Error::Setting { key: format!("image {}", path.display()), problem };
    let file = regular::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            Error::NotFound { what: "image", path: path.to_owned(), hint: String::new() }
        }
        ErrorKind::InvalidInput => refuse("is not a regular file".into()),
        _ => Error::Io { action: "read the image", path: path.to_owned(), source },
    })?;
    let mut bytes = Vec::new();
    let most = file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
    most.map_err(Error::io("read the image", path))?;
    match bytes.len() as u64 > max_bytes {
        false => Ok(bytes),
        true => Err(refuse(format!("has more than {max_bytes} bytes"))),
    }
}

fn bad_input(what: &str, which: String, error: &RowError) -> Error {
    Error::Setting { key: format!("{what} {which}"), problem: error.message.clone() }
}
