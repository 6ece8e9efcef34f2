//! Gets the bytes at a URL, however many tries it takes, within what all fetches share: so many
//! requests at once (lanes), and so many bytes that wait to be decoded (memory).
//!
//! Who waits, for memory or for another try, holds no lane. A fetch that somebody waits for is
//! given memory whatever is left, so that fetches that nobody wants yet cannot block it; no more
//! wait at once than there are threads.

use std::collections::hash_map::RandomState;
use std::future::{Future, poll_fn};
use std::hash::BuildHasher;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout_at};

use super::outage::Outages;
use super::rules::{Rules, Target, shown};
use super::store::Stores;
use super::web::Web;
use super::{Failed, Failure};
use crate::error::{Error, RowError, RowStatus};
use crate::spec::ImageUrlSpec;

/// What images that wait to be decoded may take, in bytes, besides those that are waited for.
pub const FETCHED_BYTES: u64 = 256 << 20;

/// Memory is counted in pieces of so many bytes.
const PIECE: u64 = 1 << 10;

/// Set aside before a request, in bytes: what most images need.
const USUAL: u64 = 128 << 10;

/// The first wait before another try, if there is no answer that says how long. Doubled each time.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait, also of those that a server asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Gets bytes by URL.
#[derive(Debug)]
pub struct Fetcher {
    rules: Rules,
    web: Web,
    stores: Stores,
    outages: Outages,
    shared: Shared,
    retries: u32,
}

#[derive(Debug)]
struct Shared {
    lanes: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    timeout: Duration,
}

/// Bytes, and their share of the memory.
#[derive(Debug)]
pub struct Fetched {
    pub bytes: Vec<u8>,
    _memory: Option<OwnedSemaphorePermit>,
}

/// Whether somebody waits for a fetch.
#[derive(Debug, Default)]
pub struct Demand {
    there: AtomicBool,
    changed: Notify,
}

impl Demand {
    /// Somebody waits.
    pub fn raise(&self) {
        self.there.store(true, Ordering::Release);
        // One fetch listens; if it does not yet, it will find this.
        self.changed.notify_one();
    }

    fn is_there(&self) -> bool {
        self.there.load(Ordering::Acquire)
    }
}

impl Fetcher {
    /// # Errors
    /// [`Error::Setting`] for hosts and addresses that are none, [`Error::Network`] if there is
    /// nothing to check certificates with.
    pub fn new(spec: &ImageUrlSpec, max_bytes: u64) -> Result<Self, Error> {
        let rules = Rules::new(spec)?;
        let timeout = Duration::from_secs(spec.timeout.get().into());
        let web = Web { clients: super::client::Clients::new(rules.opened(), timeout)?, max_bytes };
        let lanes = spec.parallel.get().min(Semaphore::MAX_PERMITS);
        Ok(Self {
            stores: Stores::new(rules.opened(), timeout, max_bytes)?,
            web,
            rules,
            outages: Outages::new(spec.outage),
            shared: Shared {
                lanes: Arc::new(Semaphore::new(lanes)),
                memory: Arc::new(Semaphore::new((FETCHED_BYTES / PIECE) as usize)),
                timeout,
            },
            retries: spec.retries,
        })
    }

    /// An outage that was found, after which nothing is fetched any more.
    pub fn outage(&self) -> Option<Arc<super::Outage>> {
        self.outages.found()
    }

    /// The bytes at a URL.
    pub async fn fetch(&self, url: &[u8], demand: &Demand) -> Result<Fetched, Failed> {
        let target = self.rules.target(url).map_err(Failed::Row)?;
        let (host, shown) = match &target {
            Target::Web(url) => (host(url), shown(url.as_str())),
            Target::Object(object) => {
                (format!("{}://{}", object.store.as_str(), object.bucket), object.url())
            }
        };
        let began = Instant::now();
        let mut wait = FIRST_WAIT;
        for tries in 1.. {
            if let Some(outage) = self.outages.found() {
                return Err(Failed::Outage(outage));
            }
            let mut flow = Flow::start(&self.shared, demand).await;
            let got = match &target {
                Target::Web(url) => self.web.get(&self.rules, url, &mut flow).await,
                Target::Object(object) => self.stores.get(object, &mut flow).await,
            };
            let (message, retry_after) = match got {
                Ok(bytes) => {
                    self.outages.answered(&host);
                    return flow.end(bytes, &shown).map_err(Failed::Row);
                }
                Err(Failure::Row(error)) => {
                    // A refusal of ours is no sign of life.
                    if error.status != RowStatus::ImageRefused {
                        self.outages.answered(&host);
                    }
                    return Err(Failed::Row(error));
                }
                Err(Failure::Machine { errno }) => return Err(Failed::Machine { errno }),
                Err(Failure::Passing { message, retry_after }) => (message, retry_after),
            };
            drop(flow);
            if tries > self.retries {
                self.outages.silent(&host, began, &message);
                if let Some(outage) = self.outages.found() {
                    return Err(Failed::Outage(outage));
                }
                let message = format!("{message} ({tries} {})", of_tries(tries));
                return Err(Failed::Row(RowError::new(RowStatus::ImageUnreachable, message)));
            }
            sleep(retry_after.map_or_else(|| jittered(wait), |asked| asked.min(LONGEST_WAIT)))
                .await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        unreachable!("the tries are counted")
    }
}

fn of_tries(tries: u32) -> &'static str {
    if tries == 1 { "try" } else { "tries" }
}

/// The name under which failures of a URL's server are counted.
fn host(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Between half of a time and all of it, so that who failed together does not come back together.
fn jittered(time: Duration) -> Duration {
    // Keyed anew each time.
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    time.mul_f64(0.5 + random / 2.0)
}

/// One try's share of lanes and memory, and its clock.
#[derive(Debug)]
pub struct Flow<'a> {
    shared: &'a Shared,
    demand: &'a Demand,
    lane: Option<OwnedSemaphorePermit>,
    memory: Option<OwnedSemaphorePermit>,
    deadline: tokio::time::Instant,
}

impl<'a> Flow<'a> {
    /// Waits for memory of the usual size, then for a lane; then the clock runs.
    async fn start(shared: &'a Shared, demand: &'a Demand) -> Self {
        let deadline = tokio::time::Instant::now();
        let mut flow = Self { shared, demand, lane: None, memory: None, deadline };
        flow.reserve(USUAL).await;
        flow.take_lane().await;
        flow.deadline = tokio::time::Instant::now() + shared.timeout;
        flow
    }

    async fn take_lane(&mut self) {
        // Never closed.
        self.lane = self.shared.lanes.clone().acquire_owned().await.ok();
    }

    /// Waits for something of the network's, no longer than the request may take.
    pub async fn timed<F: Future>(&mut self, what: F, url: &str) -> Result<F::Output, Failure> {
        timeout_at(self.deadline, what).await.map_err(|_| {
            let seconds = self.shared.timeout.as_secs();
            let message = format!("{:?}: no answer, or not all of it, in {seconds} s", shown(url));
            Failure::Passing { message, retry_after: None }
        })
    }

    /// Makes sure that there is memory for so many bytes in all. While it waits for some the clock
    /// stands, and the lane is another's.
    pub async fn reserve(&mut self, bytes: u64) {
        let held = self.memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = (bytes.div_ceil(PIECE) as usize).saturating_sub(held);
        if missing == 0 || self.demand.is_there() {
            return;
        }
        let memory = self.shared.memory.clone();
        let got = match memory.clone().try_acquire_many_owned(missing as u32) {
            Ok(got) => Some(got),
            Err(_) => {
                let had_lane = self.lane.take().is_some();
                let since = tokio::time::Instant::now();
                let got = self.wait_for(memory, missing as u32).await;
                if had_lane {
                    self.take_lane().await;
                }
                self.deadline += since.elapsed();
                got
            }
        };
        match (&mut self.memory, got) {
            (Some(memory), Some(got)) => memory.merge(got),
            (memory, Some(got)) => *memory = Some(got),
            (_, None) => {}
        }
    }

    /// Pieces of memory, or none once there is demand.
    async fn wait_for(&self, memory: Arc<Semaphore>, n: u32) -> Option<OwnedSemaphorePermit> {
        let mut pieces = pin!(memory.acquire_many_owned(n));
        let mut demand = pin!(self.demand.changed.notified());
        poll_fn(|context| match pieces.as_mut().poll(context) {
            Poll::Ready(pieces) => Poll::Ready(pieces.ok()),
            Poll::Pending => demand.as_mut().poll(context).map(|()| None),
        })
        .await
    }

    /// The bytes with as much memory as they need.
    fn end(self, bytes: Vec<u8>, url: &str) -> Result<Fetched, RowError> {
        if bytes.is_empty() {
            let message = format!("{url:?}: the file is empty");
            return Err(RowError::new(RowStatus::ImageUndecodable, message));
        }
        let needed = (bytes.len() as u64).div_ceil(PIECE) as usize;
        let mut memory = self.memory;
        let held = memory.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        drop(memory.as_mut().and_then(|memory| memory.split(held.saturating_sub(needed))));
        Ok(Fetched { bytes, _memory: memory })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_waited_for_without_a_lane_until_somebody_wants_the_bytes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let shared = Shared {
                lanes: Arc::new(Semaphore::new(1)),
                memory: Arc::new(Semaphore::new(200)),
                timeout: Duration::from_secs(1),
            };
            let demand = Demand::default();
            let mut flow = Flow::start(&shared, &demand).await;
            assert_eq!(
                (shared.lanes.available_permits(), shared.memory.available_permits()),
                (0, 72)
            );
            {
                let mut more = pin!(flow.reserve(300 << 10));
                let short = tokio::time::timeout(Duration::from_millis(20), more.as_mut()).await;
                assert!(short.is_err(), "there are 200 KiB in all");
                assert_eq!(shared.lanes.available_permits(), 1);
                demand.raise();
                more.await;
            }
            assert_eq!(shared.lanes.available_permits(), 0);
            let fetched = flow.end(vec![0; 10 << 10], "x").expect("bytes");
            assert_eq!(
                (shared.lanes.available_permits(), shared.memory.available_permits()),
                (1, 190)
            );
            drop(fetched);
            assert_eq!(shared.memory.available_permits(), 200);
        });
    }

    #[test]
    fn waits_differ_and_are_never_longer_than_asked() {
        let waits: Vec<_> = (0..20).map(|_| jittered(FIRST_WAIT)).collect();
        assert!(waits.iter().all(|wait| *wait <= FIRST_WAIT && *wait >= FIRST_WAIT / 2));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
