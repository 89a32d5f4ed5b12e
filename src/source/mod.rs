//! What is compiled: the kernel's source ([`KernelSource`]) and the OpenZFS tarball
//! ([`ZfsSource`]). Root fetches them and checks that they are the right ones. The prefix's owner
//! unpacks them.
//!
//! `/var/cache/zfs-prefix/sources` keeps everything by content, so nothing is fetched or unpacked
//! twice. A file or tree with its final name is complete: what a crash leaves has another name. The
//! programs that unpack and verify are the prefix's own, because its owner decides anyway what is
//! compiled.

mod cached;
mod keep;
mod kernel;
mod proof;
mod repository;
mod signature;
mod system;
mod tree;
mod unpack;
mod version;
mod zfs;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::exit::Exit;
use crate::fail;
use crate::prefix::Prefix;
use crate::prefix::enter::Place;
use crate::process::{Cancel, Run};
use crate::store::{Layout, make_dirs};

pub use kernel::{KernelSource, Obtained};
pub use repository::Repository;
pub use zfs::{ZfsSource, meta};

/// How long a step may print nothing: unpacking and cloning are quiet.
const QUIET: Duration = Duration::from_secs(9 * 60);

/// What obtaining needs. The caller holds the build lock.
pub struct Obtain<'a> {
    /// Where the cache is.
    pub layout: &'a Layout,
    /// The prefix. Its programs unpack and verify, as its owner.
    pub prefix: &'a Prefix,
    /// Whether there is a network. Without one everything has to be in the cache or on the disk.
    pub network: bool,
    /// Stop when set.
    pub cancel: &'a Cancel,
    /// Gets the progress, a few times a second at most.
    pub report: &'a mut dyn FnMut(&str),
}

impl Obtain<'_> {
    /// A directory of the cache. Makes it if it does not exist.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let sources = self.layout.cache().join("sources");
        let dir = sources.join(name);
        make_dirs(&dir)?;
        for dir in [&self.layout.cache(), &sources, &dir] {
            // The prefix's owner has to pass through.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir, mode)?;
        }
        Ok(dir)
    }

    /// A program of the prefix.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the prefix does not have it. `why` says what it is needed for.
    fn program(&self, name: &str, why: &str, place: &Place) -> Result<Run> {
        if !self.has(name) {
            fail!(
                Exit::PrefixIncomplete,
                "the prefix {} has no {name}, and {why}: provision a prefix that has it",
                self.prefix.path.display()
            );
        }
        Ok(self.prefix.run(name, place).idle(QUIET))
    }

    /// Whether the prefix has this program.
    fn has(&self, name: &str) -> bool {
        ["usr/bin", "bin"]
            .iter()
            .any(|dir| std::fs::symlink_metadata(self.prefix.path.join(dir).join(name)).is_ok())
    }

    fn say(&mut self, text: &str) {
        tracing::info!("{text}");
        (self.report)(text);
    }
}
