//! Decompresses kernel images, their payloads and module files. The first bytes decide the format,
//! as in the kernel (lib/decompress.c) and kmod; a file name never does. Everything here has a
//! bound: the caller limits the output, constants limit dictionaries and windows.

use std::fmt;
use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// The maximum size of dictionaries and windows. Kbuild packs kernels with zstd's `--ultra -22`,
/// which looks back so far. For xz it uses 32 MiB (scripts/xz_wrap.sh); xz's highest level uses 64
/// MiB.
const WINDOW: usize = 128 << 20;
/// The memory that xz needs beside its dictionary.
const XZ_TABLES_KIB: u32 = 1024;
/// A block of LZ4's legacy frame, unpacked (lz4_Frame_format.md, "Legacy frame").
const LZ4_BLOCK: usize = 8 << 20;
/// The magic number of that frame.
const LZ4_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// Memory for the result doubles up to this size, and then grows by this much at a time. So the
/// last step cannot double the needed memory.
const LARGEST_STEP: usize = 32 << 20;

/// How a file or a kernel's payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// RFC 1952
    Gzip,
    /// .xz
    Xz,
    /// RFC 8878
    Zstd,
    /// LZ4's legacy frame, `lz4 -l`: Kbuild uses it for kernels
    Lz4,
    /// `bzip2`
    Bzip2,
    /// The .lzma format of LZMA Utils ("LZMA alone")
    Lzma,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Lz4 => "lz4",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "lzma",
        })
    }
}

impl Compression {
    /// The compression of data that begins with these bytes (six are enough); `None` if it is not
    /// compressed in any way known here.
    pub fn of(bytes: &[u8]) -> Option<Compression> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Compression::Lz4),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
            // .lzma has no magic number. This is the usual lc/lp/pb and a dictionary of 64 KiB or
            // more.
            [0x5d, 0, 0, ..] => Some(Compression::Lzma),
            _ => None,
        }
    }
}

/// What may follow the first compressed stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Only more streams. For a file.
    Streams,
    /// Anything; it is not read. For the payload of a kernel image: Kbuild appends the unpacked
    /// size to it (scripts/Makefile.lib, `size_append`).
    Ignored,
}

/// Decompresses `bytes` to at most `limit` bytes.
///
/// # Errors
/// The data is not compressed in any way known here, is damaged, or decompresses to more than
/// `limit` bytes.
pub fn unpack(bytes: &[u8], tail: Tail, limit: usize) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    unpack_into(&mut out, bytes, tail, limit, WINDOW)?;
    Ok(out)
}

/// [`unpack`] into a buffer that the caller reuses. The old contents of the buffer are lost.
/// Dictionaries and windows have at most `window` bytes.
///
/// # Errors
/// As [`unpack`]. After an error the contents of `out` mean nothing.
pub fn unpack_into(
    out: &mut Vec<u8>,
    bytes: &[u8],
    tail: Tail,
    limit: usize,
    window: usize,
) -> Result<()> {
    out.clear();
    let Some(how) = Compression::of(bytes) else {
        bail!("compressed in no known way (first bytes {:02x?})", bytes.get(..6).unwrap_or(bytes));
    };
    let read = match how {
        Compression::Lz4 => lz4_legacy(out, bytes, limit),
        _ => reader(how, bytes, tail, window)
            .and_then(|mut reader| read_up_to(out, &mut reader, limit)),
    };
    if read.with_context(|| format!("damaged {how} data"))? {
        Ok(())
    } else {
        Err(anyhow!("{how} data that decompresses to more than {limit} bytes"))
    }
}

fn reader<'a>(
    how: Compression,
    bytes: &'a [u8],
    tail: Tail,
    window: usize,
) -> Result<Box<dyn Read + 'a>> {
    let all = tail == Tail::Streams;
    // The decoder needs its own tables in addition to the dictionary.
    let xz_memory = u32::try_from(window / 1024)?.saturating_add(XZ_TABLES_KIB);
    Ok(match how {
        Compression::Gzip if all => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Compression::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        Compression::Xz => Box::new(XzBytes {
            stream: lzma_rust2::XzStream::new_mem_limit(all, xz_memory),
            rest: bytes,
        }),
        Compression::Lzma => {
            Box::new(lzma_rust2::LzmaReader::new_mem_limit(bytes, xz_memory, None)?)
        }
        Compression::Zstd => Box::new(ZstdBytes::new(bytes, all, window)),
        Compression::Bzip2 if all => Box::new(bzip2::read::MultiBzDecoder::new(bytes)),
        Compression::Bzip2 => Box::new(bzip2::read::BzDecoder::new(bytes)),
        Compression::Lz4 => bail!("lz4 blocks are not read as a stream"),
    })
}

/// Decompresses xz from memory to memory. There are thousands of modules, and a reader would copy
/// each of them once more.
struct XzBytes<'a> {
    stream: lzma_rust2::XzStream,
    rest: &'a [u8],
}

impl Read for XzBytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        use lzma_rust2::{Action, Status};
        loop {
            let step = self.stream.process(self.rest, out, Action::Finish)?;
            self.rest = self.rest.get(step.bytes_consumed..).unwrap_or_default();
            match (step.bytes_produced, step.status) {
                (0, Status::Ok) if step.bytes_consumed == 0 && !out.is_empty() => {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                (0, Status::Ok) if !out.is_empty() => {}
                (n, _) => return Ok(n),
            }
        }
    }
}

/// Reads frames of zstd (RFC 8878). The library's own reader ends after the first frame and checks
/// no checksum.
struct ZstdBytes<'a> {
    decoder: FrameDecoder,
    rest: &'a [u8],
    /// Whether more frames may follow the first.
    all: bool,
    state: ZstdState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ZstdState {
    /// Nothing read yet.
    Begin,
    InFrame,
    Between,
}

impl<'a> ZstdBytes<'a> {
    fn new(bytes: &'a [u8], all: bool, window: usize) -> ZstdBytes<'a> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(window as u64);
        ZstdBytes { decoder, rest: bytes, all, state: ZstdState::Begin }
    }

    /// Begins the next frame that holds data. Returns whether there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        use ruzstd::decoding::errors::{
            FrameDecoderError as Error, ReadFrameHeaderError as Header,
        };
        while self.state == ZstdState::Begin || (self.all && !self.rest.is_empty()) {
            match self.decoder.init(&mut self.rest) {
                Ok(()) => {
                    self.state = ZstdState::InFrame;
                    return Ok(true);
                }
                Err(Error::ReadFrameHeaderError(Header::SkipFrame { length, .. })) => {
                    let behind = usize::try_from(length).ok().and_then(|n| self.rest.get(n..));
                    self.rest = behind.ok_or(ErrorKind::UnexpectedEof)?;
                }
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(false)
    }

    /// Checks the checksum at the end of a frame.
    fn end_frame(&mut self) -> io::Result<()> {
        let (said, found) =
            (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
        if said.is_some() && said != found {
            return Err(io::Error::new(ErrorKind::InvalidData, "its checksum differs"));
        }
        self.state = ZstdState::Between;
        Ok(())
    }
}

impl Read for ZstdBytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.state != ZstdState::InFrame && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.rest, one).map_err(io::Error::other)?;
            }
            match self.decoder.read(out)? {
                0 if !out.is_empty() => self.end_frame()?,
                n => return Ok(n),
            }
        }
    }
}

/// Reads to the end. Returns whether the end came within `limit` bytes.
fn read_up_to(out: &mut Vec<u8>, reader: &mut dyn Read, limit: usize) -> Result<bool> {
    let mut filled = 0;
    loop {
        if filled == out.len() {
            if filled > limit {
                return Ok(false);
            }
            grow(out, limit)?;
        }
        match reader.read(&mut out[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    out.truncate(filled);
    Ok(filled <= limit)
}

/// Makes room for more, up to one byte beyond `limit`. If that byte gets used, there is too much
/// data.
fn grow(out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let have = out.len();
    // Does not use all the capacity that an earlier, larger module left: resize() fills with zeros.
    let step = have.clamp(64 << 10, LARGEST_STEP);
    let room = have.saturating_add(step).min(limit.saturating_add(1));
    out.try_reserve_exact(room - have).map_err(|_| ErrorKind::OutOfMemory)?;
    out.resize(room, 0);
    Ok(())
}

/// Reads LZ4's legacy frame: blocks, with the packed size before each. A second frame may follow.
/// Returns whether all data came within `limit` bytes.
fn lz4_legacy(out: &mut Vec<u8>, bytes: &[u8], limit: usize) -> Result<bool> {
    let mut rest = bytes;
    let mut filled = 0;
    // Only the last block of a frame may be short. Otherwise hostile input could have a block for
    // nearly every byte, and would take for ever.
    let mut short = false;
    // Four bytes at the end are not a block's size: Kbuild writes the size of the whole there.
    while let Some((head, tail)) = rest.split_first_chunk().filter(|(_, tail)| !tail.is_empty()) {
        if *head == LZ4_MAGIC {
            // A frame without a block is invalid.
            ensure!(filled > 0 || rest.len() == bytes.len(), "no block in its first frame");
            (rest, short) = (tail, false);
            continue;
        }
        ensure!(!short, "a block before the last is not full");
        let size = usize::try_from(u32::from_le_bytes(*head))?;
        let block = tail.get(..size).context("a block reaches beyond the end")?;
        if filled > limit {
            return Ok(false);
        }
        // The previous block may have left unused room, so this one may need less.
        while out.len() < filled + LZ4_BLOCK {
            grow(out, usize::MAX - 1)?;
        }
        let n = lz4_flex::block::decompress_into(block, &mut out[filled..filled + LZ4_BLOCK])?;
        short = n < LZ4_BLOCK;
        filled += n;
        rest = &tail[size..];
    }
    out.truncate(filled);
    ensure!(!out.is_empty(), "no block in it");
    Ok(out.len() <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(bytes).unwrap();
        gz.finish().unwrap()
    }

    #[test]
    fn a_compressed_bomb_is_refused() {
        let gz = gzip(&[0; 100_000]);
        assert_eq!(unpack(&gz, Tail::Streams, 100_000).unwrap().len(), 100_000);
        let e = unpack(&gz, Tail::Streams, 99_999).unwrap_err().to_string();
        assert_eq!(e, "gzip data that decompresses to more than 99999 bytes");
        let e = unpack(&gz[..gz.len() / 2], Tail::Streams, 100_000).unwrap_err();
        assert!(format!("{e:#}").starts_with("damaged gzip data: "), "{e:#}");
    }

    #[test]
    fn what_follows_a_payload_is_ignored_and_what_follows_a_file_is_not() {
        let gz = gzip(b"kernel");
        let twice = [gz.clone(), gz.clone()].concat();
        let sized = [&gz[..], &[6, 0, 0, 0]].concat();
        assert_eq!(unpack(&sized, Tail::Ignored, 100).unwrap(), b"kernel");
        assert_eq!(unpack(&twice, Tail::Ignored, 100).unwrap(), b"kernel");
        assert_eq!(unpack(&twice, Tail::Streams, 100).unwrap(), b"kernelkernel");
        assert!(unpack(&sized, Tail::Streams, 100).is_err());
    }

    #[test]
    fn lz4_blocks_that_lie_about_their_size_are_errors() {
        let packed = lz4_flex::block::compress(b"vmlinux vmlinux vmlinux");
        let size = u32::try_from(packed.len()).unwrap().to_le_bytes();
        let whole = [&LZ4_MAGIC[..], &size, &packed].concat();
        let unpacked = |bytes: &[u8]| unpack(bytes, Tail::Ignored, 1 << 20);
        assert_eq!(unpacked(&whole).unwrap(), b"vmlinux vmlinux vmlinux");
        let sized = [&whole[..], &[23, 0, 0, 0]].concat();
        assert_eq!(unpacked(&sized).unwrap(), b"vmlinux vmlinux vmlinux");
        for cut in 0..whole.len() {
            assert!(unpacked(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let huge = [&LZ4_MAGIC[..], &[0xff; 4], &packed].concat();
        assert!(format!("{:#}", unpacked(&huge).unwrap_err()).contains("beyond the end"));
    }

    #[test]
    fn lz4_blocks_of_a_byte_each_are_refused_and_not_unpacked_for_hours() {
        let packed = lz4_flex::block::compress(b"x");
        let block = [&u32::try_from(packed.len()).unwrap().to_le_bytes()[..], &packed].concat();
        let two = [&LZ4_MAGIC[..], &block, &block].concat();
        let e = unpack(&two, Tail::Streams, 1 << 20).unwrap_err();
        assert!(format!("{e:#}").contains("a block before the last is not full"), "{e:#}");
        let frame = [&LZ4_MAGIC[..], &block].concat();
        let frames = frame.repeat(200_000);
        assert_eq!(unpack(&frames, Tail::Streams, 1 << 20).unwrap(), vec![b'x'; 200_000]);
        let full = lz4_flex::block::compress(&vec![b'y'; LZ4_BLOCK]);
        let full = [&u32::try_from(full.len()).unwrap().to_le_bytes()[..], &full].concat();
        let whole = [&LZ4_MAGIC[..], &full, &full, &block].concat();
        let out = unpack(&whole, Tail::Streams, 32 << 20).unwrap();
        assert_eq!((out.len(), out.last()), (2 * LZ4_BLOCK + 1, Some(&b'x')));
        assert!(unpack(&whole, Tail::Streams, 2 * LZ4_BLOCK).is_err());
    }

    #[test]
    fn what_is_not_compressed_is_no_compression() {
        for bytes in [&b""[..], b"\x7fELF\x02\x01", b"MZ", b"BZh0", &[0x1f], &[0x5d, 0]] {
            assert_eq!(Compression::of(bytes), None, "{bytes:02x?}");
            assert!(unpack(bytes, Tail::Streams, 10).is_err(), "{bytes:02x?}");
        }
    }
}
