//! `--metrics`: a run as Prometheus reads it, for the textfile collector of its node_exporter.
//!
//! The text is that of the exposition format 0.0.4, with names as Prometheus' naming rules have
//! them. All are gauges: each run begins anew. There is no server here.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::Known;
use crate::clock::timestamp;
use crate::error::{Error, RowStatus};
use crate::log::Event;
use crate::report::{Work, peak_memory};

/// The one number that outlives a run.
const LAST_SUCCESS: &str = "clipmill_last_success_timestamp_seconds";

/// The file, and what the last run left in it.
pub struct MetricsFile {
    path: PathBuf,
    /// When a run last ended well, in seconds since 1970.
    last_success: Option<f64>,
    /// Whether it has been said that the file cannot be written.
    is_said: AtomicBool,
}

impl MetricsFile {
    /// Writes the file for a run that begins.
    ///
    /// # Errors
    /// `Setting` where that cannot be done.
    pub fn begin(path: PathBuf, known: &Known) -> Result<Self, Error> {
        let is_other = std::fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file());
        if is_other {
            let problem = format!("{} is no regular file: name one, or a new one", path.display());
            return Err(Error::Setting { key: "--metrics".into(), problem });
        }
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        let file =
            Self { path, last_success: last_success(&before), is_said: AtomicBool::default() };
        file.try_write(known).map_err(|source| {
            let problem = format!(
                "could not write {}: {source}; name a file in a folder that is there and may be \
                 written to",
                file.path.display()
            );
            Error::Setting { key: "--metrics".into(), problem }
        })?;
        Ok(file)
    }

    /// Replaces the file by what is known now. The run does not fail where that fails, and says so
    /// once, until it goes well again.
    pub fn write(&self, known: &Known) {
        let written = self.try_write(known);
        let was_said = self.is_said.swap(written.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (written, was_said) {
            let message = format!("could not write the metrics {}: {error}", self.path.display());
            Event::warning(message).with_path("path", &self.path).say();
        }
    }

    /// Whole or not at all, readable by the collector, under a name that it does not read before.
    fn try_write(&self, known: &Known) -> io::Result<()> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let mut file = tempfile::Builder::new()
            .prefix(".clipmill-metrics-")
            .suffix(".tmp")
            .tempfile_in(dir.unwrap_or(Path::new(".")))?;
        file.write_all(text(known, self.last_success).as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map(drop).map_err(|failed| failed.error)
    }
}

/// When a run last ended well, as an earlier file has it.
fn last_success(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(LAST_SUCCESS))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// All metrics of a run.
fn text(known: &Known, last_success: Option<f64>) -> String {
    let mut page = Page::of(known);
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.add("build_info", "The program that ran.", [(&version[..], 1.0)]);
    of_run(&mut page, known, last_success);
    of_work(&mut page, known);
    of_output(&mut page, known);
    page.text
}

fn of_run(page: &mut Page, known: &Known, last_success: Option<f64>) {
    let ended = known.ended.as_ref();
    let until = ended.map_or_else(SystemTime::now, |ended| ended.at);
    let took = until.duration_since(known.started).unwrap_or_default().as_secs_f64();
    let is_success = ended.map(|ended| ended.exit_code == 0);
    let running = f64::from(u8::from(ended.is_none()));
    page.one("run_running", "1 while the run is at work, 0 once it has ended.", running);
    page.one("run_start_timestamp_seconds", "When the run began.", timestamp(known.started));
    page.some(
        "run_end_timestamp_seconds",
        "When the run ended.",
        ended.map(|ended| timestamp(ended.at)),
    );
    page.one("run_duration_seconds", "Time that the run has taken, until now or its end.", took);
    page.some(
        "run_success",
        "1 if the run ended with exit code 0, else 0; absent while it is at work.",
        is_success.map(|success| f64::from(u8::from(success))),
    );
    page.some(
        "run_exit_code",
        "The exit code of the run that ended.",
        ended.map(|ended| f64::from(ended.exit_code)),
    );
    let now = ended.filter(|ended| ended.exit_code == 0).map(|ended| timestamp(ended.at));
    page.some(
        &LAST_SUCCESS["clipmill_".len()..],
        "When a run that wrote to this file last ended with exit code 0.",
        now.or(last_success),
    );
}

fn of_work(page: &mut Page, known: &Known) {
    let plan = known.plan.as_ref();
    let n = |count: Option<u64>| count.map(|n| n as f64);
    page.some("plan_rows", "Rows that the plan reads.", n(plan.and_then(|plan| plan.rows)));
    page.some("plan_parts", "Part files that it writes.", n(plan.and_then(|plan| plan.parts)));
    let meter = known.meter.as_deref();
    let rows = meter.map_or(0, |meter| meter.rows());
    let failed = meter.map_or(0, |meter| meter.failed());
    page.one("run_rows", "Rows that have passed all stages in this run.", rows as f64);
    page.one("run_failed_rows", "Rows among them that failed.", failed as f64);
    if let Some(work) = meter.map(Work::of) {
        page.one(
            "run_work_seconds",
            "Time that the stages have taken, loading the model included.",
            work.seconds,
        );
        let stages: Vec<_> = work
            .stages
            .iter()
            .map(|stage| ([("stage", stage.stage.as_str())], stage.busy_seconds))
            .collect();
        page.add(
            "run_stage_busy_seconds",
            "Time that each stage was at work, waiting left out.",
            stages.iter().map(|(labels, seconds)| (&labels[..], *seconds)),
        );
    }
    page.some("run_peak_memory_bytes", "Peak resident memory of the run.", n(peak_memory()));
}

fn of_output(page: &mut Page, known: &Known) {
    let Some(made) = known.made.as_ref().filter(|made| made.is_whole) else { return };
    let failed = |status: RowStatus| made.failed.get(status.as_str()).copied().unwrap_or(0);
    let statuses = RowStatus::ALL.map(|status| {
        let rows = if status == RowStatus::Ok { made.ok() } else { failed(status) };
        ([("status", status.as_str())], rows as f64)
    });
    page.add(
        "rows",
        "Rows of the whole output by status.",
        statuses.iter().map(|(labels, rows)| (&labels[..], *rows)),
    );
    page.one("parts", "Part files of the whole output.", made.size.files as f64);
    page.one("output_bytes", "Bytes of these files.", made.size.bytes as f64);
    let scores = || made.scores.iter().map(|score| (score, ("column", score.column.as_str())));
    let means: Vec<_> = scores().map(|(score, column)| ([column], score.mean)).collect();
    page.add(
        "score_mean",
        "Mean of a score column of the whole output.",
        means.iter().map(|(labels, mean)| (&labels[..], *mean)),
    );
    let scored: Vec<_> = scores().map(|(score, column)| ([column], score.scored as f64)).collect();
    page.add(
        "scored_rows",
        "Rows that have a score in the column.",
        scored.iter().map(|(labels, rows)| (&labels[..], *rows)),
    );
    let quantiles: Vec<_> = scores()
        .flat_map(|(score, column)| score.quantiles.iter().map(move |(q, at)| (column, q, at)))
        .map(|(column, q, at)| (column, q.to_string(), *at))
        .collect();
    let labels: Vec<_> =
        quantiles.iter().map(|(column, q, at)| ([*column, ("quantile", q)], *at)).collect();
    page.add(
        "score_quantile",
        "Quantiles of a score column of the whole output.",
        labels.iter().map(|(labels, at)| (&labels[..], *at)),
    );
}

/// A label's name and value.
type Label<'a> = (&'a str, &'a str);

/// The text as it grows.
struct Page {
    text: String,
    /// Labels that every sample has, so that jobs can share a folder.
    common: String,
}

impl Page {
    fn of(known: &Known) -> Self {
        let output = known.plan.as_ref().and_then(|plan| plan.outputs.first());
        let output = output.map(|data| data.path.to_string_lossy()).unwrap_or_default();
        let common =
            format!("pipeline=\"{}\",output=\"{}\"", escaped(&known.pipeline), escaped(&output));
        Self { text: String::new(), common }
    }

    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, help, [(&[][..], value)]);
    }

    fn some(&mut self, name: &str, help: &str, value: Option<f64>) {
        self.add(name, help, value.map(|value| (&[][..], value)));
    }

    /// A metric with its samples; without one, nothing.
    fn add<'a>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [Label<'a>], f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let head = format!("# HELP clipmill_{name} {help}\n# TYPE clipmill_{name} gauge\n");
        self.text += &head;
        for (labels, value) in samples {
            let own: String = labels
                .iter()
                .map(|(key, value)| format!(",{key}=\"{}\"", escaped(value)))
                .collect();
            self.text += &format!("clipmill_{name}{{{}{own}}} {value}\n", self.common);
        }
    }
}

/// A label's value as the format has it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_success_is_found_in_what_was_written() {
        let mut page = Page { text: String::new(), common: "pipeline=\"a b\"".to_owned() };
        page.one(&LAST_SUCCESS["clipmill_".len()..], "When.", 1_709_210_096.007);
        assert_eq!(last_success(&page.text), Some(1_709_210_096.007));
        assert_eq!(last_success(""), None);
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
