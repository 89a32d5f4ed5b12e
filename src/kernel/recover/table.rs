//! The export tables of a linked kernel (include/linux/export-internal.h). An entry says where a
//! symbol, its name and its namespace are. Separate tables hold the CRCs and, since Linux 7.1, the
//! flags.

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;

use crate::module::{Budget, Export, namespace, symbol_name};

/// Bytes of the kernel, and the address that they have in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) address: u64,
}

/// One table of exports with its CRCs and its licence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table<'a> {
    /// `__ksymtab` or `__ksymtab_gpl`.
    pub(super) entries: Part<'a>,
    /// `__kcrctab` or `__kcrctab_gpl`; empty without CONFIG_MODVERSIONS.
    pub(super) crcs: &'a [u8],
    pub(super) licence: Licence<'a>,
}

/// How the kernel marks exports that are for GPL-compatible modules only.
#[derive(Clone, Copy, Debug)]
pub(super) enum Licence<'a> {
    /// By table: all exports of a table are GPL-only, or none is.
    Table { gpl_only: bool },
    /// By bit 0 of one byte for each export (`__kflagstab`, Linux 7.1).
    Flags(&'a [u8]),
}

/// `struct kernel_symbol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Bytes of a field.
    field: usize,
    /// Fields hold the distance from themselves (CONFIG_HAVE_ARCH_PREL32_RELOCATIONS).
    relative: bool,
    /// The third field is there (since Linux 5.4).
    namespace: bool,
}

impl Layout {
    /// PREL32, as all but exotic machines have it.
    pub(super) const PREL32: Layout = Layout { field: 4, relative: true, namespace: true };
    /// All layouts, for 64 and 32 bits.
    const ALL: [Layout; 6] = [
        Layout::PREL32,
        Layout { field: 8, relative: false, namespace: true },
        Layout { field: 4, relative: true, namespace: false },
        Layout { field: 8, relative: false, namespace: false },
        Layout { field: 4, relative: false, namespace: true },
        Layout { field: 4, relative: false, namespace: false },
    ];

    /// Bytes of an entry.
    pub(super) fn size(self) -> usize {
        self.field * if self.namespace { 3 } else { 2 }
    }
}

/// The tables of one kernel and the strings that they point into.
pub(super) struct Tables<'a> {
    pub(super) tables: Vec<Table<'a>>,
    pub(super) strings: Part<'a>,
    pub(super) endian: Endianness,
}

impl Tables<'_> {
    /// All exports, in the order of the tables.
    ///
    /// # Errors
    /// The tables fit none of the layouts, or do not fit each other.
    pub(super) fn read(&self) -> Result<Vec<Export>> {
        let mut why = None;
        let with = |crcs: bool| {
            self.tables.iter().any(|t| !t.entries.bytes.is_empty() && t.crcs.is_empty() != crcs)
        };
        ensure!(!(with(true) && with(false)), "one export table with CRCs, the other without");
        for layout in Layout::ALL {
            match self.read_as(layout) {
                Ok(exports) if exports.is_empty() => bail!("the export tables are empty"),
                Ok(exports) => return Ok(exports),
                // Keep the first error: it is that of the usual layout, and tells most.
                Err(e) => why = why.or(Some(e)),
            }
        }
        let why = why.context("no layout was tried")?;
        Err(why.context("the export tables have no known layout"))
    }

    fn read_as(&self, layout: Layout) -> Result<Vec<Export>> {
        let (mut exports, mut budget) = (Vec::new(), Budget::new());
        for table in &self.tables {
            let size = layout.size();
            let bytes = table.entries.bytes;
            ensure!(bytes.len().is_multiple_of(size), "{} bytes of {size} each", bytes.len());
            let count = bytes.len() / size;
            let crcs = table.crcs.len();
            ensure!(crcs == 0 || crcs == count * 4, "{crcs} bytes of CRCs for {count} symbols");
            for index in 0..count {
                let export = self.entry(table, layout, index);
                let export = export.with_context(|| format!("entry {index} of {count}"))?;
                budget.take(export.name.len() + export.namespace.len())?;
                exports.push(export);
            }
        }
        Ok(exports)
    }

    fn entry(&self, table: &Table, layout: Layout, index: usize) -> Result<Export> {
        let at = index * layout.size();
        let name = self.pointer(table.entries, layout, at + layout.field)?;
        let name = symbol_name(self.string(name.context("no name")?)?)?;
        let space = if layout.namespace {
            self.pointer(table.entries, layout, at + 2 * layout.field)?
        } else {
            None
        };
        let space = space.map_or(Ok(&b""[..]), |address| self.string(address))?;
        let crc = table.crcs.get(index * 4..).and_then(<[u8]>::first_chunk);
        let gpl_only = match table.licence {
            Licence::Table { gpl_only } => gpl_only,
            Licence::Flags(flags) => flags.get(index).context("too few flags")? & 1 == 1,
        };
        Ok(Export {
            name: name.to_owned(),
            crc: crc.map(|crc| self.word(*crc)),
            gpl_only,
            namespace: namespace(space)?.to_owned(),
        })
    }

    /// Where the field at `at` points to; `None` when it is null.
    fn pointer(&self, entries: Part, layout: Layout, at: usize) -> Result<Option<u64>> {
        let bytes = entries.bytes.get(at..).unwrap_or_default();
        let value = match layout.field {
            4 => u64::from(self.word(*bytes.first_chunk().context("cut short")?)),
            _ => {
                let long = *bytes.first_chunk().context("cut short")?;
                match self.endian {
                    Endianness::Little => u64::from_le_bytes(long),
                    Endianness::Big => u64::from_be_bytes(long),
                }
            }
        };
        Ok(match (value, layout.relative) {
            (0, _) => None,
            (value, false) => Some(value),
            (value, true) => {
                // Only the low half was read, so it is sign-extended.
                let distance = i64::from(value as u32 as i32);
                Some(entries.address.wrapping_add(at as u64).wrapping_add_signed(distance))
            }
        })
    }

    fn string(&self, address: u64) -> Result<&[u8]> {
        let offset = address.checked_sub(self.strings.address);
        let offset = offset.and_then(|o| usize::try_from(o).ok());
        let from = offset.and_then(|o| self.strings.bytes.get(o..));
        let from = from.with_context(|| format!("a name at {address:#x}, not in the strings"))?;
        string(from).with_context(|| format!("the string at {address:#x} has no end"))
    }

    fn word(&self, bytes: [u8; 4]) -> u32 {
        match self.endian {
            Endianness::Little => u32::from_le_bytes(bytes),
            Endianness::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// The bytes up to the first NUL, which has to come soon.
pub(super) fn string(bytes: &[u8]) -> Option<&[u8]> {
    let bytes = &bytes[..bytes.len().min(crate::module::MAX_STRING + 1)];
    Some(&bytes[..memchr::memchr(0, bytes)?])
}
