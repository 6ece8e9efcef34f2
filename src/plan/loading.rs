//! Models on their way to the devices, on threads of their own.
//!
//! Loading may begin while the plan still digests the weights, which takes as long. What a model
//! is loaded from is the plan's affair.

use std::thread::{Builder, JoinHandle};

use crate::error::Error;
use crate::model::DualEncoder;
use crate::run::LoadModels;

/// A device's models or why there are none.
type Loaded = Result<Vec<Box<dyn DualEncoder>>, Error>;

/// Models that are being loaded. Dropped, it waits: LibTorch must not be at work when the process
/// ends.
pub struct Loading(Option<JoinHandle<Loaded>>);

impl Loading {
    /// Begins.
    ///
    /// # Errors
    /// `Thread` where the system gives no thread.
    pub fn start(load: LoadModels) -> Result<Self, Error> {
        let thread = Builder::new().name("load".to_owned()).spawn(load);
        let thread = thread.map_err(|source| Error::Thread { stage: "load", source })?;
        Ok(Self(Some(thread)))
    }

    /// The models, once they are there.
    pub fn wait(mut self) -> Loaded {
        let thread = self.0.take().expect("only taken here and when dropped");
        thread.join().unwrap_or(Err(Error::StagePanicked { stage: "encode" }))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // Nobody asks for the model any more, or for what went wrong with it.
            drop(thread.join());
        }
    }
}
