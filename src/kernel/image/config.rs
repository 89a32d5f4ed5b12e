//! CONFIG_IKCONFIG: the kernel contains its own configuration, compressed with gzip, between two
//! marks (kernel/configs.c).

use anyhow::{Context, Result, ensure};

use crate::compress::{Compression, Tail, unpack};
use crate::kernel::kconfig::MAX_CONFIG;

const BEGIN: &[u8] = b"IKCFG_ST";
const END: &[u8] = b"IKCFG_ED";

/// The configuration; `None` when the kernel has none.
pub(super) fn find(kernel: &[u8]) -> Result<Option<Vec<u8>>> {
    for at in memchr::memmem::find_iter(kernel, BEGIN) {
        let packed = &kernel[at + BEGIN.len()..];
        if Compression::of(packed) != Some(Compression::Gzip) {
            continue;
        }
        // Cut at the end mark: damaged gzip data cannot make the decoder read beyond it.
        let end = memchr::memmem::find(packed, END);
        let packed = &packed[..end.context("IKCONFIG: it has no end")?];
        let config = unpack(packed, Tail::Ignored, MAX_CONFIG).context("IKCONFIG")?;
        ensure!(!config.is_empty(), "IKCONFIG: nothing in it");
        return Ok(Some(config));
    }
    Ok(None)
}
