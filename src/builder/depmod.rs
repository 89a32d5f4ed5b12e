//! The module indexes of a staging tree: depmod(8) with the kernel's own lists beside ours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::Prepared;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Release;
use crate::process::{Cancel, Run};
use crate::store::Staging;

/// What depmod reads beside the modules themselves (depmod(8), Documentation/kbuild/kbuild.rst).
const LISTS: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// Copies the kernel's lists from /usr/lib/modules/RELEASE or its build tree into the
/// staging tree. Then runs `depmod -b` there, the host's and not the prefix's: root runs no program
/// that others can write to.
///
/// # Errors
/// A list cannot be copied. depmod does not exist, or failed.
pub fn run(
    root: &Path,
    staging: &Staging,
    release: &Release,
    tree: &Prepared,
    cancel: &Cancel,
) -> Result<()> {
    let system = root.join("usr/lib/modules").join(release.as_str());
    let base = Path::new("lib/modules").join(release.as_str());
    for list in LISTS {
        let from = system.join(list);
        let bytes = if from.exists() {
            Some(fs::read(&from).with_context(|| format!("{}", from.display()))?)
        } else {
            tree.list(list)?
        };
        // Kernels before 5.2 have no modules.builtin.modinfo.
        let Some(bytes) = bytes else { continue };
        let to = base.join(list);
        std::io::Write::write_all(&mut staging.create(&to)?, &bytes)
            .with_context(|| format!("{}", staging.dir().join(&to).display()))?;
    }
    let output = Run::new(program(root)?)
        .arg("-b")
        .arg(staging.dir())
        .arg(release.as_str())
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .output(cancel)
        .exit(Exit::Other)?;
    for line in output.lines().filter(|l| !l.is_empty()) {
        tracing::warn!("{line}");
    }
    Ok(())
}

fn program(root: &Path) -> Result<PathBuf> {
    let places = ["usr/sbin/depmod", "sbin/depmod", "usr/bin/depmod"];
    match places.iter().map(|p| root.join(p)).find(|p| p.is_file()) {
        Some(path) => Ok(path),
        None => fail!(Exit::Other, "depmod (kmod) is not on this system: looked in {places:?}"),
    }
}
