//! `clipmill transform`: a run between streams, where nothing else is said. It is a name for what engines
//! call, and nothing of its own.

use super::run;
use crate::cli::{JobArgs, ObserveArgs, RunArgs};
use crate::error::Error;

pub fn transform(args: JobArgs) -> Result<(), Error> {
    let JobArgs { mut pipeline, quiet } = args;
    for stream in [&mut pipeline.input, &mut pipeline.output] {
        stream.get_or_insert_with(|| "-".to_owned());
    }
    run::run(&RunArgs {
        pipeline,
        max_failed: None,
        min_median_similarity: None,
        max_drift: None,
        incremental: false,
        prune: false,
        parts: None,
        parts_of: None,
        redo_changed: false,
        retry_failed: false,
        also: None,
        observe: ObserveArgs::default(),
        quiet,
    })
}
