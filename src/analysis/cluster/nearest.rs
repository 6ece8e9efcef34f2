//! The nearest centroid of each vector: one matrix product on the device.
//!
//! For unit vectors `|x - c|^2 = 1 + |c|^2 - 2 x.c`, so the product decides. Sums are not made
//! here: on CUDA their order would be another each time.

use tch::{Device, Kind, TchError, Tensor};

use super::Centroids;
use crate::error::Error;

/// Products that are held at once: 64 MiB of f32.
const PRODUCTS: usize = 16 << 20;

/// Centroids on a device.
pub struct Nearest {
    device: Device,
    dim: usize,
    k: usize,
    /// `[dim, k]`: each centroid, times -2.
    weights: Tensor,
    /// `[k]`: each centroid's squared length.
    squares: Tensor,
}

/// For each vector, in order.
#[derive(Default)]
pub struct Found {
    pub labels: Vec<u32>,
    /// The squared distance, to about 1e-6.
    pub squared: Vec<f32>,
}

impl Nearest {
    /// # Errors
    /// What LibTorch refuses, as do the others.
    pub fn new(centroids: &Centroids, device: Device) -> Result<Self, Error> {
        let (dim, k) = (centroids.dim, centroids.k());
        let place = || {
            let c = upload(&centroids.values, dim, device)?;
            let squares = c.f_square()?.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
            let weights = c.f_transpose(0, 1)?.f_mul_scalar(-2.0)?.f_contiguous()?;
            Ok(Self { device, dim, k, weights, squares })
        };
        place().map_err(Error::torch("put the centroids on the device"))
    }

    /// Of packed unit vectors.
    pub fn of(&self, vectors: &[f32]) -> Result<Found, Error> {
        let x = upload(vectors, self.dim, self.device);
        self.of_tensor(&x.map_err(Error::torch("put vectors on the device"))?)
    }

    /// Of unit vectors on the device, `[n, dim]`.
    pub fn of_tensor(&self, x: &Tensor) -> Result<Found, Error> {
        self.find(x).map_err(Error::torch("find the nearest centroids"))
    }

    fn find(&self, x: &Tensor) -> Result<Found, TchError> {
        let n = x.size()[0];
        let at_once = (PRODUCTS / self.k.max(1)).clamp(64, 65_536) as i64;
        let mut found = Found::default();
        for start in (0..n).step_by(at_once as usize) {
            let some = x.f_narrow(0, start, at_once.min(n - start))?;
            let (values, labels) =
                self.squares.f_addmm(&some, &self.weights)?.f_min_dim(1, false)?;
            found.labels.extend(download::<i64>(&labels)?.into_iter().map(|label| label as u32));
            let squared = download::<f32>(&values)?;
            found.squared.extend(squared.into_iter().map(|value| (value + 1.0).max(0.0)));
        }
        Ok(found)
    }
}

/// Packed vectors as a tensor, `[n, dim]`.
pub fn upload(vectors: &[f32], dim: usize, device: Device) -> Result<Tensor, TchError> {
    let n = (vectors.len() / dim.max(1)) as i64;
    Tensor::f_from_slice(vectors)?.f_view([n, dim as i64])?.f_to_device(device)
}

/// The values of a tensor, row after row.
pub fn download<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Result<Vec<T>, TchError> {
    Vec::<T>::try_from(tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_view([-1])?)
}
