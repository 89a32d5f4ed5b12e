//! Portage from its wheel, and its configuration.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::tool::run;
use super::tree::Tree;

/// Commands that people and the builder call; the others stay in lib/portage/bin.
const COMMANDS: &[&str] =
    &["ebuild", "emaint", "emerge", "env-update", "gpkg-sign", "portageq", "quickpkg"];

/// Unpacks the wheel where a Gentoo Prefix has Portage, with EPREFIX built in.
///
/// # Errors
/// The wheel is not as expected, or the disk is full.
pub fn install(tree: &Tree, wheel: &Path) -> Result<()> {
    let unpacked = tempfile::tempdir()?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(unpacked.path()))?;
    let packages = tree.at("usr/lib/python3/dist-packages");
    for entry in fs::read_dir(unpacked.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".data") {
            copy(&entry.path().join("data/lib/portage"), &tree.at("usr/lib/portage"))?;
            copy(&entry.path().join("data/share/portage"), &tree.at("usr/share/portage"))?;
        } else {
            copy(&entry.path(), &packages.join(name))?;
        }
    }
    // A wheel takes the interpreter's directory for EPREFIX, and bash from the host.
    let module = "usr/lib/python3/dist-packages/portage/const.py";
    let own = format!("EPREFIX = BINARY_PREFIX = \"{}\"", tree.eprefix);
    tree.edit(module, "EPREFIX = __import__(\"sys\").prefix\n    BINARY_PREFIX = \"\"", &own)?;
    tree.edit(module, "GLOBAL_CONFIG_PATH = \"/share/", "GLOBAL_CONFIG_PATH = \"/usr/share/")?;
    // zipfile gives modes to nothing.
    for file in tree.files(false)?.iter().filter(|f| f.starts_with(tree.at("usr/lib/portage/bin")))
    {
        if fs::read(file)?.starts_with(b"#!") {
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
    }
    for command in COMMANDS {
        tree.link(&format!("../lib/portage/bin/{command}"), &format!("usr/bin/{command}"))?;
    }
    // The wheel's name ::gentoo, which is not here.
    tree.write("usr/share/portage/config/repos.conf", "", 0o644)?;
    tree.write("usr/share/portage/config/binrepos.conf", "", 0o644)
}

/// etc/portage, the overlay, the directories Portage works in; `distfiles` are copied.
///
/// # Errors
/// The overlay or a distfile cannot be read.
pub fn configure(tree: &Tree, overlay: &Path, distfiles: &[impl AsRef<Path>]) -> Result<()> {
    for dir in
        ["lib/modules", "run", "tmp", "var/tmp", "var/log/portage", "var/db/pkg", "var/lib/portage"]
    {
        fs::create_dir_all(tree.at(dir))?;
    }
    for dir in ["binpkgs", "ccache", "distfiles"] {
        fs::create_dir_all(tree.at("var/cache").join(dir))?;
    }
    copy(overlay, &tree.at("var/db/repos/zfs-prefix"))?;
    for file in distfiles {
        let name = file.as_ref().file_name().context("a distfile has a name")?;
        fs::copy(file, tree.at("var/cache/distfiles").join(name))
            .with_context(|| file.as_ref().display().to_string())?;
    }
    tree.link(
        "../../var/db/repos/zfs-prefix/profiles/zfs-prefix/amd64",
        "etc/portage/make.profile",
    )?;
    tree.write("etc/portage/make.conf", include_str!("files/make.conf"), 0o644)?;
    tree.write("etc/portage/repos.conf", include_str!("files/repos.conf"), 0o644)?;
    let provided = include_str!("files/package.provided");
    tree.write("etc/portage/profile/package.provided", provided, 0o644)?;
    let keywords = include_str!("files/package.accept_keywords");
    tree.write("etc/portage/package.accept_keywords", keywords, 0o644)?;
    // Where gpg looks for its agent (gnupg's common/homedir.c): only a signer needs one.
    tree.write("usr/bin/gpgconf.ctl", "rootdir = @EPREFIX@/usr\n", 0o644)?;
    let path = "PATH=\"@EPREFIX@/usr/bin:@EPREFIX@/usr/sbin\"\nROOTPATH=\"@EPREFIX@/usr/bin\"\n";
    tree.write("etc/env.d/00base", path, 0o644)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file has a directory")?;
    fs::create_dir_all(parent)?;
    run(Command::new("cp").args(["-r", "--no-preserve=mode,ownership", "-T"]).arg(from).arg(to))
}
