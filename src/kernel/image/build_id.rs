//! The build-id of a kernel. It distinguishes two kernels of one release.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Image;
use crate::exit::{Exit, WithExit};
use crate::host::{Host, Release};
use crate::kernel::{gnu_build_id, locate};

/// The GNU build-id of the running kernel, from /sys/kernel/notes.
///
/// # Errors
/// The file cannot be read, or holds no build-id.
pub fn running_build_id(host: &Host) -> Result<String> {
    let path = host.path("/sys/kernel/notes");
    let notes = fs::read(&path).with_context(|| format!("{}", path.display()))?;
    gnu_build_id(&notes).with_context(|| format!("{}: no GNU build-id in it", path.display()))
}

/// The GNU build-id of kernel `release`. If that is the running kernel, it is the running kernel's
/// build-id, whatever image is configured. In a container, whose kernel is the host's, and for any
/// other kernel, it is that of the image that [`locate::image`] finds.
///
/// # Errors
/// [`Exit::NoKernelSource`]: no image of this release found, or no build-id in it.
pub fn build_id(host: &Host, image: Option<&Path>, release: &Release) -> Result<String> {
    if !host.container && *release == host.kernel_release {
        return running_build_id(host);
    }
    let path = locate::image(host, image, release)?;
    of_file(&path, release).with_context(|| format!("kernel {release}")).exit(Exit::NoKernelSource)
}

fn of_file(path: &Path, release: &Release) -> Result<String> {
    let image = Image::open_for(path, Some(release))?;
    // It may have been taken by its name.
    image.is_for(release).with_context(|| format!("{}", path.display()))?;
    image.build_id().with_context(|| format!("{}: no GNU build-id in the kernel", path.display()))
}
