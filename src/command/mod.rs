//! One file a subcommand. A command turns arguments into a plan or a query, and prints.

mod check;
mod completions;
mod doctor;
mod inspect;
mod pipeline;
mod plan;
mod run;
mod score;
mod table;
mod verify;

use crate::cli::Command;
use crate::error::Error;

/// Does what the command line asks for.
pub fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Score(args) => score::score(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}
