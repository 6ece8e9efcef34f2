//! `clipmill run`: plan, drive the stages, write the report, show what came out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGINT, SIGTERM};

use super::{pipeline, table};
use crate::analysis::summary::{Pair, ScoreSummary, SummaryColumns};
use crate::cli::RunArgs;
use crate::error::{Error, RowStatus};
use crate::files::Lock;
use crate::manifest::Manifest;
use crate::model::AtOnce;
use crate::plan::Plan;
use crate::progress::{self, Meter, Progress, Stage};
use crate::report::{RunReport, StageWork, Work, peak_memory};
use crate::run::{Stop, run as run_stages};
use crate::source::Part;
use crate::spec::layers::Override;

pub fn run(args: &RunArgs) -> Result<(), Error> {
    let max_failed = args
        .max_failed
        .map(|most| Override::flag("--max-failed", "run.max_failed", most.to_string()));
    let mut plan = Plan::resolve(pipeline::read_layered(&args.pipeline, max_failed)?)?;
    let (dir, max_failed) = (plan.output().to_owned(), plan.spec.run.max_failed);
    if Manifest::read(&dir)?.is_none() {
        // Nothing is done yet, so there is work for the model, and digesting it takes a while.
        plan.start_loading()?;
    }
    let made_with = plan.made_with()?;
    // Before the lock: a folder that is somebody else's is refused without a trace in it.
    plan.manifest(&made_with)?;
    let _lock = Lock::take(&dir)?;
    let manifest = plan.manifest(&made_with)?;
    let report = match (RunReport::read(&dir)?, plan.remaining(&manifest)) {
        (Some(report), parts) if parts.is_empty() => {
            // Missing only where a run was killed after its report.
            Manifest::mark_complete(&dir)?;
            say(args, &format!("{} is complete already: nothing to do\n\n", dir.display()))?;
            report
        }
        (_, parts) => work_on(args, plan, parts, manifest)?,
    };
    say(args, &summary(&report))?;
    let failed = report.rows - report.ok;
    match max_failed {
        Some(most) if most.exceeded(failed, report.rows) => Err(Error::TooManyFailed {
            failed,
            rows: report.rows,
            allowed: most.to_string(),
            output: dir,
        }),
        _ => Ok(()),
    }
}

/// Does the parts that are left and writes the report of the whole output.
fn work_on(
    args: &RunArgs,
    plan: Plan,
    parts: Vec<Part>,
    mut manifest: Manifest,
) -> Result<RunReport, Error> {
    let about = About::of(&plan);
    let meter = Arc::new(Meter::start());
    if !parts.is_empty() {
        announce(args, &plan, parts.len());
        let rows = parts.iter().map(|part| part.rows).sum();
        let mut progress = Progress::new(rows, args.quiet);
        let stages = plan.stages(parts, manifest)?;
        manifest = run_stages(stages, &meter, &mut progress, &stop_on_signals()?)?;
    }
    let report = about.report(&manifest, &meter)?;
    report.write(&about.dir)?;
    Manifest::mark_complete(&about.dir)?;
    Ok(report)
}

/// What Ctrl-C and SIGTERM raise. A second signal ends the process at once.
fn stop_on_signals() -> Result<Arc<Stop>, Error> {
    let (stop, again) = (Stop::default(), Arc::new(AtomicBool::new(false)));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds the flag down and only raises it.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, again.clone())
            .and_then(|_| signal_hook::flag::register(signal, again.clone()))
            .and_then(|_| {
                signal_hook::flag::register_usize(signal, stop.0.clone(), signal as usize)
            })
            .map_err(|source| Error::Thread { stage: "signal", source })?;
    }
    Ok(Arc::new(stop))
}

fn say(args: &RunArgs, text: &str) -> Result<(), Error> {
    if args.quiet { Ok(()) } else { table::print(text) }
}

/// One line before the work, on stderr with the progress: what runs, on what.
fn announce(args: &RunArgs, plan: &Plan, parts: usize) {
    if args.quiet {
        return;
    }
    let done = plan.parts.len() - parts;
    let going_on = match done {
        0 => String::new(),
        done => format!(", going on after {} complete", table::counted(done as u64, "part")),
    };
    progress::say(&format!(
        "{} in {}{going_on}; {}, batches of {}, {}",
        table::counted(plan.rows(), "row"),
        table::counted(plan.parts.len() as u64, "part"),
        plan.runs_on(),
        plan.batch_size,
        table::counted(plan.threads as u64, "CPU thread")
    ));
}

/// What the report says of the plan, kept while the plan becomes the run.
struct About {
    dir: PathBuf,
    parts: Vec<PathBuf>,
    scores: Vec<String>,
    used: (Option<String>, Option<String>),
    device: String,
    precision: String,
    batch_size: usize,
    threads: usize,
    pipeline: serde_json::Value,
}

impl About {
    fn of(plan: &Plan) -> Self {
        let dir = plan.output().to_owned();
        let (image, caption) = plan.used_columns();
        let scores = plan.columns.iter().filter(|column| column.kind.is_score());
        Self {
            parts: plan.parts.iter().map(|part| dir.join(part.file_name())).collect(),
            scores: scores.map(|column| column.name.clone()).collect(),
            used: (image.map(str::to_owned), caption.map(str::to_owned)),
            device: plan.device_names(),
            precision: plan.precision().to_owned(),
            batch_size: plan.batch_size,
            threads: plan.threads,
            pipeline: serde_json::to_value(&plan.spec).expect("a pipeline is plain data"),
            dir,
        }
    }

    fn report(&self, manifest: &Manifest, meter: &Meter) -> Result<RunReport, Error> {
        let this_run = work(meter);
        let (image, caption) = (self.used.0.as_deref(), self.used.1.as_deref());
        let mut scores = Vec::new();
        for score in &self.scores {
            let columns = SummaryColumns { score, image, caption };
            scores.extend(ScoreSummary::of(&self.parts, columns)?);
        }
        let statuses = manifest.statuses();
        let rows = statuses.iter().map(|(_, n)| n).sum();
        let is_ok = |(status, _): &&(RowStatus, u64)| *status == RowStatus::Ok;
        let failed: BTreeMap<_, _> = statuses
            .iter()
            .filter(|status| !is_ok(status))
            .map(|(status, n)| (status.to_string(), *n))
            .collect();
        Ok(RunReport {
            clipmill: env!("CARGO_PKG_VERSION").to_owned(),
            output: self.dir.clone(),
            rows,
            ok: statuses.iter().find(is_ok).map_or(0, |(_, n)| *n),
            failed,
            parts: self.parts.len() as u64,
            scores,
            this_run,
            device: self.device.clone(),
            precision: self.precision.clone(),
            batch_size: self.batch_size,
            threads: self.threads,
            pipeline: self.pipeline.clone(),
        })
    }
}

fn work(meter: &Meter) -> Work {
    let stages = Stage::ALL.map(|stage| {
        let busy_seconds = meter.busy(stage).as_secs_f64();
        let rows_per_second = meter.rows() as f64 / busy_seconds.max(1e-9);
        StageWork { stage: stage.as_str().to_owned(), busy_seconds, rows_per_second }
    });
    Work {
        rows: meter.rows(),
        seconds: meter.elapsed().as_secs_f64(),
        stages: stages.to_vec(),
        devices: meter.devices(),
        peak_memory: peak_memory(),
    }
}

/// The short table that a run ends with.
fn summary(report: &RunReport) -> String {
    let mut rows = vec![
        vec!["rows".to_owned(), table::count(report.rows)],
        vec!["ok".to_owned(), table::count(report.ok)],
    ];
    for (status, n) in &report.failed {
        rows.push(vec![format!("failed: {status}"), table::count(*n)]);
    }
    let mut text = format!("{}\n", table::table(&[], rows, &[1]));
    for score in &report.scores {
        text += &score_summary(score);
    }
    text += &speed(report);
    text + &format!("\n Output: {}\n", report.output.display())
}

fn score_summary(score: &ScoreSummary) -> String {
    let header: Vec<String> =
        score.quantiles.iter().map(|(q, _)| format!("{}%", q * 100.0)).collect();
    let mut header: Vec<&str> = header.iter().map(String::as_str).collect();
    header.insert(0, "quantile");
    header.push("mean");
    let mut row = vec![score.column.clone()];
    row.extend(score.quantiles.iter().map(|(_, value)| format!("{value:.3}")));
    row.push(format!("{:.3}", score.mean));
    let right: Vec<usize> = (1..header.len()).collect();
    format!(
        "\n{}\n\n Worst pairs by {}\n{}\n\n Best pairs by {}\n{}\n",
        table::table(&header, vec![row], &right),
        score.column,
        pairs(&score.worst),
        score.column,
        pairs(&score.best),
    )
}

fn pairs(pairs: &[Pair]) -> String {
    let text = |value: &Option<String>| table::one_line(value.as_deref().unwrap_or(""), 60);
    let rows = pairs
        .iter()
        .map(|pair| vec![format!("{:+.3}", pair.score), text(&pair.image), text(&pair.caption)]);
    table::table(&[], rows.collect(), &[0])
}

/// What to know of devices whose memory was too small for their passes.
fn halved(devices: &[AtOnce]) -> String {
    let halved = devices.iter().filter(|device| device.halved > 0);
    let lines = halved.map(|device| {
        let images = device.images.map(|n| table::counted(n as u64, "image"));
        format!(
            " {} was short of memory {}: it took {} at once in the end\n",
            device.device,
            table::counted(device.halved.into(), "time"),
            images.unwrap_or_else(|| "fewer captions".to_owned())
        )
    });
    lines.collect()
}

fn speed(report: &RunReport) -> String {
    let work = &report.this_run;
    let rows = work.stages.iter().map(|stage| {
        vec![
            stage.stage.clone(),
            format!("{:.2}", stage.busy_seconds),
            format!("{:.0}", stage.rows_per_second),
        ]
    });
    let memory = work.peak_memory.map(|peak| format!(", {} of memory", table::bytes(peak)));
    format!(
        "\n{}\n\n {} rows in {:.1} s ({:.1} rows/s) on {} in {}{}\n{}",
        table::table(&["stage", "busy s", "rows/s alone"], rows.collect(), &[1, 2]),
        table::count(work.rows),
        work.seconds,
        work.rows as f64 / work.seconds.max(1e-9),
        report.device,
        report.precision,
        memory.unwrap_or_default(),
        halved(&work.devices),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_was_short_of_memory_is_mentioned() {
        let device = "cuda:1".to_owned();
        let at_once = |halved| {
            let device = device.clone();
            AtOnce { device, images: Some(128), tokens: Some(6400), halved }
        };
        assert_eq!(halved(&[at_once(0)]), "");
        let said = halved(&[at_once(0), at_once(2)]);
        assert_eq!(
            said,
            " cuda:1 was short of memory 2 times: it took 128 images at once in the end\n"
        );
    }
}
