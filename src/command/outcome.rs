//! What a run leaves of itself in words and numbers: its report, made of the plan, the manifest and the
//! scores in the parts, and the table that it ends with.
//!
//! What the report's fields are is in `report`; when it is written is the commands' affair.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::table;
use crate::analysis::summary::{Pair, ScoreSummary, SummaryColumns};
use crate::columns::Column;
use crate::error::{Error, RowStatus};
use crate::manifest::Manifest;
use crate::model::AtOnce;
use crate::plan::Plan;
use crate::progress::Meter;
use crate::report::{RunReport, SCHEMA_VERSION, Work};

/// What the report says of the plan, kept while the plan becomes the run.
pub(super) struct About {
    dir: PathBuf,
    scores: Vec<String>,
    used: (Option<String>, Option<String>),
    device: String,
    precision: String,
    batch_size: usize,
    threads: usize,
    pipeline: serde_json::Value,
}

impl About {
    pub(super) fn of(plan: &Plan) -> Self {
        let dir = plan.output().to_owned();
        let (image, caption) = plan.used_columns();
        // Lists of scores rank no rows.
        let is_one = |column: &&Column| column.field.data_type().is_numeric();
        let scores = plan.columns.iter().filter(|column| column.kind.is_score()).filter(is_one);
        Self {
            scores: scores.map(|column| column.name.clone()).collect(),
            used: (image.map(str::to_owned), caption.map(str::to_owned)),
            device: plan.device_names(),
            precision: plan.precision(),
            batch_size: plan.batch_size,
            threads: plan.threads,
            pipeline: serde_json::to_value(&plan.spec).expect("a pipeline is plain data"),
            dir,
        }
    }

    /// Writes the report of the whole output, and marks it complete.
    pub(super) fn publish(&self, manifest: &Manifest, meter: &Meter) -> Result<RunReport, Error> {
        let report = self.report(manifest, meter)?;
        report.write(&self.dir)?;
        Manifest::mark_complete(&self.dir)?;
        Ok(report)
    }

    fn report(&self, manifest: &Manifest, meter: &Meter) -> Result<RunReport, Error> {
        let this_run = Work::of(meter);
        let (image, caption) = (self.used.0.as_deref(), self.used.1.as_deref());
        let parts: Vec<_> = manifest.parts.keys().map(|name| self.dir.join(name)).collect();
        let mut scores = Vec::new();
        for score in &self.scores {
            let columns = SummaryColumns { score, image, caption };
            scores.extend(ScoreSummary::of(&parts, columns)?);
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
            schema_version: SCHEMA_VERSION,
            clipmill: env!("CARGO_PKG_VERSION").to_owned(),
            output: self.dir.clone(),
            rows,
            ok: statuses.iter().find(is_ok).map_or(0, |(_, n)| *n),
            failed,
            parts: parts.len() as u64,
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

/// Rows by status, as a table.
pub(super) fn counts(rows: u64, ok: u64, failed: &BTreeMap<String, u64>) -> String {
    let mut lines =
        vec![vec!["rows".to_owned(), table::count(rows)], vec!["ok".to_owned(), table::count(ok)]];
    for (status, n) in failed {
        lines.push(vec![format!("failed: {status}"), table::count(*n)]);
    }
    table::table(&[], lines, &[1])
}

/// The short table that a run ends with.
pub(super) fn summary(report: &RunReport) -> String {
    let mut text = format!("{}\n", counts(report.rows, report.ok, &report.failed));
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
