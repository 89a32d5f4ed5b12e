//! The manifest that make-prefix writes beside an archive, `<name>.json` for `<name>.tar.zst`. It
//! is not signed, and nothing depends on it. It has two uses: an archive for another path is
//! refused before it is fetched, and the prefix can say which tree it was made from.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use tracing::warn;

use crate::config::Source;
use crate::exit::Exit;
use crate::fail;
use crate::fetch::{Get, open_file, text};

/// The most bytes that are read. A list of packages is the largest part.
const LIMIT: u64 = 4 << 20;
/// How names of archives end.
const SUFFIXES: [&str; 6] = [".tar.zst", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar"];

/// The fields that are read.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    /// The path that the tree was made for.
    eprefix: PathBuf,
    /// BLAKE2b-512 of the tree.
    digest: String,
    archive: Archive,
}

#[derive(Debug, Deserialize)]
struct Archive {
    sha256: String,
}

impl Manifest {
    /// The manifest beside `source`, if there is one. If the server does not answer, that is no
    /// error here: the archive is fetched next and reports it.
    pub(super) fn find(source: &Source, get: Option<&Get>) -> Option<Manifest> {
        let place = beside(&source.full())?;
        let content: Box<dyn Read> = match get {
            Some(get) => get(&place, 0, None).ok().filter(|answer| answer.status == 200)?.body,
            None => Box::new(open_file(Path::new(&place)).ok()?.0),
        };
        let parsed = text(content, LIMIT).and_then(|text| Ok(serde_json::from_str(&text)?));
        parsed
            .inspect_err(|e| warn!("the manifest beside {source} is invalid and ignored: {e:#}"))
            .ok()
    }

    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the tree was made for another path, and its files name that
    /// path.
    pub(super) fn check_place(&self, source: &Source, eprefix: &Path) -> Result<()> {
        if self.eprefix == eprefix {
            return Ok(());
        }
        fail!(
            Exit::PrefixIncomplete,
            "{source} was made for {0}, where its programs look for each other: set prefix.path = {0:?} (it is {1}), or make one for that path",
            self.eprefix.display(),
            eprefix.display()
        )
    }

    /// The digest of the tree, if the manifest is this archive's.
    pub(super) fn digest(&self, sha256: &str) -> Option<&str> {
        let hexadecimal = self.digest.bytes().all(|b| b.is_ascii_hexdigit());
        let ours = self.archive.sha256 == sha256 && hexadecimal;
        if !ours {
            warn!("the manifest beside the archive belongs to another archive and is ignored");
        }
        ours.then_some(&*self.digest)
    }
}

/// Where the manifest of an archive is.
fn beside(source: &str) -> Option<String> {
    let (path, query) = if source.starts_with("https://") {
        source.find(['?', '#']).map_or((source, ""), |at| source.split_at(at))
    } else {
        (source, "")
    };
    let stem = SUFFIXES.iter().find_map(|suffix| path.strip_suffix(suffix))?;
    Some(format!("{stem}.json{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_the_archives_name_with_another_end() {
        for (source, expected) in [
            (
                "https://example.com/a/p.tar.zst?x=1.tar",
                Some("https://example.com/a/p.json?x=1.tar"),
            ),
            ("/srv/p.tar", Some("/srv/p.json")),
            ("/srv/what?.tar.gz", Some("/srv/what?.json")),
            ("/srv/p", None),
        ] {
            assert_eq!(beside(source).as_deref(), expected, "{source}");
        }
    }
}
