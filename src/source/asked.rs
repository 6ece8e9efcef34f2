//! Parts that are asked for one after another, by whoever hands them out.
//!
//! What is in a part, another source reads; when nobody will ask for more, there is no more.

use std::sync::mpsc::Receiver;

use super::{Part, Source};
use crate::batch::RowBatch;
use crate::error::Error;

/// Makes the source of one part.
pub type Open = Box<dyn Fn(Part) -> Box<dyn Source> + Send>;

/// Reads parts as they come.
pub struct AskedSource {
    asked: Receiver<Part>,
    open: Open,
    at: Option<Box<dyn Source>>,
}

impl AskedSource {
    pub fn new(asked: Receiver<Part>, open: Open) -> Self {
        Self { asked, open, at: None }
    }
}

impl Source for AskedSource {
    /// Waits for a part where none is left.
    fn next_batch(&mut self) -> Result<Option<RowBatch>, Error> {
        loop {
            if let Some(source) = &mut self.at
                && let Some(batch) = source.next_batch()?
            {
                return Ok(Some(batch));
            }
            let Ok(part) = self.asked.recv() else { return Ok(None) };
            self.at = Some((self.open)(part));
        }
    }
}
