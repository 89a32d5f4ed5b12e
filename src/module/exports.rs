//! Reads the export tables of a module as the kernel does (kernel/module/main.c). It does not use
//! the names of local symbols: strip may remove those. Relocations fill in the fields.

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, ReadRef, RelocationTarget, SectionIndex};

use super::elf::Elf;
use super::limits::{Budget, MAX_ENTRIES, MAX_STRING};
use super::symbols::Export;

/// Names of a table and of its CRCs, and whether its symbols are GPL-only if there are no flags.
const TABLES: [(&str, &str, bool); 2] =
    [("__ksymtab", "__kcrctab", false), ("__ksymtab_gpl", "__kcrctab_gpl", true)];

/// The size of a table entry, and the offsets of name and namespace in it: PREL32 and absolute
/// since Linux 5.4, then both before 5.4. (Relocations make PREL32 and absolute fields alike.)
const LAYOUTS: [(usize, usize, Option<usize>); 4] =
    [(12, 4, Some(8)), (24, 8, Some(16)), (8, 4, None), (16, 8, None)];

/// The value that a relocation writes.
#[derive(Clone, Copy, Debug)]
enum Value {
    /// A symbol that is not defined.
    Undefined,
    /// A number.
    Absolute(u64),
    /// An offset in a section.
    Place(SectionIndex, u64),
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    /// The symbols the module exports, sorted by name.
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let mut exports = Vec::new();
        for (table, crcs, gpl_only) in TABLES {
            let Some(section) = self.elf.section_by_name(table) else { continue };
            if section.size() > 0 {
                let all = self.table(&section, crcs, gpl_only);
                exports.append(&mut all.with_context(|| table.to_owned())?);
            }
        }
        let with = exports.iter().filter(|e: &&Export| e.crc.is_some()).count();
        ensure!(with == 0 || with == exports.len(), "one table with CRCs, the other without");
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(exports)
    }

    fn table(
        &self,
        section: &object::Section<'data, '_, R>,
        crcs: &str,
        gpl_only: bool,
    ) -> Result<Vec<Export>> {
        let strings = self.elf.section_by_name("__ksymtab_strings");
        let strings = strings.context("no __ksymtab_strings")?;
        let strings = (strings.index(), strings.data().context("__ksymtab_strings")?);
        let names = Names { fields: self.relocations(section)?, strings };
        let size = usize::try_from(section.size())?;
        let mut found = None;
        for layout in LAYOUTS {
            found = names.read(size, layout)?;
            if found.is_some() {
                break;
            }
        }
        let mut exports = found.context("its entries have no known layout")?;
        let crcs = self.crcs(crcs, exports.len())?;
        let flags = self.section("__kflagstab")?;
        for (index, export) in exports.iter_mut().enumerate() {
            export.crc = crcs.get(index).copied();
            export.gpl_only = match flags {
                Some(flags) => flags.get(index).context("__kflagstab is too short")? & 1 == 1,
                None => gpl_only,
            };
        }
        Ok(exports)
    }

    /// The CRCs of a table of `count` symbols. Empty if there is no such section.
    fn crcs(&self, name: &str, count: usize) -> Result<Vec<u32>> {
        let Some(section) = self.elf.section_by_name(name) else { return Ok(Vec::new()) };
        let data = section.data().with_context(|| name.to_owned())?;
        ensure!(data.len() == count * 4, "{name}: {} bytes for {count} symbols", data.len());
        let words = (0..count).map(|index| self.u32_at(data, index * 4));
        let mut crcs: Vec<u32> =
            words.collect::<Option<_>>().with_context(|| format!("{name}: cut short"))?;
        // Before Linux 5.19 a relocation fills in the CRC. Its symbol is absolute, and its value is
        // the CRC; or it says where the CRC is.
        for (offset, value) in self.relocations(&section).with_context(|| name.to_owned())? {
            let index = usize::try_from(offset / 4)?;
            let crc = crcs.get_mut(index).context("a relocation outside of the CRCs")?;
            *crc = match value {
                Value::Undefined => 0,
                Value::Absolute(value) => u32::try_from(value & 0xffff_ffff)?,
                Value::Place(section, offset) => {
                    let data = self.elf.section_by_index(section)?.data()?;
                    let crc = self.u32_at(data, usize::try_from(offset)?);
                    crc.context("a CRC's symbol points outside of its section")?
                }
            };
        }
        Ok(crcs)
    }

    /// The relocations of a section, sorted by offset.
    fn relocations(&self, section: &object::Section<'data, '_, R>) -> Result<Vec<(u64, Value)>> {
        let mut values = Vec::new();
        for (offset, relocation) in section.relocations() {
            // An entry has three fields, with one relocation each.
            ensure!(values.len() < 3 * MAX_ENTRIES, "more relocations than any module has");
            if relocation.has_implicit_addend() {
                bail!("relocations without addends (REL): no 64-bit machine has them");
            }
            let RelocationTarget::Symbol(index) = relocation.target() else {
                bail!("a relocation without a symbol");
            };
            let symbol = self.elf.symbol_by_index(index).context("a relocation's symbol")?;
            let value = symbol.address().wrapping_add_signed(relocation.addend());
            values.push((
                offset,
                match symbol.section() {
                    object::SymbolSection::Section(section) => Value::Place(section, value),
                    object::SymbolSection::Absolute => Value::Absolute(value),
                    _ => Value::Undefined,
                },
            ));
        }
        values.sort_by_key(|(offset, _)| *offset);
        Ok(values)
    }
}

/// The fields of a table, and what they point into.
struct Names<'a> {
    fields: Vec<(u64, Value)>,
    strings: (SectionIndex, &'a [u8]),
}

impl<'a> Names<'a> {
    /// Reads names and namespaces of a table of `size` bytes; `None` if it does not have this
    /// layout.
    ///
    /// # Errors
    /// The table has more names, or longer ones, than any module.
    fn read(
        &self,
        size: usize,
        layout: (usize, usize, Option<usize>),
    ) -> Result<Option<Vec<Export>>> {
        let (entry, name, space) = layout;
        if !size.is_multiple_of(entry) || size / entry > self.fields.len() {
            return Ok(None);
        }
        let strings = |at: usize| {
            let name = symbol_name(self.string(at + name)??).ok()?;
            let space = match space {
                Some(space) => self.string(at + space)?.unwrap_or_default(),
                None => b"",
            };
            Some((name, namespace(space).ok()?))
        };
        let (mut exports, mut budget) = (Vec::new(), Budget::new());
        for at in (0..size).step_by(entry) {
            let Some((name, space)) = strings(at) else { return Ok(None) };
            budget.take(name.len() + space.len())?;
            let (name, namespace) = (name.to_owned(), space.to_owned());
            exports.push(Export { name, crc: None, gpl_only: false, namespace });
        }
        Ok(Some(exports))
    }

    /// The string that the field at `at` points to; `Some(None)` if no relocation fills the field.
    fn string(&self, at: usize) -> Option<Option<&'a [u8]>> {
        let found = self.fields.binary_search_by_key(&(at as u64), |(offset, _)| *offset);
        let Ok(index) = found else { return Some(None) };
        let (section, bytes) = self.strings;
        match self.fields.get(index)?.1 {
            Value::Place(place, offset) if place == section => {
                let bytes = bytes.get(usize::try_from(offset).ok()?..)?;
                let bytes = &bytes[..bytes.len().min(MAX_STRING + 1)];
                Some(Some(&bytes[..memchr::memchr(0, bytes)?]))
            }
            _ => None,
        }
    }
}

/// The name of a symbol. It has to be printable, to be a field of a Module.symvers.
pub(crate) fn symbol_name(bytes: &[u8]) -> Result<&str> {
    let name = std::str::from_utf8(bytes).ok();
    let name = name.filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_graphic()));
    name.with_context(|| format!("not a symbol's name: {:?}", String::from_utf8_lossy(bytes)))
}

/// A symbol namespace. It has to be printable or empty.
pub(crate) fn namespace(bytes: &[u8]) -> Result<&str> {
    let space = std::str::from_utf8(bytes).ok();
    let space = space.filter(|n| n.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
    space.with_context(|| format!("not a namespace: {:?}", String::from_utf8_lossy(bytes)))
}
