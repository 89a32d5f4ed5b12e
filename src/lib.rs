//! zfs-prefix: ZFS kernel modules for systems that ship none, built in a Gentoo Prefix and
//! loaded before pool import.
//!
//! Data flows one way: host and configuration -> kernel facts -> plan -> build -> store -> load.
//! `module` and `kernel` know nothing of configuration or systemd; `store` knows nothing of how a
//! tree was built; only the mains touch the process environment.

pub mod admin;
pub mod build;
pub mod compress;
pub mod config;
pub mod exit;
mod fetch;
pub mod host;
pub mod kernel;
#[cfg(not(target_env = "musl"))]
pub mod late;
mod links;
pub mod load;
pub mod log;
#[cfg(not(target_env = "musl"))]
pub mod manager;
pub mod module;
pub mod pools;
pub mod prefix;
pub mod process;
pub mod source;
pub mod store;
pub mod unit;
pub mod userland;
pub mod zfs;
