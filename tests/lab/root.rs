//! The root image tree: Debian with the stock cloud kernel and its headers, OpenZFS's programs and
//! units; no zfs module, and neither compiler, make, perl nor python. The prefix is made of
//! another release of Debian (lab/prefix.rs).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{self, Apt};
use super::cache;
use super::tool::{run, run_words};

/// The OpenZFS release of the root's programs and of the overlay's ebuild.
pub const ZFS: &str = "2.3.2";

/// What the machine has.
const PACKAGES: &str = "systemd systemd-sysv udev dbus kmod procps zfsutils-linux zfs-zed \
    util-linux e2fsprogs strace";

/// What it must not have: it comes with packages that are needed for something else.
const REMOVED: &str = "usr/bin/perl* usr/share/perl* usr/lib/x86_64-linux-gnu/perl* \
    usr/bin/python* usr/bin/pydoc* usr/lib/python3* usr/share/python3";

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

/// The root tree, made when it is not there (some minutes).
pub fn root() -> Result<Root> {
    let kernel = Apt::open(apt::KERNEL)?;
    let apt = Apt::open(apt::ROOT)?;
    let release = kernel.cloud_kernel()?;
    let mut debs = vec![kernel.deb(&format!("linux-image-{release}"))?];
    for package in kernel.headers(&release)? {
        debs.push(kernel.deb(&package)?);
    }
    let packages: Vec<String> = PACKAGES.split_whitespace().map(str::to_owned).collect();
    let version = apt.version("zfsutils-linux")?;
    if !version.starts_with(&format!("{ZFS}-")) {
        bail!("the archive has OpenZFS {version}, the overlay an ebuild for {ZFS}: update it");
    }
    let plan = apt.plan(&packages)?;
    let names: Vec<u8> =
        debs.iter().flat_map(|d| d.as_os_str().as_encoded_bytes().to_vec()).collect();
    let inputs: [&[u8]; 4] =
        [plan.as_bytes(), &names, include_bytes!("root.rs"), include_bytes!("apt.rs")];
    let dir = cache::artifact("root", &inputs, |to| {
        bootstrap(&apt, &packages, to)?;
        kernel_files(&debs, &release, to)?;
        system(to)?;
        bare(to)
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
        .arg(apt.suite)
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

/// The stock kernel where systems with an immutable /usr have it, and its headers.
fn kernel_files(debs: &[PathBuf], release: &str, to: &Path) -> Result<()> {
    let unpacked = tempfile::tempdir_in(super::dir())?;
    for deb in debs {
        run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(unpacked.path()))?;
    }
    let modules = to.join(format!("usr/lib/modules/{release}"));
    fs::create_dir_all(&modules)?;
    let from = |path: &str| unpacked.path().join(path);
    for (source, place) in [
        (from(&format!("lib/modules/{release}")), modules.clone()),
        (from("usr/src"), to.join("usr/src")),
        (from("usr/lib"), to.join("usr/lib")),
    ] {
        run(Command::new("cp").args(["-a", "-T"]).arg(source).arg(place))?;
    }
    for name in ["vmlinuz", "config", "System.map"] {
        let from = from(&format!("boot/{name}-{release}"));
        fs::copy(&from, to.join(format!("boot/{name}-{release}")))?;
        fs::copy(&from, modules.join(name))?;
    }
    run(Command::new("depmod").arg("-b").arg(to).arg(release))?;
    let zfs = run(Command::new("find").arg(&modules).args(["-name", "zfs.ko*"]))?;
    if !zfs.is_empty() {
        bail!("the root has a zfs module of its own: {zfs}");
    }
    Ok(())
}

/// Takes away what a system with an immutable /usr does not have.
fn bare(to: &Path) -> Result<()> {
    let script = format!("cd \"$1\" && rm -rf {REMOVED}");
    run(Command::new("sh").args(["-c", &script, "sh"]).arg(to))?;
    let names = ["gcc*", "cc", "make", "perl*", "python*", "as", "ld", "cc1", "gawk"];
    let mut find = Command::new("find");
    find.arg(to).args(["-path", "*/bin/*", "("]);
    for (n, name) in names.iter().enumerate() {
        find.args((n > 0).then_some("-o")).args(["-name", name]);
    }
    let found = run(find.arg(")"))?;
    if !found.is_empty() {
        bail!("the root has a toolchain of its own:\n{found}");
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
