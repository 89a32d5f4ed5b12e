//! What is in a directory that a dataset would be mounted over.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Counting ends here: nobody needs the exact number beyond it, and a boot does not wait for it.
const MOST: u64 = 100_000;

/// The mount points of datasets, and the directories on the way to them. If they are empty, an
/// earlier boot made them to mount on, and they do not count.
#[derive(Debug, Default)]
pub(super) struct Ways(BTreeSet<PathBuf>);

impl Ways {
    /// Of these mount points.
    pub(super) fn new<'a>(mountpoints: impl IntoIterator<Item = &'a Path>) -> Ways {
        let all = mountpoints.into_iter().flat_map(Path::ancestors);
        Ways(all.map(Path::to_owned).collect())
    }
}

/// What would be hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Whatever is not a directory.
    pub(super) files: u64,
    /// Empty directories.
    pub(super) directories: u64,
}

impl Content {
    /// There are no files, so nobody would miss anything. Programs that start before their data is
    /// there make empty directories, and so does the boot itself (tmpfiles.d, StateDirectory=).
    pub(super) fn is_nothing(&self) -> bool {
        self.files == 0 && !self.is_enough()
    }

    fn is_enough(&self) -> bool {
        self.files + self.directories >= MOST
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n: u64| if n == 1 { "" } else { "s" };
        if self.is_enough() {
            return write!(f, "more than {MOST} files and directories");
        }
        match (self.files, self.directories) {
            (0, d) => write!(f, "{d} empty director{}", if d == 1 { "y" } else { "ies" }),
            (files, _) => write!(f, "{files} file{}", plural(files)),
        }
    }
}

/// Counts what is in `directory`. A directory that does not exist has nothing in it.
///
/// # Errors
/// `directory`, or a directory in it, cannot be read or is no directory.
pub(super) fn look(directory: &Path, ways: &Ways) -> io::Result<Content> {
    let mut content = Content::default();
    match count(directory, ways, &mut content) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Content::default()),
        other => other.map(|_| content),
    }
}

/// Adds what is in `directory`. Returns whether there was anything.
fn count(directory: &Path, ways: &Ways, content: &mut Content) -> io::Result<bool> {
    let mut anything = false;
    for entry in fs::read_dir(directory)? {
        if content.is_enough() {
            return Ok(true);
        }
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            content.files += 1;
            anything = true;
        } else if count(&entry.path(), ways, content)? {
            anything = true;
        } else if !ways.0.contains(&entry.path()) {
            content.directories += 1;
            anything = true;
        }
    }
    Ok(anything)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_wrote_counts_and_what_was_made_to_mount_on_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let tank = dir.path().join("tank");
        // (files and directories/, what is in the way)
        for (case, made, files, directories) in [
            ("not there", &[][..], 0, 0),
            ("empty", &["tank/"], 0, 0),
            ("a mount point", &["tank/data/"], 0, 0),
            ("one on the way to it", &["tank/a/b/"], 0, 0),
            ("one beyond it", &["tank/a/b/c/"], 0, 1),
            ("a directory of somebody's", &["tank/data/", "tank/other/"], 0, 1),
            ("a file", &["tank/file"], 1, 0),
            ("a file in a mount point", &["tank/data/x", "tank/a/b/"], 1, 0),
            ("files far below", &["tank/o/p/q", "tank/o/p/r", "tank/o/s/"], 2, 1),
        ] {
            let _ = fs::remove_dir_all(&tank);
            for path in made {
                let path = (dir.path().join(path), path.ends_with('/'));
                fs::create_dir_all(if path.1 { &path.0 } else { path.0.parent().unwrap() })
                    .unwrap();
                if !path.1 {
                    fs::write(&path.0, "").unwrap();
                }
            }
            let points = [tank.clone(), tank.join("data"), tank.join("a/b")];
            let ways = Ways::new(points.iter().map(PathBuf::as_path));
            assert_eq!(look(&tank, &ways).unwrap(), Content { files, directories }, "{case}");
        }
        fs::remove_dir_all(&tank).unwrap();
        std::os::unix::fs::symlink("/nonexistent", &tank).unwrap();
        assert!(look(&tank, &Ways::default()).unwrap().is_nothing(), "a link that leads nowhere");
        fs::remove_file(&tank).unwrap();
        fs::write(&tank, "").unwrap();
        assert!(look(&tank, &Ways::default()).is_err(), "a file");
    }

    #[test]
    fn only_files_are_in_the_way_and_more_than_can_be_counted() {
        for (files, directories, nothing) in
            [(0, 0, true), (0, 7, true), (1, 0, false), (1, 7, false), (0, MOST, false)]
        {
            let content = Content { files, directories };
            assert_eq!(content.is_nothing(), nothing, "{content:?}");
        }
    }

    #[test]
    fn the_number_is_written_as_people_count() {
        for (files, directories, want) in [
            (1, 0, "1 file"),
            (3, 2, "3 files"),
            (0, 1, "1 empty directory"),
            (0, 2, "2 empty directories"),
            (MOST, 0, "more than 100000 files and directories"),
        ] {
            assert_eq!(Content { files, directories }.to_string(), want);
        }
    }
}
