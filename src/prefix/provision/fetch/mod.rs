//! Getting the archive and its signature: over https, resumed where it stopped, or from a file.
//! Either way it ends up in a directory that only root can write to, so that what is unpacked is
//! what was checked.

#[cfg(not(target_env = "musl"))]
mod https;
mod manifest;
mod part;
mod transfer;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use tracing::info;

use super::check::Expected;
use super::report::Report;
use crate::config::{Source, without_query};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::owner_on_the_way;
pub(super) use manifest::Manifest;
pub(super) use part::Part;

/// A signature file of minisign has four lines.
const SIGNATURE_LIMIT: u64 = 16 * 1024;

/// What a server answered to a request for a file, or for the rest of one.
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// `Content-Range: bytes START-END/TOTAL`, of which START and TOTAL count.
    pub(super) range: Option<(u64, u64)>,
    /// `Content-Length`.
    pub(super) length: Option<u64>,
    /// What makes this version of the file known again (`If-Range`): a strong ETag, or the date.
    pub(super) validator: Option<String>,
    /// The content.
    pub(super) body: Box<dyn Read>,
}

/// A file name for the download: the last word of the source.
pub(super) fn name(source: &Source) -> String {
    let last = match source {
        Source::Https(url) => url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next(),
        Source::File(path) => path.file_name().and_then(|name| name.to_str()),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = last.unwrap_or("prefix").chars().map(plain).take(200).collect();
    name.trim_start_matches('.').to_owned()
}

/// What comes with an archive.
#[derive(Debug)]
pub(super) struct Fetched {
    /// The text of the signature, if there has to be one.
    pub(super) signature: Option<String>,
    /// The manifest, if there is one.
    pub(super) manifest: Option<Manifest>,
}

/// Gets the signature, if there has to be one, the manifest, and the archive into `part`.
///
/// # Errors
/// [`Exit::Network`], [`Exit::NoSpace`]; [`Exit::Refused`] when there is no signature or the size
/// is not the expected one; [`Exit::PrefixIncomplete`]: no such file, or made for another path.
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
        Source::Https(_) => Some(client()?),
        Source::File(_) => None,
    };
    let signature = || match (source, &get) {
        (Source::Https(url), Some(get)) => signature_of(url, get),
        (other, _) => signature_beside(Path::new(&other.to_string())),
    };
    let signature = expected.signed().then(signature).transpose()?;
    let manifest = Manifest::find(source, get.as_ref());
    manifest.iter().try_for_each(|manifest| manifest.check_place(source, eprefix))?;
    match (source, &get) {
        (Source::Https(url), Some(get)) => part.download(source, url, get, expected, report)?,
        (other, _) => part.copy(Path::new(&other.to_string()), source, expected, report)?,
    }
    Ok(Fetched { signature, manifest })
}

/// Asks for a URL; from a byte on, if the file is still the one of this validator.
pub(super) type Get = Box<dyn Fn(&str, u64, Option<&str>) -> Result<Answer>>;

#[cfg(not(target_env = "musl"))]
fn client() -> Result<Get> {
    let client = https::Client::new()?;
    Ok(Box::new(move |url, from, validator| client.get(url, from, validator)))
}

/// The static programs of the early boot have no network.
#[cfg(target_env = "musl")]
fn client() -> Result<Get> {
    fail!(Exit::Network, "this program was built without https")
}

fn signature_of(url: &str, get: &Get) -> Result<String> {
    let (path, query) = match url.find(['?', '#']) {
        Some(at) => url.split_at(at),
        None => (url, ""),
    };
    let url = format!("{path}.minisig{query}");
    let answer = get(&url, 0, None)?;
    let url = without_query(&url);
    match answer.status {
        200 => text(answer.body, SIGNATURE_LIMIT).with_context(|| url.clone()).exit(Exit::Network),
        404 | 410 => fail!(
            Exit::Refused,
            "{url}: the server says {}: the archive has no signature, and prefix.public-key demands one",
            answer.status
        ),
        status => fail!(Exit::Network, "{url}: the server says {status}"),
    }
}

fn signature_beside(path: &Path) -> Result<String> {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    open_file(Path::new(&name))
        .and_then(|(file, _)| text(file, SIGNATURE_LIMIT))
        .with_context(|| format!("prefix.public-key demands a signature: {}", name.display()))
        .exit(Exit::Refused)
}

fn text(reader: impl Read, limit: u64) -> Result<String> {
    let mut text = String::new();
    let read = reader.take(limit + 1).read_to_string(&mut text)?;
    if read as u64 > limit {
        bail!("larger than {limit} bytes");
    }
    Ok(text)
}

/// Opens a regular file; the file and its size. Where a user can put it there, it is that user's
/// own: unsigned, anything would pass, and be shown to the prefix's owner.
fn open_file(path: &Path) -> Result<(File, u64)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        bail!("not a regular file");
    }
    let cure = "move it to a directory of root's";
    let uid = owner_on_the_way(path).context(cure)?;
    if uid != meta.uid() {
        bail!("it belongs to uid {}, its name to uid {uid}: {cure}", meta.uid());
    }
    Ok((file, meta.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_named_after_the_last_word_of_its_source() {
        for (source, expected) in [
            ("https://example.com/a/prefix.tar.zst?token=x/y", "prefix.tar.zst"),
            ("https://example.com/..%2Fx", "%2Fx"),
            ("https://example.com/.hidden", "hidden"),
        ] {
            let expected = expected.replace('%', "_");
            assert_eq!(name(&Source::Https(source.to_owned())), expected, "{source}");
        }
        assert_eq!(name(&Source::File("/srv/a b.tar".into())), "a_b.tar");
    }
}
