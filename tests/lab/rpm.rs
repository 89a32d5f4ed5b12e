//! kernel-devel packages, made by rpmbuild.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::tool::run;

/// Makes a package in the directory `top`. It has `tree` as `/usr/src/kernels/RELEASE`.
pub fn kernel_devel(tree: &Path, release: &str, top: &Path) -> Result<PathBuf> {
    fs::create_dir_all(top)?;
    // No test reads the package's own name and version. Compression is fast, not small.
    let spec = format!(
        "%global _binary_payload w1.gzdio\n%global __os_install_post %nil\n%global _build_id_links none\n\
         Name: kernel-devel\nVersion: 1\nRelease: 1\nSummary: x\nLicense: GPLv2\nBuildArch: x86_64\n\
         AutoReqProv: no\n%description\nx\n%install\nmkdir -p %{{buildroot}}/usr/src/kernels\n\
         cp -a '{}' %{{buildroot}}/usr/src/kernels/{release}\n%files\n/usr/src/kernels/{release}\n",
        tree.display()
    );
    let path = top.join("kernel-devel.spec");
    fs::write(&path, spec).with_context(|| format!("{}", path.display()))?;
    let define = format!("_topdir {}", top.display());
    run(Command::new("rpmbuild")
        .args(["-bb", "--target", "x86_64", "--define", &define])
        .arg(&path))?;
    let rpm = top.join("RPMS/x86_64/kernel-devel-1-1.x86_64.rpm");
    ensure!(rpm.exists(), "rpmbuild made no {}", rpm.display());
    Ok(rpm)
}
