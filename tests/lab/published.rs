//! A published tree without a builder, for tests of the steps after a build. A real emerge makes
//! the modules. The library's own calls put them into a state's store.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use zfs_prefix::host::{Host, Release};
use zfs_prefix::kernel::build_id;
use zfs_prefix::module::Module;
use zfs_prefix::store::{Inputs, Layout, MANIFEST_VERSION, Manifest, Staging, entries, unix_now};

use super::disk::State;
use super::root::Root;
use super::tool::run;

/// The tree in the store of a state.
#[derive(Clone, Debug)]
pub struct Published {
    /// The kernel it is for.
    pub release: Release,
    /// Its key.
    pub key: String,
}

/// Publishes the modules of [`super::emerge::modules`] in the store of `state`.
pub fn publish(root: &Root, state: &State) -> Result<Published> {
    let release: Release = root.release.parse()?;
    let layout = Layout::new(state.dir());
    let staging = Staging::new(&layout, &release)?;
    let base = Path::new("lib/modules").join(release.as_str());
    let built = super::emerge::modules(root)?;
    for module in ["spl.ko", "zfs.ko"] {
        copy(&built.join(module), &staging, &base.join("extra").join(module))?;
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        copy(&root.modules().join(list), &staging, &base.join(list))?;
    }
    run(Command::new("depmod").arg("-b").arg(staging.dir()).arg(release.as_str()))?;
    let zfs = fs::read(staging.dir().join(&base).join("extra/zfs.ko"))?;
    let zfs = Module::parse(&zfs).context("zfs.ko")?;
    let mut inputs = Inputs::new();
    inputs.add("kernel-release", release.as_str());
    inputs.add("made-by", "the laboratory");
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        kernel_release: release.clone(),
        kernel_build_id: image_build_id(root, &release)?,
        vermagic: zfs.vermagic().context("zfs.ko has no vermagic")?.to_string(),
        key: inputs.key(),
        zfs_version: zfs.version().context("zfs.ko has no version")?.to_owned(),
        userland_version: None,
        built_by: None,
        recipe: "portage".into(),
        created: unix_now(),
        inputs: inputs.map().clone(),
        files: entries(staging.dir())?,
    };
    staging.publish(&manifest)?;
    Ok(Published { release, key: manifest.key })
}

fn copy(from: &Path, staging: &Staging, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| from.display().to_string())?;
    Ok(staging.create(to)?.write_all(&bytes)?)
}

/// The build-id of the image, not of the running kernel.
fn image_build_id(root: &Root, release: &Release) -> Result<String> {
    let host = Host {
        root: root.dir.clone(),
        // Must not be `release`: for the running kernel, build_id() reads /sys/kernel/notes.
        kernel_release: "0.0.0-another".parse()?,
        cmdline: String::new(),
        container: false,
        in_initrd: false,
    };
    let image = format!("/usr/lib/modules/{release}/vmlinuz");
    build_id(&host, Some(Path::new(&image)), release)
}

impl Published {
    /// The tree, as the machine names it.
    pub fn path(&self) -> PathBuf {
        Layout::new(Path::new("/")).tree(&self.release, &self.key)
    }

    /// A module's file, as the machine names it.
    pub fn module(&self, name: &str) -> PathBuf {
        let modules = self.path().join("lib/modules").join(self.release.as_str());
        modules.join("extra").join(format!("{name}.ko"))
    }

    /// Changes only the bytes of a module's file. The manifest keeps the old digest.
    pub fn damage(&self, state: &State, name: &str, change: impl Fn(&mut [u8])) -> Result<()> {
        let path = state.path(&self.module(name).display().to_string());
        let mut bytes = fs::read(&path)?;
        change(&mut bytes);
        Ok(fs::write(path, bytes)?)
    }

    /// Updates the manifest to agree with the files again, and then changes it.
    pub fn edit(&self, state: &State, change: impl Fn(&mut Manifest)) -> Result<()> {
        let tree = state.path(&self.path().display().to_string());
        let path = tree.join("manifest.json");
        let mut manifest = Manifest::parse(&fs::read(&path)?)?;
        manifest.files = entries(&tree)?;
        change(&mut manifest);
        Ok(fs::write(path, serde_json::to_vec_pretty(&manifest)?)?)
    }
}
