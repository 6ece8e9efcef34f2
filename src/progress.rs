//! How far a run or a download is: counters, and the only code that draws them.
//!
//! On a terminal a bar; elsewhere, and in a log for machines, an event now and then. Both go to
//! stderr, so that stdout stays the command's own output.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{
    HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle,
};

use serde_json::{Map, Value};

use crate::error::disarmed;
use crate::log::{self, Event};
use crate::model::AtOnce;

/// The stages of a run, in the order of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Read,
    Prepare,
    Encode,
    Write,
}

impl Stage {
    /// All stages.
    pub const ALL: [Stage; 4] = [Stage::Read, Stage::Prepare, Stage::Encode, Stage::Write];

    /// The stage's name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Prepare => "prepare",
            Stage::Encode => "encode",
            Stage::Write => "write",
        }
    }
}

/// Counters of one run, updated by its stages.
#[derive(Debug)]
pub struct Meter {
    began: SystemTime,
    started: Instant,
    stopped: OnceLock<Instant>,
    rows: AtomicU64,
    failed: AtomicU64,
    busy_ns: [AtomicU64; 4],
    /// Devices that encode at once.
    encoders: AtomicU64,
    devices: Mutex<Vec<AtOnce>>,
}

impl Meter {
    /// Starts counting.
    pub fn start() -> Self {
        Self {
            began: SystemTime::now(),
            started: Instant::now(),
            stopped: OnceLock::new(),
            rows: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            busy_ns: Default::default(),
            encoders: AtomicU64::new(1),
            devices: Mutex::default(),
        }
    }

    /// Does a stage's work and adds the time to the stage.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        let spent = started.elapsed().as_nanos() as u64;
        self.busy_ns[stage as usize].fetch_add(spent, Ordering::Relaxed);
        done
    }

    /// Counts rows that have passed all stages.
    pub fn add_rows(&self, rows: u64, failed: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
        self.failed.fetch_add(failed, Ordering::Relaxed);
    }

    /// Rows that have passed all stages.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Rows among them that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Ends the counting of time.
    pub fn stop(&self) {
        let _ = self.stopped.set(Instant::now());
    }

    /// When the counting began.
    pub fn began(&self) -> SystemTime {
        self.began
    }

    /// Time from the start until it was stopped, or until now.
    pub fn elapsed(&self) -> Duration {
        let until = self.stopped.get().copied().unwrap_or_else(Instant::now);
        until.duration_since(self.started)
    }

    /// Time that a stage has worked, its waiting left out; of several devices, their mean.
    pub fn busy(&self, stage: Stage) -> Duration {
        let busy = self.busy_ns[stage as usize].load(Ordering::Relaxed);
        let workers = match stage {
            Stage::Encode => self.encoders.load(Ordering::Relaxed),
            _ => 1,
        };
        Duration::from_nanos(busy / workers)
    }

    /// Says how many devices encode.
    pub fn set_encoders(&self, n: usize) {
        self.encoders.store(n.max(1) as u64, Ordering::Relaxed);
    }

    /// Notes how much a device took at once in the end.
    pub fn note(&self, at_once: AtOnce) {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner).push(at_once);
    }

    /// What was noted, one a device, by name.
    pub fn devices(&self) -> Vec<AtOnce> {
        let mut all = self.devices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by(|a, b| a.device.cmp(&b.device));
        all
    }

    /// Rows that have passed all stages, a second; 0 before the first.
    fn rows_per_second(&self) -> f64 {
        self.rows() as f64 / self.elapsed().as_secs_f64().max(1e-9)
    }

    /// Seconds until so many rows have passed, if all goes on like this.
    fn seconds_left(&self, total: u64) -> f64 {
        let left = total.saturating_sub(self.rows()) as f64;
        (left / self.rows_per_second().max(1e-9)).min(1e9)
    }

    /// Share of the elapsed time that each stage has worked, 0 to 1: the largest is the bottleneck.
    fn shares(&self) -> [(Stage, f64); 4] {
        let elapsed = self.elapsed().as_secs_f64().max(1e-9);
        Stage::ALL.map(|stage| (stage, (self.busy(stage).as_secs_f64() / elapsed).min(1.0)))
    }

    /// The shares in words.
    fn load(&self) -> String {
        let percent =
            |(stage, share): (Stage, f64)| format!("{} {:.0}%", stage.as_str(), share * 100.0);
        self.shares().map(percent).join(", ")
    }
}

/// Draws a meter.
pub struct Progress {
    /// None where nobody knows.
    total: Option<u64>,
    view: View,
}

enum View {
    Quiet,
    Bar(ProgressBar),
    Lines { last: Instant },
}

/// Plain lines go into logs that people keep: one now and then is enough.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Progress {
    /// A view of `total` rows, or of any number: a bar where stderr is a terminal, else plain lines.
    pub fn new(total: impl Into<Option<u64>>, quiet: bool) -> Self {
        let total = total.into();
        let view = if quiet {
            View::Quiet
        } else if has_bars() {
            let drawn = if total.is_some() { "{bar:24}" } else { "{spinner}" };
            let style = ProgressStyle::with_template(&format!("{drawn} {{prefix}}\n{{wide_msg}}"));
            let style = style.expect("the template is fixed").progress_chars("━╸ ");
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            let bar = bar.with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            View::Bar(bar)
        } else {
            View::Lines { last: Instant::now() }
        };
        Self { total, view }
    }

    /// Shows what the meter says, when it is time to.
    pub fn update(&mut self, meter: &Meter) {
        match &mut self.view {
            View::Quiet => {}
            View::Bar(bar) => {
                bar.set_position(meter.rows());
                bar.set_prefix(state(self.total, meter));
                bar.set_message(format!("busy: {}", meter.load()));
            }
            View::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                event(self.total, meter).say();
            }
            View::Lines { .. } => {}
        }
    }

    /// Takes the bar away; what the run did is reported by the command.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

/// Rows done, rows a second, time left, rows failed.
fn state(total: Option<u64>, meter: &Meter) -> String {
    let rows = meter.rows();
    let failed = HumanCount(meter.failed());
    let of = match total {
        Some(total) => format!("{} of {} rows", HumanCount(rows), HumanCount(total)),
        None => format!("{} rows", HumanCount(rows)),
    };
    if rows == 0 {
        return format!("{of}, starting");
    }
    let per_second = meter.rows_per_second();
    let Some(total) = total else {
        return format!("{of}, {per_second:.1} rows/s, {failed} failed");
    };
    let left = Duration::from_secs_f64(meter.seconds_left(total));
    format!("{of}, {per_second:.1} rows/s, {} left, {failed} failed", HumanDuration(left))
}

/// The same as an event, with what each stage is busy.
fn event(total: Option<u64>, meter: &Meter) -> Event {
    let busy: Map<String, Value> = meter
        .shares()
        .into_iter()
        .map(|(stage, share)| (stage.as_str().to_owned(), share.into()))
        .collect();
    // Before the first row nobody knows.
    let left = total.filter(|_| meter.rows() > 0).map(|total| meter.seconds_left(total));
    Event::info("progress", format!("{}; busy: {}", state(total, meter), meter.load()))
        .with("rows", meter.rows())
        .with("total", total)
        .with("failed", meter.failed())
        .with("rows_per_second", meter.rows_per_second())
        .with("seconds_left", left)
        .with("busy", busy)
}

/// Whether stderr is a person's, who sees bars.
fn has_bars() -> bool {
    std::io::stderr().is_terminal() && !log::is_json()
}

/// A view of bytes that are fetched: as a run's rows, a bar on a terminal, else lines.
pub struct Download {
    what: String,
    total: Option<u64>,
    bytes: u64,
    view: View,
}

impl Download {
    /// Begins, at 0 bytes of `total`, where that is known.
    pub fn new(what: &str, total: Option<u64>, shown: bool) -> Self {
        let what = disarmed(what);
        let view = match (shown, has_bars()) {
            (false, _) => View::Quiet,
            (true, true) => {
                let template =
                    "{bar:24} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left  {msg}";
                let style = ProgressStyle::with_template(template);
                let style = style.expect("the template is fixed").progress_chars("━╸ ");
                let bar = ProgressBar::new(total.unwrap_or(0)).with_style(style);
                bar.set_message(what.clone());
                View::Bar(bar)
            }
            (true, false) => View::Lines { last: Instant::now() },
        };
        let download = Self { what, total, bytes: 0, view };
        if let View::Lines { .. } = download.view {
            download.say_where();
        }
        download
    }

    /// Goes on from another byte.
    pub fn at(&mut self, bytes: u64) {
        self.bytes = bytes;
        if let View::Bar(bar) = &self.view {
            // What was there already says nothing of the speed.
            bar.reset_eta();
        }
        self.update();
    }

    /// So many bytes more.
    pub fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.update();
    }

    fn update(&mut self) {
        match &mut self.view {
            View::Bar(bar) => bar.set_position(self.bytes),
            View::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                self.say_where();
            }
            View::Lines { .. } | View::Quiet => {}
        }
    }

    fn say_where(&self) {
        let of = self.total.map_or_else(String::new, |total| format!(" of {}", HumanBytes(total)));
        let message = format!("downloading {}, {}{of}", self.what, HumanBytes(self.bytes));
        let event = Event::info("download", message).with("what", &self.what);
        event.with("bytes", self.bytes).with("total", self.total).say();
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

/// Says what is being waited for, while it lives: on a terminal; a log has no use for it.
pub struct Waiting(Option<ProgressBar>);

impl Waiting {
    pub fn new(what: &str) -> Self {
        if !has_bars() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner().with_message(disarmed(what));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.iter().for_each(ProgressBar::finish_and_clear);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_told_the_numbers_that_people_see() {
        let meter = Meter::start();
        let read = |total| {
            let line = event(total, &meter).json(SystemTime::now());
            serde_json::from_str::<Value>(&line).expect("JSON")
        };
        assert!(read(Some(60))["seconds_left"].is_null(), "nobody knows before the first row");
        meter.add_rows(20, 2);
        meter.time(Stage::Encode, || std::thread::sleep(Duration::from_millis(20)));
        meter.stop();
        let (said, seconds) = (read(Some(60)), meter.elapsed().as_secs_f64());
        assert_eq!((&said["rows"], &said["total"]), (&20.into(), &60.into()));
        assert_eq!((&said["failed"], &said["event"]), (&2.into(), &"progress".into()));
        let number = |value: &Value| value.as_f64().expect("a number");
        assert!((number(&said["rows_per_second"]) * seconds - 20.0).abs() < 1e-6);
        // Twice as many are left as are done.
        assert!((number(&said["seconds_left"]) - 2.0 * seconds).abs() < 1e-6);
        let busy = number(&said["busy"]["encode"]);
        assert!(busy > 0.0 && busy <= 1.0, "{said}");
        assert_eq!(said["busy"]["read"], 0.0);
        assert!(read(None)["total"].is_null() && read(None)["seconds_left"].is_null());
    }
}
