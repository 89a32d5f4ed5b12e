//! Configuration files and kernel command lines.
#![no_main]
zfs_prefix_fuzz::target!(config, 16);
