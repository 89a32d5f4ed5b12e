//! What `zfs mount -a` would mount, and what of it lies over something that was written before.
//!
//! Source: zfs-list(8), zfs-mount(8), zfsprops(7), and what zfs(8) of OpenZFS 2.3 leaves out of
//! `mount -a`: `share_mount_one()` in cmd/zfs/zfs_main.c.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::look::{Content, Ways};

/// The columns that [`parse`] reads: arguments of `zfs list -H -t filesystem -o`.
pub(super) const COLUMNS: &str =
    "name,mountpoint,canmount,mounted,keystatus,zoned,sharenfs,sharesmb";

/// A file system of a pool that has a mount point of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dataset {
    pub(super) name: String,
    pub(super) mountpoint: PathBuf,
    /// `zfs mount -a` would mount it now.
    pub(super) due: bool,
    /// `zfs share -a` would share it, and mount it for that.
    pub(super) shared: bool,
}

/// Reads the output of `zfs list -H -o` [`COLUMNS`]; datasets without a mount point are left out.
///
/// # Errors
/// A line that does not have these columns.
pub(super) fn parse(text: &str) -> Result<Vec<Dataset>> {
    let mut datasets = Vec::new();
    for line in text.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, mountpoint, canmount, mounted, key, zoned, nfs, smb] = columns[..] else {
            bail!("zfs list: not the columns {COLUMNS}: {line:?}");
        };
        // "legacy", "none", or "-" where the property does not apply.
        if !mountpoint.starts_with('/') {
            continue;
        }
        let due = canmount == "on" && mounted == "no" && key != "unavailable" && zoned != "on";
        datasets.push(Dataset {
            name: name.to_owned(),
            mountpoint: PathBuf::from(mountpoint),
            due,
            shared: [nfs, smb].iter().any(|share| !matches!(*share, "off" | "-")),
        });
    }
    // Parents before what lies in them: paths compare component by component.
    datasets.sort_by(|a, b| (&a.mountpoint, &a.name).cmp(&(&b.mountpoint, &b.name)));
    Ok(datasets)
}

/// Why a dataset is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There is something in the directory.
    NotEmpty(Content),
    /// It is no directory, or could not be read.
    Unreadable(String),
    /// Something else is mounted there, or below.
    Covered(PathBuf),
    /// Its place is below that of this dataset, which is not mounted.
    Below(String),
}

/// A dataset that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) dataset: Dataset,
    pub(super) why: Why,
}

/// What is to be mounted, in this order, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) mount: Vec<Dataset>,
    pub(super) refused: Vec<Refused>,
}

/// Decides for the `datasets` of [`parse`]. `mounts` are the mount points that there are; `look`
/// says what a directory has in it.
pub(super) fn decide(
    datasets: &[Dataset],
    mounts: &[PathBuf],
    mut look: impl FnMut(&Path, &Ways) -> std::io::Result<Content>,
) -> Decision {
    let points: BTreeSet<&Path> = datasets.iter().map(|d| d.mountpoint.as_path()).collect();
    let ways = Ways::new(points);
    let mut decision = Decision::default();
    for dataset in datasets.iter().filter(|d| d.due) {
        let above = decision.refused.iter().find(|r| is_below(&dataset.mountpoint, r));
        let why = match above.map(|r| Why::Below(r.dataset.name.clone())) {
            Some(below) => Some(below),
            None => in_the_way(&dataset.mountpoint, mounts, &ways, &mut look),
        };
        match why {
            Some(why) => decision.refused.push(Refused { dataset: dataset.clone(), why }),
            None => decision.mount.push(dataset.clone()),
        }
    }
    decision
}

/// Strictly below; two at one place have the same thing in their way.
fn is_below(mountpoint: &Path, refused: &Refused) -> bool {
    let above = &refused.dataset.mountpoint;
    mountpoint != above && mountpoint.starts_with(above)
}

fn in_the_way(
    mountpoint: &Path,
    mounts: &[PathBuf],
    ways: &Ways,
    look: &mut impl FnMut(&Path, &Ways) -> std::io::Result<Content>,
) -> Option<Why> {
    if let Some(mount) = mounts.iter().find(|m| m.starts_with(mountpoint)) {
        return Some(Why::Covered(mount.clone()));
    }
    match look(mountpoint, ways) {
        Ok(content) if content.is_nothing() => None,
        Ok(content) => Some(Why::NotEmpty(content)),
        Err(e) => Some(Why::Unreadable(e.to_string())),
    }
}

/// The mount points of `/proc/self/mountinfo` (proc(5)): the fifth field, blanks written in octal.
pub(super) fn mounts(mountinfo: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let fifth = |line: &[u8]| {
        let field = line.split(|&b| b == b' ').nth(4)?;
        Some(PathBuf::from(OsStr::from_bytes(&unescape(field))))
    };
    mountinfo.split(|&b| b == b'\n').filter_map(fifth).collect()
}

/// `\NNN` is the byte of that octal number.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = match tail {
            [a, b, c, ..] if *first == b'\\' => std::str::from_utf8(&[*a, *b, *c])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OpenZFS 2.3.2 prints it.
    const LIST: &str = "\
tank\t/tank\ton\tno\t-\toff\toff\toff
tank/data\t/tank/data\ton\tno\t-\toff\trw=@10.0.0.0/8\toff
tank/docker\tlegacy\ton\tno\t-\toff\toff\toff
tank/ROOT\tnone\toff\tno\t-\toff\toff\toff
tank/with blank\t/srv/with blank\ton\tno\t-\toff\toff\toff
tank/by-hand\t/tank/by-hand\tnoauto\tno\t-\toff\toff\toff
tank/container\t/tank/container\toff\tno\t-\toff\toff\toff
tank/container/leaf\t/tank/container/leaf\ton\tno\t-\toff\toff\ton
tank/locked\t/tank/locked\ton\tno\tunavailable\toff\toff\toff
tank/open\t/tank/open\ton\tno\tavailable\toff\toff\toff
tank/here\t/tank/here\ton\tyes\t-\toff\toff\toff
tank/zone\t/tank/zone\ton\tno\t-\ton\toff\toff
";

    fn nothing(_: &Path, _: &Ways) -> std::io::Result<Content> {
        Ok(Content::default())
    }

    fn names(datasets: &[Dataset]) -> Vec<&str> {
        datasets.iter().map(|d| d.name.as_str()).collect()
    }

    #[test]
    fn what_zfs_mount_a_leaves_out_is_left_out_and_parents_come_first() {
        let all = parse(LIST).unwrap();
        let decision = decide(&all, &[], nothing);
        assert_eq!(
            names(&decision.mount),
            ["tank/with blank", "tank", "tank/container/leaf", "tank/data", "tank/open"]
        );
        assert_eq!(decision.refused, []);
        let shared: Vec<_> = all.iter().filter(|d| d.shared).map(|d| d.name.as_str()).collect();
        assert_eq!(shared, ["tank/container/leaf", "tank/data"]);
        assert_eq!(parse("").unwrap(), [], "no pool");
        let error = parse("internal error: out of memory\n").unwrap_err().to_string();
        assert!(error.contains("internal error"), "{error}");
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_with_all_below_it_and_the_rest_is_mounted() {
        let all = parse(LIST).unwrap();
        let content = Content { files: 3, ..Content::default() };
        for (at, mounted, refused) in [
            (
                "/tank",
                &["tank/with blank"][..],
                &["tank", "tank/container/leaf", "tank/data", "tank/open"][..],
            ),
            (
                "/tank/data",
                &["tank/with blank", "tank", "tank/container/leaf", "tank/open"],
                &["tank/data"],
            ),
            (
                "/tank/locked",
                &["tank/with blank", "tank", "tank/container/leaf", "tank/data", "tank/open"],
                &[],
            ),
        ] {
            let decision = decide(&all, &[], |path, _| match path == Path::new(at) {
                true => Ok(content.clone()),
                false => Ok(Content::default()),
            });
            let said: Vec<_> = decision.refused.iter().map(|r| r.dataset.name.as_str()).collect();
            assert_eq!((&names(&decision.mount)[..], &said[..]), (mounted, refused), "{at}");
            for r in &decision.refused {
                let want = match r.dataset.mountpoint == Path::new(at) {
                    true => Why::NotEmpty(content.clone()),
                    false => Why::Below("tank".to_owned()),
                };
                assert_eq!(r.why, want, "{at}: {}", r.dataset.name);
            }
        }
    }

    #[test]
    fn what_is_mounted_at_the_place_or_below_it_would_be_hidden() {
        let all =
            parse("a\t/a\ton\tno\t-\toff\toff\toff\nb\t/b\ton\tno\t-\toff\toff\toff\n").unwrap();
        for (mount, refused) in [("/a", Some("a")), ("/a/x", Some("a")), ("/ax", None), ("/", None)]
        {
            let decision = decide(&all, &[PathBuf::from(mount)], nothing);
            let said = decision.refused.first().map(|r| r.dataset.name.as_str());
            assert_eq!(said, refused, "{mount}");
            let why = decision.refused.first().map(|r| r.why.clone());
            assert_eq!(why, refused.map(|_| Why::Covered(mount.into())), "{mount}");
        }
    }

    #[test]
    fn two_datasets_for_one_place_have_the_same_in_their_way() {
        let list = "a\t/x\ton\tno\t-\toff\toff\toff\nb\t/x\ton\tno\t-\toff\toff\toff\n";
        let content = Content { files: 1, ..Content::default() };
        let decision = decide(&parse(list).unwrap(), &[], |_, _| Ok(content.clone()));
        assert!(decision.refused.iter().all(|r| r.why == Why::NotEmpty(content.clone())));
        assert_eq!((decision.mount.len(), decision.refused.len()), (0, 2));
    }

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        let text = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n\
                     36 22 0:32 / /a\\040b\\134c rw,nosuid shared:1 - tmpfs tmpfs rw\n\
                     junk\n37 22 0:33 / /x\\ rw - tmpfs x rw\n";
        let expected = ["/", "/a b\\c", "/x\\"].map(PathBuf::from);
        assert_eq!(mounts(text), expected);
    }
}
