//! ELF files of userland.
#![no_main]
zfs_prefix_fuzz::target!(elf, 32);
