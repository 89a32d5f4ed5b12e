//! Reads a tar archive from a file, which may be compressed.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, Cursor, ErrorKind, Read};

use anyhow::{Result, bail};

use crate::compress::Compression;

/// The largest window of zstd (`--long=27`, `--ultra -22`). A larger one is refused, so that an
/// archive cannot demand any amount of memory.
const ZSTD_WINDOW: u64 = 128 << 20;
/// Memory limit for the dictionary of xz, in KiB. The highest level of xz needs 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 * 1024;
/// Where "ustar" is in the first header of a tar archive, POSIX's or GNU's.
const MAGIC_AT: usize = 257;

/// An archive's bytes.
pub(super) struct Stream {
    /// Decompressed.
    pub(super) reader: Box<dyn Read>,
    /// How many bytes there will be, if the compression says so.
    pub(super) content_size: Option<u64>,
}

/// Opens an archive. Its first bytes tell the compression.
///
/// # Errors
/// It is neither a tar archive nor a compressed file.
pub(super) fn open(file: File) -> Result<Stream> {
    let mut file = BufReader::with_capacity(256 * 1024, file);
    let first = file.fill_buf()?;
    let magic = first.first_chunk().copied().unwrap_or_default();
    let how = if is_skippable(magic) { Some(Compression::Zstd) } else { Compression::of(first) };
    let tar = first.get(MAGIC_AT..MAGIC_AT + 5) == Some(b"ustar");
    let mut content_size = None;
    let reader: Box<dyn Read> = match how {
        None if tar => Box::new(file),
        Some(Compression::Gzip) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Some(Compression::Xz) => {
            Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB))
        }
        Some(Compression::Zstd) => {
            let frames = Frames::new(file)?;
            content_size = frames.first_size().filter(|size| *size > 0);
            Box::new(frames)
        }
        None | Some(_) => {
            bail!("the archive is neither tar nor tar compressed with zstd, gzip or xz")
        }
    };
    Ok(Stream { reader, content_size })
}

/// The first bytes of a frame, followed by the rest of it.
type Framed<R> = Chain<Cursor<[u8; 4]>, R>;
type Frame<R> = ruzstd::decoding::StreamingDecoder<Framed<R>, ruzstd::decoding::FrameDecoder>;

/// A zstd file: one frame after the other. `pzstd` writes many frames, with a skippable one before
/// each. A seekable file ends with a skippable frame (RFC 8878, 3.1).
struct Frames<R: BufRead> {
    frame: Option<Frame<R>>,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Result<Frames<R>> {
        Ok(Frames { frame: frame(source)? })
    }

    fn first_size(&self) -> Option<u64> {
        self.frame.as_ref().map(|frame| frame.decoder.content_size())
    }

    /// Checks the checksum at the end of a frame.
    fn checksum(frame: &Frame<R>) -> std::io::Result<()> {
        let (said, found) =
            (frame.decoder.get_checksum_from_data(), frame.decoder.get_calculated_checksum());
        match (said, found) {
            (Some(said), Some(found)) if said != found => {
                Err(std::io::Error::other("the checksum of the zstd frame is wrong"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether a frame with this magic number has no content to decompress.
fn is_skippable(magic: [u8; 4]) -> bool {
    u32::from_le_bytes(magic) & 0xffff_fff0 == 0x184d_2a50
}

/// The next frame with content. None at the end of the file.
fn frame<R: BufRead>(mut source: R) -> std::io::Result<Option<Frame<R>>> {
    loop {
        if source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut word = [0; 4];
        source.read_exact(&mut word)?;
        if !is_skippable(word) {
            let source = Cursor::new(word).chain(source);
            return ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                source,
                ZSTD_WINDOW,
            )
            .map(Some)
            .map_err(|e| std::io::Error::other(format!("zstd: {e}")));
        }
        source.read_exact(&mut word)?;
        let length = u64::from(u32::from_le_bytes(word));
        let skipped = std::io::copy(&mut source.by_ref().take(length), &mut std::io::sink())?;
        if skipped != length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let Some(current) = &mut self.frame else { return Ok(0) };
            let n = current.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            Self::checksum(current)?;
            let Some(ended) = self.frame.take() else { return Ok(0) };
            let (_, source) = ended.into_inner().into_inner();
            self.frame = frame(source)?;
        }
    }
}

/// Watches whether the archive ends with two blocks of zeros, as a tar archive has to.
pub(super) struct Tail<R> {
    reader: R,
    zeros: u64,
}

impl<R: Read> Tail<R> {
    pub(super) fn new(reader: R) -> Tail<R> {
        Tail { reader, zeros: 0 }
    }

    /// Whether the last 1024 bytes or more were zeros.
    pub(super) fn ended(&self) -> bool {
        self.zeros >= 1024
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.zeros = match buffer[..n].iter().rposition(|b| *b != 0) {
            Some(last) => (n - 1 - last) as u64,
            None => self.zeros + n as u64,
        };
        Ok(n)
    }
}
