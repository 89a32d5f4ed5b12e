//! `__this_module`: the `struct module` that modpost compiles into every module, in section
//! `.gnu.linkonce.this_module`. Its size and the offsets of its pointers show the layout of the
//! structure in the kernel that the module was compiled for.

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSection, ObjectSymbol, ReadRef, RelocationTarget};

use super::elf::Elf;
use super::limits::MAX_STRING;

const SECTION: &str = ".gnu.linkonce.this_module";

/// The layout of `struct module` that a module was built with. If the kernel's layout differs, the
/// kernel writes to wrong offsets in it, or calls a pointer that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThisModule {
    /// `sizeof(struct module)`, in bytes.
    pub size: u64,
    /// `offsetof(struct module, init)`; `None` in a module without module_init().
    pub init: Option<u64>,
    /// `offsetof(struct module, exit)`; `None` in a module without module_exit().
    pub exit: Option<u64>,
}

impl<'data, R: ReadRef<'data>> Elf<'data, R> {
    /// The module's `__this_module`; `None` if the object is not linked as a module.
    pub(super) fn this_module(&self) -> Result<Option<ThisModule>> {
        let Some(section) = self.elf.section_by_name(SECTION) else { return Ok(None) };
        let mut found = ThisModule { size: section.size(), init: None, exit: None };
        for (offset, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let symbol = self.elf.symbol_by_index(index).context(SECTION)?;
            let name = symbol.name().context(SECTION)?;
            ensure!(name.len() <= MAX_STRING, "{SECTION}: a name of {} bytes", name.len());
            match name {
                "init_module" => found.init = Some(offset),
                "cleanup_module" => found.exit = Some(offset),
                _ => {}
            }
        }
        Ok(Some(found))
    }
}
