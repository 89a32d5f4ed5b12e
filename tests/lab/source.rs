//! The source of the laboratory's kernel, as Debian packages it: the tree that the image was built
//! from, as a tarball.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::apt::{self, Apt};
use super::cache;
use super::disk::State;
use super::root::Root;
use super::tool::run;

/// Where [`offer`] puts it.
pub const PLACE: &str = "/srv/linux-source.tar.xz";

/// The tarball, made when it is not there (seconds).
pub fn tarball(root: &Root) -> Result<PathBuf> {
    of_image(&format!("linux-image-{}", root.release))
}

/// That of the image which Debian 12's machines get now.
pub fn newest() -> Result<PathBuf> {
    of_image("linux-image-cloud-amd64")
}

/// Images are signed after the source is there, hours or days later: the newest source may be of no
/// image yet.
fn of_image(image: &str) -> Result<PathBuf> {
    let apt = Apt::open(apt::KERNEL)?;
    let version = apt.version(image)?;
    let series: Vec<&str> = version.split('.').take(2).collect();
    let package = format!("linux-source-{}", series.join("."));
    let deb = apt.deb(&format!("{package}={version}"))?;
    let dir = cache::artifact("linux-source", &[deb.as_os_str().as_encoded_bytes()], |to| {
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(to)).map(drop)
    })?;
    let found = dir.join(format!("usr/src/{package}.tar.xz"));
    ensure!(found.exists(), "no {} in {}", found.display(), deb.display());
    Ok(found)
}

/// Puts the tarball into a machine's state and configures it as the kernel's source; of a build tree
/// the machine knows nothing any more.
pub fn offer(root: &Root, state: &State) -> Result<()> {
    let to = state.path(PLACE);
    fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
    fs::copy(tarball(root)?, &to).with_context(|| format!("{}", to.display()))?;
    let text = format!(
        "[kernel]\nbuild-dir = \"/usr/lib/modules/${{release}}/none\"\nsource = \"{PLACE}\"\n"
    );
    state.write("/etc/zfs-prefix/config.d/10-kernel.toml", text)
}

/// The official headers' Module.symvers, sorted.
pub fn official_symvers(root: &Root) -> Result<Vec<String>> {
    let path = root.modules().join("build");
    // The link is the machine's: absolute.
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

/// The tarball of another OpenZFS, and its version: that of `suite`, as the archive has its source.
pub fn older_zfs(suite: &str) -> Result<(PathBuf, String)> {
    let apt = Apt::open(apt::ROOT)?;
    let _lock = cache::lock("apt-other")?;
    let dir = super::dir().join("apt").join(format!("{suite}-sources"));
    fs::create_dir_all(dir.join("lists/partial"))?;
    let list = fs::read_to_string(apt.sources())?;
    let main = format!(" {} main", apt.suite);
    let line = list.lines().find(|line| line.contains(&main)).context("a line of sources.list")?;
    let before = line.split(&main).next().unwrap_or_default().replacen("deb ", "deb-src ", 1);
    fs::write(dir.join("sources.list"), format!("{before} {suite} contrib\n"))?;
    let get = |args: &[&str]| {
        let mut get = Command::new("apt-get");
        get.current_dir(&dir).env("APT_CONFIG", apt.config());
        get.arg("-o").arg(format!("Dir::State::lists={}/lists", dir.display()));
        get.arg("-o").arg(format!("Dir::Etc::SourceList={}/sources.list", dir.display()));
        run(get.args(args))
    };
    let found = || -> Result<Option<(PathBuf, String)>> {
        for entry in fs::read_dir(&dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let version =
                name.strip_prefix("zfs-linux_").and_then(|n| n.strip_suffix(".orig.tar.gz"));
            if let Some(version) = version {
                return Ok(Some((dir.join(&name), version.to_owned())));
            }
        }
        Ok(None)
    };
    if found()?.is_none() {
        get(&["update"])?;
        get(&["source", "--download-only", "--only-source", "zfs-linux"])?;
    }
    found()?.with_context(|| format!("{}: no zfs-linux of {suite}", dir.display()))
}
