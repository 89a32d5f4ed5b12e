//! The symbols that a module needs from the kernel: undefined symbols with the CRCs that the module
//! was built against (kernel/module/version.c, scripts/mod/modpost.c of Linux 4.x to 7.x).

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ReadRef};

use super::elf::Elf;
use super::limits::{Budget, MAX_ENTRIES};

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

/// A record of `__versions`: a symbol and the CRC the module was built against. Not every record is
/// for an undefined symbol: `module_layout` stands for the layout of `struct module`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The symbol.
    pub name: String,
    /// Its CRC.
    pub crc: u32,
}

/// Symbols that are undefined in an object file, but that no export table resolves. modpost.c
/// ignores them too (`ignore_undef_symbol`).
const NOT_IMPORTS: [&str; 4] = ["__this_module", "_GLOBAL_OFFSET_TABLE_", ".TOC.", "TOC."];

/// A record of `__versions` is 64 bytes: an `unsigned long`, then the name
/// (`struct modversion_info`; MODULE_NAME_LEN is chosen so).
const RECORD: usize = 64;

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    /// The undefined symbols of the module without the weak ones, sorted by name, each with its CRC
    /// from `versions`.
    pub(super) fn imports(&self, versions: &[Version]) -> Result<Vec<Import>> {
        let crcs: HashMap<&str, u32> = versions.iter().map(|v| (v.name.as_str(), v.crc)).collect();
        let (mut imports, mut budget) = (Vec::new(), Budget::new());
        for symbol in self.symbols() {
            let s = symbol?;
            if s.undefined && s.global && !s.weak && !NOT_IMPORTS.contains(&s.name) {
                budget.take(s.name.len())?;
                imports.push(Import { name: s.name.to_owned(), crc: crcs.get(s.name).copied() });
            }
        }
        imports.sort_by(|a, b| a.name.cmp(&b.name));
        imports.dedup();
        Ok(imports)
    }

    /// The CRCs the module was built against, in file order; empty without CONFIG_MODVERSIONS.
    /// Like the kernel, it prefers `__version_ext_crcs` and `__version_ext_names` (Linux 6.14,
    /// names of any length) to `__versions`.
    pub(super) fn versions(&self) -> Result<Vec<Version>> {
        if let Some(crcs) = self.section("__version_ext_crcs")? {
            return self.extended_versions(crcs);
        }
        let Some(table) = self.section("__versions")? else { return Ok(Vec::new()) };
        if !table.len().is_multiple_of(RECORD) {
            bail!("__versions has {} bytes, not a multiple of {RECORD}", table.len());
        }
        ensure!(table.len() / RECORD <= MAX_ENTRIES, "__versions: more than any module imports");
        table.chunks_exact(RECORD).map(|r| self.version(r)).collect()
    }

    fn version(&self, record: &[u8]) -> Result<Version> {
        let long = self.long();
        // The CRC is the low half of an unsigned long.
        let low = if self.elf.is_little_endian() { 0 } else { long - 4 };
        let crc = self.u32_at(record, low).context("__versions: short record")?;
        let name = record[long..].split(|&b| b == 0).next().unwrap_or_default();
        Ok(Version { name: version_name(name, "__versions")?, crc })
    }

    fn extended_versions(&self, crcs: &[u8]) -> Result<Vec<Version>> {
        let names = self.section("__version_ext_names")?;
        let mut names = names.context("__version_ext_crcs without __version_ext_names")?;
        if !crcs.len().is_multiple_of(4) {
            bail!("__version_ext_crcs has {} bytes, not a multiple of 4", crcs.len());
        }
        ensure!(crcs.len() / 4 <= MAX_ENTRIES, "__version_ext_crcs: more than any module imports");
        let mut versions = Vec::with_capacity(crcs.len() / 4);
        for offset in (0..crcs.len()).step_by(4) {
            let end = names.iter().position(|&b| b == 0);
            let end = end.context("__version_ext_names has fewer names than there are CRCs")?;
            let crc = self.u32_at(crcs, offset).context("__version_ext_crcs: short record")?;
            versions
                .push(Version { name: version_name(&names[..end], "__version_ext_names")?, crc });
            names = &names[end + 1..];
        }
        Ok(versions)
    }
}

fn version_name(bytes: &[u8], table: &str) -> Result<String> {
    let name = std::str::from_utf8(bytes).ok().filter(|n| !n.is_empty());
    Ok(name.with_context(|| format!("{table}: a record without a readable name"))?.to_owned())
}
