//! What the generator reads: a list of datasets, fstab, a configuration, a kernel command line.
#![no_main]
zfs_prefix_fuzz::target!(generator, 32);
