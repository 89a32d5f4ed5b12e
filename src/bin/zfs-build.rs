//! `zfs-build`: builds and publishes modules. See zfs-prefix(8).

use std::path::Path;
use std::process::ExitCode;

use zfs_prefix::host::Host;
use zfs_prefix::{cli, log};

fn main() -> ExitCode {
    if let Some(ended) = zfs_prefix::prefix::enter::main(std::env::args_os()) {
        return ended;
    }
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = log::stderr_is_journal(stream.as_deref(), Path::new("/proc/self/fd/2"));
    log::init("zfs-build", journal);
    cli::build::main(Host::from_machine(std::env::var_os("ZFS_PREFIX_ROOT")), std::env::args_os())
}
