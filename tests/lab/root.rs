//! The root image tree: Debian with the stock cloud kernel, OpenZFS's programs and units, the
//! prefix in /home/core/gentoo, and no zfs module.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{Apt, SUITE};
use super::cache;
use super::tool::{run, run_words};

/// Portage, as PyPI names it.
const PORTAGE: &str = "portage==3.0.83";
/// The OpenZFS release of the overlay's ebuild.
const ZFS: &str = "2.3.2";
/// Where the prefix is.
pub const EPREFIX: &str = "/home/core/gentoo";

/// What the machine has, and what the prefix borrows from it until it is self-contained.
const PACKAGES: &str = "systemd systemd-sysv udev dbus kmod procps zfsutils-linux zfs-zed \
    gcc libc6-dev make python3 python3-venv xz-utils bzip2 file patch util-linux e2fsprogs";

/// Not what is tested here, and each costs a virtual machine up to seconds.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "serial-getty@ttyS0.service",
    "console-getty.service",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
];

/// The tree and what is in it.
#[derive(Clone, Debug)]
pub struct Root {
    /// The root directory. Shared: boot copies of it, never itself.
    pub dir: PathBuf,
    /// The kernel release whose modules and headers are in it.
    pub release: String,
}

impl Root {
    /// The kernel image.
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join(format!("usr/lib/modules/{}/vmlinuz", self.release))
    }

    /// The directory with the kernel's own modules.
    pub fn modules(&self) -> PathBuf {
        self.dir.join(format!("usr/lib/modules/{}", self.release))
    }
}

/// What goes into the tree, by path.
struct Parts {
    release: String,
    kernel: PathBuf,
    wheel: PathBuf,
    orig: PathBuf,
}

/// The root tree, made when it is not there (some minutes).
pub fn root() -> Result<Root> {
    let apt = Apt::open()?;
    let release = apt.cloud_kernel()?;
    let mut packages: Vec<String> = PACKAGES.split_whitespace().map(str::to_owned).collect();
    packages.push(format!("linux-headers-{release}"));
    let version = apt.version("zfsutils-linux")?;
    if !version.starts_with(&format!("{ZFS}-")) {
        bail!("the archive has OpenZFS {version}, the overlay an ebuild for {ZFS}: update it");
    }
    let parts = Parts {
        kernel: apt.deb(&format!("linux-image-{release}"))?,
        wheel: wheel()?,
        orig: apt.orig("zfs-linux", &version)?,
        release: release.clone(),
    };
    let plan = apt.plan(&packages)?;
    let recipe = super::repo().join("packaging");
    let inputs: [&[u8]; 5] = [
        plan.as_bytes(),
        parts.kernel.as_os_str().as_encoded_bytes(),
        &cache::tree(&recipe.join("overlay"))?,
        &fs::read(recipe.join("prefix/make-prefix"))?,
        include_bytes!("root.rs"),
    ];
    let dir = cache::artifact("root", &inputs, |to| {
        bootstrap(&apt, &packages, to)?;
        kernel(&parts, to)?;
        system(to)?;
        prefix(&parts, to)
    })?;
    Ok(Root { dir, release })
}

/// mmdebstrap. zfs-zed wants a package with the modules; a package of that name, empty, says that
/// this machine has them from elsewhere: otherwise dkms comes and builds them.
fn bootstrap(apt: &Apt, packages: &[String], to: &Path) -> Result<()> {
    let provider = provider()?;
    let log = super::dir().join("mmdebstrap.log");
    let hook = |when: &str, what: String| format!("--{when}-hook={what}");
    let out = fs::File::create(&log)?;
    let status = Command::new("mmdebstrap")
        .args(["--variant=minbase", "--mode=root"])
        .arg(format!("--include={}", packages.join(",")))
        .arg(hook(
            "setup",
            format!(
                "install -D -m 644 '{}' \"$1\"/etc/apt/preferences.d/zfs-linux",
                apt.preferences().display()
            ),
        ))
        .arg(hook("essential", format!("cp '{}' \"$1\"/provider.deb", provider.display())))
        .arg(hook("essential", "chroot \"$1\" dpkg -i /provider.deb".into()))
        .arg(hook("customize", "rm \"$1\"/provider.deb".into()))
        .args(["--aptopt=Acquire::Languages \"none\""])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*"])
        .args(["--dpkgopt=path-exclude=/usr/share/locale/*"])
        .arg(SUITE)
        .arg(to)
        .arg(apt.sources())
        .stdin(std::process::Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .context("starting mmdebstrap (is it installed? `make setup`)")?;
    if !status.success() {
        let text = fs::read_to_string(&log)?;
        bail!("mmdebstrap: {status}; {}:\n{}", log.display(), super::tool::last_lines(&text, 20));
    }
    Ok(())
}

/// The empty package that provides zfs-modules.
fn provider() -> Result<PathBuf> {
    let control = "Package: zfs-modules-from-prefix\nVersion: 1\nArchitecture: all\n\
                   Maintainer: nobody <root@localhost>\nProvides: zfs-modules\n\
                   Description: the zfs modules come from the prefix\n";
    cache::artifact("provider.deb", &[control.as_bytes()], |to| {
        let tree = tempfile::tempdir()?;
        fs::create_dir(tree.path().join("DEBIAN"))?;
        fs::write(tree.path().join("DEBIAN/control"), control)?;
        run(Command::new("dpkg-deb").arg("-b").arg(tree.path()).arg(to)).map(drop)
    })
}

/// The stock kernel where systems with an immutable /usr have it.
fn kernel(parts: &Parts, to: &Path) -> Result<()> {
    let unpacked = tempfile::tempdir_in(super::dir())?;
    run(Command::new("dpkg-deb").arg("-x").arg(&parts.kernel).arg(unpacked.path()))?;
    let release = &parts.release;
    let modules = to.join(format!("usr/lib/modules/{release}"));
    fs::create_dir_all(&modules)?;
    let from = unpacked.path().join(format!("lib/modules/{release}/."));
    run(Command::new("cp").arg("-a").arg(from).arg(&modules))?;
    for (name, short) in
        [("vmlinuz", "vmlinuz"), ("config", "config"), ("System.map", "System.map")]
    {
        let from = unpacked.path().join(format!("boot/{name}-{release}"));
        fs::copy(&from, to.join(format!("boot/{name}-{release}")))?;
        fs::copy(&from, modules.join(short))?;
    }
    run(Command::new("depmod").arg("-b").arg(to).arg(release))?;
    let zfs = run(Command::new("find").arg(&modules).args(["-name", "zfs.ko*"]))?;
    if !zfs.is_empty() {
        bail!("the root has a zfs module of its own: {zfs}");
    }
    Ok(())
}

/// User, names, masks, and the unit that runs a test's script in the virtual machine.
fn system(to: &Path) -> Result<()> {
    let root = to.to_str().context("the lab's path is not UTF-8")?;
    run_words(&["chroot", root, "groupadd", "-g", "500", "core"])?;
    let user = ["chroot", root, "useradd", "-u", "500", "-g", "500", "-m", "-s", "/bin/bash"];
    run_words(&[&user[..], &["core"]].concat())?;
    run_words(&["chroot", root, "passwd", "-q", "-d", "root"])?;
    let etc = to.join("etc");
    fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n")?;
    fs::write(etc.join("hostid"), [0x12, 0x34, 0x56, 0x78])?;
    fs::write(etc.join("hostname"), "lab\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost lab\n")?;
    // Nobody's mirror in an image, and nothing in it installs packages.
    fs::write(etc.join("apt/sources.list"), "")?;
    cache::remove(&etc.join("resolv.conf"))?;
    let units = etc.join("systemd/system");
    for unit in MASKED {
        let link = units.join(unit);
        cache::remove(&link)?;
        symlink("/dev/null", &link).with_context(|| link.display().to_string())?;
    }
    fs::write(units.join("lab-script.service"), include_str!("guest/lab-script.service"))?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("../lab-script.service", units.join("multi-user.target.wants/lab-script.service"))?;
    Ok(())
}

/// The prefix, by its own recipe, inside the root.
fn prefix(parts: &Parts, to: &Path) -> Result<()> {
    let packaging = super::repo().join("packaging");
    let inside = to.join("tmp/prefix-inputs");
    fs::create_dir_all(&inside)?;
    for file in [&parts.wheel, &parts.orig, &packaging.join("prefix/make-prefix")] {
        run(Command::new("cp").arg(file).arg(&inside))?;
    }
    run(Command::new("cp").arg("-r").arg(packaging.join("overlay")).arg(&inside))?;
    let at =
        |p: &Path| format!("/tmp/prefix-inputs/{}", p.file_name().unwrap_or_default().display());
    run(Command::new("chroot")
        .arg(to)
        .args(["/tmp/prefix-inputs/make-prefix", EPREFIX, "core"])
        .arg(at(&parts.wheel))
        .arg("/tmp/prefix-inputs/overlay")
        .arg(at(&parts.orig)))?;
    cache::remove(&inside)
}

/// Portage's wheel, through pip.
fn wheel() -> Result<PathBuf> {
    let dir = cache::artifact("wheel", &[PORTAGE.as_bytes()], |to| {
        let pip = ["-q", "--disable-pip-version-check", "download", "--no-deps", PORTAGE, "-d"];
        run(Command::new("python3").args(["-m", "pip"]).args(pip).arg(to)).map(drop)
    })?;
    let file = fs::read_dir(&dir)?.next().with_context(|| format!("{} is empty", dir.display()))?;
    Ok(file?.path())
}
