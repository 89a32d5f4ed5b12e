//! Compressed module files. Told apart by their first bytes, as kmod does, not by their name.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// No module is as large as this when decompressed; a file that claims more is an attack or
/// damage.
const LIMIT: u64 = 1 << 30;

/// Dictionary limit for xz, KiB. `scripts/Makefile.modinst` uses 1 or 2 MiB; xz's own maximum
/// level needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 * 1024;

/// How a module file is compressed (CONFIG_MODULE_COMPRESS_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// `.ko.gz`
    Gzip,
    /// `.ko.xz`
    Xz,
    /// `.ko.zst`
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// The compression of a file that begins with these bytes; `None` when it is not compressed
    /// in any way known here.
    pub fn of(bytes: &[u8]) -> Option<Compression> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// The module itself: `bytes` as they are, or decompressed, at most 1 GiB. `path` is for the
/// message.
///
/// # Errors
/// The compressed data is damaged, or decompresses to more than 1 GiB.
pub fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let plain = plain_up_to(&bytes, LIMIT).with_context(|| format!("{}", path.display()))?;
    // A borrowed result is `bytes` itself: given back without a copy.
    Ok(match plain {
        Cow::Owned(plain) => plain,
        Cow::Borrowed(_) => bytes,
    })
}

fn plain_up_to(bytes: &[u8], limit: u64) -> Result<Cow<'_, [u8]>> {
    let Some(how) = Compression::of(bytes) else { return Ok(Cow::Borrowed(bytes)) };
    let mut reader: Box<dyn Read + '_> = match how {
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Compression::Xz => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(bytes, true, XZ_MEMORY_KIB))
        }
        Compression::Zstd => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(bytes).context("damaged zstd data")?)
        }
    };
    let mut out = Vec::new();
    let read = reader.by_ref().take(limit + 1).read_to_end(&mut out);
    read.with_context(|| format!("damaged {how} data"))?;
    if out.len() as u64 > limit {
        bail!("{how} data that decompresses to more than {limit} bytes");
    }
    Ok(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_compressed_bomb_is_refused_and_plain_bytes_are_not_copied() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&[0; 100_000]).unwrap();
        let gz = gz.finish().unwrap();
        assert_eq!(plain_up_to(&gz, 100_000).unwrap().len(), 100_000);
        let e = plain_up_to(&gz, 99_999).unwrap_err().to_string();
        assert_eq!(e, "gzip data that decompresses to more than 99999 bytes");
        assert!(matches!(plain_up_to(b"\x7fELF", LIMIT).unwrap(), Cow::Borrowed(_)));
        let e = decompress(Path::new("/a.ko.gz"), gz[..gz.len() / 2].to_vec()).unwrap_err();
        assert!(format!("{e:#}").starts_with("/a.ko.gz: damaged gzip data"), "{e:#}");
    }
}
