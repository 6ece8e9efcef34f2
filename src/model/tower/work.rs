//! How much of its work a tower does in one pass, from its sizes and the device's memory.

use tch::Device;

use crate::model::architecture::{Activation, TowerConfig, Vision};
use crate::model::device::{self, Placement};
use crate::model::pending::PassSize;

/// Numbers that a tower has in memory, for each token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// In the widest activation.
    widest: usize,
    /// In all that are there at a time.
    at_once: usize,
}

impl Work {
    /// A block keeps about ten activations of its width and two of the perceptron's at a time.
    pub fn of_blocks(tower: &TowerConfig) -> Self {
        // A gate is as wide as what it opens for.
        let gates = 1 + usize::from(tower.activation == Activation::SwiGlu);
        let (width, mlp) = (tower.width as usize, gates * tower.mlp_width as usize);
        Self { widest: mlp, at_once: 10 * width + 2 * mlp }
    }

    /// A FastViT keeps what its first convolution gives, in f32, and less than as much again; the
    /// rest is what libraries want for themselves.
    pub fn of_image(vision: &Vision) -> Self {
        match vision {
            Vision::Transformer(config) => Self::of_blocks(&config.tower),
            Vision::FastVit(config) => {
                let widest = (config.widest() / vision.tokens()) as usize;
                Self { widest, at_once: 8 * widest }
            }
        }
    }
}

/// How many tokens go through a tower at once.
///
/// On a CPU the widest activation stays under 12 MB, so that the allocator recycles it instead
/// of asking the kernel for fresh pages. A GPU takes what half of its free memory holds.
pub(super) fn pass_size(placement: Placement, work: Work) -> PassSize {
    /// Larger passes than this make no GPU faster.
    const MOST: usize = 1 << 17;
    /// Where the driver does not say.
    const UNKNOWN: usize = 1 << 15;
    // Weights of a stranger may be of no width.
    let token_bytes = work.at_once.max(1) * placement.kind.elt_size_in_bytes();
    PassSize::new(match placement.device {
        Device::Cuda(index) => match device::free_memory(index) {
            Some(free) => (free as usize / 2 / token_bytes).min(MOST),
            None => UNKNOWN,
        },
        _ => (12 << 20) / (work.widest.max(1) * 4),
    })
}
