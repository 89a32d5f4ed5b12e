//! What an image file says of its release at a glance: nothing is unpacked, and of each kernel in it
//! at most 64 KiB are read.

use std::fs::File;

use anyhow::Result;

use super::bytes::Bytes;
use super::headers::{self, Kind};
use super::uki::{self, BOOT_HEADER};
use crate::host::Release;

/// What is seen of one kernel.
#[derive(Debug)]
pub(in crate::kernel) enum Seen {
    /// Its boot header has this release.
    Is(Release),
    /// It has to be unpacked to know its release. `.uname` of a UKI does not prove it: whoever made
    /// the UKI wrote that. But it does tell that the kernel is another one.
    Says(Option<Release>),
    /// It is nobody's kernel, for this reason.
    Wrong(anyhow::Error),
}

/// Looks at the kernels in an image file: one, or several in a UKI. The one that boots by default
/// comes first.
///
/// # Errors
/// The file cannot be read, or is no kernel image.
pub(in crate::kernel) fn glance(file: &File) -> Result<Vec<Seen>> {
    let bytes = Bytes::File(file);
    let head = bytes.head(0, BOOT_HEADER)?;
    if headers::kind(&head)? != Kind::Program {
        let release = headers::boot_release(&head);
        return Ok(vec![release.map_or(Seen::Says(None), Seen::Is)]);
    }
    let seen = |kernel: uki::Kernel| match kernel.release() {
        Err(error) => Seen::Wrong(error),
        Ok(_) => kernel.header.map_or(Seen::Says(kernel.uname), Seen::Is),
    };
    Ok(uki::kernels(&bytes)?.into_iter().map(seen).collect())
}
