//! Objects of S3, Google Cloud Storage and Azure Blob Storage as if they were files: what `std::fs` is
//! to a disk, for paths that are URLs (`s3://bucket/key`, `gs://`, `az://`).
//!
//! An object is put whole or not at all, and read in ranges. Endpoint and credentials come from the
//! environment, as each cloud's own tools read them; what may pass is tried again for a minute. What
//! objects hold is not known here, nor is anything of images by URL, which strangers name
//! (`images/net`): these URLs are the user's own.

mod error;
mod lease;
mod object;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as Key;
use object_store::{
    ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig, WriteMultipart,
};
use tokio::runtime::Runtime;

pub use lease::{Lease, Refused, Scope};
pub use object::{CACHE_BYTES, Object, open_all};

use error::in_io;

/// The clouds whose stores are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cloud {
    S3,
    Gs,
    Az,
}

/// What their URLs begin with.
const SCHEMES: [(&str, Cloud); 3] =
    [("s3://", Cloud::S3), ("gs://", Cloud::Gs), ("az://", Cloud::Az)];

/// Objects of more bytes than this are put in pieces of it, or of more where there would be too many.
const PIECE: usize = 8 << 20;

/// The most pieces of an object; S3 has 10,000.
const MOST_PIECES: u64 = 9_000;

/// The most bytes of an object that is read at once.
pub const MOST_BYTES: u64 = 1 << 30;

/// Pieces of one object that are on their way at once.
const PIECES_AT_ONCE: usize = 4;

/// How long a store is asked to forget an upload that went wrong.
const ABORTED_WITHIN: Duration = Duration::from_secs(5);

/// How long a request is tried again that may go better, in seconds, where [`PATIENCE`] does not say.
const SECONDS: u64 = 60;

/// The environment variable that says how long.
const PATIENCE: &str = "CLIPMILL_STORE_PATIENCE";

/// Whether a path is an object's URL.
pub fn is_url(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    SCHEMES.iter().any(|(scheme, _)| bytes.starts_with(scheme.as_bytes()))
}

/// Where an object is, or the objects whose keys begin in the same way.
struct Place {
    store: Arc<dyn ObjectStore>,
    key: Key,
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let no_url = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
        let text = path.to_str().ok_or_else(|| no_url("it is not UTF-8".into()))?;
        let found = SCHEMES.iter().find_map(|(scheme, cloud)| {
            Some((*cloud, text.strip_prefix(scheme)?.trim_end_matches('/')))
        });
        let (cloud, rest) = found.ok_or_else(|| no_url("it is no URL of an object".into()))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(no_url("it names no bucket".into()));
        }
        // The library would take it for one without its first slash.
        if key.starts_with('/') {
            return Err(no_url("a name in its key is empty".into()));
        }
        let key = Key::parse(key).map_err(|error| no_url(error.to_string()))?;
        Ok(Self { store: store(cloud, bucket)?, key })
    }
}

/// The store of a bucket, opened once.
fn store(cloud: Cloud, bucket: &str) -> io::Result<Arc<dyn ObjectStore>> {
    static OPEN: Mutex<Option<Stores>> = Mutex::new(None);
    // A thread that panicked while it held the lock has left a map.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    let at = (cloud, bucket.to_owned());
    if let Some(store) = open.get(&at) {
        return Ok(store.clone());
    }
    let seconds = match std::env::var(PATIENCE) {
        Err(_) => SECONDS,
        Ok(text) => text.trim().parse().map_err(|_| {
            let why = format!("{PATIENCE}={text} is no number of seconds");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?,
    };
    let retry_timeout = Duration::from_secs(seconds);
    // As often as there is time for.
    let retry = RetryConfig { retry_timeout, max_retries: usize::MAX, ..RetryConfig::default() };
    let store = connect(cloud, bucket, ReqwestConnector::default(), retry).map_err(in_io)?;
    open.insert(at, store.clone());
    Ok(store)
}

type Stores = HashMap<(Cloud, String), Arc<dyn ObjectStore>>;

/// The store of a bucket, as the environment says where it is and who asks. Requests go through
/// `connector`.
pub fn connect(
    cloud: Cloud,
    bucket: &str,
    connector: impl HttpConnector,
    retry: RetryConfig,
) -> object_store::Result<Arc<dyn ObjectStore>> {
    Ok(match cloud {
        Cloud::Gs => {
            let store = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(store.with_http_connector(connector).with_retry(retry).build()?)
        }
        Cloud::Az => {
            let store = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            Arc::new(store.with_http_connector(connector).with_retry(retry).build()?)
        }
        Cloud::S3 => {
            let store = AmazonS3Builder::from_env().with_bucket_name(bucket);
            let endpoint = store.get_config_value(&AmazonS3ConfigKey::Endpoint);
            // Whoever names such an endpoint means it.
            let is_plain = endpoint.is_some_and(|url| url.starts_with("http://"));
            let store = if is_plain { store.with_allow_http(true) } else { store };
            Arc::new(store.with_http_connector(connector).with_retry(retry).build()?)
        }
    })
}

/// Waits for a request.
fn wait<T>(request: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = match RUNTIME.get() {
        Some(runtime) => runtime,
        None => {
            let made = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("store")
                .enable_all()
                .build()?;
            RUNTIME.get_or_init(|| made)
        }
    };
    runtime.block_on(request)
}

/// All of a small object.
///
/// # Errors
/// `NotFound`, and what the store refuses.
pub fn read(path: &Path) -> io::Result<Bytes> {
    let Place { store, key } = Place::of(path)?;
    wait(async {
        let found = store.get(&key).await.map_err(in_io)?;
        if found.meta.size > MOST_BYTES {
            let why = format!("it has {} bytes: that is no record", found.meta.size);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        found.bytes().await.map_err(in_io)
    })
}

/// Puts a small object, whole, in the place of whatever is there.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let Place { store, key } = Place::of(path)?;
    let payload = PutPayload::from(bytes.to_vec());
    wait(async { store.put(&key, payload).await.map(drop).map_err(in_io) })
}

/// Puts a file's content, whole, in the place of whatever is there. Nobody sees it before all of it
/// has arrived.
pub fn upload(path: &Path, mut file: &File) -> io::Result<()> {
    let Place { store, key } = Place::of(path)?;
    let bytes = file.metadata()?.len();
    let size = PIECE.max(bytes.div_ceil(MOST_PIECES) as usize);
    if bytes <= size as u64 {
        let mut content = Vec::with_capacity(bytes as usize);
        file.read_to_end(&mut content)?;
        return put(path, &content);
    }
    wait(async {
        let upload = store.put_multipart(&key).await.map_err(in_io)?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, size);
        let sent = async {
            loop {
                let mut piece = Vec::with_capacity(size);
                if file.take(size as u64).read_to_end(&mut piece)? == 0 {
                    return Ok(());
                }
                upload.wait_for_capacity(PIECES_AT_ONCE).await.map_err(in_io)?;
                upload.put(piece.into());
            }
        };
        match sent.await {
            Ok(()) => upload.finish().await.map(drop).map_err(in_io),
            Err(error) => {
                // Best effort: a bucket's own rules remove what was begun and never ended.
                let _ = tokio::time::timeout(ABORTED_WITHIN, upload.abort()).await;
                Err(error)
            }
        }
    })
}

/// The same within a time, or not at all.
fn put_within(path: &Path, bytes: &[u8], limit: Duration) -> io::Result<()> {
    let Place { store, key } = Place::of(path)?;
    let payload = PutPayload::from(bytes.to_vec());
    wait(async { within(limit, store.put(&key, payload)).await.map(drop) })
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> io::Result<T> {
    match tokio::time::timeout(limit, request).await {
        Ok(done) => done.map_err(in_io),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Removes an object within a time, or not at all.
fn remove_within(path: &Path, limit: Duration) -> io::Result<()> {
    let Place { store, key } = Place::of(path)?;
    wait(within(limit, store.delete(&key)))
}

/// Removes an object. One that is not there is removed already.
pub fn remove(path: &Path) -> io::Result<()> {
    let Place { store, key } = Place::of(path)?;
    wait(async {
        match store.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(in_io(error)),
        }
    })
}

/// Something that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: PathBuf,
    pub bytes: u64,
    /// Another one where the object is put again: its length, its tag and when it was put.
    pub version: String,
}

impl Entry {
    fn of(path: PathBuf, meta: &ObjectMeta) -> Self {
        let ObjectMeta { size, e_tag, version, last_modified, .. } = meta;
        Self {
            path,
            bytes: *size,
            version: format!("{size} {e_tag:?} {version:?} {last_modified}"),
        }
    }
}

/// One object; none where there is none.
pub fn head(path: &Path) -> io::Result<Option<Entry>> {
    let Place { store, key } = Place::of(path)?;
    wait(async {
        match store.head(&key).await {
            Ok(meta) => Ok(Some(Entry::of(path.to_owned(), &meta))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(in_io(error)),
        }
    })
}

/// The objects in a folder, by path, and the names of the folders in it, as keys with slashes make
/// them. One that is not there has none.
pub fn level(dir: &Path) -> io::Result<(Vec<Entry>, Vec<String>)> {
    let Place { store, key } = Place::of(dir)?;
    let level = wait(async { store.list_with_delimiter(Some(&key)).await.map_err(in_io) })?;
    let mut found: Vec<_> =
        level.objects.into_iter().filter_map(|meta| entry(dir, &key, &meta)).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    let name = |folder: &Key| folder.filename().map(str::to_owned);
    Ok((found, level.common_prefixes.iter().filter_map(name).collect()))
}

/// The objects beneath a folder, at any depth, that are wanted; by path.
pub fn beneath(dir: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<Entry>> {
    let Place { store, key } = Place::of(dir)?;
    let mut found = wait(async {
        let mut listed = store.list(Some(&key));
        let mut found = Vec::new();
        while let Some(meta) = listed.try_next().await.map_err(in_io)? {
            found.extend(entry(dir, &key, &meta).filter(|entry| wanted(&entry.path)));
        }
        Ok(found)
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// An object beneath a folder, its path as the caller wrote the folder's; none for the folder's own
/// mark, which consoles make.
fn entry(dir: &Path, key: &Key, meta: &ObjectMeta) -> Option<Entry> {
    let base = dir.to_string_lossy();
    let beneath = meta.location.as_ref().strip_prefix(key.as_ref())?.trim_start_matches('/');
    let path = format!("{}/{beneath}", base.trim_end_matches('/'));
    (!beneath.is_empty()).then(|| Entry::of(path.into(), meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_stores_are_told_from_paths() {
        for url in ["s3://b/k", "gs://b", "az://c/k/"] {
            assert!(is_url(Path::new(url)), "{url}");
        }
        for path in ["s3:/b/k", "/s3://b/k", "http://h/k", "S3://b/k", "s3"] {
            assert!(!is_url(Path::new(path)), "{path}");
        }
        for none in ["s3://", "s3:///key", "s3://b//k"] {
            let kind = Place::of(Path::new(none)).err().map(|error| error.kind());
            assert_eq!(kind, Some(io::ErrorKind::InvalidInput), "{none}");
        }
    }
}
