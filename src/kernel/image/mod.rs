//! The kernel image as shipped, and the kernel in it: an x86 bzImage, an EFI zboot image, an arm64
//! Image (bare or compressed as a whole), or a vmlinux; alone or in a unified kernel image (UKI).

mod build_id;
mod bytes;
mod config;
mod elf;
mod glance;
mod headers;
mod pe;
mod raw;
mod uki;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;

pub use build_id::{build_id, running_build_id};
pub(super) use glance::{Seen, glance};

use bytes::Bytes;

use super::notes::{BUILD_SALT, GNU_BUILD_ID, hexadecimal};
use crate::compress::{Compression, Tail, unpack};
use crate::host::Release;

/// No kernel file is larger. Only a vmlinux with debug information comes near.
const MAX_FILE: usize = 512 << 20;
/// No compressed image is larger.
const MAX_PACKED: usize = 256 << 20;
/// No unpacked kernel is larger: they have less than 150 MiB.
const MAX_KERNEL: usize = 512 << 20;
/// How the banner begins (`linux_banner`, init/version-timestamp.c).
const BANNER: &[u8] = b"Linux version ";
/// The banner's maximum length.
const MAX_BANNER: usize = 1024;

/// What kind of file a kernel image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Documentation/arch/x86/boot.rst
    BzImage,
    /// A self-unpacking EFI program (drivers/firmware/efi/libstub/zboot-header.S)
    Zboot,
    /// Documentation/arch/arm64/booting.rst
    Arm64,
    /// An ELF file
    Vmlinux,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::BzImage => "x86 bzImage",
            Format::Zboot => "EFI zboot image",
            Format::Arm64 => "arm64 Image",
            Format::Vmlinux => "vmlinux",
        })
    }
}

/// A kernel image, unpacked. It holds the whole kernel in memory: 40 to 100 MB.
pub struct Image {
    format: Format,
    compression: Option<Compression>,
    in_uki: bool,
    /// From the boot header.
    release: Option<Release>,
    kernel: Vec<u8>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("format", &self.format)
            .field("compression", &self.compression)
            .field("in_uki", &self.in_uki)
            .field("release", &self.release())
            .field("kernel", &self.kernel.len())
            .finish()
    }
}

impl Image {
    /// Reads and unpacks an image file. Of a UKI with several kernels it takes the one that boots by
    /// default.
    ///
    /// # Errors
    /// The file cannot be read, has a kernel larger than 512 MiB, or is no kernel image
    /// ([`Image::parse`]). The error names the file.
    pub fn open(path: &Path) -> Result<Image> {
        Image::open_for(path, None)
    }

    /// [`Image::open`] for kernel `release`: of a UKI with several kernels it takes that one, if
    /// there is one. What was opened may be of another release ([`Image::is_for`]).
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_for(path: &Path, release: Option<&Release>) -> Result<Image> {
        let read = || -> Result<Image> {
            // O_NONBLOCK: opening a FIFO does not wait for its writer.
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            ensure!(file.metadata()?.is_file(), "not a regular file");
            Image::read(&file, release)
        };
        read().with_context(|| format!("{}", path.display()))
    }

    /// [`Image::open_for`] of an open regular file, which the caller names in errors.
    pub(super) fn read(file: &File, release: Option<&Release>) -> Result<Image> {
        Image::of(&Bytes::File(file), release)
    }

    /// Takes an image apart. It unpacks at most 512 MiB.
    ///
    /// # Errors
    /// The bytes are no kernel image of a known format, or are cut short, damaged, or compressed in
    /// a way that is unknown here. A UKI says that its kernel has another release than it has. The
    /// caller names the file.
    pub fn parse(bytes: &[u8]) -> Result<Image> {
        Image::of(&Bytes::Memory(bytes), None)
    }

    fn of(bytes: &Bytes<'_>, release: Option<&Release>) -> Result<Image> {
        if headers::kind(&bytes.head(0, headers::ENOUGH)?)? != headers::Kind::Program {
            let length = bytes.len()?;
            ensure!(length <= MAX_FILE as u64, "larger than any kernel ({MAX_FILE} bytes)");
            return Image::alone(bytes.head(0, MAX_FILE)?);
        }
        let kernel = uki::choose(bytes, release)?;
        let inside = bytes.all_of(&kernel.linux, MAX_FILE).and_then(Image::alone);
        let image = inside.context("section .linux of the UKI")?;
        if let Some(release) = image.release() {
            kernel.agrees(&release)?;
        }
        Ok(Image { in_uki: true, ..image })
    }

    /// An image that is in no UKI.
    fn alone(bytes: Cow<'_, [u8]>) -> Result<Image> {
        match headers::find(&bytes)? {
            // Only a bare kernel has to be copied: a packed one is unpacked into new memory.
            headers::Found::Bare(format) => Image::bare(format, None, bytes.into_owned()),
            headers::Found::Packed(packed) => Image::unpacked(&bytes, &packed),
            headers::Found::Program => bail!("an EFI program within an EFI program"),
        }
    }

    fn bare(format: Format, compression: Option<Compression>, kernel: Vec<u8>) -> Result<Image> {
        if format == Format::Vmlinux {
            elf::is_linked(&kernel)?;
        }
        Ok(Image { format, compression, in_uki: false, release: None, kernel })
    }

    fn unpacked(bytes: &[u8], packed: &headers::Packed) -> Result<Image> {
        let payload = bytes.get(packed.payload.clone()).context("payload outside of the image")?;
        ensure!(payload.len() <= MAX_PACKED, "larger than any compressed kernel");
        let compression = Compression::of(payload);
        let kernel = unpack(payload, Tail::Ignored, MAX_KERNEL).with_context(|| {
            let what = packed.format.map_or("the file".to_owned(), |f| format!("the {f}'s kernel"));
            format!("unpacking {what}")
        })?;
        let inside = match headers::find(&kernel) {
            Ok(headers::Found::Bare(format)) => format,
            Ok(headers::Found::Packed(_) | headers::Found::Program) => {
                bail!("an image within an image, or packed twice")
            }
            Err(e) => return Err(e.context("what was unpacked is no kernel")),
        };
        let image = Image::bare(inside, compression, kernel)?;
        let (format, release) = (packed.format.unwrap_or(inside), packed.release.clone());
        Ok(Image { format, release, ..image })
    }

    /// What kind of file it is. For a UKI, what kind of file is in it.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is in a unified kernel image.
    pub fn in_uki(&self) -> bool {
        self.in_uki
    }

    /// How the kernel in it is compressed; `None` when it is not.
    pub fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// `uname -r` of this kernel, from the boot header or else from the banner.
    pub fn release(&self) -> Option<String> {
        self.release.as_ref().map(|release| release.as_str().to_owned()).or_else(|| {
            let (release, _) = self.banner()?.split_at(BANNER.len()).1.split_once(' ')?;
            Some(release.to_owned())
        })
    }

    /// Checks that this is the image of kernel `release`. An image that does not say its release is
    /// taken for it.
    ///
    /// # Errors
    /// It says another release. The caller names the file.
    pub fn is_for(&self, release: &Release) -> Result<()> {
        let other = self.release().filter(|found| found != release.as_str());
        match other {
            Some(found) => bail!("is of kernel {found}"),
            None => Ok(()),
        }
    }

    /// The line that the kernel prints first (`/proc/version`): release, builder, compiler,
    /// `uname -v`.
    pub fn banner(&self) -> Option<&str> {
        let mut banners = memchr::memmem::find_iter(&self.kernel, BANNER)
            .filter_map(|at| banner(&self.kernel[at..self.kernel.len().min(at + MAX_BANNER)]));
        let first = banners.next()?;
        // Since Linux 6.1 the kernel may also contain the banner of the first link passes, which
        // has no build number (init/version.c).
        let numbered =
            |line: &&str| line.split_once(" #").is_some_and(|(_, v)| !v.starts_with(' '));
        if numbered(&first) { Some(first) } else { banners.find(numbered).or(Some(first)) }
    }

    /// The kernel itself, unpacked: ELF, or the bare code and data of an arm64 Image.
    pub fn kernel(&self) -> &[u8] {
        &self.kernel
    }

    /// Whether the kernel is an ELF file, and has sections.
    pub fn is_elf(&self) -> bool {
        self.kernel.starts_with(headers::ELF)
    }

    /// A section of an ELF kernel; `None` if it has no section of that name or no sections at all.
    pub fn section(&self, name: &str) -> Option<&[u8]> {
        elf::section(&self.kernel, name)
    }

    /// The configuration that the kernel was built with, if the kernel contains it
    /// (CONFIG_IKCONFIG, kernel/configs.c).
    ///
    /// # Errors
    /// The kernel contains its configuration, but it is damaged.
    pub fn ikconfig(&self) -> Result<Option<Vec<u8>>> {
        config::find(&self.kernel)
    }

    /// The GNU build-id, lower-case hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        self.note(b"GNU", GNU_BUILD_ID).map(hexadecimal).filter(|id| !id.is_empty())
    }

    /// CONFIG_BUILD_SALT; `None` if it is empty. Distributions set it to the release, so that
    /// build-ids differ.
    pub fn build_salt(&self) -> Option<String> {
        let text = self.note(b"Linux", BUILD_SALT)?.split(|&b| b == 0).next()?;
        std::str::from_utf8(text).ok().filter(|t| !t.is_empty()).map(str::to_owned)
    }

    fn note(&self, name: &[u8], kind: u32) -> Option<&[u8]> {
        if self.is_elf() {
            elf::note(&self.kernel, name, kind)
        } else {
            raw::note(&self.kernel, self.endian(), name, kind)
        }
    }

    /// The kernel's byte order.
    pub(super) fn endian(&self) -> Endianness {
        if self.is_elf() { elf::endian(&self.kernel) } else { headers::arm64_endian(&self.kernel) }
    }
}

/// The banner at the beginning of `bytes`.
fn banner(bytes: &[u8]) -> Option<&str> {
    let line = &bytes[..memchr::memchr2(b'\n', 0, bytes)?];
    let line = std::str::from_utf8(line).ok().filter(|l| !l.contains(char::is_control))?;
    // The format strings of /proc/version look alike.
    let (release, rest) = line.get(BANNER.len()..)?.split_once(' ')?;
    let real = release.starts_with(|c: char| c.is_ascii_digit()) && rest.starts_with('(');
    (real && release.parse::<Release>().is_ok()).then_some(line)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod uki_tests;
