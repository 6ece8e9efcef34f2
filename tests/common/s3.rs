//! An S3 of moto's on a loopback port, looked at by boto3; neither is ours.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::{Ran, command, python, root};

/// A store that is there until it is dropped. Keys begin with the bucket.
pub struct S3 {
    pub port: u16,
    child: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl S3 {
    /// None where there is no Python to run it.
    pub fn start() -> Option<Self> {
        let mut child = Command::new(python()?)
            .arg(root().join("tests/oracle/s3.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let stdin = child.stdin.take().expect("piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a port");
        let port = line.trim().parse().expect("a port");
        Some(Self { port, child, pipes: Mutex::new((stdin, stdout)) })
    }

    fn ask(&self, what: Value) -> Value {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{what}").expect("it listens");
        let mut line = String::new();
        pipes.1.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{what}: {line:?}"))
    }

    pub fn put(&self, key: &str, file: &Path) {
        self.ask(json!({ "put": key, "file": file }));
    }

    pub fn delete(&self, key: &str) {
        self.ask(json!({ "delete": key }));
    }

    /// The objects beneath a prefix, with their sizes. Keys are without the bucket.
    pub fn list(&self, prefix: &str) -> BTreeMap<String, u64> {
        serde_json::from_value(self.ask(json!({ "list": prefix }))).expect("sizes")
    }

    /// Uploads that were begun and neither completed nor aborted.
    pub fn uploads(&self, bucket: &str) -> u64 {
        self.ask(json!({ "uploads": bucket })).as_u64().expect("a number")
    }

    /// What it was asked for since this was called last, `GET /bucket/key` and the like, by anybody.
    pub fn asked(&self) -> Vec<String> {
        serde_json::from_value(self.ask(json!({ "asked": null }))).expect("requests")
    }

    /// Gets everything beneath a prefix into a folder.
    pub fn mirror(&self, prefix: &str, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        self.ask(json!({ "mirror": prefix, "folder": folder }));
    }

    /// Stops answering when that object is about to be put, as a store that is away.
    pub fn stop_at(&self, key: &str) {
        self.ask(json!({ "stop_at": key }));
    }

    pub fn go_on(&self) {
        let sent = Command::new("kill").args(["-CONT", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill is there").success());
    }

    /// The program, told where the store is; what it makes on its way there is made in `scratch`.
    pub fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        scratch: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = command(args);
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        command.env("AWS_REGION", "us-east-1").env("TMPDIR", scratch);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    }

    /// Runs the program and waits.
    pub fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        scratch: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Ran {
        Ran::of(self.command(scratch, args))
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // It ends with its stdin, but what it serves may be waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
