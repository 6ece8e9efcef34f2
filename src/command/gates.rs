//! What a finished output has to be like: `max_failed`, `min_median_similarity`, `max_drift`.
//!
//! The output is complete whatever they say; a scheduler is told by the exit code not to hand it on.
//! They are asked of the whole output, also where there was nothing to do.

use std::path::Path;

use crate::analysis::summary::ScoreSummary;
use crate::error::Error;
use crate::report::RunReport;
use crate::spec::PipelineSpec;

/// The quantiles whose change is drift: of the tails, few rows tell.
const QUARTILES: [f64; 3] = [0.25, 0.5, 0.75];

/// Holds a whole output against the pipeline's gates. Where all are open, later ones are compared with
/// it.
///
/// # Errors
/// `TooManyFailed`, `Gate`.
pub fn check(spec: &PipelineSpec, report: &RunReport, dir: &Path) -> Result<(), Error> {
    failed(spec, (report.rows - report.ok, report.rows), dir)?;
    let closed = |problem: String| Err(Error::Gate { problem, output: dir.to_owned() });
    if let Some(least) = spec.run.min_median_similarity {
        let medians: Vec<_> = report
            .scores
            .iter()
            .filter(|score| is_similarity(spec, &score.column))
            .filter_map(|score| Some((&score.column, quantile(score, 0.5)?)))
            .collect();
        if medians.is_empty() && report.rows > 0 {
            return closed("no row has a similarity, so there is no median".to_owned());
        }
        if let Some((column, median)) = medians.iter().find(|(_, median)| *median < least) {
            return closed(format!(
                "the median of {column} is {median:.4}: run.min_median_similarity asks for {least}"
            ));
        }
    }
    let Some(most) = spec.run.max_drift else { return Ok(()) };
    let baseline = RunReport::read_baseline(dir)?;
    if let Some(before) = &baseline {
        let is_gone = |was: &&ScoreSummary| {
            let is_declared = spec.columns.contains_key(&was.column);
            is_declared && !report.scores.iter().any(|score| score.column == was.column)
        };
        if let Some(gone) = before.scores.iter().find(is_gone).filter(|_| report.rows > 0) {
            return closed(format!("no row has a {} any more", gone.column));
        }
        if let Some(drift) = drift(before, report).filter(|drift| drift.by() > most) {
            return closed(format!(
                "{} has drifted: its {} was {:.4} and is {:.4}, and run.max_drift is {most}",
                drift.column,
                quartile(drift.quantile),
                drift.was,
                drift.is
            ));
        }
    }
    match baseline.is_some_and(|before| before.is_of(report)) {
        true => Ok(()),
        false => report.make_baseline(dir),
    }
}

/// Holds how many rows failed, of how many, against `max_failed`.
///
/// # Errors
/// `TooManyFailed`.
pub fn failed(spec: &PipelineSpec, (failed, rows): (u64, u64), dir: &Path) -> Result<(), Error> {
    match spec.run.max_failed {
        Some(most) if most.exceeded(failed, rows) => {
            let (allowed, output) = (most.to_string(), dir.to_owned());
            Err(Error::TooManyFailed { failed, rows, allowed, output })
        }
        _ => Ok(()),
    }
}

/// How far a quantile of a score moved.
#[derive(Debug, Clone, PartialEq)]
struct Drift {
    column: String,
    quantile: f64,
    was: f64,
    is: f64,
}

impl Drift {
    fn by(&self) -> f64 {
        (self.is - self.was).abs()
    }
}

/// The quartile of a score that moved most, of the scores that both reports have.
fn drift(before: &RunReport, now: &RunReport) -> Option<Drift> {
    let of_score = |score: &ScoreSummary| {
        let then = before.scores.iter().find(|then| then.column == score.column)?;
        let moved = QUARTILES.into_iter().filter_map(|q| {
            let (was, is) = (quantile(then, q)?, quantile(score, q)?);
            Some(Drift { column: score.column.clone(), quantile: q, was, is })
        });
        moved.max_by(|a, b| a.by().total_cmp(&b.by()))
    };
    now.scores.iter().filter_map(of_score).max_by(|a, b| a.by().total_cmp(&b.by()))
}

fn quantile(score: &ScoreSummary, wanted: f64) -> Option<f64> {
    score.quantiles.iter().find(|(q, _)| *q == wanted).map(|(_, value)| *value)
}

fn quartile(q: f64) -> &'static str {
    match q {
        0.25 => "lower quartile",
        0.75 => "upper quartile",
        _ => "median",
    }
}

/// Whether a column is a cosine similarity.
fn is_similarity(spec: &PipelineSpec, column: &str) -> bool {
    let declared = spec.columns.get(column);
    declared.is_some_and(|declared| declared.kind.is_cosine())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(quantiles: &[(f64, f64)]) -> RunReport {
        let score = serde_json::json!({
            "column": "similarity", "scored": 9, "mean": 0.0, "min": 0.0, "max": 0.0,
            "quantiles": quantiles, "worst": [], "best": [],
        });
        let at = "2026-01-01T03:00:00Z";
        let work = serde_json::json!({
            "started": at, "finished": at, "rows": 9, "seconds": 1.0, "stages": [],
        });
        serde_json::from_value(serde_json::json!({
            "schema_version": 1, "clipmill": "0", "output": "out", "rows": 9, "ok": 9,
            "failed": {}, "parts": 1, "scores": [score], "this_run": work, "device": "cpu", "precision": "f32",
            "batch_size": 1, "threads": 1, "pipeline": {},
        }))
        .expect("a report")
    }

    #[test]
    fn drift_is_that_of_the_quartile_that_moved_most() {
        let before = report(&[(0.01, 0.0), (0.25, 0.2), (0.5, 0.3), (0.75, 0.4)]);
        let now = report(&[(0.01, -0.9), (0.25, 0.19), (0.5, 0.25), (0.75, 0.41)]);
        let found = drift(&before, &now).expect("the same score");
        assert_eq!((found.quantile, found.was, found.is), (0.5, 0.3, 0.25));
        assert_eq!(drift(&report(&[]), &now), None);
    }
}
