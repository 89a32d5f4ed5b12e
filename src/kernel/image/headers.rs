//! Finds the kernel in an image file.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;

use super::Format;
use crate::compress::Compression;

/// How an ELF file begins.
pub(super) const ELF: &[u8] = b"\x7fELF";

/// What an image file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The kernel itself.
    Bare(Format),
    /// Something to unpack.
    Packed(Packed),
}

/// Where the compressed kernel is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The format around the payload; `None` if the whole file is compressed.
    pub(super) format: Option<Format>,
    pub(super) payload: Range<usize>,
    /// The release from the header.
    pub(super) release: Option<String>,
}

/// Tells what `bytes` are.
///
/// # Errors
/// None of the known formats, or its header is cut short or contradicts the file's size.
pub(super) fn find(bytes: &[u8]) -> Result<Found> {
    if bytes.starts_with(ELF) {
        Ok(Found::Bare(Format::Vmlinux))
    } else if bytes.get(0x202..0x206) == Some(b"HdrS") {
        bzimage(bytes).context("x86 bzImage").map(Found::Packed)
    } else if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg") {
        zboot(bytes).context("EFI zboot image").map(Found::Packed)
    } else if bytes.get(0x38..0x3c) == Some(b"ARM\x64") {
        Ok(Found::Bare(Format::Arm64))
    } else if Compression::of(bytes).is_some() {
        Ok(Found::Packed(Packed { format: None, payload: 0..bytes.len(), release: None }))
    } else {
        bail!(
            "no kernel image: neither x86 bzImage, EFI zboot, arm64 Image, ELF nor compressed (first bytes {:02x?})",
            bytes.get(..8).unwrap_or(bytes)
        )
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk).context("header cut short")?;
    Ok(usize::try_from(u32::from_le_bytes(*word))?)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk).context("header cut short")?;
    Ok(usize::from(u16::from_le_bytes(*word)))
}

/// Documentation/arch/x86/boot.rst: `setup_sects` (0x1f1), `version` (0x206), `kernel_version`
/// (0x20e), `payload_offset` (0x248) and `payload_length` (0x24c).
fn bzimage(bytes: &[u8]) -> Result<Packed> {
    let version = u16_at(bytes, 0x206)?;
    ensure!(version >= 0x208, "boot protocol {version:#x}: older than Linux 2.6.26");
    let sectors = match bytes[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let setup = (sectors + 1) * 512;
    let begin = setup + u32_at(bytes, 0x248)?;
    let length = u32_at(bytes, 0x24c)?;
    let end = begin.checked_add(length).filter(|end| length > 0 && *end <= bytes.len());
    let end = end.with_context(|| {
        format!("its payload of {length} bytes at {begin} is outside of its {} bytes", bytes.len())
    })?;
    let release = match u16_at(bytes, 0x20e)? {
        0 => None,
        pointer => bytes.get(pointer + 0x200..setup.min(bytes.len())).and_then(first_word),
    };
    Ok(Packed { format: Some(Format::BzImage), payload: begin..end, release })
}

fn first_word(bytes: &[u8]) -> Option<String> {
    let word = bytes.split(|&b| b == 0 || b == b' ').next()?;
    std::str::from_utf8(word).ok().map(str::to_owned)
}

/// drivers/firmware/efi/libstub/zboot-header.S: payload offset and size at 8 and 12. The header
/// names the compression at 24. This name is not read: the payload itself shows its compression.
fn zboot(bytes: &[u8]) -> Result<Packed> {
    let (begin, length) = (u32_at(bytes, 8)?, u32_at(bytes, 12)?);
    let end = begin.checked_add(length).filter(|end| length > 0 && *end <= bytes.len());
    let end = end.with_context(|| {
        format!("its payload of {length} bytes at {begin} is outside of its {} bytes", bytes.len())
    })?;
    Ok(Packed { format: Some(Format::Zboot), payload: begin..end, release: None })
}

/// The byte order of an arm64 Image's kernel: bit 0 of the flags
/// (Documentation/arch/arm64/booting.rst); little for anything else.
pub(super) fn arm64_endian(kernel: &[u8]) -> Endianness {
    match kernel.get(24) {
        Some(flags) if flags & 1 == 1 => Endianness::Big,
        _ => Endianness::Little,
    }
}
