//! The `clipmill` program: parse, dispatch, map an error to an exit code.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::contain::quiet_contained_panics;
use clipmill::error::Error;

fn main() -> ExitCode {
    quiet_contained_panics();
    let Err(error) = dispatch(Cli::parse().command) else { return ExitCode::SUCCESS };
    let mut message = format!("error: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        message += &format!(": {source}");
        cause = source.source();
    }
    // Nobody is left to hear that stderr is closed; the exit code still tells.
    let _ = writeln!(std::io::stderr(), "{message}");
    if let Error::Interrupted { .. } = error {
        // A device may still be in the middle of a batch: leave without running destructors
        // under it.
        signal_hook::low_level::exit(i32::from(error.exit_code()));
    }
    ExitCode::from(error.exit_code())
}
