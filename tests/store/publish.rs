//! Publishes a small tree, for tests/store.rs to kill it at every system call:
//! `publish ROOT KEY CONTENT`. Exits with the status of the table.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use zfs_prefix::host::Release;
use zfs_prefix::store::{Layout, MANIFEST_VERSION, Manifest, Staging, entries, unix_now};

fn main() -> ExitCode {
    match publish() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            zfs_prefix::exit::of(&error).into()
        }
    }
}

fn publish() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, root, key, content] = &args[..] else {
        anyhow::bail!("usage: publish ROOT KEY CONTENT");
    };
    let release: Release = "6.1.0".parse()?;
    let staging = Staging::new(&Layout::new(Path::new(root)), &release)?;
    for name in ["extra/spl.ko", "extra/zfs.ko", "modules.dep"] {
        let path = Path::new("lib/modules/6.1.0").join(name);
        staging.create(&path)?.write_all(content.as_bytes()).context(name)?;
    }
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        kernel_release: release,
        kernel_build_id: "00".into(),
        vermagic: "6.1.0 SMP".into(),
        key: key.clone(),
        zfs_version: content.clone(),
        userland_version: None,
        built_by: None,
        recipe: "make".into(),
        created: unix_now(),
        inputs: BTreeMap::new(),
        files: entries(staging.dir())?,
    };
    staging.publish(&manifest).map(drop)
}
