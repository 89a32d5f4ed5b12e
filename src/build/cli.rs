//! The command line of `zfs-build`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing::error;

use super::command::Cancel;
use super::{Options, digest_paths, processes, run};
use crate::config::{self, Severity};
use crate::exit;
use crate::host::Host;
use crate::kernel::Release;
use crate::log::id;

/// Build and publish ZFS modules for a kernel; see zfs-prefix(8).
#[derive(Debug, Parser)]
#[command(name = "zfs-build", version)]
struct Cli {
    /// The kernel to build for instead of the running one; `\xNN` as in unit names is decoded
    #[arg(long, value_name = "RELEASE", value_parser = parse_release)]
    kernel_release: Option<Release>,
    /// Do not wait out the pause after a failure
    #[arg(long)]
    force: bool,
    /// Compiler jobs at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=512))]
    jobs: Option<u32>,
    /// This build holds up the boot: no network, no request for more time
    #[arg(long)]
    early: bool,
    /// Print the digest of these files and directories, and end (used by zfs-build itself)
    #[arg(long, hide = true, num_args = 1.., value_name = "PATH")]
    digest: Vec<PathBuf>,
}

fn parse_release(text: &str) -> Result<Release> {
    crate::admin::unescape(text).parse()
}

/// Runs the command line `args`; errors go to the journal or stderr.
pub fn main(host: Result<Host>, args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return crate::admin::usage(&error),
    };
    let result = match cli.digest.is_empty() {
        true => host.and_then(|host| build(&host, cli)),
        false => digest_paths(&cli.digest).map(|digest| println!("{}", digest.as_str())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let exit = exit::of(&error);
            let message_id = match exit {
                exit::Exit::BackingOff => id::BACKING_OFF,
                _ => id::BUILD_FAILED,
            };
            error!(message_id, zfs_prefix_exit = exit.code(), "{error:#}");
            exit.into()
        }
    }
}

fn build(host: &Host, cli: Cli) -> Result<()> {
    let loaded = config::load(host);
    for note in &loaded.notes {
        match note.severity {
            Severity::Error => error!(message_id = id::CONFIG, "{note}"),
            Severity::Warning => tracing::warn!(message_id = id::CONFIG, "{note}"),
        }
    }
    processes::adopt_orphans().context("prctl(PR_SET_CHILD_SUBREAPER)")?;
    let cancel = Cancel::default();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        signal_hook::flag::register(signal, cancel.0.clone()).context("sigaction")?;
    }
    let options = Options {
        release: cli.kernel_release,
        force: cli.force,
        jobs: cli.jobs,
        early: cli.early,
        // The file itself, not /proc/self/exe: it is run again with another user's rights.
        exe: std::env::current_exe().context("where this program is")?,
    };
    run(host, &loaded.settings, &options, &cancel)
}
