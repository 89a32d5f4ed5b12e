//! Makes a tree that belongs to the prefix's owner from an archive, a repository or a directory. It
//! works in the prefix's namespace. `dir` is always an empty directory of the owner's. The tree is
//! in [`CONTENT`] below it.

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

/// A place to work in `dir`, with files that may be read.
fn place(dir: &Path, readable: &[&Path], network: bool) -> Place {
    let readable = readable.iter().map(|path| (*path).to_owned()).collect();
    Place { work: Some(dir.to_owned()), readable, network, ..Place::default() }
}

/// Makes the directory to unpack into, with the owner's rights.
fn make_content(with: &Obtain<'_>, place: &Place, dir: &Path) -> Result<PathBuf> {
    let content = dir.join(CONTENT);
    with.prefix.run("mkdir", place).arg(&content).output(with.cancel)?;
    Ok(content)
}

fn run(with: &Obtain<'_>, run: &Run, what: impl Fn() -> String, exit: Exit) -> Result<()> {
    run.output(with.cancel).with_context(what).exit(exit).map(drop)
}

/// Unpacks a tarball without its top directory.
///
/// # Errors
/// `exit`: it cannot be unpacked.
pub(super) fn tar(with: &mut Obtain<'_>, file: &Path, dir: &Path, exit: Exit) -> Result<()> {
    let place = place(dir, &[file], false);
    let content = make_content(with, &place, dir)?;
    let tar = with
        .program("tar", "sources are unpacked with it", &place)?
        // tar prints a line for each 10 MB. Without it a slow disk would look like a program that
        // hangs.
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

/// Unpacks the content of an RPM.
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

/// Finds the build tree in an unpacked kernel-devel package.
///
/// # Errors
/// [`Exit::NoKernelSource`]: it contains none for `release`.
pub(super) fn devel_tree(unpacked: &Path, release: &Release) -> Result<PathBuf> {
    let all = unpacked.join("usr/src/kernels");
    let tree = all.join(release.as_str());
    // These directories are the owner's. Through a link in them root would read whatever the owner
    // likes.
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

/// Clones one tag of a repository, without history.
///
/// # Errors
/// [`Exit::Network`]: it cannot be cloned. [`Exit::NoKernelSource`]: it is on this machine and
/// cannot be cloned. [`Exit::Refused`]: the tag is not signed with one of the keys.
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
    // A repository on this machine may belong to somebody else. The git process that reads it takes
    // this setting from a file only.
    let trust = program(with, &place)?.args(["config", "--global", "safe.directory", "*"]);
    trust.output(with.cancel)?;
    let name = format!("refs/tags/{tag}");
    let init = program(with, &place)?.args(["init", "--quiet", "--template="]).arg(&content);
    let exit = if local.is_some() { Exit::NoKernelSource } else { Exit::Network };
    run(with, &init, || format!("{shown}: cannot be cloned"), exit)?;
    // Ask by the full name: a server may have a branch with the name of the tag, and may send more
    // than was asked for.
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
    // Check out only now, and exactly that object. So nothing else that the server sent gets into
    // the working tree.
    let checkout = program(with, &place)?.arg("-C").arg(&content);
    let checkout = checkout
        .args(["checkout", "--progress", "--detach"])
        .arg(format!("{name}^{{commit}}"))
        .arg("--");
    run(with, &checkout, || format!("{shown}: cannot be checked out"), Exit::NoKernelSource)?;
    // With .git the kernel's own scripts would put the commit into the release
    // (scripts/setlocalversion).
    let remove = with.prefix.run("rm", &place).arg("-rf").arg(content.join(".git"));
    remove.output(with.cancel).map(drop)
}

/// Runs `git fetch` for one tag. If the repository does not have the tag, another try would not
/// help: that is no error of the network.
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

/// The git command. It reads its configuration from HOME, which is our own directory.
fn program(with: &Obtain<'_>, place: &Place) -> Result<Run> {
    let git = with
        .program("git", "kernel.source is a git repository", place)?
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        // This holds after a redirect too. http:// is not allowed, nor a program that the address
        // names.
        .env("GIT_ALLOW_PROTOCOL", "https:file")
        .args(["-c", "advice.detachedHead=false"]);
    Ok(match crate::fetch::authorities() {
        Some(file) => git.env("GIT_SSL_CAINFO", file),
        None => git,
    })
}

/// Copies a directory.
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
/// [`Exit::NoKernelSource`]: the patch does not fit.
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

/// Checks that a tree is a kernel's source: it has the files that each one has.
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

/// Identifies the version of a directory: names, sizes, modes and times of all files in it. It
/// leaves out the history (.git), which is not compiled. Times are whole seconds: `mke2fs -d` keeps
/// no more of them in a disk image, and the key has to stay the same there.
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

/// The name of the top directory of a tarball.
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
