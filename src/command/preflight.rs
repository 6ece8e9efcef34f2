//! `clipmill preflight`: the child process that reads the footers of a run's input files first.
//!
//! Not for people: `plan` starts it.

use crate::contain::limit_memory;
use crate::error::Error;
use crate::source::preflight::{HEAP_BYTES, examine, serve};

pub fn preflight() -> Result<(), Error> {
    limit_memory(HEAP_BYTES).map_err(Error::io("limit the memory of", "this process"))?;
    let served = serve(std::io::stdin().lock(), std::io::stdout().lock(), examine);
    served.map_err(Error::io("talk on", "stdin and stdout"))
}
