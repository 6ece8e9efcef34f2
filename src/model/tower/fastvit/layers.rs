//! The layers of a FastViT over maps, of which each place is a row: `[n side^2, channels]`.
//!
//! Products over channels are those of `layers`; a convolution sees a map as LibTorch's channels
//! last, which costs no copy. On a CPU maps are f32 and only products run in a narrower precision;
//! elsewhere all is in the precision of the run. Formulas: timm's fastvit.py, `SEModule` of its
//! squeeze_excite.py.

use tch::{Device, Kind, TchError, Tensor};

use super::branches::Kernel;
use crate::error::Error;
use crate::model::device::Placement;
use crate::model::tower::layers::Linear;
use crate::model::tower::loader::{Loader, torch};

/// The precision of maps.
pub(super) fn map_kind(placement: Placement) -> Kind {
    if placement.device == Device::Cpu { Kind::Float } else { placement.kind }
}

/// What is known of every place of some square images.
pub(super) struct Map {
    /// `[n side^2, channels]`.
    pub x: Tensor,
    pub n: i64,
    pub side: i64,
}

impl Map {
    /// The same places with other numbers.
    pub fn with(&self, x: Tensor) -> Self {
        Self { x, n: self.n, side: self.side }
    }

    /// The exact GELU of every number.
    pub fn gelu(mut self) -> Result<Self, TchError> {
        let x = self.x.f_gelu_("none")?;
        Ok(self.with(x))
    }

    /// Adds a layer's outcome.
    pub fn add(&mut self, x: &Tensor) -> Result<(), TchError> {
        self.x = self.x.f_add_(x)?;
        Ok(())
    }

    /// `[n, side^2, channels]`.
    pub fn by_image(&self) -> Result<Tensor, TchError> {
        self.x.f_view([self.n, self.side * self.side, -1])
    }
}

/// A convolution with zeros around the map.
pub(super) struct Convolution {
    /// Weights and biases. Where every channel makes several, one for each of those: all of them
    /// together take oneDNN 1.4 to 2.8 times as long (maps of 64, 32 and 8 places a side, AVX2).
    kernels: Vec<[Tensor; 2]>,
    stride: i64,
    groups: i64,
}

impl Convolution {
    /// Of all channels, or of one where the kernel has a single one.
    pub fn new(
        loader: &Loader,
        kernel: &Kernel,
        (channels, stride): (i64, i64),
        kind: Kind,
    ) -> Result<Self, Error> {
        let seen = kernel.weight.size()[1];
        let (n, groups) = match seen == channels && channels > 1 {
            true => (1, 1),
            false => (kernel.bias.size()[0] / channels, channels),
        };
        let of_each = (0..n).map(|index| {
            let every_nth = |tensor: &Tensor| tensor.f_slice(0, index, None::<i64>, n);
            let place = |tensor: &Tensor| {
                loader.place(&kernel.name, &every_nth(tensor).map_err(torch)?, kind)
            };
            Ok([place(&kernel.weight)?, place(&kernel.bias)?])
        });
        Ok(Self { kernels: of_each.collect::<Result<_, Error>>()?, stride, groups })
    }

    /// The map of every place, or of every other one.
    pub fn forward(&self, map: &Map) -> Result<Map, TchError> {
        let Map { x, n, side } = map;
        let x = x.f_view([*n, *side, *side, -1])?.f_permute([0, 3, 1, 2])?;
        let seen = self.kernels.iter().map(|[weight, bias]| {
            let around = weight.size()[2] / 2;
            let (stride, padding) = ([self.stride; 2], [around; 2]);
            let seen = x.f_conv2d(weight, Some(bias), stride, padding, [1, 1], self.groups)?;
            seen.f_permute([0, 2, 3, 1])
        });
        let mut seen = seen.collect::<Result<Vec<_>, TchError>>()?;
        let side = seen[0].size()[1];
        let x = match seen.len() {
            1 => seen.remove(0),
            _ => Tensor::f_stack(&seen, -1)?,
        };
        Ok(Map { x: x.f_reshape([n * side * side, -1])?, n: *n, side })
    }
}

/// Multiplies every channel of an image by what its means over all places say.
pub(super) struct SqueezeExcite {
    reduce: [Tensor; 2],
    expand: [Tensor; 2],
}

impl SqueezeExcite {
    /// Loads `NAME.fc1` and `NAME.fc2`, f32.
    pub fn load(loader: &Loader, name: &str) -> Result<Self, Error> {
        let product = |product: &str| {
            let weight = format!("{name}.{product}.weight");
            let matrix = loader.tensor(&weight)?.f_flatten(1, -1).map_err(torch)?;
            let bias = loader.placed_f32(&format!("{name}.{product}.bias"))?;
            Ok::<_, Error>([loader.place(&weight, &matrix, Kind::Float)?, bias])
        };
        Ok(Self { reduce: product("fc1")?, expand: product("fc2")? })
    }

    pub fn forward(&self, map: Map) -> Result<Map, TchError> {
        let means = means(&map)?;
        let hidden = means.f_linear(&self.reduce[0], Some(&self.reduce[1]))?.f_relu()?;
        let gate = hidden.f_linear(&self.expand[0], Some(&self.expand[1]))?.f_sigmoid()?;
        let gate = gate.f_unsqueeze(1)?.f_to_kind(map.x.f_kind()?)?;
        let x = map.by_image()?.f_mul_(&gate)?.f_flatten(0, 1)?;
        Ok(map.with(x))
    }
}

/// Of all places: f32 `[n, channels]`.
pub(super) fn means(map: &Map) -> Result<Tensor, TchError> {
    map.by_image()?.f_mean_dim([1].as_slice(), false, Kind::Float)
}

/// A convolution of one place, followed by the exact GELU.
pub(super) struct Pointwise {
    product: Linear,
    placement: Placement,
}

impl Pointwise {
    pub fn new(loader: &Loader, kernel: Kernel) -> Result<Self, Error> {
        let Kernel { name, weight, bias } = kernel;
        let name = name.strip_suffix(".weight").unwrap_or(&name);
        let product = Linear::new(loader, name, rounded(&[weight, bias]).map_err(torch)?)?;
        Ok(Self { product, placement: loader.placement })
    }

    pub fn forward(&self, map: &Map) -> Result<Map, TchError> {
        let x = self.product.forward_gelu(&map.x.f_to_kind(self.placement.kind)?)?;
        Ok(map.with(x.f_to_kind(map_kind(self.placement))?))
    }
}

/// f64 weights of a product, `[out, in]` or `[out, in, 1, 1]`, and its bias, in f32.
pub(super) fn rounded([weight, bias]: &[Tensor; 2]) -> Result<[Tensor; 2], TchError> {
    let weight = weight.f_flatten(1, -1)?.f_to_kind(Kind::Float)?;
    Ok([weight, bias.f_to_kind(Kind::Float)?])
}
