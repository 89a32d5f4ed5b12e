//! Finds the kernel in an image file.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;

use super::Format;
use crate::compress::Compression;
use crate::host::Release;

/// How many bytes tell what a file is.
pub(super) const ENOUGH: usize = 0x206;
/// How an ELF file begins.
pub(super) const ELF: &[u8] = b"\x7fELF";

/// What an image file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The kernel itself.
    Bare(Format),
    /// Something to unpack.
    Packed(Packed),
    /// Another EFI program: the kernel may be in one of its sections.
    Program,
}

/// Where the compressed kernel is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The format around the payload; `None` if the whole file is compressed.
    pub(super) format: Option<Format>,
    pub(super) payload: Range<usize>,
    /// The release from the boot header.
    pub(super) release: Option<Release>,
}

/// What a file is, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Elf,
    BzImage,
    Zboot,
    Arm64,
    /// Compressed as a whole.
    Compressed,
    /// Another EFI program. A UKI is one, and every kernel with an EFI stub is one too.
    Program,
}

/// Tells what a file is. [`ENOUGH`] bytes of it are enough.
///
/// # Errors
/// None of the known kinds.
pub(super) fn kind(bytes: &[u8]) -> Result<Kind> {
    Ok(if bytes.starts_with(ELF) {
        Kind::Elf
    } else if has_boot_header(bytes) {
        Kind::BzImage
    } else if bytes.starts_with(b"MZ") && bytes.get(4..8) == Some(b"zimg") {
        Kind::Zboot
    } else if bytes.get(0x38..0x3c) == Some(b"ARM\x64") {
        Kind::Arm64
    } else if Compression::of(bytes).is_some() {
        Kind::Compressed
    } else if bytes.starts_with(b"MZ") {
        Kind::Program
    } else {
        bail!(
            "no kernel image: neither x86 bzImage, EFI zboot, UKI, arm64 Image, ELF nor compressed (first bytes {:02x?})",
            bytes.get(..8).unwrap_or(bytes)
        )
    })
}

/// Finds the kernel in `bytes`.
///
/// # Errors
/// None of the known kinds, or its header is cut short or contradicts the file's size.
pub(super) fn find(bytes: &[u8]) -> Result<Found> {
    Ok(match kind(bytes)? {
        Kind::Elf => Found::Bare(Format::Vmlinux),
        Kind::Arm64 => Found::Bare(Format::Arm64),
        Kind::BzImage => Found::Packed(bzimage(bytes).context("x86 bzImage")?),
        Kind::Zboot => Found::Packed(zboot(bytes).context("EFI zboot image")?),
        Kind::Compressed => {
            Found::Packed(Packed { format: None, payload: 0..bytes.len(), release: None })
        }
        Kind::Program => Found::Program,
    })
}

fn has_boot_header(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}

/// The release in the boot header of an x86 bzImage: the first word of what `kernel_version` points
/// to. `None` if there is no boot header, or no release in it.
pub(super) fn boot_release(bytes: &[u8]) -> Option<Release> {
    if !has_boot_header(bytes) {
        return None;
    }
    let pointer = u16_at(bytes, 0x20e).ok().filter(|pointer| *pointer != 0)?;
    let end = setup(bytes).min(bytes.len());
    let text = bytes.get(pointer + 0x200..end)?;
    let word = text.split(|&b| b == 0 || b == b' ').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// How many bytes of a bzImage are before the kernel: the boot sector and `setup_sects` (0x1f1).
fn setup(bytes: &[u8]) -> usize {
    let sectors = match bytes[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    (sectors + 1) * 512
}

pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk).context("header cut short")?;
    Ok(usize::try_from(u32::from_le_bytes(*word))?)
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Result<usize> {
    let word = bytes.get(offset..).and_then(<[u8]>::first_chunk).context("header cut short")?;
    Ok(usize::from(u16::from_le_bytes(*word)))
}

/// Documentation/arch/x86/boot.rst: `setup_sects` (0x1f1), `version` (0x206), `kernel_version`
/// (0x20e), `payload_offset` (0x248) and `payload_length` (0x24c).
fn bzimage(bytes: &[u8]) -> Result<Packed> {
    let version = u16_at(bytes, 0x206)?;
    ensure!(version >= 0x208, "boot protocol {version:#x}: older than Linux 2.6.26");
    let begin = setup(bytes) + u32_at(bytes, 0x248)?;
    let length = u32_at(bytes, 0x24c)?;
    let end = begin.checked_add(length).filter(|end| length > 0 && *end <= bytes.len());
    let end = end.with_context(|| {
        format!("its payload of {length} bytes at {begin} is outside of its {} bytes", bytes.len())
    })?;
    let release = boot_release(bytes);
    Ok(Packed { format: Some(Format::BzImage), payload: begin..end, release })
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
