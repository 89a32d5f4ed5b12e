//! The kernel image as shipped: what is compressed in it, and its build-id.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::read::elf::{FileHeader, SectionHeader};

use super::{Release, gnu_build_id};
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Host;

/// No kernel is larger unpacked; a bound against hostile input.
const MAX_VMLINUX: usize = 1024 * 1024 * 1024;

/// The GNU build-id of the running kernel, from /sys/kernel/notes.
///
/// # Errors
/// The file cannot be read, or holds no build-id.
pub fn running_build_id(host: &Host) -> Result<String> {
    let path = host.path("/sys/kernel/notes");
    let notes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    gnu_build_id(&notes).with_context(|| format!("{}: no GNU build-id in it", path.display()))
}

/// The GNU build-id of kernel `release`: of the running kernel if it is that (and this is no
/// container, whose kernel is somebody else's), else of its image: `image` if given, otherwise
/// /usr/lib/modules/RELEASE/vmlinuz or /boot/vmlinuz-RELEASE.
///
/// # Errors
/// [`Exit::NoKernelSource`]: no image found, or no build-id in it.
pub fn build_id(host: &Host, image: Option<&Path>, release: &Release) -> Result<String> {
    if image.is_none() && !host.container && *release == host.kernel_release {
        return running_build_id(host);
    }
    let places: Vec<PathBuf> = match image {
        Some(image) => vec![host.path(image)],
        None => vec![
            host.path(format!("/usr/lib/modules/{release}/vmlinuz")),
            host.path(format!("/boot/vmlinuz-{release}")),
        ],
    };
    let Some(path) = places.iter().find(|p| p.exists()) else {
        fail!(
            Exit::NoKernelSource,
            "kernel {release}: no kernel image in {}; its build-id tells two kernels of one release apart: set kernel.image",
            places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" or ")
        );
    };
    image_build_id(path)
        .with_context(|| format!("kernel {release}: {}", path.display()))
        .exit(Exit::NoKernelSource)
}

fn image_build_id(path: &Path) -> Result<String> {
    let bytes = fs::read(path)?;
    let elf = vmlinux(&bytes)?;
    elf_build_id(&elf).context("no GNU build-id in the kernel")
}

/// The vmlinux in an image: the image itself if it is ELF, or the payload of an x86 bzImage
/// (Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`, `payload_length`).
///
/// # Errors
/// Neither of the two, or compressed in a way this program cannot read.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    if image.get(0x202..0x206) != Some(b"HdrS") {
        bail!("neither an ELF file nor an x86 bzImage");
    }
    let u32_at = |offset: usize| -> Result<usize> {
        let bytes = image.get(offset..offset + 4).context("header cut short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let sectors = match image[0x1f1] {
        0 => 4,
        n => usize::from(n),
    };
    let begin = (sectors + 1) * 512 + u32_at(0x248)?;
    let end = begin.checked_add(u32_at(0x24c)?).context("payload outside of the image")?;
    let payload = image.get(begin..end).context("payload outside of the image")?;
    let elf = unpack(payload)?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("the unpacked payload is no ELF file");
    }
    Ok(elf)
}

/// Unpacks a kernel's payload by its magic number (scripts/Makefile.lib, `cmd_xzkern` and its
/// like: each appends the unpacked size as a little-endian u32, which the formats' readers never
/// reach).
fn unpack(payload: &[u8]) -> Result<Vec<u8>> {
    let read = |reader: &mut dyn Read| -> Result<Vec<u8>> {
        let mut out = Vec::new();
        reader.take(MAX_VMLINUX as u64 + 1).read_to_end(&mut out).context("unpacking")?;
        anyhow::ensure!(out.len() <= MAX_VMLINUX, "larger than {MAX_VMLINUX} bytes unpacked");
        Ok(out)
    };
    match payload {
        [0x1f, 0x8b, ..] => read(&mut flate2::read::GzDecoder::new(payload)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            read(&mut lzma_rust2::XzReader::new(payload, false))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut reader = ruzstd::decoding::StreamingDecoder::new(payload)
                .map_err(|e| anyhow::anyhow!("zstd: {e}"))?;
            read(&mut reader)
        }
        [0x02, 0x21, 0x4c, 0x18, rest @ ..] => lz4_legacy(rest),
        _ => bail!("compressed in an unknown way (first bytes {:02x?})", payload.get(..6)),
    }
}

/// LZ4's legacy frame: blocks of at most 8 MiB unpacked, each behind its packed size
/// (lz4_Frame_format.md, "Legacy frame").
fn lz4_legacy(mut rest: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 * 1024 * 1024;
    let mut out = Vec::new();
    // The last four bytes are the kernel's own: the unpacked size.
    while rest.len() > 4 {
        let (size, tail) = rest.split_at(4);
        let size = u32::from_le_bytes(size.try_into()?) as usize;
        let block = tail.get(..size).context("lz4: block outside of the payload")?;
        let begin = out.len();
        anyhow::ensure!(begin <= MAX_VMLINUX, "larger than {MAX_VMLINUX} bytes unpacked");
        out.resize(begin + BLOCK, 0);
        let n = lz4_flex::block::decompress_into(block, &mut out[begin..]).context("lz4")?;
        out.truncate(begin + n);
        rest = &tail[size..];
    }
    Ok(out)
}

fn elf_build_id(elf: &[u8]) -> Option<String> {
    type Header = object::elf::FileHeader64<object::Endianness>;
    let header = Header::parse(elf).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, elf).ok()?;
    sections
        .iter()
        .filter(|s| s.sh_type(endian) == object::elf::SHT_NOTE)
        .filter_map(|s| s.data(endian, elf).ok())
        .find_map(gnu_build_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_images_are_errors() {
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        for (case, offset, length) in
            [("nothing", 0, 0), ("outside", 0x10_0000, 4), ("overflow", u32::MAX, u32::MAX)]
        {
            image[0x248..0x24c].copy_from_slice(&u32::to_le_bytes(offset));
            image[0x24c..0x250].copy_from_slice(&u32::to_le_bytes(length));
            assert!(vmlinux(&image).is_err(), "{case}");
        }
        assert!(vmlinux(b"").is_err());
        assert!(lz4_legacy(&[0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0, 0]).is_err());
        assert!(unpack(&[0xfd, b'7', b'z', b'X', b'Z', 0, 1, 2]).is_err());
    }
}
