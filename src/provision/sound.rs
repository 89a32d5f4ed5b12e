//! Whether what was unpacked is a toolchain: the one place where the audit is asked.

use std::path::Path;

use anyhow::{Context, Result};

use crate::config::Source;
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::prefix::audit::{Options, Severity, audit};
use crate::process::Cancel;

/// How many errors are repeated.
const REPEATED: usize = 5;

/// Audits the tree in `dir`, which will be at `eprefix`.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: the audit finds errors, of which the first are repeated. Others: on
/// this machine it cannot be found out, which says nothing of the archive.
pub(super) fn check(
    host: &Host,
    source: &Source,
    dir: &Path,
    eprefix: &Path,
    cancel: &Cancel,
) -> Result<()> {
    // Which kernels will be built for is not known here: `prefix audit` compares compilers.
    let options = Options { host, kernel_compiler: None, cancel };
    let found = audit(dir, eprefix, &options).with_context(|| {
        format!("{source}: the prefix in it could not be audited, nothing was put in place")
    })?;
    if found.is_sound() {
        return Ok(());
    }
    let errors: Vec<_> = found.of(Severity::Error).collect();
    let some = errors.iter().take(REPEATED).map(|f| format!("\n  {f}"));
    fail!(
        Exit::PrefixIncomplete,
        "{source}: the prefix in it is not sound; nothing was put in place. {} errors, the first ones:{}\n\
         To take it all the same: zfs-prefix prefix provision --no-audit",
        errors.len(),
        some.collect::<String>()
    )
}
