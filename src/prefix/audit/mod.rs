//! `zfs-prefix prefix audit`: is a prefix independent of the host?

mod files;
mod findings;
pub(super) mod libraries;
mod loader;
mod names;
mod probe;
pub(super) mod programs;
mod report;
mod scripts;
pub(super) mod toolchain;
pub(super) mod tree;
pub(super) mod walk;

use std::path::Path;

use anyhow::{Context, Result};

pub(crate) use files::may_lead_to;
pub use report::{Check, Finding, Report, Severity};

use crate::host::Host;
use crate::process::Cancel;
use findings::Findings;

/// What an audit has to know beside the tree.
#[derive(Debug)]
pub struct Options<'a> {
    /// The machine: where the owner's names are looked up.
    pub host: &'a Host,
    /// The compiler line of the kernel that is to be built for (`CONFIG_CC_VERSION_TEXT`), if a
    /// build tree is there.
    pub kernel_compiler: Option<String>,
    /// Ends the programs that are run.
    pub cancel: &'a Cancel,
}

/// Audits the tree in the directory `root`, whose files were made for the path `eprefix`. The two
/// differ if the tree is not in its place yet. The audit runs programs of the tree, as its owner.
/// If the tree does not let them run, or the caller is not root, the report has an error that says
/// why.
///
/// # Errors
/// [`crate::exit::Exit::PrefixIncomplete`]: `root` is not a directory, or cannot be read at all.
/// [`crate::exit::Exit::Other`]: this machine lets nobody enter a prefix.
/// [`crate::exit::Exit::NoSpace`]: there is no room to compile a program. A fault inside the tree
/// is not an error here: see [`Report::is_sound`].
pub fn audit(root: &Path, eprefix: &Path, options: &Options) -> Result<Report> {
    let tree = walk::read(root, eprefix)?;
    let mut found = Findings { tree: &tree, list: Vec::new() };
    files::check(&mut found);
    let scripts = scripts::check(&mut found);
    let elf_files = libraries::check(&mut found, options.host);
    toolchain::check(&mut found);
    names::check(&mut found, options.host);
    let compiler = probe::check(&mut found, root, options);
    if options.cancel.is_set() {
        anyhow::bail!("the audit of {} was stopped by a signal", root.display());
    }
    let compiler = compiler.with_context(|| root.display().to_string())?;
    let report = Report::new(root, eprefix, found.list);
    Ok(Report { files: tree.entries.len(), elf_files, scripts, compiler, ..report })
}
