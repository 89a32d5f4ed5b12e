//! Kernel images. Unpacked they may have 512 MiB.
#![no_main]
zfs_prefix_fuzz::target!(image, 1024);
