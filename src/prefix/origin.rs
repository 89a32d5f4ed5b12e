//! Which archive a prefix was unpacked from.

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The record of a provisioned prefix, in EPREFIX.
pub(crate) const MARK: &str = ".zfs-prefix.json";
/// More bytes than [`MARK`] has.
const MARK_LIMIT: u64 = 64 * 1024;

/// SHA-256 of the archive that the prefix at `target` was unpacked from. None: the prefix was made
/// in its place. The prefix's owner may have changed the value, so it only tells prefixes apart.
pub(crate) fn archive_of(target: &Path) -> Option<String> {
    mark(target)?["sha256"].as_str().map(str::to_owned)
}

/// The content of [`MARK`]. None: it cannot be read.
pub(crate) fn mark(target: &Path) -> Option<serde_json::Value> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = fs::File::options().read(true).custom_flags(flags).open(target.join(MARK)).ok()?;
    let mut text = Vec::new();
    file.take(MARK_LIMIT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_two_archives_are_told_apart_and_one_made_in_its_place_has_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(archive_of(dir.path()), None);
        for (text, expected) in [
            ("{\"version\":1,\"sha256\":\"ab\",\"made_as\":\".x\"}", Some("ab")),
            ("{\"sha256\":7}", None),
            ("no JSON", None),
        ] {
            fs::write(dir.path().join(MARK), text).unwrap();
            assert_eq!(archive_of(dir.path()).as_deref(), expected, "{text}");
        }
        // Read by root: not by way of a link.
        fs::rename(dir.path().join(MARK), dir.path().join("other")).unwrap();
        fs::write(dir.path().join("other"), "{\"sha256\":\"ab\"}").unwrap();
        std::os::unix::fs::symlink("other", dir.path().join(MARK)).unwrap();
        assert_eq!(archive_of(dir.path()), None);
    }
}
