//! One object, read in ranges that are kept for a while: Parquet is read in small pieces here and
//! there, and a request for each would take longer than its bytes do.
//!
//! Blocks are fetched one at a time where reading jumps and several ahead where it goes on. All
//! requests ask for the object that was opened: another in its place is an error.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::error::in_io;
use super::{Place, wait};

/// Bytes of a block.
const BLOCK: u64 = 512 << 10;

/// Blocks that are fetched at once where reading goes on.
const MOST_AHEAD: u64 = 8;

/// Blocks of an object that are kept.
const KEPT: usize = 512;

/// Bytes that one open object holds at most.
pub const CACHE_BYTES: u64 = BLOCK * KEPT as u64;

/// Requests for one object at once.
const FETCHED_AT_ONCE: usize = 8;

/// Objects that are opened at once.
const OPENED_AT_ONCE: usize = 32;

/// An object of a store, open.
#[derive(Debug, Clone)]
pub struct Object(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn ObjectStore>,
    meta: ObjectMeta,
    blocks: Mutex<Blocks>,
}

/// The blocks that were fetched last.
#[derive(Debug, Default)]
struct Blocks {
    /// By number: a block, and how many were fetched with it.
    kept: HashMap<u64, (Bytes, u64)>,
    /// Their numbers, in the order in which they came.
    order: VecDeque<u64>,
}

impl Object {
    /// Asks for the object's size, and for nothing else.
    ///
    /// # Errors
    /// `NotFound`, and what the store refuses.
    pub fn open(path: &Path) -> io::Result<Self> {
        let place = Place::of(path)?;
        wait(Self::found(place))
    }

    async fn found(Place { store, key }: Place) -> io::Result<Self> {
        let meta = store.head(&key).await.map_err(in_io)?;
        Ok(Self(Arc::new(Inner { store, meta, blocks: Mutex::default() })))
    }

    pub fn bytes(&self) -> u64 {
        self.0.meta.size
    }

    /// How long the object was and when it had been put, when it was opened.
    pub fn first_stamp(&self) -> (u64, i128) {
        (self.0.meta.size, nanoseconds(&self.0.meta))
    }

    /// How long the object is now and when it was put, in nanoseconds since 1970.
    pub fn stamp(&self) -> io::Result<(u64, i128)> {
        let Inner { store, meta, .. } = self.0.as_ref();
        let now = wait(async { store.head(&meta.location).await.map_err(in_io) })?;
        Ok((now.size, nanoseconds(&now)))
    }

    /// Reads from a place on; 0 at the end alone.
    pub fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let left = self.bytes().saturating_sub(at);
        if left == 0 || into.is_empty() {
            return Ok(0);
        }
        let block = self.block(at / BLOCK)?;
        let from = (at % BLOCK) as usize;
        let there = block.get(from..).unwrap_or_default();
        let n = there.len().min(into.len());
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the store gave less of it"));
        }
        into[..n].copy_from_slice(&there[..n]);
        Ok(n)
    }

    /// Fetches what will be read soon, in several requests at once, as far as it is kept. Whether that
    /// went well: whoever reads there hears why not.
    pub fn will_read(&self, from: u64, bytes: u64) -> bool {
        let end = from.saturating_add(bytes).min(self.bytes());
        let (first, end) = (from / BLOCK, end.div_ceil(BLOCK));
        let end = end.min(first + KEPT as u64 / 2);
        let missing: Vec<_> = {
            let blocks = self.blocks();
            let starts = (first..end).step_by(MOST_AHEAD as usize);
            let pieces = starts.map(|start| (start, MOST_AHEAD.min(end - start)));
            pieces.filter(|(start, n)| !blocks.have(*start, *n)).collect()
        };
        let fetch = |(start, n): (u64, u64)| async move {
            let fetched = self.fetch(start * BLOCK, n * BLOCK).await?;
            self.keep(start, &fetched, n);
            Ok(())
        };
        let fetched = stream::iter(missing).map(fetch).buffer_unordered(FETCHED_AT_ONCE);
        wait(fetched.try_collect::<()>()).is_ok()
    }

    fn block(&self, number: u64) -> io::Result<Bytes> {
        let ahead = {
            let blocks = self.blocks();
            if let Some((block, _)) = blocks.kept.get(&number) {
                return Ok(block.clone());
            }
            blocks.ahead(number)
        };
        let fetched = wait(self.fetch(number * BLOCK, ahead * BLOCK))?;
        let first = fetched.slice(..fetched.len().min(BLOCK as usize));
        self.keep(number, &fetched, ahead);
        Ok(first)
    }

    /// Keeps blocks that were fetched together, so many from `number` on.
    fn keep(&self, number: u64, fetched: &Bytes, ahead: u64) {
        let mut blocks = self.blocks();
        for (index, from) in (0..fetched.len()).step_by(BLOCK as usize).enumerate() {
            let block = fetched.slice(from..fetched.len().min(from + BLOCK as usize));
            blocks.keep(number + index as u64, block, ahead);
        }
    }

    async fn fetch(&self, from: u64, bytes: u64) -> io::Result<Bytes> {
        let Inner { store, meta, .. } = self.0.as_ref();
        let range = GetRange::Bounded(from..(from + bytes).min(meta.size));
        let if_match = meta.e_tag.clone();
        let options = GetOptions { range: Some(range), if_match, ..GetOptions::default() };
        let found = store.get_opts(&meta.location, options).await.map_err(in_io)?;
        found.bytes().await.map_err(in_io)
    }

    fn blocks(&self) -> std::sync::MutexGuard<'_, Blocks> {
        // A thread that panicked while it held the lock has left whole blocks.
        self.0.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the object's end, where a Parquet file says what it holds.
    async fn with_end(self) -> io::Result<Self> {
        let last = self.bytes().saturating_sub(1) / BLOCK;
        if self.bytes() > 0 {
            let end = self.fetch(last * BLOCK, BLOCK).await?;
            self.keep(last, &end, 1);
        }
        Ok(self)
    }
}

impl Blocks {
    fn have(&self, first: u64, n: u64) -> bool {
        (first..first + n).all(|number| self.kept.contains_key(&number))
    }

    /// How many blocks to fetch at one that is not there: twice as many as the one before it came
    /// with.
    fn ahead(&self, number: u64) -> u64 {
        let before = number.checked_sub(1).and_then(|before| self.kept.get(&before));
        before.map_or(1, |(_, ahead)| (ahead * 2).min(MOST_AHEAD))
    }

    fn keep(&mut self, number: u64, block: Bytes, ahead: u64) {
        if self.kept.insert(number, (block, ahead)).is_none() {
            self.order.push_back(number);
        }
        while self.order.len() > KEPT {
            let oldest = self.order.pop_front().expect("there are some");
            self.kept.remove(&oldest);
        }
    }
}

fn nanoseconds(meta: &ObjectMeta) -> i128 {
    let at = meta.last_modified;
    i128::from(at.timestamp()) * 1_000_000_000 + i128::from(at.timestamp_subsec_nanos())
}

/// Opens objects, many at once, and fetches their ends. In the order of the paths; the first that
/// fails is the error, with its path.
pub fn open_all(paths: &[PathBuf]) -> Result<Vec<Object>, (PathBuf, io::Error)> {
    let open = |path: PathBuf| async move {
        let opened = match Place::of(&path) {
            Ok(place) => match Object::found(place).await {
                Ok(object) => object.with_end().await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        opened.map_err(|error| (path, error))
    };
    let mut opened = Vec::with_capacity(paths.len());
    let ended = wait(async {
        let mut objects = stream::iter(paths.iter().cloned()).map(open).buffered(OPENED_AT_ONCE);
        while let Some(object) = objects.next().await {
            let is_bad = object.is_err();
            opened.push(object);
            if is_bad {
                break;
            }
        }
        Ok(())
    });
    match ended {
        Ok(()) => opened.into_iter().collect(),
        Err(error) => Err((paths.first().cloned().unwrap_or_default(), error)),
    }
}
