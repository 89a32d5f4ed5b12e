//! The prefix. Its own recipe (packaging/prefix) makes it of packages of this machine's Debian
//! release. The root image is of another release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::cache;
use super::disk::State;
use super::openzfs;
use super::root::ZFS;
use super::tool::run;
use super::turns::Once;

#[path = "../../packaging/prefix/make/mod.rs"]
pub mod make;

use make::packages;
use make::tree::Tree;

/// Its path in the machines.
pub const EPREFIX: &str = "/home/core/gentoo";
/// Its owner in the root images.
pub const CORE: u32 = 500;

/// The parts of the prefix of a suite's packages. Downloads them if they are not there.
///
/// # Errors
/// The archive or PyPI does not have a part.
pub fn parts_of(suite: &str) -> Result<make::Parts> {
    let apt = Apt::open(suite)?;
    let packaging = super::repo().join("packaging");
    let from = packages::Apt { config: Some(apt.config()) };
    let requirements = packaging.join("prefix/requirements.txt");
    let wheel = cache::artifact("wheel", &[&fs::read(&requirements)?], |to| {
        packages::portage(&requirements, to).map(drop)
    })?;
    let tarball = openzfs::release(ZFS)?.tarball;
    let name = format!("prefix-packages-{suite}");
    let _lock = cache::lock(&name)?;
    let packages = apt.with_new_lists(|| from.packages(&super::dir().join(&name)))?;
    Ok(make::Parts {
        packages,
        wheel: fs::read_dir(&wheel)?.next().context("the wheel")??.path(),
        overlay: packaging.join("overlay"),
        distfiles: vec![tarball],
    })
}

/// A complete prefix. It is shared: copy it, never change it.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Its owner is root.
    pub tree: PathBuf,
    /// The digest that its maker computed.
    pub digest: String,
    suite: String,
    time: i64,
    packages: Vec<packages::Package>,
}

/// The prefix of a suite's packages. Makes it if it is not there (half a minute).
///
/// # Errors
/// It cannot be made; the recipe says which suites it knows.
pub fn of(suite: &str) -> Result<Prefix> {
    let parts = parts_of(suite)?;
    let ids: Vec<&str> = parts.packages.iter().map(|p| p.id.as_str()).collect();
    let ids = ids.join("\n");
    let packaging = super::repo().join("packaging");
    let inputs: [&[u8]; 4] = [
        ids.as_bytes(),
        ZFS.as_bytes(),
        &cache::tree(&packaging.join("overlay"))?,
        &cache::tree(&packaging.join("prefix"))?,
    ];
    let dir = cache::tree_artifact(&format!("prefix-{suite}"), &inputs, |to| {
        fs::create_dir(to)?;
        let made = make::make(&parts, Path::new(EPREFIX), &to.join("tree"))?;
        fs::write(to.join("digest"), made.digest)?;
        Ok(fs::write(to.join("time"), made.time.to_string())?)
    })?;
    Ok(Prefix {
        tree: dir.join("tree"),
        digest: fs::read_to_string(dir.join("digest"))?,
        suite: suite.to_owned(),
        time: fs::read_to_string(dir.join("time"))?.parse()?,
        packages: parts.packages,
    })
}

impl Prefix {
    /// A copy of the tree that belongs to the user and the group with this number.
    ///
    /// # Errors
    /// The disk is full.
    pub fn owned_by(&self, id: u32) -> Result<PathBuf> {
        let inputs = [self.tree.as_os_str().as_encoded_bytes()];
        cache::artifact(&format!("prefix-{}-of-{id}", self.suite), &inputs, |to| {
            run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&self.tree).arg(to))?;
            let mut chown = Command::new("chown");
            run(chown.args(["-R", "--no-dereference", &format!("{id}:{id}")]).arg(to)).map(drop)
        })
    }

    /// The directory with its archive and manifest, the archive's signature (minisign) and the
    /// public key, `maker.pub`. Makes them if they are not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn archive(&self) -> Result<PathBuf> {
        let inputs = [self.tree.as_os_str().as_encoded_bytes()];
        cache::artifact(&format!("prefix-{}-archive", self.suite), &inputs, |to| {
            fs::create_dir(to)?;
            let tree = Tree { dir: self.tree.clone(), eprefix: EPREFIX.into() };
            let file = make::pack::archive(&tree, &self.digest, self.time, &self.packages, to)?;
            let (public, secret) = (to.join("maker.pub"), to.join("maker.sec"));
            let mut minisign = Command::new("minisign");
            run(minisign.args(["-G", "-W", "-p"]).arg(public).arg("-s").arg(&secret))?;
            let mut minisign = Command::new("minisign");
            run(minisign.args(["-S", "-s"]).arg(secret).arg("-m").arg(file)).map(drop)
        })
    }
}

/// The laboratory's own prefix, of packages of this machine's release. It is looked up only once:
/// apt takes seconds.
fn own() -> Result<Prefix> {
    static OWN: Once<std::result::Result<Prefix, String>> = Once::new();
    let own = OWN.get(|| of(apt::KERNEL).map_err(|e| format!("{e:#}")));
    own.clone().map_err(anyhow::Error::msg)
}

/// Its parts.
///
/// # Errors
/// As [`parts_of`].
pub fn parts() -> Result<make::Parts> {
    parts_of(apt::KERNEL)
}

/// Its tree, which belongs to root. It is shared: copy it, never change it.
///
/// # Errors
/// As [`of`].
pub fn tree() -> Result<PathBuf> {
    Ok(own()?.tree)
}

/// The tree with another owner.
///
/// # Errors
/// As [`of`].
pub fn owned_by(id: u32) -> Result<PathBuf> {
    own()?.owned_by(id)
}

/// Its digest.
///
/// # Errors
/// As [`of`].
pub fn digest() -> Result<String> {
    Ok(own()?.digest)
}

/// The directory with its archive.
///
/// # Errors
/// As [`of`].
pub fn archive() -> Result<PathBuf> {
    own()?.archive()
}

/// Puts archive, signature and key into a machine's state, and configures the machine to use them
/// as the source of its prefix.
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

/// Puts a copy of the prefix into a machine's state. The copy belongs to the user core.
///
/// # Errors
/// It cannot be made, or the disk is full.
pub fn install(state: &State) -> Result<()> {
    let from = owned_by(CORE)?;
    run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(state.path(EPREFIX)))
        .map(drop)
}
