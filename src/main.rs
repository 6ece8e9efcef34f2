//! The `clipmill` program: parse, dispatch, map an error to an exit code.

use std::io::{self, Write};

use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::contain::{quiet_contained_panics, this_is_the_program};
use clipmill::error;

fn main() -> ! {
    quiet_contained_panics();
    this_is_the_program();
    let code = match Cli::try_parse() {
        Ok(cli) => match dispatch(cli.command) {
            Ok(()) => 0,
            Err(error) => {
                error::print(&error);
                i32::from(error.exit_code())
            }
        },
        // Help is one, too.
        Err(usage) => {
            let _ = usage.print();
            usage.exit_code()
        }
    };
    let _ = io::stdout().flush();
    error::leave(code)
}
