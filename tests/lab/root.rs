//! The root image tree: Debian with the stock cloud kernel and its headers, and OpenZFS's programs
//! and units. It has no zfs module, and neither compiler, make, perl nor python. The prefix is made
//! of another release of Debian (lab/prefix.rs).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt::{self, Apt};
use super::cache;
use super::kernel::{self, Kernel};
use super::tool::{run, run_words};
use super::turns::Once;

/// The OpenZFS release of the root's programs and of the overlay's ebuild.
pub const ZFS: &str = "2.3.2";

/// The packages of the machine.
const PACKAGES: &str = "systemd systemd-sysv udev dbus kmod procps zfsutils-linux zfs-zed mawk \
    util-linux e2fsprogs strace";

/// The time for mmdebstrap and shadow. With a fixed time the same packages give the same tree.
const EPOCH: &str = "1700000000";

/// Files that the machine must not have. They come as dependencies of packages that it needs (gawk
/// with zfsutils-linux from 2.4 on).
const REMOVED: &str = "usr/bin/gawk* usr/bin/perl* usr/share/perl* usr/lib/x86_64-linux-gnu/perl* \
    usr/bin/python* usr/bin/pydoc* usr/lib/python3* usr/share/python3";

/// Units that no test needs. Each costs an emulated machine a tenth of a second to seconds.
/// Together they take half of a boot.
const MASKED: &str = "apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer getty@tty1.service \
    serial-getty@ttyS0.service console-getty.service dev-hugepages.mount dev-mqueue.mount \
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount modprobe@configfs.service \
    modprobe@drm.service modprobe@fuse.service systemd-binfmt.service systemd-firstboot.service \
    systemd-hibernate-clear.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service systemd-journal-flush.service systemd-pstore.service \
    systemd-random-seed.service systemd-sysctl.service systemd-sysusers.service \
    systemd-tmpfiles-setup-dev-early.service systemd-udev-load-credentials.service \
    systemd-update-done.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service ldconfig.service systemd-creds.socket \
    systemd-hostnamed.socket systemd-initctl.socket systemd-pcrextend.socket \
    systemd-pcrlock.socket systemd-sysext.socket";

/// Generators for features that the machines do not have.
const GENERATORS: &str = "getty gpt-auto hibernate-resume rc-local run ssh system-update sysv tpm2";

/// Triggers only the devices that something here waits for. A machine has hundreds of devices. The
/// driver of a network card comes with its device on the virtio bus.
const TRIGGER: &str = "[Service]\nExecStart=\nExecStart=-udevadm trigger --action=add \
    --subsystem-match=virtio --subsystem-match=block --subsystem-match=net \
    --subsystem-match=misc\n";

/// The tree and what is in it.
#[derive(Clone, Debug)]
pub struct Root {
    /// The root directory. It is shared: boot copies of it, never the directory itself.
    pub dir: PathBuf,
    /// The kernel release whose modules and headers are in it.
    pub release: String,
    /// The name of that kernel's artefact. Modules that are compiled for it depend on nothing else
    /// of the root.
    pub kernel: String,
}

impl Root {
    /// The kernel image.
    #[must_use]
    pub fn vmlinuz(&self) -> PathBuf {
        self.dir.join(format!("usr/lib/modules/{}/vmlinuz", self.release))
    }

    /// The directory with the kernel's own modules.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.dir.join(format!("usr/lib/modules/{}", self.release))
    }
}

/// The root tree with the laboratory's kernel. Makes it if it is not there (a minute).
///
/// # Errors
/// The archive does not have it.
pub fn root() -> Result<Root> {
    static ROOT: Once<std::result::Result<Root, String>> = Once::new();
    let root = ROOT.get(|| {
        kernel::stock().and_then(|kernel| with_kernel(&kernel)).map_err(|e| format!("{e:#}"))
    });
    root.clone().map_err(anyhow::Error::msg)
}

/// The root tree with any kernel of the archive ([`kernel::kernel`]).
///
/// # Errors
/// As [`root`].
pub fn with_kernel(kernel: &Kernel) -> Result<Root> {
    of(apt::ROOT, kernel)
}

/// A root tree of any suite, with any kernel.
///
/// # Errors
/// As [`root`].
pub fn of(suite: &str, kernel: &Kernel) -> Result<Root> {
    let base = base(suite)?;
    let inputs = [&base, &kernel.dir].map(|dir| dir.as_os_str().as_encoded_bytes());
    let inputs = [inputs[0], inputs[1], include_bytes!("root.rs")];
    let name = format!("root-{suite}-{}", kernel.release);
    let dir = cache::tree_artifact(&name, &inputs, |to| {
        // Hard links are safe: nobody writes to a root.
        run(Command::new("cp").arg("-al").arg(&base).arg(to))?;
        kernel_files(kernel, to)
    })?;
    let name = kernel.dir.file_name().context("a name")?.to_string_lossy().into_owned();
    Ok(Root { dir, release: kernel.release.clone(), kernel: name })
}

/// The tree without a kernel.
fn base(suite: &str) -> Result<PathBuf> {
    let apt = Apt::open(suite)?;
    let packages: Vec<String> = PACKAGES.split_whitespace().map(str::to_owned).collect();
    let version = apt.version("zfsutils-linux")?;
    if suite == apt::ROOT && !version.starts_with(&format!("{ZFS}-")) {
        bail!("the archive has OpenZFS {version}, the overlay an ebuild for {ZFS}: update it");
    }
    let plan = apt.plan(&packages)?;
    let inputs: [&[u8]; 2] = [plan.as_bytes(), include_bytes!("root.rs")];
    cache::tree_artifact(&format!("root-{suite}"), &inputs, |to| {
        apt.with_new_lists(|| {
            cache::remove(to)?;
            bootstrap(&apt, &packages, to)
        })?;
        system(to)?;
        bare(to)
    })
}

/// Runs mmdebstrap. zfs-zed depends on a package with the modules. An empty package provides them:
/// otherwise apt would install dkms, which builds them.
fn bootstrap(apt: &Apt, packages: &[String], to: &Path) -> Result<()> {
    let provider = provider()?;
    let log = to.with_extension("log");
    let hook = |when: &str, what: String| format!("--{when}-hook={what}");
    let out = fs::File::create(&log)?;
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap
        .env("SOURCE_DATE_EPOCH", EPOCH)
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
        .arg(&apt.suite)
        .arg(to)
        .arg(apt.sources())
        .stdin(std::process::Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    let mut child =
        mmdebstrap.spawn().context("starting mmdebstrap (is it installed? `make setup`)")?;
    super::times::ended(child.id());
    let status = child.wait()?;
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
        let tree = super::tmp::dir("provider-")?;
        fs::create_dir(tree.path().join("DEBIAN"))?;
        fs::write(tree.path().join("DEBIAN/control"), control)?;
        run(Command::new("dpkg-deb").arg("-b").arg(tree.path()).arg(to)).map(drop)
    })
}

/// Puts a kernel where systems with an immutable /usr have it, and its headers.
fn kernel_files(kernel: &Kernel, to: &Path) -> Result<()> {
    let release = &kernel.release;
    let modules = to.join(format!("usr/lib/modules/{release}"));
    fs::create_dir_all(&modules)?;
    let of = |path: &str| kernel.dir.join(path);
    let programs = fs::read_dir(of("usr/lib"))?.collect::<std::io::Result<Vec<_>>>()?;
    let programs = programs.iter().filter(|e| e.file_name() != "modules");
    let mut places = vec![(kernel.modules.clone(), modules.clone())];
    places.push((of("usr/src"), to.join("usr/src")));
    places.extend(programs.map(|e| (e.path(), to.join("usr/lib").join(e.file_name()))));
    for (source, place) in places {
        run(Command::new("cp").args(["-a", "-T"]).arg(source).arg(place))?;
    }
    let map = of(&format!("boot/System.map-{release}"));
    for (name, from) in
        [("vmlinuz", &kernel.image), ("config", &kernel.config), ("System.map", &map)]
    {
        for to in [to.join(format!("boot/{name}-{release}")), modules.join(name)] {
            if from.exists() && !to.exists() {
                fs::copy(from, &to).with_context(|| to.display().to_string())?;
            }
        }
    }
    run(Command::new("depmod").arg("-b").arg(to).arg(release))?;
    let zfs = run(Command::new("find").arg(&modules).args(["-name", "zfs.ko*"]))?;
    if !zfs.is_empty() {
        bail!("the root has a zfs module of its own: {zfs}");
    }
    Ok(())
}

/// Removes what a system with an immutable /usr does not have.
fn bare(to: &Path) -> Result<()> {
    let script =
        format!("cd \"$1\" && rm -rf {REMOVED} && ln -sf /usr/bin/mawk etc/alternatives/awk");
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

/// Sets up the user, names, masks, and the unit that runs a test's script in the virtual machine.
fn system(to: &Path) -> Result<()> {
    let root = to.to_str().context("the lab's path is not UTF-8")?;
    run_words(&["chroot", root, "groupadd", "-g", "500", "core"])?;
    let date = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let user = [
        "env",
        &date,
        "chroot",
        root,
        "useradd",
        "-u",
        "500",
        "-g",
        "500",
        "-m",
        "-s",
        "/bin/bash",
    ];
    run_words(&[&user[..], &["core"]].concat())?;
    run_words(&["env", &date, "chroot", root, "passwd", "-q", "-d", "root"])?;
    let etc = to.join("etc");
    fs::write(etc.join("machine-id"), "0123456789abcdef0123456789abcdef\n")?;
    fs::write(etc.join("hostid"), [0x12, 0x34, 0x56, 0x78])?;
    fs::write(etc.join("hostname"), "lab\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost lab\n")?;
    // An image names no mirror, and nothing in it installs packages.
    fs::write(etc.join("apt/sources.list"), "")?;
    cache::remove(&etc.join("resolv.conf"))?;
    // These files differ from day to day.
    let volatile = "cd \"$1\" && rm -rf var/log/* var/cache/ldconfig var/cache/apt/* etc/*- var/lib/dpkg/*-old";
    run(Command::new("sh").args(["-c", volatile, "sh"]).arg(to))?;
    let units = etc.join("systemd/system");
    let generators = etc.join("systemd/system-generators");
    fs::create_dir_all(&generators)?;
    let masked = MASKED.split_whitespace().map(|unit| units.join(unit));
    let generators = GENERATORS
        .split_whitespace()
        .map(|name| generators.join(format!("systemd-{name}-generator")));
    for link in masked.chain(generators) {
        cache::remove(&link)?;
        symlink("/dev/null", &link).with_context(|| link.display().to_string())?;
    }
    fs::create_dir_all(units.join("systemd-udev-trigger.service.d"))?;
    fs::write(units.join("systemd-udev-trigger.service.d/lab.conf"), TRIGGER)?;
    fs::write(units.join("lab-script.service"), include_str!("guest/lab-script.service"))?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink("../lab-script.service", units.join("multi-user.target.wants/lab-script.service"))?;
    Ok(())
}
