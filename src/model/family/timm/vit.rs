//! timm's vision transformers inside OpenCLIP's folders: those of SigLIP, of the Perception
//! Encoder, of EVA-02's CLIP, of MobileCLIP-B and of MobileCLIP2-L.
//!
//! Widths, layers and patches are read off the weights' shapes. Facts: vision_transformer.py,
//! vision_transformer_hybrid.py and eva.py of timm 1.0.

use serde_json::Value;

use self::Style::{Clip, Eva02, MobileClip, Perception, Siglip};
use super::in_trunk;
use crate::error::Error;
use crate::model::architecture::Activation::{self, Gelu, GeluTanh};
use crate::model::architecture::{
    BlockKind, ImagePooling, PatchEmbedding, Projection, Rotary, STEM_SIDES, TowerConfig,
    VisionConfig,
};
use crate::model::family::section::Section;
use crate::model::family::{Part, Source};
use crate::model::weights::Weights;

/// How the weights call the tower's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// Whether queries, keys and values are products of their own.
    apart: bool,
}

/// What weights do not tell of a tower.
#[derive(Debug, Clone, Copy)]
enum Style {
    Siglip(Activation),
    /// The patches along a side in training, and what the first row and column count as.
    Perception(i64, f32),
    Eva02,
    MobileClip,
    /// CLIP's own.
    Clip,
}

/// Name, heads, and what else is the name's affair.
const TOWERS: [(&str, i64, Style); 26] = [
    ("vit_base_patch16_siglip_224", 12, Siglip(Gelu)),
    ("vit_base_patch16_siglip_256", 12, Siglip(Gelu)),
    ("vit_base_patch16_siglip_384", 12, Siglip(Gelu)),
    ("vit_base_patch16_siglip_512", 12, Siglip(Gelu)),
    ("vit_base_patch32_siglip_256", 12, Siglip(GeluTanh)),
    ("vit_large_patch16_siglip_256", 16, Siglip(Gelu)),
    ("vit_large_patch16_siglip_384", 16, Siglip(Gelu)),
    ("vit_large_patch16_siglip_512", 16, Siglip(GeluTanh)),
    ("vit_so400m_patch14_siglip_224", 16, Siglip(Gelu)),
    ("vit_so400m_patch14_siglip_378", 16, Siglip(Gelu)),
    ("vit_so400m_patch14_siglip_384", 16, Siglip(Gelu)),
    ("vit_so400m_patch16_siglip_256", 16, Siglip(GeluTanh)),
    ("vit_so400m_patch16_siglip_384", 16, Siglip(GeluTanh)),
    ("vit_so400m_patch16_siglip_512", 16, Siglip(GeluTanh)),
    ("vit_giantopt_patch16_siglip_256", 16, Siglip(GeluTanh)),
    ("vit_giantopt_patch16_siglip_384", 16, Siglip(GeluTanh)),
    ("vit_pe_core_tiny_patch16_384", 3, Perception(24, 1.0)),
    ("vit_pe_core_small_patch16_384", 6, Perception(24, 1.0)),
    ("vit_pe_core_base_patch16_224", 12, Perception(14, 1.0)),
    ("vit_pe_core_large_patch14_336", 16, Perception(24, 1.0)),
    ("vit_pe_core_gigantic_patch14_448", 16, Perception(32, 0.0)),
    ("eva02_base_patch16_clip_224", 12, Eva02),
    ("eva02_large_patch14_clip_224", 16, Eva02),
    ("eva02_large_patch14_clip_336", 16, Eva02),
    ("vit_base_mci_224", 12, MobileClip),
    ("vit_large_patch14_clip_224", 16, Clip),
];

/// What a name stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    heads: i64,
    style: Style,
}

/// What is known of a name.
pub(super) fn named(name: &Value) -> Option<Named> {
    let known = TOWERS.into_iter().find(|(known, ..)| name.as_str() == Some(known));
    known.map(|(_, heads, style)| Named { heads, style })
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TOWERS.into_iter().map(|(name, ..)| name)
}

impl Named {
    /// The `timm_pool` of the tower.
    pub fn pool(self) -> &'static str {
        match self.style {
            Eva02 | MobileClip | Clip => "token",
            Siglip(_) | Perception(..) => "map",
        }
    }
}

/// Reads `vision_cfg`, and the tower's sizes from the weights.
///
/// # Errors
/// `ModelFile` naming the key that cannot be used; `Tensor` for weights that are no such tower's.
pub(super) fn read(
    section: &Section,
    weights: &Weights,
    (Named { heads, style }, projection): (Named, Projection),
) -> Result<(VisionConfig, Layout), Error> {
    let sizes = Sizes::read(weights, style)?;
    let tower = sizes.tower(heads, style);
    if tower.width % style.divisor(heads) != 0 {
        let width = tower.width;
        let what = format!("has {heads} heads, and the weights' width is {width}");
        return Err(section.problem("timm_model_name", &what));
    }
    let image_size = section.side("image_size", 224)?;
    if !(1..=image_size).contains(&sizes.patch) {
        let what = format!("is {image_size}, and a patch has {}", sizes.patch);
        return Err(section.problem("image_size", &what));
    }
    let pooling = match style {
        Eva02 | MobileClip | Clip => ImagePooling::ClassToken,
        Siglip(_) => ImagePooling::Attention { heads, mlp_width: sizes.pool_mlp(weights)? },
        Perception(..) => ImagePooling::Attention { heads: 8, mlp_width: sizes.pool_mlp(weights)? },
    };
    let config = VisionConfig {
        tower,
        image_size,
        patch_size: sizes.patch,
        patches: style.patches(sizes.hidden),
        pre_norm: matches!(style, Perception(..) | Clip),
        class_token: pooling == ImagePooling::ClassToken || weights.has(&in_trunk("cls_token")),
        class_position: !matches!(style, MobileClip),
        rotary: style.rotary(),
        pooling,
        projection,
    };
    Ok((config, Layout { apart: matches!(style, Eva02) }))
}

impl Style {
    /// What divides the width: where heads are turned, rows and columns share pairs of a head's
    /// numbers.
    fn divisor(self, heads: i64) -> i64 {
        match self {
            Siglip(_) | MobileClip | Clip => heads,
            Perception(..) | Eva02 => 4 * heads,
        }
    }

    fn rotary(self) -> Option<Rotary> {
        match self {
            Siglip(_) | MobileClip | Clip => None,
            Perception(trained_grid, first) => {
                Some(Rotary { trained_grid, first, column_first: true })
            }
            Eva02 => Some(Rotary { trained_grid: 16, first: 0.0, column_first: false }),
        }
    }

    fn patches(self, hidden: i64) -> PatchEmbedding {
        match self {
            Perception(..) | Clip => PatchEmbedding::Product,
            Siglip(_) | Eva02 => PatchEmbedding::ProductAndBias,
            MobileClip => PatchEmbedding::Stem { hidden },
        }
    }
}

/// What the weights' shapes say.
struct Sizes {
    width: i64,
    patch: i64,
    layers: i64,
    mlp_width: i64,
    /// Between the products of a stem.
    hidden: i64,
}

impl Sizes {
    fn read(weights: &Weights, style: Style) -> Result<Self, Error> {
        let side = |name: &str, side: usize| -> Result<i64, Error> {
            Ok(weights.shape(&in_trunk(name))?.get(side).copied().unwrap_or(0))
        };
        let up = match style {
            Eva02 => "blocks.0.mlp.fc1_x.weight",
            _ => "blocks.0.mlp.fc1.weight",
        };
        let (patches, patch) = match style {
            MobileClip => {
                ("patch_embed.backbone.2.conv.weight", STEM_SIDES.iter().product::<i64>())
            }
            _ => ("patch_embed.proj.weight", side("patch_embed.proj.weight", 2)?),
        };
        let there = |layer: &i64| weights.has(&in_trunk(&format!("blocks.{layer}.norm1.weight")));
        Ok(Self {
            width: side(patches, 0)?,
            patch,
            hidden: side(patches, 1)?,
            layers: (0..1024).take_while(there).count() as i64,
            mlp_width: side(up, 0)?,
        })
    }

    fn tower(&self, heads: i64, style: Style) -> TowerConfig {
        let Self { width, layers, mlp_width, .. } = *self;
        let (activation, layer_norm_eps, block) = match style {
            Siglip(activation) => (activation, 1e-6, BlockKind::PreNorm),
            MobileClip => (Gelu, 1e-6, BlockKind::PreNorm),
            Perception(..) | Clip => (Gelu, 1e-5, BlockKind::PreNorm),
            Eva02 => (Activation::SwiGlu, 1e-6, BlockKind::InnerNorm),
        };
        TowerConfig { width, mlp_width, layers, heads, activation, layer_norm_eps, block }
    }

    fn pool_mlp(&self, weights: &Weights) -> Result<i64, Error> {
        let shape = weights.shape(&in_trunk("attn_pool.mlp.fc1.weight"))?;
        Ok(shape.first().copied().unwrap_or(0))
    }
}

/// Where a tensor of the image tower is in the weights; `None` for the others.
pub(super) fn source(layout: Layout, tensor: &str) -> Option<Source> {
    let name = tensor.strip_prefix("vision_model.")?;
    if let Some((layer, part)) =
        name.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.'))
    {
        return Some(block(layout, &format!("blocks.{layer}."), part));
    }
    if let Some(part) = name.strip_prefix("head.") {
        return Some(pool(part));
    }
    if let Some((index, part)) =
        name.strip_prefix("embeddings.stem.").and_then(|rest| rest.split_once('.'))
    {
        let part = match part.strip_prefix("norm.") {
            Some(part) => format!("bn.{part}"),
            None => format!("conv.{part}"),
        };
        return Some(Source::whole(in_trunk(&format!("patch_embed.backbone.{index}.{part}"))));
    }
    let leading = |name: &str, sides| Source { name: in_trunk(name), part: Part::Leading(sides) };
    match name {
        "embeddings.class_embedding" => return Some(leading("cls_token", 2)),
        "embeddings.position_embedding.weight" => return Some(leading("pos_embed", 1)),
        _ => {}
    }
    const PARTS: [(&str, &str); 3] = [
        ("embeddings.patch_embedding.", "patch_embed.proj."),
        ("pre_layrnorm.", "norm_pre."),
        ("post_layernorm.", "norm."),
    ];
    Some(Source::whole(in_trunk(&renamed(name, &PARTS))))
}

/// A block's tensor.
fn block(layout: Layout, prefix: &str, name: &str) -> Source {
    for (index, of) in ["q", "k", "v"].into_iter().enumerate() {
        if let Some(part) = name.strip_prefix(&format!("self_attn.{of}_proj.")) {
            let (what, part) = match layout.apart {
                true => (format!("{of}_proj.{part}"), Part::Whole),
                false => (format!("qkv.{part}"), Part::Rows { index: index as i64, of: 3 }),
            };
            return Source { name: in_trunk(&format!("{prefix}attn.{what}")), part };
        }
    }
    const PARTS: [(&str, &str); 5] = [
        ("self_attn.out_proj.", "attn.proj."),
        ("self_attn.norm.", "attn.norm."),
        ("layer_norm1.", "norm1."),
        ("layer_norm2.", "norm2."),
        ("mlp.gate.", "mlp.fc1_g."),
    ];
    let name = match name.strip_prefix("mlp.fc1.") {
        Some(part) if layout.apart => format!("mlp.fc1_x.{part}"),
        _ => renamed(name, &PARTS),
    };
    Source::whole(in_trunk(&format!("{prefix}{name}")))
}

/// A tensor of `AttentionPoolLatent`.
fn pool(name: &str) -> Source {
    let named = |name: &str| in_trunk(&format!("attn_pool.{name}"));
    if name == "probe" {
        return Source { name: named("latent"), part: Part::Leading(2) };
    }
    for (index, of) in ["k", "v"].into_iter().enumerate() {
        if let Some(part) = name.strip_prefix(&format!("self_attn.{of}_proj.")) {
            let rows = Part::Rows { index: index as i64, of: 2 };
            return Source { name: named(&format!("kv.{part}")), part: rows };
        }
    }
    const PARTS: [(&str, &str); 3] =
        [("self_attn.q_proj.", "q."), ("self_attn.out_proj.", "proj."), ("layer_norm2.", "norm.")];
    Source::whole(named(&renamed(name, &PARTS)))
}

/// The name with another beginning, where it has one of these.
fn renamed(name: &str, parts: &[(&str, &str)]) -> String {
    let found = parts.iter().find_map(|(from, to)| Some((to, name.strip_prefix(from)?)));
    found.map_or_else(|| name.to_owned(), |(to, rest)| format!("{to}{rest}"))
}
