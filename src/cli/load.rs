//! The command line of `zfs-load`, and what it tells the journal.

use std::ffi::OsString;

use anyhow::Result;
use tracing::{error, info, warn};

use crate::exit::{self, Exit};
use crate::host::Host;
use crate::load::{Loader, Outcome};
use crate::log::id;
use crate::module::insert::Kernel;
use crate::store::{Layout, current_key};

const HELP: &str = "\
Usage: zfs-load [--check]
Loads the ZFS modules published for the running kernel.

  --check    load nothing; exit 3 when nothing is published for this kernel
  --help     print this
  --version  print the version

A module that modprobe.d(5) holds back is not loaded.

Exit status: 0 loaded or nothing to do, 1 other error, 2 usage, 3 nothing published,
15 refused by verification or by the kernel, 16 signature policy. See zfs-prefix(8).";

/// Runs `zfs-load` with these arguments; `host` is asked for only when it is needed.
pub fn main(args: &[OsString], host: impl FnOnce() -> Result<Host>) -> Exit {
    let args: Vec<&str> = args.iter().map(|a| a.to_str().unwrap_or("?")).collect();
    let check = match args.as_slice() {
        [] => false,
        ["--check"] => true,
        ["--help" | "-h"] => {
            println!("{HELP}");
            return Exit::Done;
        }
        ["--version"] => {
            println!("zfs-load {}", crate::VERSION);
            return Exit::Done;
        }
        _ => {
            eprintln!("zfs-load: unknown arguments: {}\n{HELP}", args.join(" "));
            return Exit::Usage;
        }
    };
    let host = match host() {
        Ok(host) => host,
        Err(e) => {
            error!(message_id = id::LOAD_FAILED, zfs_prefix_stage = "load", "{e:#}");
            return exit::of(&e);
        }
    };
    if !check && let Err(e) = crate::pools::memory::note(&host) {
        warn!(zfs_prefix_stage = "load", "the pools in zpool.cache could not be noted: {e:#}");
    }
    // After a soft-reboot, which keeps /run.
    if !check && let Err(e) = Layout::new(&host.root).forget_refused_before() {
        warn!(
            zfs_prefix_stage = "load",
            "datasets that an earlier boot refused to mount stay refused: {e:#}"
        );
    }
    let loader = Loader::zfs(&host);
    let result =
        if check { loader.check().map(|()| None) } else { loader.run(&mut Kernel).map(Some) };
    match result {
        Ok(None) => Exit::Done,
        Ok(Some(outcome)) => {
            tell(&host, &outcome);
            Exit::Done
        }
        Err(error) => tell_failure(&host, &error),
    }
}

fn tell(host: &Host, outcome: &Outcome) {
    let kernel = host.kernel_release.as_str();
    match outcome {
        Outcome::AlreadyLive { version } => {
            let version = version.as_deref().unwrap_or("of unknown version");
            info!(
                zfs_prefix_stage = "load",
                zfs_prefix_kernel = kernel,
                "ZFS {version} is loaded already"
            );
        }
        Outcome::StandAside { path, indexed } => {
            let hint = if *indexed { "" } else { ", which modprobe will not find: run depmod -a" };
            info!(
                message_id = id::STAND_ASIDE,
                zfs_prefix_stage = "load",
                zfs_prefix_kernel = kernel,
                "the operating system ships {}{hint}; standing aside",
                path.display()
            );
        }
        Outcome::HeldBack(hold) => {
            info!(
                message_id = id::HELD_BACK,
                zfs_prefix_stage = "load",
                zfs_prefix_kernel = kernel,
                "zfs is not loaded: {}",
                hold.why_not_loaded()
            );
        }
        Outcome::Loaded { release, key, version, modules } => {
            let version = version.as_deref().unwrap_or("of unknown version");
            info!(
                message_id = id::LOADED,
                zfs_prefix_stage = "load",
                zfs_prefix_kernel = release.as_str(),
                zfs_prefix_key = key.as_str(),
                "loaded ZFS {version} for kernel {release}: {}",
                modules.join(", ")
            );
        }
    }
}

fn tell_failure(host: &Host, error: &anyhow::Error) -> Exit {
    let kernel = host.kernel_release.as_str();
    let exit = exit::of(error);
    if exit == Exit::NothingPublished {
        warn!(
            message_id = id::NOTHING_PUBLISHED,
            zfs_prefix_stage = "load",
            zfs_prefix_kernel = kernel,
            "{error:#}"
        );
    } else {
        let key = current_key(&Layout::new(&host.root), &host.kernel_release).unwrap_or_default();
        error!(
            message_id = id::LOAD_FAILED,
            zfs_prefix_stage = "load",
            zfs_prefix_kernel = kernel,
            zfs_prefix_key = key.as_str(),
            "{error:#}"
        );
    }
    exit
}
