//! Checks that the built modules fit this kernel, before anything is published. The kernel would
//! refuse them too, but only at the next boot.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkdir::{DirEntry, WalkDir};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::{Host, Release};
use crate::kernel::{Exported, Symvers, guard};
use crate::module::{
    Import, Module, ThisModule, Vermagic, canonical_name, decompress, name_of_path,
};

/// Licences that let a module use GPL-only symbols (`license_is_gpl_compatible`,
/// include/linux/license.h).
const GPL_COMPATIBLE: [&str; 6] =
    ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];

/// What the kernel expects from a module.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The kernel's release.
    pub release: Release,
    /// The whole vermagic of a module that came with the kernel. None if no module came with it.
    pub vermagic: Option<String>,
    /// The layout of `struct module` in modules that came with the kernel.
    pub this_module: Option<ThisModule>,
    /// What the kernel exports.
    pub symvers: &'a Symvers,
}

/// What verification learnt about the modules.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// vermagic of all of them.
    pub vermagic: String,
    /// `version` of zfs.ko.
    pub zfs_version: String,
}

impl Expected<'_> {
    /// What kernel `release` of this host expects. vermagic and the layout of `struct module` come
    /// from the modules below /usr/lib/modules/RELEASE/kernel.
    ///
    /// # Errors
    /// None of the first of those modules can be read. If only some cannot, a warning names them.
    pub fn of<'a>(host: &Host, release: &Release, symvers: &'a Symvers) -> Result<Expected<'a>> {
        let dir = host.path(format!("/usr/lib/modules/{release}/kernel"));
        let shipped = Shipped::below(&dir)?;
        Ok(Expected {
            release: release.clone(),
            vermagic: shipped.vermagic,
            this_module: shipped.this_module,
            symvers,
        })
    }
}

/// What a kernel's own modules say about it.
#[derive(Debug, Default)]
struct Shipped {
    vermagic: Option<String>,
    this_module: Option<ThisModule>,
}

impl Shipped {
    /// At most this many modules are read to find the places of init and exit. One is not enough: a
    /// library of functions has no init, and a module that cannot be unloaded has no exit.
    const LOOKED_AT: usize = 64;

    fn below(dir: &Path) -> Result<Shipped> {
        let (mut shipped, mut unreadable) = (Shipped::default(), None);
        for path in modules_below(dir).take(Shipped::LOOKED_AT) {
            match read(&path) {
                Ok(module) => shipped.add(&module),
                Err(error) => {
                    // One damaged file says nothing about the others.
                    tracing::warn!("{error:#}; the built modules are not compared with this one");
                    unreadable = unreadable.or(Some(error));
                    continue;
                }
            }
            if shipped.this_module.is_some_and(|m| m.init.is_some() && m.exit.is_some()) {
                break;
            }
        }
        match unreadable {
            Some(error) if shipped.vermagic.is_none() => Err(error),
            _ => Ok(shipped),
        }
    }

    fn add(&mut self, module: &Module) {
        self.vermagic = self.vermagic.take().or_else(|| module.vermagic().map(|v| v.to_string()));
        let (Some(ours), Some(new)) = (self.this_module, module.this_module()) else {
            self.this_module = self.this_module.or(module.this_module());
            return;
        };
        let (init, exit) = (ours.init.or(new.init), ours.exit.or(new.exit));
        self.this_module = Some(ThisModule { size: ours.size, init, exit });
    }
}

fn read(path: &Path) -> Result<Module> {
    let shown = || format!("{}", path.display());
    let bytes = fs::read(path).with_context(shown)?;
    Module::parse(&decompress(path, bytes).with_context(shown)?).with_context(shown)
}

/// Checks modules (path for messages, bytes) against the kernel and against each other:
/// - vermagic and the layout of `struct module` are the kernel's;
/// - each import is exported, with the same CRC;
/// - only GPL-compatible modules import GPL-only symbols;
/// - only modules that import a namespace use its symbols.
///
/// # Errors
/// [`Exit::Refused`]. It names the modules and the first twenty problems.
pub fn verify(files: &[(&Path, &[u8])], expected: &Expected) -> Result<Verified> {
    let mut modules = Vec::new();
    for (path, bytes) in files {
        let module = Module::parse(bytes)
            .with_context(|| format!("{}", path.display()))
            .exit(Exit::Refused)?;
        modules.push((*path, module));
    }
    let mut siblings = HashMap::new();
    for (path, module) in &modules {
        for export in module.exports() {
            let exported = Exported { owner: path.display().to_string(), export: export.clone() };
            siblings.insert(export.name.as_str(), exported);
        }
    }
    let mut problems = Vec::new();
    for (path, module) in &modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = check(&name, module, expected, &siblings);
        problems.extend(found.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    if !problems.is_empty() {
        let more = problems.len().saturating_sub(20);
        problems.truncate(20);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        fail!(
            Exit::Refused,
            "the built modules do not fit kernel {}; nothing was published:\n  {}{more}",
            expected.release,
            problems.join("\n  ")
        );
    }
    summary(&modules)
}

fn summary(modules: &[(&Path, Module)]) -> Result<Verified> {
    let zfs = modules.iter().find(|(path, _)| path.file_stem().is_some_and(|s| s == "zfs"));
    let Some((_, zfs)) = zfs else {
        fail!(Exit::Refused, "the build yielded no zfs.ko");
    };
    Ok(Verified {
        vermagic: zfs.vermagic().map(|v| v.to_string()).unwrap_or_default(),
        zfs_version: zfs.version().unwrap_or("unknown").to_owned(),
    })
}

fn check(
    file: &str,
    module: &Module,
    expected: &Expected,
    siblings: &HashMap<&str, Exported>,
) -> Vec<String> {
    let mut problems = Vec::new();
    match module.vermagic() {
        None => problems.push("no vermagic: not a kernel module".to_owned()),
        Some(found) => problems.extend(check_vermagic(&found, expected)),
    }
    problems.extend(check_layout(module, expected));
    let forbidden = module.info().all("import_ns").filter(|ns| ns.starts_with(MODULE_NAMESPACE));
    problems.extend(forbidden.map(|ns| {
        format!("imports the namespace {ns:?} by name, which the kernel allows to no module")
    }));
    for import in module.imports() {
        let name = &import.name;
        let sibling = siblings.get(name.as_str());
        let Some(exported) = expected.symvers.get(name).or(sibling) else {
            problems
                .push(format!("imports {name}, which kernel {} does not export", expected.release));
            continue;
        };
        problems.extend(check_right(file, module, exported));
        problems.extend(check_crc(import, exported, expected));
    }
    problems
}

/// Checks that `struct module` has the layout that it has in the kernel's own modules.
fn check_layout(module: &Module, expected: &Expected) -> Vec<String> {
    match (module.this_module(), expected.this_module) {
        (Some(built), Some(shipped)) => guard::differences(built, shipped),
        (None, Some(_)) => vec!["no .gnu.linkonce.this_module: not a kernel module".to_owned()],
        (_, None) => Vec::new(),
    }
}

/// Whether this module may use the symbol at all: licence and namespace.
fn check_right(file: &str, module: &Module, exported: &Exported) -> Vec<String> {
    let Exported { owner, export } = exported;
    let name = &export.name;
    let mut problems = Vec::new();
    if export.gpl_only && !module.license().is_some_and(|l| GPL_COMPATIBLE.contains(&l)) {
        problems.push(format!(
            "imports {name}, which {owner} exports to GPL-compatible modules only; this one is under {:?}",
            module.license().unwrap_or("no licence")
        ));
    }
    if !may_use(&export.namespace, file, module) {
        problems.push(format!(
            "imports {name}, which {owner} exports in the namespace {:?}: this module {}",
            export.namespace,
            if export.namespace.starts_with(MODULE_NAMESPACE) {
                "is none of those it is for"
            } else {
                "does not import it"
            }
        ));
    }
    problems
}

/// Compares the CRC of an import. A kernel without CONFIG_MODVERSIONS has no CRCs: there only
/// vermagic protects it.
fn check_crc(import: &Import, exported: &Exported, expected: &Expected) -> Option<String> {
    let (name, theirs) = (&import.name, exported.export.crc.unwrap_or(0));
    match import.crc {
        _ if !expected.symvers.has_versions() => None,
        Some(crc) if crc != theirs => Some(format!(
            "imports {name} with CRC {crc:#010x}, but {} exports it with {theirs:#010x}",
            exported.owner
        )),
        None => Some(format!("imports {name} without a CRC")),
        Some(_) => None,
    }
}

/// How a namespace begins that no module may import by name. `module:a,b-*` is for modules with
/// these names, and only for those that came with the kernel (`verify_module_namespace`,
/// kernel/module/main.c of Linux 6.16 and newer; Documentation/core-api/symbol-namespaces.rst).
const MODULE_NAMESPACE: &str = "module:";

/// Whether a module in a file of this name may use symbols of this namespace
/// (Documentation/core-api/symbol-namespaces.rst).
fn may_use(namespace: &str, file: &str, module: &Module) -> bool {
    let info = module.info();
    match namespace.strip_prefix(MODULE_NAMESPACE) {
        _ if namespace.is_empty() => true,
        None => info.all("import_ns").any(|imported| imported == namespace),
        Some(list) => {
            let name = info.name().or_else(|| name_of_path(file));
            info.get("intree").is_some() && name.is_some_and(|name| is_listed(&name, list))
        }
    }
}

/// Whether a module is in `list`: names, and beginnings of names with `*`, separated by commas.
fn is_listed(name: &str, list: &str) -> bool {
    list.split(',').map(canonical_name).any(|entry| match entry.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == entry,
    })
}

fn check_vermagic(found: &Vermagic, expected: &Expected) -> Option<String> {
    let found = found.to_string();
    let release = found.split(' ').next().unwrap_or_default();
    if release != expected.release.as_str() {
        return Some(format!("is for kernel {release:?} (vermagic {found:?})"));
    }
    let want = expected.vermagic.as_ref().filter(|want| **want != found)?;
    Some(format!("vermagic is {found:?}, the kernel's own modules have {want:?}"))
}

/// The module files below `dir`, by name. What cannot be read is left out.
fn modules_below(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let files = WalkDir::new(dir).sort_by_file_name().into_iter().flatten();
    let files = files.filter(|entry| !entry.file_type().is_dir()).map(DirEntry::into_path);
    files.filter(|path| path.to_str().and_then(name_of_path).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_namespace_is_a_list_of_names_and_beginnings() {
        for (name, list, listed) in [
            ("kvm_amd", "kvm-amd,kvm-intel", true),
            ("kvm", "kvm-amd,kvm-intel", false),
            ("kvm_intel", "kvm,kvm-*", true),
            ("zfs", "z*", true),
            ("zfs", "spl", false),
            ("zfs", "", false),
            ("zfs", "*", true),
            ("zfs", "zfsx,xzfs", false),
        ] {
            assert_eq!(is_listed(name, list), listed, "{name} in {list:?}");
        }
    }
}
