//! One file a subcommand. A command turns arguments into a plan or a query, and prints.

mod check;
mod completions;
mod doctor;
mod filter;
mod finalize;
mod inspect;
mod pipeline;
mod plan;
mod preflight;
mod run;
mod score;
mod table;
mod try_images;
mod verify;

use crate::cli::Command;
use crate::error::Error;

/// Does what the command line asks for.
pub fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Finalize(args) => finalize::finalize(&args),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Filter(args) => filter::filter(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Score(args) => score::score(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Preflight => preflight::preflight(),
        Command::TryImages(args) => try_images::try_images(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}
