//! A small job that tests disturb, and how they do it: faults from outside, and what of an output
//! must be as in the undisturbed run.
//!
//! What is asked of a disturbed job is in `faults.rs` and `resume.rs`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

use arrow::array::{Array, AsArray};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{clipmill, command, python, root, sample, scratch};

/// Rows of the sample, and rows a part: three parts.
const SETTINGS: [&str; 4] = ["--limit", "21", "--set", "sink.parquet.rows_per_part=8"];
pub const PARTS: usize = 3;

/// Arguments of a small run into a folder.
pub fn args(output: &Path) -> Vec<String> {
    let mut args = vec!["run".to_owned(), "pipelines/sample.toml".to_owned()];
    args.extend(["--output".to_owned(), output.display().to_string()]);
    args.extend(SETTINGS.map(str::to_owned));
    args.extend(["--set", "model.clip.precision=f32", "--threads", "2"].map(str::to_owned));
    args
}

/// Arguments of a share of it.
pub fn share(output: &Path, parts: &str) -> Vec<String> {
    let mut args = args(output);
    args.extend(["--parts".to_owned(), parts.to_owned()]);
    args
}

/// Arguments that end a job done in shares.
pub fn finalize(output: &Path) -> Vec<String> {
    [&["finalize".to_owned()], &args(output)[1..]].concat()
}

/// A library of `faults/`, compiled. None where there is no compiler.
pub fn library(name: &str) -> Option<PathBuf> {
    static NEXT: OnceLock<tempfile::TempDir> = OnceLock::new();
    static ONE: Mutex<()> = Mutex::new(());
    let dir = NEXT.get_or_init(scratch);
    // A program that starts meanwhile would find half of it.
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let to = dir.path().join(format!("{name}.so"));
    if to.exists() {
        return Some(to);
    }
    let flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"];
    let source = root().join("tests/faults").join(format!("{name}.c"));
    let compiled = Command::new("cc").args(flags).arg("-o").arg(&to).arg(source).output();
    match compiled {
        Ok(done) => {
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            Some(to)
        }
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs cc for the faults: {error}");
            eprintln!("SKIPPED: no C compiler, so no faults: {error}");
            None
        }
    }
}

/// A run with a fault in its output folder. The log is of all runs with that log.
pub struct Faulty<'a> {
    pub library: &'a Path,
    pub output: &'a Path,
    pub log: &'a Path,
}

impl Faulty<'_> {
    /// Runs with a fault, `N:ACTION` or `CALL:N:ACTION`; none if it is empty.
    pub fn run(&self, fault: &str, args: &[String]) -> Output {
        self.command(fault, args).output().expect("the program starts")
    }

    /// The same, to be started by the test.
    pub fn command(&self, fault: &str, args: &[String]) -> Command {
        let mut command = command(args);
        command.env("LD_PRELOAD", self.library);
        command.env("CLIPMILL_FAULT_DIR", self.output).env("CLIPMILL_FAULT_LOG", self.log);
        if !fault.is_empty() {
            command.env("CLIPMILL_FAULT", fault);
        }
        command
    }

    pub fn fired(&self) -> usize {
        fs::read_to_string(self.log).unwrap_or_default().matches("FIRED").count()
    }

    /// How often a file got its final name.
    pub fn published(&self, name: &str) -> usize {
        let log = fs::read_to_string(self.log).expect("a log");
        let end = format!(" -> {name} ");
        let is_done = |line: &&str| {
            let (_, result) = line.split_once(&end).unwrap_or_default();
            ["ok", "killed-after", "done-then-error"].iter().any(|done| result.starts_with(done))
        };
        log.lines().filter(|line| line.contains(" rename ")).filter(is_done).count()
    }

    /// How many events of that call, or of any, the log has.
    pub fn events(&self, call: Option<&str>) -> usize {
        let log = fs::read_to_string(self.log).expect("a log");
        let is_of = |line: &&str| call.is_none_or(|call| line.split(' ').nth(2) == Some(call));
        log.lines().filter(is_of).count()
    }
}

/// Holds a log against the rules of publishing.
pub fn trace(log: &Path, flags: &[&str]) {
    let Some(python) = python() else { return };
    let script = root().join("tests/faults/trace.py");
    let traced = Command::new(python).arg(script).arg(log).args(flags).output().expect("starts");
    let said = String::from_utf8_lossy(&traced.stderr);
    let log = fs::read_to_string(log).expect("a log");
    assert!(traced.status.success(), "{said}\n{log}");
}

/// Everything that two runs of one job must agree in, by file name.
pub fn content(output: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(output).expect("an output folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut content = Vec::new();
    for path in paths {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        // The report has times in it, and the lock names its last holder.
        if name != "run_report.json" && name != "_lock" {
            content.push((name, fs::read(&path).expect("a file")));
        }
    }
    content.sort();
    content
}

pub fn assert_same(output: &Path, wanted: &[(String, Vec<u8>)], what: &str) {
    let found = content(output);
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&found), names(wanted), "{what}");
    for ((name, found), (_, wanted)) in found.iter().zip(wanted) {
        assert!(found == wanted, "{what}: {name} is not the undisturbed run's");
    }
}

/// The run that nothing happens to.
pub fn undisturbed(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let output = dir.join("undisturbed");
    clipmill(args(&output)).ok();
    let content = content(&output);
    assert_eq!(content.len(), PARTS + 2, "parts, the manifest and the mark");
    content
}

/// The sample's images, row by row.
pub fn image_paths() -> Vec<String> {
    let file = fs::File::open(sample().join("captions.parquet")).expect("the sample");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build();
    let batches = reader.expect("a reader").map(|batch| batch.expect("a batch"));
    let paths = batches.flat_map(|batch| {
        let column = batch.column_by_name("image_path").expect("there").as_string::<i32>().clone();
        (0..column.len()).map(move |row| column.value(row).to_owned()).collect::<Vec<_>>()
    });
    paths.collect()
}

/// A sample image whose decoder meets an end, as `killer.c` says.
fn killer_image(how: char) -> Vec<u8> {
    let image = fs::read(sample().join("images/003-1f31c.png")).expect("an image");
    let text = format!("Comment\0CLIPMILL-KILLER-{how}");
    let mut chunk = (text.len() as u32).to_be_bytes().to_vec();
    chunk.extend(b"tEXt");
    chunk.extend(text.as_bytes());
    let crc = chunk[4..].iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    });
    chunk.extend((!crc).to_be_bytes());
    // After the signature and the header.
    [&image[..33], &chunk, &image[33..]].concat()
}

/// A copy of the sample's images in a folder, where those of these names kill their decoder.
pub fn images_with_killers(to: &Path, how: char, names: &[&String]) {
    fs::create_dir_all(to.join("images")).expect("a folder");
    for entry in fs::read_dir(sample().join("images")).expect("the sample") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, to.join("images").join(name)).expect("copied");
    }
    let killer = killer_image(how);
    for name in names {
        fs::write(to.join(name), &killer).expect("written");
    }
}

/// Numbers that look random and are the same in every test run (SplitMix64).
pub fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
