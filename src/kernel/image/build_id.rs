//! The build-id of a kernel: what tells two kernels of one release apart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Image;
use crate::exit::{Exit, WithExit};
use crate::fail;
use crate::host::Host;
use crate::kernel::{Release, gnu_build_id};

/// The GNU build-id of the running kernel, from /sys/kernel/notes.
///
/// # Errors
/// The file cannot be read, or holds no build-id.
pub fn running_build_id(host: &Host) -> Result<String> {
    let path = host.path("/sys/kernel/notes");
    let notes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    gnu_build_id(&notes).with_context(|| format!("{}: no GNU build-id in it", path.display()))
}

/// The GNU build-id of kernel `release`: of the running kernel if it is that (and this is no
/// container, whose kernel is somebody else's), else of its image: `image` if given, otherwise
/// /usr/lib/modules/RELEASE/vmlinuz or /boot/vmlinuz-RELEASE.
///
/// # Errors
/// [`Exit::NoKernelSource`]: no image found, or no build-id in it.
pub fn build_id(host: &Host, image: Option<&Path>, release: &Release) -> Result<String> {
    if image.is_none() && !host.container && *release == host.kernel_release {
        return running_build_id(host);
    }
    let places: Vec<PathBuf> = match image {
        Some(image) => vec![host.path(image)],
        None => vec![
            host.path(format!("/usr/lib/modules/{release}/vmlinuz")),
            host.path(format!("/boot/vmlinuz-{release}")),
        ],
    };
    let Some(path) = places.iter().find(|p| p.exists()) else {
        fail!(
            Exit::NoKernelSource,
            "kernel {release}: no kernel image in {}; its build-id tells two kernels of one release apart: set kernel.image",
            places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" or ")
        );
    };
    of_file(path).with_context(|| format!("kernel {release}")).exit(Exit::NoKernelSource)
}

fn of_file(path: &Path) -> Result<String> {
    let id = Image::open(path)?.build_id();
    id.with_context(|| format!("{}: no GNU build-id in the kernel", path.display()))
}
