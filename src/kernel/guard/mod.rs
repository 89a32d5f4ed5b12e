//! Guards against a wrong configuration. A Module.symvers that was recovered from the kernel has
//! the kernel's CRCs, however the tree is configured. So neither CRCs nor vermagic notice a
//! structure that has moved. These checks do.

mod exports;
mod layout;
mod probes;

pub use exports::exports;
pub(crate) use layout::differences;
pub use layout::{PROBE_STRUCTS, btf_module, probe_sizes, probe_source, structs, this_module};
pub use probes::may_differ;

use anyhow::Result;

use super::facts::Facts;
use super::kconfig::{Change, Kconfig, diff};
use crate::exit::Exit;
use crate::fail;
use crate::host::Release;

/// How many symbols an error names.
const NAMED: usize = 20;

/// Compares the configuration that `olddefconfig` made with the kernel's own. Only probes of the
/// toolchain and options that only the kernel's own build uses may differ ([`may_differ`]).
///
/// # Errors
/// [`Exit::Refused`]: other options differ. For the first twenty, the error says the old value, the
/// new value and what is probably missing.
pub fn config(given: &Kconfig, prepared: &Kconfig) -> Result<()> {
    config_but_for(given, prepared, &[])
}

/// [`config`], but the symbols in `edited` may differ too: the builder itself has changed them.
///
/// # Errors
/// As [`config`].
pub fn config_but_for(given: &Kconfig, prepared: &Kconfig, edited: &[&str]) -> Result<()> {
    let mut changes = diff(given, prepared);
    changes.retain(|c| !may_differ(&c.name) && !edited.contains(&c.name.as_str()));
    if changes.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = changes.iter().take(NAMED).map(described).collect();
    let more = match changes.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("\n  and {more} more"),
    };
    fail!(
        Exit::Refused,
        "the prepared configuration is not the kernel's; options that differ and are no probes of the toolchain: {} (structures may have moved, and no CRC would show it)\n  {}{more}",
        changes.len(),
        lines.join("\n  ")
    );
}

fn described(change: &Change) -> String {
    match probes::cause(&change.name) {
        Some(cause) => format!("{change} ({cause})"),
        None => change.to_string(),
    }
}

/// Options that shuffle the members of structures: `RANDSTRUCT` since 5.19, the plugin before.
const RANDSTRUCT: [&str; 3] = ["RANDSTRUCT", "RANDSTRUCT_FULL", "GCC_PLUGIN_RANDSTRUCT"];
/// Options that only clang can give effect to (arch/Kconfig).
const CLANG: [&str; 7] = [
    "CC_IS_CLANG",
    "LTO_CLANG",
    "LTO_CLANG_FULL",
    "LTO_CLANG_THIN",
    "CFI_CLANG",
    "AUTOFDO_CLANG",
    "PROPELLER_CLANG",
];

/// Can a tree for this kernel be prepared from source with this compiler (its first line of
/// `--version`)? Call this before anything is fetched or compiled. For a tree that came with the
/// kernel, [`compiler`] is enough: such a tree contains the seed of RANDSTRUCT.
///
/// # Errors
/// [`Exit::Refused`], with the option and the reason: RANDSTRUCT, or as [`compiler`].
pub fn refusal(facts: &Facts, compiler_line: &str) -> Result<()> {
    let release = &facts.release;
    let Some(config) = &facts.options else { return Ok(()) };
    if let Some(option) = RANDSTRUCT.iter().find(|o| config.is_on(o)) {
        fail!(
            Exit::Refused,
            "kernel {release}: CONFIG_{option}=y: the order of members is random, and its seed is in no file of the running system; set kernel.build-dir to the build tree that came with this kernel: no other tree fits"
        );
    }
    compiler(release, config, facts.compiler.as_deref(), compiler_line)
}

/// Can this compiler compile modules for this kernel, whatever tree there is? `kernel` is the line
/// of the compiler that built the kernel.
///
/// # Errors
/// [`Exit::Refused`]: the kernel was made with clang (LTO, CFI), and this is not that same clang.
pub fn compiler(
    release: &Release,
    config: &Kconfig,
    kernel: Option<&str>,
    compiler_line: &str,
) -> Result<()> {
    let Some(option) = CLANG.iter().find(|o| config.is_on(o)) else { return Ok(()) };
    let kernel = kernel.unwrap_or("unknown");
    match (clang_version(kernel), clang_version(compiler_line)) {
        (Some(kernel), Some(ours)) if kernel == ours => Ok(()),
        _ => fail!(
            Exit::Refused,
            "kernel {release}: CONFIG_{option}=y: built by {kernel:?}, and its modules need that same clang. The prefix has {compiler_line:?}: kernels compiled by clang are not supported in a prefix of gcc"
        ),
    }
}

/// `17.0.6` of `Debian clang version 17.0.6 (…)`.
fn clang_version(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("clang version ")?;
    rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next().filter(|v| !v.is_empty())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
