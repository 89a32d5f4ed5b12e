//! One kernel module file (.ko): its `.modinfo`, the symbols it imports and exports, the modules it
//! depends on, and its insertion into the kernel.
//!
//! Everything but [`insert`] and [`kmsg`] is a pure function of bytes. The bytes may be hostile or
//! torn: every reader here returns an error and never panics.

mod compress;
mod elf;
mod exports;
mod info;
pub mod insert;
pub mod kmsg;
mod limits;
mod lines;
pub mod modprobe_d;
pub mod options;
mod order;
pub mod refusal;
mod symbols;
mod this_module;

use anyhow::{Context, Result};

pub use compress::decompress;
pub(crate) use elf::check_sections;
pub(crate) use exports::{namespace, symbol_name};
pub use info::{Info, Vermagic};
pub(crate) use limits::{Budget, MAX_STRING};
pub use order::{Found, order};
pub use symbols::{Export, Import, Version};
pub use this_module::ThisModule;

/// All that is known of one module file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    info: Info,
    imports: Vec<Import>,
    exports: Vec<Export>,
    versions: Vec<Version>,
    this_module: Option<ThisModule>,
}

impl Module {
    /// Reads a decompressed module file ([`decompress`]).
    ///
    /// # Errors
    /// The file is not an ELF relocatable object, has tables that point outside of it or do not fit
    /// their records, or has no `.modinfo`. The caller names the file.
    pub fn parse(bytes: &[u8]) -> Result<Module> {
        let elf = elf::Elf::parse(bytes)?;
        let versions = elf.versions()?;
        let exports = elf.exports().context("export tables")?;
        let this_module = elf.this_module()?;
        let imports = elf.imports(&versions)?;
        Ok(Module { info: elf.info()?, imports, exports, versions, this_module })
    }

    /// Its `.modinfo`.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// `vermagic`, split.
    pub fn vermagic(&self) -> Option<Vermagic<'_>> {
        self.info.vermagic()
    }

    /// `version`, as `modinfo -F version` prints it.
    pub fn version(&self) -> Option<&str> {
        self.info.get("version")
    }

    /// `license`.
    pub fn license(&self) -> Option<&str> {
        self.info.get("license")
    }

    /// The undefined symbols without the weak ones, sorted by name.
    pub fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// The exported symbols, sorted by name.
    pub fn exports(&self) -> &[Export] {
        &self.exports
    }

    /// The CRCs it was built against, in file order; empty without CONFIG_MODVERSIONS.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The layout of `struct module` that it was built with; `None` if it has no such structure.
    pub fn this_module(&self) -> Option<ThisModule> {
        self.this_module
    }
}

/// Only the `.modinfo` of a decompressed module file. This is cheaper than [`Module::parse`], which
/// walks the symbol table of a large module.
///
/// # Errors
/// The file is not an ELF relocatable object, or has no `.modinfo`. The caller names the file.
pub fn read_info(bytes: &[u8]) -> Result<Info> {
    elf::Elf::parse(bytes)?.info()
}

/// [`read_info`] of an open file that is not compressed. It reads only the parts that it needs.
///
/// # Errors
/// As [`read_info`].
pub fn read_info_of_file(file: &std::fs::File) -> Result<Info> {
    let cache = object::ReadCache::new(file);
    elf::Elf::parse(&cache)?.info()
}

/// Whose module a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its `.modinfo`.
    pub info: Info,
    /// It is for the machine that this program is for.
    pub native: bool,
}

/// The [`Head`] of a decompressed module file.
///
/// # Errors
/// As [`read_info`].
pub fn read_head(bytes: &[u8]) -> Result<Head> {
    elf::Elf::parse(bytes)?.head()
}

/// [`read_head`] of an open file that is not compressed. It reads only the parts that it needs.
///
/// # Errors
/// As [`read_info`].
pub fn read_head_of_file(file: &std::fs::File) -> Result<Head> {
    let cache = object::ReadCache::new(file);
    elf::Elf::parse(&cache)?.head()
}

/// What a module shares with the kernel and other modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Its `.modinfo`.
    pub info: Info,
    /// The exported symbols, sorted by name.
    pub exports: Vec<Export>,
    /// The CRCs it was built against, in file order; empty without CONFIG_MODVERSIONS.
    pub versions: Vec<Version>,
}

/// Only the tables of a decompressed module file. This is cheaper than [`Module::parse`], as
/// [`read_info`] is.
///
/// # Errors
/// As [`Module::parse`]. The caller names the file.
pub fn read_tables(bytes: &[u8]) -> Result<Tables> {
    let elf = elf::Elf::parse(bytes)?;
    let exports = elf.exports().context("export tables")?;
    Ok(Tables { info: elf.info()?, exports, versions: elf.versions()? })
}

/// A module's name as the kernel knows it (`/sys/module/NAME`, `depends=`): every `-` becomes `_`.
/// modprobe(8) says that there is no difference between the two.
pub fn canonical_name(name: &str) -> String {
    name.replace('-', "_")
}

/// The suffixes of module files, plain and compressed (depmod(8)).
pub const SUFFIXES: [&str; 4] = [".ko", ".ko.gz", ".ko.xz", ".ko.zst"];

/// The module name in a file name: without directories and without `.ko`, `.ko.gz`, `.ko.xz` or
/// `.ko.zst`, and with `_` for `-`. `None` if it is not the name of a module file.
pub fn name_of_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = SUFFIXES.iter().find_map(|s| file.strip_suffix(s))?;
    (!stem.is_empty()).then(|| canonical_name(stem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_file_name_gives_the_kernels_module_name() {
        for (path, want) in [
            ("extra/zfs.ko", Some("zfs")),
            ("kernel/crypto/crct10dif-common.ko.xz", Some("crct10dif_common")),
            ("a.ko.gz", Some("a")),
            ("a.ko.zst", Some("a")),
            ("modules.dep", None),
            ("zfs.ko.bak", None),
            ("extra/.ko", None),
            ("", None),
        ] {
            assert_eq!(name_of_path(path).as_deref(), want, "{path}");
        }
    }
}
