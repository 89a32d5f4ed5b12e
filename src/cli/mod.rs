//! What the admin command `zfs-prefix` does.

pub mod build;
mod kernel;
mod list;
pub mod load;
mod pools;
mod prefix;
mod programs;
mod provision;
pub mod shell;
mod status;
mod symvers;
mod systemctl;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config;
use crate::exit::{self, Exit};
use crate::host::{Host, Release};
use crate::load::{ByHand, holds, ships};
use crate::store::{Layout, make_dirs, write_atomic};

/// ZFS kernel modules for a system that ships none.
#[derive(Debug, Parser)]
#[command(name = "zfs-prefix", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The running kernel, its modules, the last failure, the pools
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Every published tree
    List,
    /// Build modules now, as zfs-build.service does, and wait
    Build {
        /// For this kernel instead of the running one
        #[arg(long, value_name = "RELEASE")]
        kernel_release: Option<Release>,
        /// Build although the same inputs are published, or failed a while ago
        #[arg(long)]
        force: bool,
    },
    /// Load the published modules now, as zfs-load.service does; also those that modprobe.d(5) holds
    /// back at boot
    Load {
        /// Then start all that the boot skipped for lack of ZFS and that does not run: import,
        /// keys, mounts, volumes, shares, and the units that need them (zfs-load-late.service does
        /// this)
        #[arg(long)]
        import: bool,
        /// As at boot: load nothing that modprobe.d(5) holds back (zfs-load-late.service does this)
        #[arg(long)]
        at_boot: bool,
    },
    /// What can be learnt of a kernel
    #[command(subcommand)]
    Kernel(kernel::Command),
    /// The pools that are expected or imported, and why one is not as it should be
    Pools(pools::Args),
    /// The toolchain prefix
    #[command(subcommand)]
    Prefix(prefix::Command),
    /// Module.symvers of a kernel that was built elsewhere, from its image and its modules
    Symvers(symvers::Args),
}

/// Runs the command line `args` on `host`. Errors are printed; the exit status is that of the
/// table in zfs-prefix(8).
pub fn main(host: &Host, args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match run(host, cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("zfs-prefix: {error:#}");
            exit::of(&error).into()
        }
    }
}

/// Prints what clap has to say: help and version are no error, the rest is [`Exit::Usage`].
pub fn usage(error: &clap::Error) -> ExitCode {
    let told = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else if told.is_ok() {
        Exit::Done.into()
    } else {
        Exit::Other.into()
    }
}

fn run(host: &Host, command: Command) -> Result<u8> {
    let layout = Layout::new(&host.root);
    match command {
        Command::Status { json } => {
            let loaded = config::load(host);
            for note in &loaded.notes {
                eprintln!("zfs-prefix: {note}");
            }
            let status = status::Status::of(host, &loaded.settings, &layout);
            if json {
                print(&serde_json::to_string_pretty(&status)?)?
            } else {
                print(status.to_string().trim_end())?
            }
            Ok(status.exit().code())
        }
        Command::List => {
            let (text, sound) = list::list(&layout)?;
            print(text.trim_end())?;
            Ok(if sound { Exit::Done } else { Exit::Refused }.code())
        }
        Command::Build { kernel_release, force } => {
            if force {
                let release = kernel_release.as_ref().unwrap_or(&host.kernel_release);
                make_dirs(&layout.run())?;
                write_atomic(&layout.force(release), b"")?;
            }
            systemctl::build(kernel_release.as_ref())
        }
        Command::Load { import, at_boot } => {
            let _asked = if at_boot { None } else { by_hand(host)? };
            if import { load_and_import(host) } else { systemctl::load(host) }
        }
        Command::Kernel(command) => kernel::run(host, command),
        Command::Pools(args) => pools::run(host, &args),
        Command::Prefix(command) => prefix::run(host, command),
        Command::Symvers(args) => symvers::run(&args),
    }
}

/// Says what holds ZFS back, and asks for it all the same where that helps.
fn by_hand(host: &Host) -> Result<Option<ByHand>> {
    let left_to_modprobe =
        || ships(host, &host.kernel_release).is_ok_and(|ships| ships.module.is_some());
    if host.path("/sys/module/zfs").exists() || left_to_modprobe() {
        return Ok(None);
    }
    let holds = holds(host, &host.kernel_release);
    for hold in holds.iter().filter(|hold| hold.by_kernel) {
        eprintln!("zfs-prefix: {}", hold.why_not_loaded());
    }
    let Some(hold) = holds.iter().find(|hold| !hold.by_kernel) else { return Ok(None) };
    let asked = ByHand::ask(host)?;
    eprintln!("zfs-prefix: {hold}: the boot does not load zfs; it is loaded now all the same");
    Ok(Some(asked))
}

#[cfg(not(target_env = "musl"))]
fn load_and_import(host: &Host) -> Result<u8> {
    crate::late::load_and_import(host)
}

#[cfg(target_env = "musl")]
fn load_and_import(_host: &Host) -> Result<u8> {
    crate::fail!(Exit::Other, "built without D-Bus")
}

/// Prints to standard output; a closed pipe is an error like any other.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
