//! OpenCLIP's own folders: open_clip_config.json beside open_clip_model.safetensors.
//!
//! Missing keys take the defaults of `CLIPVisionCfg` and `CLIPTextCfg` (model.py of open_clip 3.3),
//! and what those classes offer beside plain towers is refused by the key. Of the towers of others
//! inside, `timm` and `hugging_face` know some. Names: `CLIP` and `CustomTextCLIP` of model.py,
//! `VisionTransformer` and `TextTransformer` of transformer.py.

use std::path::Path;

use serde_json::Value;

use super::section::Section;
use super::{Part, Source, hugging_face, timm};
use crate::error::Error;
use crate::model::architecture::{
    Activation, Architecture, BlockKind, ImagePooling, PatchEmbedding, Pooling, Projection, Sight,
    TextConfig, TokenEmbedding, TowerConfig, Vision, VisionConfig,
};
use crate::model::weights::Weights;
use crate::spec::Family;

pub const CONFIG: &str = "open_clip_config.json";

/// How the weights call the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether the text tower's are under `text.`, and not at the root.
    custom_text: bool,
    /// Whether the text tower's projection is a linear layer, and not a bare matrix.
    linear: bool,
    /// Whether scale and bias have one side, and not none.
    nonscalar: bool,
    /// Of an image tower of timm.
    timm: Option<timm::Layout>,
    /// Whether the text tower is one of Hugging Face.
    hugging_face: bool,
}

/// Reads open_clip_config.json; of a tower that it only names, the weights' shapes too.
///
/// # Errors
/// `NotFound` without the file; `ModelFile` naming the key that cannot be used; those of opening
/// the weights.
pub fn read(dir: &Path) -> Result<(Architecture, Layout), Error> {
    let root = Section::read(dir, CONFIG)?.section("model_cfg")?;
    if root.map.is_empty() {
        return Err(root.problem("embed_dim", "is missing, and so is all of model_cfg"));
    }
    let quick = root.flag("quick_gelu", false)?;
    let (vision, text) = (root.section("vision_cfg")?, root.section("text_cfg")?);
    let embedding_dim = root.size("embed_dim", 512)?;
    let open = || Weights::open(dir, Family::OpenClip.weights_files());
    let hugging_face = hugging_face::is_named(&text);
    let text_config = match hugging_face {
        false => read_text(&text, quick)?,
        true => hugging_face::read(&text, embedding_dim, &open()?)?,
    };
    let (vision, timm) = match timm::is_named(&vision) {
        false => (Vision::Transformer(read_vision(&vision, quick)?), None),
        true => {
            let (vision, layout) = timm::read(&vision, &open()?)?;
            (vision, Some(layout))
        }
    };
    let layout = Layout {
        custom_text: root.flag("custom_text", false)?,
        linear: text.flag("proj_bias", false)?,
        nonscalar: root.flag("nonscalar_logit_scale", false)?,
        timm,
        hugging_face,
    };
    let width = vision.width();
    if vision.projection() == Projection::None && width != embedding_dim {
        let what = format!("is {embedding_dim}, and the image tower's embeddings have {width}");
        return Err(root.problem("embed_dim", &what));
    }
    let architecture = Architecture {
        vision,
        text: text_config,
        embedding_dim,
        logit_bias: root.map.get("init_logit_bias").is_some_and(|value| !value.is_null()),
    };
    Ok((architecture, layout))
}

/// Keys whose values, other than these, change what the tower computes.
type Extras = [(&'static str, &'static [&'static str])];

const BLOCKS: [(&str, &[&str]); 7] = [
    ("ls_init_value", &[]),
    ("qk_norm", &["false"]),
    ("scaled_cosine_attn", &["false"]),
    ("scale_heads", &["false"]),
    ("scale_attn_inner", &["false"]),
    ("scale_attn", &["false"]),
    ("scale_fc", &["false"]),
];

const VISION_EXTRAS: [(&str, &[&str]); 4] = [
    ("attentional_pool", &["false"]),
    ("pos_embed_type", &["\"learnable\"", "\"sin_cos_2d\""]),
    ("pool_type", &["\"tok\""]),
    ("block_type", &["\"default\""]),
];

const TEXT_EXTRAS: [(&str, &[&str]); 5] = [
    ("embed_cls", &["false"]),
    ("no_causal_mask", &["false", "true"]),
    ("proj_type", &["\"linear\""]),
    ("pool_type", &["\"argmax\"", "\"eos\"", "\"last\""]),
    ("block_type", &["\"default\""]),
];

fn check_plain(section: &Section, extras: &Extras) -> Result<(), Error> {
    for (key, known) in extras.iter().chain(&BLOCKS) {
        let Some(value) = section.map.get(*key).filter(|value| !value.is_null()) else { continue };
        if !known.contains(&value.to_string().as_str()) {
            let what = format!("is {value}, which clipmill does not compute");
            return Err(section.problem(key, &what));
        }
    }
    Ok(())
}

fn read_vision(section: &Section, quick: bool) -> Result<VisionConfig, Error> {
    check_plain(section, &VISION_EXTRAS)?;
    if section.map.get("layers").is_some_and(Value::is_array) {
        let what = "is a list: clipmill encodes images with vision transformers, not ResNets";
        return Err(section.problem("layers", what));
    }
    let width = section.size("width", 768)?;
    let head = section.size("head_width", 64)?;
    let [image_size, patch_size] = section.sides(224, 16)?;
    Ok(VisionConfig {
        tower: tower(section, (width, width / head), ("head_width", quick))?,
        image_size,
        patch_size,
        patches: PatchEmbedding::Product,
        pre_norm: !section.flag("no_ln_pre", false)?,
        class_token: true,
        class_position: true,
        rotary: None,
        pooling: ImagePooling::ClassToken,
        projection: Projection::Product,
    })
}

fn read_text(section: &Section, quick: bool) -> Result<TextConfig, Error> {
    check_plain(section, &TEXT_EXTRAS)?;
    let heads = section.size("heads", 8)?;
    let pooling = match section.map.get("pool_type").and_then(Value::as_str) {
        Some("eos") => Pooling::FirstOf(section.size("eos_id", 2)?),
        Some("last") => Pooling::Last,
        _ => Pooling::HighestId,
    };
    let projection = match section.flag("proj_bias", false)? {
        false => Projection::Product,
        true => Projection::ProductAndBias,
    };
    let sight = match section.flag("no_causal_mask", false)? {
        false => Sight::Causal,
        true => Sight::Full,
    };
    Ok(TextConfig {
        tower: tower(section, (section.size("width", 512)?, heads), ("heads", quick))?,
        vocab_size: section.size("vocab_size", 49408)?,
        context_length: section.size("context_length", 77)?,
        embedding: TokenEmbedding::Positions,
        pooling,
        sight,
        projection,
    })
}

fn tower(
    section: &Section,
    (width, heads): (i64, i64),
    (key, quick): (&str, bool),
) -> Result<TowerConfig, Error> {
    if heads == 0 || width % heads != 0 {
        return Err(section.problem(key, &format!("makes {heads} heads of a width of {width}")));
    }
    let ratio = match section.map.get("mlp_ratio") {
        None => 4.0,
        Some(value) => {
            value.as_f64().filter(|ratio| (0.01..100.0).contains(ratio)).ok_or_else(|| {
                section.problem("mlp_ratio", &format!("is {value}, which is no usable ratio"))
            })?
        }
    };
    let norm = section.section("norm_kwargs")?;
    let act = section.section("act_kwargs")?;
    let activation = match (quick, act.map.get("approximate").and_then(Value::as_str)) {
        (true, None) => Activation::QuickGelu,
        (false, None | Some("none")) => Activation::Gelu,
        (false, Some("tanh")) => Activation::GeluTanh,
        _ => return Err(act.problem("approximate", "is not known beside quick_gelu")),
    };
    Ok(TowerConfig {
        width,
        // Python drops the fraction too.
        mlp_width: ((width as f64 * ratio) as i64).max(1),
        layers: section.layers("layers", 12)?,
        heads,
        activation,
        layer_norm_eps: norm.epsilon("eps", 1e-5)?,
        block: BlockKind::PreNorm,
    })
}

/// Where a tensor of the towers is in the weights.
pub fn source(layout: Layout, tensor: &str) -> Source {
    if let Some(source) = layout.timm.and_then(|layout| timm::source(layout, tensor)) {
        return source;
    }
    if layout.hugging_face
        && let Some(source) = hugging_face::source(tensor)
    {
        return source;
    }
    let text = if layout.custom_text { "text." } else { "" };
    let transposed = |name: String| Source { name, part: Part::Transposed };
    if let Some(part) = tensor.strip_prefix("text_projection.") {
        return match layout.linear {
            true => Source::whole(format!("{text}text_projection.{part}")),
            false => transposed(format!("{text}text_projection")),
        };
    }
    if let Some(name) = tensor.strip_prefix("vision_model.encoder.layers.") {
        return block("visual.transformer.resblocks.", name);
    }
    if let Some(name) = tensor.strip_prefix("text_model.encoder.layers.") {
        return block(&format!("{text}transformer.resblocks."), name);
    }
    let renamed = |prefix: &str, (from, to): (&str, &str)| {
        let rest = tensor.strip_prefix(prefix)?.strip_prefix(from)?;
        (rest.is_empty() || rest.starts_with('.')).then(|| format!("{to}{rest}"))
    };
    const VISION: [(&str, &str); 5] = [
        ("embeddings.class_embedding", "visual.class_embedding"),
        ("embeddings.patch_embedding", "visual.conv1"),
        ("embeddings.position_embedding.weight", "visual.positional_embedding"),
        ("pre_layrnorm", "visual.ln_pre"),
        ("post_layernorm", "visual.ln_post"),
    ];
    const TEXT: [(&str, &str); 3] = [
        ("embeddings.token_embedding", "token_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("final_layer_norm", "ln_final"),
    ];
    if let Some(name) = VISION.into_iter().find_map(|pair| renamed("vision_model.", pair)) {
        return Source::whole(name);
    }
    if let Some(name) = TEXT.into_iter().find_map(|pair| renamed("text_model.", pair)) {
        return Source::whole(format!("{text}{name}"));
    }
    match tensor {
        "visual_projection.weight" => transposed("visual.proj".into()),
        "logit_scale" | "logit_bias" if layout.nonscalar => {
            Source { name: tensor.into(), part: Part::Leading(1) }
        }
        _ => Source::whole(tensor),
    }
}

/// A block's tensor, `name` after the layers' prefix: `3.mlp.fc1.weight`.
fn block(prefix: &str, name: &str) -> Source {
    let (layer, part) = name.split_once('.').unwrap_or((name, ""));
    for (index, of) in ["q", "k", "v"].into_iter().enumerate() {
        if let Some(what) = part.strip_prefix(&format!("self_attn.{of}_proj.")) {
            let name = format!("{prefix}{layer}.attn.in_proj_{what}");
            return Source { name, part: Part::Rows { index: index as i64, of: 3 } };
        }
    }
    const PARTS: [(&str, &str); 5] = [
        ("self_attn.out_proj.", "attn.out_proj."),
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ];
    let renamed = PARTS.into_iter().find_map(|(from, to)| Some((to, part.strip_prefix(from)?)));
    match renamed {
        Some((to, what)) => Source::whole(format!("{prefix}{layer}.{to}{what}")),
        None => Source::whole(format!("{prefix}{name}")),
    }
}
