//! `zfs-prefix prefix …`: the toolchain prefix by hand.

use std::ffi::OsString;

use anyhow::Result;
use clap::Subcommand;

use crate::config;
use crate::host::Host;
use crate::kernel::Release;
use crate::prefix::enter::shell;

/// What can be done with the prefix.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enter it as a build does: its namespace, user and environment
    Shell {
        /// Set KV_OUT_DIR and KERNEL_DIR for this kernel instead of the running one
        #[arg(long, value_name = "RELEASE")]
        kernel_release: Option<Release>,
        /// With the machine's network (the default)
        #[arg(long, overrides_with = "no_network")]
        network: bool,
        /// Without any network, as a build has it once its sources are fetched
        #[arg(long)]
        no_network: bool,
        /// A command instead of an interactive shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

/// Does it; the exit status.
///
/// # Errors
/// With the exit status of what is wrong.
pub fn run(host: &Host, command: Command) -> Result<u8> {
    let loaded = config::load(host);
    for note in &loaded.notes {
        eprintln!("zfs-prefix: {note}");
    }
    match command {
        Command::Shell { kernel_release, network: _, no_network, command } => {
            let term = std::env::var_os("TERM");
            let release = kernel_release;
            let request = shell::Request { release, network: !no_network, command, term };
            shell::run(host, &loaded.settings, &request)
        }
    }
}
