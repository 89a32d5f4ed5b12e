//! systemd: names and values as its files have them, and its manager on the bus.

#[cfg(not(target_env = "musl"))]
#[cfg(not(target_env = "musl"))]
pub mod manager;
pub(crate) mod name;
