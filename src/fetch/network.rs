//! Bringing up the network, for those who have something to fetch from it.

use std::path::Path;
use std::time::Duration;

use tracing::warn;

use crate::process::{Cancel, Run};

/// How long systemd may take to bring up the network, before it is tried all the same.
const TIME: Duration = Duration::from_secs(120);

/// Has systemd bring up the network, where it runs. Our units are only ordered after
/// network-online.target: no machine waits for a network that it does not need. Without one it is
/// the caller's attempt that fails.
pub fn wait_for_network(cancel: &Cancel) {
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    // It says nothing while it waits.
    let start = Run::new("/usr/bin/systemctl").args(["start", "network-online.target"]).idle(TIME);
    if let Err(error) = start.output(cancel)
        && !cancel.is_set()
    {
        warn!("{error:#}; trying all the same");
    }
}
