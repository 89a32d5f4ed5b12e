//! How much memory the tables of one file may take: the file may come from anybody.

use anyhow::{Context, Result};

/// No name (KSYM_NAME_LEN) and no namespace (modpost's longest list of modules) is longer.
pub(crate) const MAX_STRING: usize = 4096;

/// Exports, imports or records of `__versions` of one file: real kernels have 20,000.
pub(crate) const MAX_ENTRIES: usize = 1 << 20;
/// Bytes of names of one file; kernels have 1 MB. All entries may point to the same long string,
/// and each entry gets its own copy.
const MAX_NAMES: usize = 64 << 20;

/// How much the tables of one file may still take.
#[derive(Debug)]
pub(crate) struct Budget {
    entries: usize,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new() -> Budget {
        Budget { entries: MAX_ENTRIES, bytes: MAX_NAMES }
    }

    /// Takes one entry with `bytes` bytes of names from the budget.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<()> {
        let left = self.entries.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        (self.entries, self.bytes) = left.context("more or longer names than any kernel has")?;
        Ok(())
    }
}
