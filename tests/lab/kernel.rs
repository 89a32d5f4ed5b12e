//! Kernels of Debian as shipped, each with the Module.symvers of its own headers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::cache::artifact;
use super::tool::run;

/// An unpacked kernel. Never write into it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The image.
    pub image: PathBuf,
    /// The directory of modules.
    pub modules: PathBuf,
    /// The Module.symvers of the headers' package.
    pub symvers: PathBuf,
}

/// The kernel that `package` of `suite` for `arch` stands for.
pub fn kernel(suite: &str, arch: &str, package: &str) -> Result<Kernel> {
    let archive = Archive::open(suite, arch)?;
    let depends = archive.depends(package)?;
    let release = depends.iter().find_map(|name| name.strip_prefix("linux-image-"));
    let release = release.with_context(|| format!("{package} depends on {depends:?}"))?.to_owned();
    let image = format!("linux-image-{release}");
    let mut packages = vec![image.clone(), format!("linux-headers-{release}")];
    // Since Debian 14 the image is in parts.
    let parts = ["linux-binary-", "linux-modules-"].map(|part| format!("{part}{release}"));
    packages.extend(archive.depends(&image)?.into_iter().filter(|name| parts.contains(name)));
    let mut inputs = Vec::new();
    for name in &packages {
        inputs.push(format!("{name} {}", archive.version(name)?));
    }
    let inputs: Vec<&[u8]> = inputs.iter().map(String::as_bytes).collect();
    let dir = artifact(&format!("{package}-{suite}"), &inputs, |dir| {
        fs::create_dir(dir)?;
        archive.unpack(&packages, dir)
    })?;
    let first = |places: [String; 2]| {
        let found = places.iter().map(|place| dir.join(place)).find(|path| path.exists());
        found.with_context(|| format!("none of {places:?} in {}", dir.display()))
    };
    let modules = first([format!("usr/lib/modules/{release}"), format!("lib/modules/{release}")])?;
    let in_modules = modules.join("vmlinuz");
    let image = match in_modules.exists() {
        true => in_modules,
        false => dir.join(format!("boot/vmlinuz-{release}")),
    };
    let symvers = dir.join(format!("usr/src/linux-headers-{release}/Module.symvers"));
    Ok(Kernel { release, image, modules, symvers })
}

/// The module files below `dir`, sorted.
pub fn modules(dir: &Path) -> Result<Vec<PathBuf>> {
    let out = run(Command::new("find").arg(dir).args(["-name", "*.ko*", "-type", "f"]))?;
    let mut files: Vec<PathBuf> = out.lines().map(PathBuf::from).collect();
    files.sort();
    Ok(files)
}
