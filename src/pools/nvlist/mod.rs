//! zpool.cache: a packed nvlist with one nvlist for each pool, under the pool's name.
//!
//! The format is that of OpenZFS's module/nvpair/nvpair.c. The file is in the encoding of the
//! machine (fnvlist_pack in module/zfs/spa_config.c); zpool(8) also takes XDR, the encoding on
//! disks, and so does this module. There is no checksum: this module checks the whole structure,
//! but not the values.

mod native;
mod xdr;

use std::fmt;

use crate::config::is_pool_name;

/// How deep lists may be nested: as deep as OpenZFS decodes them in user land
/// (nvpair_max_recursion).
const DEEPEST: usize = 20;
/// NV_ENCODE_NATIVE and NV_ENCODE_XDR, the first byte; the second is the byte order of the former.
const NATIVE: u8 = 0;
const XDR: u8 = 1;
const ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 0 };
/// Some of data_type_t (sys/nvpair.h).
const STRING: u32 = 9;
const BYTE_ARRAY: u32 = 10;
const STRING_ARRAY: u32 = 17;
const NVLIST: u32 = 19;
const NVLIST_ARRAY: u32 = 20;

/// What is wrong, and at which byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Offset in the file.
    pub at: usize,
    /// What was found.
    pub what: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.what)
    }
}

/// Offset, name and type of a pair.
type Visit<'v> = dyn FnMut(usize, &[u8], u32) -> Result<(), Malformed> + 'v;

/// The names of the pools in the bytes of a zpool.cache, in their order.
///
/// # Errors
/// It is no zpool.cache. The error says where its structure ends or makes no sense.
pub fn pool_names(bytes: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    pairs(bytes, &mut |at, name, kind| {
        let name = std::str::from_utf8(name).ok().filter(|name| is_pool_name(name));
        match name {
            Some(name) if kind == NVLIST => names.push(name.to_owned()),
            _ => return Err(Malformed { at, what: "this is not the entry of a pool" }),
        }
        Ok(())
    })?;
    Ok(names)
}

/// Goes through a packed nvlist, and passes the pairs of the outermost list to `visit`.
pub(crate) fn pairs(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Malformed> {
    let mut reader = Reader { bytes, at: 0 };
    let header = reader.take(4)?;
    match (header[0], header[1]) {
        (NATIVE, ORDER) => native::list(&mut reader, visit),
        (NATIVE, _) => Err(Malformed { at: 1, what: "an nvlist of another byte order" }),
        (XDR, _) => xdr::list(&mut reader, 0, visit),
        _ => Err(Malformed { at: 0, what: "no nvlist" }),
    }
}

/// What is still to be read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { at: self.at, what })
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let Some(taken) = rest.get(..count) else { return self.bad("it ends in the middle") };
        self.at += count;
        Ok(taken)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// A number of four bytes.
    fn word(&mut self, decode: fn([u8; 4]) -> u32) -> Result<u32, Malformed> {
        let bytes = self.take(4)?;
        Ok(decode([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// The version of a list (NV_VERSION), and its flags.
    fn version(&mut self, decode: fn([u8; 4]) -> u32) -> Result<(), Malformed> {
        let at = self.at;
        match self.word(decode)? {
            0 => self.take(4).map(drop),
            _ => Err(Malformed { at, what: "an nvlist of an unknown version" }),
        }
    }
}

#[cfg(test)]
mod tests;
