//! Which files several paths stand for: lists, folders, globs, one after another. What one path
//! stands for is `input`'s affair, and what folders' names mean is `hive`'s.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::hive::{Folders, folder_of_keys};
use super::input::{find_files, find_named};
use super::remote;
use crate::error::Error;
use crate::store::{Entry, is_url};

/// A list of files of more bytes than this is a mistake.
const MOST_LIST_BYTES: u64 = 1 << 30;

/// More shards than this are a mistake.
const MOST_SHARDS: usize = 1_000_000;

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub path: PathBuf,
    /// The part of the path that was given: what folders beneath it are named may mean something.
    pub base: PathBuf,
    /// Which version of an object a store has there; of a file its own metadata tell.
    pub version: Option<String>,
}

/// The files that paths stand for, in the order of the paths; at least one. A path that begins with
/// `@` names a list, one path a line, relative to the list's folder.
///
/// # Errors
/// `NotFound`, `NoInput` or `Io` for a path; `Setting` for a file that is found twice.
pub fn find_all(paths: &[PathBuf], folders: Folders) -> Result<Vec<Found>, Error> {
    find_each(paths, |path| find_one(path, folders))
}

/// The tar shards that paths stand for, in the same way; braces (`{00..12}`, `{a,b}`) stand for
/// several paths.
///
/// # Errors
/// Those of [`find_all`].
pub fn find_shards(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let found = find_each(paths, |path| {
        if is_url(path) {
            let problem = format!("{}: shards are read from disks alone", path.display());
            return Err(Error::Setting { key: "the source's path".into(), problem });
        }
        let paths = if path.exists() { vec![path.to_owned()] } else { in_braces(path)? };
        let mut found = Vec::new();
        for path in paths {
            let files = find_named(&path, ".tar").map_err(|error| match error {
                Error::NoInput { path } => {
                    let hint = ": no file there ends in .tar".to_owned();
                    Error::NotFound { what: "a shard of", path, hint }
                }
                other => other,
            })?;
            let of = |path| Found { path, base: PathBuf::new(), version: None };
            found.extend(files.into_iter().map(of));
        }
        Ok(found)
    })?;
    Ok(found.into_iter().map(|file| file.path).collect())
}

/// The paths that one with braces stands for, as the `braceexpand` package reads it.
fn in_braces(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut whole, mut open) = (Vec::new(), vec![path.to_string_lossy().into_owned()]);
    while let Some(text) = open.pop() {
        let start = text.find('{');
        let end = start.and_then(|start| Some(start + text[start..].find('}')?));
        let (Some(start), Some(end)) = (start, end) else {
            whole.push(PathBuf::from(text));
            continue;
        };
        let words = words(&text[start + 1..end]);
        if whole.len() + open.len() + words.len() > MOST_SHARDS {
            let problem = format!("{} stands for too many files", path.display());
            return Err(Error::Setting { key: "the source's path".into(), problem });
        }
        // The last is taken first.
        let each = words.iter().rev().map(|word| [&text[..start], word, &text[end + 1..]].concat());
        open.extend(each);
    }
    Ok(whole)
}

/// What a pair of braces holds: `00..12` or `a,b`.
fn words(inner: &str) -> Vec<String> {
    let range = inner.split_once("..").and_then(|(from, to)| {
        let numbers = from.parse::<u64>().ok().zip(to.parse::<u64>().ok())?;
        Some((numbers, from.len().max(to.len()), from.starts_with('0') || to.starts_with('0')))
    });
    match range {
        Some(((from, to), width, padded)) => {
            let width = if padded { width } else { 0 };
            let word = |number: u64| format!("{number:0width$}");
            // One more than allowed is enough to be refused.
            match from <= to {
                true => (from..=to).take(MOST_SHARDS + 1).map(word).collect(),
                false => (to..=from).rev().take(MOST_SHARDS + 1).map(word).collect(),
            }
        }
        None => inner.split(',').map(str::to_owned).collect(),
    }
}

fn find_each(
    paths: &[PathBuf],
    find: impl Fn(&Path) -> Result<Vec<Found>, Error>,
) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    for path in paths {
        match path.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(list) if !path.exists() => {
                let list = Path::new(std::ffi::OsStr::from_bytes(list));
                for path in read_list(list)? {
                    found.extend(find(&path)?);
                }
            }
            _ => found.extend(find(path)?),
        }
    }
    let mut seen = HashSet::new();
    let twice = |file: &&Found| !seen.insert(file.path.canonicalize().unwrap_or(file.path.clone()));
    if let Some(file) = found.iter().find(twice) {
        let problem = format!("names {} twice: name it once", file.path.display());
        return Err(Error::Setting { key: "the source's path".into(), problem });
    }
    Ok(found)
}

fn find_one(path: &Path, folders: Folders) -> Result<Vec<Found>, Error> {
    if is_url(path) {
        let base = remote::base(path);
        let files = match folders == Folders::Partitioned && remote::is_folder_of_keys(path)? {
            true => remote::find(&remote::all_beneath(path), ".parquet")?,
            false => remote::find(path, ".parquet")?,
        };
        let of = |Entry { path, version, .. }| Found {
            path,
            base: base.clone(),
            version: Some(version),
        };
        return Ok(files.into_iter().map(of).collect());
    }
    let base = base(path);
    let files = match path.is_dir() && folders == Folders::Partitioned && folder_of_keys(path)? {
        true => find_files(&glob_of(path))?,
        false => find_files(path)?,
    };
    let of = |path| Found { path, base: base.clone(), version: None };
    Ok(files.into_iter().map(of).collect())
}

/// All Parquet files beneath a folder, whatever its name holds.
fn glob_of(dir: &Path) -> PathBuf {
    PathBuf::from(glob::Pattern::escape(&dir.to_string_lossy())).join("**/*.parquet")
}

/// The part of a path before its first wildcard: a folder, or all of it.
fn base(path: &Path) -> PathBuf {
    if path.exists() {
        return if path.is_dir() { path.to_owned() } else { PathBuf::new() };
    }
    let is_plain = |part: &std::path::Component<'_>| {
        !part.as_os_str().to_string_lossy().contains(['*', '?', '['])
    };
    path.components().take_while(is_plain).collect()
}

fn read_list(list: &Path) -> Result<Vec<PathBuf>, Error> {
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NotFound {
            what: "the list of files",
            path: list.to_owned(),
            hint: ": after an @ comes a file that has one path a line".to_owned(),
        },
        _ => Error::io("read", list)(error),
    };
    let bytes = fs::metadata(list).map_err(missing)?.len();
    if bytes > MOST_LIST_BYTES {
        let problem = format!("{} has {bytes} bytes: that is no list of files", list.display());
        return Err(Error::Setting { key: "the source's path".into(), problem });
    }
    let text = fs::read(list).map_err(Error::io("read", list))?;
    let dir = list.parent().unwrap_or(Path::new(""));
    let lines = text.split(|byte| *byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.filter(|line| !line.is_empty());
    // A URL is nobody's to be relative to.
    let place = |line| match Path::new(std::ffi::OsStr::from_bytes(line)) {
        url if is_url(url) => url.to_owned(),
        path => dir.join(path),
    };
    let paths: Vec<_> = lines.map(place).collect();
    match paths.is_empty() {
        true => Err(Error::Setting {
            key: "the source's path".into(),
            problem: format!("{} lists no file", list.display()),
        }),
        false => Ok(paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_paths_in_their_order() {
        let said = |path: &str| {
            let paths = in_braces(Path::new(path)).expect("a few");
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said("a{08..10}.tar"), "a08.tar a09.tar a10.tar");
        assert_eq!(said("{a,b}/{2..1}"), "a/2 a/1 b/2 b/1");
        assert_eq!(said("{9..11}"), "9 10 11");
        assert_eq!(said("plain{"), "plain{");
        assert!(in_braces(Path::new("{0..9999999999}")).is_err());
    }

    #[test]
    fn lists_and_paths_are_read_in_their_order_and_nothing_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        for name in ["a.parquet", "b.parquet", "sub/c.parquet", "sub/d.parquet"] {
            fs::create_dir_all(at(name).parent().expect("it has one")).expect("made");
            fs::write(at(name), "").expect("written");
        }
        fs::write(at("list.txt"), "sub\r\n\nb.parquet\n").expect("written");
        let list = PathBuf::from(format!("@{}", at("list.txt").display()));
        let names = |paths: &[PathBuf]| {
            let found = find_all(paths, Folders::Flat)?;
            let names = found.iter().map(|file| {
                file.path.strip_prefix(dir.path()).expect("it is in it").display().to_string()
            });
            Ok::<_, Error>(names.collect::<Vec<_>>())
        };
        let listed = ["sub/c.parquet", "sub/d.parquet", "b.parquet"];
        assert_eq!(names(std::slice::from_ref(&list)).expect("they are there"), listed);
        let both = names(&[list.clone(), at("a.parquet")]).expect("they are there");
        assert_eq!(both, [&listed[..], &["a.parquet"]].concat());
        let all = names(&[at("**/*.parquet")]).expect("they are there");
        assert_eq!(all, ["a.parquet", "b.parquet", "sub/c.parquet", "sub/d.parquet"]);
        let twice = names(&[list, at("b.parquet")]).expect_err("twice").to_string();
        assert!(twice.contains("b.parquet twice"), "{twice}");
        let none = names(&["@/no/such/list".into()]).expect_err("no list");
        assert_eq!(none.exit_code(), 2, "{none}");
    }
}
