//! `zfs-prefix`: what people type. See zfs-prefix(8).

use std::path::Path;
use std::process::ExitCode;

use zfs_prefix::host::Host;
use zfs_prefix::{cli, exit, log, prefix};

fn main() -> ExitCode {
    if let Some(ended) = prefix::enter::main(std::env::args_os()) {
        return ended;
    }
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let journal = log::stderr_is_journal(stream.as_deref(), Path::new("/proc/self/fd/2"));
    log::init("zfs-prefix", journal);
    match Host::from_machine(std::env::var_os("ZFS_PREFIX_ROOT")) {
        Ok(host) => cli::main(&host, std::env::args_os()),
        Err(error) => {
            eprintln!("zfs-prefix: {error:#}");
            exit::of(&error).into()
        }
    }
}
