//! timm's image towers inside OpenCLIP's folders: vision transformers and FastViTs.
//!
//! A folder gives such a tower's name and nothing else: what a name stands for is code of timm. Of
//! each name that is known here stands what the weights do not tell (see `vit` and `fastvit`);
//! other names are refused. Facts: `TimmModel` of open_clip's timm_model.py.

mod fastvit;
mod vit;

use serde_json::Value;

use super::Source;
use super::section::Section;
use crate::error::Error;
use crate::model::architecture::{Projection, Vision};
use crate::model::weights::Weights;

/// How the weights call the tower's tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Whether the projection is a layer beside the tower, and not its own head.
    beside: bool,
    tower: Tower,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tower {
    Transformer(vit::Layout),
    FastVit,
}

/// Whether a folder's `vision_cfg` names such a tower.
pub fn is_named(section: &Section) -> bool {
    section.map.get("timm_model_name").is_some_and(|name| !name.is_null())
}

/// Reads `vision_cfg`, and the tower's sizes from the weights.
///
/// # Errors
/// `ModelFile` naming the key that cannot be used; `Tensor` for weights that are no such tower's.
pub fn read(section: &Section, weights: &Weights) -> Result<(Vision, Layout), Error> {
    let name = section.map.get("timm_model_name").unwrap_or(&Value::Null);
    let (projection, beside) = projection(section)?;
    if let Some(known) = vit::named(name) {
        check_pool(section, known.pool())?;
        let (config, layout) = vit::read(section, weights, (known, projection))?;
        let tower = Tower::Transformer(layout);
        return Ok((Vision::Transformer(config), Layout { beside, tower }));
    }
    if name.as_str().is_some_and(|name| fastvit::TOWERS.contains(&name)) {
        check_pool(section, "avg")?;
        let config = fastvit::read(section, weights, projection)?;
        return Ok((Vision::FastVit(config), Layout { beside, tower: Tower::FastVit }));
    }
    let names: Vec<_> = vit::names().chain(fastvit::TOWERS).collect();
    let what = format!("is {name}: of timm's towers clipmill computes {}", names.join(", "));
    Err(section.problem("timm_model_name", &what))
}

/// Refuses another `timm_pool` than the tower's own.
fn check_pool(section: &Section, own: &str) -> Result<(), Error> {
    match section.map.get("timm_pool").and_then(Value::as_str).unwrap_or("avg") {
        found if found == own => Ok(()),
        found => {
            let what = format!("is \"{found}\": clipmill computes this tower with \"{own}\"");
            Err(section.problem("timm_pool", &what))
        }
    }
}

/// What `timm_proj` says, and whether the layer is beside the tower.
fn projection(section: &Section) -> Result<(Projection, bool), Error> {
    let value = section.map.get("timm_proj");
    // The class's default; null is a tower with its own head.
    match value.map_or(Some("linear"), |value| value.as_str().filter(|word| !word.is_empty())) {
        Some("none") => Ok((Projection::None, false)),
        Some("linear") => match section.flag("timm_proj_bias", false)? {
            true => Ok((Projection::ProductAndBias, true)),
            false => Ok((Projection::Product, true)),
        },
        None => Ok((Projection::ProductAndBias, false)),
        Some(other) => {
            let what = format!("is \"{other}\": clipmill computes \"linear\", \"none\" and null");
            Err(section.problem("timm_proj", &what))
        }
    }
}

/// Where a tensor of the image tower is in the weights; `None` for the others.
pub fn source(layout: Layout, tensor: &str) -> Option<Source> {
    if let Some(part) = tensor.strip_prefix("visual_projection.") {
        let of_head = match layout.tower {
            Tower::Transformer(_) => "head",
            Tower::FastVit => "head.fc",
        };
        return Some(Source::whole(match layout.beside {
            true => format!("visual.head.proj.{part}"),
            false => in_trunk(&format!("{of_head}.{part}")),
        }));
    }
    match layout.tower {
        Tower::Transformer(layout) => vit::source(layout, tensor),
        Tower::FastVit => fastvit::source(tensor),
    }
}

fn in_trunk(name: &str) -> String {
    format!("visual.trunk.{name}")
}
