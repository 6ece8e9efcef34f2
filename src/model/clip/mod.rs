//! CLIP as transformers' `CLIPModel`: any width, depth and patch size that its config.json says.
//!
//! `ClipFiles` is a model folder opened and checked; `Clip` is the model on its device. A batch
//! of any size is encoded in passes that fit the processor's caches, so batch size is the
//! plan's affair and does not change what comes out beyond float noise.

mod attend;
mod block;
mod image;
mod layers;
mod loader;
mod tensors;
mod text;

use std::path::{Path, PathBuf};

use tch::{Device, Kind, TchError, Tensor, no_grad};

use self::image::ImageTower;
use self::loader::Loader;
use self::text::{Packing, TextTower};
use super::config::{ClipConfig, TowerConfig};
use super::device::Placement;
use super::weights::Weights;
use super::{DualEncoder, Towers};
use crate::batch::{Captions, Embeddings, PixelScale, Pixels};
use crate::error::Error;

/// A `CLIPModel` folder whose configuration and weights fit each other; no weights are read yet.
#[derive(Debug)]
pub struct ClipFiles {
    dir: PathBuf,
    config: ClipConfig,
    weights: Weights,
}

impl ClipFiles {
    /// Opens a folder and checks config.json and the weights' names, shapes and types.
    ///
    /// # Errors
    /// `NotFound`, `ModelFile`, `PickledWeights` or `Tensor`, naming the file and what is wrong.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config = ClipConfig::read(dir)?;
        let weights = Weights::open(dir)?;
        weights.check(&tensors::expected(&config), &tensors::BUFFERS)?;
        Ok(Self { dir: dir.into(), config, weights })
    }

    /// The architecture.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Side of the square input in pixels.
    pub fn image_size(&self) -> usize {
        self.config.vision.image_size as usize
    }

    /// The most tokens in a caption, start-of-text and end-of-text included.
    pub fn context_length(&self) -> usize {
        self.config.text.context_length as usize
    }

    /// How many token ids the text tower knows.
    pub fn vocab_size(&self) -> usize {
        self.config.text.vocab_size as usize
    }

    /// Length of an embedding.
    pub fn embedding_dim(&self) -> usize {
        self.config.projection_dim as usize
    }

    /// How many numbers the weights hold.
    pub fn n_parameters(&self) -> u64 {
        let shapes = tensors::expected(&self.config).into_iter().map(|tensor| tensor.shape);
        shapes.map(|shape| shape.iter().product::<i64>() as u64).sum()
    }

    /// See [`Weights::sha256`].
    ///
    /// # Errors
    /// `Io` when a file cannot be read.
    pub fn weights_sha256(&self) -> Result<String, Error> {
        self.weights.sha256()
    }

    /// Reads the weights of `towers` onto the device.
    ///
    /// # Errors
    /// `Tensor` for a value that is not finite, `Torch` when LibTorch refuses (out of memory).
    pub fn load(
        &self,
        towers: Towers,
        scale: PixelScale,
        placement: Placement,
    ) -> Result<Clip, Error> {
        no_grad(|| {
            let loader = Loader { weights: &self.weights, placement };
            let logit_scale = loader.tensor("logit_scale")?;
            Ok(Clip {
                image: towers
                    .image
                    .then(|| ImageTower::load(&loader, &self.config.vision, scale))
                    .transpose()?,
                text: towers
                    .text
                    .then(|| TextTower::load(&loader, &self.config.text))
                    .transpose()?,
                logit_scale: logit_scale.f_double_value(&[]).map_err(loader::torch)?.exp() as f32,
                config: self.config.clone(),
                path: self.dir.join("config.json"),
                placement,
            })
        })
    }
}

/// CLIP on its device.
pub struct Clip {
    /// Absent where it is not needed.
    image: Option<ImageTower>,
    text: Option<TextTower>,
    logit_scale: f32,
    config: ClipConfig,
    /// Of config.json, for messages.
    path: PathBuf,
    placement: Placement,
}

impl Clip {
    /// Opens, checks and loads a `CLIPModel` folder, both towers.
    ///
    /// # Errors
    /// As [`ClipFiles::open`] and [`ClipFiles::load`].
    pub fn load(dir: &Path, scale: PixelScale, placement: Placement) -> Result<Self, Error> {
        ClipFiles::open(dir)?.load(Towers::BOTH, scale, placement)
    }

    fn check_pixels(&self, pixels: &Pixels) -> Result<usize, Error> {
        let side = self.config.vision.image_size as usize;
        if (pixels.height, pixels.width) != (side, side) && !pixels.rows.is_empty() {
            let found = format!("{}x{}", pixels.width, pixels.height);
            return Err(self.misfit(format!(
                "vision_config.image_size is {side} and the pixels are {found}: \
                 preprocessor_config.json belongs to another model"
            )));
        }
        Ok(side)
    }

    fn check_captions(&self, captions: &Captions) -> Result<(), Error> {
        let config = &self.config.text;
        let most = config.context_length as usize;
        if let Some(ids) = captions.ids.iter().find(|ids| ids.is_empty() || ids.len() > most) {
            let n = ids.len();
            let what = format!("max_position_embeddings is {most} and a caption has {n} tokens");
            return Err(self.misfit(format!("text_config.{what}")));
        }
        let known = 0..config.vocab_size;
        match captions.ids.iter().flatten().find(|id| !known.contains(id)) {
            // On a GPU it would end the process.
            Some(id) => Err(self.misfit(format!(
                "text_config.vocab_size is {} and a caption has token {id}: the tokenizer belongs \
                 to another model",
                config.vocab_size
            ))),
            None => Ok(()),
        }
    }

    fn misfit(&self, problem: String) -> Error {
        Error::ModelFile { path: self.path.clone(), problem }
    }
}

impl DualEncoder for Clip {
    fn encode_image(&self, pixels: &Pixels) -> Result<Embeddings, Error> {
        let tower = self.image.as_ref().expect("asked only for towers that were loaded");
        let side = self.check_pixels(pixels)?;
        let vision = &self.config.vision;
        let images = tokens_per_pass(self.placement, &vision.tower) / vision.tokens() as usize;
        let mut data = Vec::with_capacity(pixels.rows.len() * self.embedding_dim());
        for pass in pixels.data.chunks(images.max(1) * side * side * 3) {
            let side = side as i64;
            let shape = [pass.len() as i64 / (side * side * 3), side, side, 3];
            let encode = || {
                let pixels = Tensor::f_from_data_size(pass, &shape, Kind::Uint8)?;
                unit_length(&tower.forward(&pixels.f_to(self.placement.device)?)?)
            };
            data.extend(no_grad(encode).map_err(Error::torch("encode images"))?);
        }
        Ok(Embeddings { data, dim: self.embedding_dim(), rows: pixels.rows.clone() })
    }

    fn encode_text(&self, captions: &Captions) -> Result<Embeddings, Error> {
        let tower = self.text.as_ref().expect("asked only for towers that were loaded");
        self.check_captions(captions)?;
        let text = &self.config.text;
        let packing = Packing::new(&captions.ids, text.pooling);
        let mut distinct = Embeddings { dim: self.embedding_dim(), ..Embeddings::default() };
        for pass in packing.passes(tokens_per_pass(self.placement, &text.tower)) {
            let encode = || unit_length(&tower.forward(pass)?);
            distinct.data.extend(no_grad(encode).map_err(Error::torch("encode captions"))?);
        }
        let data = packing.of_caption.iter().flat_map(|&index| distinct.slot(index)).copied();
        Ok(Embeddings {
            data: data.collect(),
            dim: self.embedding_dim(),
            rows: captions.rows.clone(),
        })
    }

    fn logit_scale(&self) -> f32 {
        self.logit_scale
    }

    fn embedding_dim(&self) -> usize {
        self.config.projection_dim as usize
    }
}

/// How many tokens go through a tower at once.
///
/// On a CPU the widest activation stays under 12 MB, so that the allocator recycles it instead
/// of asking the kernel for fresh pages. A GPU wants much more at once.
fn tokens_per_pass(placement: Placement, tower: &TowerConfig) -> usize {
    match placement.device {
        Device::Cpu => (12 << 20) / (tower.mlp_width as usize * 4),
        _ => 1 << 16,
    }
}

/// `[n, dim]` f32 -> rows of length 1. A row of zeros becomes NaN, which the caller reports.
fn unit_length(x: &Tensor) -> Result<Vec<f32>, TchError> {
    let norm = x.f_norm_scalaropt_dim(2, [1].as_slice(), true)?;
    let x = x.f_div(&norm)?.f_to(Device::Cpu)?.f_contiguous()?;
    Vec::<f32>::try_from(x.f_view([-1])?)
}
