//! Fetches the archive, its signature and its manifest into a directory that only root can write
//! to. So the archive that is unpacked is the one that was checked.

use std::path::Path;

use anyhow::Result;
use tracing::info;

use super::check::Expected;
use super::manifest::Manifest;
use super::report::Report;
use crate::config::Source;
use crate::exit::{Exit, Failure};
use crate::fetch::{self, Get, Part};

/// A signature file of minisign has four lines.
const SIGNATURE_LIMIT: u64 = 16 * 1024;

/// What comes with an archive.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The text of the signature, if one is required.
    pub(super) signature: Option<String>,
    /// The manifest, if there is one.
    pub(super) manifest: Option<Manifest>,
}

/// Fetches the signature, if one is required, then the manifest, and the archive into `part`.
///
/// # Errors
/// [`Exit::Network`], [`Exit::NoSpace`]; [`Exit::Refused`]: there is no signature, or the size is
/// not the expected one; [`Exit::PrefixIncomplete`]: no such file, or it was made for another path.
pub(super) fn fetch(
    source: &Source,
    part: &Part,
    eprefix: &Path,
    expected: &Expected,
    report: &mut Report,
) -> Result<Fetched> {
    info!("fetching {source}");
    report.say(&format!("fetching {source}"));
    let get = match source {
        Source::Https(_) => Some(fetch::client()?),
        Source::File(_) => None,
    };
    let signature = expected.signed().then(|| signature(source, get.as_ref())).transpose()?;
    let manifest = Manifest::find(source, get.as_ref());
    manifest.iter().try_for_each(|manifest| manifest.check_place(source, eprefix))?;
    fetch::file(&expected.wanted(source), get.as_ref(), part, report)?;
    Ok(Fetched { signature, manifest })
}

fn signature(source: &Source, get: Option<&Get>) -> Result<String> {
    fetch::beside(source, ".minisig", get, SIGNATURE_LIMIT)?.map_err(|why| {
        let text =
            format!("{why}: the archive has no signature beside it, and prefix.public-key demands a signature");
        Failure::new(Exit::Refused, text).into()
    })
}
