//! From an archive, a repository or a directory to a tree of the owner's, in the prefix's
//! namespace. `dir` is always the owner's empty directory, and the result is in [`CONTENT`] below
//! it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::proof::Proof;
use super::tree::CONTENT;
use super::{Obtain, signature};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Release;
use crate::prefix::enter::Place;
use crate::process::Run;
use crate::store::Digest;

/// Where a place to work is, with files to be read.
fn place(dir: &Path, readable: &[&Path], network: bool) -> Place {
    let readable = readable.iter().map(|path| (*path).to_owned()).collect();
    Place { work: Some(dir.to_owned()), readable, network, ..Place::default() }
}

/// Makes the directory that is unpacked into, with the owner's rights.
fn make_content(with: &Obtain<'_>, place: &Place, dir: &Path) -> Result<PathBuf> {
    let content = dir.join(CONTENT);
    with.prefix.run("mkdir", place).arg(&content).output(with.cancel)?;
    Ok(content)
}

fn run(with: &Obtain<'_>, run: &Run, what: impl Fn() -> String, exit: Exit) -> Result<()> {
    run.output(with.cancel).with_context(what).exit(exit).map(drop)
}

/// A tarball without its top directory.
///
/// # Errors
/// `exit`: it cannot be unpacked.
pub(super) fn tar(with: &mut Obtain<'_>, file: &Path, dir: &Path, exit: Exit) -> Result<()> {
    let place = place(dir, &[file], false);
    let content = make_content(with, &place, dir)?;
    let tar = with
        .program("tar", "sources are unpacked with it", &place)?
        // A word each 10 MB: on a slow disk all of it takes longer than silence may.
        .args([
            "--checkpoint=1000",
            "--extract",
            "--strip-components=1",
            "--no-same-owner",
            "--directory",
        ])
        .arg(content)
        .arg("--file")
        .arg(file);
    run(with, &tar, || format!("{}: cannot be unpacked", file.display()), exit)
}

/// The content of an RPM.
///
/// # Errors
/// [`Exit::NoKernelSource`]: it cannot be unpacked.
pub(super) fn rpm(with: &mut Obtain<'_>, file: &Path, dir: &Path) -> Result<()> {
    let place = place(dir, &[file], false);
    let content = make_content(with, &place, dir)?;
    let bsdtar = with
        .program("bsdtar", "packages (.rpm) are unpacked with it", &place)?
        .args(["-x", "--no-same-owner", "-C"])
        .arg(content)
        .arg("-f")
        .arg(file);
    let what = || format!("{}: cannot be unpacked", file.display());
    run(with, &bsdtar, what, Exit::NoKernelSource)
}

/// The build tree in an unpacked kernel-devel package.
///
/// # Errors
/// [`Exit::NoKernelSource`]: there is none for `release`.
pub(super) fn devel_tree(unpacked: &Path, release: &Release) -> Result<PathBuf> {
    let all = unpacked.join("usr/src/kernels");
    let tree = all.join(release.as_str());
    // The owner's: through a link it would be whatever the owner likes, read as root.
    let plain = |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
    if !tree.ancestors().take(5).all(plain) {
        let names = |dir| fs::read_dir(dir).into_iter().flatten().flatten();
        let found: Vec<_> =
            names(&all).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        fail!(
            Exit::NoKernelSource,
            "the package has no usr/src/kernels/{release}: it is no kernel-devel of this kernel (found: {})",
            if found.is_empty() { "none".to_owned() } else { found.join(", ") }
        );
    }
    Ok(tree)
}

/// One tag of a repository, without history.
///
/// # Errors
/// [`Exit::Network`]: it cannot be cloned; [`Exit::NoKernelSource`], when it is on this machine.
/// [`Exit::Refused`]: the tag is not signed with one of the keys.
pub(super) fn git(
    with: &mut Obtain<'_>,
    url: &str,
    tag: &str,
    proof: &Proof,
    dir: &Path,
) -> Result<()> {
    let shown = format!("{} tag {tag}", crate::config::without_query(url));
    let local = url.strip_prefix("file://");
    let mut readable: Vec<&Path> = local.map(Path::new).into_iter().collect();
    if let Proof::Keys(keys) = proof {
        readable.push(keys);
    }
    let authorities = crate::fetch::authorities();
    readable.extend(authorities.as_deref().filter(|_| local.is_none()));
    let mut place = place(dir, &readable, local.is_none());
    let content = dir.join(CONTENT);
    // A repository on this machine may be somebody else's; git's other half, which reads it, takes
    // this from a file only.
    let trust = program(with, &place)?.args(["config", "--global", "safe.directory", "*"]);
    trust.output(with.cancel)?;
    let name = format!("refs/tags/{tag}");
    let init = program(with, &place)?.args(["init", "--quiet", "--template="]).arg(&content);
    let exit = if local.is_some() { Exit::NoKernelSource } else { Exit::Network };
    run(with, &init, || format!("{shown}: cannot be cloned"), exit)?;
    // By its full name: a server may have a branch called like the tag, and more than was asked
    // for.
    let fetch = program(with, &place)?
        .arg("-C")
        .arg(&content)
        .args(["fetch", "--progress", "--depth=1", "--no-tags", "--", url])
        .arg(format!("{name}:{name}"));
    fetch_tag(with, &fetch, &shown, exit)?;
    place.network = false;
    if let Proof::Keys(keys) = proof {
        signature::tag(with, &content, &place, tag, keys).context(shown.clone())?;
    }
    // Only now, and of that very object: what else the server sent is in no working tree.
    let checkout = program(with, &place)?.arg("-C").arg(&content);
    let checkout = checkout
        .args(["checkout", "--progress", "--detach"])
        .arg(format!("{name}^{{commit}}"))
        .arg("--");
    run(with, &checkout, || format!("{shown}: cannot be checked out"), Exit::NoKernelSource)?;
    // The kernel's own scripts would name it in the release (scripts/setlocalversion).
    let remove = with.prefix.run("rm", &place).arg("-rf").arg(content.join(".git"));
    remove.output(with.cancel).map(drop)
}

/// `git fetch` of one tag. A tag that the repository does not have will not be there at the next
/// try.
fn fetch_tag(with: &Obtain<'_>, fetch: &Run, shown: &str, exit: Exit) -> Result<()> {
    let error = match fetch.output(with.cancel) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let missing = format!("{error:#}").contains("couldn't find remote ref");
    let exit = if missing { Exit::NoKernelSource } else { exit };
    let why = if missing { ": there is no such tag; see kernel.source" } else { "" };
    Err(error).with_context(|| format!("{shown}: cannot be cloned{why}")).exit(exit)
}

/// git; its configuration is the one in HOME, which is a directory of our own.
fn program(with: &Obtain<'_>, place: &Place) -> Result<Run> {
    let git = with
        .program("git", "kernel.source is a git repository", place)?
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        // Also after a redirect; http:// and a program of the address's choice are neither.
        .env("GIT_ALLOW_PROTOCOL", "https:file")
        .args(["-c", "advice.detachedHead=false"]);
    Ok(match crate::fetch::authorities() {
        Some(file) => git.env("GIT_SSL_CAINFO", file),
        None => git,
    })
}

/// A copy of a directory.
///
/// # Errors
/// [`Exit::NoKernelSource`]: the prefix's owner cannot read it.
pub(super) fn copy(with: &mut Obtain<'_>, from: &Path, dir: &Path) -> Result<()> {
    let place = place(dir, &[from], false);
    let content = make_content(with, &place, dir)?;
    let cp = with
        .program("cp", "sources are copied with it", &place)?
        .args(["--recursive", "--no-dereference", "--preserve=mode,timestamps,links"])
        .arg(from.join("."))
        .arg(content);
    let user = &with.prefix.account.user;
    let what = || format!("kernel.source: {} cannot be copied as user {user}", from.display());
    run(with, &cp, what, Exit::NoKernelSource)
}

/// Applies one patch.
///
/// # Errors
/// [`Exit::NoKernelSource`]: it does not fit.
pub(super) fn patch(with: &mut Obtain<'_>, file: &Path, shown: &str, dir: &Path) -> Result<()> {
    let place = place(dir, &[file], false);
    let patch = with
        .program("patch", "kernel.patches names patches", &place)?
        .args(["-p1", "--quiet", "--force", "--fuzz=0", "--no-backup-if-mismatch", "--directory"])
        .arg(dir.join(CONTENT))
        .arg("--input")
        .arg(file);
    run(
        with,
        &patch,
        || format!("kernel.patches: {shown} does not fit this source"),
        Exit::NoKernelSource,
    )
}

/// Whether a tree is a kernel's source, by files that each has.
///
/// # Errors
/// [`Exit::NoKernelSource`].
pub(super) fn check_source(tree: &Path, shown: &str) -> Result<()> {
    let needed = ["Makefile", "Kbuild", "Kconfig", "scripts/Makefile.modpost"];
    if let Some(missing) = needed.iter().find(|file| !tree.join(file).is_file()) {
        fail!(Exit::NoKernelSource, "{shown} is no kernel source: there is no {missing} in it");
    }
    Ok(())
}

/// Which version of a directory this is: names, sizes, modes and times of all that is in it but its
/// history, which is not compiled. Times are whole seconds: that is all of them that survives the
/// making of a disk image (`mke2fs -d`), where a key has to stay what it is.
///
/// # Errors
/// [`Exit::NoKernelSource`]: it cannot be read.
pub(super) fn stamp(dir: &Path) -> Result<String> {
    fn walk(dir: &Path, all: &mut Vec<String>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.ends_with(".git") {
                continue;
            }
            let meta = fs::symlink_metadata(&path)?;
            let (mode, size) = (meta.mode(), if meta.is_dir() { 0 } else { meta.len() });
            all.push(format!("{} {mode:o} {size} {}", path.display(), meta.mtime()));
            if meta.is_dir() {
                walk(&path, all)?;
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    walk(dir, &mut all)
        .with_context(|| format!("kernel.source: {}", dir.display()))
        .exit(Exit::NoKernelSource)?;
    all.sort();
    Ok(Digest::of(all.join("\n").as_bytes()).as_str().to_owned())
}
/// The name of the directory that a tarball has everything in.
///
/// # Errors
/// [`Exit::Refused`]: it cannot be read, or has no such directory.
pub(super) fn top(with: &Obtain<'_>, tarball: &Path) -> Result<String> {
    let place = Place { readable: vec![tarball.to_owned()], ..Place::default() };
    let script =
        "tar --list --file \"$1\" | { read -r name; printf '%s\\n' \"$name\"; cat > /dev/null; }";
    let text = with
        .program("bash", "the tarball is looked at with it", &place)?
        .args(["-c", script, "bash"])
        .arg(tarball)
        .output(with.cancel)
        .with_context(|| format!("{}: cannot be read", tarball.display()))
        .exit(Exit::Refused)?;
    let name = text.trim().split('/').next().unwrap_or_default();
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b));
    if plain && !name.is_empty() && !name.starts_with('.') {
        Ok(name.to_owned())
    } else {
        fail!(
            Exit::Refused,
            "{}: begins with {:?}, expected a directory zfs-VERSION/",
            tarball.display(),
            text.trim()
        )
    }
}
