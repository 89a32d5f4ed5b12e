//! The root of a system without OpenZFS: it has no program, library, unit, rule or configuration of
//! OpenZFS.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cache;
use super::root::Root;
use super::tool::run;

/// The files of these packages are removed.
const PACKAGES: [&str; 7] = [
    "zfsutils-linux",
    "zfs-zed",
    "libzfs6linux",
    "libzpool6linux",
    "libnvpair3linux",
    "libuutil3linux",
    "zfs-modules-from-prefix",
];

/// `root` without OpenZFS.
pub fn openzfs(root: &Root) -> Result<Root> {
    let inputs = [root.dir.as_os_str().as_encoded_bytes(), include_bytes!("without.rs")];
    let dir = cache::artifact("without-openzfs", &inputs, |to| {
        // Hard links are safe: nobody writes to a root.
        run(Command::new("cp").arg("-al").arg(&root.dir).arg(to))?;
        PACKAGES.iter().try_for_each(|package| purge(to, package))?;
        // Files that `systemctl enable` and dpkg's scripts have made, and the archive's pin.
        run(Command::new("find")
            .args([to.join("etc"), to.join("var")])
            .args(["-depth", "-name", "*zfs*", "-exec", "rm", "-rf", "{}", "+"]))?;
        let mut find = Command::new("find");
        // The kernel has a zpool.h of its own, for compressed memory.
        find.current_dir(to).args([".", "-path", "./usr/src", "-prune", "-o"]);
        find.args(["(", "-iname", "*zfs*", "-o", "-iname", "*zpool*", "-o", "-iname", "*zvol*"]);
        find.args([")", "-print"]);
        let left = run(&mut find)?;
        if !left.is_empty() {
            bail!("files of OpenZFS are left in the root:\n{left}");
        }
        Ok(())
    })?;
    Ok(Root { dir, ..root.clone() })
}

/// Enables OpenZFS's units by their preset, as the builder of an image does.
pub const PRESET: &str = "cd /usr/lib/systemd/system && systemctl preset zfs-*.service zfs*.target";

/// The stage, and the files that `make install-openzfs` puts into a system without OpenZFS.
pub fn stage_with_units(stage: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(stage).arg(to))?;
    let install = super::repo().join("packaging/install-openzfs");
    run(Command::new(install).arg(to).arg("/usr/local/bin")).map(drop)
}

fn purge(root: &Path, package: &str) -> Result<()> {
    let info = root.join("var/lib/dpkg/info");
    let named =
        |name: &str| name.strip_prefix(package).is_some_and(|rest| rest.starts_with(['.', ':']));
    let names: Vec<String> = fs::read_dir(&info)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let ours: Vec<&String> = names.iter().filter(|name| named(name)).collect();
    let list = ours.iter().find(|name| name.ends_with(".list"));
    let list = info.join(list.with_context(|| format!("{package} is not in the root"))?);
    let text = fs::read_to_string(&list)?;
    // Remove the package's directories if they are empty. The deepest ones come last in the list,
    // so go through it backwards.
    for path in text.lines().rev().filter(|path| *path != "/.") {
        let path = root.join(path.trim_start_matches('/'));
        // is_dir() follows links: /lib is a link to a shared directory, and stays.
        if path.is_dir() { drop(fs::remove_dir(&path)) } else { cache::remove(&path)? }
    }
    ours.iter().try_for_each(|name| cache::remove(&info.join(name)))
}
