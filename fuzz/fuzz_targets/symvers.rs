//! Module.symvers.
#![no_main]
zfs_prefix_fuzz::target!(symvers, 8);
