//! Where files are made that go to an object store: a folder of the machine's own for each output.
//!
//! It is under `TMPDIR` and nobody else's. What a killed run leaves there, the next one into the same
//! output finds and removes; so do the journals of what was in flight stay on the machine where they
//! were written.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{folder_of, sync_folder};
use crate::digest;
use crate::error::Error;
use crate::store;

/// What in the environment says which store a URL is of.
const PLACES: [&str; 5] = [
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_STORAGE_ACCOUNT_NAME",
];

/// The folder of this machine in which files of an output folder are made: itself, if it is one.
pub fn folder(dir: &Path) -> PathBuf {
    if !store::is_url(dir) {
        return dir.to_owned();
    }
    let url = dir.as_os_str().as_bytes();
    let mut place = url.strip_suffix(b"/").unwrap_or(url).to_vec();
    // One URL is another place at another endpoint, or of another account.
    for name in PLACES {
        place.push(0);
        place.extend(std::env::var_os(name).unwrap_or_default().as_bytes());
    }
    above().join(&digest::of_bytes(&place)[..16])
}

fn above() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("clipmill-{user}"))
}

/// Makes an output folder, and those above it, for good; of one in a store, the folder of what is made
/// for it.
pub fn create_folder(dir: &Path) -> Result<(), Error> {
    if store::is_url(dir) {
        return create_local(&folder(dir));
    }
    let missing: Vec<_> = dir.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(dir).map_err(Error::io("create the output folder", dir))?;
    missing
        .into_iter()
        .filter(|path| !path.as_os_str().is_empty())
        .try_for_each(|path| sync_folder(folder_of(path)))
}

/// Makes such a folder of this machine, for this user alone.
///
/// # Errors
/// `Io` where the place is somebody else's: what lies there could be read and changed.
pub fn create_local(folder: &Path) -> Result<(), Error> {
    let above = above();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&above);
    made.map_err(Error::io("create the folder", &above))?;
    let found = fs::symlink_metadata(&above).map_err(Error::io("read", &above))?;
    let is_own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !is_own || found.mode() & 0o022 != 0 {
        let why = "others may write there: set TMPDIR to a folder of your own";
        let source = io::Error::new(io::ErrorKind::PermissionDenied, why);
        return Err(Error::io("use", above)(source));
    }
    fs::create_dir_all(folder).map_err(Error::io("create the folder", folder))
}
