//! Configurations of kernels.
#![no_main]
zfs_prefix_fuzz::target!(kconfig, 8);
