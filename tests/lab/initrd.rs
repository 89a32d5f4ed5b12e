//! The smallest initrd that mounts the root and a read-only /usr: busybox and the virtio modules.
//! dracut's takes six seconds to make and as long to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use super::root::Root;
use super::tool::run;

/// In the order of insertion, below the kernel's module directory.
const MODULES: &[&str] = &[
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
];

/// The initrd for `root`'s kernel.
pub fn initrd(root: &Root) -> Result<PathBuf> {
    let init = include_str!("guest/init");
    let inputs =
        [root.dir.as_os_str().as_encoded_bytes(), init.as_bytes(), include_bytes!("initrd.rs")];
    cache::artifact("initrd", &inputs, |to| {
        let tree = tempfile::tempdir_in(super::dir())?;
        fill(root, init, tree.path())?;
        let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
        run(Command::new("sh").arg("-c").arg(pack).arg(to).current_dir(tree.path())).map(drop)
    })
}

fn fill(root: &Root, init: &str, tree: &Path) -> Result<()> {
    for d in ["bin", "dev", "proc", "sys", "new", "modules"] {
        fs::create_dir(tree.join(d))?;
    }
    let busybox = "/usr/bin/busybox";
    let busybox = if Path::new(busybox).exists() { busybox } else { "/bin/busybox" };
    fs::copy(busybox, tree.join("bin/busybox"))
        .with_context(|| format!("{busybox}: install busybox-static (`make setup`)"))?;
    let mut order = String::new();
    for module in MODULES {
        let from = root.modules().join(format!("kernel/{module}.ko"));
        let name = module.rsplit('/').next().unwrap_or(module);
        fs::copy(&from, tree.join(format!("modules/{name}.ko")))
            .with_context(|| from.display().to_string())?;
        order += &format!("{name}\n");
    }
    fs::write(tree.join("modules/order"), order)?;
    let path = tree.join("init");
    fs::write(&path, init)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(fs::set_permissions(path, mode)?)
}
