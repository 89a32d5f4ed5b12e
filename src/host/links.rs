//! Resolves a path component by component, and stops at a directory that may change later in the
//! boot. A decision before /var is mounted has to be the same as one after it is mounted.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::host::Host;

/// The maximum number of links, as in the kernel.
const MOST: usize = 40;

/// What is at the end of a path.
#[derive(Debug)]
pub(crate) enum End {
    Here(Metadata),
    Nothing,
    /// Unknown: the path leads into a directory that may change later.
    Later,
}

/// A path without `.` and `..`, and without links up to where the resolution stopped.
#[derive(Debug)]
pub(crate) struct Way {
    pub(crate) path: PathBuf,
    pub(crate) end: End,
}

/// Follows the links in `path`, which is absolute. Stops at the first path for which `later` is
/// true.
pub(crate) fn follow(host: &Host, path: &Path, later: impl Fn(&Path) -> bool) -> Way {
    let mut way =
        Way { path: PathBuf::with_capacity(path.as_os_str().len() + 1), end: End::Nothing };
    way.path.push("/");
    // What is left of the path. After a link it begins with what the link says.
    let mut rest = path.as_os_str().as_bytes().to_vec();
    let mut at = 0;
    let mut links = 0;
    while let Some((name, next)) = component(&rest, at) {
        step(&mut way.path, name);
        at = next;
        if later(&way.path) {
            way.end = End::Later;
            break;
        }
        let Ok(meta) = std::fs::symlink_metadata(host.path(&way.path)) else {
            way.end = End::Nothing;
            break;
        };
        if !meta.is_symlink() {
            way.end = End::Here(meta);
            continue;
        }
        links += 1;
        let target = std::fs::read_link(host.path(&way.path)).ok().filter(|_| links <= MOST);
        let Some(target) = target else {
            way.end = End::Nothing;
            break;
        };
        way.path.pop();
        if target.is_absolute() {
            way.path = PathBuf::from("/");
        }
        rest = [target.as_os_str().as_bytes(), b"/", &rest[at..]].concat();
        at = 0;
    }
    let rest = rest.get(at + 1..).unwrap_or_default();
    if rest.split(|&b| b == b'/').all(|name| !matches!(name, b"" | b"." | b"..")) {
        way.path.push(OsStr::from_bytes(rest));
        return way;
    }
    let mut at = 0;
    while let Some((name, next)) = component(rest, at) {
        step(&mut way.path, name);
        at = next;
    }
    way
}

/// The component of `path` at or after `at` that is not `.`, and where it ends.
fn component(path: &[u8], mut at: usize) -> Option<(&[u8], usize)> {
    loop {
        at += path[at..].iter().take_while(|&&b| b == b'/').count();
        let length = path[at..].iter().take_while(|&&b| b != b'/').count();
        let name = &path[at..at + length];
        at += length;
        match name {
            b"" => return None,
            b"." => {}
            name => return Some((name, at)),
        }
    }
}

fn step(path: &mut PathBuf, name: &[u8]) {
    if name == b".." {
        path.pop();
    } else {
        path.push(OsStr::from_bytes(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_component_may_be_a_link_and_what_comes_later_is_not_looked_at() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::below(root.path(), "6.1.0");
        for directory in ["usr/local", "opt/real/deep", "var/srv", "mnt"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        for (target, link) in [
            ("var/srv", "srv"),
            ("/opt/real", "home"),
            ("../../../mnt/../srv", "opt/real/deep/up"),
            ("loop", "loop"),
            // In a directory that is not looked into.
            ("/opt", "var/srv/away"),
        ] {
            symlink(target, root.path().join(link)).unwrap();
        }
        for (path, leads_to, end) in [
            ("/", "/", "Nothing"),
            ("/mnt", "/mnt", "Here"),
            ("/mnt/./x/../y", "/mnt/y", "Nothing"),
            ("/srv", "/var/srv", "Later"),
            ("/srv/away/x", "/var/srv/away/x", "Later"),
            ("/home/deep", "/opt/real/deep", "Here"),
            ("/home/deep/../x", "/opt/real/x", "Nothing"),
            ("/home/deep/up/away/../y", "/var/srv/y", "Later"),
            ("/loop/x", "/loop/x", "Nothing"),
            ("/usr/local/nothing/x", "/usr/local/nothing/x", "Nothing"),
        ] {
            let way = follow(&host, Path::new(path), |at| at.starts_with("/var"));
            assert_eq!(way.path, Path::new(leads_to), "{path}");
            assert!(format!("{:?}", way.end).starts_with(end), "{path}: {way:?}");
        }
    }
}
