//! A shipped kernel build tree inside the prefix's namespace: everything that its links lead to,
//! and its own programs (fixdep, modpost, objtool), which were linked for the system's libc.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Place, Replaced, mounts};
use crate::elf::{Elf, Kind};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::kernel::Tree;
use crate::prefix::Prefix;
use crate::process::{Cancel, Run};

/// More places than any distribution splits its headers into.
const MAX_PLACES: usize = 64;
/// Deeper than any source tree.
const MAX_DEPTH: usize = 40;
/// Directories of programs and libraries of the whole system: no part of a kernel tree, though a
/// link in one may lead there.
const SYSTEM: [&str; 8] =
    ["/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/bin", "/sbin", "/lib", "/lib64"];
/// Programs of the prefix that show how its programs are bound, in the order they are asked.
const SAMPLES: [&str; 4] = ["bin/bash", "usr/bin/bash", "usr/bin/make", "usr/bin/patchelf"];

/// What was found in a kernel tree.
#[derive(Debug, Default, PartialEq, Eq)]
struct Contents {
    /// The tree's directories, and what links in them lead to; canonical, none inside another.
    places: Vec<PathBuf>,
    /// Executables, and the interpreter of each.
    programs: Vec<(PathBuf, PathBuf)>,
}

/// The run path as the dynamic section has it.
fn joined(path: &[PathBuf]) -> OsString {
    path.iter().map(|directory| directory.as_os_str()).collect::<Vec<_>>().join(OsStr::new(":"))
}

impl Prefix {
    /// A place for builds against `tree`, without network. `work` belongs to the owner. The tree's
    /// own programs are copied there, and the prefix's patchelf binds them to the prefix.
    ///
    /// # Errors
    /// The tree cannot be read. [`Exit::PrefixIncomplete`]: the tree has such programs, but the
    /// prefix has no patchelf, or no program of its own that shows how to bind them.
    pub fn place(&self, work: &Path, tree: &Tree, cancel: &Cancel) -> Result<Place> {
        let contents = Contents::of(&[&tree.output, &tree.source]).exit(Exit::NoKernelSource)?;
        let mut place =
            Place { work: Some(work.to_owned()), kernel: contents.places, ..Place::default() };
        let foreign = contents.programs.into_iter().filter(|(_, i)| !i.starts_with(&self.path));
        let foreign: Vec<PathBuf> = foreign.map(|(program, _)| program).collect();
        if let Some(first) = foreign.first() {
            let copies = work.join("kernel-programs");
            self.bind(&place, &copies, &foreign, cancel).with_context(|| {
                format!(
                    "the kernel tree's programs ({} and {} more) are linked for another libc and have to be bound to the prefix; if it lacks patchelf: emerge dev-util/patchelf in it, or provision it anew",
                    first.display(),
                    foreign.len() - 1
                )
            })?;
            place.programs = replaced(&copies, foreign);
        }
        Ok(place)
    }

    /// Copies `programs` to `copies`, bound to the prefix. The owner does this: root writes nothing
    /// there.
    fn bind(&self, place: &Place, copies: &Path, programs: &[PathBuf], c: &Cancel) -> Result<()> {
        let sample = self.sample()?;
        let interpreter = sample.interpreter.unwrap_or_default();
        let script = r#"dir=$1; shift; mkdir "$dir" || exit
            while [ "$1" != -- ]; do options+=("$1"); shift; done; shift
            for program; do
                patchelf "${options[@]}" --output "$dir/$((n++))-${program##*/}" "$program" || exit
            done"#;
        let run: Run = self.run("bash", place).args(["-c", script, "bash"]).arg(copies);
        let run = run.arg("--set-interpreter").arg(interpreter);
        let run = match (&sample.rpath[..], &sample.runpath[..]) {
            // The interpreter itself knows where the libraries are (Gentoo's RAP).
            ([], []) => run.arg("--remove-rpath"),
            ([], runpath) => run.arg("--set-rpath").arg(joined(runpath)),
            (rpath, _) => run.args(["--force-rpath", "--set-rpath"]).arg(joined(rpath)),
        };
        run.arg("--").args(programs).output(c).exit(Exit::PrefixIncomplete).map(drop)
    }

    /// A program of the prefix: it shows how programs are bound to it.
    fn sample(&self) -> Result<Elf> {
        for path in SAMPLES.map(|name| self.path.join(name)) {
            let Some(file) = self.open_inside(&path)? else { continue };
            let shown = || format!("{}", path.display());
            let elf = Elf::open(&file).with_context(shown).exit(Exit::PrefixIncomplete)?;
            let Some(elf) = elf.filter(|elf| elf.kind == Kind::Program) else { continue };
            let interpreter = elf.interpreter.as_deref().unwrap_or(Path::new(""));
            if !interpreter.starts_with(&self.path) {
                fail!(
                    Exit::PrefixIncomplete,
                    "{} has the interpreter {}, outside the prefix; it cannot run there (`zfs-prefix prefix audit`)",
                    path.display(),
                    interpreter.display()
                );
            }
            return Ok(elf);
        }
        fail!(
            Exit::PrefixIncomplete,
            "the prefix {} has no dynamic program among {SAMPLES:?}",
            self.path.display()
        )
    }
}

impl Prefix {
    /// Opens a regular file of the prefix for reading. None: it is not there, or its links lead
    /// out. The links are the owner's. A file elsewhere is not even opened: on a device, or on
    /// /proc/kmsg, opening alone has an effect.
    fn open_inside(&self, path: &Path) -> Result<Option<File>> {
        let Ok(found) = mounts::open_following(path) else { return Ok(None) };
        let found = File::from(found);
        // The place of the file that was found, whatever its name leads to by now.
        let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
        let place = fs::read_link(&itself).with_context(|| itself.clone())?;
        let inside = place.starts_with(fs::canonicalize(&self.path)?);
        if !inside || !found.metadata().is_ok_and(|meta| meta.is_file()) {
            return Ok(None);
        }
        let shown = || format!("{}", path.display());
        File::open(&itself).with_context(shown).exit(Exit::PrefixIncomplete).map(Some)
    }
}

fn replaced(copies: &Path, originals: Vec<PathBuf>) -> Vec<Replaced> {
    let named = |(n, original): (usize, PathBuf)| {
        let name = original.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Replaced { original, by: copies.join(format!("{n}-{name}")) }
    };
    originals.into_iter().enumerate().map(named).collect()
}

impl Contents {
    fn of(dirs: &[&Path]) -> Result<Contents> {
        let mut found = Contents::default();
        let mut waiting: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
        while let Some(path) = waiting.pop() {
            if found.places.iter().any(|place| path.starts_with(place)) {
                continue;
            }
            if found.places.len() == MAX_PLACES {
                anyhow::bail!("{}: its links lead to too many places", dirs[0].display());
            }
            found.places.push(path.clone());
            let mut links = BTreeSet::new();
            found.look(&path, 0, &mut links)?;
            waiting.extend(links);
        }
        found.settle();
        Ok(found)
    }

    /// Looks at everything below `path`, which is no link.
    fn look(&mut self, path: &Path, depth: usize, links: &mut BTreeSet<PathBuf>) -> Result<()> {
        let shown = || format!("{}", path.display());
        let meta = fs::symlink_metadata(path).with_context(shown)?;
        if meta.is_file() {
            if meta.permissions().mode() & 0o111 != 0 {
                // The file may be the prefix's owner's, and may have been replaced: follow no link,
                // wait for nothing.
                let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
                let open = File::options().read(true).custom_flags(flags).open(path);
                let file = open.with_context(shown)?;
                let elf = Elf::open(&file).with_context(shown)?;
                let interpreter = elf.filter(|elf| elf.kind == Kind::Program);
                let interpreter = interpreter.and_then(|elf| elf.interpreter);
                self.programs.extend(interpreter.map(|found| (path.to_owned(), found)));
            }
            return Ok(());
        }
        if depth > MAX_DEPTH {
            anyhow::bail!("{}: directories nested too deeply", path.display());
        }
        for entry in fs::read_dir(path).with_context(shown)? {
            let entry = entry.with_context(shown)?;
            let kind = entry.file_type().with_context(shown)?;
            if kind.is_symlink() {
                links.extend(outside(&entry.path(), &self.places));
            } else if kind.is_dir() || kind.is_file() {
                self.look(&entry.path(), depth + 1, links)?;
            }
        }
        Ok(())
    }

    /// Leaves out every place that is inside another one.
    fn settle(&mut self) {
        let all: BTreeSet<PathBuf> = self.places.drain(..).collect();
        for path in all {
            // Sorted: a directory comes before what is inside it.
            if !self.places.iter().any(|place| path.starts_with(place)) {
                self.places.push(path);
            }
        }
        self.programs.sort();
        self.programs.dedup();
    }
}

/// Where a link leads. None: it leads to one of `places`, or to no part of a kernel tree.
fn outside(link: &Path, places: &[PathBuf]) -> Option<PathBuf> {
    // A dangling one leads nowhere in the namespace either.
    let target = fs::canonicalize(link).ok()?;
    let known = places.iter().any(|place| target.starts_with(place));
    let whole = SYSTEM.iter().filter_map(|dir| fs::canonicalize(dir).ok());
    let programs = ["/usr/bin", "/usr/sbin"].map(Path::new);
    let system = whole.into_iter().any(|dir| dir.starts_with(&target))
        || programs.iter().any(|dir| target.starts_with(dir));
    (!known && !system).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_of_the_prefix_is_read_and_none_that_a_link_in_it_leads_out_to() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("gentoo");
        fs::create_dir(&path).unwrap();
        let user = crate::process::User { uid: 2000, gid: 2000 };
        let account = crate::prefix::enter::Account::of(user);
        let prefix = Prefix { path: path.clone(), user, account };
        fs::write(root.path().join("outside"), "").unwrap();
        fs::write(path.join("bash"), "inside").unwrap();
        symlink(path.join("bash"), path.join("sh")).unwrap();
        symlink("../outside", path.join("out")).unwrap();
        symlink("/dev/null", path.join("device")).unwrap();
        symlink("/proc/self/root", path.join("magic")).unwrap();
        for (name, expected) in
            [("bash", true), ("sh", true), ("out", false), ("device", false), ("none", false)]
        {
            let file = prefix.open_inside(&path.join(name)).unwrap();
            assert_eq!(file.is_some(), expected, "{name}");
        }
        assert!(prefix.open_inside(&path.join("magic/etc/passwd")).unwrap().is_none());
    }

    #[test]
    fn a_split_tree_is_found_whole_by_its_links_and_programs_by_their_interpreter() {
        let root = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(root.path()).unwrap();
        let dir = |name: &str| {
            let path = root.join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let (output, source) = (dir("headers-amd64"), dir("headers-common"));
        dir("headers-amd64/include/generated");
        let scripts = dir("kbuild/scripts/basic");
        let deeper = dir("elsewhere");
        symlink("../kbuild/scripts", output.join("scripts")).unwrap();
        symlink(&source, output.join("source")).unwrap();
        symlink("include/generated", output.join("inside")).unwrap();
        symlink("/nowhere", output.join("dangling")).unwrap();
        symlink("/usr/bin", output.join("programs")).unwrap();
        symlink("/", output.join("all")).unwrap();
        symlink(&deeper, scripts.join("deeper")).unwrap();
        let program = scripts.join("fixdep");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        fs::write(scripts.join("script"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(scripts.join("script"), PermissionsExt::from_mode(0o755)).unwrap();
        let found = Contents::of(&[&output, &source]).unwrap();
        assert_eq!(found.places, [deeper, output, source, root.join("kbuild/scripts")]);
        let programs: Vec<&PathBuf> = found.programs.iter().map(|(path, _)| path).collect();
        assert_eq!(programs, [&program]);
        let copies = replaced(Path::new("/w"), vec![program.clone()]);
        assert_eq!(copies, [Replaced { original: program, by: "/w/0-fixdep".into() }]);
    }
}
