//! Where something is, and which content it has to have.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::host::Release;

/// The one placeholder of a template.
pub(super) const RELEASE: &str = "${release}";
/// The placeholder for the version without what the distribution added.
pub(super) const VERSION: &str = "${version}";
/// What `kernel.source` and `zfs.source` can be unpacked from.
pub(super) const TARBALLS: [&str; 7] =
    [".tar.gz", ".tar.xz", ".tar.zst", ".tar.bz2", ".tgz", ".txz", ".tar"];

/// Where something is, and which content it must have. A configured value is a template with
/// `${release}` and `${version}` in it; [`Pinned::fill`] fills it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Where it is.
    pub place: Place,
    /// SHA-256 of the file, 64 lower-case hexadecimal digits (`#sha256=…`).
    pub sha256: Option<String>,
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A git repository (`git+https://…`, `git+file:///…`) and a tag in it.
    Git {
        /// Its URL, without `git+`.
        url: String,
        /// The tag.
        tag: String,
    },
    /// An `https://` URL.
    Https(String),
    /// An absolute path, of a file or a directory.
    File(String),
}

impl Pinned {
    /// With `release` and `version` in place of the placeholders.
    pub fn fill(&self, release: &str, version: &str) -> Pinned {
        let fill = |text: &str| text.replace(RELEASE, release).replace(VERSION, version);
        let place = match &self.place {
            Place::Git { url, tag } => Place::Git { url: fill(url), tag: fill(tag) },
            Place::Https(url) => Place::Https(fill(url)),
            Place::File(path) => Place::File(fill(path)),
        };
        Pinned { place, sha256: self.sha256.clone() }
    }

    /// The same for a kernel.
    pub fn for_kernel(&self, release: &Release) -> Pinned {
        self.fill(release.as_str(), &release.version())
    }

    /// Whether it is on another machine.
    pub fn asks_network(&self) -> bool {
        match &self.place {
            Place::Git { url, .. } => !url.starts_with("file://"),
            Place::Https(_) => true,
            Place::File(_) => false,
        }
    }

    /// The source to fetch if it is one file; None for git.
    pub fn source(&self) -> Option<Source> {
        match &self.place {
            Place::Git { .. } => None,
            Place::Https(url) => Some(Source::Https(url.clone())),
            Place::File(path) => Some(Source::File(path.into())),
        }
    }
}

/// For messages and records: without the query of a URL.
impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Git { url, tag } => write!(f, "git+{}#{tag}", without_query(url)),
            Place::Https(url) => f.write_str(&without_query(url)),
            Place::File(path) => f.write_str(path),
        }
    }
}

/// `prefix.source`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An `https://` URL.
    Https(String),
    /// An absolute path.
    File(PathBuf),
}

/// `prefix.public-key`: a public key of minisign(1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// The key itself, 56 characters that begin with `RW`.
    Text(String),
    /// The file it is in, as `minisign -G` writes it.
    File(PathBuf),
}

impl Source {
    /// As it was configured. Not for messages: a query can be a secret.
    pub fn full(&self) -> String {
        match self {
            Source::Https(url) => url.clone(),
            Source::File(path) => path.display().to_string(),
        }
    }
}

/// For messages and records: without the query of a URL.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Https(url) => f.write_str(&without_query(url)),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A URL that is safe to show. A query can be a secret, so it is shown as `?…`.
pub fn without_query(url: &str) -> String {
    let url = url.split('#').next().unwrap_or(url);
    match url.split_once('?') {
        Some((path, _)) => format!("{path}?…"),
        None => url.to_owned(),
    }
}

/// Puts `release` in place of every `${release}` of `template` (`kernel.build-dir`,
/// `kernel.image`).
pub fn expand_release(template: &str, release: &Release) -> PathBuf {
    Path::new(&fill_release(template, release)).to_owned()
}

/// The same for what is no path (`portage.binhost`).
pub fn fill_release(template: &str, release: &Release) -> String {
    template.replace(RELEASE, release.as_str())
}

/// Whether `path` names an archive that tar(1) unpacks.
pub fn is_tarball(path: &Path) -> bool {
    let name = path.to_string_lossy();
    TARBALLS.iter().any(|end| name.ends_with(end))
}
