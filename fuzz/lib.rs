//! What all targets share: how much memory a parser may have.

#[path = "../tests/hostile/memory.rs"]
mod memory;

/// A target: the parser of this name in `zfs_prefix::fuzz`, which may have so many MiB at once.
#[macro_export]
macro_rules! target {
    ($parser:ident, $mib:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            $crate::within($mib, || zfs_prefix::fuzz::$parser(bytes))
        });
    };
}

/// Runs `parser`.
///
/// # Panics
/// It had more than `mib` MiB at once.
pub fn within(mib: usize, parser: impl FnOnce()) {
    let ((), peak) = memory::peak(parser);
    assert!(peak <= mib << 20, "{peak} bytes at once, more than {mib} MiB");
}
