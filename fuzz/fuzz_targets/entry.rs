//! Entries of boot loaders.
#![no_main]
zfs_prefix_fuzz::target!(entry, 4);
