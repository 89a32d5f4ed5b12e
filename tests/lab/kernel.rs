//! Kernels of any Debian suite, as shipped. Each comes with its headers and the Module.symvers of
//! its own build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::{self, Apt};
use super::cache::artifact;
use super::tool::run;
use super::turns::Once;

/// An unpacked kernel. Never write into it.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// The packages' version.
    pub version: String,
    /// The directory with the unpacked packages. `usr/src` has the headers, `usr/lib` their
    /// programs.
    pub dir: PathBuf,
    /// The image.
    pub image: PathBuf,
    /// The directory of modules.
    pub modules: PathBuf,
    /// The configuration.
    pub config: PathBuf,
    /// The output directory of the headers.
    pub headers: PathBuf,
    /// Its Module.symvers.
    pub symvers: PathBuf,
}

impl Kernel {
    /// All module files, sorted.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn module_files(&self) -> Result<Vec<PathBuf>> {
        modules(&self.modules)
    }

    /// The file of a module (its name without `.ko`) of a kernel without compressed modules.
    ///
    /// # Errors
    /// There is no such file.
    pub fn module(&self, name: &str) -> Result<PathBuf> {
        let file = format!("{name}.ko");
        let mut files = self.module_files()?.into_iter();
        let found = files.find(|p| p.file_name().is_some_and(|n| n == file.as_str()));
        found.with_context(|| format!("{} has no {file}", self.release))
    }
}

/// The laboratory's kernel: the newest cloud kernel of this machine's Debian for which the archive
/// has image, headers and source. The source reaches the archive before the signed image. If a
/// mirror's lists are of two different days, the image may be there before the source.
///
/// # Errors
/// The archive has no such kernel.
pub fn stock() -> Result<Kernel> {
    static STOCK: Once<std::result::Result<Kernel, String>> = Once::new();
    let make = || {
        let apt = Apt::open(apt::KERNEL)?;
        let with_source =
            |version: &str| Ok(apt.versions(&source(version))?.contains(&version.into()));
        found(&apt, "amd64", "linux-image-cloud-amd64", &with_source)
    };
    let stock = STOCK.get(|| make().map_err(|e: anyhow::Error| format!("{e:#}")));
    stock.clone().map_err(anyhow::Error::msg)
}

/// The package with the source of a version of Debian's kernel.
#[must_use]
pub fn source(version: &str) -> String {
    let series: Vec<&str> = version.split('.').take(2).collect();
    format!("linux-source-{}", series.join("."))
}

/// The kernel in `package` of `suite` for `arch`, or the one that this metapackage depends on.
///
/// # Errors
/// The archive does not have all its packages.
pub fn kernel(suite: &str, arch: &str, package: &str) -> Result<Kernel> {
    found(&Apt::open_for(suite, arch)?, arch, package, &|_| Ok(true))
}

fn found(
    apt: &Apt,
    arch: &str,
    package: &str,
    wanted: &dyn Fn(&str) -> Result<bool>,
) -> Result<Kernel> {
    let mut incomplete = Vec::new();
    for version in apt.versions(package)? {
        match packages(apt, package, &version)? {
            Some((release, packages)) if wanted(&version)? => {
                return unpacked(apt, arch, &release, &version, &packages);
            }
            _ => incomplete.push(version),
        }
    }
    anyhow::bail!(
        "{}: the archive has no version of {package} with all parts (image, headers, source; seen: {incomplete:?}): wait, or check whether the mirror is complete",
        apt.suite
    )
}

/// The release of one version, and its packages as `NAME=VERSION`. `None` if one is missing.
fn packages(apt: &Apt, package: &str, version: &str) -> Result<Option<(String, Vec<String>)>> {
    let depends = apt.depends(&format!("{package}={version}"))?;
    let named = |name: &String| name.strip_prefix("linux-image-").map(str::to_owned);
    let direct = package.strip_prefix("linux-image-").filter(|r| r.starts_with(char::is_numeric));
    let release = direct.map(str::to_owned).or_else(|| depends.iter().find_map(named));
    let release = release.with_context(|| format!("{package} depends on {depends:?}"))?;
    let (image, headers) = (format!("linux-image-{release}"), format!("linux-headers-{release}"));
    let there = |name: &str| -> Result<bool> { Ok(apt.versions(name)?.contains(&version.into())) };
    if !there(&image)? || !there(&headers)? {
        return Ok(None);
    }
    // Since Debian 14 the image is split into packages. Headers share files and programs with the
    // headers of other kernels.
    let parts =
        ["linux-base-", "linux-binary-", "linux-modules-"].map(|part| format!("{part}{release}"));
    let of_image = apt.depends(&format!("{image}={version}"))?;
    let of_headers = apt.depends(&format!("{headers}={version}"))?;
    let parts = of_image.into_iter().filter(|name| parts.contains(name));
    let shared = of_headers
        .into_iter()
        .filter(|name| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-"));
    let mut all = Vec::new();
    for name in [image, headers].into_iter().chain(parts).chain(shared) {
        let own = there(&name)?;
        let version = if own { version.to_owned() } else { apt.version(&name)? };
        all.push(format!("{name}={version}"));
    }
    Ok(Some((release, all)))
}

fn unpacked(
    apt: &Apt,
    arch: &str,
    release: &str,
    version: &str,
    packages: &[String],
) -> Result<Kernel> {
    let inputs: Vec<&[u8]> = packages.iter().map(String::as_bytes).collect();
    let dir = artifact(&format!("kernel-{release}-{arch}"), &inputs, |dir| {
        fs::create_dir(dir)?;
        packages.iter().try_for_each(|package| {
            run(Command::new("dpkg-deb").arg("-x").arg(apt.deb(package)?).arg(dir)).map(drop)
        })
    })?;
    let first = |places: [String; 2]| {
        let found = places.iter().map(|place| dir.join(place)).find(|path| path.exists());
        found.with_context(|| format!("none of {places:?} in {}", dir.display()))
    };
    let modules = first([format!("usr/lib/modules/{release}"), format!("lib/modules/{release}")])?;
    let beside = |name: &str| {
        let beside = modules.join(name);
        if beside.exists() { beside } else { dir.join(format!("boot/{name}-{release}")) }
    };
    let headers = dir.join(format!("usr/src/linux-headers-{release}"));
    Ok(Kernel {
        release: release.to_owned(),
        version: version.to_owned(),
        image: beside("vmlinuz"),
        config: beside("config"),
        symvers: headers.join("Module.symvers"),
        headers,
        modules,
        dir,
    })
}

/// The module files below `dir`, sorted.
///
/// # Errors
/// It cannot be read.
pub fn modules(dir: &Path) -> Result<Vec<PathBuf>> {
    let out = run(Command::new("find").arg(dir).args(["-name", "*.ko*", "-type", "f"]))?;
    let mut files: Vec<PathBuf> = out.lines().map(PathBuf::from).collect();
    files.sort();
    Ok(files)
}
