//! Convolutions as they were trained, in branches with batch norms, each folded into one kernel.
//!
//! Branches that see the same places and are summed are one convolution with the largest kernel:
//! smaller ones are padded with zeros, and a batch norm alone is a kernel with one number. Folded
//! in f64 and rounded once. Formulas: `reparameterize` of timm's fastvit.py. What was folded by
//! others is not read: open_clip does not load it either.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::Error;
use crate::model::tower::batch_norm::BatchNorm;
use crate::model::tower::loader::{Loader, torch};
use crate::model::tower::tensors::List;

/// A convolution as it was trained.
pub(super) struct Branches {
    name: String,
    /// In and out.
    channels: [i64; 2],
    /// Of the largest kernel.
    side: i64,
    reach: Reach,
    /// Convolutions followed by batch norms: name and side.
    convolutions: Vec<(&'static str, i64)>,
    /// Whether a batch norm of what comes in is added.
    identity: bool,
}

/// What a channel of the output is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Of one channel.
    One,
    /// Of all channels.
    All,
}

impl Branches {
    /// `MobileOneBlock` with a kernel of this side.
    pub fn mobile_one(name: &str, channels: [i64; 2], (side, reach): (i64, Reach)) -> Self {
        let mut convolutions = vec![("conv_kxk.0", side)];
        if side > 1 {
            convolutions.push(("conv_scale", 1));
        }
        let identity = channels[0] == channels[1];
        Self { name: name.to_owned(), channels, side, reach, convolutions, identity }
    }

    /// The same where sides are halved, so that what comes in cannot be added, with or without the
    /// branch that sees one place alone.
    pub fn halving(mut self, scale_branch: bool) -> Self {
        self.convolutions.retain(|(name, _)| scale_branch || *name != "conv_scale");
        Self { identity: false, ..self }
    }

    /// `ReparamLargeKernelConv`.
    pub fn large(name: &str, channels: [i64; 2]) -> Self {
        let convolutions = vec![("large_conv", 7), ("small_conv", 3)];
        let (side, reach, identity) = (7, Reach::One, false);
        Self { name: name.to_owned(), channels, side, reach, convolutions, identity }
    }

    /// The convolution before a perceptron (`ConvMlp`).
    pub fn before_mlp(name: &str, width: i64) -> Self {
        let (channels, convolutions) = ([width; 2], vec![("conv", 7)]);
        let (side, reach, identity) = (7, Reach::One, false);
        Self { name: name.to_owned(), channels, side, reach, convolutions, identity }
    }

    /// A batch norm of what comes in, as a kernel of this side.
    pub fn norm_alone(name: &str, width: i64, side: i64) -> Self {
        let (channels, convolutions) = ([width; 2], Vec::new());
        let (reach, identity) = (Reach::One, true);
        Self { name: name.to_owned(), channels, side, reach, convolutions, identity }
    }

    /// Lists the tensors.
    pub fn expected(&self, all: &mut List) {
        let [_, out] = self.channels;
        for (branch, side) in &self.convolutions {
            let branch = format!("{}.{branch}", self.name);
            all.push(&format!("{branch}.conv.weight"), &[out, self.seen(), *side, *side]);
            all.batch_norm(&format!("{branch}.bn"), out);
        }
        if self.identity {
            all.batch_norm(&format!("{}.identity", self.name), out);
        }
    }

    /// Channels that one of the output is made of.
    fn seen(&self) -> i64 {
        match self.reach {
            Reach::One => 1,
            Reach::All => self.channels[0],
        }
    }

    /// Loads and folds all branches.
    pub fn load(&self, loader: &Loader) -> Result<Kernel, Error> {
        let shape = [self.channels[1], self.seen(), self.side, self.side];
        let name = format!("{}.identity.weight", self.name);
        let mut kernel = Kernel::zeros(name, &shape).map_err(torch)?;
        for (branch, _) in &self.convolutions {
            let branch = format!("{}.{branch}", self.name);
            kernel.name = format!("{branch}.conv.weight");
            let norm = BatchNorm::load(loader, &format!("{branch}.bn"))?;
            kernel.add(&loader.tensor_f64(&kernel.name)?, &norm).map_err(torch)?;
        }
        if self.identity {
            let norm = BatchNorm::load(loader, &format!("{}.identity", self.name))?;
            let add = unchanged(shape).and_then(|one| kernel.add(&one, &norm));
            add.map_err(torch)?;
        }
        Ok(kernel)
    }
}

/// A folded convolution.
pub(super) struct Kernel {
    /// A tensor that it was made of, for messages.
    pub name: String,
    /// f64 `[out, in or 1, side, side]`.
    pub weight: Tensor,
    /// f64 `[out]`.
    pub bias: Tensor,
}

impl Kernel {
    fn zeros(name: String, shape: &[i64]) -> Result<Self, TchError> {
        let zeros = |shape: &[i64]| Tensor::f_zeros(shape, (Kind::Double, Device::Cpu));
        Ok(Self { name, weight: zeros(shape)?, bias: zeros(&shape[..1])? })
    }

    /// Adds a kernel, which may be smaller, and the batch norm after it.
    fn add(&mut self, weight: &Tensor, norm: &BatchNorm) -> Result<(), TchError> {
        let around = (self.weight.size()[3] - weight.size()[3]) / 2;
        let scaled = weight.f_mul(&norm.scale.f_view([-1, 1, 1, 1])?)?;
        self.weight = self.weight.f_add(&scaled.f_constant_pad_nd([around; 4])?)?;
        self.bias = self.bias.f_add(&norm.shift)?;
        Ok(())
    }
}

/// The kernel, f64 of this shape, that changes nothing.
pub(super) fn unchanged(shape: [i64; 4]) -> Result<Tensor, TchError> {
    let [out, seen, side, _] = shape;
    let one = match seen {
        1 => Tensor::f_ones([out, 1, 1, 1], (Kind::Double, Device::Cpu)),
        _ => Tensor::f_eye(out, (Kind::Double, Device::Cpu))?.f_view([out, seen, 1, 1]),
    };
    one?.f_constant_pad_nd([side / 2; 4])
}
