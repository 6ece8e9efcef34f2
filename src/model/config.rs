//! The architecture that config.json of a Hugging Face `CLIPModel` folder describes.
//!
//! Missing keys take the defaults of transformers' `CLIPTextConfig` and `CLIPVisionConfig`
//! (configuration_clip.py of transformers 5.23), so that the old and sparse files of the first
//! releases read as they do there. Weights are not looked at here.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::regular;

/// Both towers and the space that they share.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipConfig {
    pub vision: VisionConfig,
    pub text: TextConfig,
    /// Length of an embedding.
    pub projection_dim: i64,
}

/// The image tower.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionConfig {
    pub tower: TowerConfig,
    /// Side of the square input, in pixels.
    pub image_size: i64,
    /// Side of a patch, in pixels.
    pub patch_size: i64,
}

impl VisionConfig {
    /// Whole patches along a side; pixels beyond the last whole patch are not seen.
    pub fn grid(&self) -> i64 {
        self.image_size / self.patch_size
    }

    /// Tokens of an image: the class token and one for each patch.
    pub fn tokens(&self) -> i64 {
        self.grid() * self.grid() + 1
    }
}

/// The text tower.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    pub tower: TowerConfig,
    pub vocab_size: i64,
    /// The most tokens in a caption, start-of-text and end-of-text included.
    pub context_length: i64,
    pub pooling: Pooling,
}

/// What the two towers have in common.
#[derive(Debug, Clone, PartialEq)]
pub struct TowerConfig {
    /// Length of a token's vector: `hidden_size`.
    pub width: i64,
    /// `intermediate_size`.
    pub mlp_width: i64,
    pub layers: i64,
    pub heads: i64,
    pub activation: Activation,
    pub layer_norm_eps: f64,
}

/// The function between the two products of a block. A property of the weights: the wrong one
/// lowers the scores and raises no error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights and some others.
    QuickGelu,
    /// `x * (1 + erf(x / sqrt 2)) / 2`: most OpenCLIP weights.
    Gelu,
}

/// The position at which the text tower's output is read (`CLIPTextModel.forward`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The first position of the highest id: configurations written before transformers 4.31,
    /// which say `eos_token_id: 2`.
    HighestId,
    /// The first position of this id.
    FirstOf(i64),
}

impl ClipConfig {
    /// Reads `config.json` of a model folder.
    ///
    /// # Errors
    /// `NotFound` without the file; `ModelFile` naming the key that cannot be used.
    pub fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("config.json");
        let json = match regular::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint = ": a model folder holds config.json, model.safetensors, \
                            preprocessor_config.json and tokenizer.json";
                return Err(Error::NotFound {
                    what: "model configuration",
                    path,
                    hint: hint.into(),
                });
            }
            other => other.map_err(Error::io("read", &path))?,
        };
        let problem = |problem: String| Error::ModelFile { path: path.clone(), problem };
        match serde_json::from_slice(&json) {
            Ok(Value::Object(map)) => Self::from_json(&path, map),
            Ok(_) => Err(problem("is not a JSON object".into())),
            Err(error) => Err(problem(format!("is not JSON: {error}"))),
        }
    }

    fn from_json(path: &Path, map: Map<String, Value>) -> Result<Self, Error> {
        let root = Section { path: path.into(), name: None, map };
        let family = root.map.get("model_type").and_then(Value::as_str).unwrap_or("missing");
        if family != "clip" {
            let what = format!(
                "is \"{family}\": [model.clip] reads folders of transformers' CLIPModel, whose \
                 model_type is \"clip\""
            );
            return Err(root.problem("model_type", &what));
        }
        Ok(Self {
            vision: VisionConfig::from_section(&root.tower("vision_config")?)?,
            text: TextConfig::from_section(&root.tower("text_config")?)?,
            projection_dim: root.size("projection_dim", 512)?,
        })
    }
}

impl VisionConfig {
    fn from_section(section: &Section) -> Result<Self, Error> {
        let tower = TowerConfig::from_section(section, [768, 3072, 12, 12])?;
        let image_size = section.side("image_size", 224)?;
        let patch_size = section.side("patch_size", 32)?;
        if section.size("num_channels", 3)? != 3 {
            return Err(section.problem("num_channels", "is not 3: clipmill encodes RGB images"));
        }
        if patch_size > image_size {
            return Err(section.problem("patch_size", "is larger than image_size"));
        }
        Ok(Self { tower, image_size, patch_size })
    }
}

impl TextConfig {
    fn from_section(section: &Section) -> Result<Self, Error> {
        let pooling = match section.map.get("eos_token_id") {
            None => Pooling::FirstOf(49407),
            Some(value) => match value.as_i64() {
                Some(2) => Pooling::HighestId,
                Some(id) if id >= 0 => Pooling::FirstOf(id),
                _ => return Err(section.problem("eos_token_id", "is not one token id")),
            },
        };
        Ok(Self {
            tower: TowerConfig::from_section(section, [512, 2048, 12, 8])?,
            vocab_size: section.size("vocab_size", 49408)?,
            context_length: section.size("max_position_embeddings", 77)?,
            pooling,
        })
    }
}

impl TowerConfig {
    /// `defaults`: width, MLP width, layers and heads.
    fn from_section(section: &Section, defaults: [i64; 4]) -> Result<Self, Error> {
        let width = section.size("hidden_size", defaults[0])?;
        let heads = section.size("num_attention_heads", defaults[3])?;
        if width % heads != 0 {
            let what = format!("is {heads}, which does not divide hidden_size {width}");
            return Err(section.problem("num_attention_heads", &what));
        }
        Ok(Self {
            width,
            heads,
            mlp_width: section.size("intermediate_size", defaults[1])?,
            layers: section.layers(defaults[2])?,
            activation: section.activation()?,
            layer_norm_eps: section.epsilon()?,
        })
    }
}

/// One JSON object of config.json, with the words to complain about it.
struct Section {
    path: PathBuf,
    name: Option<&'static str>,
    map: Map<String, Value>,
}

impl Section {
    /// A tower's object. `{name}_dict`, where an old file has it, counts alone: transformers
    /// completes it with defaults and lets the result override `name`.
    fn tower(&self, name: &'static str) -> Result<Section, Error> {
        let of = |key: &str| self.map.get(key).filter(|value| !value.is_null());
        let map = match of(&format!("{name}_dict")).or_else(|| of(name)) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.problem(name, "is not an object")),
        };
        Ok(Section { path: self.path.clone(), name: Some(name), map })
    }

    /// A number of things: at least 1, and small enough for products of two to fit.
    fn size(&self, key: &str, default: i64) -> Result<i64, Error> {
        match self.map.get(key) {
            None => Ok(default),
            Some(value) => self.checked_size(key, value),
        }
    }

    fn checked_size(&self, key: &str, value: &Value) -> Result<i64, Error> {
        let sane = value.as_i64().filter(|size| (1..=1 << 24).contains(size));
        sane.ok_or_else(|| self.problem(key, &format!("is {value}, which is no usable size")))
    }

    /// A number of layers, each of which is looked for by name: millions would fill the memory.
    fn layers(&self, default: i64) -> Result<i64, Error> {
        match self.size("num_hidden_layers", default)? {
            layers @ ..=1024 => Ok(layers),
            more => Err(self.problem("num_hidden_layers", &format!("is {more}, over 1024"))),
        }
    }

    /// A side of a square: `224` or `[224, 224]`.
    fn side(&self, key: &str, default: i64) -> Result<i64, Error> {
        match self.map.get(key).and_then(Value::as_array).map(Vec::as_slice) {
            None => self.size(key, default),
            Some([height, width]) if height == width => self.checked_size(key, height),
            Some(_) => Err(self.problem(key, "is not square: clipmill encodes square images")),
        }
    }

    fn activation(&self) -> Result<Activation, Error> {
        let Some(value) = self.map.get("hidden_act") else { return Ok(Activation::QuickGelu) };
        match value.as_str() {
            Some("quick_gelu") => Ok(Activation::QuickGelu),
            Some("gelu") => Ok(Activation::Gelu),
            _ => {
                let what = format!("is {value}: clipmill computes \"quick_gelu\" and \"gelu\"");
                Err(self.problem("hidden_act", &what))
            }
        }
    }

    fn epsilon(&self) -> Result<f64, Error> {
        let Some(value) = self.map.get("layer_norm_eps") else { return Ok(1e-5) };
        let sane = value.as_f64().filter(|epsilon| (0.0..1.0).contains(epsilon));
        sane.ok_or_else(|| self.problem("layer_norm_eps", &format!("is {value}, not in 0..1")))
    }

    fn problem(&self, key: &str, what: &str) -> Error {
        let dot = self.name.map_or(String::new(), |name| format!("{name}."));
        Error::ModelFile { path: self.path.clone(), problem: format!("{dot}{key} {what}") }
    }
}
