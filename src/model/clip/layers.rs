//! The layers that blocks are made of: product, layer norm and multi-layer perceptron.
//!
//! Tokens are rows: `[tokens, width]`, whatever sequence they belong to. Formulas:
//! `CLIPMLP` and `CLIPEncoderLayer` of transformers' modeling_clip.py. Attention, the only
//! thing that looks at sequences, is in `block`.

use tch::{TchError, Tensor};

use super::loader::{Loader, torch};
use crate::error::Error;
use crate::model::config::{Activation, TowerConfig};
use crate::model::onednn::{Epilogue, OneDnn};

/// `quick_gelu(x) = x * sigmoid(1.702 x)`.
const QUICK_GELU: f64 = 1.702;

/// `x weight^T + bias`, with what follows it where oneDNN does both in one pass.
pub(super) struct Linear {
    /// `[out, in]`; packed where `fused` is there.
    weight: Tensor,
    bias: Tensor,
    fused: Option<&'static OneDnn>,
}

impl Linear {
    /// Loads `NAME.weight` and `NAME.bias`, of several names as one product: their outputs come
    /// side by side.
    pub fn load(loader: &Loader, names: &[String]) -> Result<Self, Error> {
        Self::load_scaled(loader, names, [1.0, 1.0])
    }

    /// Loads with weight and bias multiplied by `scale`.
    fn load_scaled(loader: &Loader, names: &[String], scale: [f64; 2]) -> Result<Self, Error> {
        let of = |what: &str| -> Vec<String> {
            names.iter().map(|name| format!("{name}.{what}")).collect()
        };
        let scaled = |names: &[String], scale: f64| {
            loader.stacked(names)?.f_mul_scalar(scale).map_err(torch)
        };
        let weight = scaled(&of("weight"), scale[0])?;
        let bias = scaled(&of("bias"), scale[1])?;
        Self::new(loader, &names[0], [weight, bias])
    }

    /// From f32 weights `[out, in]` and a bias `[out]` made from the tensor `name`.
    pub fn new(loader: &Loader, name: &str, [weight, bias]: [Tensor; 2]) -> Result<Self, Error> {
        let name = format!("{name}.weight");
        let kind = loader.placement.kind;
        let weight = loader.place(&name, &weight, kind)?;
        let bias = loader.place(&name, &bias, kind)?;
        let fused = loader.fused();
        let weight = match fused {
            Some(onednn) => onednn.pack(weight).map_err(torch)?,
            None => weight,
        };
        Ok(Self { weight, bias, fused })
    }

    /// `[rows, in]` -> `[rows, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.fused {
            Some(onednn) => onednn.linear(x, (&self.weight, &self.bias), Epilogue::Nothing),
            None => x.f_linear(&self.weight, Some(&self.bias)),
        }
    }

    /// `residual + forward(x)`.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor, TchError> {
        match self.fused {
            Some(onednn) => onednn.linear_add(x, (&self.weight, &self.bias), residual),
            None => x.f_linear(&self.weight, Some(&self.bias))?.f_add_(residual),
        }
    }
}

/// Layer norm over the last dimension.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// In the precision of the run.
    pub fn load(loader: &Loader, name: &str, eps: f64) -> Result<Self, Error> {
        let weight = loader.placed(&format!("{name}.weight"))?;
        Ok(Self { weight, bias: loader.placed(&format!("{name}.bias"))?, eps })
    }

    /// In f32, whatever the precision of the run.
    pub fn load_f32(loader: &Loader, name: &str, eps: f64) -> Result<Self, Error> {
        let weight = loader.placed_f32(&format!("{name}.weight"))?;
        Ok(Self { weight, bias: loader.placed_f32(&format!("{name}.bias"))?, eps })
    }

    /// Keeps the shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let shape = self.weight.size();
        x.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// The second half of a block: what happens to a token after it has looked at the others.
pub(super) struct Mlp {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Where the activation is fused, quick_gelu becomes SiLU: with `y = 1.702 x`,
    /// `y * sigmoid(y) = 1.702 * quick_gelu(x)`, so `up` is scaled by 1.702 and the weights of
    /// `down` by its inverse.
    pub fn load(loader: &Loader, layer: &str, tower: &TowerConfig) -> Result<Self, Error> {
        let scale = match (loader.fused(), tower.activation) {
            (Some(_), Activation::QuickGelu) => QUICK_GELU,
            _ => 1.0,
        };
        let named = |part: &str| [format!("{layer}.mlp.{part}")];
        Ok(Self {
            norm: LayerNorm::load(loader, &format!("{layer}.layer_norm2"), tower.layer_norm_eps)?,
            up: Linear::load_scaled(loader, &named("fc1"), [scale, scale])?,
            down: Linear::load_scaled(loader, &named("fc2"), [1.0 / scale, 1.0])?,
            activation: tower.activation,
        })
    }

    /// `x + down(activation(up(norm(x))))`, of shape `[rows, width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let hidden = self.activated(&self.norm.forward(x)?)?;
        self.down.forward_add(&hidden, x)
    }

    fn activated(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let parts = (&self.up.weight, &self.up.bias);
        match (self.up.fused, self.activation) {
            (Some(onednn), Activation::QuickGelu) => onednn.linear(x, parts, Epilogue::Silu),
            (Some(onednn), Activation::Gelu) => onednn.linear(x, parts, Epilogue::Gelu),
            (None, Activation::Gelu) => self.up.forward(x)?.f_gelu("none"),
            (None, Activation::QuickGelu) => {
                let y = self.up.forward(x)?;
                y.f_mul_scalar(QUICK_GELU)?.f_sigmoid_()?.f_mul_(&y)
            }
        }
    }
}
