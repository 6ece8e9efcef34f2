//! The layers that blocks are made of: product, layer norm and multi-layer perceptron.
//!
//! Tokens are rows: `[tokens, width]`, whatever sequence they belong to. Formulas:
//! `CLIPMLP` and `CLIPEncoderLayer` of transformers' modeling_clip.py, `BertLayer` of its
//! modeling_bert.py, `SwiGLU` of timm's mlp.py.
//! Attention, the only thing that looks at sequences, is in `attend`.

use tch::{Kind, TchError, Tensor};

use super::loader::{Loader, torch};
use crate::error::Error;
use crate::model::architecture::{Activation, BlockKind, Projection, TowerConfig};
use crate::model::cpu::Cpu;
use crate::model::device::Placement;
use crate::model::norm::{Affine, add_and_norm};
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
        let weights = names.iter().map(|name| loader.tensor(&format!("{name}.weight")));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let biases = names.iter().zip(&weights).map(|(name, weight)| {
            loader.tensor_or_zeros(&format!("{name}.bias"), weight.size()[0])
        });
        let biases = biases.collect::<Result<Vec<_>, _>>()?;
        let scaled = |tensors: &[Tensor], scale: f64| match (stacked(tensors)?, scale) {
            (tensor, 1.0) => Ok(tensor),
            (tensor, scale) => tensor.f_mul_scalar(scale),
        };
        let weight = scaled(&weights, scale[0]).map_err(torch)?;
        let bias = scaled(&biases, scale[1]).map_err(torch)?;
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

    /// The same, followed by the exact GELU.
    pub fn forward_gelu(&self, x: &Tensor) -> Result<Tensor, TchError> {
        match self.fused {
            Some(onednn) => onednn.linear(x, (&self.weight, &self.bias), Epilogue::Gelu),
            None => self.forward(x)?.f_gelu_("none"),
        }
    }
}

/// Tensors under one another.
fn stacked(tensors: &[Tensor]) -> Result<Tensor, TchError> {
    match tensors {
        [one] => Ok(one.shallow_clone()),
        several => Tensor::f_cat(several, 0),
    }
}

/// What takes a tower's vectors into the shared space, in f32.
pub(super) enum Project {
    Nothing,
    /// `[embedding, width]`, and what is added.
    Product(Tensor, Option<Tensor>),
    /// `[hidden, width]` and `[embedding, hidden]`.
    Perceptron(Tensor, Tensor),
}

impl Project {
    /// Loads `NAME.weight` and, where there is one, `NAME.bias`; of a perceptron `NAME.fc1.weight`
    /// and `NAME.fc2.weight`.
    pub fn load(loader: &Loader, name: &str, projection: Projection) -> Result<Self, Error> {
        let part = |part: &str| loader.placed_f32(&format!("{name}.{part}"));
        Ok(match projection {
            Projection::None => Self::Nothing,
            Projection::Product => Self::Product(part("weight")?, None),
            Projection::ProductAndBias => Self::Product(part("weight")?, Some(part("bias")?)),
            Projection::Perceptron { .. } => {
                Self::Perceptron(part("fc1.weight")?, part("fc2.weight")?)
            }
        })
    }

    /// f32 `[n, width]` -> f32 `[n, embedding]`.
    pub fn forward(&self, x: Tensor) -> Result<Tensor, TchError> {
        match self {
            Self::Nothing => Ok(x),
            Self::Product(weight, bias) => x.f_linear(weight, bias.as_ref()),
            Self::Perceptron(up, down) => {
                let hidden = x.f_linear(up, None::<&Tensor>)?.f_gelu("none")?;
                hidden.f_linear(down, None::<&Tensor>)
            }
        }
    }
}

/// The residual stream `[tokens, width]`, and what the last layer gave to be added to it.
///
/// In f32 where our CPU kernels run, in the precision of the run elsewhere.
pub(super) struct Stream {
    x: Tensor,
    pending: Option<Tensor>,
}

impl Stream {
    /// A stream that starts with `x`, f32, which is its alone.
    pub fn new(x: Tensor, placement: Placement) -> Result<Self, TchError> {
        let kind = if Cpu::get(placement).is_some() { Kind::Float } else { placement.kind };
        Ok(Self { x: x.f_to_kind(kind)?, pending: None })
    }

    /// Adds a layer's output, when the stream is looked at next.
    pub fn add(&mut self, x: Tensor) -> Result<(), TchError> {
        self.settle()?;
        self.pending = Some(x);
        Ok(())
    }

    /// The stream of some of the tokens.
    pub fn select(mut self, tokens: &Tensor) -> Result<Self, TchError> {
        self.settle()?;
        Ok(Self { x: self.x.f_index_select(0, tokens)?, pending: None })
    }

    /// The sum, in f32.
    pub fn finish(mut self) -> Result<Tensor, TchError> {
        self.settle()?;
        self.x.f_to_kind(Kind::Float)
    }

    fn settle(&mut self) -> Result<(), TchError> {
        if let Some(pending) = self.pending.take() {
            self.x = self.x.f_add_(&pending)?;
        }
        Ok(())
    }
}

/// Layer norm over the last dimension.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    kind: Kind,
    cpu: Option<Cpu>,
}

impl LayerNorm {
    /// Of a stream.
    fn load(loader: &Loader, name: &str, eps: f64) -> Result<Self, Error> {
        let cpu = Cpu::get(loader.placement);
        let kind = if cpu.is_some() { Kind::Float } else { loader.placement.kind };
        Self::load_as(loader, name, (eps, kind, cpu))
    }

    /// Of an f32 tensor, whatever the precision of the run.
    pub fn load_f32(loader: &Loader, name: &str, eps: f64) -> Result<Self, Error> {
        Self::load_as(loader, name, (eps, Kind::Float, None))
    }

    /// Of what is between a layer's products, where the tower's blocks have that: in the
    /// precision of the run.
    pub fn load_inner(
        loader: &Loader,
        name: &str,
        tower: &TowerConfig,
    ) -> Result<Option<Self>, Error> {
        let like = (tower.layer_norm_eps, loader.placement.kind, None);
        match tower.block {
            BlockKind::PreNorm | BlockKind::PostNorm => Ok(None),
            BlockKind::InnerNorm => Self::load_as(loader, name, like).map(Some),
        }
    }

    /// With weights of a type, and the CPU kernel for streams or none.
    pub fn load_as(
        loader: &Loader,
        name: &str,
        (eps, weights, cpu): (f64, Kind, Option<Cpu>),
    ) -> Result<Self, Error> {
        let part = |part| {
            let name = format!("{name}.{part}");
            loader.place(&name, &loader.tensor(&name)?, weights)
        };
        let kind = loader.placement.kind;
        Ok(Self { weight: part("weight")?, bias: part("bias")?, eps, kind, cpu })
    }

    /// Keeps the shape and the type.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let shape = self.weight.size();
        x.f_layer_norm(shape, Some(&self.weight), Some(&self.bias), self.eps, true)
    }

    /// Of the stream as it is now, in the precision of the run.
    fn of_stream(&self, stream: &mut Stream) -> Result<Tensor, TchError> {
        let Some(cpu) = self.cpu else {
            stream.settle()?;
            return self.forward(&stream.x);
        };
        let pending = stream.pending.take();
        add_and_norm(cpu, &mut stream.x, pending.as_ref(), (&self.affine(), self.kind))
    }

    /// Puts the layer norm of the stream in its place.
    fn replace(&self, stream: &mut Stream) -> Result<(), TchError> {
        stream.settle()?;
        stream.x = match self.cpu {
            Some(cpu) => add_and_norm(cpu, &mut stream.x, None, (&self.affine(), Kind::Float))?,
            None => self.forward(&stream.x)?,
        };
        Ok(())
    }

    fn affine(&self) -> Affine<'_> {
        Affine { weight: &self.weight, bias: &self.bias, eps: self.eps }
    }
}

/// One of the two layer norms of a block, where the block's kind has it.
pub(super) struct BlockNorm {
    norm: LayerNorm,
    after: bool,
}

impl BlockNorm {
    pub fn load(loader: &Loader, name: &str, tower: &TowerConfig) -> Result<Self, Error> {
        let norm = LayerNorm::load(loader, name, tower.layer_norm_eps)?;
        Ok(Self { norm, after: tower.block == BlockKind::PostNorm })
    }

    /// What a layer sees of the stream, in the precision of the run.
    pub fn before(&self, stream: &mut Stream) -> Result<Tensor, TchError> {
        if !self.after {
            return self.norm.of_stream(stream);
        }
        stream.settle()?;
        stream.x.f_to_kind(self.norm.kind)
    }

    /// What becomes of the stream once the layer's output was added.
    pub fn after(&self, stream: &mut Stream) -> Result<(), TchError> {
        if self.after { self.norm.replace(stream) } else { Ok(()) }
    }
}

/// The layer norm, where there is one.
pub(super) fn normed(norm: Option<&LayerNorm>, x: Tensor) -> Result<Tensor, TchError> {
    match norm {
        Some(norm) => norm.forward(&x),
        None => Ok(x),
    }
}

/// The second half of a block: what happens to a token after it has looked at the others.
pub(super) struct Mlp {
    norm: BlockNorm,
    up: Linear,
    inner_norm: Option<LayerNorm>,
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
        let named = |part: &str| format!("{layer}.mlp.{part}");
        let up = match tower.activation {
            Activation::SwiGlu => vec![named("gate"), named("fc1")],
            _ => vec![named("fc1")],
        };
        Ok(Self {
            norm: BlockNorm::load(loader, &format!("{layer}.layer_norm2"), tower)?,
            up: Linear::load_scaled(loader, &up, [scale, scale])?,
            inner_norm: LayerNorm::load_inner(loader, &named("norm"), tower)?,
            down: Linear::load_scaled(loader, &[named("fc2")], [1.0 / scale, 1.0])?,
            activation: tower.activation,
        })
    }

    /// Adds `down(activation(up(norm(x))))` to the stream, or normalises the sum.
    pub fn forward(&self, stream: &mut Stream) -> Result<(), TchError> {
        let hidden = self.activated(&self.norm.before(stream)?)?;
        let hidden = normed(self.inner_norm.as_ref(), hidden)?;
        stream.add(self.down.forward(&hidden)?)?;
        self.norm.after(stream)
    }

    fn activated(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let parts = (&self.up.weight, &self.up.bias);
        match (self.up.fused, self.activation) {
            (Some(onednn), Activation::QuickGelu) => onednn.linear(x, parts, Epilogue::Silu),
            (Some(onednn), Activation::GeluTanh) => onednn.linear(x, parts, Epilogue::GeluTanh),
            (_, Activation::Gelu) => self.up.forward_gelu(x),
            (None, Activation::GeluTanh) => self.up.forward(x)?.f_gelu("tanh"),
            (_, Activation::SwiGlu) => {
                let both = self.up.forward(x)?.f_chunk(2, 1)?;
                both[0].f_silu()?.f_mul(&both[1])
            }
            (None, Activation::QuickGelu) => {
                let y = self.up.forward(x)?;
                y.f_mul_scalar(QUICK_GELU)?.f_sigmoid_()?.f_mul_(&y)
            }
        }
    }
}
