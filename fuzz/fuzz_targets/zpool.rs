//! What zpool prints.
#![no_main]
zfs_prefix_fuzz::target!(zpool, 4);
