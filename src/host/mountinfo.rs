//! The list of mounts: `/proc/self/mountinfo` (proc(5)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) place: PathBuf,
    /// The mount source. For ZFS it is the name of the dataset.
    pub(crate) source: String,
    /// It is an automount point (autofs), which mounts at the first access. Nobody can write below
    /// it.
    pub(crate) trap: bool,
}

/// Reads the file. The kernel writes blanks in its fields as octal numbers.
pub(crate) fn read(mountinfo: &[u8]) -> Vec<Mount> {
    mountinfo.split(|&b| b == b'\n').filter_map(mount).collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let place = unescape(fields.nth(4)?);
    // A dash ends the optional fields, of which there may be any number.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = rest.next().unwrap_or_default();
    let source = unescape(rest.next().unwrap_or_default());
    Some(Mount {
        place: PathBuf::from(OsStr::from_bytes(&place)),
        source: String::from_utf8_lossy(&source).into_owned(),
        trap: kind == b"autofs",
    })
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

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let text = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n\
                     36 22 0:32 / /a\\040b\\134c rw,nosuid shared:1 master:2 - zfs tank/a\\040b rw\n\
                     junk\n37 22 0:33 / /x\\ rw - autofs systemd-1 rw\n38 22 0:34 / /torn rw\n";
        let mount = |place: &str, source: &str, trap| Mount {
            place: place.into(),
            source: source.into(),
            trap,
        };
        let expected = [
            mount("/", "/dev/vda", false),
            mount("/a b\\c", "tank/a b", false),
            mount("/x\\", "systemd-1", true),
            mount("/torn", "", false),
        ];
        assert_eq!(read(text), expected);
        let blanks = b"30 21 0:25 / /mnt/c\\011\\012 rw shared:7 - tmpfs t rw\n\
            31 21 0:26 /x /caf\xc3\xa9\\x rw - zfs tank/x rw\n";
        let places: Vec<PathBuf> = read(blanks).into_iter().map(|mount| mount.place).collect();
        assert_eq!(places, ["/mnt/c\t\n", "/caf\u{e9}\\x"].map(PathBuf::from));
    }
}
