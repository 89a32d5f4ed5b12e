//! `zfs-prefix`: what people type. See zfs-prefix(8).

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = zfs_prefix::prefix::enter::main(std::env::args_os()) {
        return ended;
    }
    zfs_prefix::log::init("zfs-prefix", false);
    match zfs_prefix::host::Host::from_machine(std::env::var_os("ZFS_PREFIX_ROOT")) {
        Ok(host) => zfs_prefix::admin::main(&host, std::env::args_os()),
        Err(error) => {
            eprintln!("zfs-prefix: {error:#}");
            zfs_prefix::exit::of(&error).into()
        }
    }
}
