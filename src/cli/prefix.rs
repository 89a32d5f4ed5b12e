//! `zfs-prefix prefix …`: the toolchain prefix, by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

use super::{print, provision};
use crate::builder::tree_dir;
use crate::cli::shell;
use crate::config::{self, Settings};
use crate::exit::Exit;
use crate::host::{Host, Release};
use crate::kernel::Tree;
use crate::pools::absent::{self, Directory};
use crate::prefix::audit::{Options, audit};
use crate::prefix::info::Info;
use crate::process::Cancel;
use crate::provision::step::Step;

/// What can be done with the prefix.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Does the prefix owe the host nothing? Every ELF file and script, the toolchain, owners,
    /// modes
    Audit {
        /// This directory instead of prefix.path
        dir: Option<PathBuf>,
        /// Where its files are meant to be, if that is not where they are
        #[arg(long, value_name = "PATH")]
        eprefix: Option<PathBuf>,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Whose it is, what is in it, where it came from
    Info {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch an archive of the prefix, check it, unpack it, put it in place
    Provision(provision::Args),
    /// One step of it with other rights (used by zfs-prefix itself)
    #[command(subcommand, hide = true)]
    Step(Step),
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
        Command::Audit { dir, eprefix, json } => {
            let cancel = cancelled_by_signals()?;
            let settings = settings(host);
            absent::refuse(host, &settings, &[Directory::Cache])?;
            let dir = absolute(dir.as_deref().unwrap_or(&settings.prefix.path))?;
            let eprefix = eprefix.map_or(Ok(dir.clone()), |path| absolute(&path))?;
            let kernel_compiler = kernel_compiler(host, &settings);
            let report =
                audit(&dir, &eprefix, &Options { host, kernel_compiler, cancel: &cancel })?;
            if json {
                print(&serde_json::to_string_pretty(&report)?)?
            } else {
                print(&report.to_string())?
            }
            Ok(if report.is_sound() { Exit::Done } else { Exit::PrefixIncomplete }.code())
        }
        Command::Info { json } => {
            let info = Info::of(host, &settings(host), &cancelled_by_signals()?)?;
            if json {
                print(&serde_json::to_string_pretty(&info)?)?
            } else {
                print(info.to_string().trim_end())?
            }
            Ok(info.exit().code())
        }
        Command::Shell { kernel_release, network: _, no_network, command } => {
            let term = std::env::var_os("TERM");
            let release = kernel_release;
            let request = shell::Request { release, network: !no_network, command, term };
            shell::run(host, &settings(host), &request)
        }
    }
}

/// The configuration. Prints what is wrong with it.
fn settings(host: &Host) -> Settings {
    let loaded = config::load(host);
    for note in &loaded.notes {
        eprintln!("zfs-prefix: {note}");
    }
    loaded.settings
}

/// A flag that SIGTERM, SIGINT and SIGHUP set. After each program of the prefix, what it left
/// behind in a session of its own is found and ended.
fn cancelled_by_signals() -> Result<Cancel> {
    let cancel = Cancel::default();
    cancel.on_signals(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    Ok(cancel)
}

/// The compiler line of the running kernel, if its build tree has one. A tree that is missing or
/// damaged is not the prefix's problem.
fn kernel_compiler(host: &Host, settings: &Settings) -> Option<String> {
    let release = &host.kernel_release;
    let tree = Tree::open(&tree_dir(host, settings, release), release).ok()?;
    tree.compiler()
}

/// The absolute path, without trailing slashes and dots. Links are not resolved: files may have
/// been made for the path with links.
fn absolute(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("{}", path.display()))?;
    Ok(path.components().collect())
}
