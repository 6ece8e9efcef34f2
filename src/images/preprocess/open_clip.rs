//! OpenCLIP's `preprocess_cfg`: what `image_transform` of open_clip 3.3 does for inference.
//!
//! torchvision over Pillow: the offset of a crop is rounded to the nearest even number where
//! transformers floors it. Two things are done as for the other families: images that are not RGB
//! become so before they are resized, and what is transparent becomes white.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::config::{Config, MEAN, STD};
use super::{Crop, Preprocess, Target};
use crate::batch::ImageShape;
use crate::error::Error;
use crate::images::budget::Budget;
use crate::images::resize::{Filter, Size};
use crate::regular;
use crate::spec::PreprocessSpec;

const FILE: &str = "open_clip_config.json";

/// Reads open_clip_config.json.
///
/// # Errors
/// `NotFound` without the file; `ModelFile`, naming the key, for what clipmill does not do.
pub fn read(dir: &Path, spec: &PreprocessSpec) -> Result<Preprocess, Error> {
    let path = dir.join(FILE);
    if !path.exists() {
        let hint = ": it says how the model wants its pixels".to_owned();
        return Err(Error::NotFound { what: "the model file", path, hint });
    }
    let text = regular::read_to_string(&path).map_err(Error::io("read", &path))?;
    let wrong = |problem| Error::ModelFile { path: path.clone(), problem };
    let root: Value =
        serde_json::from_str(&text).map_err(|error| wrong(format!("is not JSON: {error}")))?;
    from_config(&root, (&path, spec)).map_err(wrong)
}

fn from_config(root: &Value, (path, spec): (&Path, &PreprocessSpec)) -> Result<Preprocess, String> {
    let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let config = Config { map: map(&root["preprocess_cfg"]), defaults: &super::config::CLIP };
    let side = match &root["model_cfg"]["vision_cfg"]["image_size"] {
        Value::Null => 224,
        Value::Array(sides) if sides.len() == 2 && sides[0] == sides[1] => whole(&sides[0])?,
        value => whole(value)?,
    };
    let word = |key: &str, default: &'static str| match config.map.get(key) {
        None | Some(Value::Null) => default.to_owned(),
        Some(value) => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    };
    let resize = match word("resize_mode", "shortest").as_str() {
        "shortest" => Target::ShortestSide(side),
        "longest" => Target::LongestSide(side),
        "squash" => Target::Squash(Size { width: side, height: side }),
        other => {
            let known = "use shortest, longest or squash";
            return Err(format!("preprocess_cfg.resize_mode is \"{other}\": {known}"));
        }
    };
    let filter = match word("interpolation", "bicubic").as_str() {
        // open_clip resizes so where it is random.
        "bicubic" | "random" => Filter::Bicubic,
        "bilinear" => Filter::Bilinear,
        other => return Err(format!("preprocess_cfg.interpolation is \"{other}\": not known")),
    };
    if word("mode", "RGB") != "RGB" || config.count("fill_color", 0)? != 0 {
        return Err("preprocess_cfg.mode or fill_color is not \"RGB\" and 0".to_owned());
    }
    Ok(Preprocess {
        resize,
        filter,
        output: ImageShape::square(side),
        crop: Crop::Rounded,
        rescale: Some(1.0 / 255.0),
        normalise: Some((config.triple("mean", MEAN)?, config.triple("std", STD)?)),
        spec: spec.clone(),
        budget: Arc::new(Budget::new(u64::MAX)),
        phash: false,
        path: path.to_owned(),
    })
}

fn whole(value: &Value) -> Result<usize, String> {
    let sane = value.as_u64().filter(|side| (1..=16_384).contains(side));
    let wrong = || format!("vision_cfg.image_size is {value}: clipmill encodes square images");
    sane.map(|side| side as usize).ok_or_else(wrong)
}
