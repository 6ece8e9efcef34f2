//! One JSON object of a model's configuration, read key by key, with the words to complain of it.
//!
//! Numbers are checked for being sane, so that a stranger's file fills no memory. What the keys
//! mean is the families' affair.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::Error;
use crate::model::architecture::{Activation, TowerConfig};
use crate::regular;

/// One JSON object of a configuration file.
pub(super) struct Section {
    path: PathBuf,
    name: Option<String>,
    pub map: Map<String, Value>,
}

impl Section {
    /// Reads a configuration file of a model folder.
    ///
    /// # Errors
    /// `NotFound` without the file; `ModelFile` where it is no JSON object.
    pub fn read(dir: &Path, file: &str) -> Result<Self, Error> {
        let path = dir.join(file);
        let json = match regular::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
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
            Ok(Value::Object(map)) => Ok(Self { path, name: None, map }),
            Ok(_) => Err(problem("is not a JSON object".into())),
            Err(error) => Err(problem(format!("is not JSON: {error}"))),
        }
    }

    /// transformers' word for the kind of model.
    pub fn model_type(&self) -> &str {
        self.map.get("model_type").and_then(Value::as_str).unwrap_or("missing")
    }

    /// Refuses another kind of model.
    pub fn check_model_type(&self, wanted: &str, class: &str) -> Result<(), Error> {
        let found = self.model_type();
        if found == wanted {
            return Ok(());
        }
        let what = format!(
            "is \"{found}\": [model.{wanted}] reads folders of transformers' {class}, whose \
             model_type is \"{wanted}\"{}",
            match found {
                "clip" | "siglip" | "chinese_clip" => format!("; take [model.{found}]"),
                "siglip2" => "; take [model.siglip]".to_owned(),
                _ => String::new(),
            }
        );
        Err(self.problem("model_type", &what))
    }

    /// The object of that name, empty where there is none.
    pub fn section(&self, name: &str) -> Result<Section, Error> {
        let map = match self.map.get(name).filter(|value| !value.is_null()) {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(self.problem(name, "is not an object")),
        };
        let name = match &self.name {
            Some(outer) => format!("{outer}.{name}"),
            None => name.to_owned(),
        };
        Ok(Section { path: self.path.clone(), name: Some(name), map })
    }

    /// A tower in transformers' words.
    pub fn tower(&self, defaults: TowerConfig) -> Result<TowerConfig, Error> {
        let width = self.size("hidden_size", defaults.width)?;
        let heads = self.size("num_attention_heads", defaults.heads)?;
        if width % heads != 0 {
            let what = format!("is {heads}, which does not divide hidden_size {width}");
            return Err(self.problem("num_attention_heads", &what));
        }
        Ok(TowerConfig {
            width,
            heads,
            mlp_width: self.size("intermediate_size", defaults.mlp_width)?,
            layers: self.layers("num_hidden_layers", defaults.layers)?,
            activation: self.activation(defaults.activation)?,
            layer_norm_eps: self.epsilon("layer_norm_eps", defaults.layer_norm_eps)?,
            block: defaults.block,
        })
    }

    /// Refuses other images than RGB ones.
    pub fn check_channels(&self) -> Result<(), Error> {
        match self.size("num_channels", 3)? {
            3 => Ok(()),
            _ => Err(self.problem("num_channels", "is not 3: clipmill encodes RGB images")),
        }
    }

    /// The sides of the image and of a patch of it.
    pub fn sides(&self, image: i64, patch: i64) -> Result<[i64; 2], Error> {
        let image_size = self.side("image_size", image)?;
        let patch_size = self.side("patch_size", patch)?;
        match patch_size <= image_size {
            true => Ok([image_size, patch_size]),
            false => Err(self.problem("patch_size", "is larger than image_size")),
        }
    }

    /// A number of things: at least 1, and small enough for products of two to fit.
    pub fn size(&self, key: &str, default: i64) -> Result<i64, Error> {
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
    pub fn layers(&self, key: &str, default: i64) -> Result<i64, Error> {
        match self.size(key, default)? {
            layers @ ..=1024 => Ok(layers),
            more => Err(self.problem(key, &format!("is {more}, over 1024"))),
        }
    }

    /// A side of a square: `224` or `[224, 224]`.
    pub fn side(&self, key: &str, default: i64) -> Result<i64, Error> {
        match self.map.get(key).and_then(Value::as_array).map(Vec::as_slice) {
            None => self.size(key, default),
            Some([height, width]) if height == width => self.checked_size(key, height),
            Some(_) => Err(self.problem(key, "is not square: clipmill encodes square images")),
        }
    }

    fn activation(&self, default: Activation) -> Result<Activation, Error> {
        use Activation::*;
        let Some(value) = self.map.get("hidden_act") else { return Ok(default) };
        let known = [QuickGelu, Gelu, GeluTanh];
        known.into_iter().find(|known| value.as_str() == Some(known.as_str())).ok_or_else(|| {
            let words = known.map(|known| format!("\"{}\"", known.as_str())).join(", ");
            self.problem("hidden_act", &format!("is {value}: clipmill computes {words}"))
        })
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Error> {
        let Some(value) = self.map.get(key).filter(|value| !value.is_null()) else {
            return Ok(default);
        };
        value.as_bool().ok_or_else(|| self.problem(key, &format!("is {value}: use true or false")))
    }

    pub fn epsilon(&self, key: &str, default: f64) -> Result<f64, Error> {
        let Some(value) = self.map.get(key) else { return Ok(default) };
        let sane = value.as_f64().filter(|epsilon| (0.0..1.0).contains(epsilon));
        sane.ok_or_else(|| self.problem(key, &format!("is {value}, not in 0..1")))
    }

    pub fn problem(&self, key: &str, what: &str) -> Error {
        let dot = self.name.as_ref().map_or(String::new(), |name| format!("{name}."));
        Error::ModelFile { path: self.path.clone(), problem: format!("{dot}{key} {what}") }
    }
}
