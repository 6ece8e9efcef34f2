//! The families of models: how each one's folder says what the model is, and what its weights
//! call the tensors.
//!
//! A family's file reads its configuration into an `Architecture` and gives each tensor of the
//! towers its name in the weights. What the towers do with them is the same for all (see
//! `tower`). How a family preprocesses images and captions is in `images` and `text`.

mod bert;
mod chinese_clip;
mod clip;
mod hugging_face;
mod open_clip;
mod section;
mod siglip;
mod timm;

use std::path::Path;

use super::architecture::Architecture;
use super::weights::{Expected, FileNames};
use crate::error::Error;
use crate::spec::{Family, ModelSpec};

/// What a folder's configuration says.
pub(super) struct Described {
    pub architecture: Architecture,
    pub names: Names,
}

/// Reads the configuration of a model folder.
///
/// # Errors
/// `NotFound` without the file; `ModelFile` naming the key that cannot be used.
pub(super) fn describe(spec: &ModelSpec) -> Result<Described, Error> {
    let dir = spec.dir();
    match spec.family() {
        Family::Clip => {
            Ok(Described { architecture: clip::read(dir)?, names: Names::Transformers })
        }
        Family::Siglip => Ok(Described { architecture: siglip::read(dir)?, names: Names::Siglip }),
        Family::ChineseClip => {
            Ok(Described { architecture: chinese_clip::read(dir)?, names: Names::ChineseClip })
        }
        Family::OpenClip => {
            let (architecture, layout) = open_clip::read(dir)?;
            Ok(Described { architecture, names: Names::OpenClip(layout) })
        }
    }
}

/// What the configuration of a model folder says, without a look at the weights.
///
/// # Errors
/// `NotFound` without the file; `ModelFile` naming the key that cannot be used.
pub fn architecture(spec: &ModelSpec) -> Result<Architecture, Error> {
    Ok(describe(spec)?.architecture)
}

/// The family of a folder, by what is in it. A folder that holds a model in two layouts is of the
/// family whose weights are there under transformers' name.
///
/// # Errors
/// `NotFound` without a configuration; `ModelFile` for a kind of model that clipmill has not.
pub fn detect(dir: &Path) -> Result<Family, Error> {
    let there = |name: &str| dir.join(name).exists();
    let weights = "model.safetensors";
    let transformers = there(CONFIG) && (there(weights) || there(&format!("{weights}.index.json")));
    if there(open_clip::CONFIG) && !transformers {
        return Ok(Family::OpenClip);
    }
    match section::Section::read(dir, CONFIG)?.model_type() {
        "siglip" | "siglip2" => Ok(Family::Siglip),
        "chinese_clip" => Ok(Family::ChineseClip),
        // Its reader says what is wrong with others.
        _ => Ok(Family::Clip),
    }
}

/// transformers' configuration file.
pub(super) const CONFIG: &str = "config.json";

impl Family {
    /// The file that describes the model.
    pub fn config_file(self) -> &'static str {
        match self {
            Family::Clip | Family::Siglip | Family::ChineseClip => CONFIG,
            Family::OpenClip => open_clip::CONFIG,
        }
    }

    /// The files that may hold the weights, the first that is there.
    pub fn weights_files(self) -> FileNames {
        match self {
            Family::Clip | Family::Siglip | Family::ChineseClip => {
                FileNames { config: CONFIG, single: &["model.safetensors"] }
            }
            Family::OpenClip => FileNames {
                config: open_clip::CONFIG,
                single: &["open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"],
            },
        }
    }

    /// The keys of the image's side and a patch's, of the context's length and of the vocabulary's
    /// size.
    pub(super) fn keys(self) -> Keys {
        match self {
            Family::Clip | Family::Siglip | Family::ChineseClip => Keys {
                image_size: "vision_config.image_size",
                patch_size: "vision_config.patch_size",
                context: "text_config.max_position_embeddings",
                vocab_size: "text_config.vocab_size",
            },
            Family::OpenClip => Keys {
                image_size: "vision_cfg.image_size",
                patch_size: "vision_cfg.patch_size",
                context: "text_cfg.context_length",
                vocab_size: "text_cfg.vocab_size",
            },
        }
    }
}

/// How a family's configuration calls what messages name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub image_size: &'static str,
    pub patch_size: &'static str,
    pub context: &'static str,
    pub vocab_size: &'static str,
}

/// What the weights call the towers' tensors, whose own names are those of transformers'
/// `CLIPModel` (see `tower::tensors`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Transformers,
    Siglip,
    ChineseClip,
    OpenClip(open_clip::Layout),
}

impl Names {
    /// Where a tensor of the towers is.
    pub fn source(self, tensor: &str) -> Source {
        match self {
            Names::Transformers => Source::whole(tensor),
            Names::Siglip => siglip::source(tensor),
            Names::ChineseClip => chinese_clip::source(tensor),
            Names::OpenClip(layout) => open_clip::source(layout, tensor),
        }
    }

    /// What the weights files hold, so that the towers have what they expect.
    pub fn in_files(self, expected: &[Expected]) -> Vec<Expected> {
        let of = |wanted: &Expected| {
            let Source { name, part } = self.source(&wanted.name);
            Expected { name, shape: part.shape_of_file(&wanted.shape) }
        };
        let mut all: Vec<_> = expected.iter().map(of).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.dedup();
        all
    }
}

/// A tensor of the towers in the weights files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub name: String,
    pub part: Part,
}

impl Source {
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), part: Part::Whole }
    }
}

/// Which part of a file's tensor one of the towers is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// One of so many runs of rows of one length.
    Rows {
        index: i64,
        of: i64,
    },
    /// Rows and columns change places.
    Transposed,
    /// So many more sides of 1 in front.
    Leading(usize),
}

impl Part {
    /// The shape of the file's tensor, from that of the towers'.
    fn shape_of_file(self, shape: &[i64]) -> Vec<i64> {
        let mut shape = shape.to_vec();
        match self {
            Part::Whole => {}
            Part::Rows { of, .. } => shape[0] *= of,
            Part::Transposed => shape.reverse(),
            Part::Leading(n) => shape.splice(0..0, std::iter::repeat_n(1, n)).for_each(drop),
        }
        shape
    }
}
