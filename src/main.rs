//! The `clipmill` program: parse, dispatch, map an error to an exit code.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser;
use clipmill::cli::Cli;
use clipmill::command::dispatch;
use clipmill::contain::{quiet_contained_panics, this_is_the_program};
use clipmill::error;
use clipmill::log::{self, LogFormat};

fn main() -> ! {
    log::say_panics();
    quiet_contained_panics();
    this_is_the_program();
    let code = match Cli::try_parse() {
        Ok(cli) => {
            log::set_format(cli.log_format);
            match dispatch(cli.command) {
                Ok(()) => 0,
                Err(error) => {
                    log::error(&error);
                    i32::from(error.exit_code())
                }
            }
        }
        Err(usage) => refuse(&usage),
    };
    let _ = io::stdout().flush();
    error::leave(code)
}

/// Says what is wrong with the command line; help and the version are asked for in this way, too.
/// Returns the exit code.
fn refuse(usage: &clap::Error) -> i32 {
    if usage.use_stderr() && wants_json(std::env::args_os()) {
        log::set_format(LogFormat::Json);
        log::usage(&usage.to_string(), usage.exit_code());
    } else {
        let _ = usage.print();
    }
    usage.exit_code()
}

/// Whether the arguments ask for a log for machines, whatever else is wrong with them.
fn wants_json(args: impl Iterator<Item = OsString>) -> bool {
    let args: Vec<_> = args.take_while(|arg| arg != "--").collect();
    let apart = args.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json");
    apart || args.iter().any(|arg| arg == "--log-format=json")
}
