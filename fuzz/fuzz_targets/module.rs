//! Modules.
#![no_main]
zfs_prefix_fuzz::target!(module, 64);
