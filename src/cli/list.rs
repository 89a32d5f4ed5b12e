//! `zfs-prefix list`: every published tree.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::host::Release;
use crate::store::{self, Layout};

/// A line for each tree, and whether all of them are sound.
///
/// # Errors
/// The store is there and cannot be read.
pub fn list(layout: &Layout) -> Result<(String, bool)> {
    let mut text = String::from("  KERNEL RELEASE                   ZFS        KEY\n");
    let mut sound = true;
    for release in names(&layout.store())? {
        let Ok(release) = release.parse::<Release>() else { continue };
        let current = store::current_key(layout, &release);
        for key in names(&layout.trees(&release))? {
            if key.starts_with('.') {
                continue;
            }
            let mark = if current.as_ref() == Some(&key) { '*' } else { ' ' };
            match store::check_published(layout, &release, &key, 0) {
                Ok(m) => {
                    let zfs = m.zfs_version;
                    writeln!(text, "{mark} {:<32} {zfs:<10} {key}", release.as_str())?;
                }
                Err(error) => {
                    sound = false;
                    let name = release.as_str();
                    writeln!(text, "{mark} {name:<32} {:<10} {key}: {error:#}", "DAMAGED")?;
                }
            }
        }
    }
    text.push_str("* is what zfs-load takes\n");
    Ok((text, sound))
}

fn names(dir: &std::path::Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("{}", dir.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("{}", dir.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
