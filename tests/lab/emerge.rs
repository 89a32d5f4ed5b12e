//! OpenZFS's modules for the root's kernel by a real emerge in a native machine, without anything
//! of this project around it: for tests of what comes after a build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::cache;
use super::disk::State;
use super::nspawn::Machine;
use super::prefix::EPREFIX;
use super::root::Root;
use super::tool::run;

/// A directory with `spl.ko` and `zfs.ko`, made when it is not there (some minutes).
pub fn modules(root: &Root) -> Result<PathBuf> {
    let inputs = [root.dir.as_os_str().as_encoded_bytes(), include_bytes!("emerge.rs")];
    cache::artifact("modules", &inputs, |to| build(root, to))
}

fn build(root: &Root, to: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(super::dir())?;
    let state = State::fresh(root, &work.path().join("state"))?;
    super::prefix::install(&state)?;
    let machine = Machine::boot("emerge", root, &state, None, Duration::from_secs(60))?;
    let release = &root.release;
    machine.check("install -d -o core -g core /var/tmp/e /var/tmp/e/root /var/tmp/e/tmp")?;
    machine.check(&format!(
        "setpriv --reuid=core --regid=core --clear-groups env -i HOME=/home/core \
         PATH={EPREFIX}/usr/bin:{EPREFIX}/bin:/usr/sbin:/usr/bin:/sbin:/bin \
         ROOT=/var/tmp/e/root PORTAGE_TMPDIR=/var/tmp/e/tmp MAKEOPTS=-j$(nproc) \
         KERNEL_DIR=/usr/lib/modules/{release}/source KV_OUT_DIR=/usr/lib/modules/{release}/build \
         {EPREFIX}/bin/emerge -1v sys-fs/zfs-kmod"
    ))?;
    machine.power_off(Duration::from_secs(60))?;
    fs::create_dir(to)?;
    let built = state.path(&format!("/var/tmp/e/root{EPREFIX}/lib/modules/{release}/extra/."));
    run(Command::new("cp").arg("-r").arg(built).arg(to)).map(drop)
}
