//! Batch norms with the statistics of training, which are folded into the products beside them.
//!
//! In f64, so that what is folded is rounded once. Formula: `(x - mean) / sqrt(var + eps) * weight
//! + bias`, as `BatchNorm2d` of torch.

use tch::{TchError, Tensor};

use super::loader::{Loader, torch};
use crate::error::Error;

/// torch's default, which timm leaves as it is.
const EPS: f64 = 1e-5;

/// `x scale + shift`, f64 `[channels]` each.
pub(super) struct BatchNorm {
    pub scale: Tensor,
    pub shift: Tensor,
}

impl BatchNorm {
    /// Loads `NAME.weight`, `NAME.bias`, `NAME.running_mean` and `NAME.running_var`.
    pub fn load(loader: &Loader, name: &str) -> Result<Self, Error> {
        let part = |part: &str| loader.tensor_f64(&format!("{name}.{part}"));
        let (weight, bias) = (part("weight")?, part("bias")?);
        let (mean, var) = (part("running_mean")?, part("running_var")?);
        let fold = || {
            let scale = weight.f_div(&var.f_add_scalar(EPS)?.f_sqrt()?)?;
            let shift = bias.f_sub(&mean.f_mul(&scale)?)?;
            Ok(Self { scale, shift })
        };
        fold().map_err(torch)
    }

    /// A convolution that it follows: f64 `[out, in, side, side]` and `[out]`.
    pub fn after(&self, [weight, bias]: &[Tensor; 2]) -> Result<[Tensor; 2], TchError> {
        let weight = weight.f_mul(&self.scale.f_view([-1, 1, 1, 1])?)?;
        Ok([weight, bias.f_mul(&self.scale)?.f_add(&self.shift)?])
    }

    /// A product that follows it: f64 `[out, in]` and `[out]`.
    pub fn before(&self, [weight, bias]: &[Tensor; 2]) -> Result<[Tensor; 2], TchError> {
        Ok([weight.f_mul(&self.scale)?, weight.f_mv(&self.shift)?.f_add(bias)?])
    }
}
