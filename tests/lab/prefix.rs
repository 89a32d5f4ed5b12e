//! The prefix: made by its own recipe (packaging/prefix) of this machine's release of Debian, which
//! is not the root image's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::cache;
use super::disk::State;
use super::root::ZFS;
use super::tool::run;

#[path = "../../packaging/prefix/make/mod.rs"]
pub mod make;

use make::packages;
use make::tree::Tree;

/// Where it is.
pub const EPREFIX: &str = "/home/core/gentoo";

/// What a prefix is made of, downloaded when it is not there.
pub fn parts() -> Result<make::Parts> {
    let kernel = Apt::open(apt::KERNEL)?;
    let root = Apt::open(apt::ROOT)?;
    let packaging = super::repo().join("packaging");
    let from = packages::Apt { config: Some(kernel.config()) };
    let requirements = packaging.join("prefix/requirements.txt");
    let wheel = cache::artifact("wheel", &[&fs::read(&requirements)?], |to| {
        packages::portage(&requirements, to).map(drop)
    })?;
    let version = root.version("zfsutils-linux")?;
    let _lock = cache::lock("prefix-packages")?;
    Ok(make::Parts {
        packages: from.packages(&super::dir().join("prefix-packages"))?,
        wheel: fs::read_dir(&wheel)?.next().context("the wheel")??.path(),
        overlay: packaging.join("overlay"),
        distfiles: vec![root.orig("zfs-linux", &version)?],
    })
}

/// A directory with the tree (`tree/`, its owner is root), made when it is not there (a minute).
fn made() -> Result<PathBuf> {
    let parts = parts()?;
    let ids: Vec<&str> = parts.packages.iter().map(|p| p.id.as_str()).collect();
    let ids = ids.join("\n");
    let packaging = super::repo().join("packaging");
    let inputs: [&[u8]; 4] = [
        ids.as_bytes(),
        ZFS.as_bytes(),
        &cache::tree(&packaging.join("overlay"))?,
        &cache::tree(&packaging.join("prefix"))?,
    ];
    cache::artifact("prefix", &inputs, |to| {
        fs::create_dir(to)?;
        let made = make::make(&parts, Path::new(EPREFIX), &to.join("tree"))?;
        fs::write(to.join("digest"), made.digest)?;
        Ok(fs::write(to.join("time"), made.time.to_string())?)
    })
}

/// The prefix's tree, root's. Shared: copy it, never change it.
pub fn tree() -> Result<PathBuf> {
    Ok(made()?.join("tree"))
}

/// The prefix's digest, as its maker says it.
pub fn digest() -> Result<String> {
    Ok(fs::read_to_string(made()?.join("digest"))?)
}

/// The directory with the prefix's archive and manifest, and the archive's signature (minisign)
/// with its public key, `maker.pub`; made when they are not there.
pub fn archive() -> Result<PathBuf> {
    let made = made()?;
    cache::artifact("prefix-archive", &[made.as_os_str().as_encoded_bytes()], |to| {
        fs::create_dir(to)?;
        let tree = Tree { dir: made.join("tree"), eprefix: EPREFIX.into() };
        let digest = fs::read_to_string(made.join("digest"))?;
        let time = fs::read_to_string(made.join("time"))?.parse()?;
        let file = make::pack::archive(&tree, &digest, time, &parts()?.packages, to)?;
        let (public, secret) = (to.join("maker.pub"), to.join("maker.sec"));
        run(Command::new("minisign").args(["-G", "-W", "-p"]).arg(public).arg("-s").arg(&secret))?;
        run(Command::new("minisign").args(["-S", "-s"]).arg(secret).arg("-m").arg(file)).map(drop)
    })
}

/// Puts archive, signature and key into a machine's state, and configures them as the source of
/// its prefix.
pub fn offer(state: &State) -> Result<()> {
    let dir = archive()?;
    fs::create_dir_all(state.path("/srv/prefix"))?;
    let mut source = None;
    for entry in fs::read_dir(&dir)? {
        let from = entry?.path();
        let name = from.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        if name.ends_with(".sec") {
            continue;
        }
        fs::copy(&from, state.path("/srv/prefix").join(&name))?;
        source = source.or(name.ends_with(".zst").then_some(name));
    }
    let source = source.with_context(|| format!("{}: no archive", dir.display()))?;
    let text = format!(
        "[prefix]\nsource = \"/srv/prefix/{source}\"\npublic-key = \"/srv/prefix/maker.pub\"\n"
    );
    state.write("/etc/zfs-prefix/config.d/10-prefix.toml", text)
}

/// Puts a copy of the prefix into a machine's state, as the user core's.
pub fn install(state: &State) -> Result<()> {
    let to = state.path(EPREFIX);
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(tree()?).arg(&to))?;
    run(Command::new("chown").args(["-R", "--no-dereference", "500:500"]).arg(&to)).map(drop)
}
