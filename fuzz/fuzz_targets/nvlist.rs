//! nvlists, as in zpool.cache.
#![no_main]
zfs_prefix_fuzz::target!(nvlist, 1);
