//! The laboratory: a Debian root image with a prefix, booted natively (nspawn) and in a virtual
//! machine (QEMU), for the tests and `make demo`. Real tools only; what is missing is an error.
//!
//! What takes long to make is kept under `target/lab/` (or `$ZFS_PREFIX_LAB`), named after a digest
//! of everything that decides its content, and shared by all test processes.
#![allow(dead_code)] // each test binary includes this and uses its part

pub mod apt;
pub mod archive;
pub mod cache;
pub mod disk;
pub mod emerge;
pub mod initrd;
pub mod kernel;
pub mod nspawn;
pub mod prefix;
pub mod published;
pub mod root;
pub mod rpm;
pub mod serve;
pub mod source;
pub mod tool;
pub mod vm;
pub mod without;

use std::path::PathBuf;

/// Where artifacts are kept.
pub fn dir() -> PathBuf {
    match std::env::var_os("ZFS_PREFIX_LAB") {
        Some(d) => PathBuf::from(d),
        None => repo().join("target/lab"),
    }
}

/// The repository.
pub fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
