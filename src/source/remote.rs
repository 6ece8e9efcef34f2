//! Parquet files in object stores: found, and their footers read, many at once.
//!
//! What is read of them afterwards is read as of any file (`watched`). Their footers too are tried in
//! a child process before this one reads them; it is given files of the same length that have nothing
//! but the footer.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parquet::file::reader::Length;

use super::hive::key_value;
use super::input::{InputFile, Opened, is_data, no_parquet};
use super::inputs::try_footers;
use crate::error::Error;
use crate::store::{self, Entry};
use crate::watched::WatchedFile;

/// Files whose footers are held in memory at once.
const AT_ONCE: usize = 128;

/// What stands for any characters in a pattern.
const WILD: [char; 3] = ['*', '?', '['];

/// The objects that a URL stands for: one, those of a folder, or those that a pattern fits.
pub fn find(url: &Path, end: &str) -> Result<Vec<Entry>, Error> {
    let listed = |error| Error::io("list", url)(error);
    let text = url.to_string_lossy();
    if !text.ends_with('/')
        && let Some(it) = store::head(url).map_err(Error::io("open", url))?
    {
        return Ok(vec![it]);
    }
    let (mut found, _) = store::level(url).map_err(listed)?;
    if found.is_empty() && text.contains(WILD) {
        let pattern = glob::Pattern::new(&text).map_err(|error| Error::Setting {
            key: "the source's path".into(),
            problem: format!("\"{text}\" is not a glob: {error}"),
        })?;
        // A star is a part of one name, as on a disk.
        let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        let fits = |path: &Path| pattern.matches_path_with(path, options) && is_data(path, end);
        let base = base(url);
        // What lies deeper is not listed where the pattern does not reach there.
        let is_deep = text[base.to_string_lossy().len() + 1..].contains('/') || text.contains("**");
        found = match is_deep {
            true => store::beneath(&base, fits).map_err(listed)?,
            false => store::level(&base).map_err(listed)?.0,
        };
        found.retain(|entry| fits(&entry.path));
    }
    found.retain(|entry| is_data(&entry.path, end));
    match found.is_empty() {
        true => Err(Error::NoInput { path: url.to_owned() }),
        false => Ok(found),
    }
}

/// The part of a URL before its first wildcard.
pub fn base(url: &Path) -> PathBuf {
    let text = url.to_string_lossy();
    match text.find(WILD) {
        None => url.to_owned(),
        Some(at) => PathBuf::from(&text[..text[..at].rfind('/').unwrap_or(at)]),
    }
}

/// A pattern of all that is beneath a folder.
pub fn all_beneath(url: &Path) -> PathBuf {
    let folder = url.to_string_lossy();
    PathBuf::from(format!("{}/**/*", glob::Pattern::escape(folder.trim_end_matches('/'))))
}

/// Whether a URL is a folder whose folders are named `key=value`.
pub fn is_folder_of_keys(url: &Path) -> Result<bool, Error> {
    if url.to_string_lossy().contains(WILD) {
        return Ok(false);
    }
    let (_, folders) = store::level(url).map_err(Error::io("list", url))?;
    Ok(folders.iter().any(|name| key_value(name).is_some()))
}

/// Opens files and reads their footers.
pub fn open(urls: &[PathBuf]) -> Result<Vec<InputFile>, Error> {
    let mut inputs = Vec::with_capacity(urls.len());
    for urls in urls.chunks(AT_ONCE) {
        let opened = store::open_all(urls);
        let opened = opened.map_err(|(url, error)| Error::io("open", url)(error))?;
        let files: Vec<_> = opened.into_iter().map(WatchedFile::of_object).collect();
        let scratch = tempfile::tempdir().map_err(Error::io("write to", std::env::temp_dir()))?;
        let mut copies = Vec::with_capacity(urls.len());
        for (index, (file, url)) in files.iter().zip(urls).enumerate() {
            let path = scratch.path().join(index.to_string());
            copy_footer(file, url, &path)?;
            copies.push(path);
        }
        try_footers(&copies, urls)?;
        for (file, url) in files.into_iter().zip(urls) {
            inputs.push(InputFile::of(url, Opened::of(url, file)?)?);
        }
    }
    Ok(inputs)
}

/// Puts an object's footer where it is in a file of the object's length.
fn copy_footer(from: &WatchedFile, url: &Path, to: &Path) -> Result<(), Error> {
    let mut reader = from.reader();
    let mut end = [0; 8];
    let read = reader.seek(SeekFrom::End(-8)).and_then(|_| reader.read_exact(&mut end));
    let [a, b, c, d, magic @ ..] = end;
    let footer = u64::from(u32::from_le_bytes([a, b, c, d])) + 8;
    let at = from.len().checked_sub(footer).filter(|_| read.is_ok() && &magic == b"PAR1");
    let Some(at) = at else {
        // What the store refused, if it did.
        return Err(from.explain(url, no_parquet(url)));
    };
    // Piece by piece: the footer may say that it has any length.
    let mut file = File::create(to).map_err(Error::io("create", to))?;
    let begun = file.set_len(from.len()).and_then(|()| file.write_all_at(b"PAR1", 0));
    begun.and_then(|()| file.seek(SeekFrom::Start(at))).map_err(Error::io("write", to))?;
    reader.seek(SeekFrom::Start(at)).map_err(Error::io("read", url))?;
    io::copy(&mut reader, &mut file).map(drop).map_err(Error::io("copy the footer of", url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_what_is_before_the_first_wildcard() {
        for (url, wanted) in [
            ("s3://b/a/x*.parquet", "s3://b/a"),
            ("s3://b/a/**/x.parquet", "s3://b/a"),
            ("s3://b/*.parquet", "s3://b"),
            ("s3://b/a", "s3://b/a"),
        ] {
            assert_eq!(base(Path::new(url)).to_str(), Some(wanted), "{url}");
        }
        assert_eq!(all_beneath(Path::new("s3://b/[a]/")).to_str(), Some("s3://b/[[]a[]]/**/*"));
    }
}
