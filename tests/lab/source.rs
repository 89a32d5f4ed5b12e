//! The source of the laboratory's kernel, as Debian packages it: a tarball of the tree that the
//! image was built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::{self, Apt};
use super::cache;
use super::disk::State;
use super::kernel;
use super::root::Root;
use super::tool::run;

/// Where [`offer`] puts it.
pub const PLACE: &str = "/srv/linux-source.tar.xz";

/// The tarball of [`kernel::stock`]. Unpacks it if it is not there (seconds).
///
/// # Errors
/// The archive does not have it.
pub fn tarball() -> Result<PathBuf> {
    let version = kernel::stock()?.version;
    let package = kernel::source(&version);
    let deb = Apt::open(apt::KERNEL)?.deb(&format!("{package}={version}"))?;
    let name = deb.file_name().context("a name")?;
    let dir = cache::artifact("linux-source", &[name.as_encoded_bytes()], |to| {
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(to)).map(drop)
    })?;
    let found = dir.join(format!("usr/src/{package}.tar.xz"));
    ensure!(found.exists(), "no {} in {}", found.display(), deb.display());
    Ok(found)
}

/// Puts the tarball into a machine's state and configures it as the kernel's source. The machine's
/// configuration then names a build tree that does not exist.
pub fn offer(state: &State) -> Result<()> {
    let to = state.path(PLACE);
    fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    fs::copy(tarball()?, &to).with_context(|| format!("{}", to.display()))?;
    let text = format!(
        "[kernel]\nbuild-dir = \"/usr/lib/modules/${{release}}/none\"\nsource = \"{PLACE}\"\n"
    );
    state.write("/etc/zfs-prefix/config.d/10-kernel.toml", text)
}

/// The lines of the official headers' Module.symvers, sorted.
pub fn official_symvers(root: &Root) -> Result<Vec<String>> {
    let path = root.modules().join("build");
    // The link is absolute, for the machine.
    let target = fs::read_link(&path).with_context(|| format!("{}", path.display()))?;
    let path = root.dir.join(target.strip_prefix("/").unwrap_or(&target)).join("Module.symvers");
    lines(&path)
}

/// The lines of a file, sorted.
pub fn lines(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}
