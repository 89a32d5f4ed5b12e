//! Checks each file by itself: can it be read, whose is it, what is its mode, where does a link
//! lead.

use std::path::Path;

use super::findings::{Findings, not_run};
use super::report::Check;
use super::tree::{Content, Entry, Kind, Place};

/// Set-user-id and set-group-id (inode(7)).
const SET_ID: u32 = 0o6000;
const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o0002;

/// Looks at every name of the tree.
pub(super) fn check(found: &mut Findings) {
    let tree = found.tree;
    let owner = tree.entries.get(Path::new("")).map_or(0, |top| top.uid);
    if owner == 0 {
        found.error(
            Check::Owner,
            Path::new(""),
            "belongs to root; builds do not run as root",
            format!("chown -hR USER:GROUP {}, with an unprivileged USER", tree.eprefix.display()),
        );
    }
    for (path, entry) in &tree.entries {
        let shown = found.shown(path);
        if let Some(why) = &entry.unreadable {
            found.error(
                Check::Unreadable,
                path,
                format!("cannot be read: {why}"),
                format!("run the audit as the prefix's owner or as root, or chmod u+rX {shown}"),
            );
        }
        if entry.uid != owner {
            found.error(
                Check::Owner,
                path,
                format!("belongs to uid {}, the prefix to uid {owner}", entry.uid),
                format!("chown -h {owner} {shown}, once you know what it is"),
            );
        }
        mode(found, path, entry);
        match &entry.kind {
            Kind::Link(target) => link(found, path, target),
            Kind::File(Content::Damaged(how)) if !not_run(path) => found.error(
                Check::Unreadable,
                path,
                format!("is a damaged ELF file: {how}"),
                "unpack it again, or emerge its package",
            ),
            _ => {}
        }
    }
}

fn mode(found: &mut Findings, path: &Path, entry: &Entry) {
    let mode = entry.mode & 0o7777;
    let directory = matches!(entry.kind, Kind::Directory);
    let shown = found.shown(path);
    match entry.kind {
        Kind::Link(_) => return,
        Kind::Special(what @ ("block device" | "character device")) => {
            found.error(Check::Mode, path, format!("is a {what}"), format!("rm {shown}"));
        }
        _ => {}
    }
    // A sticky directory is open to all on purpose, as /tmp is.
    if mode & OTHERS_WRITE != 0 && !(directory && mode & STICKY != 0) {
        let problem = format!("everybody can write to it (mode {mode:04o})");
        found.error(Check::Mode, path, problem, format!("chmod o-w {shown}"));
    }
    // On a directory the bit gives no rights: new files take its group.
    if mode & SET_ID != 0 && !directory {
        let which = if mode & 0o4000 != 0 { "setuid" } else { "setgid" };
        let problem = format!("is {which} (mode {mode:04o})");
        found.error(Check::Mode, path, problem, format!("chmod ug-s {shown}"));
    }
}

/// A link where programs or libraries are looked for must not lead to the host's.
fn link(found: &mut Findings, path: &Path, target: &Path) {
    match found.tree.resolve(&found.tree.absolute(path)) {
        Place::Outside(host) if !may_lead_to(path, &host) => found.error(
            Check::Link,
            path,
            format!("leads to the host's {} (link to {})", host.display(), target.display()),
            "put the file into the prefix, or point the link there",
        ),
        Place::Missing(at) if in_search_path(path) && !not_run(path) => found.warning(
            Check::Link,
            path,
            format!("leads nowhere: there is no {} (link to {})", at.display(), target.display()),
            "remove it, or emerge the package that it belongs to",
        ),
        _ => {}
    }
}

/// Whether a link at `path` in a prefix may lead to the host's `host`. It may where nothing is run
/// or linked, as `etc/passwd` and `etc/resolv.conf` do in a Gentoo Prefix, and if it leads to the
/// kernel.
pub(crate) fn may_lead_to(path: &Path, host: &Path) -> bool {
    not_run(path) || !is_code(path) || kernel_interface(host)
}

/// Whether programs, libraries or what compiler and linker read are here. `lib/modules` has our
/// own links into the store.
fn is_code(path: &Path) -> bool {
    let path = path.strip_prefix("usr").unwrap_or(path);
    let first = path.iter().next().unwrap_or_default().to_string_lossy();
    let dirs = ["bin", "sbin", "libexec", "include"];
    (dirs.contains(&&*first) || first.starts_with("lib")) && !path.starts_with("lib/modules")
}

fn in_search_path(path: &Path) -> bool {
    let parent = path.parent().unwrap_or(path);
    ["usr/bin", "bin", "usr/sbin", "sbin"].iter().any(|dir| parent == Path::new(dir))
}

fn kernel_interface(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|top| path.starts_with(top))
}
