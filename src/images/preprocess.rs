//! The model folder's `preprocessor_config.json`, and what it does to one image up to u8 pixels.
//!
//! `CLIPImageProcessor`: RGB on white, resize (shortest side, or squash), centre crop. Scaling
//! to floats and normalising are read and described here and done on the device.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::decode;
use super::resize::{Filter, Resize, Rgb, Size};
use crate::batch::{ImageInfo, PixelScale};
use crate::error::{Error, RowError};
use crate::spec::PreprocessSpec;

/// OpenAI's, which are transformers' defaults for CLIP.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Turns encoded images into the pixels that one model expects.
#[derive(Debug, Clone)]
pub struct Preprocess {
    resize: Target,
    filter: Filter,
    /// What the model takes.
    output: Size,
    rescale: Option<f64>,
    normalise: Option<([f32; 3], [f32; 3])>,
    spec: PreprocessSpec,
}

/// The size before the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// As the image is.
    Keep,
    /// The shorter side becomes this, the longer one follows.
    ShortestSide(usize),
    /// Both sides, whatever the shape.
    Squash(Size),
}

impl Preprocess {
    /// Reads `dir/preprocessor_config.json`. Keys that are missing or null have the defaults of
    /// transformers 5.23's `CLIPImageProcessor`.
    ///
    /// # Errors
    /// [`Error::NotFound`] without the file; [`Error::ModelFile`], naming the key, if it asks for
    /// what clipmill does not do, or if images would come out in different sizes.
    pub fn read(dir: &Path, spec: &PreprocessSpec) -> Result<Self, Error> {
        let path = dir.join("preprocessor_config.json");
        if !path.is_file() {
            let hint = ": it says how the model wants its pixels".to_owned();
            return Err(Error::NotFound { what: "the model file", path, hint });
        }
        let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
        let wrong = |problem| Error::ModelFile { path: path.clone(), problem };
        let config = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Self::from_config(&Config(config), spec).map_err(wrong)
    }

    fn from_config(config: &Config, spec: &PreprocessSpec) -> Result<Self, String> {
        config.check_kind()?;
        let resize = match config.flag("do_resize", true)? {
            true => config.target()?,
            false => Target::Keep,
        };
        let output = match (config.flag("do_center_crop", true)?, resize) {
            (true, _) => config.crop()?,
            (false, Target::Squash(size)) => size,
            (false, _) => {
                return Err(
                    "without do_center_crop and a size of {\"height\", \"width\"}, images \
                            come out in different sizes"
                        .to_owned(),
                );
            }
        };
        let number = config.count("resample", 3)?;
        let filter = Filter::from_number(number)
            .ok_or_else(|| format!("\"resample\" is {number}: 0 to 5 are Pillow's filters"))?;
        let rescale = match config.flag("do_rescale", true)? {
            true => Some(config.number("rescale_factor", 1.0 / 255.0)?),
            false => None,
        };
        let normalise = match config.flag("do_normalize", true)? {
            true => Some((config.triple("image_mean", MEAN)?, config.triple("image_std", STD)?)),
            false => None,
        };
        Ok(Self { resize, filter, output, rescale, normalise, spec: spec.clone() })
    }

    /// The height of the pixels.
    pub fn height(&self) -> usize {
        self.output.height
    }

    /// The width of the pixels.
    pub fn width(&self) -> usize {
        self.output.width
    }

    /// The bytes of one image's pixels: `height * width * 3`.
    pub fn n_bytes(&self) -> usize {
        self.output.height * self.output.width * 3
    }

    /// What is left to do to the pixels, on the device.
    pub fn scale(&self) -> PixelScale {
        let (mean, std) = self.normalise.unwrap_or((PixelScale::NONE.mean, PixelScale::NONE.std));
        PixelScale { rescale: self.rescale.unwrap_or(1.0) as f32, mean, std }
    }

    /// All that decides the pixels and their scaling, as one line of JSON with keys in a fixed
    /// order: equal descriptions give equal model inputs.
    pub fn describe(&self) -> String {
        let resize = match self.resize {
            Target::Keep => Value::Null,
            Target::ShortestSide(side) => json!({ "shortest_edge": side }),
            Target::Squash(size) => json!({ "height": size.height, "width": size.width }),
        };
        json!({
            "size": resize,
            "resample": self.filter as u8,
            "crop_size": { "height": self.output.height, "width": self.output.width },
            "rescale_factor": self.rescale,
            "image_mean": self.normalise.map(|(mean, _)| mean.map(f64::from)),
            "image_std": self.normalise.map(|(_, std)| std.map(f64::from)),
            "transparency": "white",
            "exif": self.spec.exif,
        })
        .to_string()
    }

    /// Decodes, resizes and crops one image into `out`: u8 RGB, `[height, width, 3]`, row-major.
    ///
    /// Gives what the image's header says, where it could be read, and whether `out` was filled;
    /// if not, what is in `out` is of no use.
    ///
    /// # Errors
    /// Inside the pair: `image_too_large`, `image_truncated`, `image_undecodable` or
    /// `decoder_panic`.
    ///
    /// # Panics
    /// If `out` is not `n_bytes()` long.
    pub fn apply(&self, bytes: &[u8], out: &mut [u8]) -> (Option<ImageInfo>, Result<(), RowError>) {
        assert_eq!(out.len(), self.n_bytes(), "`out` has the size of one image");
        let (info, decoded) = decode::decode(bytes, &self.spec);
        (info, decoded.map(|image| self.fit(&image, out)))
    }

    /// Resizes and crops decoded pixels into `out`.
    fn fit(&self, image: &Rgb, out: &mut [u8]) {
        let to = self.resize.size(image);
        let (columns, left) = crop(to.width, self.output.width);
        let (rows, top) = crop(to.height, self.output.height);
        let stride = self.output.width * 3;
        if columns.len() < self.output.width || rows.len() < self.output.height {
            out.fill(0);
        }
        let resize = Resize { to, filter: self.filter, columns, rows, vector: true };
        resize.apply(image, &mut out[top * stride + left * 3..], stride);
    }
}

impl Target {
    fn size(self, image: &Rgb) -> Size {
        let (width, height) = (image.width, image.height);
        match self {
            Target::Keep => Size { width, height },
            Target::Squash(size) => size,
            Target::ShortestSide(side) => {
                let (short, long) = (width.min(height), width.max(height));
                // Python divides and then drops the fraction; the product is exact in f64.
                let long = ((side * long) as f64 / short as f64) as usize;
                match width <= height {
                    true => Size { width: side, height: long },
                    false => Size { width: long, height: side },
                }
            }
        }
    }
}

/// Along one axis, the part of `size` that a centre crop keeps and where it lands in the crop.
///
/// transformers floors the offset of the crop; where the image is smaller, it pads with zeros
/// and rounds the padding before the image up.
fn crop(size: usize, wanted: usize) -> (std::ops::Range<usize>, usize) {
    match size.checked_sub(wanted) {
        Some(surplus) => (surplus / 2..surplus / 2 + wanted, 0),
        None => (0..size, (wanted - size).div_ceil(2)),
    }
}

/// The JSON file, read key by key. Problems name the key.
struct Config(Map<String, Value>);

impl Config {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// Refuses another family's processor, whose defaults differ, and steps not done here.
    fn check_kind(&self) -> Result<(), String> {
        let kinds = ["image_processor_type", "feature_extractor_type"];
        if let Some((key, kind)) = kinds.iter().find_map(|key| Some((key, self.get(key)?))) {
            let kind = kind.as_str().unwrap_or_default();
            if !kind.starts_with("CLIPImageProcessor") && kind != "CLIPFeatureExtractor" {
                return Err(format!("\"{key}\" is \"{kind}\": clipmill reads CLIPImageProcessor"));
            }
        }
        if !self.flag("do_convert_rgb", true)? {
            return Err("\"do_convert_rgb\" is false: the model would get gray images".to_owned());
        }
        if self.flag("do_pad", false)? {
            return Err("\"do_pad\" is true, which clipmill does not do".to_owned());
        }
        Ok(())
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use true or false");
        self.get(key).map_or(Ok(default), |value| value.as_bool().ok_or_else(|| wrong(value)))
    }

    fn count(&self, key: &str, default: u64) -> Result<u64, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use a whole number");
        self.get(key).map_or(Ok(default), |value| value.as_u64().ok_or_else(|| wrong(value)))
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        let wrong = |value| format!("\"{key}\" is {value}: use a number");
        self.get(key).map_or(Ok(default), |value| value.as_f64().ok_or_else(|| wrong(value)))
    }

    fn triple(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3], String> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f64>> =
            value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
        match numbers.as_deref() {
            Some(&[r, g, b]) => Ok([r as f32, g as f32, b as f32]),
            _ => Err(format!("\"{key}\" is {value}: use three numbers")),
        }
    }

    /// `size`: a number is the shortest side.
    fn target(&self) -> Result<Target, String> {
        match self.sides("size")? {
            Sides::Default => Ok(Target::ShortestSide(224)),
            Sides::One(side) => Ok(Target::ShortestSide(side)),
            Sides::Two(size) => Ok(Target::Squash(size)),
        }
    }

    /// `crop_size`: a number is a square.
    fn crop(&self) -> Result<Size, String> {
        match self.sides("crop_size")? {
            Sides::Default => Ok(Size { width: 224, height: 224 }),
            Sides::One(side) => Ok(Size { width: side, height: side }),
            Sides::Two(size) => Ok(size),
        }
    }

    fn sides(&self, key: &str) -> Result<Sides, String> {
        let Some(value) = self.get(key) else { return Ok(Sides::Default) };
        let wrong = || {
            format!(
                "\"{key}\" is {value}: use a number, {{\"shortest_edge\"}} or {{\"height\", \"width\"}}"
            )
        };
        let side = |value: &Value| match value.as_u64() {
            // Larger than any model, and small enough that a batch of it can be counted in bytes.
            Some(side @ 1..=16_384) => Ok(side as usize),
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
