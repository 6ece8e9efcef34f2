//! Footers of files from strangers, read by a child first: one that exhausts the stack or the
//! memory ends the child, and the parent knows which file it was.
//!
//! The child is the same program. It reads paths on stdin, each ended by a NUL, and answers each
//! with one line: `+`, or `-` and what is wrong. The file without a line is the one that it died
//! of. Rows are not read here.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;

use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::Length;

use super::footer::check_footer;
use crate::watched::WatchedFile;

/// The stack that a footer has to do with: half of what a thread has by default, so that what
/// passes here passes in every thread.
const STACK_BYTES: usize = 1 << 20;

/// What the child may allocate beyond what it starts with.
pub const HEAP_BYTES: u64 = 1 << 30;

/// What is known of a file: that it can be opened, or why not.
pub type Verdict = Result<(), String>;

/// Lets `program`, which calls [`serve`], read the footers of `paths`. Gives the verdicts in the
/// paths' order, up to and with that of the file that ended the child, if one did.
pub fn preflight(program: &mut Command, paths: &[PathBuf]) -> io::Result<Vec<Verdict>> {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // What a dying child says is of no use to anyone.
        .stderr(Stdio::null())
        .spawn()?;
    let stdin = child.stdin.take().expect("it was piped");
    let stdout = child.stdout.take().expect("it was piped");
    let answers = thread::scope(|scope| {
        // On a thread, so that neither waits for the other with a full pipe.
        scope.spawn(move || send(stdin, paths));
        let lines = BufReader::new(stdout).split(b'\n').take(paths.len());
        lines.collect::<io::Result<Vec<_>>>()
    });
    // Before the answers are looked at, so that no child is left behind.
    let status = child.wait()?;
    let mut verdicts = answers?.iter().map(|line| verdict(line)).collect::<Vec<_>>();
    if verdicts.len() < paths.len() {
        let cause = match status.signal() {
            Some(signal) => format!("signal {signal}"),
            None => status.to_string(),
        };
        verdicts.push(Err(format!("reading its footer ended the reader ({cause})")));
    }
    Ok(verdicts)
}

/// A child that is gone takes no more paths, which its missing answers say better.
fn send(mut stdin: ChildStdin, paths: &[PathBuf]) {
    for path in paths {
        let bytes = [path.as_os_str().as_bytes(), b"\0"].concat();
        if stdin.write_all(&bytes).is_err() {
            break;
        }
    }
}

fn verdict(line: &[u8]) -> Verdict {
    match line {
        b"+" => Ok(()),
        other => Err(String::from_utf8_lossy(other.strip_prefix(b"-").unwrap_or(other)).into()),
    }
}

/// The child's work: a line for each path. Its memory is limited before it.
pub fn serve(
    paths: impl Read,
    mut answers: impl Write,
    examine: fn(&Path) -> Verdict,
) -> io::Result<()> {
    for path in BufReader::new(paths).split(b'\0') {
        let path = PathBuf::from(OsStr::from_bytes(&path?));
        let thread =
            thread::Builder::new().stack_size(STACK_BYTES).spawn(move || examine(&path))?;
        let panicked = || Err("the Parquet reader panicked on its footer: it is damaged".into());
        let line = match thread.join().unwrap_or_else(|_| panicked()) {
            Ok(()) => "+\n".to_owned(),
            // A file's own words are in some messages, and may be anything.
            Err(problem) => format!("-{}\n", problem.replace(char::is_control, " ")),
        };
        answers.write_all(line.as_bytes())?;
        answers.flush()?;
    }
    Ok(())
}

/// Whether a file's footer can be read, and is one that the file can have.
pub fn examine(path: &Path) -> Verdict {
    // A file that cannot be opened or read is the parent's to name, which tries it itself.
    let Ok(file) = WatchedFile::open(path) else { return Ok(()) };
    match examine_footer(&file) {
        Err(_) if file.failure().is_some() => Ok(()),
        examined => examined,
    }
}

fn examine_footer(file: &WatchedFile) -> Verdict {
    let footer = ParquetMetaDataReader::new().parse_and_finish(file);
    let footer = footer.map_err(|error| error.to_string())?;
    check_footer(&footer, file.len())?;
    match ArrowReaderMetadata::try_new(footer.into(), ArrowReaderOptions::new()) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str, n_paths: usize) -> Vec<Verdict> {
        let paths = vec![PathBuf::from("a path\nwith a line"); n_paths];
        preflight(Command::new("sh").args(["-c", script]), &paths).expect("sh is there")
    }

    #[test]
    fn the_file_without_an_answer_is_the_one_that_ended_the_child() {
        assert_eq!(of("echo +; echo '-it is cut'", 2), [Ok(()), Err("it is cut".into())]);
        let died = of("echo +; kill -ABRT $$", 3);
        assert_eq!(died.len(), 2);
        assert!(died[1].as_ref().is_err_and(|problem| problem.contains("signal 6")), "{died:?}");
        // Neither waits for the other, though the paths fill a pipe.
        assert_eq!(of("exit 3", 100_000).len(), 1);
        assert_eq!(of("tr '\\0' '\\n' | sed -n '2~2s/.*/+/p'", 100_000).len(), 100_000);
        assert_eq!(of("true", 0), []);
    }

    #[test]
    fn every_path_gets_one_line_whatever_comes_of_it() {
        let examine = |path: &Path| match path.to_str() {
            Some("good") => Ok(()),
            Some(other) => Err(format!("{other}\nhas\ttwo lines")),
            None => unreachable!("a panic of the library"),
        };
        let mut answers = Vec::new();
        serve(&b"good\0bad\0\xff\0good\0"[..], &mut answers, examine).expect("it writes");
        let lines: Vec<_> = answers.split(|byte| *byte == b'\n').map(verdict).collect();
        assert_eq!(lines[..2], [Ok(()), Err("bad has two lines".into())]);
        assert!(lines[2].as_ref().is_err_and(|problem| problem.contains("panicked")));
        assert_eq!(lines[3], Ok(()));
    }
}
