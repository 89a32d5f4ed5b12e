//! Brings up the network for programs that have something to fetch.

use std::path::Path;
use std::time::Duration;

use tracing::warn;

use crate::process::{Cancel, Run};

/// How long systemd may take to bring up the network. After that, the caller tries all the same.
const TIME: Duration = Duration::from_secs(120);

/// Asks systemd, if it runs, to bring up the network. Our units are only ordered after
/// network-online.target, so no machine waits for a network that it does not need. If there is no
/// network, the caller's own attempt fails.
pub fn wait_for_network(cancel: &Cancel) {
    if !Path::new("/run/systemd/system").is_dir() {
        return;
    }
    // systemctl prints nothing while it waits.
    let start = Run::new("/usr/bin/systemctl").args(["start", "network-online.target"]).idle(TIME);
    if let Err(error) = start.output(cancel)
        && !cancel.is_set()
    {
        warn!("{error:#}; trying all the same");
    }
}
