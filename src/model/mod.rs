//! Dual encoders: an image tower and a text tower that share one embedding space.
//!
//! `ModelFiles` is a model folder of any family, opened and checked; `family` knows how folders
//! describe a model, `tower` what it computes. Pixels
//! arrive as u8 and are scaled on the device; decoding, resizing and tokenizing are done before
//! (see `images` and `text`).

pub mod architecture;
mod attention;
mod cpu;
mod cuda_driver;
pub mod device;
mod distinct;
pub mod doctor;
pub mod family;
mod files;
pub mod head;
mod lanes;
mod norm;
mod onednn;
pub mod pending;
mod tower;
mod transfer;
pub mod weights;

use serde::{Deserialize, Serialize};

pub use self::files::ModelFiles;

use self::pending::Pending;
use crate::batch::{Captions, Embeddings, Pixels};
use crate::error::Error;

/// The towers that a run needs: only these are loaded and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Towers {
    pub image: bool,
    pub text: bool,
    /// Whether the text tower gives every token's state, and not only an embedding.
    pub states: bool,
}

impl Towers {
    /// Both, for embeddings.
    pub const BOTH: Self = Self { image: true, text: true, states: false };
    /// Whether there is one.
    pub fn any(self) -> bool {
        self.image || self.text || self.states
    }

    /// The text tower, for embeddings.
    pub const TEXT: Self = Self { image: false, text: true, states: false };
}

/// A model that embeds images and captions in one space. One thread owns it at a time.
///
/// The `submit` methods give the device its work and return; on a CPU the work is then done.
pub trait DualEncoder: Send {
    /// Embeds packed u8 pixels; the embeddings keep the pixels' slots and have unit length.
    ///
    /// A row that comes out with a NaN or an infinity is returned as it is: the caller gives
    /// it a status.
    fn submit_image(&self, pixels: &Pixels) -> Result<Pending, Error>;

    /// Embeds packed captions; the embeddings keep the captions' slots and have unit length.
    fn submit_text(&self, captions: &Captions) -> Result<Pending, Error>;

    /// The text tower's output for every token of captions that are all as long as the context:
    /// `[context, width]` in a slot, after the last layer norm, not projected.
    fn submit_text_states(&self, captions: &Captions) -> Result<Pending, Error>;

    /// As `submit_image`, and waits.
    fn encode_image(&self, pixels: &Pixels) -> Result<Embeddings, Error> {
        self.submit_image(pixels)?.wait()
    }

    /// As `submit_text`, and waits.
    fn encode_text(&self, captions: &Captions) -> Result<Embeddings, Error> {
        self.submit_text(captions)?.wait()
    }

    /// How much the device takes at once by now.
    fn at_once(&self) -> AtOnce;

    /// What cosines are multiplied by before a softmax: `exp` of the weights' `logit_scale`.
    fn logit_scale(&self) -> f32;

    /// What is added to scaled cosines before a sigmoid, where the weights hold that.
    fn logit_bias(&self) -> Option<f32> {
        None
    }

    /// Length of an embedding.
    fn embedding_dim(&self) -> usize;
}

/// How much a device takes in one pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AtOnce {
    /// As a pipeline file writes it.
    pub device: String,
    /// Where the image tower runs.
    pub images: Option<usize>,
    /// Tokens of captions, where the text tower runs.
    pub tokens: Option<usize>,
    /// How often passes were halved because the device's memory was too small.
    pub halved: u32,
}
