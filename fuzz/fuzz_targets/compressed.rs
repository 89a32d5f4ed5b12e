//! Compressed modules and kernels. A window or dictionary may have 128 MiB, twice.
#![no_main]
zfs_prefix_fuzz::target!(compressed, 512);
