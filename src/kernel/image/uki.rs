//! Unified kernel images: EFI programs with a kernel in the section `.linux` (UAPI.5, "Unified
//! Kernel Image"). A boot stub, an initrd and more are around the kernel.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

use super::bytes::Bytes;
use super::headers::boot_release;
use super::pe::{self, Section};
use crate::host::Release;

/// How many bytes of a bzImage hold its release (Documentation/arch/x86/boot.rst: `kernel_version`
/// points into the first 64 KiB and 512 bytes).
pub(super) const BOOT_HEADER: usize = 0x1_0200 + 256;
/// No `.uname` is longer: a release has 64 characters.
const MAX_UNAME: usize = 256;
/// At most so many kernels of one file are looked at. Real files have one.
const MAX_KERNELS: usize = 8;

/// A kernel in a UKI.
#[derive(Debug)]
pub(super) struct Kernel {
    /// `.linux`: where it is in the file.
    pub(super) linux: Range<u64>,
    /// `.uname`: the release that whoever made the UKI says the kernel has.
    pub(super) uname: Option<Release>,
    /// The release in the kernel's own boot header, if it has one.
    pub(super) header: Option<Release>,
}

/// The sections of one profile that matter. The base profile is the first one.
#[derive(Default)]
struct Profile {
    linux: Option<Section>,
    uname: Option<Section>,
}

impl Kernel {
    fn of(bytes: &Bytes<'_>, linux: &Section, uname: Option<&Section>) -> Result<Kernel> {
        let header = boot_release(&start(bytes, linux, BOOT_HEADER)?);
        let uname = uname.map(|section| start(bytes, section, MAX_UNAME)).transpose()?;
        // What is no release says nothing.
        let uname = uname.and_then(|text| {
            let text = text.split(|byte| *byte == 0).next()?;
            std::str::from_utf8(text).ok()?.trim().parse().ok()
        });
        Ok(Kernel { linux: linux.content.clone(), uname, header })
    }

    /// What is said of its release without unpacking it. The boot header is the kernel's own word;
    /// `.uname` has to agree.
    ///
    /// # Errors
    /// They contradict each other.
    pub(super) fn release(&self) -> Result<Option<&Release>> {
        if let Some(header) = &self.header {
            self.agrees(header.as_str())?;
        }
        Ok(self.header.as_ref().or(self.uname.as_ref()))
    }

    /// Checks `.uname` against the release that the kernel in it has.
    ///
    /// # Errors
    /// It is another one.
    pub(super) fn agrees(&self, release: &str) -> Result<()> {
        let uname = self.uname.as_ref().filter(|uname| uname.as_str() != release);
        if let Some(uname) = uname {
            bail!("a UKI that contradicts itself: .uname is {uname}, the kernel in it {release}");
        }
        Ok(())
    }
}

/// The first bytes of a section, at most `most`.
fn start<'a>(bytes: &Bytes<'a>, section: &Section, most: usize) -> Result<Cow<'a, [u8]>> {
    let length = section.content.end - section.content.start;
    bytes.head(section.content.start, usize::try_from(length).unwrap_or(most).min(most))
}

/// The kernels in a UKI. The first one is the one that boots by default.
///
/// Each `.profile` begins a profile. A profile has the sections that follow, and otherwise those
/// before the first `.profile`. Nearly always only the base profile has a kernel.
///
/// # Errors
/// The file is no PE file, has no `.linux`, or is cut short.
pub(super) fn kernels(bytes: &Bytes<'_>) -> Result<Vec<Kernel>> {
    let mut profiles = vec![Profile::default()];
    for section in pe::sections(bytes).context("an EFI program (MZ), but no readable PE file")? {
        if section.is(".profile") {
            profiles.push(Profile::default());
        }
        let Some(profile) = profiles.last_mut() else { continue };
        // Of two sections with one name, systemd-stub takes the first.
        if section.is(".linux") {
            profile.linux.get_or_insert(section);
        } else if section.is(".uname") {
            profile.uname.get_or_insert(section);
        }
    }
    // The base profile's kernel may have its .uname in the profile that is the default.
    let default = profiles.get_mut(1).filter(|first| first.linux.is_none());
    let lent = default.and_then(|first| first.uname.take());
    let base = &mut profiles[0];
    base.uname = base.uname.take().or(lent);
    // Profile @0 is the default, and stands behind the base profile.
    if profiles.get(1).is_some_and(|first| first.linux.is_some()) {
        profiles.swap(0, 1);
    }
    let kernels = profiles.iter().filter_map(|profile| {
        let linux = profile.linux.as_ref()?;
        Some(Kernel::of(bytes, linux, profile.uname.as_ref()))
    });
    let kernels: Vec<Kernel> = kernels.take(MAX_KERNELS).collect::<Result<_>>()?;
    ensure!(
        !kernels.is_empty(),
        "an EFI program without a section .linux: a boot loader, an addon, or a kernel of a kind that is not known here"
    );
    Ok(kernels)
}

/// The kernel of `release`, otherwise the one that boots by default.
///
/// # Errors
/// As [`kernels`].
pub(super) fn choose(bytes: &Bytes<'_>, release: Option<&Release>) -> Result<Kernel> {
    let mut kernels = kernels(bytes)?;
    let is_it = |kernel: &Kernel| release.is_some() && kernel.release().ok().flatten() == release;
    let place = kernels.iter().position(is_it).unwrap_or(0);
    Ok(kernels.swap_remove(place))
}
