//! The section table of a PE file, the format of EFI programs (Microsoft's "PE Format"). A PE
//! container of a kernel needs nothing else of the format.
//!
//! The `object` crate reads PE too. Its feature for that makes every `object::File` one of more
//! formats: the parser of modules would accept COFF objects, and zfs-load would grow by 12 KB.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::bytes::Bytes;
use super::headers::{u16_at, u32_at};

/// The DOS header; its last field is where the PE header is.
const DOS_HEADER: usize = 0x40;
/// Signature and file header. The optional header follows.
const PE_HEADER: usize = 24;
/// One section header.
const SECTION: usize = 40;

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    name: [u8; 8],
    /// Where its content is in the file, without padding.
    pub(super) content: Range<u64>,
}

impl Section {
    /// Whether this is its name. Names have up to eight bytes.
    pub(super) fn is(&self, name: &str) -> bool {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..end] == name.as_bytes()
    }
}

/// The sections in the order of the table. There are at most 65535: their number has 16 bits.
///
/// # Errors
/// The file is no PE file, or its headers are cut short. Contents are not looked at: a range may
/// lead out of the file.
pub(super) fn sections(bytes: &Bytes<'_>) -> Result<Vec<Section>> {
    let dos = bytes.head(0, DOS_HEADER)?;
    ensure!(dos.len() == DOS_HEADER && dos.starts_with(b"MZ"), "no DOS header");
    let at = u32_at(&dos, 0x3c)? as u64;
    let header = bytes.all_of(&(at..at + PE_HEADER as u64), PE_HEADER).context("PE header")?;
    ensure!(header.starts_with(b"PE\0\0"), "no PE header at {at:#x}");
    let (count, optional) = (u16_at(&header, 6)?, u16_at(&header, 20)?);
    let table = at + (PE_HEADER + optional) as u64;
    let length = count * SECTION;
    let table = bytes.all_of(&(table..table + length as u64), length);
    let table = table.with_context(|| format!("the table of its {count} sections"))?;
    table.chunks_exact(SECTION).map(section).collect()
}

/// `VirtualSize` counts the bytes of the content, and may count memory that is cleared after them.
/// `SizeOfRawData` counts the padding in the file. The smaller one counts what is there. Objects
/// have no `VirtualSize`: it is 0.
fn section(header: &[u8]) -> Result<Section> {
    let word = |at| u32_at(header, at).map(|word| word as u64);
    let (memory, raw, begin) = (word(8)?, word(16)?, word(20)?);
    let length = if memory == 0 { raw } else { raw.min(memory) };
    let name = header.first_chunk().copied().context("header cut short")?;
    Ok(Section { name, content: begin..begin + length })
}
