//! /etc/fstab (fstab(5)), as far as it says where something will be mounted.

use std::io::ErrorKind;
use std::path::Path;

use super::problems::Problems;
use crate::host::files::Files;

const FSTAB: &str = "/etc/fstab";
/// Enough for thousands of lines. The limit is there because a generator holds up the whole boot.
pub(super) const LARGEST: u64 = 1 << 20;

/// A line of fstab that mounts something.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// What is mounted: a device, a dataset, or a directory.
    pub(crate) what: String,
    /// The mount point, an absolute path.
    pub(crate) point: String,
    /// It is a file system of ZFS.
    pub(crate) zfs: bool,
    /// Nobody mounts it at boot.
    pub(crate) noauto: bool,
    /// local-fs.target requires it: it has neither `noauto` nor `nofail`.
    pub(crate) required: bool,
}

/// The entries of fstab: of the whole lines in its first [`LARGEST`] bytes.
pub(super) fn read(files: Files<'_>, problems: &mut Problems) -> Vec<Entry> {
    let path = Path::new(FSTAB);
    let bytes = match files.read(path, LARGEST) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(e) if e.kind() == ErrorKind::FileTooLarge => {
            problems
                .add(format_args!("{FSTAB}: has more than {LARGEST} bytes; the rest is not read"));
            let mut bytes = files.beginning(path, LARGEST).unwrap_or_default();
            // The last line is not whole.
            let whole = bytes.iter().rposition(|&b| b == b'\n').unwrap_or(0);
            bytes.truncate(whole);
            bytes
        }
        Err(e) => {
            problems.add(format_args!("{FSTAB}: cannot be read: {e}"));
            return Vec::new();
        }
    };
    parse(&String::from_utf8_lossy(&bytes)).collect()
}

/// fstab(5): device, mount point, type, options, …
fn parse(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (what, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let options: Vec<&str> = fields.next().unwrap_or_default().split(',').collect();
        let noauto = options.contains(&"noauto");
        let point = unescaped(point);
        point.starts_with('/').then(|| Entry {
            what: unescaped(what),
            point,
            zfs: kind == "zfs",
            noauto,
            required: !noauto && !options.contains(&"nofail"),
        })
    })
}

/// White space in a field is written in octal.
fn unescaped(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_local_fs_target_requires_has_neither_noauto_nor_nofail() {
        let text = "# /dev/vda /x ext4\n/dev/vda /a\\040b ext4 defaults 0 1\n\
                    tank/x\t/x zfs nofail,zfsutil\nUUID=1 none swap sw\n/y /z none bind,noauto\n\
                    /short\n/dev/vdb /b ext4";
        let found: Vec<_> = parse(text).map(|e| (e.what, e.point, e.zfs, e.required)).collect();
        let entry = |what: &str, point: &str, zfs, required| {
            (what.to_owned(), point.to_owned(), zfs, required)
        };
        let expected = [
            entry("/dev/vda", "/a b", false, true),
            entry("tank/x", "/x", true, false),
            entry("/y", "/z", false, false),
            entry("/dev/vdb", "/b", false, true),
        ];
        assert_eq!(found, expected);
    }
}
