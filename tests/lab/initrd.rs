//! The smallest initrd that mounts the root and a read-only /usr: busybox and the virtio modules.
//! An initrd of dracut takes six seconds to make and six to run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use super::root::Root;
use super::tool::run;
use zfs_prefix::compress::{Tail, unpack};

/// The modules, to which their dependencies are added. Modules that are built in are left out.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];

/// The initrd for `root`'s kernel.
pub fn initrd(root: &Root) -> Result<PathBuf> {
    let init = include_str!("guest/init");
    let inputs =
        [root.dir.as_os_str().as_encoded_bytes(), init.as_bytes(), include_bytes!("initrd.rs")];
    cache::artifact("initrd", &inputs, |to| {
        let tree = super::tmp::dir("initrd-")?;
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
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(&root.dir).args(["-S", &root.release, "--show-depends", module]);
        for file in run(&mut modprobe)?.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let (name, bytes) = plain(Path::new(file.trim()))?;
            if !order.contains(&name) {
                fs::write(tree.join("modules").join(format!("{name}.ko")), bytes)?;
                order.push(name);
            }
        }
    }
    let order = order.iter().map(|name| format!("{name}\n")).collect::<String>();
    fs::write(tree.join("modules/order"), order)?;
    let path = tree.join("init");
    fs::write(&path, init)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    Ok(fs::set_permissions(path, mode)?)
}

/// A module's name, and its decompressed file: busybox's insmod does not decompress.
fn plain(file: &Path) -> Result<(String, Vec<u8>)> {
    let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
    let (name, compression) = name.split_once(".ko").context("a module")?;
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let bytes = match compression {
        "" => bytes,
        _ => unpack(&bytes, Tail::Streams, 64 << 20)?,
    };
    Ok((name.to_owned(), bytes))
}
