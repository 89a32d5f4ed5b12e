//! BTF, the kernel's description of its types.
#![no_main]
zfs_prefix_fuzz::target!(btf, 16);
