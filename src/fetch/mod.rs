//! Gets a file into a directory that only root can write to, so that the file that is used is the
//! file that was checked. It comes over https, where a download continues where it stopped, or from
//! another file. This module does not know what the file is for.

#[cfg(not(target_env = "musl"))]
mod https;
pub(crate) mod network;
mod part;
mod transfer;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::config::{Source, without_query};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::prefix::owned::owner_on_the_way;
pub(crate) use part::Part;

/// How long a text of some kilobytes may take.
const SMALL: Duration = Duration::from_secs(120);

/// A file to get, with what is known about it in advance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Where it is.
    pub(crate) source: &'a Source,
    /// The configuration key that sets the source.
    pub(crate) key: &'a str,
    /// What it is, as in "the archive".
    pub(crate) what: &'a str,
    /// Its size in bytes, if known.
    pub(crate) size: Option<u64>,
    /// The largest size it can have if its size is not known.
    pub(crate) largest: u64,
    /// The configuration key that sets its size, if there is one.
    pub(crate) size_key: Option<&'a str>,
    /// The exit status if the file cannot be read.
    pub(crate) unreadable: Exit,
}

impl Wanted<'_> {
    /// Refuses a size that is not the one expected.
    ///
    /// # Errors
    /// [`Exit::Refused`].
    pub(crate) fn check_size(&self, size: u64) -> Result<()> {
        match self.size {
            Some(expected) if expected != size => {
                let by = self.size_key.unwrap_or(self.key);
                fail!(Exit::Refused, "{} has {size} bytes, {by} says {expected}", self.source)
            }
            _ => Ok(()),
        }
    }
}

/// Receives the progress of a transfer.
pub(crate) trait Watch {
    /// A transfer begins; `have` bytes are there already.
    fn begin(&mut self, have: u64);
    /// `have` bytes are there.
    fn fetched(&mut self, have: u64, total: Option<u64>);
}

/// Gets a file into `part`.
///
/// # Errors
/// [`Exit::Network`], [`Exit::NoSpace`], [`Exit::Refused`] for the size, [`Wanted::unreadable`].
pub(crate) fn file(
    wanted: &Wanted<'_>,
    get: Option<&Get>,
    part: &Part,
    watch: &mut dyn Watch,
) -> Result<()> {
    match (wanted.source, get) {
        (Source::Https(url), Some(get)) => part.download(wanted, url, get, watch),
        (Source::Https(_), None) => part.download(wanted, &wanted.source.full(), &client()?, watch),
        (Source::File(path), _) => part.copy(wanted, path, watch),
    }
}

/// Gets the small text file beside `source`: its name is that of `source` with `suffix` appended.
/// If the server or the directory has no such file, the inner error says so.
///
/// # Errors
/// [`Exit::Network`]; [`Exit::Refused`]: it is there and cannot be read, or is no text.
pub(crate) fn beside(
    source: &Source,
    suffix: &str,
    get: Option<&Get>,
    limit: u64,
) -> Result<Result<String, String>> {
    match (source, get) {
        (Source::Https(url), Some(get)) => {
            let (path, query) = url.split_at(url.find(['?', '#']).unwrap_or(url.len()));
            let url = format!("{path}{suffix}{query}");
            let answer = get(&url, 0, None)?;
            let url = without_query(&url);
            match answer.status {
                200 => text(Soon { body: answer.body, until: Instant::now() + SMALL }, limit)
                    .with_context(|| url)
                    .exit(Exit::Network)
                    .map(Ok),
                status @ (404 | 410) => Ok(Err(format!("{url}: the server says {status}"))),
                status => fail!(Exit::Network, "{url}: the server says {status}"),
            }
        }
        (other, _) => {
            let name = format!("{}{suffix}", other.full());
            match open_file(Path::new(&name)) {
                Err(e) if is_missing(&e) => Ok(Err(format!("{name}: {e}"))),
                opened => opened
                    .and_then(|(file, _)| text(file, limit))
                    .with_context(|| name.clone())
                    .exit(Exit::Refused)
                    .map(Ok),
            }
        }
    }
}

/// A reader that fails once `until` has passed, even if bytes still come.
struct Soon {
    body: Box<dyn Read>,
    until: Instant,
}

impl Read for Soon {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        if Instant::now() >= self.until {
            let text = format!("it did not come within {} s", SMALL.as_secs());
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text));
        }
        self.body.read(to)
    }
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.root_cause().downcast_ref::<std::io::Error>();
    io.is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// What a server answered to a request for a file, or for the rest of one.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// `Content-Range: bytes START-END/TOTAL`, of which START and TOTAL count.
    pub(crate) range: Option<(u64, u64)>,
    /// `Content-Length`.
    pub(crate) length: Option<u64>,
    /// Identifies this version of the file (`If-Range`): a strong ETag, or the date.
    pub(crate) validator: Option<String>,
    /// The content.
    pub(crate) body: Box<dyn Read>,
}

/// A file name for the download: the last word of the source.
pub(crate) fn name(source: &Source) -> String {
    let last = match source {
        Source::Https(url) => url.split(['?', '#']).next().unwrap_or(url).rsplit('/').next(),
        Source::File(path) => path.file_name().and_then(|name| name.to_str()),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = last.unwrap_or("download").chars().map(plain).take(200).collect();
    name.trim_start_matches('.').to_owned()
}

/// Requests a URL. If the file still has the given validator, only from the given byte on.
pub(crate) type Get = Box<dyn Fn(&str, u64, Option<&str>) -> Result<Answer>>;

/// A client that asks over https only.
///
/// # Errors
/// [`Exit::Network`]: this machine trusts no authority.
#[cfg(not(target_env = "musl"))]
pub(crate) fn client() -> Result<Get> {
    let client = https::Client::new()?;
    Ok(Box::new(move |url, from, validator| client.get(url, from, validator)))
}

/// The static programs of the early boot have no network.
#[cfg(target_env = "musl")]
pub(crate) fn client() -> Result<Get> {
    fail!(Exit::Network, "this program was built without https")
}

/// The text of a small file.
///
/// # Errors
/// It cannot be read, is not UTF-8, or is larger than `limit` bytes.
pub(crate) fn text(reader: impl Read, limit: u64) -> Result<String> {
    let mut text = String::new();
    let read = reader.take(limit + 1).read_to_string(&mut text)?;
    if read as u64 > limit {
        bail!("larger than {limit} bytes");
    }
    Ok(text)
}

/// Opens a regular file and returns it with its size. If a user can place a file there, the file
/// must belong to that user: without a signature any file would pass, and the prefix's owner would
/// see it.
///
/// # Errors
/// It is not a regular file, cannot be opened, or another user controls its name.
pub(crate) fn open_file(path: &Path) -> Result<(File, u64)> {
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

/// The file with the certificate authorities that this machine trusts (or `$SSL_CERT_FILE`), for
/// programs that fetch by themselves.
#[cfg(not(target_env = "musl"))]
pub(crate) fn authorities() -> Option<std::path::PathBuf> {
    openssl_probe::probe().cert_file
}

/// The static programs of the early boot have no network.
#[cfg(target_env = "musl")]
pub(crate) fn authorities() -> Option<std::path::PathBuf> {
    None
}

/// In units of 1,000,000 bytes.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_text_that_never_ends_is_given_up() {
        let body = || Box::new(std::io::repeat(b'x').take(10)) as Box<dyn Read>;
        assert_eq!(
            text(Soon { body: body(), until: Instant::now() + SMALL }, 10).unwrap().len(),
            10
        );
        let late = text(Soon { body: body(), until: Instant::now() }, 10).unwrap_err();
        assert!(late.to_string().contains("did not come within 120 s"), "{late}");
    }

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
