//! Makes root's files from the owner's: finds the modules that the recipe installed, and copies
//! them into the staging tree through descriptors that follow no link.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use walkdir::WalkDir;

use crate::exit::Exit;
use crate::fail;
use crate::host::Release;
use crate::prefix::owned::read_plain;
use crate::store::Staging;

/// The most levels of directories. No module directory is deeper.
const MAX_DEPTH: usize = 12;

/// A harvested module: its path in the tree and its bytes, as copied.
#[derive(Debug)]
pub struct Harvested {
    /// Relative to the tree: `lib/modules/<release>/extra/zfs.ko`.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Vec<u8>,
}

/// All `*.ko` files below `installed`/lib/modules/`release` and usr/lib/modules/`release`, sorted.
///
/// # Errors
/// [`Exit::Refused`]: there are none.
pub fn find(installed: &Path, release: &Release) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for base in ["lib/modules", "usr/lib/modules"] {
        let dir = installed.join(base).join(release.as_str());
        if fs::symlink_metadata(&dir).is_ok_and(|m| m.is_dir()) {
            for entry in WalkDir::new(&dir) {
                let entry = entry?;
                let too_deep = entry.file_type().is_dir() && entry.depth() > MAX_DEPTH;
                ensure!(!too_deep, "{}: directories nested too deeply", entry.path().display());
                let is_module = entry.path().extension().is_some_and(|e| e == "ko");
                if entry.file_type().is_file() && is_module {
                    found.push(entry.into_path());
                }
            }
        }
    }
    found.sort();
    if found.is_empty() {
        let others = other_releases(installed);
        let instead = if others.is_empty() {
            String::new()
        } else {
            format!(", but some for {}", others.join(", "))
        };
        fail!(
            Exit::Refused,
            "the build installed no module for kernel {release} below {}{instead}",
            installed.display()
        );
    }
    Ok(found)
}

/// The kernel releases that something was installed for, for a message.
fn other_releases(installed: &Path) -> Vec<String> {
    let dirs = ["lib/modules", "usr/lib/modules"].map(|base| fs::read_dir(installed.join(base)));
    let entries = dirs.into_iter().flatten().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|e| e.file_name().to_string_lossy().replace(char::is_control, "?")).collect();
    names.sort();
    names.dedup();
    names
}

/// Copies `modules`, all below `top`, into `staging` as `lib/modules/<release>/extra/NAME.ko`.
/// Reads each file once and returns its bytes. So verification sees what was copied, whatever the
/// owner does to the files meanwhile.
///
/// # Errors
/// A file is not a plain file, is too large, or cannot be read or written. Two have the same name.
pub fn copy(
    top: &Path,
    modules: &[PathBuf],
    staging: &Staging,
    release: &Release,
) -> Result<Vec<Harvested>> {
    let base = Path::new("lib/modules").join(release.as_str()).join("extra");
    modules
        .iter()
        .map(|module| {
            let bytes = read_plain(top, module)?;
            let path = base.join(module.file_name().unwrap_or_default());
            let mut file = staging.create(&path)?;
            file.write_all(&bytes)
                .with_context(|| format!("{}", staging.dir().join(&path).display()))?;
            Ok(Harvested { path, bytes })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Layout;

    #[test]
    fn modules_are_copied_and_links_on_the_way_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let release: Release = "6.1.0".parse().unwrap();
        let top = root.path().join("work");
        let extra = top.join("root/lib/modules/6.1.0/extra");
        fs::create_dir_all(&extra).unwrap();
        let none = find(&top.join("root"), &release).unwrap_err();
        assert_eq!(crate::exit::of(&none), Exit::Refused);
        let other = find(&top.join("root"), &"6.2.0".parse().unwrap()).unwrap_err().to_string();
        assert!(other.ends_with("but some for 6.1.0"), "{other}");
        fs::write(extra.join("zfs.ko"), "bytes").unwrap();
        fs::write(extra.join("notes.txt"), "no module").unwrap();
        let modules = find(&top.join("root"), &release).unwrap();
        assert_eq!(modules, [extra.join("zfs.ko")]);
        let layout = Layout::new(root.path());
        let staging = Staging::new(&layout, &release).unwrap();
        let got = copy(&top, &modules, &staging, &release).unwrap();
        assert_eq!(got[0].path, Path::new("lib/modules/6.1.0/extra/zfs.ko"));
        assert_eq!(fs::read(staging.dir().join(&got[0].path)).unwrap(), b"bytes");
        drop(staging);

        // After the search, the owner replaces a directory by a link to somewhere else.
        fs::rename(top.join("root"), root.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("../elsewhere", top.join("root")).unwrap();
        let staging = Staging::new(&layout, &release).unwrap();
        let error = copy(&top, &modules, &staging, &release).unwrap_err();
        assert!(format!("{error:#}").contains("extra/zfs.ko"), "{error:#}");
    }
}
