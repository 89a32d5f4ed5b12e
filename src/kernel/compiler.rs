//! Compiler lines. A compiler line is the first line of `cc --version`. The kernel keeps it as
//! `CONFIG_CC_VERSION_TEXT` (init/Kconfig).

/// The reason why modules that `prefix` compiles may not fit a kernel that `kernel` compiled. Both
/// are compiler lines. `None` if they name the same major version.
pub fn compiler_mismatch(kernel: &str, prefix: &str) -> Option<String> {
    (major(kernel) != major(prefix)).then(|| {
        format!(
            "the kernel was built by {kernel:?}, the prefix has {prefix:?}: another major version may lay out structures differently"
        )
    })
}

/// The first number with a dot after it.
fn major(line: &str) -> Option<u32> {
    line.split(|c: char| c.is_whitespace() || c == '(' || c == ')')
        .find(|w| w.contains('.') && w.starts_with(|c: char| c.is_ascii_digit()))?
        .split('.')
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_compared_by_major_version() {
        let debian = "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0";
        for (same, other) in [
            (true, "gcc (Debian 12.2.0-14+deb12u1) 12.2.0"),
            (true, "x86_64-pc-linux-gnu-gcc (Gentoo 12.3.1) 12.3.1 2023"),
            (false, "gcc (GCC) 13.2.1"),
            (false, ""),
        ] {
            let mismatch = compiler_mismatch(debian, other);
            assert_eq!(mismatch.is_none(), same, "{other}: {mismatch:?}");
        }
    }
}
