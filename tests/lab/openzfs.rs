//! Releases of OpenZFS by their number, as the machine's archive has them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, KERNEL};
use super::cache::artifact;
use super::tool::run;

/// The suites of the archive with OpenZFS.
const SUITES: [&str; 5] = [KERNEL, "bookworm-backports", "trixie", "trixie-backports", "sid"];

/// A release.
#[derive(Clone, Debug)]
pub struct Release {
    /// As `2.3.2`.
    pub version: String,
    /// Its tarball: upstream's, if the archive has that. Otherwise it has the files of Debian's
    /// zfs-dkms in the same layout: all that `--with-config=kernel` needs.
    pub tarball: PathBuf,
}

/// The newest release whose number begins with `series` (`2.1`, `2.3.2`).
///
/// # Errors
/// The archive has no such release. The error names releases that the archive lists but lacks.
pub fn release(series: &str) -> Result<Release> {
    let lines = SUITES
        .iter()
        .flat_map(|suite| ["deb", "deb-src"].map(|kind| format!("{kind} MAIN {suite} contrib")));
    let apt = Apt::of("openzfs", "amd64", &lines.collect::<Vec<_>>())?;
    let mut refused = Vec::new();
    for (source, package) in [("zfs-linux", true), ("zfs-dkms", false)] {
        for debian in apt.versions(source)? {
            let version = debian.split(['-', '+', '~']).next().unwrap_or_default().to_owned();
            if version != series && !version.starts_with(&format!("{series}.")) {
                continue;
            }
            let tarball =
                if package { apt.orig(source, &debian) } else { of_dkms(&apt, &debian, &version) };
            match tarball {
                Ok(tarball) => return Ok(Release { version, tarball }),
                Err(e) => refused.push(format!("{source} {debian}: {e:#}")),
            }
        }
    }
    bail!("the archive has no OpenZFS {series}: {}", refused.join("\n"))
}

fn of_dkms(apt: &Apt, debian: &str, version: &str) -> Result<PathBuf> {
    let deb = apt.deb(&format!("zfs-dkms={debian}"))?;
    let name = deb.file_name().context("a name")?.to_owned();
    let dir = artifact(&format!("zfs-dkms-{version}"), &[name.as_encoded_bytes()], |to| {
        let tree = to.join("tree");
        fs::create_dir_all(&tree)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&tree))?;
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "--sort=name", "-czf"]);
        tar.arg(to.join(format!("zfs-{version}.tar.gz"))).arg("-C").arg(tree.join("usr/src"));
        run(tar.arg(format!("zfs-{version}")))?;
        super::cache::remove(&tree)
    })?;
    Ok(dir.join(format!("zfs-{version}.tar.gz")))
}
