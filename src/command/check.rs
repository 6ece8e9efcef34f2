//! `clipmill check`: resolve a pipeline and say that it can run, or what is wrong.

use super::{pipeline, table};
use crate::cli::PipelineArgs;
use crate::error::Error;
use crate::plan::Plan;

pub fn check(args: &PipelineArgs) -> Result<(), Error> {
    let plan = Plan::resolve(pipeline::read_layered(args, None)?)?;
    let manifest = plan.manifest()?;
    let left = plan.remaining(&manifest).len();
    let state = match (left, plan.parts.len()) {
        (left, all) if left == all => format!("{} parts to do", table::count(all as u64)),
        (0, _) => "complete already: a run would do nothing".to_owned(),
        (left, all) => format!("{left} of {all} parts left to do"),
    };
    table::print(&format!(
        "{} can run: {} rows, {state}\n",
        args.pipeline.display(),
        table::count(plan.rows())
    ))
}
