//! A model folder of any family, opened and checked: configuration and weights fit each other.
//!
//! No weights are read here but their headers; `load` reads them onto a device. Preprocessing and
//! tokenizing are read by `images` and `text`, from the same `ModelSpec`.

use std::path::Path;

use super::architecture::{Architecture, TokenEmbedding};
use super::device::Placement;
use super::family::{self, Described, Names};
use super::tower::{About, DualTowers, tensors};
use super::weights::Weights;
use super::{DualEncoder, Towers};
use crate::batch::PixelScale;
use crate::error::Error;
use crate::spec::{Family, ModelSpec};

/// A model folder whose configuration and weights fit each other; no weights are read yet.
#[derive(Debug)]
pub struct ModelFiles {
    spec: ModelSpec,
    architecture: Architecture,
    names: Names,
    weights: Weights,
}

impl ModelFiles {
    /// Opens a folder and checks its configuration and the weights' names, shapes and types.
    ///
    /// # Errors
    /// `NotFound`, `ModelFile`, `PickledWeights` or `Tensor`, naming the file and what is wrong.
    pub fn open(spec: &ModelSpec) -> Result<Self, Error> {
        let Described { architecture, names } = family::describe(spec)?;
        let weights = Weights::open(spec.dir(), spec.family().weights_files())?;
        weights.check(&names.in_files(&tensors::expected(&architecture)), tensors::is_buffer)?;
        Ok(Self { spec: spec.clone(), architecture, names, weights })
    }

    /// What was opened.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The kind of model.
    pub fn family(&self) -> Family {
        self.spec.family()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.spec.dir()
    }

    /// What the towers are made of.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The most tokens in a caption, control tokens included.
    pub fn context_length(&self) -> usize {
        self.architecture.text.context_length as usize
    }

    /// How many token ids the text tower knows.
    pub fn vocab_size(&self) -> usize {
        self.architecture.text.vocab_size as usize
    }

    /// Length of an embedding.
    pub fn embedding_dim(&self) -> usize {
        self.architecture.embedding_dim as usize
    }

    /// Width of the text tower: the length of a token's state.
    pub fn text_width(&self) -> usize {
        self.architecture.text.tower.width as usize
    }

    /// Whether the text tower has states of tokens that only fill a caption up.
    pub fn states_of_padding(&self) -> bool {
        !matches!(self.architecture.text.embedding, TokenEmbedding::Bert { .. })
    }

    /// How many numbers the weights hold.
    pub fn n_parameters(&self) -> u64 {
        let shapes = tensors::expected(&self.architecture).into_iter().map(|tensor| tensor.shape);
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
    ) -> Result<Box<dyn DualEncoder>, Error> {
        let family = self.family();
        let about = About { path: self.dir().join(family.config_file()), keys: family.keys() };
        let towers = DualTowers::load(
            (self.architecture.clone(), about),
            (&self.weights, self.names),
            (towers, scale),
            placement,
        )?;
        Ok(Box::new(towers))
    }
}
