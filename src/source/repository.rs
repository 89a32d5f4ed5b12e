//! A Portage repository with our own ebuilds. They have the wanted version, and a Manifest for the
//! tarball that was fetched. The repository belongs to root. Portage only reads it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha512};

use super::{Obtain, unpack};
use crate::config::Pinned;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::enter::Place;
use crate::store::{Digest, file_digest, make_dirs, sync_dir};

/// The ebuilds. Every version uses them: Portage takes name and version from the file's name.
const EBUILDS: [(&str, &str); 2] = [
    ("zfs-kmod", include_str!("../../packaging/overlay/sys-fs/zfs-kmod/zfs-kmod-2.3.2.ebuild")),
    ("zfs", include_str!("../../packaging/overlay/sys-fs/zfs/zfs-2.3.2.ebuild")),
];
const LAYOUT: &str = include_str!("../../packaging/overlay/metadata/layout.conf");
/// Its name, as Portage shows it.
const NAME: &str = "zfs-prefix-source";

/// What Portage has to know to use the repository.
#[derive(Clone, Debug)]
pub struct Repository {
    /// The directory, for [`Place::readable`].
    pub dir: PathBuf,
    /// Variables for emerge and portageq (make.conf(5)). PORTAGE_REPOSITORIES names the prefix's
    /// own repositories and this one, which comes first. PORTAGE_RO_DISTDIRS is where the tarball
    /// is.
    pub env: Vec<(&'static str, OsString)>,
}

/// Makes the repository, unless it exists already.
pub(super) fn make(
    with: &mut Obtain<'_>,
    version: &str,
    pinned: &Pinned,
    tarball: &Path,
) -> Result<Repository> {
    let top = unpack::top(with, tarball)?;
    let file = format!("zfs-source-{version}{}", suffix(pinned));
    let ebuilds = EBUILDS.iter().map(|(name, text)| Ok((*name, ebuild(text, &file, &top)?)));
    let ebuilds: Vec<(&str, String)> = ebuilds.collect::<Result<_>>()?;
    let manifest = manifest(&file, tarball)?;
    let layout = layout();
    let all = [version, &ebuilds[0].1, &ebuilds[1].1, &manifest, &layout].join("\n");
    let parent = with.dir("repositories")?;
    let dir = parent.join(&Digest::of(all.as_bytes()).as_str()[..32]);
    if !dir.is_dir() {
        // Keep only one: making it again takes no time.
        remove_all(&parent)?;
        let new = parent.join("new");
        for (path, text) in [
            ("metadata/layout.conf", &*layout),
            ("profiles/repo_name", &*format!("{NAME}\n")),
            ("profiles/categories", "sys-fs\n"),
            ("profiles/eapi", "8\n"),
        ] {
            write(&new.join(path), text)?;
        }
        for (name, ebuild) in &ebuilds {
            let package = new.join("sys-fs").join(name);
            write(&package.join("Manifest"), &manifest)?;
            write(&package.join(format!("{name}-{version}.ebuild")), ebuild)?;
        }
        make_dirs(&new.join("distfiles"))?;
        fs::hard_link(tarball, new.join("distfiles").join(&file))
            .with_context(|| format!("{}", tarball.display()))?;
        nix::unistd::syncfs(File::open(&new)?).context("syncfs")?;
        fs::rename(&new, &dir).with_context(|| format!("{}", dir.display()))?;
        sync_dir(&parent)?;
    }
    let repositories = format!(
        "{}\n[{NAME}]\nlocation = {}\nauto-sync = no\npriority = 1000\n",
        configured(with)?,
        dir.display()
    );
    let distfiles = dir.join("distfiles").into_os_string();
    let env =
        vec![("PORTAGE_REPOSITORIES", repositories.into()), ("PORTAGE_RO_DISTDIRS", distfiles)];
    Ok(Repository { dir, env })
}

/// Asks Portage which repositories the prefix has.
fn configured(with: &Obtain<'_>) -> Result<String> {
    let account = &with.prefix.account;
    let text = with
        .program("portageq", "emerge needs Portage", &Place::default())?
        .env("PORTAGE_USERNAME", &account.user)
        .env("PORTAGE_GRPNAME", &account.group)
        .arg("repos_config")
        .arg(&with.prefix.path)
        .output(with.cancel)
        .context("asking Portage which repositories it has")
        .exit(Exit::PrefixIncomplete)?;
    if !text.lines().any(|line| line.trim_start().starts_with("location")) {
        fail!(Exit::PrefixIncomplete, "portageq repos_config names no repository: {text}");
    }
    Ok(text)
}

/// Our ebuild, for the tarball `file` with the top directory `top`.
fn ebuild(text: &str, file: &str, top: &str) -> Result<String> {
    let mut found = 0;
    let lines = text.lines().map(|line| match line.split_once('=') {
        Some(("SRC_URI", _)) => {
            found += 1;
            format!("SRC_URI=\"{file}\"\n")
        }
        Some(("S", _)) => {
            found += 1;
            format!("S=\"${{WORKDIR}}/{top}\"\n")
        }
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    anyhow::ensure!(found == 2, "the ebuild has {found} lines SRC_URI= and S=, expected 2");
    Ok(text)
}

/// The overlay's layout.conf with our name: Portage takes two repositories with one name for the
/// same.
fn layout() -> String {
    let line = |line: &str| match line.split_once('=') {
        Some((key, _)) if key.trim() == "repo-name" => format!("repo-name = {NAME}\n"),
        _ => format!("{line}\n"),
    };
    LAYOUT.lines().map(line).collect()
}

/// The line of a thin Manifest (GLEP 74).
fn manifest(file: &str, tarball: &Path) -> Result<String> {
    let shown = || format!("{}", tarball.display());
    let (blake2b, size) = File::open(tarball).and_then(file_digest).with_context(shown)?;
    let mut sha512 = Sha512::new();
    std::io::copy(&mut File::open(tarball)?, &mut sha512).with_context(shown)?;
    let blake2b = blake2b.as_str();
    Ok(format!("DIST {file} {size} BLAKE2B {blake2b} SHA512 {:x}\n", sha512.finalize()))
}

/// The end of the file name. It tells Portage how to unpack the tarball.
fn suffix(pinned: &Pinned) -> String {
    let name = pinned.to_string();
    let name = name.split('?').next().unwrap_or(&name);
    let known = [".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tgz", ".txz", ".tar"];
    known.iter().find(|end| name.ends_with(**end)).unwrap_or(&".tar.gz").to_string()
}

fn write(path: &Path, text: &str) -> Result<()> {
    make_dirs(path.parent().context("a file has a directory")?)?;
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

fn remove_all(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        fs::remove_dir_all(&path)
            .with_context(|| format!("{}: cannot be removed", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ebuild_of_another_version_differs_in_its_tarball_only() {
        for (name, original) in EBUILDS {
            let text = ebuild(original, "zfs-source-2.4.3.tar.xz", "zfs-2.4.3").unwrap();
            let differ: Vec<_> =
                text.lines().zip(original.lines()).filter(|(a, b)| a != b).collect();
            let new: Vec<_> = differ.iter().map(|(new, _)| *new).collect();
            assert_eq!(new, ["SRC_URI=\"zfs-source-2.4.3.tar.xz\"", "S=\"${WORKDIR}/zfs-2.4.3\""]);
            assert_eq!(text.lines().count(), original.lines().count(), "{name}");
        }
        assert!(layout().contains(&format!("\nrepo-name = {NAME}\nmasters =\n")), "{}", layout());
    }
}
