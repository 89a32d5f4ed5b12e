//! A real emerge in a native machine makes OpenZFS's modules for the root's kernel, its programs,
//! and their signed binary packages. It uses nothing of this project. Tests use the results for the
//! steps after a build, and for builds from binary packages.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cache;
use super::disk::State;
use super::nspawn::Machine;
use super::prefix::EPREFIX;
use super::root::Root;
use super::tool::run;

/// Debian's package of the kernel's own programs (objtool) depends on libelf, and the root has none
/// of its dependencies. A build in the prefix's namespace replaces these programs.
const READY: &str = "mkdir /opt/lab && \
    cp -L /home/core/gentoo/usr/lib/x86_64-linux-gnu/libelf.so.1 /opt/lab && \
    echo /opt/lab > /etc/ld.so.conf.d/lab.conf && ldconfig";
/// The script that the prefix's owner runs to make packages; see there.
const BINPKG: &str = include_str!("guest/binpkg.sh");
/// The owner's working directory in the machine.
pub const DIR: &str = "/var/tmp/e";
/// The key of [`Emerged::packages`].
pub const SIGNER: &str = "fleet";

/// The results of one emerge.
#[derive(Clone, Debug)]
pub struct Emerged {
    /// A directory with `spl.ko` and `zfs.ko`.
    pub modules: PathBuf,
    /// PKGDIR: the packages of modules and programs, signed by [`SIGNER`], and the index.
    pub packages: PathBuf,
    /// The signer's public key.
    pub key: PathBuf,
    /// [`DIR`] after the emerge, to make more packages from it: ROOT, GNUPGHOME of the signer.
    pub dir: PathBuf,
}

/// A directory with `spl.ko` and `zfs.ko`. Makes it if it is not there (some minutes).
pub fn modules(root: &Root) -> Result<PathBuf> {
    Ok(emerged(root)?.modules)
}

/// All results of that emerge.
///
/// # Errors
/// The emerge failed.
pub fn emerged(root: &Root) -> Result<Emerged> {
    let prefix = super::prefix::tree()?;
    let prefix = prefix.parent().and_then(Path::file_name).context("a tree has a name")?;
    // The root only hosts the build. None of its files go into the result, so it is no input.
    let inputs =
        [root.kernel.as_bytes(), prefix.as_encoded_bytes(), BINPKG.as_bytes(), READY.as_bytes()];
    let dir = cache::artifact("emerged", &inputs, |to| build(root, to))?;
    let modules = format!("root{EPREFIX}/lib/modules/{}/extra", root.release);
    Ok(Emerged {
        modules: dir.join(modules),
        packages: dir.join("binpkgs"),
        key: dir.join(format!("{SIGNER}.asc")),
        dir,
    })
}

fn build(root: &Root, to: &Path) -> Result<()> {
    let work = super::tmp::dir("emerge-")?;
    let state = State::fresh(root, &work.path().join("state"))?;
    super::prefix::install(&state)?;
    let machine = Machine::boot("emerge", root, &state, None, Duration::from_secs(60))?;
    machine.check(READY)?;
    machine.check(&format!("install -d -o core -g core {DIR}"))?;
    state.write(&format!("{DIR}.sh"), BINPKG)?;
    machine.check(&as_owner(&format!("key {SIGNER}")))?;
    machine.check(&as_owner(&format!("emerge {} {DIR}/binpkgs {SIGNER}", root.release)))?;
    machine.check(&format!("rm -rf {DIR}/tmp {DIR}/log"))?;
    machine.power_off(Duration::from_secs(60))?;
    run(Command::new("cp").arg("-a").arg(state.path(DIR)).arg(to)).map(drop)
}

/// The command line with which a machine's root runs a command of guest/binpkg.sh as the prefix's
/// owner. The script has to be at [`DIR`]`.sh`.
pub fn as_owner(command: &str) -> String {
    format!(
        "setpriv --reuid=core --regid=core --clear-groups env -i \
         bash {DIR}.sh {EPREFIX} {DIR} {command}"
    )
}

/// Copies the results of [`emerged`] to [`DIR`] of `state`, with the script.
pub fn put(emerged: &Emerged, state: &State) -> Result<()> {
    state.write(&format!("{DIR}.sh"), BINPKG)?;
    run(Command::new("cp").arg("-a").arg(&emerged.dir).arg(state.path(DIR))).map(drop)
}
