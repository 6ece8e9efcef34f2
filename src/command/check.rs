//! `clipmill check`: resolve a pipeline and say that it can run, or what is wrong.

use super::{pipeline, steps, table};
use crate::cli::PipelineArgs;
use crate::error::Error;
use crate::hub::Hub;
use crate::plan::{Plan, Wanted};

pub fn check(args: &PipelineArgs) -> Result<(), Error> {
    let plan = Plan::resolve(pipeline::read_layered(args, None)?, Hub::Shown)?;
    steps::rehearse(&plan)?;
    let left = plan.resume(&plan.made_with()?, Wanted::of(&plan.parts))?.remaining.len();
    let state = match (left, plan.parts.len()) {
        (left, all) if left == all => format!("{} to do", table::counted(all as u64, "part")),
        (0, _) => "complete already: a run would do nothing".to_owned(),
        (left, all) => format!("{left} of {all} parts left to do"),
    };
    table::print(&format!(
        "{} can run: {}, {state}\n",
        args.pipeline.display(),
        table::counted(plan.rows(), "row")
    ))
}
