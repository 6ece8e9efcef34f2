//! Embeddings that a device may still be working on, and what a pass over a device takes.
//!
//! A GPU works behind the caller's back: its results are copied back when they are there, and
//! only `Pending::wait` waits for them, so that the caller can give it the next batch first. What
//! does not fit the device's memory is tried again in halves.

use std::cell::Cell;
use std::ops::Range;

use tch::TchError;

use crate::batch::Embeddings;
use crate::error::Error;

/// Waits for the device and gives what it computed.
pub type Wait = Box<dyn FnOnce() -> Result<Embeddings, Error>>;

/// Embeddings now or later.
pub enum Pending {
    /// Computed already, as on a CPU.
    Ready(Embeddings),
    /// Being computed.
    Later(Wait),
}

impl Pending {
    /// Whether `wait` returns at once.
    pub fn is_ready(&self) -> bool {
        matches!(self, Pending::Ready(_))
    }

    /// The embeddings, as soon as they are there.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn wait(self) -> Result<Embeddings, Error> {
        match self {
            Pending::Ready(embeddings) => Ok(embeddings),
            Pending::Later(wait) => wait(),
        }
    }
}

/// How much goes through a tower at once, in tokens.
#[derive(Debug)]
pub struct PassSize {
    tokens: Cell<usize>,
    halved: Cell<u32>,
}

impl PassSize {
    /// Passes of at most so many tokens, but at least one sequence.
    pub fn new(tokens: usize) -> Self {
        Self { tokens: Cell::new(tokens), halved: Cell::new(0) }
    }

    /// The most tokens of a pass now.
    pub fn tokens(&self) -> usize {
        self.tokens.get()
    }

    /// How often the device's memory was too small.
    pub fn halved(&self) -> u32 {
        self.halved.get()
    }

    /// Calls `pass` for runs of sequences, in order, until all are done. `lens` are the
    /// sequences' tokens. A run that the device's memory is too small for is done again in
    /// halves, and later runs are as small.
    ///
    /// # Errors
    /// Those of `pass`; out of memory when one sequence alone is too much.
    pub fn run<T>(
        &self,
        lens: &[usize],
        mut pass: impl FnMut(Range<usize>) -> Result<T, TchError>,
    ) -> Result<Vec<T>, TchError> {
        let mut done = Vec::new();
        let mut start = 0;
        while start < lens.len() {
            let mut tokens = 0;
            let fits = lens[start..].iter().take_while(|len| {
                tokens += **len;
                tokens <= self.tokens.get()
            });
            let run = start..start + fits.count().max(1);
            match pass(run.clone()) {
                Ok(result) => {
                    done.push(result);
                    start = run.end;
                }
                Err(error) if run.len() > 1 && is_out_of_memory(&error) => {
                    let tokens: usize = lens[run].iter().sum();
                    self.tokens.set(tokens / 2);
                    self.halved.set(self.halved.get() + 1);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// It is said in words alone: "CUDA out of memory. Tried to allocate ..." by LibTorch's allocator,
/// the other by cuBLAS, whose workspace is its own.
fn is_out_of_memory(error: &TchError) -> bool {
    let said = error.to_string();
    ["out of memory", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that takes at most so many sequences at once.
    fn device(most: usize) -> impl FnMut(Range<usize>) -> Result<Range<usize>, TchError> {
        let mut said = [
            "CUDA out of memory. Tried to allocate 2 GiB",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ]
        .into_iter()
        .cycle();
        move |run| match run.len() <= most {
            true => Ok(run),
            false => Err(TchError::Torch(said.next().unwrap_or_default().into())),
        }
    }

    #[test]
    fn runs_are_as_long_as_the_size_lets_them() {
        let size = PassSize::new(10);
        let runs = size.run(&[4, 4, 4, 12, 1, 1], device(9)).expect("it fits");
        assert_eq!(runs, [0..2, 2..3, 3..4, 4..6]);
        assert_eq!((size.tokens(), size.halved()), (10, 0));
    }

    #[test]
    fn what_does_not_fit_is_halved_until_it_does_and_stays_so() {
        let size = PassSize::new(1 << 20);
        let runs = size.run(&[50; 64], device(10)).expect("it fits in the end");
        assert_eq!(runs.iter().map(Range::len).sum::<usize>(), 64);
        assert!(runs.iter().all(|run| run.len() <= 10), "{runs:?}");
        assert_eq!((size.tokens(), size.halved()), (400, 3));
        size.run(&[50; 64], device(8)).expect("it fits at once");
        assert_eq!(size.halved(), 3);
    }

    #[test]
    fn one_sequence_that_does_not_fit_is_an_error_and_so_is_anything_else() {
        PassSize::new(100).run(&[50; 4], device(0)).expect_err("nothing fits");
        assert_eq!(PassSize::new(0).run(&[50; 3], device(1)).expect("one by one").len(), 3);
        let broken = |_| -> Result<(), _> { Err(TchError::Torch("device-side assert".into())) };
        let size = PassSize::new(100);
        size.run(&[50; 4], broken).expect_err("it is broken");
        assert_eq!(size.halved(), 0);
    }
}
