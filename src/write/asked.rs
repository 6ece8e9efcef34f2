//! Parts that are asked for one by one, as `parts` writes them. There is no whole here that could be
//! complete, and no manifest.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{PartWriter, Writer};
use crate::batch::EncodedBatch;
use crate::error::Error;

/// Writes the parts that somebody asks for.
pub struct AskedWriter {
    parts: PartWriter,
    /// Parts that were asked for and are not complete.
    open: Arc<AtomicUsize>,
}

impl AskedWriter {
    /// `open` goes up with every part that is asked for, and down here.
    pub fn new(parts: PartWriter, open: Arc<AtomicUsize>) -> Self {
        Self { parts, open }
    }
}

impl Writer for AskedWriter {
    type Done = ();

    fn write(&mut self, batch: &EncodedBatch) -> Result<u64, Error> {
        let failed = self.parts.write(batch)?;
        if batch.position.last {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(failed)
    }

    fn interrupted(&self, signal: i32) -> Error {
        self.parts.interrupted(signal)
    }

    fn is_complete(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn complete(self) -> Result<(), Error> {
        match self.is_complete() {
            true => Ok(()),
            false => Err(Error::StagePanicked { stage: "write" }),
        }
    }
}
