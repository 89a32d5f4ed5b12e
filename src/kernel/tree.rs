//! An existing kernel build tree, from the distribution's headers package or from
//! `modules_prepare` (Documentation/kbuild/modules.rst).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Symvers;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Release;

/// A kernel build tree. It is checked to be for the requested release.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The output directory: `.config`, `include/generated`, Module.symvers (KV_OUT_DIR).
    pub output: PathBuf,
    /// The source directory (KERNEL_DIR). It is the same as `output` if one tree has both.
    pub source: PathBuf,
    /// The bytes of `.config`.
    pub config: Vec<u8>,
    /// The text of Module.symvers.
    pub symvers_text: String,
    /// Module.symvers, parsed.
    pub symvers: Symvers,
}

impl Tree {
    /// Opens the tree in `dir` for kernel `release`. It reads the release of the tree from
    /// `include/generated/utsrelease.h`: Debian's `kernel.release` has another name in it.
    ///
    /// # Errors
    /// [`Exit::NoKernelSource`]: there is no tree, or it is for another kernel.
    /// [`Exit::NoSymvers`]: the tree has no Module.symvers, or one that cannot be read.
    pub fn open(dir: &Path, release: &Release) -> Result<Tree> {
        let output = fs::canonicalize(dir)
            .with_context(|| {
                format!(
                    "kernel {release}: no build tree in {}; install the kernel's headers or set kernel.build-dir",
                    dir.display()
                )
            })
            .exit(Exit::NoKernelSource)?;
        roots_own(&output).exit(Exit::NoKernelSource)?;
        let source = source_of(dir, &output);
        let read = |name: &str| {
            let path = output.join(name);
            fs::read(&path).with_context(|| format!("{}", path.display()))
        };
        Tree::of(&output, &source, release, read, None)
    }

    /// The tree with this output and source directory. `read` reads its files by name, and may
    /// refuse files whose owner it does not trust. `exports` are the kernel's exports, if the
    /// caller knows them better than the tree's Module.symvers does.
    ///
    /// # Errors
    /// As [`Tree::open`].
    pub fn of(
        output: &Path,
        source: &Path,
        release: &Release,
        read: impl Fn(&str) -> Result<Vec<u8>>,
        exports: Option<Symvers>,
    ) -> Result<Tree> {
        let found = uts_release(output, &read).exit(Exit::NoKernelSource)?;
        if found != release.as_str() {
            fail!(
                Exit::NoKernelSource,
                "kernel {release}: the build tree {} is for kernel {found}; set kernel.build-dir to the right one",
                output.display()
            );
        }
        let about = || format!("kernel {release}");
        let config = read(".config").with_context(about).exit(Exit::NoKernelSource)?;
        let (symvers_text, symvers) = match exports {
            Some(exports) => (exports.to_text(), exports),
            None => {
                let bytes = read("Module.symvers").with_context(about).exit(Exit::NoSymvers)?;
                let place =
                    || format!("kernel {release}: {}", output.join("Module.symvers").display());
                let text = String::from_utf8(bytes).with_context(place).exit(Exit::NoSymvers)?;
                let symvers = Symvers::parse(&text).with_context(place).exit(Exit::NoSymvers)?;
                (text, symvers)
            }
        };
        let (output, source) = (output.to_owned(), source.to_owned());
        Ok(Tree { output, source, config, symvers_text, symvers })
    }

    /// `CONFIG_CC_VERSION_TEXT`: the compiler line the kernel was configured with, if it says.
    pub fn compiler(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.config);
        let value = text.lines().find_map(|l| l.strip_prefix("CONFIG_CC_VERSION_TEXT="))?;
        Some(value.trim_matches('"').to_owned())
    }
}

/// Checks that the tree and the files that are read from it belong to root (in tests, to us), and
/// that none is a symlink. Their contents go into the journal and the store, and decide what root
/// publishes.
fn roots_own(output: &Path) -> Result<()> {
    let us = nix::unistd::geteuid().as_raw();
    let read = ["", ".config", "Module.symvers", "include/generated/utsrelease.h"];
    for path in read.iter().map(|name| output.join(name)) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if meta.is_symlink() || ![0, us].contains(&meta.uid()) {
            anyhow::bail!(
                "kernel build tree: {} belongs to uid {}{}; a tree that root builds for has to be root's own: chown -R root:root {}",
                path.display(),
                meta.uid(),
                if meta.is_symlink() { " and is a symlink" } else { "" },
                output.display()
            );
        }
    }
    Ok(())
}

fn uts_release(output: &Path, read: impl Fn(&str) -> Result<Vec<u8>>) -> Result<String> {
    let path = output.join("include/generated/utsrelease.h");
    let bytes = read("include/generated/utsrelease.h")
        .context("not a prepared kernel tree (modules_prepare was not run)")?;
    let text = String::from_utf8_lossy(&bytes);
    let value = text.lines().find_map(|l| l.strip_prefix("#define UTS_RELEASE "));
    let value = value.with_context(|| format!("{}: no UTS_RELEASE in it", path.display()))?;
    Ok(value.trim().trim_matches('"').to_owned())
}

/// The sources of a tree. The link `source` beside a `build` link, or in the output directory,
/// points to them. Otherwise they are in the output directory itself.
fn source_of(dir: &Path, output: &Path) -> PathBuf {
    let beside = dir.parent().map(|p| p.join("source"));
    let inside = Some(output.join("source"));
    [beside, inside]
        .into_iter()
        .flatten()
        .filter_map(|p| fs::canonicalize(p).ok())
        .find(|p| p.join("include/linux/module.h").exists())
        .unwrap_or_else(|| output.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn each_lack_of_a_tree_has_its_exit_status_and_names_the_path() {
        let uts = ("include/generated/utsrelease.h", "#define UTS_RELEASE \"6.1.0-x\"\n");
        let config = (".config", "CONFIG_CC_VERSION_TEXT=\"gcc-12 (Debian) 12.2.0\"\n");
        let symvers = ("Module.symvers", "0x1\tf\tvmlinux\tEXPORT_SYMBOL\t\n");
        let release: Release = "6.1.0-x".parse().unwrap();
        for (case, files, want, name) in [
            ("empty", vec![], Exit::NoKernelSource, "utsrelease.h"),
            ("no config", vec![uts], Exit::NoKernelSource, ".config"),
            ("no symvers", vec![uts, config], Exit::NoSymvers, "Module.symvers"),
            ("bad", vec![uts, config, ("Module.symvers", "x")], Exit::NoSymvers, "line 1"),
        ] {
            let dir = tree(&files);
            let error = Tree::open(dir.path(), &release).unwrap_err();
            assert_eq!(exit::of(&error), want, "{case}: {error:#}");
            assert!(format!("{error:#}").contains(name), "{case}: {error:#}");
        }
        let dir = tree(&[uts, config, symvers]);
        let open = Tree::open(dir.path(), &release).unwrap();
        assert_eq!(open.compiler().as_deref(), Some("gcc-12 (Debian) 12.2.0"));
        assert_eq!(open.source, open.output);
        let error = Tree::open(dir.path(), &"6.1.0-y".parse().unwrap()).unwrap_err();
        assert_eq!(exit::of(&error), Exit::NoKernelSource);
        assert!(format!("{error:#}").contains("is for kernel 6.1.0-x"), "{error:#}");
    }
}
