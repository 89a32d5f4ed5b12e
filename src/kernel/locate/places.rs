//! Where systems put kernel images. Each place is looked at when those before it had none, so that
//! no boot partition is mounted for an image in /usr.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::entry;
use crate::host::{Host, Release};

/// Where boot partitions are mounted (UAPI.1, "Mount Points"; Discoverable Partitions).
const BOOT: [&str; 3] = ["/boot", "/efi", "/boot/efi"];
/// How many names of a directory are read.
const MAX_NAMES: usize = 1024;
/// How many entries of a boot loader are read.
const MAX_ENTRIES: usize = 256;
/// No entry of a boot loader is larger, in bytes.
const MAX_ENTRY: u64 = 64 << 10;

/// A file that may be the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    /// Its path names this very release, as whoever installed the kernel wrote it.
    pub(super) named: bool,
}

/// What a place has.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Those that seem to be of the release come first.
    pub(super) candidates: Vec<Candidate>,
    /// What could not be looked at, and why.
    pub(super) problems: Vec<String>,
}

/// One place.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A file named after the release.
    Named(String),
    /// A file with one name for all kernels.
    File(&'static str),
    /// The programs (`*.efi`) in a directory.
    Programs(String),
    /// `*/RELEASE/linux` below a boot partition: kernel-install(8), layout `bls`. The first
    /// directory is the entry token, which may be anything.
    Tokens(&'static str),
    /// `loader/entries/*.conf` on a boot partition.
    Entries(&'static str),
}

/// All places of kernel `release`, in the order in which they are looked at. Those that belong to
/// the release and to the system come before those that systems and kernels share.
pub(super) fn all(release: &Release) -> Vec<Place> {
    let modules = format!("/usr/lib/modules/{release}");
    let own = [
        Place::Named(format!("{modules}/vmlinuz")),
        Place::Programs(modules),
        Place::Named(format!("/boot/vmlinuz-{release}")),
        Place::File("/usr/boot/vmlinuz"),
        Place::File("/boot/flatcar/vmlinuz-a"),
        Place::File("/boot/flatcar/vmlinuz-b"),
    ];
    own.into_iter()
        .chain(BOOT.map(Place::Tokens))
        .chain(BOOT.map(Place::Entries))
        .chain(BOOT.map(|boot| Place::Programs(format!("{boot}/EFI/Linux"))))
        .collect()
}

impl Place {
    /// How it is written in messages.
    pub(super) fn shown(&self, release: &Release) -> String {
        match self {
            Place::Named(path) => path.clone(),
            Place::File(path) => (*path).to_owned(),
            Place::Programs(dir) => format!("{dir}/*.efi"),
            Place::Tokens(boot) => format!("{boot}/*/{release}/linux"),
            Place::Entries(boot) => format!("{boot}/loader/entries/*.conf"),
        }
    }

    /// What is there.
    pub(super) fn contents(&self, host: &Host, release: &Release) -> Contents {
        let one = |path: &str, named| Contents {
            candidates: vec![Candidate { path: host.path(path), named }],
            problems: vec![],
        };
        match self {
            Place::Named(path) => one(path, true),
            Place::File(path) => one(path, false),
            Place::Programs(dir) => programs(&host.path(dir), release),
            Place::Tokens(boot) => tokens(&host.path(boot), release),
            Place::Entries(boot) => entries(host, boot, release),
        }
    }
}

/// What a directory has: `each` makes candidates of its sorted names. A directory that does not
/// exist has none.
fn of_names(dir: &Path, each: impl FnOnce(Vec<String>) -> Contents) -> Contents {
    let mut problems = Vec::new();
    let read = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(dir)?.take(MAX_NAMES + 1).collect::<io::Result<Vec<_>>>()?;
        Ok(entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    };
    let mut names = match read() {
        Ok(names) => names,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Contents::default();
        }
        Err(e) => {
            problems.push(format!("{}: {e}", dir.display()));
            return Contents { candidates: vec![], problems };
        }
    };
    if names.len() > MAX_NAMES {
        names.truncate(MAX_NAMES);
        problems.push(format!("{}: only {MAX_NAMES} of its names were looked at", dir.display()));
    }
    names.sort_unstable();
    let mut contents = each(names);
    contents.problems.extend(problems);
    contents
}

/// Names with the release in them first.
fn programs(dir: &Path, release: &Release) -> Contents {
    of_names(dir, |mut names| {
        names.retain(|name| {
            let end = name.len().checked_sub(4).and_then(|begin| name.get(begin..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(".efi"))
        });
        names.sort_by_key(|name| !name.contains(release.as_str()));
        let candidate = |name: &String| Candidate { path: dir.join(name), named: false };
        Contents { candidates: names.iter().map(candidate).collect(), problems: vec![] }
    })
}

fn tokens(boot: &Path, release: &Release) -> Contents {
    of_names(boot, |names| {
        let paths = names.iter().map(|token| boot.join(token).join(release.as_str()).join("linux"));
        let there = paths.filter(|path| path.is_file());
        let candidates = there.map(|path| Candidate { path, named: true }).collect();
        Contents { candidates, problems: vec![] }
    })
}

/// The images that the entries name. Those of entries that mention the release come first; if such
/// an image is missing, that is a problem.
fn entries(host: &Host, boot: &str, release: &Release) -> Contents {
    let dir = host.path(boot).join("loader/entries");
    of_names(&dir, |mut names| {
        names.retain(|name| name.ends_with(".conf"));
        names.sort_by_key(|name| !name.contains(release.as_str()));
        let mut contents = Contents::default();
        let mut others = Vec::new();
        for name in names.iter().take(MAX_ENTRIES) {
            let file = dir.join(name);
            let entry = match read(&file) {
                Ok(text) => entry::parse(&text),
                Err(e) => {
                    contents.problems.push(format!("{}: {e}", file.display()));
                    continue;
                }
            };
            let ours = entry.version.as_deref() == Some(release.as_str());
            for image in &entry.images {
                let ours = ours || image.to_string_lossy().contains(release.as_str());
                // The path begins at the root of the file system. /boot may be a directory of it.
                let both = [host.path(boot).join(image), host.path(image)];
                match both.into_iter().find(|path| path.exists()) {
                    Some(path) if ours => {
                        contents.candidates.push(Candidate { path, named: false })
                    }
                    Some(path) => others.push(Candidate { path, named: false }),
                    None if ours => contents.problems.push(format!(
                        "{}: names /{}, which is not there",
                        file.display(),
                        image.display()
                    )),
                    None => {}
                }
            }
        }
        contents.candidates.extend(others);
        contents
    })
}

fn read(file: &Path) -> io::Result<String> {
    // O_NONBLOCK: opening a FIFO does not wait for its writer.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_ENTRY).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
