//! Makes a self-contained Gentoo-Prefix-shaped tree out of Debian's packages and Portage's wheel:
//! compiler, tools, python and Portage with a C library and an ELF interpreter of their own. It
//! runs on any Linux of the same machine, whatever that has or lacks.
//!
//! Nothing here runs as part of the product: it makes what `zfs-prefix prefix provision` unpacks.

pub mod configure;
pub mod elf;
pub mod gcc;
pub mod pack;
pub mod packages;
pub mod portage;
pub mod text;
pub mod tool;
pub mod tree;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use packages::Package;
use tree::Tree;

/// What a prefix is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Debian's packages.
    pub packages: Vec<Package>,
    /// Portage's wheel.
    pub wheel: PathBuf,
    /// The Portage repository with our ebuilds.
    pub overlay: PathBuf,
    /// Sources that ebuilds need and do not fetch.
    pub distfiles: Vec<PathBuf>,
}

/// A prefix that was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// Of the tree (`pack::digest`).
    pub digest: String,
    /// The time of everything in it, in seconds since 1970.
    pub time: i64,
}

/// Makes the tree in `dir`, which must not exist, for EPREFIX `eprefix`.
///
/// # Errors
/// A part is not as expected; the message names it.
pub fn make(parts: &Parts, eprefix: &Path, dir: &Path) -> Result<Made> {
    ensure!(eprefix.is_absolute(), "{}: EPREFIX has to be absolute", eprefix.display());
    let eprefix = eprefix.to_string_lossy().trim_end_matches('/').to_owned();
    let tree = Tree { dir: dir.to_owned(), eprefix };
    packages::unpack(&parts.packages, &tree.dir)?;
    let time = pack::newest(&tree)?;
    text::links(&tree)?;
    gcc::specs(&tree)?;
    portage::install(&tree, &parts.wheel)?;
    configure::configure(&tree)?;
    text::files(&tree)?;
    portage::configure(&tree, &parts.overlay, &parts.distfiles)?;
    configure::compile_python(&tree)?;
    elf::relocate(&tree)?;
    pack::normalise(&tree)?;
    Ok(Made { digest: pack::digest(&tree)?, time })
}
