//! Checks that the unpacked tree is a toolchain. Provisioning calls the audit only here.

use std::path::Path;

use anyhow::{Context, Result};

use crate::config::Source;
use crate::exit::Exit;
use crate::fail;
use crate::host::Host;
use crate::prefix::audit::{Options, Severity, audit};
use crate::process::Cancel;

/// At most this many errors are repeated in the message.
const REPEATED: usize = 5;

/// Audits the tree in `dir`, which will be at `eprefix`.
///
/// # Errors
/// [`Exit::PrefixIncomplete`]: the audit finds errors. The message repeats the first ones. Other
/// statuses: the audit cannot run on this machine. That says nothing about the archive.
pub(super) fn check(
    host: &Host,
    source: &Source,
    dir: &Path,
    eprefix: &Path,
    cancel: &Cancel,
) -> Result<()> {
    // Here it is not known for which kernels modules will be built. `prefix audit` compares
    // compilers.
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
