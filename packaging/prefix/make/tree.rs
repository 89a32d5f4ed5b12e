//! What every step needs to know of the tree it works on.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Debian's name of the machine; where its libraries are.
pub const TRIPLET: &str = "x86_64-linux-gnu";

/// A prefix being made: where it is now, and where it will be.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The directory it is in while it is made.
    pub dir: PathBuf,
    /// EPREFIX: what its files say.
    pub eprefix: String,
}

impl Tree {
    /// `path` of the prefix, where it is now.
    pub fn at(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// `path` of the prefix, as it will be.
    pub fn there(&self, path: &str) -> String {
        format!("{}/{path}", self.eprefix)
    }

    /// Where libraries are, as it will be.
    pub fn libraries(&self) -> String {
        self.there(&format!("usr/lib/{TRIPLET}"))
    }

    /// The ELF interpreter, as it will be.
    pub fn interpreter(&self) -> String {
        self.there("lib64/ld-linux-x86-64.so.2")
    }

    /// Every file that is neither directory nor symlink, sorted; and every symlink if `links`.
    pub fn files(&self, links: bool) -> Result<Vec<PathBuf>> {
        fn walk(dir: &Path, links: bool, all: &mut Vec<PathBuf>) -> Result<()> {
            for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    walk(&entry.path(), links, all)?;
                } else if kind.is_symlink() == links {
                    all.push(entry.path());
                }
            }
            Ok(())
        }
        let mut all = Vec::new();
        walk(&self.dir, links, &mut all)?;
        all.sort();
        Ok(all)
    }

    /// Writes a file with @EPREFIX@ in `text` replaced.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        let to = self.at(path);
        let parent = to.parent().context("a file has a directory")?;
        fs::create_dir_all(parent)?;
        if to.is_symlink() {
            fs::remove_file(&to)?;
        }
        fs::write(&to, text.replace("@EPREFIX@", &self.eprefix))
            .with_context(|| to.display().to_string())?;
        fs::set_permissions(&to, PermissionsExt::from_mode(mode))?;
        Ok(())
    }

    /// Makes a symlink, in place of whatever is there.
    pub fn link(&self, target: &str, path: &str) -> Result<()> {
        let link = self.at(path);
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link)?;
        }
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent)?;
        }
        symlink(target, &link).with_context(|| link.display().to_string())
    }

    /// A program of the tree, run where it is now: by its own loader, with its own libraries, so
    /// that nothing of this machine's is asked for. Before its ELF files are relocated.
    pub fn command(&self, program: &str) -> Command {
        let libraries = self.at("usr/lib").join(TRIPLET);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.env_clear().env("LC_ALL", "C.UTF-8").env("PYTHONHOME", self.at("usr"));
        command.arg("--library-path").arg(libraries).arg(self.at(program));
        command
    }

    /// Replaces `from` in the file `path`, where it has to be.
    pub fn edit(&self, path: &str, from: &str, to: &str) -> Result<()> {
        let file = self.at(path);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        ensure!(
            text.contains(from),
            "{}: nowhere {from:?}: is it another version?",
            file.display()
        );
        fs::write(&file, text.replace(from, to))?;
        Ok(())
    }
}
