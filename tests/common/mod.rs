//! What the integration tests share: the sample, scratch folders and the oracles.
//!
//! An oracle is somebody else's implementation (transformers, Pillow, pyarrow, DuckDB), run from
//! `.venv` by a script in `tests/oracle/`. Nothing here is an expected value.

pub mod family;
pub mod hub;
pub mod job;
pub mod s3;
pub mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A new empty folder under Cargo's folder for test files, removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target folder is writable")
}

/// The Python that has the oracles, unless the machine was set up without it (`LIBTORCH` set).
///
/// In CI its absence is a failure: a skipped oracle must not look like a passed one.
pub fn python() -> Option<PathBuf> {
    let python = root().join(".venv/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "CI needs .venv for the oracles: run `make test`");
    eprintln!("SKIPPED: no .venv, so no oracle to compare with; `make test` makes it");
    None
}

/// Runs `tests/oracle/SCRIPT` with arguments and waits. False when there is no Python to run it.
#[must_use]
pub fn oracle<S: AsRef<OsStr>>(script: &str, args: impl IntoIterator<Item = S>) -> bool {
    let Some(python) = python() else { return false };
    let script = root().join("tests/oracle").join(script);
    let output = Command::new(python)
        .arg(&script)
        .args(args)
        .env("HF_HUB_OFFLINE", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("Python starts");
    assert!(
        output.status.success(),
        "{} failed:\n{}{}",
        script.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// A folder of files made by others, where it is present beside the checkout.
pub fn corpora(folder: &str) -> Option<PathBuf> {
    let dir = root().join("../shared/corpora").join(folder);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("SKIPPED: {} is not here", dir.display());
    None
}

/// The sample's folder.
pub fn sample() -> PathBuf {
    root().join("sample_data")
}

/// Reads a file of little-endian f32.
pub fn read_f32(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// The largest difference of two lists of numbers; a NaN is one.
pub fn most_apart(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    // `max` would drop a NaN.
    ours.iter()
        .zip(theirs)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |most, apart| if apart <= most { most } else { apart })
}

/// What a run of the program left.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program in the repository's root and waits.
pub fn clipmill<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    Ran::of(command(args))
}

/// The program, to be started by the test.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipmill"));
    command.args(args).current_dir(root());
    command
}

impl Ran {
    /// What is left when a command has ended.
    pub fn of(mut command: Command) -> Self {
        let output = command.output().expect("the program starts");
        Self {
            code: output.status.code().expect("the program was not killed"),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test unless the program ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Runs the sample's pipeline with a model of that family, and searches what comes out by text: the
/// table says which model made it.
#[track_caller]
pub fn scores_and_searches(family: &str, model: &Path) {
    let dir = scratch();
    let pipeline = std::fs::read_to_string(root().join("pipelines/sample.toml")).unwrap();
    let path = dir.path().join("pipeline.toml");
    let theirs = format!("{:?}", model.display().to_string());
    let ours = pipeline
        .replace("[model.clip]", &format!("[model.{family}]"))
        .replace("\"sample_data/model\"", &theirs);
    std::fs::write(&path, ours).unwrap();
    let out = dir.path().join("out").display().to_string();
    clipmill(["run", &path.display().to_string(), "--output", &out]).ok();
    let found = clipmill(["search", &out, "red apple", "--top", "3", "--json"]).ok().stdout;
    assert!(found.contains("\"hits\""), "{found}");
    let about = clipmill(["models", &model.display().to_string(), "--json"]).ok().stdout;
    assert!(about.contains(&format!("\"family\":\"{family}\"")), "{about}");
}
