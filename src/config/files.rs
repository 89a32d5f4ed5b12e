//! Which files make up the configuration: the search of systemd's own configuration files
//! (systemd-system.conf(5), "Configuration directories and precedence").

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::note::Problem;
use crate::host::Host;
use crate::host::files::Files;
use crate::host::links::{End, Way};

/// Highest precedence first.
const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];
const MAIN: &str = "zfs-prefix/config.toml";
const DROP_INS: &str = "zfs-prefix/config.d";
/// A configuration is a page; anything near this size is a mistake.
const LARGEST: u64 = 1 << 20;

/// A file of the configuration, or what is wrong with it.
pub(super) struct File {
    /// As the machine names it.
    pub(super) path: PathBuf,
    pub(super) text: Result<String, Problem>,
}

/// The files that count, in the order they apply. The second value: what is not read, because it is
/// there only later in a boot. A name there masks others all the same.
pub(super) fn list(files: Files<'_>) -> (Vec<File>, Vec<PathBuf>) {
    let host = files.host;
    let (mut found, mut later) = (Vec::new(), Vec::new());
    let mut directories = Vec::new();
    for directory in &DIRECTORIES {
        let Way { path, end } = files.way(&Path::new(directory).join("zfs-prefix"));
        match end {
            End::Here(_) => directories.push(Path::new(directory)),
            End::Later => later.push(path),
            End::Nothing => {}
        }
    }
    let mut read = |path: PathBuf, found: &mut Vec<File>| match files.later(&path) {
        Some(path) => later.push(path),
        None => found.extend(read(host, &path).map(|text| File { path, text })),
    };
    let is_there = |path: &PathBuf| std::fs::symlink_metadata(host.path(path)).is_ok();
    let mut mains = directories.iter().map(|dir| dir.join(MAIN));
    if let Some(main) = mains.find(is_there) {
        read(main, &mut found);
    }
    let mut names: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for dir in directories.iter().map(|dir| dir.join(DROP_INS)) {
        if files.later(&dir).is_some() {
            read(dir, &mut found);
            continue;
        }
        match drop_in_names(host, &dir) {
            Ok(drop_ins) => {
                for name in drop_ins {
                    let path = dir.join(&name);
                    names.entry(name).or_insert(path);
                }
            }
            Err(problem) => found.push(File { path: dir, text: Err(problem) }),
        }
    }
    for path in names.into_values() {
        read(path, &mut found);
    }
    (found, later)
}

fn drop_in_names(host: &Host, dir: &Path) -> Result<Vec<OsString>, Problem> {
    let listing = match std::fs::read_dir(host.path(dir)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let names = listing.and_then(|l| l.map(|e| e.map(|e| e.file_name())).collect());
    let mut names: Vec<OsString> =
        names.map_err(|e| Problem::whole(format!("cannot list this directory: {e}")))?;
    names.retain(|n| n.as_bytes().ends_with(b".toml") && !n.as_bytes().starts_with(b"."));
    Ok(names)
}

/// None when there is no such file.
fn read(host: &Host, path: &Path) -> Option<Result<String, Problem>> {
    let real = host.path(path);
    // O_NONBLOCK: a FIFO in this place must not hold the boot.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&real);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            // A dangling link was meant to be a file.
            std::fs::symlink_metadata(&real).ok()?;
            return Some(Err(Problem::whole("a symlink to nothing")));
        }
        Err(e) => return Some(Err(Problem::whole(format!("cannot open this file: {e}")))),
    };
    Some(contents(file))
}

fn contents(file: std::fs::File) -> Result<String, Problem> {
    let failed = |e: std::io::Error| Problem::whole(format!("cannot read this file: {e}"));
    let meta = file.metadata().map_err(failed)?;
    if meta.file_type().is_char_device() {
        // A symlink to /dev/null masks the file, as for every file of systemd.
        return Ok(String::new());
    }
    if !meta.is_file() {
        return Err(Problem::whole("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::whole(format!("larger than {LARGEST} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        Problem::at(e.as_bytes(), offset, "not UTF-8")
    })
}
