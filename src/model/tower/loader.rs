//! Takes the towers' tensors out of the weights files and puts them where they run.
//!
//! Everything is read as f32 and converted once, so that what is folded into a weight is
//! rounded once too.

use tch::{Device, Kind, TchError, Tensor};

use crate::error::Error;
use crate::model::device::{self, Placement};
use crate::model::family::{Names, Part, Source};
use crate::model::onednn::OneDnn;
use crate::model::weights::Weights;

/// The weights, what they call the tensors, and the place they go to.
pub(super) struct Loader<'a> {
    pub weights: &'a Weights,
    pub names: Names,
    pub placement: Placement,
}

impl Loader<'_> {
    /// oneDNN's fused linear layer, where it is the fast way: on a CPU in f32, and in bf16 if
    /// the CPU multiplies that natively (oneDNN refuses it otherwise).
    pub fn fused(&self) -> Option<&'static OneDnn> {
        let Placement { device, kind } = self.placement;
        let fits = kind == Kind::Float || device::cpu_multiplies_bf16();
        if device == Device::Cpu && fits { OneDnn::get() } else { None }
    }

    /// A tensor of the towers, f32, on the CPU. It may be the file's own memory: `place` makes a
    /// copy.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let Source { name, part } = self.names.source(name);
        let tensor = self.weights.tensor(&name)?;
        match part {
            Part::Whole => Ok(tensor),
            Part::Rows { index, of } => {
                let rows = tensor.size()[0] / of;
                tensor.f_narrow(0, index * rows, rows).map_err(torch)
            }
            Part::Transposed => tensor.f_transpose(0, 1).map_err(torch),
            Part::Leading(sides) => tensor.f_view(&tensor.size()[sides..]).map_err(torch),
        }
    }

    /// The same in f64, for what is folded before it is rounded.
    pub fn tensor_f64(&self, name: &str) -> Result<Tensor, Error> {
        self.tensor(name)?.f_to_kind(Kind::Double).map_err(torch)
    }

    /// A bias, zeros where the architecture has none: the weights were compared with it both ways.
    pub fn tensor_or_zeros(&self, name: &str, len: i64) -> Result<Tensor, Error> {
        match self.weights.has(&self.names.source(name).name) {
            true => self.tensor(name),
            false => Tensor::f_zeros([len], (Kind::Float, Device::Cpu)).map_err(torch),
        }
    }

    /// On the device, in f32.
    pub fn placed_f32(&self, name: &str) -> Result<Tensor, Error> {
        self.place(name, &self.tensor(name)?, Kind::Float)
    }

    /// Puts a tensor made from the weights `name` on the device.
    pub fn place(&self, name: &str, tensor: &Tensor, kind: Kind) -> Result<Tensor, Error> {
        let placed = tensor.f_to_device_(self.placement.device, kind, false, true);
        let placed = placed.and_then(|tensor| tensor.f_contiguous()).map_err(torch)?;
        self.weights.converted(&self.names.source(name).name, &placed)?;
        Ok(placed)
    }
}

/// Says that it was the weights that LibTorch was busy with.
pub(super) fn torch(source: TchError) -> Error {
    Error::torch("place the weights on the device")(source)
}
