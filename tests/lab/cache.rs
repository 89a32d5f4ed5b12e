//! Artifacts that are made once: `<lab>/<name>-<digest>`, complete as soon as the name exists.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The artifact `name` made from `inputs`; `make` gets a path that does not exist and creates a
/// file or directory there. Other processes wait meanwhile. Artifacts of other inputs are removed:
/// they are big and nothing asks for them again.
pub fn artifact(
    name: &str,
    inputs: &[&[u8]],
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let _lock = lock(name)?;
    let path = super::dir().join(format!("{name}-{}", digest(inputs)));
    if path.exists() {
        return Ok(path);
    }
    remove_others(name)?;
    let partial = super::dir().join(format!("{name}.partial"));
    remove(&partial)?;
    eprintln!("lab: making {name}");
    let since = std::time::Instant::now();
    make(&partial).with_context(|| format!("making {}", path.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("naming {}", path.display()))?;
    eprintln!("lab: {name} made in {:.0} s", since.elapsed().as_secs_f64());
    Ok(path)
}

/// Holds `<lab>/<name>.lock` until the file is dropped.
pub fn lock(name: &str) -> Result<File> {
    fs::create_dir_all(super::dir())?;
    let path = super::dir().join(format!("{name}.lock"));
    let file = File::options().create(true).truncate(false).write(true).open(&path)?;
    file.lock().with_context(|| format!("locking {}", path.display()))?;
    Ok(file)
}

/// Removes a file or a tree; nothing there is fine.
pub fn remove(path: &Path) -> Result<()> {
    let gone = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    gone.with_context(|| format!("removing {}", path.display()))
}

/// Every file below `dir`: names, modes, link targets and contents, as input for [`artifact`].
pub fn tree(dir: &Path) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .collect::<std::io::Result<_>>()?;
    entries.sort_by_key(|e| e.file_name());
    for e in entries {
        let (path, kind) = (e.path(), e.file_type()?);
        all.extend(format!("\n{}\n", e.file_name().display()).bytes());
        if kind.is_dir() {
            all.extend(tree(&path)?);
        } else if kind.is_symlink() {
            all.extend(fs::read_link(&path)?.as_os_str().as_encoded_bytes());
        } else {
            let mode = std::os::unix::fs::PermissionsExt::mode(&e.metadata()?.permissions());
            all.extend(format!("{mode:o}\n").bytes());
            all.extend(fs::read(&path)?);
        }
    }
    Ok(all)
}

fn digest(inputs: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input);
    }
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// Removes `<name>-<16 hex digits>` of earlier inputs.
fn remove_others(name: &str) -> Result<()> {
    for e in fs::read_dir(super::dir())? {
        let e = e?;
        let file = e.file_name();
        let rest = file.to_str().and_then(|f| f.strip_prefix(name)?.strip_prefix('-'));
        if rest.is_some_and(|r| r.len() == 16 && r.bytes().all(|b| b.is_ascii_hexdigit())) {
            remove(&e.path())?;
        }
    }
    Ok(())
}
