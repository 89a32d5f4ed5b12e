//! Archives of a prefix. Windows of zstd and dictionaries of xz may have 256 MiB.
#![no_main]
zfs_prefix_fuzz::target!(archive, 512);
