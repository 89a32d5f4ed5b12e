//! zfs-prefix: ZFS kernel modules for systems that ship none, built in a Gentoo Prefix and
//! loaded before pool import.
//!
//! Data flows one way: host and configuration -> kernel facts -> plan -> build -> store -> load.
//! docs/architecture.md has the picture of the folders, and tests/layers.rs enforces it. Only the
//! mains and `cli` touch the process environment.

pub mod builder;
pub mod cli;
pub mod compress;
pub mod config;
mod elf;
pub mod exit;
mod fetch;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod generator;
pub mod host;
pub mod kernel;
#[cfg(not(target_env = "musl"))]
pub mod late;
pub mod load;
pub mod log;
pub mod module;
mod mountpoints;
pub mod pools;
pub mod prefix;
pub mod process;
pub mod provision;
pub mod source;
pub mod store;
pub mod systemd;
mod text;
pub mod userland;

/// The version of these programs. It is in `--version`, in manifests, and in every journal entry
/// (ZFS_PREFIX_VERSION).
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
