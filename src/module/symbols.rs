//! What a module wants from the kernel and gives to it: undefined symbols with the CRCs it was
//! built against, and its export tables (kernel/module/version.c, include/linux/export*.h,
//! scripts/mod/modpost.c of Linux 4.x to 7.x).

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, SymbolSection};

use super::elf::Elf;

/// A symbol that has to be exported by the kernel or another module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The symbol.
    pub name: String,
    /// The CRC recorded when the module was built; `None` without CONFIG_MODVERSIONS.
    pub crc: Option<u32>,
}

/// A symbol the module exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The symbol.
    pub name: String,
    /// Its CRC; `None` without CONFIG_MODVERSIONS.
    pub crc: Option<u32>,
    /// Only for modules under a GPL-compatible licence.
    pub gpl_only: bool,
    /// The symbol namespace, or empty.
    pub namespace: String,
}

/// A record of `__versions`: a symbol and the CRC the module was built against. Not every one is
/// an undefined symbol: `module_layout` stands for the layout of `struct module`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The symbol.
    pub name: String,
    /// Its CRC.
    pub crc: u32,
}

/// Undefined in an object file, but not resolved through export tables: modpost.c ignores them
/// too (`ignore_undef_symbol`).
const NOT_IMPORTS: [&str; 4] = ["__this_module", "_GLOBAL_OFFSET_TABLE_", ".TOC.", "TOC."];

/// A record of `__versions` is 64 bytes: an `unsigned long`, then the name
/// (`struct modversion_info`; MODULE_NAME_LEN is chosen so).
const RECORD: usize = 64;

impl Elf<'_> {
    /// The undefined symbols of the module, weak ones left out, sorted by name, each with the
    /// CRC of `versions`.
    pub(super) fn imports(&self, versions: &[Version]) -> Result<Vec<Import>> {
        let crcs: HashMap<&str, u32> = versions.iter().map(|v| (v.name.as_str(), v.crc)).collect();
        let mut imports = Vec::new();
        for symbol in self.symbols() {
            let s = symbol?;
            if s.undefined && s.global && !s.weak && !NOT_IMPORTS.contains(&s.name) {
                imports.push(Import { name: s.name.to_owned(), crc: crcs.get(s.name).copied() });
            }
        }
        imports.sort_by(|a, b| a.name.cmp(&b.name));
        imports.dedup();
        Ok(imports)
    }

    /// The CRCs the module was built against, in file order; empty without CONFIG_MODVERSIONS.
    /// `__version_ext_crcs` and `__version_ext_names` (Linux 6.14, any length of name) before
    /// `__versions`, as the kernel does it.
    pub(super) fn versions(&self) -> Result<Vec<Version>> {
        if let Some(crcs) = self.section("__version_ext_crcs")? {
            return self.extended_versions(crcs);
        }
        let Some(table) = self.section("__versions")? else { return Ok(Vec::new()) };
        if !table.len().is_multiple_of(RECORD) {
            bail!("__versions has {} bytes, not a multiple of {RECORD}", table.len());
        }
        table.chunks_exact(RECORD).map(|r| self.version(r)).collect()
    }

    fn version(&self, record: &[u8]) -> Result<Version> {
        let long = self.long();
        // The CRC is the low half of an unsigned long.
        let low = if self.elf.is_little_endian() { 0 } else { long - 4 };
        let crc = self.u32_at(record, low).context("__versions: short record")?;
        let name = record[long..].split(|&b| b == 0).next().unwrap_or_default();
        Ok(Version { name: symbol_name(name, "__versions")?, crc })
    }

    fn extended_versions(&self, crcs: &[u8]) -> Result<Vec<Version>> {
        let names = self.section("__version_ext_names")?;
        let mut names = names.context("__version_ext_crcs without __version_ext_names")?;
        if !crcs.len().is_multiple_of(4) {
            bail!("__version_ext_crcs has {} bytes, not a multiple of 4", crcs.len());
        }
        let mut versions = Vec::with_capacity(crcs.len() / 4);
        for offset in (0..crcs.len()).step_by(4) {
            let end = names.iter().position(|&b| b == 0);
            let end = end.context("__version_ext_names has fewer names than there are CRCs")?;
            let crc = self.u32_at(crcs, offset).context("__version_ext_crcs: short record")?;
            versions
                .push(Version { name: symbol_name(&names[..end], "__version_ext_names")?, crc });
            names = &names[end + 1..];
        }
        Ok(versions)
    }

    /// The symbols the module exports, sorted by name.
    pub(super) fn exports(&self) -> Result<Vec<Export>> {
        let mut crcs = HashMap::new();
        let mut namespaces = HashMap::new();
        let mut entries = Vec::new();
        for symbol in self.symbols() {
            let s = symbol?;
            if let Some(name) = s.name.strip_prefix("__crc_")
                && !s.undefined
            {
                crcs.insert(name, self.crc(s.section, s.value).with_context(|| s.name.to_owned())?);
            } else if let Some(name) = s.name.strip_prefix("__kstrtabns_")
                && !s.undefined
            {
                let namespace = self.namespace(s.section, s.value);
                namespaces.insert(name, namespace.with_context(|| s.name.to_owned())?);
            } else if let Some(name) = s.name.strip_prefix("__ksymtab_")
                && let SymbolSection::Section(index) = s.section
            {
                let section = self.elf.section_by_index(index)?;
                let table = section.name()?;
                // Linked modules have `__ksymtab[_gpl]`; `___ksymtab[_gpl]+name` before linking.
                if table.trim_start_matches('_').starts_with("ksymtab") {
                    entries.push((name, table, s.value));
                }
            }
        }
        let flags = self.section("__kflagstab")?;
        // The flags are an array beside `__ksymtab`: what counts is the entry's place in it.
        entries.sort_by_key(|&(_, _, value)| value);
        let mut exports = Vec::with_capacity(entries.len());
        for (place, &(name, table, _)) in entries.iter().enumerate() {
            let gpl_only = match flags {
                Some(flags) => flags.get(place).context("__kflagstab is too short")? & 1 == 1,
                None => table.contains("ksymtab_gpl"),
            };
            let namespace = namespaces.get(name).copied().unwrap_or_default().to_owned();
            let crc = crcs.get(name).copied();
            exports.push(Export { name: name.to_owned(), crc, gpl_only, namespace });
        }
        exports.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(exports)
    }

    /// A `__kstrtabns_` symbol (Linux 5.4) stands where the namespace is, which is mostly empty.
    fn namespace(&self, section: SymbolSection, value: u64) -> Result<&str> {
        let SymbolSection::Section(index) = section else { bail!("namespace in {section:?}") };
        let data = self.elf.section_by_index(index)?.data()?;
        let bytes = data.get(usize::try_from(value)?..).context("points outside its section")?;
        let end = bytes.iter().position(|&b| b == 0).context("namespace without an end")?;
        std::str::from_utf8(&bytes[..end]).context("namespace that is not UTF-8")
    }

    /// A `__crc_` symbol is the CRC itself (absolute, before Linux 5.19) or stands where the CRC
    /// is stored.
    fn crc(&self, section: SymbolSection, value: u64) -> Result<u32> {
        match section {
            SymbolSection::Absolute => Ok(u32::try_from(value & 0xffff_ffff)?),
            SymbolSection::Section(index) => {
                let data = self.elf.section_by_index(index)?.data()?;
                self.u32_at(data, usize::try_from(value)?).context("points outside its section")
            }
            other => bail!("CRC symbol in {other:?}"),
        }
    }
}

fn symbol_name(bytes: &[u8], table: &str) -> Result<String> {
    let name = std::str::from_utf8(bytes).ok().filter(|n| !n.is_empty());
    Ok(name.with_context(|| format!("{table}: a record without a readable name"))?.to_owned())
}
