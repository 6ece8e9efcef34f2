//! `run_report.json`: what a run did, for people and schedulers.
//!
//! The numbers come from the manifest (rows by status), the meter (seconds by stage) and the
//! output itself (scores). How they look in the terminal is in `command::run`; what others may
//! rely on is `report.schema.json`, beside this file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::analysis::summary::ScoreSummary;
use crate::clock::rfc3339;
use crate::error::Error;
use crate::files;
use crate::model::AtOnce;
use crate::progress::{Meter, Stage};

/// The report's name in the output folder.
pub const FILE_NAME: &str = "run_report.json";

/// The last one that was as the pipeline says, where it asks how far scores have drifted since.
pub const BASELINE: &str = "_baseline_report.json";

/// The version of the report's schema: another one where a field is renamed, removed or means
/// something else; the same where one is added.
pub const SCHEMA_VERSION: u32 = 1;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The program's version.
    pub clipmill: String,
    pub output: PathBuf,
    /// Rows of the whole output, those of earlier runs of the same job included.
    pub rows: u64,
    pub ok: u64,
    /// Rows that are not ok, by status word.
    pub failed: BTreeMap<String, u64>,
    /// Part files of the whole output.
    pub parts: u64,
    /// One summary for each score column.
    pub scores: Vec<ScoreSummary>,
    /// What this process did; rows done by an earlier one are not in here.
    pub this_run: Work,
    pub device: String,
    pub precision: String,
    pub batch_size: usize,
    pub threads: usize,
    /// The effective pipeline: file, flags and defaults.
    pub pipeline: serde_json::Value,
}

/// One process's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// When the stages began, RFC 3339 in UTC.
    pub started: String,
    /// When they ended.
    pub finished: String,
    pub rows: u64,
    /// Wall time from the start of the stages to the last part, loading the model included.
    pub seconds: f64,
    pub stages: Vec<StageWork>,
    /// How much went through each device at once.
    #[serde(default)]
    pub devices: Vec<AtOnce>,
    /// Peak resident memory in bytes, where the system tells.
    pub peak_memory: Option<u64>,
}

/// One stage's share of the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageWork {
    pub stage: String,
    /// Seconds at work, waiting left out.
    pub busy_seconds: f64,
    /// Rows a second that the stage could do alone: rows over busy seconds.
    pub rows_per_second: f64,
}

impl RunReport {
    /// Writes the report beside the parts.
    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("a report is plain data");
        files::replace(&dir.join(FILE_NAME), &text)
    }

    /// Takes the report away, before anything of the output changes.
    pub fn remove(dir: &Path) -> Result<(), Error> {
        files::remove(&dir.join(FILE_NAME))
    }

    /// Reads the report of a finished run, or `None` where there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        Self::read_file(&dir.join(FILE_NAME))
    }

    /// Whether it is of the same run. Numbers may differ in their last digit once they were read.
    pub fn is_of(&self, other: &Self) -> bool {
        let Work { started, finished, .. } = &self.this_run;
        (started, finished) == (&other.this_run.started, &other.this_run.finished)
    }

    /// Reads the one that later ones are compared with.
    pub fn read_baseline(dir: &Path) -> Result<Option<Self>, Error> {
        Self::read_file(&dir.join(BASELINE))
    }

    /// Makes this the one that later ones are compared with.
    pub fn make_baseline(&self, dir: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).expect("a report is plain data");
        files::replace(&dir.join(BASELINE), &text)
    }

    fn read_file(path: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = files::read(path)? else { return Ok(None) };
        let report = serde_json::from_slice(&text);
        // A report of another version is not an error: the next run writes a new one.
        Ok(report.ok().filter(|report: &Self| report.schema_version == SCHEMA_VERSION))
    }
}

impl Work {
    /// What a meter has counted.
    pub fn of(meter: &Meter) -> Self {
        let stages = Stage::ALL.map(|stage| {
            let busy_seconds = meter.busy(stage).as_secs_f64();
            let rows_per_second = meter.rows() as f64 / busy_seconds.max(1e-9);
            StageWork { stage: stage.as_str().to_owned(), busy_seconds, rows_per_second }
        });
        Self {
            started: rfc3339(meter.began()),
            finished: rfc3339(meter.began() + meter.elapsed()),
            rows: meter.rows(),
            seconds: meter.elapsed().as_secs_f64(),
            stages: stages.to_vec(),
            devices: meter.devices(),
            peak_memory: peak_memory(),
        }
    }
}

/// Peak resident memory of this process in bytes, where `/proc` tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
