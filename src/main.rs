//! The `clipmill` program: parse, dispatch, map an error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::error::Error;

fn main() -> ExitCode {
    let Err(error) = dispatch(Cli::parse().command) else { return ExitCode::SUCCESS };
    eprint!("error: {error}");
    let mut cause = std::error::Error::source(&error);
    while let Some(source) = cause {
        eprint!(": {source}");
        cause = source.source();
    }
    eprintln!();
    if let Error::Interrupted { .. } = error {
        // A device may still be in the middle of a batch: leave without running destructors
        // under it.
        signal_hook::low_level::exit(i32::from(error.exit_code()));
    }
    ExitCode::from(error.exit_code())
}
