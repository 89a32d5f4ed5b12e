//! Guards against a wrong configuration. A Module.symvers that was recovered from the kernel has
//! the kernel's CRCs whatever the tree was configured to: with it, neither CRCs nor vermagic
//! notice a structure that has moved. These checks do.

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

/// Compares the configuration that `olddefconfig` made with the kernel's own: only probes of the
/// toolchain, and what only the kernel's own build uses, may differ ([`may_differ`]).
///
/// # Errors
/// [`Exit::Refused`], naming each option (the first twenty), its old and its new value, and what
/// is probably missing.
pub fn config(given: &Kconfig, prepared: &Kconfig) -> Result<()> {
    config_but_for(given, prepared, &[])
}

/// [`config`], with these symbols allowed to differ too: those that the builder itself has changed.
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
/// `--version`)? Asked before anything is fetched or compiled. Of a tree that came with the kernel
/// only [`compiler`] is asked: what was random is written down in it.
///
/// # Errors
/// [`Exit::Refused`], with the option and the reason: RANDSTRUCT, or as [`compiler`].
pub fn refusal(facts: &Facts, compiler_line: &str) -> Result<()> {
    let release = &facts.release;
    let Some(config) = &facts.options else { return Ok(()) };
    if let Some(option) = RANDSTRUCT.iter().find(|o| config.is_on(o)) {
        fail!(
            Exit::Refused,
            "kernel {release}: CONFIG_{option}=y: the order of members is random, and its seed is in no file of the running system; only the build tree that came with this kernel can be used (kernel.build-dir)"
        );
    }
    compiler(release, config, facts.compiler.as_deref(), compiler_line)
}

/// Can modules for this kernel be compiled with this compiler, whatever tree there is? `kernel`: the
/// line of the one that it was built with.
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
