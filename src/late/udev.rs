//! Has udev apply the rules that came with the modules, and make links of disks that nobody asked
//! for before.

use std::time::Duration;

use super::run::Late;
use crate::process::{Cancel, Run};

/// Has udev read its rules and look at the block devices, and waits until it is done.
pub(super) fn udev(late: &mut Late<'_>) {
    if !late.host.path("/run/udev/control").exists() {
        late.say("udev", "does not run, nothing to do");
        return;
    }
    let places = ["/usr/bin/udevadm", "/bin/udevadm", "/usr/sbin/udevadm", "/sbin/udevadm"];
    let Some(udevadm) = places.iter().map(|p| late.host.path(p)).find(|p| p.is_file()) else {
        late.failed("udev", "there is no udevadm");
        return;
    };
    for args in [
        &["control", "--reload"][..],
        &["trigger", "--action=change", "--subsystem-match=block", "--subsystem-match=misc"],
        &["settle", "--timeout=60"],
    ] {
        let run = Run::new(&udevadm).args(args).within(late.left(Duration::from_secs(70)));
        let run = run.idle(Duration::from_secs(70));
        if let Err(e) = run.output(&Cancel::default()) {
            late.failed("udev", &format!("{e:#}"));
            return;
        }
    }
    late.say("udev", "rules read, block devices looked at, settled");
}
