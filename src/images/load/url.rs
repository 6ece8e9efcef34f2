//! Images by URL: fetched in the background from when a batch is announced, taken from there.
//!
//! A URL that several rows name, in one batch or in two that are under way, is fetched once. What
//! may be fetched, and how often it is tried, is `net`'s to say.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use tokio::runtime::{Builder, Runtime};

use super::{ImageLoader, LoadError, as_bytes};
use crate::error::{Error, RowError, RowStatus};
use crate::images::net::{Demand, Failed, Fetched, Fetcher};
use crate::spec::ImageUrlSpec;

/// Rows that are announced before they are loaded, for each request at once. Enough that a few
/// hosts that let every request time out hold up little.
const AHEAD: usize = 64;

/// How often one who waits for a fetch looks whether the run has anything left to wait for.
const TICK: Duration = Duration::from_millis(200);

/// Fetches what URLs name. The column holds the URLs.
#[derive(Debug)]
pub struct UrlLoader {
    fetcher: Arc<Fetcher>,
    under_way: Mutex<HashMap<Box<[u8]>, UnderWay>>,
    ahead: usize,
    /// Some until dropped.
    runtime: Option<Runtime>,
}

/// A fetch, and how many will ask for it.
#[derive(Debug)]
struct UnderWay {
    fetch: Arc<Fetch>,
    wanted: usize,
}

#[derive(Debug, Default)]
struct Fetch {
    outcome: Mutex<Option<Result<Fetched, Failed>>>,
    ended: Condvar,
    demand: Demand,
}

impl UrlLoader {
    /// Checks the settings and starts the threads. Images of more than `max_bytes` are refused.
    ///
    /// # Errors
    /// [`Error::Setting`] for a host or an address that is none, [`Error::Network`] if there is
    /// nothing to check certificates with, [`Error::Thread`].
    pub fn open(spec: &ImageUrlSpec, max_bytes: u64) -> Result<Self, Error> {
        let fetcher = Arc::new(Fetcher::new(spec, max_bytes)?);
        // TLS takes a core for some hundred megabytes a second; the other cores decode.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads((cores / 8).clamp(2, 8))
            .max_blocking_threads(spec.parallel.get())
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(|source| Error::Thread { stage: "fetch", source })?;
        let ahead = AHEAD.saturating_mul(spec.parallel.get());
        Ok(Self { fetcher, under_way: Mutex::default(), ahead, runtime: Some(runtime) })
    }

    /// Begins a fetch, or joins one; `more` will ask for it besides those who will already.
    fn begin(&self, url: &[u8], more: usize) -> Arc<Fetch> {
        let mut under_way = locked(&self.under_way);
        if let Some(known) = under_way.get_mut(url) {
            known.wanted += more;
            return known.fetch.clone();
        }
        let fetch = Arc::new(Fetch::default());
        let task = Task(fetch.clone());
        let (fetcher, owned) = (self.fetcher.clone(), Box::<[u8]>::from(url));
        let runtime = self.runtime.as_ref().expect("there until dropped");
        let address = owned.clone();
        runtime.spawn(async move {
            let outcome = fetcher.fetch(&address, &task.0.demand).await;
            task.end(outcome);
        });
        under_way.insert(owned, UnderWay { fetch: fetch.clone(), wanted: more.max(1) });
        fetch
    }

    /// One less asks for it. Returns whether it was the last.
    fn leave(&self, url: &[u8]) -> bool {
        let mut under_way = locked(&self.under_way);
        let Some(known) = under_way.get_mut(url) else { return true };
        known.wanted -= 1;
        let last = known.wanted == 0;
        if last {
            under_way.remove(url);
        }
        last
    }

    fn is_under_way(&self, url: &[u8], fetch: &Arc<Fetch>) -> bool {
        locked(&self.under_way).get(url).is_some_and(|known| Arc::ptr_eq(&known.fetch, fetch))
    }

    fn get(&self, url: &[u8]) -> Result<Vec<u8>, LoadError> {
        let fetch = self.begin(url, 0);
        fetch.demand.raise();
        let mut outcome = locked(&fetch.outcome);
        loop {
            if let Some(outage) = self.fetcher.outage() {
                return Err(failed(&Failed::Outage(outage)));
            }
            match outcome.as_ref() {
                // Another took it, who was not expected.
                None if !self.is_under_way(url, &fetch) => {
                    drop(outcome);
                    return self.get(url);
                }
                None => {}
                Some(Err(error)) => {
                    let error = failed(error);
                    drop(outcome);
                    self.leave(url);
                    return Err(error);
                }
                Some(Ok(fetched)) => {
                    if !self.leave(url) {
                        return Ok(fetched.bytes.clone());
                    }
                    let last = outcome.take().and_then(Result::ok);
                    return Ok(last.map_or_else(Vec::new, |fetched| fetched.bytes));
                }
            }
            let waited = fetch.ended.wait_timeout(outcome, TICK);
            outcome = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl ImageLoader for UrlLoader {
    fn bind(&self, column: &ArrayRef) -> Result<ArrayRef, Error> {
        as_bytes(column, "URLs")
    }

    fn name<'a>(&self, column: &'a dyn Array, row: usize) -> Option<&'a [u8]> {
        let urls = column.as_binary_view_opt().expect("`bind` made it a BinaryView column");
        urls.is_valid(row).then(|| urls.value(row)).filter(|url| !url.is_empty())
    }

    fn announce(&self, column: &dyn Array) {
        let mut seen = HashSet::new();
        for url in (0..column.len()).filter_map(|row| self.name(column, row)) {
            if seen.insert(url) {
                self.begin(url, 1);
            }
        }
    }

    fn ahead(&self) -> usize {
        self.ahead
    }

    fn load<'a>(&self, column: &'a dyn Array, row: usize) -> Result<Cow<'a, [u8]>, LoadError> {
        match self.name(column, row) {
            Some(url) => self.get(url).map(Cow::Owned),
            None => {
                let message = "the image URL is null or empty";
                Err(RowError::new(RowStatus::ImagePathMissing, message).into())
            }
        }
    }
}

impl Drop for UrlLoader {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A look-up of a name cannot be stopped, and nobody waits for it any more.
            runtime.shutdown_background();
        }
    }
}

/// A fetch at work: it ends, whatever happens to it.
struct Task(Arc<Fetch>);

impl Task {
    fn end(&self, outcome: Result<Fetched, Failed>) {
        *locked(&self.0.outcome) = Some(outcome);
        self.0.ended.notify_all();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        // Only after a panic, or when the run is over.
        if locked(&self.0.outcome).is_none() && Arc::strong_count(&self.0) > 1 {
            let message = "the fetch ended early: this is a defect in clipmill, please report it";
            self.end(Err(Failed::Row(RowError::new(RowStatus::ImageUnreachable, message))));
        }
    }
}

fn failed(error: &Failed) -> LoadError {
    match error {
        Failed::Row(error) => LoadError::Row(error.clone()),
        Failed::Outage(outage) => LoadError::Machine(Error::Outage {
            host: outage.host.clone(),
            in_a_row: outage.in_a_row,
            last: outage.last.clone(),
        }),
        Failed::Machine { errno } => {
            let source = std::io::Error::from_raw_os_error(*errno);
            LoadError::Machine(Error::io("fetch images by", "image.url")(source))
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What it guards is whole at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
