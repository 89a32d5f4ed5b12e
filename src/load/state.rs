//! What the kernel has: /sys/module (Documentation/ABI/testing/sysfs-module).

use std::fs;
use std::time::{Duration, Instant};

use crate::host::Host;

/// A module's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not in the kernel.
    Absent,
    /// Being inserted or removed.
    Coming,
    /// Usable. A directory without `initstate` is a built-in module's.
    Live,
}

pub(super) fn of(host: &Host, name: &str) -> State {
    let dir = host.path(format!("/sys/module/{name}"));
    match fs::read_to_string(dir.join("initstate")) {
        Ok(state) if state.trim() == "live" => State::Live,
        Ok(_) => State::Coming,
        Err(_) if dir.is_dir() => State::Live,
        Err(_) => State::Absent,
    }
}

/// MODULE_VERSION() of a loaded module.
pub(super) fn version(host: &Host, name: &str) -> Option<String> {
    let text = fs::read_to_string(host.path(format!("/sys/module/{name}/version"))).ok()?;
    Some(text.trim().to_owned())
}

/// Waits for at most `patience`; false if the module did not become live. No notification is
/// possible: sysfs has no poll(2) here.
pub(super) fn wait_until_live(host: &Host, name: &str, patience: Duration) -> bool {
    let begin = Instant::now();
    while of(host, name) != State::Live {
        if begin.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
