//! `zfs-load`: loads the published ZFS modules of the running kernel. See zfs-prefix(8).
//!
//! `$ZFS_PREFIX_ROOT` moves every path, for tests. The kernel release is always the machine's own.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use zfs_prefix::host::Host;
use zfs_prefix::{cli, log};

fn main() -> ExitCode {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    log::init("zfs-load", log::stderr_is_journal(stream.as_deref(), Path::new("/proc/self/fd/2")));
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    cli::load::main(&args, || Host::from_machine(std::env::var_os("ZFS_PREFIX_ROOT"))).into()
}
