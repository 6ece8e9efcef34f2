//! `clipmill completions`: a shell's completion script on stdout.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::error::Error;

pub fn completions(args: &CompletionsArgs) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "clipmill", &mut script);
    super::table::print(&String::from_utf8_lossy(&script))
}
