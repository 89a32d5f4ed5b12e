//! The Kconfig symbols that describe the toolchain or the machine that built the kernel, and not
//! the kernel. Probes hold what `$(cc-option …)`, `$(as-instr …)`, `$(ld-option …)` and the version
//! scripts of scripts/Kconfig.include found. No structure depends on a probe. If a probe disables
//! (or enables) a real option, that option is another symbol, and it may not differ.

/// Only the names of probes begin so (init/Kconfig, lib/Kconfig.*, arch/*/Kconfig of Linux 4.18 to
/// 7.x). `CC_IS_` is not in the list: another compiler makes another kernel.
const PREFIXES: [&str; 18] = [
    // Does the compiler have an option, a builtin or an attribute?
    "CC_HAS_",
    "CC_HAVE_",
    "CC_CAN_LINK",
    // Bugs and warnings of certain compiler versions.
    "CC_NO_",
    "GCC_NO_",
    "GCC10_NO_",
    "GCC11_NO_",
    "GCC12_NO_",
    "GCC_ASM_GOTO_OUTPUT_",
    "GCC_SUPPORTS_",
    "CLANG_SUPPORTS_",
    // Name and version of assembler and linker, and known instructions. arm64 has its own prefixes.
    "AS_",
    "ARM64_AS_HAS_",
    "ARM64_LD_HAS_",
    "LD_IS_",
    "PAHOLE_HAS_",
    "RUSTC_HAS_",
    "TOOLCHAIN_HAS_",
];

/// Probes whose names begin like those of real options.
const NAMES: [&str; 21] = [
    "CC_VERSION_TEXT",
    "GCC_VERSION",
    "CLANG_VERSION",
    "LD_VERSION",
    "LLD_VERSION",
    "PAHOLE_VERSION",
    "RUSTC_VERSION",
    "RUSTC_VERSION_TEXT",
    "RUSTC_LLVM_VERSION",
    "BINDGEN_VERSION_TEXT",
    "RUST_IS_AVAILABLE",
    // -Wimplicit-fallthrough=5 or nothing.
    "CC_IMPLICIT_FALLTHROUGH",
    "LD_CAN_USE_KEEP_IN_OVERLAY",
    // A warning of the linker.
    "LD_ORPHAN_WARN",
    "LD_ORPHAN_WARN_LEVEL",
    "TOOLS_SUPPORT_RELR",
    "HAVE_KCSAN_COMPILER",
    "HAVE_KMSAN_COMPILER",
    "HAVE_KMSAN_PARAM_RETVAL",
    "CC_STRINGOP_OVERFLOW",
    // arm64: the assembler gets `.inst` wrong.
    "BROKEN_GAS_INST",
];

/// Symbols that only the build of the kernel itself uses: a string that changes its build-id, and
/// the keys that are compiled into it or sign its modules. Debian strips these from the file that
/// it ships, and Kconfig fills in its defaults.
const BUILD: [&str; 5] = [
    "BUILD_SALT",
    "MODULE_SIG_ALL",
    "MODULE_SIG_KEY",
    "SYSTEM_TRUSTED_KEYS",
    "SYSTEM_REVOCATION_KEYS",
];

/// Whether the symbol (without `CONFIG_`) is a probe of the toolchain, or only the kernel's own
/// build uses it. Two configurations that differ in nothing else lay out structures alike.
pub fn may_differ(name: &str) -> bool {
    let probe = NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    probe || BUILD.contains(&name)
}

/// What is probably missing when Kconfig has dropped this option.
pub(super) fn cause(name: &str) -> Option<&'static str> {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
    Some(match name {
        _ if begins(&["DEBUG_INFO_BTF"]) => {
            "pahole (dwarves) is missing in the prefix, or too old for this kernel"
        }
        _ if begins(&["GCC_PLUGIN"]) => {
            "the headers of the compiler's plugins (gcc-VERSION-plugin-dev) are missing in the prefix"
        }
        _ if begins(&["CC_IS_", "LTO_", "CFI", "AUTOFDO", "PROPELLER"]) => {
            "the kernel was built with another compiler"
        }
        _ if begins(&["RUST"]) => "rustc or bindgen is missing in the prefix",
        _ if begins(&[
            "INIT_STACK_",
            "ZERO_CALL_USED_REGS",
            "STACKPROTECTOR",
            "KASAN",
            "KCSAN",
        ]) =>
        {
            "the prefix's compiler lacks what this option needs"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_whose_names_look_like_probes_are_none() {
        for (may, names) in [
            (
                true,
                [
                    "CC_VERSION_TEXT",
                    "CC_HAS_AUTO_VAR_INIT_ZERO",
                    "AS_TPAUSE",
                    "AS_VERSION",
                    "LD_IS_BFD",
                    "PAHOLE_HAS_SPLIT_BTF",
                    "GCC12_NO_ARRAY_BOUNDS",
                    "GCC_ASM_GOTO_OUTPUT_WORKAROUND",
                    "BUILD_SALT",
                ],
            ),
            (
                false,
                [
                    "CC_IS_GCC",
                    "CC_OPTIMIZE_FOR_SIZE",
                    "LD_DEAD_CODE_DATA_ELIMINATION",
                    "GCC_PLUGINS",
                    "GCC_PLUGIN_RANDSTRUCT",
                    "DEBUG_INFO_BTF",
                    "RUST",
                    "LOCALVERSION",
                    "ASSOCIATIVE_ARRAY",
                ],
            ),
        ] {
            for name in names {
                assert_eq!(may_differ(name), may, "{name}");
            }
        }
    }
}
