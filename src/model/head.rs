//! Heads: linear layers that read an embedding of unit length and give a number, or several.
//!
//! LAION's predictors of aesthetics are such, and any `nn.Sequential` of `Linear`, one activation
//! and `Dropout`, whose layers' names differ in a number alone. Other layers are refused by name.
//! Which column is filled with what comes of it is in `columns`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tch::{TchError, Tensor, no_grad};

use super::weights::Weights;
use crate::batch::Embeddings;
use crate::digest;
use crate::error::Error;
use crate::spec::{HeadActivation, HeadOutput, HeadSpec};

/// The longest side of a layer: a list of more numbers a row is a mistake.
const MOST_SIDE: i64 = 1 << 20;

/// A head, on the CPU, in f32.
#[derive(Debug)]
pub struct Head {
    path: PathBuf,
    /// At least one; each takes as many numbers as the one before gives.
    layers: Vec<Layer>,
    activation: HeadActivation,
    output: HeadOutput,
}

/// `y = weight x + bias`
#[derive(Debug)]
struct Layer {
    /// `[n_outputs, n_inputs]`, row-major.
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    n_inputs: i64,
    n_outputs: i64,
}

impl Head {
    /// Reads a head whole.
    ///
    /// # Errors
    /// `NotFound` and `ModelFile` for the file; `Tensor` for what is no linear layer or does not
    /// follow the one before; `Setting` for several layers with nothing said of what is between.
    pub fn open(name: &str, spec: &HeadSpec) -> Result<Self, Error> {
        let weights = Weights::of_file(&spec.file, "a head's file")?;
        let stems = stems(&weights, &spec.file)?;
        let layers = stems.iter().map(|stem| Layer::read(&weights, stem, &spec.file));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        for (at, pair) in layers.windows(2).enumerate() {
            if pair[0].n_outputs != pair[1].n_inputs {
                let problem = format!(
                    "takes {} numbers, and the layer before gives {}: are these all layers, in \
                     the order of their numbers?",
                    pair[1].n_inputs, pair[0].n_outputs
                );
                return Err(wrong(&spec.file, &of(&stems[at + 1], "weight"), problem));
            }
        }
        let activation = match (spec.activation, layers.len()) {
            (Some(activation), _) => activation,
            (None, 1) => HeadActivation::None,
            (None, n) => {
                let problem = format!(
                    "is needed: {} has {n} layers, and does not say what is between them: write \
                     \"none\", \"relu\", \"gelu\", \"gelu_tanh\", \"silu\" or \"tanh\"",
                    spec.file.display()
                );
                return Err(Error::Setting { key: format!("head.{name}.activation"), problem });
            }
        };
        Ok(Self { path: spec.file.clone(), layers, activation, output: spec.output })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its digest.
    ///
    /// # Errors
    /// `Io` when it cannot be read.
    pub fn sha256(&self) -> Result<String, Error> {
        digest::of_file(&self.path)
    }

    /// Length of the embeddings that it takes.
    pub fn n_inputs(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.n_inputs as usize)
    }

    /// Numbers that it gives of each.
    pub fn n_outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.n_outputs as usize)
    }

    /// What it gives of packed embeddings: shape `[slots, n_outputs]`, row-major.
    ///
    /// # Errors
    /// `Torch` when LibTorch refuses (out of memory).
    pub fn apply(&self, embeddings: &Embeddings) -> Result<Vec<f32>, Error> {
        if embeddings.rows.is_empty() {
            return Ok(Vec::new());
        }
        no_grad(|| self.forward(embeddings)).map_err(Error::torch("apply a head"))
    }

    fn forward(&self, embeddings: &Embeddings) -> Result<Vec<f32>, TchError> {
        let shape = [embeddings.rows.len() as i64, embeddings.dim as i64];
        let mut x = Tensor::f_from_slice(&embeddings.data)?.f_view(shape)?;
        for (at, layer) in self.layers.iter().enumerate() {
            if at > 0 {
                x = activated(&x, self.activation)?;
            }
            let weight = Tensor::f_from_slice(&layer.weight)?;
            let weight = weight.f_view([layer.n_outputs, layer.n_inputs])?;
            let bias = layer.bias.as_ref().map(|bias| Tensor::f_from_slice(bias)).transpose()?;
            x = x.f_linear(&weight, bias.as_ref())?;
        }
        let x = match self.output {
            HeadOutput::None => x,
            HeadOutput::Sigmoid => x.f_sigmoid()?,
            HeadOutput::Softmax => x.f_softmax(-1, tch::Kind::Float)?,
        };
        Vec::try_from(&x.f_reshape([-1])?)
    }
}

fn activated(x: &Tensor, activation: HeadActivation) -> Result<Tensor, TchError> {
    match activation {
        HeadActivation::None => Ok(x.shallow_clone()),
        HeadActivation::Relu => x.f_relu(),
        HeadActivation::Gelu => x.f_gelu("none"),
        HeadActivation::GeluTanh => x.f_gelu("tanh"),
        HeadActivation::Silu => x.f_silu(),
        HeadActivation::Tanh => x.f_tanh(),
    }
}

impl Layer {
    fn read(weights: &Weights, stem: &str, path: &Path) -> Result<Self, Error> {
        let (weight, bias) = (of(stem, "weight"), of(stem, "bias"));
        let shape = weights.shape(&weight).unwrap_or_default();
        let &[n_outputs, n_inputs] = shape.as_slice() else {
            let problem = match shape.is_empty() {
                true => "is missing".to_owned(),
                false => format!("has shape {shape:?}, and a linear layer's has two sides"),
            };
            return Err(wrong(path, &weight, problem));
        };
        if !(1..=MOST_SIDE).contains(&n_outputs) || !(1..=MOST_SIDE).contains(&n_inputs) {
            let problem = format!("has shape {shape:?}: use sides of 1 to {MOST_SIDE}");
            return Err(wrong(path, &weight, problem));
        }
        let bias = match weights.shape(&bias).ok() {
            None => None,
            Some(shape) if shape == [n_outputs] => Some(numbers(weights, &bias)?),
            Some(shape) => {
                let problem =
                    format!("has shape {shape:?} where its weight makes it [{n_outputs}]");
                return Err(wrong(path, &bias, problem));
            }
        };
        Ok(Self { weight: numbers(weights, &weight)?, bias, n_inputs, n_outputs })
    }
}

fn numbers(weights: &Weights, name: &str) -> Result<Vec<f32>, Error> {
    let flat = weights.tensor(name)?.f_reshape([-1]).and_then(|flat| Vec::try_from(&flat));
    flat.map_err(Error::torch("read a head"))
}

/// What the layers are called, in their order: names that differ in their last number alone.
fn stems(weights: &Weights, path: &Path) -> Result<Vec<String>, Error> {
    let mut stems: BTreeMap<(String, u64, String), String> = BTreeMap::new();
    for name in weights.names() {
        let (stem, what) = name.rsplit_once('.').unwrap_or(("", name));
        if what != "weight" && what != "bias" {
            let problem = "is neither the weight nor the bias of a linear layer, which is all that \
                           a head may have";
            return Err(wrong(path, name, problem.into()));
        }
        stems.insert(numbered(stem), stem.to_owned());
    }
    let around = |key: &(String, u64, String)| (key.0.clone(), key.2.clone());
    let Some((first, _)) = stems.first_key_value() else {
        let problem = "holds no tensor: a head has at least one layer".to_owned();
        return Err(Error::ModelFile { path: path.to_owned(), problem });
    };
    match stems.iter().find(|(key, _)| around(key) != around(first)) {
        None => Ok(stems.into_values().collect()),
        Some((_, other)) => {
            let problem = format!(
                "is of a layer whose name differs from that of \"{}\" in more than a number, so \
                 nothing says which comes first: name them 0, 1, …",
                stems[first]
            );
            Err(wrong(path, other, problem))
        }
    }
}

/// A name around its last number; 0 where it has none.
fn numbered(stem: &str) -> (String, u64, String) {
    let is_digit = |c: char| c.is_ascii_digit();
    let end = stem.rfind(is_digit).map_or(0, |at| at + 1);
    let start = stem[..end].rfind(|c| !is_digit(c)).map_or(0, |at| at + 1);
    let number = stem[start..end].parse().unwrap_or(0);
    (stem[..start].to_owned(), number, stem[end..].to_owned())
}

/// A layer's tensor. That of a lone `nn.Linear` has nothing before it.
fn of(stem: &str, what: &str) -> String {
    if stem.is_empty() { what.to_owned() } else { format!("{stem}.{what}") }
}

fn wrong(path: &Path, tensor: &str, problem: String) -> Error {
    Error::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ordered_by_their_last_number() {
        assert_eq!(numbered("layers.10"), ("layers.".into(), 10, String::new()));
        assert_eq!(numbered("mlp2.3.fc"), ("mlp2.".into(), 3, ".fc".into()));
        assert_eq!(numbered(""), (String::new(), 0, String::new()));
        assert!(numbered("layers.10") > numbered("layers.2"));
    }
}
