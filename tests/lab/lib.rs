//! The laboratory for the tests, `make demo` and `make bench`. It has Debian root images with a
//! prefix, which boot natively (nspawn) and in virtual machines (QEMU), and kernels, sources and
//! servers. It uses only real tools. A missing tool is an error.
//!
//! [`dir`] keeps artefacts that take long to make. Their names have a digest of everything that
//! decides their content. All clones and processes of this user share them (see [`cache`]). Every
//! test, boot and artefact records its cost there ([`times`]). Tests take turns at the processors
//! ([`turns`]).

pub mod apt;
pub mod cache;
pub mod cgroup;
pub mod compiled;
pub mod disk;
pub mod emerge;
pub mod files;
pub mod initrd;
pub mod kernel;
pub mod native;
pub mod nspawn;
pub mod openzfs;
pub mod prefix;
pub mod published;
pub mod root;
pub mod rpm;
pub mod server;
pub mod source;
pub mod stock;
pub mod strace;
pub mod times;
pub mod tmp;
pub mod tool;
pub mod turns;
pub mod uki;
pub mod units;
pub mod vm;
pub mod without;

use std::path::{Path, PathBuf};

/// The directory of the artefacts: `$ZFS_PREFIX_LAB`, or beside the user's other caches
/// (`$XDG_CACHE_HOME`, `~/.cache`).
///
/// The first call in a test's thread waits for the test's turn. The test begins there.
pub fn dir() -> PathBuf {
    times::test();
    place()
}

/// [`dir`], without waiting for a turn.
pub(crate) fn place() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set("ZFS_PREFIX_LAB") {
        return PathBuf::from(dir);
    }
    let home = || set("HOME").map(|home| Path::new(&home).join(".cache"));
    let caches = set("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    caches.unwrap_or_else(|| PathBuf::from("/var/cache")).join("zfs-prefix-lab")
}

/// The repository.
pub fn repo() -> PathBuf {
    times::test();
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/lab").to_owned()
}

/// The directory that `make stage` has filled.
///
/// # Panics
/// `$ZFS_PREFIX_STAGE` is not set. `make check` sets it.
pub fn stage() -> PathBuf {
    let stage = std::env::var_os("ZFS_PREFIX_STAGE");
    PathBuf::from(stage.expect(
        "ZFS_PREFIX_STAGE is not set: it names the directory where `make stage` puts the programs under test; run `make check`",
    ))
}

/// A program of the laboratory (`tests/lab/Cargo.toml`). Compiles it if it is missing or old.
///
/// # Panics
/// It cannot be compiled.
pub fn program(name: &str) -> PathBuf {
    static BUILT: turns::Once<Vec<PathBuf>> = turns::Once::new();
    let built = BUILT.get(|| {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--package", env!("CARGO_PKG_NAME")]);
        build.args([
            "--bin",
            "publish",
            "--bin",
            "obtain",
            "--bin",
            "follow",
            "--message-format=json-render-diagnostics",
        ]);
        let output = tool::run(build.current_dir(repo())).unwrap_or_else(|e| panic!("{e:#}"));
        executables(&output)
    });
    let of = |path: &&PathBuf| path.file_name().is_some_and(|file| file == name);
    built.iter().find(of).unwrap_or_else(|| panic!("cargo made no {name}: {built:?}")).clone()
}

/// The programs that cargo has made, from its JSON messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok();
    let program = |line: &str| message(line)?["executable"].as_str().map(PathBuf::from);
    messages.lines().filter_map(program).collect()
}
