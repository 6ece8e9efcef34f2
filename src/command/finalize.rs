//! `clipmill finalize`: checks every part of a job that was done in shares, and marks it complete.
//!
//! It makes no part and loads no model.

use super::observed::{observed, planned, whole};
use super::outcome::{About, summary};
use super::run::{say, warn};
use super::signals::Signals;
use super::{gates, pipeline, steps};
use crate::cli::{FinalizeArgs, JobArgs};
use crate::error::Error;
use crate::files::{self, Lock};
use crate::hub::Hub;
use crate::manifest::Manifest;
use crate::observe::Observer;
use crate::plan::{Allowed, Plan, Wanted};
use crate::progress::Meter;
use crate::report::RunReport;
use crate::source::Part;

pub fn finalize(args: &FinalizeArgs) -> Result<(), Error> {
    // Reading every part may take long.
    let signals = Signals::listen()?;
    let who = (args.job.pipeline.pipeline.as_path(), &args.observe, args.job.quiet);
    observed(who, &signals, |observer| finalize_observed(&args.job, observer))
}

fn finalize_observed(args: &JobArgs, observer: &Observer) -> Result<(), Error> {
    let plan = Plan::resolve(pipeline::read_layered(&args.pipeline, None)?, Hub::new(args.quiet))?;
    let dir = plan.output().to_owned();
    let made_with = plan.made_with()?;
    plan.check_output(&made_with, Allowed::default())?;
    observer.plans(planned(&plan));
    if files::list(&dir)?.is_empty() {
        // Taking the lock would make the folder.
        return Err(missing(&plan, &plan.parts));
    }
    let lock = Lock::take(&dir)?;
    let wanted = Wanted { check_all: true, ..Wanted::of(&plan.parts) };
    let resume = plan.resume(&made_with, wanted)?;
    warn(&resume);
    if !resume.remaining.is_empty() {
        // What was complete is not any more, and `run` does what the manifest does not have.
        plan.claim(&resume)?;
        return Err(missing(&plan, &resume.remaining));
    }
    let report = match RunReport::read(&dir)? {
        Some(report) if resume.is_complete() => {
            resume.forget_journals()?;
            Manifest::mark_complete(&dir)?;
            report
        }
        _ => {
            plan.claim(&resume)?;
            About::of(&plan).publish(&resume.manifest, &Meter::start())?
        }
    };
    observer.made(whole(&report, resume.manifest.parts.values()));
    drop(lock);
    say(args.quiet, &summary(&report))?;
    gates::check(&plan.spec, &report, &dir)?;
    say(args.quiet, &steps::run(&plan.spec, &dir, false)?)
}

/// What to say of parts that are not there. There is one at least.
fn missing(plan: &Plan, parts: &[Part]) -> Error {
    Error::PartsMissing {
        path: plan.output().to_owned(),
        missing: parts.len(),
        parts: plan.parts.len(),
        first: parts.first().map(Part::file_name).unwrap_or_default(),
    }
}
