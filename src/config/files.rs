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
use crate::host::links::{self, End};

/// Highest precedence first.
pub(super) const DIRECTORIES: [&str; 4] = ["/etc", "/run", LOCAL, "/usr/lib"];
/// A link into /var on some systems (Fedora CoreOS).
const LOCAL: &str = "/usr/local/lib";
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

/// The directories for programs that must not read /var. The second value is the path in /var that
/// `/usr/local/lib/zfs-prefix` leads to, if it leads there.
pub(super) fn outside_var(host: &Host) -> (Vec<&'static str>, Option<PathBuf>) {
    let path = Path::new(LOCAL).join("zfs-prefix");
    let way = links::follow(host, &path, |at| at.starts_with("/var"));
    let in_var = matches!(way.end, End::Later).then_some(way.path);
    let mut directories = DIRECTORIES.to_vec();
    directories.retain(|directory| in_var.is_none() || *directory != LOCAL);
    (directories, in_var)
}

/// The files that count, in the order they apply.
pub(super) fn list(host: &Host, directories: &[&str]) -> Vec<File> {
    let mut files = Vec::new();
    for dir in directories {
        let path = Path::new(dir).join(MAIN);
        if let Some(text) = read(host, &path) {
            files.push(File { path, text });
            break;
        }
    }
    let mut names: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for dir in directories {
        let dir = Path::new(dir).join(DROP_INS);
        match drop_in_names(host, &dir) {
            Ok(found) => {
                for name in found {
                    let path = dir.join(&name);
                    names.entry(name).or_insert(path);
                }
            }
            Err(problem) => files.push(File { path: dir, text: Err(problem) }),
        }
    }
    for path in names.into_values() {
        if let Some(text) = read(host, &path) {
            files.push(File { path, text });
        }
    }
    files
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
