//! Compressed module files (CONFIG_MODULE_COMPRESS_*): `.ko.gz`, `.ko.xz` and `.ko.zst`. Their
//! first bytes say which one it is.

use std::path::Path;

use anyhow::{Context, Result};

use crate::compress::{Compression, Tail, unpack};

/// No decompressed module is as large as this, even with debug information. A larger one is an
/// attack or damage.
const LIMIT: usize = 512 << 20;

/// Decompresses a module to at most 512 MiB, or returns `bytes` as they are if they are not
/// compressed. `path` is for the message.
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
