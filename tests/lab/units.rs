//! Unit files: ours, and the real ones of systemd and OpenZFS from this machine's Debian packages.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]
#![allow(clippy::missing_panics_doc, reason = "each of these is a part of a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::apt::{Apt, KERNEL};
use super::cache::artifact;
use super::files::{copy, copy_tree, entries};
use super::repo;
use super::tool::run;
use super::turns::Once;

/// OpenZFS's packages come from the release itself. The root image has those of the backports.
const PACKAGES: [&str; 4] = ["systemd", "udev", "zfsutils-linux/bookworm", "zfs-zed/bookworm"];

/// A root directory with the unpacked packages. Never write into it.
pub fn unpacked() -> &'static Path {
    static ROOT: Once<PathBuf> = Once::new();
    ROOT.get(|| {
        let apt = Apt::open(KERNEL).unwrap();
        let debs = PACKAGES.map(|package| apt.deb(package).unwrap());
        let inputs = debs.each_ref().map(|deb| deb.file_name().unwrap().as_encoded_bytes());
        artifact("units", &inputs, |to| unpack(&debs, to)).unwrap()
    })
}

fn unpack(debs: &[PathBuf], tree: &Path) -> anyhow::Result<()> {
    for name in ["bin", "sbin", "lib"] {
        fs::create_dir_all(tree.join("usr").join(name))?;
        std::os::unix::fs::symlink(format!("usr/{name}"), tree.join(name))?;
    }
    for deb in debs {
        let merged = "dpkg-deb --fsys-tarfile \"$1\" | tar -x --keep-directory-symlink -C \"$2\"";
        run(Command::new("sh").args(["-c", merged, "sh"]).arg(deb).arg(tree))?;
    }
    for unit in ["zfs-import-cache.service", "local-fs.target"] {
        let unit = tree.join("usr/lib/systemd/system").join(unit);
        anyhow::ensure!(unit.exists(), "no {}", unit.display());
    }
    Ok(())
}

/// Puts the static units into `directory` (such as `/usr/lib/systemd/system`) of `root`, and the
/// dormant drop-ins into their place.
pub fn install_units(root: &Path, directory: &str) {
    let into = root.join(directory.trim_start_matches('/'));
    for name in unit_names() {
        copy(&repo().join("units").join(&name), &into.join(&name));
    }
    for drop_in in [
        "zfs-load.service.d/10-var.conf",
        "zfs-mount.service.d/50-zfs-prefix.conf",
        "zfs-share.service.d/50-zfs-prefix.conf",
        "zfs-volume-wait.service.d/50-zfs-prefix.conf",
        "zfs-load-key@.service.d/50-zfs-prefix.conf",
    ] {
        copy(&repo().join("units").join(drop_in), &into.join(drop_in));
    }
    let dormant = repo().join("units/dropins");
    copy_tree(&dormant, &root.join("usr/lib/zfs-prefix/dropins"));
}

/// The unit files of `units/`.
pub fn unit_names() -> Vec<String> {
    let unit = |name: &String| {
        [".service", ".timer", ".slice"].iter().any(|suffix| name.ends_with(suffix))
    };
    let names: Vec<_> = entries(&repo().join("units")).into_iter().filter(unit).collect();
    assert!(names.len() >= 7, "only {names:?} in units/");
    names
}
