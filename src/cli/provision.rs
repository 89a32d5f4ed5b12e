//! `zfs-prefix prefix provision`, also the program of zfs-prefix-provision.service.

use anyhow::{Context, Result};
use clap::Args as Arguments;
use tracing::{error, info, warn};

use crate::config::{self, Severity, Source};
use crate::exit::{self, Exit};
use crate::host::Host;
use crate::log::id;
use crate::provision::{self, Options, Outcome, Signals};

/// What it takes.
#[derive(Debug, Arguments)]
pub struct Args {
    /// Another archive than prefix.source: an https:// URL or an absolute path
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    source: Option<Source>,
    /// The SHA-256 digest of that archive
    #[arg(long, value_name = "HEX", value_parser = sha256, requires = "source")]
    sha256: Option<String>,
    /// Put it in the place of a prefix that is there, which is kept as NAME.old-TIME
    #[arg(long)]
    replace: bool,
    /// Do nothing if there is a prefix, none is configured, or no kernel needs one (the unit uses
    /// this)
    #[arg(long, conflicts_with = "replace")]
    if_missing: bool,
    /// Take the tree although it is no sound toolchain
    #[arg(long)]
    no_audit: bool,
}

fn source(text: &str) -> Result<Source, String> {
    config::parse_source(text).map_err(|expected| format!("expected {expected}"))
}

fn sha256(text: &str) -> Result<String, String> {
    config::parse_sha256(text).map_err(|expected| format!("expected {expected}"))
}

/// Runs it; the exit status. A failure is logged here.
///
/// # Errors
/// Signals cannot be caught, or this program does not know where it is.
pub fn run(host: &Host, args: &Args) -> Result<u8> {
    // The prefix's owner has to read what root makes, whatever the umask of root's shell is.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let loaded = config::load(host);
    for note in &loaded.notes {
        match note.severity {
            Severity::Error => error!(message_id = id::CONFIG, "{note}"),
            Severity::Warning => warn!(message_id = id::CONFIG, "{note}"),
        }
    }
    let signals = Signals::default();
    let ending = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];
    // These come before the handlers that set the flag: handlers act in the order of registration.
    for signal in ending {
        let at_once = signals.at_once.clone();
        signal_hook::flag::register_conditional_default(signal, at_once).context("sigaction")?;
    }
    signals.cancel.on_signals(&ending)?;
    let options = Options {
        source: args.source.clone(),
        sha256: args.sha256.clone(),
        replace: args.replace,
        if_missing: args.if_missing,
        audit: !args.no_audit,
        // The file itself, not /proc/self/exe: it is run again with another user's rights.
        exe: std::env::current_exe().context("where this program is")?,
    };
    match provision::run(host, &loaded.settings, &options, &signals) {
        Ok(Outcome::Nothing(text)) => {
            info!("{text}");
            Ok(Exit::Done.code())
        }
        Ok(Outcome::Provisioned(text)) => {
            info!(message_id = id::PROVISIONED, "{text}");
            Ok(Exit::Done.code())
        }
        Err(error) if signals.cancel.is_set() => {
            warn!("{error:#}; nothing was put in place");
            // Ends as if the signal had not been caught: for the service manager, a stop is no
            // failure.
            let _ = signal_hook::low_level::emulate_default_handler(libc::SIGTERM);
            Ok(Exit::Other.code())
        }
        Err(error) => {
            let exit = exit::of(&error);
            let code = exit.code();
            error!(message_id = id::PROVISION_FAILED, zfs_prefix_exit = code, "{error:#}");
            Ok(code)
        }
    }
}
