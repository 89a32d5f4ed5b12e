//! `zfs-prefix prefix …`: the toolchain prefix, looked at.

use anyhow::Result;
use clap::Subcommand;

use super::{print, provision};
use crate::exit::Exit;
use crate::host::Host;
use crate::prefix::provision::step::Step;

/// Commands about the prefix.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch an archive of the prefix, check it, unpack it, put it in place
    Provision(provision::Args),
    /// One step of it with other rights (used by zfs-prefix itself)
    #[command(subcommand, hide = true)]
    Step(Step),
}

/// Runs a command; the exit status.
///
/// # Errors
/// With the exit status of what is wrong.
pub fn run(host: &Host, command: Command) -> Result<u8> {
    match command {
        Command::Provision(args) => provision::run(host, &args),
        Command::Step(step) => {
            print(&step.run()?)?;
            Ok(Exit::Done.code())
        }
    }
}
