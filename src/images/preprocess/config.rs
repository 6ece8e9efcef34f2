//! `preprocessor_config.json`, key by key, with the defaults of a family's image processor.
//!
//! Problems name the key. What the settings do to an image is in `preprocess`.

use serde_json::{Map, Value};

use super::Target;
use crate::images::resize::Size;

/// OpenAI's mean and standard deviation, which are transformers' defaults for CLIP.
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
pub const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// What an image processor of transformers does where its file does not say.
pub struct Defaults {
    /// The names of the class and of older ones like it; others follow with a suffix.
    kinds: &'static [&'static str],
    size: Target,
    /// Of the crop, where there is one.
    pub crop: Option<Size>,
    /// Pillow's number of the filter.
    pub resample: u64,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

const SIDE: usize = 224;
const SQUARE: Size = Size { width: SIDE, height: SIDE };

/// `CLIPImageProcessor` (image_processing_clip.py of transformers 5.23).
pub const CLIP: Defaults = Defaults {
    kinds: &["CLIPImageProcessor", "CLIPFeatureExtractor"],
    size: Target::ShortestSide(SIDE),
    crop: Some(SQUARE),
    resample: 3,
    mean: MEAN,
    std: STD,
};

/// `ChineseCLIPImageProcessor` (image_processing_chinese_clip.py).
pub const CHINESE_CLIP: Defaults =
    Defaults { kinds: &["ChineseCLIPImageProcessor", "ChineseCLIPFeatureExtractor"], ..CLIP };

/// `SiglipImageProcessor` (image_processing_siglip.py).
pub const SIGLIP: Defaults = Defaults {
    kinds: &["SiglipImageProcessor"],
    size: Target::Squash(SQUARE),
    crop: None,
    resample: 3,
    mean: [0.5; 3],
    std: [0.5; 3],
};

/// `Siglip2ImageProcessor` (image_processing_siglip2.py).
pub const SIGLIP2: Defaults = Defaults {
    kinds: &["Siglip2ImageProcessor"],
    size: Target::Patches { side: 16, most: 256 },
    resample: 2,
    ..SIGLIP
};

/// A length or a number of things: larger than any model's, and small enough that a batch of it
/// can be counted in bytes.
const MOST: u64 = 16_384;

/// The JSON file, read key by key. Problems name the key.
pub struct Config<'a> {
    pub map: Map<String, Value>,
    pub defaults: &'a Defaults,
}

impl Config<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the file names one of the processors that these defaults are of.
    pub fn is_kind(map: &Map<String, Value>, defaults: &Defaults) -> bool {
        let kind = map.get("image_processor_type").and_then(Value::as_str).unwrap_or_default();
        defaults.kinds.iter().any(|known| kind.starts_with(known))
    }

    /// Refuses another family's processor, whose defaults differ, and steps not done here.
    pub fn check_kind(&self) -> Result<(), String> {
        let kinds = ["image_processor_type", "feature_extractor_type"];
        if let Some((key, kind)) = kinds.iter().find_map(|key| Some((key, self.get(key)?))) {
            let kind = kind.as_str().unwrap_or_default();
            let known = self.defaults.kinds;
            if !known.iter().any(|known| kind.starts_with(known)) {
                let wanted = known[0];
                return Err(format!("\"{key}\" is \"{kind}\": clipmill reads {wanted}"));
            }
        }
        if !self.flag("do_convert_rgb", true)? {
            return Err("\"do_convert_rgb\" is false: the model would get gray images".to_owned());
        }
        if matches!(self.defaults.size, Target::Patches { .. }) && !self.flag("do_resize", true)? {
            return Err("\"do_resize\" is false: images would not be whole patches".to_owned());
        }
        if self.flag("do_pad", false)? {
            return Err("\"do_pad\" is true, which clipmill does not do".to_owned());
        }
        Ok(())
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use true or false");
        self.get(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| wrong(value)))
    }

    pub fn count(&self, key: &str, default: u64) -> Result<u64, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use a whole number");
        self.get(key).map_or(Ok(default), |value| value.as_u64().ok_or_else(|| wrong(value)))
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use a number");
        self.get(key).map_or(Ok(default), |value| value.as_f64().ok_or_else(|| wrong(value)))
    }

    pub fn triple(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        match numbers.as_deref() {
            Some(&[r, g, b]) => Ok([r as f32, g as f32, b as f32]),
            _ => Err(format!("\"{key}\" is {value}: use three numbers")),
        }
    }

    /// `size`: a number is the shortest side. Of images that keep their shape, `patch_size` and
    /// `max_num_patches`.
    pub fn target(&self) -> Result<Target, String> {
        if let Target::Patches { side, most } = self.defaults.size {
            let side = self.small("patch_size", side)?;
            let most = self.small("max_num_patches", most)?;
            // As many pixels as the largest `size` has.
            if (most * side * side) as u64 > MOST * MOST {
                return Err(format!("\"max_num_patches\" is {most}: too many of {side}x{side}"));
            }
            return Ok(Target::Patches { side, most });
        }
        match self.sides("size")? {
            Sides::Default => Ok(self.defaults.size),
            Sides::One(side) => Ok(Target::ShortestSide(side)),
            Sides::Two(size) => Ok(Target::Squash(size)),
        }
    }

    fn small(&self, key: &str, default: usize) -> Result<usize, String> {
        match self.count(key, default as u64)? {
            count @ 1..=MOST => Ok(count as usize),
            other => Err(format!("\"{key}\" is {other}: use 1 to {MOST}")),
        }
    }

    /// `crop_size`: a number is a square.
    pub fn crop(&self) -> Result<Size, String> {
        match self.sides("crop_size")? {
            Sides::Default => Ok(self.defaults.crop.unwrap_or(SQUARE)),
            Sides::One(side) => Ok(Size { width: side, height: side }),
            Sides::Two(size) => Ok(size),
        }
    }

    fn sides(&self, key: &str) -> Result<Sides, String> {
        let Some(value) = self.get(key) else { return Ok(Sides::Default) };
        let wrong = || {
            let known = r#"a number, {"shortest_edge"} or {"height", "width"}"#;
            format!("\"{key}\" is {value}: use {known}")
        };
        let side = |value: &Value| match value.as_u64() {
            Some(side @ 1..=MOST) => Ok(side as usize),
            _ => Err(wrong()),
        };
        let Some(sides) = value.as_object() else { return Ok(Sides::One(side(value)?)) };
        match (sides.len(), sides.get("shortest_edge"), sides.get("height"), sides.get("width")) {
            (1, Some(edge), ..) if key == "size" => Ok(Sides::One(side(edge)?)),
            (2, None, Some(h), Some(w)) => {
                Ok(Sides::Two(Size { height: side(h)?, width: side(w)? }))
            }
            _ => Err(wrong()),
        }
    }
}

/// What `size` or `crop_size` says.
enum Sides {
    Default,
    One(usize),
    Two(Size),
}
