//! Between the host's memory and the device's, without waiting.
//!
//! On CUDA a copy that does not block needs pinned memory on the host's side, and the host may
//! read the result only once the device has passed an event behind the copy. On a CPU there is
//! nothing to copy and nothing to wait for.

use tch::{Cuda, Device, Kind, TchError, Tensor};

use super::cuda_driver::Event;

/// Puts a tensor of the host on the device. The tensor is free again when this returns.
pub(super) fn upload(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    match device {
        // LibTorch keeps the pinned copy until the device has read it.
        Device::Cuda(_) => {
            // Not `pin_memory`, which warns of its device argument that `tch` always gives.
            let pinned = tensor.f_internal_pin_memory(device)?;
            let kind = pinned.f_kind()?;
            pinned.f_to_device_(device, kind, true, false)
        }
        _ => tensor.f_to(device),
    }
}

/// An f32 tensor on its way to the host.
pub(super) struct Download {
    host: Tensor,
    arrival: Arrival,
}

enum Arrival {
    Here,
    /// Once the device has passed it.
    At(Event),
    /// Where the driver gives no events: once the device has done all of its work.
    WithAll(usize),
}

impl Download {
    /// Starts the copy, behind what the device has been given so far.
    pub fn start(tensor: &Tensor) -> Result<Self, TchError> {
        let Device::Cuda(index) = tensor.device() else {
            return Ok(Self { host: tensor.f_contiguous()?, arrival: Arrival::Here });
        };
        let contiguous = tensor.f_contiguous()?;
        // To pinned memory, as LibTorch does for a copy that does not block.
        let host = contiguous.f_to_device_(Device::Cpu, Kind::Float, true, false)?;
        let arrival = Event::record(index).map_or(Arrival::WithAll(index), Arrival::At);
        Ok(Self { host, arrival })
    }

    /// Whether `wait` returns at once.
    pub fn is_here(&self) -> bool {
        matches!(self.arrival, Arrival::Here)
    }

    /// The values, row after row.
    ///
    /// # Errors
    /// What the device had to say of its work up to here.
    pub fn wait(self) -> Result<Vec<f32>, TchError> {
        match self.arrival {
            Arrival::Here => {}
            Arrival::At(event) => event.wait().map_err(TchError::Torch)?,
            Arrival::WithAll(index) => Cuda::synchronize(index as i64),
        }
        Vec::<f32>::try_from(self.host.f_view([-1])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_on_a_cpu_at_once() {
        let tensor = Tensor::from_slice(&[1.0_f32, 2.0, 3.0, 4.0]).view([2, 2]);
        let there = upload(&tensor, Device::Cpu).expect("a CPU");
        let back = Download::start(&there.transpose(0, 1)).expect("a CPU");
        assert!(back.is_here());
        assert_eq!(back.wait().expect("here"), [1.0, 3.0, 2.0, 4.0]);
    }
}
