//! The mount namespace of a program in the prefix. Everything of the host is there, and nothing of
//! it can be written or executed. What can be written or executed is laid over it.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::Spec;
use super::accounts::Files;
use super::mounts::{self, NO_EXEC, NO_SUID, READ_ONLY};
use crate::exit::{Exit, Failure};
use crate::fail;

/// Where every program may write; private and empty.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Private, and empty except for [`resolver`]. On the host, the sockets of the machine's services
/// are there. Neither a read-only mount nor a network namespace keeps anybody from them.
const RUN: &str = "/run";

/// Programs that `#!` lines and make name by the host's path, and the prefix's own ones. If several
/// are one file on the host (sh is bash, or all are busybox), the last one covers it.
const COVERED: [(&str, &str); 3] =
    [("/usr/bin/env", "usr/bin/env"), ("/bin/sh", "bin/sh"), ("/bin/bash", "bin/bash")];

/// A part of the machine, copied before the whole of it is restricted. It keeps its own mount
/// flags, and is laid over the same place afterwards.
struct Part {
    mount: OwnedFd,
    path: PathBuf,
}

/// Makes the namespace that `spec` describes and moves this process into it.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: the prefix is not what it should be. Others: not root, a kernel
/// without the calls, a place that is missing or mounted noexec.
pub(super) fn make(spec: &Spec) -> Result<()> {
    let files = Files::of(&spec.account);
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC;
    flags.set(CloneFlags::CLONE_NEWNET, !spec.place.network);
    match unshare(flags) {
        // This number does not mean a full disk here.
        Err(Errno::ENOSPC) => fail!(
            Exit::Other,
            "unshare(2): this machine has reached its limit of namespaces: raise sysctl user.max_mnt_namespaces, user.max_ipc_namespaces, user.max_net_namespaces"
        ),
        Err(Errno::EINVAL) => fail!(
            Exit::Other,
            "unshare(2): this kernel lacks CONFIG_IPC_NS or CONFIG_NET_NS"
        ),
        other => other.context(
            "unshare(2): root with CAP_SYS_ADMIN is needed (CapabilityBoundingSet= of the unit, or a container, may take it away)",
        )?,
    }
    plain("/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE)
        .context("/ is no mount point: this runs in a bare chroot")?;
    let parts = parts(spec)?;
    super::detach::detach(&needed(&parts))?;
    mounts::restrict(nix::fcntl::AT_FDCWD, c"/", READ_ONLY | NO_SUID | NO_EXEC)
        .context("making the host read-only")?;
    let mut private = temporary(&files)?;
    for part in &parts {
        part.lay(&mut private)?;
    }
    replace_programs(spec)?;
    cover_interpreters(spec)?;
    if !spec.place.network {
        super::loopback::up();
    }
    Ok(())
}

fn parts(spec: &Spec) -> Result<Vec<Part>> {
    let uid = spec.account.uid;
    let attributes = if spec.place.read_only { NO_SUID | READ_ONLY } else { NO_SUID };
    let prefix = match &spec.place.tree {
        None => Part::of_owner(&spec.prefix, uid, attributes),
        Some(tree) => Part::of_owner(tree, uid, attributes)
            .and_then(|part| Ok(Part { path: to_be(&spec.prefix)?, ..part })),
    };
    let mut parts = vec![prefix?];
    if let Some(work) = &spec.place.work {
        parts.push(Part::of_owner(work, uid, NO_SUID)?);
    }
    for path in &spec.place.kernel {
        parts.push(Part::take(path, NO_SUID | READ_ONLY)?);
    }
    let resolver = spec.place.network.then(resolver).flatten();
    for path in spec.place.readable.iter().chain(&resolver) {
        parts.push(Part::take(path, NO_SUID | READ_ONLY | NO_EXEC)?);
    }
    Ok(parts)
}

/// The file that names the name servers, if it is in /run, which is hidden.
fn resolver() -> Option<PathBuf> {
    let file = fs::canonicalize("/etc/resolv.conf").ok()?;
    let hidden = file.starts_with(fs::canonicalize(RUN).ok()?);
    hidden.then_some(file)
}

/// The paths that the namespace is made from, with links resolved.
fn needed(parts: &[Part]) -> Vec<PathBuf> {
    let names = TEMPORARY.iter().chain([&RUN]).chain(COVERED.iter().map(|(host, _)| host));
    let host = names.filter_map(|name| fs::canonicalize(name).ok());
    host.chain(parts.iter().map(|part| part.path.clone())).collect()
}

impl Part {
    fn take(path: &Path, attributes: u64) -> Result<Part> {
        // Links on the way to it are root's (Prefix::open), or were followed already.
        let path = fs::canonicalize(path).with_context(|| format!("{}", path.display()))?;
        let at = mounts::open(&path)?;
        let mount = mounts::copy(&at).with_context(|| format!("{}", path.display()))?;
        mounts::restrict(&mount, c"", attributes).with_context(|| format!("{}", path.display()))?;
        Ok(Part { mount, path })
    }

    /// A directory that has to belong to `uid`. If its owner moves another one there
    /// meanwhile, that is the owner's own too, and only the owner's processes see it.
    fn of_owner(path: &Path, uid: u32, attributes: u64) -> Result<Part> {
        let part = Part::take(path, attributes)?;
        // The descriptor is of kind O_PATH, which File::metadata (fstat(2)) works on.
        let meta = File::from(part.mount.try_clone()?).metadata()?;
        let shown = path.display();
        if !meta.is_dir() || meta.uid() != uid {
            fail!(
                Exit::PrefixIncomplete,
                "{shown} is not, or no longer, a directory of user {uid}"
            );
        }
        if fstatvfs(&part.mount)?.flags().contains(FsFlags::ST_NOEXEC) {
            anyhow::bail!(
                "{shown} is on a file system that is mounted noexec, so no program in it can run: mount -o remount,exec $(findmnt -no TARGET -T {shown})"
            );
        }
        Ok(part)
    }

    fn lay(&self, private: &mut Vec<PathBuf>) -> Result<()> {
        if !self.path.exists() {
            self.make_place(private).with_context(|| format!("{}", self.path.display()))?;
        }
        lay(&self.mount, &self.path)
    }

    /// Makes the mount point. Our private directories hide the host's /tmp by now, so a part below
    /// /tmp needs a new one. Elsewhere only the prefix may have none yet. It gets one in a private
    /// directory of the same kind.
    fn make_place(&self, private: &mut Vec<PathBuf>) -> Result<()> {
        if !private.iter().any(|dir| self.path.starts_with(dir)) {
            let there = self.path.ancestors().skip(1).find(|dir| dir.is_dir());
            match there.filter(|dir| *dir != Path::new("/")) {
                Some(dir) => tmpfs(dir)?,
                None => anyhow::bail!("no directory for it: mkdir {}", self.path.display()),
            }
            private.extend(there.map(Path::to_owned));
        }
        if is_dir(&self.mount)? {
            fs::create_dir_all(&self.path)?
        } else {
            fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
            File::create(&self.path)?;
        }
        Ok(())
    }
}

/// `path` with links resolved, as far as it exists.
fn to_be(path: &Path) -> Result<PathBuf> {
    let there = path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
    Ok(fs::canonicalize(there)?.join(rest).components().collect())
}

fn is_dir(fd: &OwnedFd) -> Result<bool> {
    Ok(File::from(fd.try_clone()?).metadata()?.is_dir())
}

fn lay(mount: &OwnedFd, path: &Path) -> Result<()> {
    let over = mounts::open(path)?;
    mounts::attach(mount, &over).with_context(|| format!("{}", path.display()))
}

/// Mounts the private directories, and lays the merged passwd and group over the host's.
fn temporary(files: &Files) -> Result<Vec<PathBuf>> {
    let mut dirs: Vec<PathBuf> = TEMPORARY
        .iter()
        .filter_map(|dir| fs::canonicalize(dir).ok())
        .filter(|dir| dir.is_dir())
        .collect();
    dirs.dedup();
    let Some(first) = dirs.first() else {
        fail!(Exit::Other, "this system has none of {TEMPORARY:?}");
    };
    // This file system only holds the two files; the second one hides it.
    tmpfs(first)?;
    for (name, text) in [("passwd", &files.passwd), ("group", &files.group)] {
        let path = first.join(name);
        let shown = || format!("{}", path.display());
        File::create(&path).and_then(|mut f| f.write_all(text.as_bytes())).with_context(shown)?;
        let over = fs::canonicalize(Path::new("/etc").join(name))
            .with_context(|| format!("/etc/{name} has to exist, so that the prefix's can be laid over it: touch /etc/{name}"))?;
        let mount = mounts::copy(&mounts::open(&path)?)?;
        mounts::restrict(&mount, c"", READ_ONLY | NO_SUID | NO_EXEC)?;
        lay(&mount, &over)?;
    }
    let run = fs::canonicalize(RUN).ok();
    if let Some(run) = &run {
        tmpfs_of_root(run)?;
    }
    for dir in &dirs {
        // /dev/shm -> /run/shm
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
        tmpfs(dir)?;
    }
    dirs.extend(run);
    Ok(dirs)
}

fn tmpfs(dir: &Path) -> Result<()> {
    // Bounded: it is the machine's memory.
    mount_tmpfs(dir, MsFlags::empty(), "mode=1777,size=25%")
}

fn tmpfs_of_root(dir: &Path) -> Result<()> {
    mount_tmpfs(dir, MsFlags::MS_NOEXEC, "mode=755,size=1m")
}

fn mount_tmpfs(dir: &Path, flags: MsFlags, options: &str) -> Result<()> {
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options))
        .with_context(|| format!("mounting a private {}", dir.display()))
}

fn plain(target: &str, source: Option<&Path>, flags: MsFlags) -> nix::Result<()> {
    mount(source, target, None::<&str>, flags, None::<&str>)
}

/// The copies belong to the owner, who may put there what it likes: only its own processes, of this
/// namespace, will run it.
fn replace_programs(spec: &Spec) -> Result<()> {
    for replaced in &spec.place.programs {
        let shown = || format!("{}", replaced.by.display());
        let by = mounts::open(&replaced.by)?;
        if !File::from(by.try_clone()?).metadata().with_context(shown)?.is_file() {
            fail!(Exit::Other, "{} is not a plain file", replaced.by.display());
        }
        let mount = mounts::copy(&by).with_context(shown)?;
        mounts::restrict(&mount, c"", READ_ONLY | NO_SUID)?;
        lay(&mount, &replaced.original)?;
    }
    Ok(())
}

/// Lays the prefix's interpreters over the host's. The owner's links decide which file that is. A
/// link that leads out of the prefix leads to a mount that nothing can be executed from, and is
/// refused.
fn cover_interpreters(spec: &Spec) -> Result<()> {
    for (host, ours) in COVERED {
        // A host without it has no place to lay ours over.
        let Ok(over) = fs::canonicalize(host) else { continue };
        let path = spec.prefix.join(ours);
        let file = match mounts::open_following(&path) {
            Ok(file) => file,
            Err(e) if e.downcast_ref() == Some(&Errno::ENOENT) => continue,
            Err(e) => return Err(Failure::new(Exit::PrefixIncomplete, format!("{e:#}")).into()),
        };
        let meta = File::from(file.try_clone()?).metadata()?;
        if !meta.is_file() || fstatvfs(&file)?.flags().contains(FsFlags::ST_NOEXEC) {
            fail!(
                Exit::PrefixIncomplete,
                "{} is not a program inside the prefix: a link that leads out of it?",
                path.display()
            );
        }
        let mount = mounts::copy(&file).with_context(|| format!("{}", path.display()))?;
        mounts::restrict(&mount, c"", READ_ONLY | NO_SUID)?;
        lay(&mount, &over)?;
    }
    Ok(())
}
