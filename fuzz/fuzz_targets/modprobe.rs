//! Options of modules, of modprobe.d and of the kernel command line.
#![no_main]
zfs_prefix_fuzz::target!(modprobe, 4);
