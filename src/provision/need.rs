//! Whether a build would use a prefix at all. The unit checks this before it uses the network: a
//! build pulls in the unit even if the build will stand aside or cannot begin.

use std::collections::BTreeSet;

use tracing::warn;

use crate::builder;
use crate::config::Settings;
use crate::host::{Host, Release};
use crate::load::Ships;
use crate::store::Layout;

/// Why no build for any kernel of this machine would use a prefix. `None` if one may. It looks at
/// all kernels, because it does not know which build has pulled in the unit: that for the running
/// kernel, or a `zfs-build@RELEASE.service`.
pub(super) fn nothing_to_build(
    host: &Host,
    settings: &Settings,
    layout: &Layout,
) -> Option<String> {
    let running = why_not(host, settings, layout, &host.kernel_release)?;
    let mut others = BTreeSet::new();
    for base in ["/usr/lib/modules", "/lib/modules"] {
        let entries = std::fs::read_dir(host.path(base)).into_iter().flatten().flatten();
        others.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
    }
    let mut releases = others.iter().filter_map(|name| name.parse::<Release>().ok());
    releases.all(|release| why_not(host, settings, layout, &release).is_some()).then_some(running)
}

/// Why a build for this kernel would end and not use a prefix.
fn why_not(host: &Host, settings: &Settings, layout: &Layout, release: &Release) -> Option<String> {
    let tree = builder::tree_dir(host, settings, release);
    if !tree.is_dir()
        && let Some(why) = builder::why_no_tree(host, settings, release)
    {
        let tree = tree.display();
        return Some(format!(
            "kernel {release} has no build tree in {tree}, and none is made: {why}"
        ));
    }
    // `zfs-prefix build --force` builds all the same.
    if layout.force(release).exists() {
        return None;
    }
    let ships = crate::load::ships(host, release).unwrap_or_else(|error| {
        warn!("whether the system ships zfs.ko for kernel {release} is not known: {error:#}");
        Ships::default()
    });
    if let Some(shipped) = ships.module {
        return Some(format!("the system ships {}", shipped.path.display()));
    }
    let holds = crate::load::holds(host, release);
    holds.first().map(|hold| format!("nothing is built for kernel {release}, because {hold}"))
}
