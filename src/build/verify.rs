//! Is what was built right for this kernel? Asked before anything is published: the loader's
//! kernel would refuse it too, but at the next boot.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Host;
use crate::kernel::{Export, Release, Symvers};
use crate::module::{Module, Vermagic, decompress};

/// Licences that let a module use GPL-only symbols (`license_is_gpl_compatible`,
/// include/linux/license.h).
const GPL_COMPATIBLE: [&str; 6] =
    ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];

/// What the kernel wants of a module.
#[derive(Debug)]
pub struct Expected<'a> {
    /// The kernel's release.
    pub release: Release,
    /// The whole vermagic of a module that came with the kernel; none where it has no modules.
    pub vermagic: Option<String>,
    /// What the kernel exports.
    pub symvers: &'a Symvers,
}

/// What was learnt of verified modules.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified {
    /// vermagic of all of them.
    pub vermagic: String,
    /// `version` of zfs.ko.
    pub zfs_version: String,
}

impl Expected<'_> {
    /// What kernel `release` of this host expects; the vermagic is that of the first module found
    /// below /usr/lib/modules/RELEASE/kernel.
    ///
    /// # Errors
    /// That module cannot be read.
    pub fn of<'a>(host: &Host, release: &Release, symvers: &'a Symvers) -> Result<Expected<'a>> {
        let shipped = host.path(format!("/usr/lib/modules/{release}/kernel"));
        let vermagic = match first_module(&shipped) {
            Some(path) => {
                let shown = || format!("{}", path.display());
                let bytes = fs::read(&path).with_context(shown)?;
                let bytes = decompress(&path, bytes).with_context(shown)?;
                let module = Module::parse(&bytes).with_context(shown)?;
                module.vermagic().map(|v| v.to_string())
            }
            None => None,
        };
        Ok(Expected { release: release.clone(), vermagic, symvers })
    }
}

/// Checks modules (path for messages, bytes) against the kernel and against each other: vermagic,
/// each import exported with the same CRC, GPL-only symbols only for GPL-compatible modules.
///
/// # Errors
/// [`Exit::Refused`], naming the module and everything that is wrong with it (the first twenty).
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
            let entry = Export {
                crc: export.crc.unwrap_or(0),
                owner: path.display().to_string(),
                gpl_only: export.gpl_only,
                namespace: String::new(),
            };
            siblings.insert(export.name.as_str(), entry);
        }
    }
    let mut problems = Vec::new();
    for (path, module) in &modules {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = check(module, expected, &siblings);
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

fn check(module: &Module, expected: &Expected, siblings: &HashMap<&str, Export>) -> Vec<String> {
    let mut problems = Vec::new();
    match module.vermagic() {
        None => problems.push("no vermagic: not a kernel module".to_owned()),
        Some(found) => problems.extend(check_vermagic(&found, expected)),
    }
    let gpl = module.license().is_some_and(|l| GPL_COMPATIBLE.contains(&l));
    for import in module.imports() {
        let name = &import.name;
        let sibling = siblings.get(name.as_str());
        let Some(export) = expected.symvers.get(name).or(sibling) else {
            problems
                .push(format!("imports {name}, which kernel {} does not export", expected.release));
            continue;
        };
        if export.gpl_only && !gpl {
            problems.push(format!(
                "imports {name}, which {} exports to GPL-compatible modules only; this one is under {:?}",
                export.owner,
                module.license().unwrap_or("no licence")
            ));
        }
        // A kernel without CONFIG_MODVERSIONS has no CRCs, and vermagic alone protects it.
        let versions = expected.symvers.has_versions();
        match import.crc {
            Some(crc) if versions && crc != export.crc => problems.push(format!(
                "imports {name} with CRC {crc:#010x}, but {} exports it with {:#010x}",
                export.owner, export.crc
            )),
            None if versions => problems.push(format!("imports {name} without a CRC")),
            _ => {}
        }
    }
    problems
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

pub(super) fn first_module(dir: &Path) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).collect();
    entries.sort();
    entries.iter().find_map(|path| {
        let name = path.file_name()?.to_string_lossy();
        match path.is_dir() {
            true => first_module(path),
            false => (name.ends_with(".ko") || name.contains(".ko.")).then(|| path.clone()),
        }
    })
}
