//! What is compiled: the kernel's source ([`KernelSource`]) and the OpenZFS tarball
//! ([`ZfsSource`]), fetched by root, proved to be the right ones, and unpacked by the prefix's
//! owner.
//!
//! Everything is kept in `/var/cache/zfs-prefix/sources`, by content: nothing is fetched or
//! unpacked twice. What has its final name there is whole; what a crash leaves has another one. The
//! programs that unpack and verify are the prefix's own: its owner decides what is compiled anyway.

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

/// How long a step may say nothing: unpacking and cloning are quiet.
const QUIET: Duration = Duration::from_secs(9 * 60);

/// What obtaining needs. The caller holds the build lock.
pub struct Obtain<'a> {
    /// Where the cache is.
    pub layout: &'a Layout,
    /// In which, and as whose owner, is unpacked and verified.
    pub prefix: &'a Prefix,
    /// Whether there is a network; without one everything has to be in the cache or on the disk.
    pub network: bool,
    /// Stop when set.
    pub cancel: &'a Cancel,
    /// Is told what goes on, a few times a second at most.
    pub report: &'a mut dyn FnMut(&str),
}

impl Obtain<'_> {
    /// A directory of the cache, made when it is not there.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let sources = self.layout.cache().join("sources");
        let dir = sources.join(name);
        make_dirs(&dir)?;
        for dir in [&self.layout.cache(), &sources, &dir] {
            // The prefix's owner has to get through.
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir, mode)?;
        }
        Ok(dir)
    }

    /// A program of the prefix.
    ///
    /// # Errors
    /// [`Exit::PrefixIncomplete`]: the prefix does not have it, which `why` it is needed.
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
