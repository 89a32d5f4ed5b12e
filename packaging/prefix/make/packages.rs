//! Which of Debian's packages a prefix is made of, and how they get here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::tool::{output, run};

/// What is asked for; apt adds what these depend on.
const WANTED: &str = "gcc gcc-12 cpp binutils libc6 libc6-dev libc-bin linux-libc-dev make \
    bash dash coreutils debianutils sed grep gawk findutils diffutils patch tar cpio gzip bzip2 xz-utils zstd \
    bc bison flex m4 perl python3 kmod libelf-dev libssl-dev zlib1g-dev dwarves pkgconf ccache \
    libblkid-dev libtirpc-dev libudev-dev uuid-dev \
    patchelf util-linux hostname openssl ca-certificates wget git libarchive-tools gpg gpgv gpg-agent gpgconf";

/// What they depend on and a prefix has no use for: its owner is not root, nothing in it is
/// configured by maintainer scripts, and no program is checked by a sanitizer.
const UNWANTED: &str = "adduser base-files base-passwd debconf dpkg init-system-helpers \
    libpam-modules libpam-modules-bin libpam-runtime libpam0g login lsb-base media-types mount passwd pinentry-curses \
    perl-openssl-defaults procps readline-common sysvinit-utils usrmerge util-linux-extra \
    libsasl2-modules-db libsemanage-common libsemanage2 libsepol2 libdb5.3 libaudit-common \
    libasan8 liblsan0 libtsan2 libubsan1 libitm1 libhwasan0";

/// Files whose libraries are in [`UNWANTED`], and the C library's converters between character sets,
/// which are looked for in the host's /usr/lib only.
const LEFT_OUT: [&str; 5] = [
    "./bin/su",
    "./sbin/runuser",
    "./usr/lib/python3.11/lib-dynload/_dbm.*",
    "./usr/lib/x86_64-linux-gnu/perl/*/auto/DB_File/*",
    "./usr/lib/x86_64-linux-gnu/gconv/*",
];

/// A package as it was taken: name, version, and the file.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name and version, as `gcc-12 12.2.0-14+deb12u1`.
    pub id: String,
    /// The .deb.
    pub file: PathBuf,
}

/// Where packages come from: the machine's own apt, or another configuration of it.
#[derive(Clone, Debug, Default)]
pub struct Apt {
    /// A file for `$APT_CONFIG`.
    pub config: Option<PathBuf>,
}

impl Apt {
    /// The packages of a prefix, downloaded into `dir`, sorted by name: what apt would install
    /// into nothing, without [`UNWANTED`].
    ///
    /// # Errors
    /// apt-get is not there, or the archive does not have a package.
    pub fn packages(&self, dir: &Path) -> Result<Vec<Package>> {
        let machine = output(Command::new("dpkg").arg("--print-architecture"))?;
        let release = fs::read_to_string("/etc/os-release")?;
        if machine.trim() != "amd64" || !release.contains("VERSION_CODENAME=bookworm") {
            bail!("prefixes are made on Debian 12 (bookworm) for amd64, and of its packages");
        }
        // apt-get names no file that is in its cache already: asked with another, empty one.
        let empty = dir.join("empty");
        for dir in [dir, &empty] {
            fs::create_dir_all(dir.join("partial"))?;
        }
        let uris = output(self.install(&empty).arg("--print-uris"))?;
        let mut names = BTreeMap::new();
        for line in uris.lines().filter(|l| l.starts_with('\'')) {
            let file = line.split(' ').nth(1).context("a line of apt-get --print-uris")?;
            let (name, rest) = file.split_once('_').with_context(|| file.to_owned())?;
            let version = rest.split_once('_').map_or(rest, |(v, _)| v).replace("%3a", ":");
            names.insert(name.to_owned(), (version, file.to_owned()));
        }
        ensure!(!names.is_empty(), "apt-get --print-uris named no package:\n{uris}");
        run(self.install(dir).arg("--download-only"))?;
        names.retain(|name, _| !UNWANTED.split_whitespace().any(|u| u == name));
        let mut packages = Vec::new();
        for (name, (version, file)) in names {
            let file = dir.join(file);
            if !file.is_file() {
                bail!("{}: apt-get did not download it", file.display());
            }
            packages.push(Package { id: format!("{name} {version}"), file });
        }
        Ok(packages)
    }

    fn install(&self, dir: &Path) -> Command {
        let mut apt = Command::new("apt-get");
        if let Some(config) = &self.config {
            apt.env("APT_CONFIG", config);
        }
        apt.args(["-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=false"])
            .args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true", "-o"])
            .arg(format!("Dir::Cache::archives={}/", dir.display()))
            .args(["-q", "-y", "install"])
            .args(WANTED.split_whitespace());
        apt
    }
}

/// Portage's wheel, as `requirements.txt` pins it, downloaded into `dir`.
///
/// # Errors
/// pip is not there, the index does not have it, or it is another file than the pinned one.
pub fn portage(requirements: &Path, dir: &Path) -> Result<PathBuf> {
    // Another version may be left from earlier.
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
        _ => {}
    }
    run(Command::new("python3")
        .args(["-m", "pip", "-q", "--disable-pip-version-check", "download", "--no-deps"])
        .args(["--require-hashes", "-r"])
        .arg(requirements)
        .arg("-d")
        .arg(dir))?;
    let wheel = fs::read_dir(dir)?
        .filter_map(|e| Some(e.ok()?.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"));
    wheel.with_context(|| format!("{}: pip left no wheel", dir.display()))
}

/// Unpacks `packages` into `tree`, which does not exist yet, with /usr merged.
///
/// # Errors
/// A package is damaged, or the disk is full.
pub fn unpack(packages: &[Package], tree: &Path) -> Result<()> {
    for dir in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(tree.join("usr").join(dir))?;
        std::os::unix::fs::symlink(format!("usr/{dir}"), tree.join(dir))?;
    }
    let left_out = ["doc", "doc-base", "man", "info", "locale", "lintian", "bug", "menu", "gdb"];
    for package in packages {
        let mut deb = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&package.file)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .context("starting dpkg-deb")?;
        let pipe = deb.stdout.take().context("dpkg-deb's output")?;
        let mut tar = Command::new("tar");
        tar.args(["-x", "--keep-directory-symlink", "--no-same-owner", "--no-same-permissions"])
            .args(left_out.map(|d| format!("--exclude=./usr/share/{d}/*")))
            .args(LEFT_OUT.map(|f| format!("--exclude={f}")))
            .args(["--exclude=./etc/*", "--exclude=./var/*", "--exclude=./run/*", "-C"])
            .arg(tree)
            .stdin(pipe);
        let status = tar.status().context("starting tar")?;
        let sound = deb.wait()?.success() && status.success();
        ensure!(sound, "{}: cannot be unpacked", package.file.display());
    }
    Ok(())
}
