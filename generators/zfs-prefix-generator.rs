//! Puts zfs-load.service and the build into the boot; see systemd.generator(7).
//!
//! `ZFS_PREFIX_ROOT` names another root directory than `/`, to try or to test the generator. The
//! kernel log is then `dev/kmsg` in that directory, or stderr.

use std::env::{args_os, var_os};
use std::ffi::OsString;
use std::process::ExitCode;

use zfs_prefix::generator::{Environment, run};

fn main() -> ExitCode {
    let environment = Environment {
        root: var_os("ZFS_PREFIX_ROOT"),
        in_initrd: var_os("SYSTEMD_IN_INITRD"),
        virtualization: var_os("SYSTEMD_VIRTUALIZATION"),
        architecture: var_os("SYSTEMD_ARCHITECTURE"),
        proc_cmdline: var_os("SYSTEMD_PROC_CMDLINE"),
    };
    let arguments: Vec<OsString> = args_os().skip(1).collect();
    run(&environment, &arguments)
}
