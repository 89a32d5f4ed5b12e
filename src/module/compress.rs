//! Compressed module files (CONFIG_MODULE_COMPRESS_*): `.ko.gz`, `.ko.xz` and `.ko.zst`, told
//! apart by their first bytes.

use std::path::Path;

use anyhow::{Context, Result};

use crate::compress::{Compression, Tail, unpack};

/// No module is as large as this when decompressed, debug information included; a file that
/// claims more is an attack or damage.
const LIMIT: usize = 512 << 20;

/// The module itself: `bytes` as they are, or decompressed, at most 512 MiB. `path` is for the
/// message.
///
/// # Errors
/// The compressed data is damaged, or decompresses to more than 512 MiB.
pub fn decompress(path: &Path, bytes: Vec<u8>) -> Result<Vec<u8>> {
    match Compression::of(&bytes) {
        Some(_) => {
            unpack(&bytes, Tail::Streams, LIMIT).with_context(|| format!("{}", path.display()))
        }
        None => Ok(bytes),
    }
}
