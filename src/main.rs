//! The `clipmill` program: parse, dispatch, map an error to an exit code.

use std::process::ExitCode;

use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::contain::{quiet_contained_panics, this_is_the_program};
use clipmill::error::{self, Error};

fn main() -> ExitCode {
    quiet_contained_panics();
    this_is_the_program();
    let Err(error) = dispatch(Cli::parse().command) else { return ExitCode::SUCCESS };
    if let Error::Interrupted { .. } = error {
        // A device may still be in the middle of a batch.
        error::exit(&error);
    }
    error::print(&error);
    ExitCode::from(error.exit_code())
}
