//! Two towers on their device: what the weights of any family compute.
//!
//! `DualTowers` encodes batches of any size in passes that fit the CPU's caches or the GPU's
//! memory, so batch size is the plan's affair and does not change what comes out beyond float
//! noise. What tells families apart is in the `Architecture`; opening and checking a folder is
//! the affair of `files`.

mod attend;
mod batch_norm;
mod block;
mod fastvit;
mod image;
mod layers;
mod loader;
mod patches;
mod pool;
mod positions;
mod rotation;
pub(super) mod tensors;
mod text;
mod work;

use std::path::PathBuf;

use tch::{Kind, TchError, Tensor, no_grad};

use self::fastvit::FastVit;
use self::image::ImageTower;
use self::loader::Loader;
use self::text::{Packing, TextTower};
use self::work::{Work, pass_size};
use super::architecture::{Architecture, PatchEmbedding, Vision};
use super::device::Placement;
use super::distinct::Distinct;
use super::family::{Keys, Names};
use super::pending::{PassSize, Pending};
use super::transfer::{Download, upload};
use super::weights::Weights;
use super::{AtOnce, DualEncoder, Towers};
use crate::batch::{Captions, Embeddings, Grid, ImageShape, PixelScale, Pixels};
use crate::error::Error;

/// The towers of a model, on their device.
pub(super) struct DualTowers {
    /// Absent where it is not needed.
    image: Option<(Image, PassSize)>,
    text: Option<(TextTower, PassSize)>,
    logit_scale: f32,
    logit_bias: Option<f32>,
    config: Architecture,
    about: About,
    placement: Placement,
}

/// What messages name.
pub(super) struct About {
    /// Of the configuration.
    pub path: PathBuf,
    pub keys: Keys,
}

impl DualTowers {
    /// Reads the weights of `towers`, which were checked against the architecture, onto the
    /// device.
    ///
    /// # Errors
    /// `Tensor` for a value that is not finite, `Torch` when LibTorch refuses (out of memory).
    pub fn load(
        (config, about): (Architecture, About),
        (weights, names): (&Weights, Names),
        (towers, scale): (Towers, PixelScale),
        placement: Placement,
    ) -> Result<Self, Error> {
        no_grad(|| {
            let loader = Loader { weights, names, placement };
            let number = |name: &str| -> Result<f64, Error> {
                loader.tensor(name)?.f_double_value(&[]).map_err(loader::torch)
            };
            let logit_scale = number("logit_scale")?.exp() as f32;
            let logit_bias = config.logit_bias.then(|| number("logit_bias")).transpose()?;
            let image = towers.image.then(|| Image::load(&loader, &config.vision, scale));
            let text = (towers.text || towers.states)
                .then(|| TextTower::load(&loader, &config.text, towers.states));
            // Both are there before either asks how much memory is left.
            let (image, text) = (image.transpose()?, text.transpose()?);
            let size = |work| pass_size(placement, work);
            Ok(Self {
                image: image.map(|tower| (tower, size(Work::of_image(&config.vision)))),
                text: text.map(|tower| (tower, size(Work::of_blocks(&config.text.tower)))),
                logit_scale,
                logit_bias: logit_bias.map(|bias| bias as f32),
                config,
                about,
                placement,
            })
        })
    }

    fn check_pixels(&self, pixels: &Pixels) -> Result<(), Error> {
        let (vision, keys) = (&self.config.vision, self.about.keys);
        if vision.takes(pixels.shape) || pixels.rows.is_empty() {
            return Ok(());
        }
        let (key, side) = match vision {
            Vision::Transformer(config) if config.patches == PatchEmbedding::AnyGrid => {
                (keys.patch_size, config.patch_size)
            }
            Vision::Transformer(config) => (keys.image_size, config.image_size),
            Vision::FastVit(config) => (keys.image_size, config.image_size),
        };
        Err(self.misfit(format!(
            "{key} is {side} and the pixels are {}: the preprocessing belongs to another model",
            pixels.shape
        )))
    }

    fn check_captions(&self, captions: &Captions) -> Result<(), Error> {
        let config = &self.config.text;
        let Keys { context, vocab_size, .. } = self.about.keys;
        let most = config.context_length as usize;
        let least = if config.sees_padding() { most } else { 1 };
        let misfits = |ids: &&Vec<i64>| !(least..=most).contains(&ids.len());
        if let Some(ids) = captions.ids.iter().find(misfits) {
            let n = ids.len();
            return Err(self.misfit(format!("{context} is {most} and a caption has {n} tokens")));
        }
        let known = 0..config.vocab_size;
        match captions.ids.iter().flatten().find(|id| !known.contains(id)) {
            // On a GPU it would end the process.
            Some(id) => Err(self.misfit(format!(
                "{vocab_size} is {} and a caption has token {id}: the tokenizer belongs to \
                 another model",
                config.vocab_size
            ))),
            None => Ok(()),
        }
    }

    fn context(&self) -> usize {
        self.config.text.context_length as usize
    }

    /// Numbers in the states of one caption.
    fn state_len(&self) -> usize {
        self.context() * self.config.text.tower.width as usize
    }

    fn misfit(&self, problem: String) -> Error {
        Error::ModelFile { path: self.about.path.clone(), problem }
    }
}

impl DualEncoder for DualTowers {
    fn submit_image(&self, pixels: &Pixels) -> Result<Pending, Error> {
        let (tower, size) = self.image.as_ref().expect("asked only for towers that were loaded");
        self.check_pixels(pixels)?;
        let distinct = Distinct::of(pixels);
        let tokens = self.config.vision.tokens() as usize;
        let len = |&slot: &usize| pixels.grid(slot).map_or(tokens, Grid::patches);
        let lens: Vec<usize> = distinct.slots.iter().map(len).collect();
        let passes = size.run(&lens, |run| {
            let shape = match pixels.shape {
                ImageShape::Whole { height, width } => vec![run.len(), height, width, 3],
                ImageShape::Patches { side, .. } => {
                    vec![lens[run.clone()].iter().sum(), side * side * 3]
                }
            };
            let shape: Vec<i64> = shape.into_iter().map(|size| size as i64).collect();
            let (data, grids) = (distinct.run(run.clone()), distinct.grids(run));
            let pass = || {
                let pixels = Tensor::f_from_data_size(&data, &shape, Kind::Uint8)?;
                let pixels = upload(&pixels, self.placement.device)?;
                Download::start(&unit_length(&tower.forward(&pixels, &grids)?)?)
            };
            no_grad(pass)
        });
        let passes = passes.map_err(Error::torch("encode images"))?;
        let (of_row, rows) = (distinct.of_slot, pixels.rows.clone());
        pending(passes, Places { dim: self.embedding_dim(), of_row, rows })
    }

    fn submit_text(&self, captions: &Captions) -> Result<Pending, Error> {
        let (tower, size) = self.text.as_ref().expect("asked only for towers that were loaded");
        self.check_captions(captions)?;
        let Packing { sequences, of_caption } = Packing::new(&captions.ids, &self.config.text);
        let lens: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let passes = size.run(&lens, |run| {
            no_grad(|| Download::start(&unit_length(&tower.forward(&sequences[run])?)?))
        });
        let passes = passes.map_err(Error::torch("encode captions"))?;
        let (of_row, rows) = (of_caption, captions.rows.clone());
        pending(passes, Places { dim: self.embedding_dim(), of_row, rows })
    }

    fn submit_text_states(&self, captions: &Captions) -> Result<Pending, Error> {
        let (tower, size) = self.text.as_ref().expect("asked only for towers that were loaded");
        self.check_captions(captions)?;
        if let Some(ids) = captions.ids.iter().find(|ids| ids.len() != self.context()) {
            let (n, context) = (ids.len(), self.context());
            let what = format!("states are of {context} tokens, and a caption has {n}");
            return Err(self.misfit(what));
        }
        let Packing { sequences, of_caption } = Packing::whole(&captions.ids);
        let lens: Vec<usize> = sequences.iter().map(|ids| ids.len()).collect();
        let passes =
            size.run(&lens, |run| no_grad(|| Download::start(&tower.states(&sequences[run])?)));
        let passes = passes.map_err(Error::torch("encode captions"))?;
        let (dim, rows) = (self.state_len(), captions.rows.clone());
        pending(passes, Places { dim, of_row: of_caption, rows })
    }

    fn at_once(&self) -> AtOnce {
        let (image, text) = (self.image.as_ref(), self.text.as_ref());
        let images =
            |size: &PassSize| (size.tokens() / self.config.vision.tokens() as usize).max(1);
        let halved = |size: &PassSize| size.halved();
        AtOnce {
            device: self.placement.device_name(),
            images: image.map(|(_, size)| images(size)),
            tokens: text.map(|(_, size)| size.tokens()),
            halved: image.map_or(0, |(_, size)| halved(size))
                + text.map_or(0, |(_, size)| halved(size)),
        }
    }

    fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    fn logit_bias(&self) -> Option<f32> {
        self.logit_bias
    }

    fn embedding_dim(&self) -> usize {
        self.config.embedding_dim as usize
    }
}

/// The image tower, of one kind or the other.
enum Image {
    Transformer(Box<ImageTower>),
    FastVit(Box<FastVit>),
}

impl Image {
    fn load(loader: &Loader, config: &Vision, scale: PixelScale) -> Result<Self, Error> {
        match config {
            Vision::Transformer(config) => {
                Ok(Self::Transformer(Box::new(ImageTower::load(loader, config, scale)?)))
            }
            Vision::FastVit(config) => {
                Ok(Self::FastVit(Box::new(FastVit::load(loader, config, scale)?)))
            }
        }
    }

    /// u8 pixels on the device, of squares or (with grids) of patches -> f32 `[n, embedding]`, not of
    /// unit length yet.
    fn forward(&self, pixels: &Tensor, grids: &[Grid]) -> Result<Tensor, TchError> {
        match self {
            Self::Transformer(tower) => tower.forward(pixels, grids),
            Self::FastVit(tower) => tower.forward(pixels),
        }
    }
}

/// Where the embeddings of distinct images or captions belong.
struct Places {
    dim: usize,
    /// Which of the distinct ones each row has.
    of_row: Vec<usize>,
    /// The batch row of each.
    rows: Vec<u32>,
}

/// The passes' values, one after the other, at the rows that have them.
fn pending(passes: Vec<Download>, places: Places) -> Result<Pending, Error> {
    let here = passes.iter().all(Download::is_here);
    let wait = move || {
        let parts = passes.into_iter().map(Download::wait).collect::<Result<Vec<_>, _>>();
        let parts = parts.map_err(Error::torch("read the embeddings"))?;
        let Places { dim, of_row, rows } = places;
        let distinct = Embeddings { data: parts.concat(), dim, rows: Vec::new() };
        let data = of_row.iter().flat_map(|&index| distinct.slot(index)).copied();
        Ok(Embeddings { data: data.collect(), dim, rows })
    };
    if here { wait().map(Pending::Ready) } else { Ok(Pending::Later(Box::new(wait))) }
}

/// `[n, dim]` f32 -> rows of length 1. A row of zeros becomes NaN, which the caller reports.
fn unit_length(x: &Tensor) -> Result<Tensor, TchError> {
    let norm = x.f_norm_scalaropt_dim(2, [1].as_slice(), true)?;
    x.f_div(&norm)
}
