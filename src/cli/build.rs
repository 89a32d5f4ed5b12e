//! The command line of `zfs-build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing::error;

use crate::builder::{Options, digest_paths, run};
use crate::config::{self, Severity};
use crate::exit;
use crate::host::{Host, Release};
use crate::log::id;
use crate::prefix::portage::recipe_dirs;
use crate::process::Cancel;

/// Build and publish ZFS modules for a kernel; see zfs-prefix(8).
#[derive(Debug, Parser)]
#[command(name = "zfs-build", version)]
struct Cli {
    /// The kernel to build for instead of the running one; `\xNN` as in unit names is decoded
    #[arg(long, value_name = "RELEASE", value_parser = parse_release)]
    kernel_release: Option<Release>,
    /// Build although the same inputs are published, or failed a while ago
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
    /// Print the digest of what decides these packages in a prefix, and end (used by zfs-build
    /// itself)
    #[arg(long, hide = true, num_args = 2.., value_names = ["EPREFIX", "ATOM"])]
    packages: Vec<String>,
}

fn parse_release(text: &str) -> Result<Release> {
    crate::systemd::name::unescape(text).parse()
}

/// Runs the command line `args`; errors go to the journal or stderr.
pub fn main(host: Result<Host>, args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return crate::cli::usage(&error),
    };
    let print = |digest: crate::store::Digest| println!("{}", digest.as_str());
    let cancel = Cancel::default();
    let result = match (&cli.digest[..], &cli.packages[..]) {
        ([], []) => host.and_then(|host| build(&host, cli, &cancel)),
        ([], [prefix, atoms @ ..]) => {
            recipe_dirs(Path::new(prefix), atoms).and_then(|d| digest_paths(&d)).map(print)
        }
        (paths, _) => digest_paths(paths).map(print),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if cancel.is_set() => {
            tracing::warn!("{error:#}");
            // Ends as if the signal had not been caught: for the service manager, a stop is no
            // failure. The call does not return. If it did, this would still be no success.
            let _ = signal_hook::low_level::emulate_default_handler(libc::SIGTERM);
            exit::Exit::Other.into()
        }
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

fn build(host: &Host, cli: Cli, cancel: &Cancel) -> Result<()> {
    // The prefix's owner has to read what root makes for it, whatever the umask of root's shell is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let loaded = config::load(host);
    for note in &loaded.notes {
        match note.severity {
            Severity::Error => error!(message_id = id::CONFIG, "{note}"),
            Severity::Warning => tracing::warn!(message_id = id::CONFIG, "{note}"),
        }
    }
    cancel.on_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    let options = Options {
        release: cli.kernel_release,
        force: cli.force,
        jobs: cli.jobs,
        early: cli.early,
        // The file itself, not /proc/self/exe: it is run again with another user's rights.
        exe: std::env::current_exe().context("where this program is")?,
    };
    run(host, &loaded.settings, &options, cancel)
}
