//! Code that may panic, or end the process, on bytes from strangers: a panic becomes a value,
//! quietly, and what may be worse is done in a child process of the same program.
//!
//! For other people's decoders and readers alone. A panic of clipmill's own is a defect and stays
//! loud.

use std::cell::Cell;
use std::io;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};

/// Set by `main`.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// A command that starts the program itself, where this process is the program: in a test it is
/// the test, which would start itself again.
pub fn own_program() -> Option<Command> {
    PROGRAM.get().map(Command::new)
}

/// Says that this process is the program. Called once by `main`.
pub fn this_is_the_program() {
    // What it was started from, also when that was replaced since.
    PROGRAM.get_or_init(|| PathBuf::from("/proc/self/exe"));
}

/// Lets this process, a child, take so many bytes more than it has, leave no core file, and not
/// outlive its parent.
pub fn limit_memory(bytes: u64) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let used = kib.ok_or_else(|| io::Error::other("no VmSize in /proc/self/status"))? * 1024;
    let at_most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    setrlimit(Resource::Core, at_most(0))?;
    let most = getrlimit(Resource::As).maximum.unwrap_or(u64::MAX);
    Ok(setrlimit(Resource::As, at_most(used.saturating_add(bytes).min(most)))?)
}

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// The result of `call`, or `None` if it panicked.
pub fn contain<T>(call: impl FnOnce() -> T) -> Option<T> {
    let before = CONTAINED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    CONTAINED.set(before);
    result.ok()
}

/// Keeps contained panics off stderr; all others are printed as before. Called once by `main`.
pub fn quiet_contained_panics() {
    let loud = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CONTAINED.get() {
            loud(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::panic, reason = "the panic is what is tested")]
    fn a_panic_is_none_and_what_follows_is_loud_again() {
        assert_eq!(contain(|| 1), Some(1));
        assert_eq!(contain(|| -> i32 { panic!("contained") }), None);
        assert!(!CONTAINED.get());
    }
}
